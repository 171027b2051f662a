"""What belongs to an instrument and moves its sound: chorus, rotating speaker, tremolo, gate, amplifier.

Each turns samples [shape=(2, time), float32] into others of the same shape.  None looks ahead, but for an
amplifier that oversamples: 20 samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from unbraid.datasets.synthesis.clock import Clock, at_audio_rate, smoothed
from unbraid.datasets.synthesis.sweeps import softened
from unbraid.datatypes import FloatArray

__all__ = ["Amplifier", "Chorus", "Effect", "Gate", "RotatingSpeaker", "Tremolo"]

_CHUNK = 2**15


class Effect(Protocol):
    """A step between an instrument and its output."""

    def __call__(self, samples: FloatArray, step_s: float, sample_rate: int, rng: Generator) -> FloatArray:
        """Samples of the same shape; `step_s` is the time between notes, for what moves with the music."""
        ...


def _delayed(samples: FloatArray, delay_s: NDArray[Any], clock: Clock) -> FloatArray:
    """Return samples (time,) later by a curve in seconds, interpolated; silence comes before the first."""
    longest = int(float(delay_s.max()) * clock.sample_rate) + 2
    padded = np.concatenate([np.zeros(longest, np.float32), samples])
    delay = at_audio_rate(clock, delay_s * clock.sample_rate)
    delayed = np.empty_like(samples)
    for start in range(0, len(samples), _CHUNK):
        part = delay[start : start + _CHUNK]
        whole = part.astype(np.int32)
        share = part - whole
        index = np.arange(start + longest, start + longest + len(part), dtype=np.int64) - whole
        nearer, farther = padded[index], padded[index - 1]
        delayed[start : start + _CHUNK] = nearer + share * (farther - nearer)
    return delayed


@dataclass(frozen=True)
class Chorus:
    """Delayed copies whose delay swings, the other way on the other side; `mix` of them to one of the sound."""

    n_taps: int
    rate_hz: float
    delay_s: float
    depth_s: float
    mix: float

    def __call__(self, samples: FloatArray, step_s: float, sample_rate: int, rng: Generator) -> FloatArray:
        """Thicken and widen it."""
        clock = Clock(sample_rate, samples.shape[1])
        time_s = clock.control_seconds()
        wet = samples.copy()
        for tap in range(self.n_taps):
            start = rng.random() + tap / self.n_taps
            for side in range(2):
                swing = np.sin(2 * np.pi * (self.rate_hz * time_s + start + 0.5 * side))
                delay_s = np.maximum(self.delay_s * (1 + 0.3 * tap) + self.depth_s * swing, 0.0005)
                wet[side] += np.float32(self.mix / np.sqrt(self.n_taps)) * _delayed(samples[side], delay_s, clock)
        return wet


@dataclass(frozen=True)
class RotatingSpeaker:
    """A horn and a drum that turn, slowly or fast, before two microphones (`width` apart: 0 to 1)."""

    slow_hz: float
    fast_hz: float
    depth: float
    width: float

    def __call__(self, samples: FloatArray, step_s: float, sample_rate: int, rng: Generator) -> FloatArray:
        """Turn; the speed changes now and then."""
        from scipy.signal import butter, sosfilt

        clock = Clock(sample_rate, samples.shape[1])
        time_s = clock.control_seconds()
        switched = rng.random(2 + int(time_s[-1] / 6)) < 0.4
        fast = (np.cumsum(switched) + rng.integers(2)) % 2
        rate_hz = self.slow_hz + (self.fast_hz - self.slow_hz) * smoothed(clock, fast[(time_s / 6).astype(int)], 1.2)
        mono = samples.mean(axis=0)
        low: FloatArray = sosfilt(butter(2, 800, fs=sample_rate, output="sos"), mono).astype(np.float32)
        turned = np.zeros_like(samples)
        for part, speed, doppler_s in ((mono - low, 1.0, 3e-4), (low, 0.85, 1e-4)):
            turns = np.cumsum(speed * rate_hz) * (time_s[1] - time_s[0])
            for side in range(2):
                swing = np.sin(2 * np.pi * (turns + self.width * 0.25 * (2 * side - 1)))
                heard = _delayed(part, doppler_s * (1.1 + swing), clock)
                turned[side] += heard * at_audio_rate(clock, 1 + self.depth * swing)
        return turned


@dataclass(frozen=True)
class Tremolo:
    """A level that swings, together or from side to side (`panning`)."""

    rate_hz: float
    depth: float
    panning: bool

    def __call__(self, samples: FloatArray, step_s: float, sample_rate: int, rng: Generator) -> FloatArray:
        """Swing."""
        clock = Clock(sample_rate, samples.shape[1])
        swing = 0.5 * self.depth * np.sin(2 * np.pi * (self.rate_hz * clock.control_seconds() + rng.random()))
        first = at_audio_rate(clock, 1 + swing)
        other = 2 - first if self.panning else first
        return samples * np.stack([first, other])


@dataclass(frozen=True)
class Gate:
    """A rhythm that lets the sound through: `open_steps` of a bar of steps, each for the share `length`."""

    open_steps: tuple[bool, ...]
    length: float

    def __call__(self, samples: FloatArray, step_s: float, sample_rate: int, rng: Generator) -> FloatArray:
        """Chop it."""
        clock = Clock(sample_rate, samples.shape[1])
        step, within = np.divmod(clock.control_seconds() / step_s, 1)
        is_open = np.array(self.open_steps)[step.astype(int) % len(self.open_steps)] & (within < self.length)
        return samples * at_audio_rate(clock, smoothed(clock, 0.03 + 0.97 * is_open, 0.006))


@dataclass(frozen=True)
class Amplifier:
    """A guitar's: less bass, soft clipping (`drive` times full scale), a cabinet that ends at `cabinet_hz`."""

    drive: float
    tight_hz: float
    cabinet_hz: float
    peak_hz: float
    peak: float

    def __call__(self, samples: FloatArray, step_s: float, sample_rate: int, rng: Generator) -> FloatArray:
        """Drive it."""
        if np.array_equal(samples[0], samples[1]):
            return np.repeat(self._driven(samples[:1], sample_rate), 2, axis=0)
        return self._driven(samples, sample_rate)

    def _driven(self, samples: FloatArray, sample_rate: int) -> FloatArray:
        from scipy.signal import butter, resample_poly, sosfilt

        before = butter(1, self.tight_hz, "highpass", fs=sample_rate, output="sos")
        tight: FloatArray = sosfilt(before, samples).astype(np.float32)
        # Hard clipping makes harmonics far beyond the band: at several times the rate they fold back above the cabinet.
        times = 1 if self.drive < 3 else 2 if sample_rate > 30000 else 4
        if times == 1:
            driven = softened(tight, self.drive)
        else:
            finer = softened(resample_poly(tight, times, 1, axis=-1).astype(np.float32), self.drive)
            driven = resample_poly(finer, 1, times, axis=-1).astype(np.float32)
        top_hz = min(self.cabinet_hz, 0.45 * sample_rate)
        peak_hz = min(self.peak_hz, 0.3 * sample_rate)
        spoken = sosfilt(butter(2, (70, top_hz), "bandpass", fs=sample_rate, output="sos"), driven)
        ringing = sosfilt(butter(1, (0.7 * peak_hz, 1.4 * peak_hz), "bandpass", fs=sample_rate, output="sos"), spoken)
        cabinet: FloatArray = (spoken + self.peak * ringing).astype(np.float32)
        return cabinet
