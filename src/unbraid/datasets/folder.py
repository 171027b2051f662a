"""Any folder of tracks: each track a folder of its own, each stem an audio file of any format, named after the stem."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from unbraid.datasets.listing import (
    audio_files_in,
    folders_in,
    read_text,
    subset_folders,
    subset_lists,
    subset_named,
)
from unbraid.datasets.track import AudioFile, Track
from unbraid.errors import DatasetError

__all__ = ["MIX_NAMES", "folder_tracks"]

MIX_NAMES = ("mixture", "mix", "original")


def folder_tracks(root: Path) -> list[Track]:
    """The tracks in a folder.

    Tracks lie in the root (subset "") or in folders train, validation (or valid) and test. Lists train.txt,
    validation.txt (or valid.txt) and test.txt in the root, if there is one, decide instead: a track's folder a line;
    "#" starts a comment line. A root that holds audio files itself is one track. A file mixture.*, mix.* or original.*
    is the mix, without one it is the sum of the stems.

    Raises
    ------
    DatasetError : a list names a folder that is not there or has no audio, or one for the second time; the root holds
        audio files and tracks
    """
    if lists := subset_lists(root):
        return _listed_tracks(root, lists)
    tracks = [_track(folder, subset) for subset, folder in _track_folders(root)]
    loose = audio_files_in(root)
    if loose and tracks:
        raise DatasetError(
            f"cannot load the dataset {str(root)!r}: it holds tracks and the audio file {loose[0].name!r}; "
            "move the file into a folder of its own, or away"
        )
    return [_track(root, "")] if loose else tracks


def _track_folders(root: Path) -> Iterator[tuple[str, Path]]:
    """Every folder with audio in it, and its subset; a track may be called "test"."""
    for folder in folders_in(root):
        if audio_files_in(folder):
            yield "", folder
        elif subset := subset_named(folder.name):
            yield from ((subset, inner) for inner in folders_in(folder) if audio_files_in(inner))


def _track(folder: Path, subset: str) -> Track:
    """A folder's audio files by their names, in lower case and without what follows the last dot."""
    name = os.path.basename(os.path.abspath(folder))
    found: dict[str, Path] = {}
    problem = None
    for path in audio_files_in(folder):
        stem = "mix" if path.stem.lower() in MIX_NAMES else path.stem.lower()
        if stem in found:
            problem = f"{found[stem].name!r} and {path.name!r} are both its {stem}; remove one of them"
        elif stem.endswith(".stem"):
            problem = f"{path.name!r} holds several stems; put such files into folders train and test, as in MUSDB18"
        found.setdefault(stem, path)
    mix = found.pop("mix", None)
    if not found:
        problem = problem or "it has a mix and no stems; put them beside it"
    return Track(
        name=name,
        subset=subset,
        mix=None if mix is None else AudioFile(mix),
        stems={stem: AudioFile(path) for stem, path in found.items()},
        problem=None if problem is None else f"cannot use the track {name!r}: {problem}",
    )


def _listed_tracks(root: Path, lists: list[tuple[str, Path]]) -> list[Track]:
    """The tracks that the lists name, each once."""
    folders: dict[str, list[Path]] = {}
    for place in [root, *(folder for _, folder in subset_folders(root))]:
        for folder in folders_in(place):
            folders.setdefault(_composed(folder.name), []).append(folder)
    tracks: list[Track] = []
    seen: dict[str, str] = {}
    for subset, path in lists:
        for number, name in _names_in(path):
            where = f"cannot load {str(path)!r}, line {number}"
            if name in seen:
                raise DatasetError(f"{where}: {name!r} is in {seen[name]} already; remove one of them")
            seen[name] = f"{path.name!r}, line {number}"
            there = folders.get(name, [])
            if not there:
                raise DatasetError(f"{where}: there is no folder {name!r}; correct the name or remove the line")
            if len(there) > 1:
                raise DatasetError(f"{where}: {str(there[0])!r} and {str(there[1])!r} have this name; rename one")
            if not audio_files_in(there[0]):
                raise DatasetError(f"{where}: the folder {name!r} holds no audio files; remove the line")
            tracks.append(_track(there[0], subset))
    return tracks


def _names_in(path: Path) -> list[tuple[int, str]]:
    """The names in a list, with the numbers of their lines."""
    lines = [(number, line.strip()) for number, line in enumerate(read_text(path).splitlines(), 1)]
    return [(number, _composed(line)) for number, line in lines if line and not line.startswith("#")]


def _composed(name: str) -> str:
    """Write accented letters as one character each, which file systems and editors may do or not."""
    return unicodedata.normalize("NFC", name)
