"""Recordings of voices as a manifest lists them: decoded and analysed when they are wanted, and not kept for ever."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from unbraid.datasets.synthesis.vocoder import Utterance, analyze
from unbraid.datatypes import FloatArray
from unbraid.errors import DatasetError

__all__ = ["KINDS", "Recording", "VoiceLibrary"]

# Range in which the pitch of each kind is looked for, in Hz.
KINDS = {"singing": (80.0, 1000.0), "speech": (65.0, 500.0)}

_MOST_BYTES = 256 * 2**20  # of analyses in memory
_ANALYSIS = 1  # goes up when `analyze` gives other results, so that old caches are not read
_KEY = re.compile(r"([a-g])([sb#]?)([mj]?)")
_ROOTS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}


@dataclass(frozen=True)
class Recording:
    """An entry of the manifest.

    kind : one of KINDS
    group : what belongs together; the speaker where the manifest names no group
    bpm : tempo, or None
    root : of the key, 0 (C) to 11, or None
    minor : whether the key is, or None where it is not said
    """

    path: Path
    kind: str
    speaker: str
    group: str
    seconds: float
    bpm: float | None
    root: int | None
    minor: bool | None
    attribution: str


class VoiceLibrary:
    """The recordings of a folder, at one sample rate.

    folder : has manifest.json, a list of objects with file, kind, speaker, seconds, and where known group, bpm, key
        ("c", "fs", "ebm": C of unknown mode, F sharp, E flat minor; j is major), attribution and licence; other kinds
        than KINDS are passed over
    sample_rate : in Hz, to which all is converted
    cache : folder for analyses, made if needed; without it they are kept in memory only, the latest 256 MiB

    Raises DatasetError where the manifest is not as told, or a file is not there.
    """

    def __init__(self, folder: Path, sample_rate: int, *, cache: Path | None = None) -> None:
        self.sample_rate = sample_rate
        self.recordings = _read_manifest(folder)
        self._cache = cache
        self._analyses: OrderedDict[Path, Utterance] = OrderedDict()

    def without(self, exclude: Collection[str], kind: str) -> list[Recording]:
        """The recordings of a kind whose speaker and group are not in `exclude`."""
        return [
            recording
            for recording in self.recordings
            if recording.kind == kind and recording.speaker not in exclude and recording.group not in exclude
        ]

    def samples(self, recording: Recording) -> FloatArray:
        """Decode a recording: mono [shape=(time,), float32]. Raises DatasetError."""
        try:
            decoded, sample_rate = soundfile.read(recording.path, dtype="float32", always_2d=True)
        except (OSError, RuntimeError) as error:
            raise DatasetError(f"cannot decode the voice {str(recording.path)!r}: {error}") from error
        mono = np.ascontiguousarray(decoded.mean(axis=1, dtype=np.float32))
        if sample_rate == self.sample_rate or len(mono) == 0:
            return mono
        resampled: FloatArray = soxr.resample(mono, sample_rate, self.sample_rate, quality="HQ")
        return resampled

    def utterance(self, recording: Recording) -> Utterance:
        """Analyse a recording, or remember its analysis. Raises DatasetError."""
        known = self._analyses.pop(recording.path, None)
        if known is None:
            known = self._from_cache(recording)
        self._analyses[recording.path] = known
        while len(self._analyses) > 1 and sum(each.n_bytes for each in self._analyses.values()) > _MOST_BYTES:
            self._analyses.popitem(last=False)
        return known

    def _from_cache(self, recording: Recording) -> Utterance:
        """Read an analysis from the folder for them, or make it and put it there."""
        low_hz, high_hz = KINDS[recording.kind]
        if self._cache is None:
            return analyze(self.samples(recording), self.sample_rate, low_hz=low_hz, high_hz=high_hz)
        state = recording.path.stat()
        name = f"{recording.path.resolve()}|{state.st_size}|{state.st_mtime_ns}|{self.sample_rate}|{_ANALYSIS}"
        path = self._cache / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.npz"
        try:
            # np.load does not close what it opens itself and finds damaged.
            with path.open("rb") as known, np.load(known) as stored:
                return Utterance(stored["f0"], stored["log_power"], stored["noisiness"], self.sample_rate)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # not there yet, or damaged: made anew
        made = analyze(self.samples(recording), self.sample_rate, low_hz=low_hz, high_hz=high_hz)
        self._cache.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        try:
            with unfinished.open("wb") as file:
                np.savez(file, f0=made.f0, log_power=made.log_power, noisiness=made.noisiness)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        return made


def _read_manifest(folder: Path) -> tuple[Recording, ...]:
    """Read and check the manifest."""
    path = folder / "manifest.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read the voices' manifest {str(path)!r}: {error}") from error
    if not isinstance(entries, list):
        raise DatasetError(f"cannot read the voices' manifest {str(path)!r}: it must be a list of recordings")
    recordings = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str):
            raise DatasetError(f"cannot read the voices' manifest {str(path)!r}: entry {number} has no kind")
        if entry["kind"] in KINDS:
            try:
                recordings.append(_as_recording(folder, entry))
            except ValueError as error:
                raise DatasetError(
                    f"cannot read the voices' manifest {str(path)!r}: entry {number}: {error}"
                ) from error
    if not recordings:
        raise DatasetError(f"cannot use the voices' manifest {str(path)!r}: it lists no singing and no speech")
    return tuple(recordings)


def _as_recording(folder: Path, entry: dict[str, Any]) -> Recording:
    """Check an entry. Raises ValueError."""
    for name in ("file", "speaker"):
        if not isinstance(entry.get(name), str) or not entry[name]:
            raise ValueError(f"{name} must be a text, got {entry.get(name)!r}")
    path = Path(entry["file"])
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"file must lie in the folder, got {entry['file']!r}")
    if not (folder / path).is_file():
        raise ValueError(f"there is no file {entry['file']!r}")
    root, minor = _as_key(entry.get("key"))
    bpm = entry.get("bpm")
    return Recording(
        path=folder / path,
        kind=entry["kind"],
        speaker=entry["speaker"],
        group=entry.get("group") or entry["speaker"],
        seconds=_positive(entry.get("seconds"), "seconds"),
        bpm=None if bpm is None else _positive(bpm, "bpm"),
        root=root,
        minor=minor,
        attribution=f"{entry.get('attribution') or entry['speaker']} ({entry.get('licence') or 'licence not stated'})",
    )


def _positive(value: object, name: str) -> float:
    """Return a number above 0. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
        raise ValueError(f"{name} must be a number > 0, got {value!r}")
    return float(value)


def _as_key(name: object) -> tuple[int | None, bool | None]:
    """Return the root and whether it is minor, each None where it is not said. Raises ValueError."""
    if name is None:
        return None, None
    found = _KEY.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"key must be like 'c', 'fs' or 'ebm', got {name!r}")
    letter, sign, mode = found.groups()
    root = (_ROOTS[letter] + {"": 0, "s": 1, "#": 1, "b": -1}[sign]) % 12
    return root, {"": None, "m": True, "j": False}[mode]
