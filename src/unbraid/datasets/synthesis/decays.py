"""Sums of dying partials: strings, bars, bells, membranes.

A partial Re(a zⁿ) at sample n = B i + j is Re((a z^{B i}) z^j): all partials of a sound together are one product of two
small matrices, which costs about one multiplication for each partial and sample and no sine at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from unbraid.datatypes import FloatArray

__all__ = ["StringTone", "burst", "drawn_body", "ringing"]

_BLOCK = 256

# Where a body's resonances are given: half an octave apart from 60 Hz on.
_BODY_HZ = 60 * 2 ** (0.5 * np.arange(16))


def ringing(
    frequency_hz: NDArray[Any],
    amplitude: NDArray[Any],
    decay_s: NDArray[Any],
    n_samples: int,
    sample_rate: int,
    *,
    phase: NDArray[Any] | float = 0.0,
) -> FloatArray:
    """Return Σ amplitude · exp(−t / decay_s) · sin(2π frequency_hz t + phase), shape (time,).

    frequency_hz, amplitude, decay_s : ndarrays [shape=(partial,)]; what lies above 0.45 sample_rate
        or 80 dB below the strongest is left out
    """
    audible = (frequency_hz < 0.45 * sample_rate) & (np.abs(amplitude) > 1e-4 * np.abs(amplitude).max())
    if not audible.any():
        return np.zeros(n_samples, np.float32)
    # After twelve time constants it is 104 dB down.
    n_heard = min(n_samples, max(1, round(12 * float(decay_s[audible].max()) * sample_rate)))
    per_sample = frequency_hz[audible] / sample_rate
    fall = -1 / (decay_s[audible] * sample_rate)
    start = np.broadcast_to(phase, frequency_hz.shape)[audible] / (2 * np.pi) - 0.25

    def powers(sample: NDArray[Any], offset: NDArray[Any] | float) -> NDArray[Any]:
        # Whole turns are taken off in double precision.
        turns = np.mod(np.outer(sample, per_sample) + offset, 1)
        angle = (2 * np.pi * turns).astype(np.float32)
        size = np.exp(np.outer(sample, fall).astype(np.float32))
        return np.concatenate([size * np.cos(angle), size * np.sin(angle)], axis=1)

    within = powers(np.arange(_BLOCK), 0.0)
    weights = np.concatenate([amplitude[audible], amplitude[audible]]).astype(np.float32)
    begin = powers(np.arange(0, n_heard, _BLOCK), start) * weights
    begin[:, len(per_sample) :] *= -1
    sound = np.zeros(n_samples, np.float32)
    sound[:n_heard] = (begin @ within.T).reshape(-1)[:n_heard]
    return sound


def burst(
    low_hz: float, high_hz: float, decay_s: float, n_samples: int, sample_rate: int, rng: Generator
) -> FloatArray:
    """Return noise between two frequencies, of unit power at first, that dies away: (time,)."""
    n_heard = min(n_samples, max(1, round(7 * decay_s * sample_rate)))
    white = rng.standard_normal(n_heard, np.float32)
    noise = _band(white, min(low_hz, 0.2 * sample_rate), high_hz, sample_rate)
    noise *= np.float32(np.sqrt(0.5 * sample_rate / max(min(high_hz, 0.45 * sample_rate) - low_hz, 100)))
    noise *= np.exp(np.arange(n_heard, dtype=np.float32) * np.float32(-1 / (decay_s * sample_rate)))
    sound = np.zeros(n_samples, np.float32)
    sound[:n_heard] = noise
    return sound


def _band(noise: FloatArray, low_hz: float, high_hz: float, sample_rate: int) -> FloatArray:
    """Return what a noise has between two frequencies, as far as the sample rate goes."""
    from scipy.signal import butter, sosfilt

    high_hz = min(high_hz, 0.45 * sample_rate)
    sections = butter(2, (min(low_hz, 0.5 * high_hz), high_hz), "bandpass", fs=sample_rate, output="sos")
    filtered: FloatArray = sosfilt(sections, noise).astype(np.float32)
    return filtered


def drawn_body(depth_db: float, rng: Generator) -> tuple[float, ...]:
    """Draw the resonances of a body of wood or of a pickup: gains in dB, half an octave apart from 60 Hz on."""
    return tuple(float(gain_db) for gain_db in depth_db * rng.standard_normal(len(_BODY_HZ)))


@dataclass(frozen=True)
class StringTone:
    """Plucked or struck strings, bars and tines.

    stiffness : B of middle C in f_k = k f₀ √(1 + B k²) (Fletcher, JASA 36, 1964), grows with the pitch
    decay_s : of the fundamental of middle C, to 1/e; damping_hz : where partials live half as long
    position : where it is struck or plucked, of its length
    brightness_hz : partials fall as exp(−f / brightness) at full velocity; softer is darker by `velocity_octaves`
    tilt : and as k^−tilt
    n_strings, detune_cents : per note; the others are weaker and live longer, which gives the second slope of pianos
    hammer, hammer_hz, hammer_s : level, highest frequency and decay of the noise of touch
    body : gains in dB, see `drawn_body`
    partials : frequency ratios instead of harmonics (bars, bells); empty for strings
    mute_below, mute_s : notes softer than this are damped by the palm to this decay
    spread : of the strings between left and right, 0 to 1
    """

    stiffness: float = 3e-4
    decay_s: float = 2.0
    damping_hz: float = 3000.0
    position: float = 0.12
    brightness_hz: float = 2500.0
    velocity_octaves: float = 1.5
    tilt: float = 0.7
    n_strings: int = 1
    detune_cents: float = 1.0
    hammer: float = 0.1
    hammer_hz: float = 3000.0
    hammer_s: float = 0.01
    body: tuple[float, ...] = ()
    partials: tuple[float, ...] = ()
    mute_below: float = 0.0
    mute_s: float = 0.08
    spread: float = 0.0

    def __call__(
        self, frequency_hz: float, velocity: float, n_samples: int, sample_rate: int, rng: Generator
    ) -> FloatArray:
        """Sound a note: (channel, time), one channel or two."""
        number = np.arange(1, min(90, int(14000 / frequency_hz) + 2))
        octaves = np.log2(frequency_hz / 261.6)
        stiffness = self.stiffness * 2 ** (1.3 * octaves)
        ratio = number * np.sqrt((1 + stiffness * number**2) / (1 + stiffness))
        if self.partials:
            ratio = np.array(self.partials)
        partial_hz = frequency_hz * ratio
        brightness_hz = self.brightness_hz * 2 ** (self.velocity_octaves * (velocity - 1) + 0.3 * octaves)
        place = np.clip(self.position * rng.uniform(0.9, 1.1), 0.02, 0.5)
        amplitude = np.abs(np.sin(np.pi * ratio * place)) * np.exp(-partial_hz / brightness_hz) / ratio**self.tilt
        amplitude[0] += 0.3 * amplitude.max()  # heard as the pitch wherever it is plucked
        if self.body:
            amplitude = amplitude * 10 ** (np.interp(np.log(partial_hz), np.log(_BODY_HZ), self.body) / 20)
        muted = velocity < self.mute_below
        decay_s = self.decay_s * 2 ** (-0.6 * octaves) / (1 + partial_hz / self.damping_hz)
        if muted:
            decay_s = self.mute_s / (1 + partial_hz / 900)
        strings = [
            ringing(
                partial_hz * 2 ** (cents / 1200),
                amplitude * (1.0 if i == 0 else 0.5),
                decay_s * (1.0 if i == 0 else 1.8),
                n_samples,
                sample_rate,
                phase=rng.uniform(-0.3, 0.3, len(partial_hz)),
            )
            for i, cents in enumerate(self.detune_cents * rng.uniform(-1, 1, self.n_strings))
        ]
        sound = self._placed(strings)
        level = max(float(np.abs(sound).max(initial=0)), 1e-9) * self.hammer * (0.4 + 0.6 * velocity)
        if self.hammer:
            touch = burst(80, self.hammer_hz * (0.5 + 0.5 * velocity), self.hammer_s, n_samples, sample_rate, rng)
            sound += np.float32(0.5 * level) * touch
        return sound

    def _placed(self, strings: list[FloatArray]) -> FloatArray:
        """Mix the strings of a note, apart or not: (channel, time)."""
        if not self.spread or len(strings) == 1:
            together: FloatArray = np.sum(strings, axis=0, keepdims=True, dtype=np.float32)
            return together
        places = self.spread * np.linspace(-1, 1, len(strings), dtype=np.float32)
        angles = np.float32(np.pi / 4) * (1 + places)
        gains = np.float32(np.sqrt(2)) * np.stack([np.cos(angles), np.sin(angles)])
        placed: FloatArray = gains @ np.stack(strings)
        return placed
