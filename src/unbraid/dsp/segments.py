"""Cutting a stream of samples into overlapping chunks, and adding such chunks up to a stream again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

from unbraid.datatypes import FloatArray

__all__ = ["OverlapAdd", "SampleQueue", "WindowCutter", "crossfade_weights"]


class SampleQueue:
    """First in, first out, for blocks of shape (…, time) that may be taken out in other lengths.

    lead : array shape before the time axis, e.g. (channel,) or (stem, channel)
    """

    def __init__(self, lead: tuple[int, ...]) -> None:
        self._blocks: deque[FloatArray] = deque()
        self._lead = lead
        self.n_samples = 0

    def push(self, block: FloatArray) -> None:
        """Append a block."""
        if block.shape[-1]:
            self._blocks.append(block)
            self.n_samples += block.shape[-1]

    def pop(self, n: int) -> FloatArray:
        """Remove and return the first `n` samples, [shape=(…, n)]; there must be as many."""
        assert 0 <= n <= self.n_samples, (n, self.n_samples)
        self.n_samples -= n
        if self._blocks and self._blocks[0].shape[-1] == n:
            return self._blocks.popleft()
        out = np.empty((*self._lead, n), np.float32)
        filled = 0
        while filled < n:
            block = self._blocks.popleft()
            take = min(block.shape[-1], n - filled)
            out[..., filled : filled + take] = block[..., :take]
            filled += take
            if take < block.shape[-1]:
                self._blocks.appendleft(block[..., take:])
        return out


class WindowCutter:
    """Cuts a stream into chunks of `segment` samples, one every `stride` samples, each in a window of its surroundings.

    Chunk k starts at sample k·stride − lead of the stream, as if `lead` zeros came first, as long as that lies before
    the stream's end, where the last chunks end early: every sample is in segment/stride chunks, but for the start.

    window : for a chunk of n ≤ `segment` samples, (how many samples before the chunk its window starts, the window's
        length); the window holds the chunk, and that of a whole chunk is the longest. It is filled with the stream's
        own samples on both sides, and with zeros beyond its ends
    """

    def __init__(
        self, n_channels: int, *, segment: int, stride: int, lead: int, window: Callable[[int], tuple[int, int]]
    ) -> None:
        self._segment, self._stride, self._window = segment, stride, window
        self._longest = window(segment)[1]
        self._next, self._next_start = 0, -lead  # the next chunk
        self._held = np.zeros((n_channels, 0), np.float32)
        self._held_start = 0
        self._blocks: list[FloatArray] = []
        self._n_in = 0

    def push(self, block: FloatArray) -> Iterator[tuple[int, int, FloatArray]]:
        """Chunks whose windows are complete with this block [shape=(channel, time)].

        Yields (k, n, window [shape=(channel, its length), float32]), the window for the receiver to keep.
        """
        before, length = self._window(self._segment)
        ahead = max(self._segment, length - before)
        for start in range(0, block.shape[-1], self._segment):  # views: a long block is never copied as a whole
            piece = block[:, start : start + self._segment]
            self._blocks.append(piece)
            self._n_in += piece.shape[-1]
            while self._next_start + ahead <= self._n_in:
                yield self._cut(self._segment)

    def flush(self) -> Iterator[tuple[int, int, FloatArray]]:
        """The last chunks, as `push` gives them."""
        while self._next_start < self._n_in:
            yield self._cut(min(self._segment, self._n_in - self._next_start))

    def _cut(self, n: int) -> tuple[int, int, FloatArray]:
        """The next chunk, which has `n` samples."""
        if self._blocks:
            # No later window starts earlier than that: it holds its chunk and is no longer than the longest.
            n_old = min(max(self._next_start - self._longest - self._held_start, 0), self._held.shape[-1])
            self._held = np.concatenate([self._held[:, n_old:], *self._blocks], axis=-1)
            self._held_start, self._blocks = self._held_start + n_old, []
        before, length = self._window(n)
        first = self._next_start - before
        assert 0 <= before <= length - n, (before, length, n)
        assert length <= self._longest, (length, self._longest)
        out = np.zeros((len(self._held), length), np.float32)
        low, high = max(first, 0), min(first + length, self._n_in)
        if low < high:
            out[:, low - first : high - first] = self._held[:, low - self._held_start : high - self._held_start]
        chunk = self._next, n, out
        self._next, self._next_start = self._next + 1, self._next_start + self._stride
        return chunk


class OverlapAdd:
    """Adds up chunks that start `stride` samples apart, and gives out what no later chunk can change."""

    def __init__(self, lead: tuple[int, ...], *, segment: int, stride: int) -> None:
        self._stride = stride
        self._tail = np.zeros((*lead, segment - stride), np.float32)

    def add(self, chunk: FloatArray) -> FloatArray:
        """The next finished samples [shape=(…, min(stride, n))], given the next chunk [shape=(…, n)].

        A chunk of n < segment samples ends where the stream ends, as `WindowCutter` gives them: the results are
        together as long as the stream. The chunk is handed over: the result is a part of it, added to in place, as a
        copy of it would be the largest array of a separation.
        """
        n_tail = min(self._tail.shape[-1], chunk.shape[-1])
        chunk[..., :n_tail] += self._tail[..., :n_tail]
        self._tail = chunk[..., self._stride :].copy()
        return chunk[..., : self._stride]


def crossfade_weights(n: int, stride: int, index: int, *, power: float = 1.0) -> FloatArray:
    """Weight of each of the `n` places (frames or samples) of chunk `index`, when chunks start every `stride` places.

    Triangles 1, 2, … 2, 1 over the chunks to a power, divided by their sum, so that the weights of all chunks over one
    place add up to 1: chunks fade into each other where they overlap and stand alone where they do not. Of a chunk that
    the end of the stream cuts short, the first weights hold. [shape=(n,), float32], read-only
    """
    reach = -(-n // stride) - 1
    return _weights(n, stride, min(index, reach), reach, power)


@lru_cache(maxsize=8)  # chunks of samples are long; all but the first `reach` have the same weights
def _weights(n: int, stride: int, n_before: int, n_after: int, power: float) -> FloatArray:
    """`crossfade_weights` of a chunk that so many chunks before and after it overlap."""
    ramp = np.minimum(np.arange(n) + 1.0, n - np.arange(n))
    peak, total = ramp.copy(), np.zeros(n)
    shifts = [k * stride for k in range(-n_before, n_after + 1)]
    for shift in shifts:
        here, there = slice(max(shift, 0), n + min(shift, 0)), slice(max(-shift, 0), n - max(shift, 0))
        np.maximum(peak[here], ramp[there], out=peak[here])
    # Divided by a power of two near the place's highest triangle, powers neither overflow nor vanish together.
    exponent = -np.frexp(peak)[1]
    for shift in shifts:
        here, there = slice(max(shift, 0), n + min(shift, 0)), slice(max(-shift, 0), n - max(shift, 0))
        total[here] += np.ldexp(ramp[there], exponent[here]) ** power
    weights: FloatArray = (np.ldexp(ramp, exponent) ** power / total).astype(np.float32)
    weights.flags.writeable = False
    return weights
