"""What a synthetic song is played with: tones, envelopes, filters, a room.

All pitched sounds are one formula, the sum of all harmonics with exponentially falling amplitudes (Moorer, JAES 24(9),
1976):  Σ_k r^k sin kθ = r sin θ / (1 − 2 r cos θ + r²).  With r = exp(−f₀ / cutoff) the harmonic at f Hz has amplitude
exp(−f / cutoff), whatever the pitch is, which is at once a band limit and a filter that can be swept.

What changes slowly (pitch, envelope, cutoff) is computed on every 32nd sample only: a curve is an ndarray
[shape=(1 + ceil(time / 32),), float32], made full by `at_audio_rate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from unbraid.datatypes import FloatArray

__all__ = [
    "Clock",
    "Note",
    "add_hit",
    "at_audio_rate",
    "band",
    "curves",
    "note_at",
    "panned",
    "room",
    "smoothed",
    "through_formants",
    "tone",
]

_CONTROL_HOP = 32

_FORMANT_WIDTHS_HZ = (80, 90, 120, 180, 250)


@dataclass(frozen=True)
class Clock:
    """Sample rate in Hz and number of samples of the whole song."""

    sample_rate: int
    n_samples: int

    def seconds(self, length_s: float) -> NDArray[Any]:
        """Time of each sample of a sound of this length, which has at least one."""
        n_samples = max(1, round(length_s * self.sample_rate))
        return np.arange(n_samples, dtype=np.float64) / self.sample_rate

    def control_seconds(self) -> NDArray[Any]:
        """Time of each point of a curve over the whole song."""
        n_points = 1 + -(-self.n_samples // _CONTROL_HOP)
        return np.arange(n_points) * (_CONTROL_HOP / self.sample_rate)


@dataclass(frozen=True)
class Note:
    """A pitch (MIDI number, 69 = 440 Hz) that sounds from `start_s` on; `velocity` is 1 for full."""

    start_s: float
    duration_s: float
    pitch: float
    velocity: float = 1.0


def note_at(clock: Clock, notes: Sequence[Note]) -> NDArray[np.intp]:
    """Return the index of the latest note at each point of a curve; the first one also before it starts."""
    starts = [note.start_s for note in notes[1:]]
    return np.searchsorted(starts, clock.control_seconds(), side="right")


def curves(
    clock: Clock,
    notes: Sequence[Note],
    *,
    attack_s: float,
    decay_s: float,
    release_s: float,
    glide_s: float = 0.0,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return what a monophonic instrument does with notes in order: pitch in Hz, age of the note in s, amplitude."""
    time_s = clock.control_seconds()
    if not notes:
        silence = np.zeros(len(time_s), np.float32)
        return silence + 100, silence, silence
    index = note_at(clock, notes)
    starts, lengths, pitches, velocities = np.array(
        [(note.start_s, note.duration_s, note.pitch, note.velocity) for note in notes]
    ).T
    since = time_s - starts[index]
    age = np.maximum(since, 0)
    envelope = np.clip(since / attack_s, 0, 1) * np.clip((lengths[index] - since) / release_s, 0, 1)
    envelope *= velocities[index] * np.exp(-age / decay_s)
    f0 = 440 * np.exp2((smoothed(clock, pitches[index], glide_s) - 69) / 12)
    # Without smoothing, a note that breaks off for the next one clicks.
    return f0.astype(np.float32), age.astype(np.float32), smoothed(clock, envelope, 0.004)


def at_audio_rate(clock: Clock, curve: NDArray[Any]) -> FloatArray:
    """Return a curve with one value for each sample, interpolated."""
    points = curve.astype(np.float32)
    full: FloatArray = np.diff(points)[:, None] * (np.arange(_CONTROL_HOP, dtype=np.float32) / np.float32(_CONTROL_HOP))
    full += points[:-1, None]
    return full.reshape(-1)[: clock.n_samples]


def _phase(clock: Clock, f0: FloatArray, start: float) -> FloatArray:
    """Return the phase in radians of a tone of this pitch (a curve, in Hz), up to whole turns.

    The pitch being straight between two points of the curve, the phase is a parabola there.
    """
    per_sample = f0.astype(np.float64) * (2 * np.pi / clock.sample_rate)
    turned = np.cumsum((per_sample[1:] + per_sample[:-1]) * (_CONTROL_HOP / 2))
    begin = np.mod(np.concatenate([[start], start + turned[:-1]]), 2 * np.pi)
    n = np.arange(_CONTROL_HOP, dtype=np.float32)
    phase: FloatArray = per_sample[:-1, None].astype(np.float32) * n
    phase += (np.diff(per_sample) / (2 * _CONTROL_HOP))[:, None].astype(np.float32) * (n * n)
    phase += begin[:, None].astype(np.float32)
    return phase.reshape(-1)[: clock.n_samples]


def tone(clock: Clock, f0: FloatArray, cutoff: float | NDArray[Any], rng: Generator) -> FloatArray:
    """Sound all harmonics of a pitch, the one at f Hz with amplitude exp(−f / cutoff), at about unit power.

    f0 : curve, in Hz
    cutoff : number or curve, in Hz
    Returns an ndarray [shape=(time,), float32].
    """
    # What lies above half the sample rate folds back; this keeps it 70 dB down.
    limited = np.minimum(cutoff, clock.sample_rate / 16)
    ratio = np.maximum(np.exp(-f0 / limited), 1e-4)
    loudness = at_audio_rate(clock, np.sqrt(2 * (1 - ratio * ratio)))
    r = at_audio_rate(clock, ratio)
    theta = _phase(clock, f0, rng.uniform(0, 2 * np.pi))
    below = np.cos(theta)
    below *= -2
    below += r
    below *= r
    below += 1
    sound: FloatArray = np.sin(theta, out=theta)
    sound *= loudness
    sound /= below
    return sound


def smoothed(clock: Clock, curve: NDArray[Any], width_s: float) -> FloatArray:
    """Return the moving average of a curve over `width_s`."""
    from scipy.ndimage import uniform_filter1d

    n_points = max(1, round(width_s * clock.sample_rate / _CONTROL_HOP))
    averaged: FloatArray = uniform_filter1d(curve.astype(np.float64), n_points, mode="nearest").astype(np.float32)
    return averaged


def band(clock: Clock, noise: NDArray[Any], low_hz: float, high_hz: float) -> FloatArray:
    """Return what a noise has between two frequencies, as far as the sample rate goes."""
    from scipy.signal import butter, sosfilt

    high_hz = min(high_hz, 0.45 * clock.sample_rate)
    sections = butter(2, (min(low_hz, 0.5 * high_hz), high_hz), "bandpass", fs=clock.sample_rate, output="sos")
    filtered: FloatArray = sosfilt(sections, noise).astype(np.float32)
    return filtered


def through_formants(clock: Clock, source: FloatArray, formants_hz: Sequence[float]) -> FloatArray:
    """Send a glottal source through a vocal tract: one resonance after the other, each of unit gain at 0 Hz."""
    from scipy.signal import sosfilt

    sections = []
    for frequency_hz, width_hz in zip(formants_hz, _FORMANT_WIDTHS_HZ, strict=True):
        if frequency_hz < 0.45 * clock.sample_rate:
            radius = np.exp(-np.pi * width_hz / clock.sample_rate)
            middle = -2 * radius * np.cos(2 * np.pi * frequency_hz / clock.sample_rate)
            sections.append([1 + middle + radius**2, 0, 0, 1, middle, radius**2])
    filtered: FloatArray = sosfilt(np.array(sections), source).astype(np.float32)
    return filtered


def panned(samples: FloatArray, pan: float) -> FloatArray:
    """Place a mono sound between left (−1) and right (1) at constant power: (2, time)."""
    angle = np.pi / 4 * (pan + 1)
    return np.stack([samples * np.float32(np.cos(angle)), samples * np.float32(np.sin(angle))])


def room(clock: Clock, samples: FloatArray, rng: Generator) -> FloatArray:
    """Return what comes back from the walls, in stereo and at about the power of the sound: (2, time)."""
    from scipy.signal import oaconvolve

    length_s = rng.uniform(0.5, 1.2)
    decay = np.exp(-6.9 * clock.seconds(length_s) / length_s)
    walls = rng.standard_normal((2, len(decay))) * decay
    walls /= np.sqrt(np.square(walls).sum(axis=1, keepdims=True))
    wet = oaconvolve(samples[None], walls.astype(np.float32), axes=-1)[:, : len(samples)]
    reverberation: FloatArray = wet.astype(np.float32)
    return reverberation


def add_hit(clock: Clock, samples: FloatArray, hit: FloatArray, at_s: float, gain: float) -> None:
    """Add a short sound to `samples` in place, from `at_s` on; what reaches beyond either end is lost."""
    start = round(at_s * clock.sample_rate)
    first, last = max(0, -start), min(len(hit), len(samples) - start)
    if first < last:
        samples[start + first : start + last] += np.float32(gain) * hit[first:last]
