"""Filters whose cutoff moves, and soft clipping without audible folding.

The filter works on overlapping windows of the sound: each is convolved, by FFT, with the impulse response that the
filter has at that moment, and the results are added.  It is a filter that crossfades to the next cutoff every few
milliseconds, for two FFTs a window and nothing that runs sample by sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from unbraid.datatypes import ComplexArray, FloatArray

__all__ = ["Sweep", "softened", "swept"]

_STEPS_PER_OCTAVE = 24
_LOWEST_HZ = 25.0
# Windows a chunk: FFTs of 64 windows stay in the cache.
_CHUNK = 64


@dataclass(frozen=True)
class Sweep:
    """A filter and what moves its cutoff.

    kind : "low12", "low24" (a ladder of four poles), "band" or "high"
    resonance : 0 (none) to 1 (just below whistling)
    cutoff_hz : of middle C at full velocity, before what follows
    tracking : octaves of cutoff per octave of pitch
    octaves, attack_s, decay_s, sustain : envelope; it rises by `octaves`, then falls to the share `sustain` of that
    velocity_octaves : that the softest note loses
    lfo_octaves, lfo_hz : slow swing to both sides
    """

    kind: str = "low12"
    resonance: float = 0.1
    cutoff_hz: float = 4000.0
    tracking: float = 0.5
    octaves: float = 0.0
    attack_s: float = 0.003
    decay_s: float = 0.3
    sustain: float = 0.3
    velocity_octaves: float = 1.0
    lfo_octaves: float = 0.0
    lfo_hz: float = 0.5

    def cutoff(
        self, age_s: NDArray[Any], frequency_hz: NDArray[Any] | float, velocity: NDArray[Any] | float, rng: Generator
    ) -> NDArray[Any]:
        """Return the cutoff in Hz of a note of each age, pitch and velocity (curves, or numbers that stay)."""
        rise = np.clip(age_s / self.attack_s, 0, 1)
        fall = np.exp(-np.maximum(age_s - self.attack_s, 0) / self.decay_s)
        octaves = self.octaves * rise * (self.sustain + (1 - self.sustain) * fall)
        octaves += self.velocity_octaves * (velocity - 1) + self.tracking * np.log2(frequency_hz / 261.6)
        if self.lfo_octaves:
            octaves += self.lfo_octaves * np.sin(2 * np.pi * (self.lfo_hz * age_s + rng.random()))
        return self.cutoff_hz * np.exp2(octaves)


def _response(kind: str, resonance: float, cutoff_hz: NDArray[Any], frequency_hz: NDArray[Any]) -> ComplexArray:
    """Return the analogue filter's response [shape=(cutoff, frequency), complex64]."""
    s = (1j * frequency_hz[None] / cutoff_hz[:, None]).astype(np.complex64)
    if kind == "low24":
        # Feedback around four poles takes from the level below the cutoff; half of it is given back.
        feedback = np.float32(3.7 * resonance)
        squared = np.square(1 + s)
        ladder: ComplexArray = (1 + np.float32(0.5) * feedback) / (np.square(squared) + feedback)
        return ladder
    q = np.float32(0.6 * 18**resonance)
    below: ComplexArray = 1 / (np.square(s) + s / q + 1)
    if kind == "low12":
        return below
    filtered: ComplexArray = below * (s / q if kind == "band" else np.square(s))
    return filtered


def swept(sound: FloatArray, cutoff_hz: NDArray[Any], sweep: Sweep, sample_rate: int) -> FloatArray:
    """Send a sound through a filter.

    sound : ndarray [shape=(channel, time), float32]
    cutoff_hz : curve over the sound's length, with any number of evenly spaced points
    Returns an ndarray of the shape of `sound`.
    """
    from scipy.fft import irfft, rfft

    n_channels, n_samples = sound.shape
    steps = np.round(_STEPS_PER_OCTAVE * np.log2(np.clip(cutoff_hz, _LOWEST_HZ, 0.45 * sample_rate) / _LOWEST_HZ))
    hop, n_fft = _window(steps, n_samples, sample_rate)
    n_windows = -(-n_samples // hop) + 1
    centres = np.arange(n_windows) * (hop * (len(steps) - 1) / max(n_samples, 1))
    used, at = np.unique(steps[np.minimum(np.round(centres), len(steps) - 1).astype(int)], return_inverse=True)
    frequency_hz = np.fft.rfftfreq(n_fft, 1 / sample_rate)
    responses = _response(sweep.kind, sweep.resonance, _LOWEST_HZ * np.exp2(used / _STEPS_PER_OCTAVE), frequency_hz)

    padded = np.zeros((n_channels, (n_windows + 1) * hop), np.float32)
    padded[:, hop : hop + n_samples] = sound
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * hop, axis=-1)[:, ::hop]
    window = (0.5 - 0.5 * np.cos(np.pi * np.arange(2 * hop) / hop)).astype(np.float32)
    n_parts = n_fft // hop
    added = np.zeros((n_channels, n_windows + n_parts, hop), np.float32)
    for first in range(0, n_windows, _CHUNK):
        last = min(first + _CHUNK, n_windows)
        spectra = rfft(windows[:, first:last] * window, n_fft) * responses[at[first:last]]
        parts = irfft(spectra, n_fft).reshape(n_channels, last - first, n_parts, hop)
        for i in range(n_parts):
            added[:, first + i : last + i] += parts[:, :, i]
    filtered: FloatArray = added.reshape(n_channels, -1)[:, hop : hop + n_samples]
    return filtered


def _window(steps: NDArray[Any], n_samples: int, sample_rate: int) -> tuple[int, int]:
    """Return hop and FFT size: long for a cutoff that hardly moves, which is cheaper."""
    octaves = np.abs(np.diff(steps)).sum() / _STEPS_PER_OCTAVE
    per_second = octaves * sample_rate / max(n_samples, 1)
    hop = 2 ** round(np.log2(sample_rate * (0.023 if per_second < 2 else 0.006)))
    return int(hop), int(hop * (4 if per_second < 2 else 8))


def softened(sound: FloatArray, drive: float) -> FloatArray:
    """Clip softly, x / √(1 + x²) with x = drive · sound, towards ±1.

    Taken as the mean over each sample's interval, by its integral √(1 + x²), which keeps folding down (Parker,
    Zavalishin, Le Bivic, DAFx 2016); for this curve the difference quotient is (x₁ + x₀) / (√(1 + x₁²) + √(1 + x₀²)).
    """
    x = sound * np.float32(drive)
    integral = np.sqrt(1 + x * x)
    clipped = np.empty_like(x)
    clipped[..., :1] = x[..., :1] / (1 + integral[..., :1])
    np.add(x[..., 1:], x[..., :-1], out=clipped[..., 1:])
    clipped[..., 1:] /= integral[..., 1:] + integral[..., :-1]
    return clipped
