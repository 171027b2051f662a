"""What drums are made of: heads whose pitch falls, bars and plates that ring, things that rattle.

A layer is called with the velocity (0 to 1) and gives a hit, shape (channel, time), one channel or two, that begins
with its first sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.random import Generator

from unbraid.datasets.synthesis.decays import burst, ringing
from unbraid.datasets.synthesis.oscillators import Pitch, radians
from unbraid.datasets.synthesis.sweeps import softened
from unbraid.datatypes import FloatArray

__all__ = ["Bars", "Drum", "Head", "Layer", "Rattle", "circuit_metal", "drawn_metal"]

_LONGEST_S = 4.0

# Modes of an ideal membrane as multiples of its lowest (zeros of Bessel functions over the first, 2.405).
_MEMBRANE = (1.594, 2.136, 2.296, 2.653, 2.918, 3.156, 3.501, 3.600)

# The six square waves of the metal circuit of a drum machine of 1980, in Hz, as is often told.
_CIRCUIT_HZ = (205.3, 304.4, 369.6, 522.7, 540.0, 800.0)


class Layer(Protocol):
    """A part of a drum's sound."""

    @property
    def length_s(self) -> float:
        """How long it is heard."""
        ...

    def __call__(self, velocity: float, n_samples: int, sample_rate: int, rng: Generator) -> FloatArray:
        """Samples [shape=(channel, time), float32] of one hit."""
        ...


@dataclass(frozen=True)
class Head:
    """A head, or a sine whose pitch falls.

    hz, decay_s : where the pitch ends, and how it dies; sweep_octaves, sweep_s : how far and how fast it falls there
    modes : level of the modes of a membrane
    drive : of a soft clipper; 0 for none
    """

    hz: float
    decay_s: float
    sweep_octaves: float = 1.0
    sweep_s: float = 0.02
    modes: float = 0.0
    drive: float = 0.0
    gain: float = 1.0

    @property
    def length_s(self) -> float:
        """How long it is heard."""
        return 6 * self.decay_s

    def __call__(self, velocity: float, n_samples: int, sample_rate: int, rng: Generator) -> FloatArray:
        """Hit it."""
        age_s: FloatArray = np.arange(n_samples, dtype=np.float32) / np.float32(sample_rate)
        octaves = self.sweep_octaves * (0.7 + 0.3 * velocity) * np.exp(-age_s / self.sweep_s)
        hz = self.hz * 2 ** rng.normal(0, 0.006)
        falling: FloatArray = np.minimum(hz * np.exp2(octaves), 0.4 * sample_rate).astype(np.float32)
        phase = Pitch(falling, ((0, n_samples, float(falling[0])),)).phase(1.0, sample_rate)
        sound: FloatArray = np.sin(radians(phase)) * np.exp(-age_s / self.decay_s).astype(np.float32)
        if self.modes:
            ratio = np.array(_MEMBRANE) * rng.uniform(0.98, 1.02, len(_MEMBRANE))
            level = self.modes * rng.uniform(0.3, 1, len(ratio)) * (0.3 + 0.7 * velocity) / ratio
            sound += ringing(hz * ratio, level, 0.5 * self.decay_s / ratio, n_samples, sample_rate)
        if self.drive:
            sound = softened(sound, self.drive * (0.5 + 0.5 * velocity))
        struck: FloatArray = sound[None] * np.float32(self.gain)
        return struck


@dataclass(frozen=True)
class Bars:
    """Partials that ring: their frequencies in Hz, levels, decays in s; softer hits leave out the high ones."""

    hz: tuple[float, ...]
    levels: tuple[float, ...]
    decays_s: tuple[float, ...]
    gain: float = 1.0
    velocity: float = 0.5

    @property
    def length_s(self) -> float:
        """How long it is heard."""
        return 6 * max(self.decays_s)

    def __call__(self, velocity: float, n_samples: int, sample_rate: int, rng: Generator) -> FloatArray:
        """Strike."""
        hz = np.array(self.hz) * 2 ** rng.normal(0, 0.003)
        levels = np.array(self.levels) * rng.uniform(0.8, 1.2, len(hz))
        levels *= (hz / hz.min()) ** (self.velocity * (velocity - 1))
        # What lies above the band would leave a silent bar: the lowest stays.
        hz[np.argmin(hz)] = min(hz.min(), 0.4 * sample_rate)
        phase = rng.uniform(-np.pi, np.pi, len(hz)) if len(hz) > 8 else 0.0
        sound = ringing(hz, self.gain * levels, np.array(self.decays_s), n_samples, sample_rate, phase=phase)
        return sound[None]


@dataclass(frozen=True)
class Rattle:
    """Noise between two frequencies.

    delays_s : when it is set off, from 0 on, once or several times; rise_s : how soon it is at its height
    stereo : whether both sides have their own noise
    """

    low_hz: float
    high_hz: float
    decay_s: float
    gain: float = 1.0
    delays_s: tuple[float, ...] = (0.0,)
    early_decay_s: float = 0.01
    rise_s: float = 0.0005
    stereo: bool = False

    @property
    def length_s(self) -> float:
        """How long it is heard."""
        return max(self.delays_s) + self.rise_s + 7 * self.decay_s

    def __call__(self, velocity: float, n_samples: int, sample_rate: int, rng: Generator) -> FloatArray:
        """Shake it."""
        sound = np.zeros((2 if self.stereo else 1, n_samples), np.float32)
        low_hz = min(self.low_hz, 0.25 * sample_rate)
        high_hz = max(self.high_hz * 2 ** (0.8 * (velocity - 1)), 1.5 * low_hz)
        for side in sound:
            for delay_s in self.delays_s:
                start = min(round(delay_s * sample_rate * rng.uniform(0.95, 1.05)), n_samples - 1)
                decay_s = self.decay_s if delay_s == max(self.delays_s) else self.early_decay_s
                side[start:] += burst(low_hz, high_hz, decay_s, n_samples - start, sample_rate, rng)
        rise = np.minimum(np.arange(1, n_samples + 1, dtype=np.float32) / np.float32(self.rise_s * sample_rate), 1)
        shaken: FloatArray = sound * (rise * np.float32(0.3 * self.gain * (0.4 + 0.6 * velocity)))
        return shaken


@dataclass(frozen=True)
class Drum:
    """Layers that are struck together; `level` is the peak at full velocity, `pan` is from −1 to 1."""

    layers: tuple[Layer, ...]
    level: float
    pan: float = 0.0

    def __call__(self, velocity: float, sample_rate: int, rng: Generator) -> FloatArray:
        """Return a hit that peaks at `level`, whatever the velocity: (2, time)."""
        length_s = min(max(layer.length_s for layer in self.layers), _LONGEST_S)
        n_samples = max(64, round(length_s * sample_rate))
        sound = np.zeros((2, n_samples), np.float32)
        for layer in self.layers:
            sound += layer(velocity, n_samples, sample_rate, rng)
        angle = np.pi / 4 * (1 + self.pan)
        sound *= np.sqrt(2) * np.array([[np.cos(angle)], [np.sin(angle)]], np.float32)
        n_faded = n_samples // 8
        sound[:, -n_faded:] *= np.linspace(1, 0, n_faded, dtype=np.float32)
        n_begun = max(1, round(2e-4 * sample_rate))
        sound[:, :n_begun] *= np.linspace(0, 1, n_begun + 1, dtype=np.float32)[1:]
        return sound * np.float32(self.level / max(float(np.abs(sound).max()), 1e-9))


def circuit_metal(low_hz: float, high_hz: float, tune: float, decay_s: float, gain: float) -> Bars:
    """Return six square waves between two frequencies: the metal of analogue drum machines."""
    partials = [
        (tune * hz * k, 1 / np.sqrt(k))
        for hz in _CIRCUIT_HZ
        for k in range(1, 60, 2)
        if low_hz < tune * hz * k < high_hz
    ]
    hz, levels = zip(*sorted(partials), strict=True)
    return Bars(
        tuple(float(f) for f in hz),
        tuple(float(level) for level in levels / np.sum(levels) * 3 * gain),
        (decay_s,) * len(hz),
    )


def drawn_metal(n_partials: int, low_hz: float, high_hz: float, decay_s: float, gain: float, rng: Generator) -> Bars:
    """Draw the partials of a plate: closer together the higher they are, and the highest die first."""
    hz = low_hz + (high_hz - low_hz) * np.sort(rng.random(n_partials))
    levels = rng.exponential(1, n_partials) * (hz / low_hz) ** rng.uniform(-0.6, 0.1)
    decays_s = decay_s * rng.uniform(0.4, 1, n_partials) / (1 + hz / 12000)
    return Bars(
        tuple(float(f) for f in hz),
        tuple(float(level) for level in gain * 2 * levels / np.sqrt(n_partials) / levels.max()),
        tuple(float(decay) for decay in decays_s),
    )
