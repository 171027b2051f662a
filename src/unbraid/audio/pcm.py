"""Integers and floats: full scale is ±1 on our side, ±2^(bits−1) in the file; nearest value, no dither."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unbraid.datatypes import FloatArray

__all__ = ["IntegerConverter", "count_beyond_full_scale", "extremes"]


def extremes(block: FloatArray) -> tuple[float, float]:
    """Lowest and highest sample; not finite if any sample is not. The quickest test for NaN and infinity, too."""
    return float(block.min(initial=0.0)), float(block.max(initial=0.0))


def count_beyond_full_scale(block: FloatArray) -> int:
    """How many samples lie beyond ±1."""
    return int(np.count_nonzero(np.abs(block) > 1.0))


class IntegerConverter:
    """Turns blocks of floats into interleaved integers.

    A sample x becomes `round(x · 2^(bits−1))` (halves to even), at most 2^(bits−1) − 1.
    No dither: integers of the same or a smaller size come back bit for bit.

    Parameters
    ----------
    bits : 16 or 24; 24-bit integers come as int32
    n_channels : channels of every block
    """

    _CHUNK = 1 << 14  # the working memory stays in the cache

    def __init__(self, bits: int, n_channels: int) -> None:
        self._full_scale = np.float32(2 ** (bits - 1))
        self._dtype = np.dtype(np.int16 if bits == 16 else np.int32)
        self._work = np.empty((n_channels, self._CHUNK), np.float32)
        self._integers = np.empty((n_channels, self._CHUNK), self._dtype)

    def convert(self, block: FloatArray) -> NDArray[np.signedinteger]:
        """Convert one block.

        block : ndarray [shape=(channel, time), float32], within ±1

        Returns
        -------
        integers : ndarray [shape=(time, channel), int16 or int32], C order
        """
        n_channels, n = block.shape
        out = np.empty((n, n_channels), self._dtype)
        for start in range(0, n, self._CHUNK):
            part = block[:, start : start + self._CHUNK]
            work = self._work[:, : part.shape[1]]
            np.multiply(part, self._full_scale, out=work)
            np.minimum(work, self._full_scale - 1, out=work)
            np.rint(work, out=work)
            integers = self._integers[:, : part.shape[1]]
            integers[...] = work
            for channel in range(n_channels):
                out[start : start + part.shape[1], channel] = integers[channel]
        return out
