"""Play notes on a folder of recorded single notes (`bank.json` beside them says pitch, velocity and stem of each)."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from unbraid.datatypes import FloatArray

__all__ = ["Bank", "Sample", "pitched"]

_RELEASE_S = 0.08


@dataclass(frozen=True)
class Sample:
    """One recorded note or hit: file, sounding MIDI pitch (None: unpitched) and the range of velocities it serves."""

    path: Path
    pitch: float | None
    lowest_velocity: int
    highest_velocity: int


class Bank:
    """The samples by stem and voice; a voice is one articulation of one instrument. Decodes each file once.

    Parameters
    ----------
    folder : Path
        Holds `bank.json` and the files it names.
    sample_rate : int, in Hz
    """

    def __init__(self, folder: Path, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.voices: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
        self._decoded: dict[Path, FloatArray] = {}
        for entry in json.loads((folder / "bank.json").read_text(encoding="utf-8")):
            note = entry["midi_note"]
            low, high = entry.get("velocity") or (1, 127)
            pitch = None if note is None else note + (entry.get("cents_off_measured") or 0.0) / 100
            voice = f"{entry['instrument']}/{entry['articulation']}"
            self.voices[entry["stem"]][voice].append(Sample(folder / entry["file"], pitch, low, high))

    def load(self, sample: Sample) -> FloatArray:
        """Decode a sample [shape=(2, time)] at the bank's rate."""
        if sample.path not in self._decoded:
            audio, rate = soundfile.read(sample.path, dtype="float32", always_2d=True)
            audio = soxr.resample(audio, rate, self.sample_rate, quality="MQ")
            self._decoded[sample.path] = np.ascontiguousarray(np.broadcast_to(audio, (len(audio), 2)).T)
        return self._decoded[sample.path]

    def play(
        self, voice: list[Sample], pitch: float, velocity: int, duration_s: float, rng: np.random.Generator
    ) -> FloatArray:
        """Play one note [shape=(2, time)]: layer of its velocity, nearest recorded pitch, shifted to `pitch`."""
        layer = [s for s in voice if s.lowest_velocity <= velocity <= s.highest_velocity] or voice
        nearest = min(abs((s.pitch or pitch) - pitch) for s in layer)
        near = [s for s in layer if abs((s.pitch or pitch) - pitch) <= nearest + 0.3]
        sample = near[int(rng.integers(len(near)))]
        recorded = self.load(sample)
        semitones = 0.0 if sample.pitch is None else pitch - sample.pitch
        kept_s = (duration_s + _RELEASE_S) * 2 ** (semitones / 12)
        note = pitched(recorded[:, : int(kept_s * self.sample_rate) + 2], semitones)
        n_release = min(int(_RELEASE_S * self.sample_rate), note.shape[1])
        note[:, -n_release:] *= np.linspace(1, 0, n_release, dtype=np.float32)
        return note


def pitched(samples: FloatArray, semitones: float) -> FloatArray:
    """Play `samples` [shape=(channel, time)] faster or slower by linear interpolation; always a copy."""
    if semitones == 0:
        return np.array(samples, np.float32)
    ratio = 2 ** (semitones / 12)
    at = np.arange(max(1, int((samples.shape[1] - 1) / ratio))) * ratio
    index = at.astype(np.int64)
    part = (at - index).astype(np.float32)
    index_after = np.minimum(index + 1, samples.shape[1] - 1)
    shifted = np.empty((samples.shape[0], len(at)), np.float32)
    for row, out in zip(samples, shifted, strict=True):
        before = row.take(index)
        out[:] = before + part * (row.take(index_after) - before)
    return shifted
