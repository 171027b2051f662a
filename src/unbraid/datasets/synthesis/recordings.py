"""Recordings of single notes and hits: what a bank's list says of them, and how one sounds for as long as it is held.

A bank is a folder with `bank.json`, a list with one entry for each file: which instrument and articulation it is of,
the pitch that sounds, the MIDI velocities that it serves, its number among takes of the same note ("round robin"),
where a held note may be looped, the stem, and the licence. Drums carry the numbers of General MIDI (1999), level 1.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soxr

from unbraid.datatypes import FloatArray
from unbraid.errors import DatasetError

__all__ = [
    "Event",
    "Loop",
    "Recordings",
    "Sample",
    "Voice",
    "add",
    "articulations",
    "perform",
    "read_entries",
    "resampled",
]

# Whose notes last as long as they are held.
_SUSTAINED = ("organ", "synth", "strings", "brass", "woodwind")
_SHORT = ("staccat", "muted", "pizz")
# Pitches that are not known well, or glide; a roll among the hits; loops that may hold anything.
_DOUBTFUL = {"fft_comb_weak", "yin_detuned", "sonicpi_bass/bass_hit_c_rr1.opus", "snare_roll", "mixed_unknown"}
# Their files have nothing in common but the folder, so that each is an instrument of its own.
_ONE_SOUND_A_FILE = {"sonicpi_bass"}


class Recordings(Protocol):
    """Where samples are had."""

    sample_rate: int

    def recording(self, file: str) -> FloatArray:
        """Samples [shape=(channel, time)] of a file, at `sample_rate`; one channel or two."""
        ...


@dataclass(frozen=True)
class Sample:
    """One file: the number of its note and the pitch measured (None: unpitched), velocities, where it may be looped."""

    file: str
    note: int | None
    pitch: float
    velocities: tuple[int, int]
    round_robin: int
    stereo: bool
    loop_s: tuple[float, float] | None

    def gain(self, velocity: int) -> float:
        """Level within the layer; where there are several, the recordings already tell soft from hard."""
        low, high = self.velocities
        return float((velocity / high) ** (1.2 if high - low > 100 else 0.6))


@dataclass(frozen=True)
class Voice:
    """One articulation of one instrument."""

    instrument: str
    articulation: str
    family: str
    stem: str
    samples: tuple[Sample, ...]

    @property
    def short(self) -> bool:
        """Whether its notes are cut short, or damped."""
        return any(word in self.articulation for word in _SHORT)

    @property
    def sustained(self) -> bool:
        """Whether a note lasts as long as it is held."""
        return self.family in _SUSTAINED and not self.short

    @property
    def notes(self) -> list[int]:
        """Numbers of the notes that were recorded, ascending."""
        return sorted({sample.note for sample in self.samples if sample.note is not None})

    def takes(self, velocity: int, pitch: float | None) -> list[Sample]:
        """The layer first, as layers differ in the notes that were recorded; then the nearest of its notes."""

        def distance(sample: Sample) -> int:
            low, high = sample.velocities
            return max(low - velocity, velocity - high, 0)

        nearest = min(map(distance, self.samples))
        layer = [sample for sample in self.samples if distance(sample) == nearest]
        if pitch is None:
            return layer
        note = min(layer, key=lambda sample: abs(sample.pitch - pitch)).note
        return [sample for sample in layer if sample.note == note]


@dataclass(frozen=True)
class Loop:
    """A file that repeats, and the beats in it."""

    file: str
    kind: str
    beats: float
    tempo_bpm: float


@dataclass
class Event:
    """One sound to be placed: raised by `cents`, held for so many samples, then faded; gains left and right."""

    sample: Sample
    cents: float
    start: int
    n_held: int
    n_release: int
    gains: tuple[float, float]


def read_entries(folder: Path) -> list[dict[str, Any]]:
    """Read `bank.json`, without what is doubtful."""
    path = folder / "bank.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"cannot open the bank of samples {folder}: {error.strerror}: {path.name}") from error
    except ValueError as error:
        raise DatasetError(f"cannot read {path}: not JSON: {error}") from error
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise DatasetError(f"cannot use {path}: it must be a list with one entry a file, and not empty")
    for entry in entries:
        if not isinstance(entry.get("file"), str) or not (folder / entry["file"]).is_file():
            raise DatasetError(f"cannot use {path}: no file {entry.get('file')!r} in its folder")
    doubts = ("file", "pitch_check", "articulation", "loop_kind")
    return [entry for entry in entries if not any(entry.get(key) in _DOUBTFUL for key in doubts)]


def articulations(entries: Iterable[dict[str, Any]]) -> list[Voice]:
    """Group files into articulations; two that claim the same note, velocities and take are two sounds."""
    groups: dict[tuple[str, str, str, str], list[list[Sample]]] = defaultdict(list)
    for entry in entries:
        note, family = entry["midi_note"], entry["family"]
        if note is None and family != "drums":
            continue  # a phrase, or noise
        low, high = entry.get("velocity") or (1, 127)
        pitch = 0.0 if note is None else note + (entry.get("cents_off_measured") or 0.0) / 100
        loop = entry.get("sustain_loop_s")
        sample = Sample(
            *(entry["file"], note, pitch, (int(low), int(high)), int(entry.get("round_robin") or 1)),
            entry.get("channels") == 2,
            (float(loop[0]), float(loop[1])) if loop else None,
        )
        alternatives = groups[entry["instrument"], entry["articulation"], family, entry["stem"]]
        free = [samples for samples in alternatives if not any(_same_take(sample, other) for other in samples)]
        if free and entry["instrument"] not in _ONE_SOUND_A_FILE:
            free[0].append(sample)
        else:
            alternatives.append([sample])
    return [Voice(*key, tuple(samples)) for key, many in sorted(groups.items()) for samples in many]


def _same_take(one: Sample, other: Sample) -> bool:
    (low, high), (other_low, other_high) = one.velocities, other.velocities
    overlapping = low <= other_high and other_low <= high
    return overlapping and (one.note, one.round_robin) == (other.note, other.round_robin)


def perform(
    bank: Recordings, track: FloatArray, events: list[Event], sample_rate: int, *, attack_s: float, sustained: bool
) -> None:
    """Add the events to `track` in place; those of one recording at one pitch share what is made of it."""
    groups: dict[tuple[str, float], list[Event]] = defaultdict(list)
    for event in events:
        if event.start < track.shape[1]:
            groups[event.sample.file, event.cents].append(event)
    for (_, cents), group in groups.items():
        n_needed = max(min(event.n_held + event.n_release, track.shape[1] - event.start) for event in group)
        sound = _sound(bank, group[0].sample, cents, n_needed, sample_rate, sustained=sustained)
        n_attack = min(round(attack_s * sample_rate), sound.shape[1])
        sound[:, :n_attack] *= np.linspace(0, 1, n_attack, dtype=np.float32)
        for event in group:
            add(track, sound[:, : event.n_held], event.start, event.gains)
            tail = sound[:, event.n_held : event.n_held + event.n_release]
            if tail.shape[1]:
                place = np.arange(1, tail.shape[1] + 1, dtype=np.float32) / np.float32(event.n_release)
                fade = (np.exp(-5 * place) * (1 - place)).astype(np.float32)
                add(track, tail * fade, event.start + event.n_held, event.gains)


def _sound(
    bank: Recordings, sample: Sample, cents: float, n_samples: int, sample_rate: int, *, sustained: bool
) -> FloatArray:
    """A recording [shape=(channel, at most n_samples)], raised; what is sustained is looped as long as needed."""
    recorded = bank.recording(sample.file)
    ratio = 2 ** (cents / 1200) * bank.sample_rate / sample_rate
    n_recorded = int(np.ceil(n_samples * ratio)) + 64  # beyond the end for the filter
    if sustained:
        loop_s = sample.loop_s
        loop = (round(loop_s[0] * bank.sample_rate), round(loop_s[1] * bank.sample_rate)) if loop_s else None
        if n_recorded > (loop[1] if loop else recorded.shape[1]):
            recorded = _extended(
                recorded, loop or _found_loop(recorded, bank.sample_rate), n_recorded, bank.sample_rate
            )
    is_whole = n_recorded >= recorded.shape[1]
    sound = resampled(recorded[:, :n_recorded], ratio)[:, :n_samples]
    if is_whole:
        n_fade = min(round(0.005 * sample_rate), sound.shape[1])
        sound[:, sound.shape[1] - n_fade :] *= np.linspace(1, 0, n_fade, dtype=np.float32)
    return sound


def _extended(samples: FloatArray, loop: tuple[int, int] | None, n_samples: int, sample_rate: int) -> FloatArray:
    """Repeat what lies between the two points until there are so many samples, fading over into each repetition."""
    start, end = loop or (0, 0)
    end = min(end, samples.shape[1])
    n_fade = min(start, end - start, round(0.03 * sample_rate))
    if n_fade < 1 or n_samples <= end:
        return samples
    leaving, coming = samples[:, end - n_fade : end], samples[:, start - n_fade : start]
    energy = float(np.sqrt(np.sum(leaving**2) * np.sum(coming**2)))
    likeness = max(0.0, float(np.sum(leaving * coming)) / (energy + 1e-20))
    fade = np.arange(1, n_fade + 1, dtype=np.float32) / np.float32(n_fade + 1)
    # The power of a sum of two sounds depends on how alike they are.
    level = 1 / np.sqrt(fade**2 + (1 - fade) ** 2 + 2 * np.float32(likeness) * fade * (1 - fade))
    once = samples[:, start:end].copy()
    once[:, -n_fade:] = level * ((1 - fade) * leaving + fade * coming)
    n_times = -(-(n_samples - start) // (end - start))
    return np.concatenate([samples[:, :start], np.tile(once, n_times)], axis=1)


def _found_loop(samples: FloatArray, sample_rate: int) -> tuple[int, int] | None:
    """Two points of a sustained note that are most alike in what precedes them, or None for a short one."""
    from scipy.signal import correlate

    mono = samples.mean(axis=0)
    n_alike = round(0.06 * sample_rate)
    start, first, last = (int(share * len(mono)) for share in (0.35, 0.6, 0.85))
    if start < n_alike:
        return None
    searched = mono[first - n_alike : last]
    products = correlate(searched, mono[start - n_alike : start], mode="valid", method="fft")
    sums = np.concatenate([[0.0], np.cumsum(searched.astype(np.float64) ** 2)])
    energies = np.maximum(sums[n_alike:] - sums[:-n_alike], 1e-12)
    return start, first + int(np.argmax(products / np.sqrt(energies)))


def resampled(samples: FloatArray, ratio: float) -> FloatArray:
    """Play [shape=(channel, time)] `ratio` times as fast; always a copy."""
    if abs(ratio - 1) < 1e-9:
        return samples.copy()
    faster: FloatArray = soxr.resample(samples.T, 1000 * ratio, 1000.0, quality="MQ").T
    return np.ascontiguousarray(faster)


def add(track: FloatArray, sound: FloatArray, start: int, gains: tuple[float, float]) -> None:
    """Add a sound of one channel or two to `track` in place, from `start` on as far as the track reaches."""
    n_samples = min(sound.shape[1], track.shape[1] - start)
    if n_samples > 0:
        for row, channel, gain in zip(track, (sound[0], sound[-1]), gains, strict=True):
            row[start : start + n_samples] += np.float32(gain) * channel[:n_samples]
