"""What changes slowly (pitch, level, delay), computed on every 32nd sample of a sound only.

A curve is an ndarray [shape=(1 + ceil(time / 32),)], made full by `at_audio_rate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unbraid.datatypes import FloatArray

__all__ = ["Clock", "at_audio_rate", "smoothed"]

_CONTROL_HOP = 32


@dataclass(frozen=True)
class Clock:
    """Sample rate in Hz and number of samples of a sound."""

    sample_rate: int
    n_samples: int

    def control_seconds(self) -> NDArray[Any]:
        """Time of each point of a curve."""
        n_points = 1 + -(-self.n_samples // _CONTROL_HOP)
        return np.arange(n_points) * (_CONTROL_HOP / self.sample_rate)


def at_audio_rate(clock: Clock, curve: NDArray[Any]) -> FloatArray:
    """Return a curve with one value for each sample, interpolated."""
    points = curve.astype(np.float32)
    full: FloatArray = np.diff(points)[:, None] * (np.arange(_CONTROL_HOP, dtype=np.float32) / np.float32(_CONTROL_HOP))
    full += points[:-1, None]
    return full.reshape(-1)[: clock.n_samples]


def smoothed(clock: Clock, curve: NDArray[Any], width_s: float) -> FloatArray:
    """Return the moving average of a curve over `width_s`."""
    from scipy.ndimage import uniform_filter1d

    n_points = max(1, round(width_s * clock.sample_rate / _CONTROL_HOP))
    averaged: FloatArray = uniform_filter1d(curve.astype(np.float64), n_points, mode="nearest").astype(np.float32)
    return averaged
