"""What is evaluated: models, the oracles, and stems that are already on disk, all as functions of a track."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unbraid.audio.read import open_audio
from unbraid.datasets.folder import MIX_NAMES
from unbraid.datasets.listing import audio_files_in
from unbraid.datasets.tracks import AudioFile, Track
from unbraid.datatypes import FloatArray
from unbraid.errors import AudioError, DatasetError
from unbraid.evaluation.oracles import ORACLES, oracle_blocks
from unbraid.evaluation.true_stems import MixBlocks, TrueStems, aligned_blocks
from unbraid.separation.separator import Separator

__all__ = ["Estimates", "System", "file_state", "folder_system", "model_system", "oracle_system"]


@dataclass(frozen=True, eq=False)
class Estimates:
    """The estimated stems of one track.

    blocks : [shape=(stem, channel, time), float32], of any lengths
    notices : complete when all blocks have been taken
    """

    stems: tuple[str, ...]
    blocks: Iterable[FloatArray]
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class System:
    """Something that makes estimates.

    name : as the user gave it
    estimate : starts the estimates of a track; what it opens is closed with the stack
    settings : what the estimates of a track depend on
    """

    name: str
    estimate: Callable[[Track, TrueStems, ExitStack], Estimates]
    settings: Callable[[Track], Mapping[str, str]]


def model_system(separator: Separator, name: str) -> System:
    """A model, which separates the track's mix."""
    settings = {"weights": separator.fingerprint, "engine": separator.engine.describe()}

    def estimate(track: Track, true: TrueStems, stack: ExitStack) -> Estimates:
        blocks = separator.stream(MixBlocks(true), sample_rate=true.sample_rate)
        return Estimates(separator.stems, (np.stack(list(block.values())) for block in blocks))

    return System(name, estimate, lambda track: settings)


def oracle_system(name: str) -> System:
    """An oracle, which knows the true stems, or the mix; see `unbraid.evaluation.oracles`."""
    assert name in ORACLES, name

    def estimate(track: Track, true: TrueStems, stack: ExitStack) -> Estimates:
        return Estimates(true.stems, oracle_blocks(name, true.blocks))

    return System(name, estimate, lambda track: {})


def folder_system(folder: Path, name: str, tracks: Sequence[Track]) -> System:
    """Stems that are on disk: `FOLDER/TRACK/STEM.wav` or `FOLDER/SUBSET/TRACK/STEM.wav`, in any audio format.

    Raises
    ------
    DatasetError
        If the folder has stems of none of the tracks.
    """
    found = {(track.subset, track.name): _stem_files(folder, track) for track in tracks}
    stems = tuple(dict.fromkeys(stem for files in found.values() for stem in files))
    if not stems:
        example = Path(folder, tracks[0].name, f"{next(iter(tracks[0].stems), 'vocals')}.wav")
        raise DatasetError(f"no stems of any track in {str(folder)!r}; there should be {str(example)!r}")

    def estimate(track: Track, true: TrueStems, stack: ExitStack) -> Estimates:
        files = found[track.subset, track.name]
        if missing := [stem for stem in stems if stem not in files]:
            what = "no stems" if len(missing) == len(stems) else f"no {', '.join(missing)}"
            raise AudioError(f"cannot score {track.name!r}: {what} of it in {str(folder)!r}")
        readers = {stem: stack.enter_context(open_audio(files[stem].path)) for stem in stems}
        estimates = Estimates(stems, (), [])
        rate, channels = true.sample_rate, true.n_channels
        blocks = aligned_blocks(readers, files, sample_rate=rate, n_channels=channels, notices=estimates.notices)
        return Estimates(stems, blocks, estimates.notices)

    def settings(track: Track) -> Mapping[str, str]:
        files = found[track.subset, track.name]
        return {f"file of {stem}": file_state(file.path) for stem, file in files.items()}

    return System(name, estimate, settings)


def file_state(path: Path) -> str:
    """What tells whether a file is the same as in an earlier run; OSError if it is not there."""
    state = os.stat(path)
    return f"{state.st_size} bytes of {state.st_mtime_ns}"


def _stem_files(folder: Path, track: Track) -> dict[str, AudioFile]:
    """The estimates of a track, by stem; a file that was called TRACK.stem.mp4 may have made a folder TRACK.stem."""
    for subset in (track.subset, ""):
        for name in (track.name, f"{track.name}.stem"):
            place = Path(folder, subset, name)
            if place.is_dir() and (files := audio_files_in(place)):
                stems: dict[str, AudioFile] = {}
                for file in files:
                    there = stems.setdefault(file.stem.lower(), AudioFile(file))
                    if there.path != file:
                        raise DatasetError(f"{str(there.path)!r} and {str(file)!r} are the same stem; remove one")
                return {stem: file for stem, file in stems.items() if stem not in MIX_NAMES}
    return {}
