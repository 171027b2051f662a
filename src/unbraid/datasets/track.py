"""A piece of music with its stems, as files: what every kind of dataset comes down to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["AudioFile", "Track", "track_of_files"]


@dataclass(frozen=True)
class AudioFile:
    """Where one signal is: a file, and the number (from 0) of its audio stream where it has several."""

    path: Path
    stream: int | None = None


@dataclass(frozen=True)
class Track:
    """One piece of music; nothing of it has been opened yet.

    name : unique within its subset
    subset : "train", "validation", "test" or ""
    mix : None where the mix is the sum of the stems
    stems : stem → its file, in the dataset's order
    problem : why the track cannot be used, as one line for the user; then `mix` and `stems` are what there is
    """

    name: str
    subset: str
    mix: AudioFile | None
    stems: Mapping[str, AudioFile]
    problem: str | None = None


def track_of_files(name: str, subset: str, mix: Path, stems: Mapping[str, Path], *, remedy: str) -> Track:
    """Make a track of files that should be there; if one is not, that is its problem, and `remedy` what to do."""
    missing = [path for path in (mix, *stems.values()) if not os.path.isfile(path)]
    problem = None
    if missing:
        names = ", ".join(repr(str(path)) for path in missing)
        problem = f"cannot use the track {name!r}: not there: {names}; {remedy}"
    return Track(
        name=name,
        subset=subset,
        mix=None if mix in missing else AudioFile(mix),
        stems={stem: AudioFile(path) for stem, path in stems.items() if path not in missing},
        problem=problem,
    )
