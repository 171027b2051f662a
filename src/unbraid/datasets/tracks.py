"""Datasets of music with stems: which tracks there are, and in which files; nothing is decoded here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unbraid.datasets.dsd100 import dsd100_tracks, is_dsd100
from unbraid.datasets.folder import folder_tracks
from unbraid.datasets.musdb import is_musdb18, is_musdb18_hq, musdb18_hq_tracks, musdb18_tracks
from unbraid.datasets.spleeter_csv import csv_tracks
from unbraid.datasets.track import AudioFile, Track
from unbraid.errors import DatasetError, UsageError

__all__ = ["KINDS", "SUBSETS", "AudioFile", "Dataset", "Track", "load_dataset"]

SUBSETS = ("train", "validation", "test")


@dataclass(frozen=True)
class Dataset:
    """The tracks of one folder or table, sorted by subset and name; `kind` is one of `KINDS`."""

    kind: str
    root: Path
    tracks: tuple[Track, ...]


@dataclass(frozen=True)
class _Kind:
    """How a kind of folder is told and listed, how it must look, and where it is to be had."""

    is_at: Callable[[Path], bool]
    tracks: Callable[[Path], list[Track]]
    form: str
    source: str = ""


# In the order in which they are tried.
_FOLDER_KINDS = {
    "MUSDB18": _Kind(
        is_musdb18,
        musdb18_tracks,
        "train/TRACK.stem.mp4 and test/TRACK.stem.mp4",
        "https://doi.org/10.5281/zenodo.1117372 (4.7 GB)",
    ),
    "MUSDB18-HQ": _Kind(
        is_musdb18_hq,
        musdb18_hq_tracks,
        "train/TRACK/{mixture,vocals,drums,bass,other}.wav and the same in test",
        "https://doi.org/10.5281/zenodo.3338373 (22.7 GB)",
    ),
    "DSD100": _Kind(
        is_dsd100,
        dsd100_tracks,
        "Mixtures/{Dev,Test}/TRACK/mixture.wav and Sources/{Dev,Test}/TRACK/{vocals,drums,bass,other}.wav",
        "https://sigsep.github.io/datasets/dsd100.html (14 GB)",
    ),
    "folder": _Kind(
        lambda root: True,
        folder_tracks,
        "TRACK/STEM.wav (or any other audio format), or such folders in train, validation and test",
    ),
}
_CSV = "Spleeter CSV"
_CSV_FORM = "a .csv file with the columns mix_path, vocals_path … (one for each stem) and duration"

KINDS = (*_FOLDER_KINDS, _CSV)


def load_dataset(
    root: Path, *, subset: str | None = None, kind: str | None = None, data_root: Path | None = None
) -> Dataset:
    """List the tracks of a dataset.

    Parameters
    ----------
    root : Path
        Its folder, or the table of a Spleeter training.
    subset : str, optional
        Only these tracks: "train", "validation" or "test". MUSDB18's 14 validation tracks, which lie in its train
        folder, are always of the subset "validation".
    kind : str, optional
        One of `KINDS`; else it is told from what is there.
    data_root : Path, optional
        What the paths in a table are relative to, if not its own folder.

    Returns
    -------
    Dataset
        With at least one track. A track of which something is missing is listed, with its `problem`.

    Raises
    ------
    DatasetError : there is no such dataset, it is of another kind, has no (such) tracks, or two of the same name
    UsageError : a subset or kind that does not exist; `data_root` without a table
    """
    root = Path(root)
    if subset is not None and subset not in SUBSETS:
        raise UsageError(f"subset must be train, validation or test, got {subset!r}")
    kind = _kind_of(root, kind)
    if kind == _CSV:
        found = csv_tracks(root, data_root)
    elif data_root is not None:
        raise UsageError(f"data_root is for a .csv file, and {str(root)!r} is none")
    else:
        found = _FOLDER_KINDS[kind].tracks(root)
    if not found:
        raise DatasetError(f"cannot load {str(root)!r} as a dataset: no tracks in it; {_remedy(kind)}")
    _check_names(found)
    tracks = sorted(found, key=lambda track: (track.subset, track.name))
    return Dataset(kind, root, tuple(_of_subset(tracks, subset, root)))


def _kind_of(root: Path, kind: str | None) -> str:
    """The kind that was asked for, in its own spelling, or the one that is there."""
    asked = None
    if kind is not None:
        asked = next((known for known in KINDS if known.lower() == kind.lower()), None)
        if asked is None:
            raise UsageError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    if not os.path.exists(root):
        raise DatasetError(f"cannot load {str(root)!r} as a dataset: there is no such folder or file; {_remedy(asked)}")
    is_file = not os.path.isdir(root)
    if asked is None:
        if is_file and root.suffix.lower() != ".csv":
            raise DatasetError(f"cannot load {str(root)!r} as a dataset: it is neither a folder nor a .csv file")
        return _CSV if is_file else next(name for name, known in _FOLDER_KINDS.items() if known.is_at(root))
    if is_file != (asked == _CSV):
        raise DatasetError(
            f"cannot load {str(root)!r} as {asked}: it is a {'file' if is_file else 'folder'}; {_remedy(asked)}"
        )
    return asked


def _remedy(kind: str | None) -> str:
    """What a dataset of this kind, or of any, must look like, and where to get it."""
    if kind == _CSV:
        return f"it should be {_CSV_FORM}"
    if kind not in (None, "folder"):
        known = _FOLDER_KINDS[kind]
        return f"it should hold {known.form}; {kind} is at {known.source}"
    places = [f"{name} is at {known.source}" for name, known in _FOLDER_KINDS.items() if known.source]
    return f"it should hold {_FOLDER_KINDS['folder'].form}; {', '.join(places)}"


def _check_names(tracks: list[Track]) -> None:
    """Refuse two tracks of one name in the same subset, such as of folders valid and validation."""
    count = Counter((track.subset, track.name) for track in tracks)
    for (subset, name), n_tracks in count.items():
        if n_tracks > 1:
            raise DatasetError(
                f"cannot load the dataset: {n_tracks} tracks of the subset {subset!r} are called {name!r}; rename one"
            )


def _of_subset(tracks: list[Track], subset: str | None, root: Path) -> list[Track]:
    if subset is None:
        return tracks
    chosen = [track for track in tracks if track.subset == subset]
    if not chosen:
        there = ", ".join(sorted({track.subset for track in tracks} - {""}))
        raise DatasetError(
            f"cannot load the subset {subset!r} of {str(root)!r}: "
            + (f"it has {there}" if there else "its tracks are in no subset; put them into train, validation and test")
        )
    return chosen
