"""Integers and floats: full scale is ±1 on our side, ±2^(bits−1) in the file; nearest value, no dither."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unbraid.datatypes import FloatArray

__all__ = ["IntegerConverter", "count_beyond_full_scale"]


def count_beyond_full_scale(block: FloatArray) -> int:
    """How many samples lie beyond ±1; NaN counts too."""
    if block.size == 0 or (block.max() <= 1.0 and block.min() >= -1.0):
        return 0
    return int(block.size - np.count_nonzero(np.abs(block) <= 1.0))


class IntegerConverter:
    """Turns blocks of floats into interleaved integers, counting what had to be clipped.

    A sample x becomes `round(x · 2^(bits−1))` (halves to even), limited to −2^(bits−1) … 2^(bits−1) − 1.
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
        self.n_clipped = 0

    def convert(self, block: FloatArray) -> NDArray[np.signedinteger]:
        """Convert one block.

        block : ndarray [shape=(channel, time), float32], finite

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
            top, bottom = work.max(), work.min()
            if top > self._full_scale - 1 or bottom < -self._full_scale:
                self.n_clipped += count_beyond_full_scale(part)
                np.clip(work, -self._full_scale, self._full_scale - 1, out=work)
            np.rint(work, out=work)
            for channel in range(n_channels):
                out[start : start + part.shape[1], channel] = work[channel]
        return out
