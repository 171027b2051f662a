"""Sample rates: soxr, as a stream without seams or for a whole array."""

from __future__ import annotations

import numpy as np
import soxr

from unbraid.datatypes import FloatArray

__all__ = ["StreamResampler", "resample", "resampled_length"]

_QUALITY = "VHQ"


def resampled_length(n_samples: int, from_hz: int, to_hz: int) -> int:
    """Length after resampling: `round(n_samples · to_hz / from_hz)`, halves upwards, and never 0 of something."""
    return max((2 * n_samples * to_hz + from_hz) // (2 * from_hz), min(n_samples, 1))


class StreamResampler:
    """Resamples block by block, exactly as if all were one array.

    The filter's delay is compensated; `push` may return fewer samples than the ratio says (they come later), and
    after `flush` the total is `resampled_length(n, from_hz, to_hz)`. With equal rates blocks pass through untouched.

    Parameters
    ----------
    from_hz, to_hz : sample rates
    n_channels : channels of every block
    """

    def __init__(self, from_hz: int, to_hz: int, n_channels: int) -> None:
        self._from_hz = from_hz
        self._to_hz = to_hz
        self._n_channels = n_channels
        self._n_in = 0
        self._n_out = 0
        self._soxr = (
            None
            if from_hz == to_hz
            else soxr.ResampleStream(from_hz, to_hz, n_channels, dtype="float32", quality=_QUALITY)
        )

    def push(self, block: FloatArray) -> FloatArray:
        """Take the next block in, give what is ready out.

        block : ndarray [shape=(channel, time), float32]; a shape of (channel, 0) is allowed
        """
        if self._soxr is None:
            return block
        self._n_in += block.shape[1]
        return self._chunk(block, last=False)

    def flush(self) -> FloatArray:
        """Give out the rest; the resampler cannot be used again."""
        if self._soxr is None:
            return np.zeros((self._n_channels, 0), np.float32)
        already = self._n_out
        rest = self._chunk(np.zeros((self._n_channels, 0), np.float32), last=True)
        missing = resampled_length(self._n_in, self._from_hz, self._to_hz) - already
        if missing <= rest.shape[1]:
            return rest[:, :missing]
        return np.pad(rest, ((0, 0), (0, missing - rest.shape[1])))

    def _chunk(self, block: FloatArray, *, last: bool) -> FloatArray:
        assert self._soxr is not None
        out = self._soxr.resample_chunk(np.ascontiguousarray(block.T), last=last)
        self._n_out += len(out)
        return np.ascontiguousarray(out.T)


def resample(samples: FloatArray, from_hz: int, to_hz: int) -> FloatArray:
    """Resample a whole array.

    Parameters
    ----------
    samples : ndarray
        [shape=(channel, time), float32]
    from_hz : int
        Rate of the samples.
    to_hz : int
        Rate wanted.

    Returns
    -------
    resampled : ndarray [shape=(channel, resampled_length(time, from_hz, to_hz)), float32]
        A copy where the rates are equal.
    """
    if from_hz == to_hz:
        return samples.copy()
    stream = StreamResampler(from_hz, to_hz, samples.shape[0])
    return np.concatenate([stream.push(samples), stream.flush()], axis=1)
