"""Cutting a stream of samples into overlapping segments, and adding such segments up to a stream again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from unbraid.datatypes import FloatArray

__all__ = ["OverlapAdd", "SampleQueue", "SegmentCutter", "crossfade_weights"]


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


class SegmentCutter:
    """Cuts a stream into segments of `segment` samples, one every `stride` samples.

    `lead` zeros are put before the stream; after its end, zeros fill the last segment. Segments are
    cut while any of their first `stride` samples lies before the end, so that every sample is covered
    `segment`/`stride` times (but for the start).
    """

    def __init__(self, n_channels: int, *, segment: int, stride: int, lead: int) -> None:
        self.segment, self.stride = segment, stride
        self._rest = np.zeros((n_channels, lead), np.float32)
        self._blocks: list[FloatArray] = []
        self._n_waiting = lead

    def push(self, block: FloatArray) -> Iterator[FloatArray]:
        """Segments [shape=(channel, segment)] that are complete with this block [shape=(channel, time)]."""
        self._blocks.append(block)
        self._n_waiting += block.shape[-1]
        if self._n_waiting < self.segment:
            return
        waiting = np.concatenate([self._rest, *self._blocks], axis=-1)
        start = 0
        while start + self.segment <= waiting.shape[-1]:
            yield waiting[:, start : start + self.segment]
            start += self.stride
        self._rest, self._blocks = waiting[:, start:].copy(), []
        self._n_waiting = self._rest.shape[-1]

    def flush(self) -> Iterator[FloatArray]:
        """The last segments, filled up with zeros."""
        waiting = np.concatenate([self._rest, *self._blocks], axis=-1)
        for start in range(0, waiting.shape[-1], self.stride):
            out = np.zeros((waiting.shape[0], self.segment), np.float32)
            piece = waiting[:, start : start + self.segment]
            out[:, : piece.shape[-1]] = piece
            yield out


class OverlapAdd:
    """Adds up segments that start `stride` samples apart, and gives out what no later segment can change."""

    def __init__(self, lead: tuple[int, ...], *, segment: int, stride: int) -> None:
        self._stride = stride
        self._tail = np.zeros((*lead, segment - stride), np.float32)

    def add(self, segment: FloatArray) -> FloatArray:
        """The next `stride` finished samples [shape=(…, stride)], given the next segment [shape=(…, segment)].

        The segment is handed over: the result is a part of it, added to in place, as a copy of it would be the
        largest array of a separation.
        """
        segment[..., : self._tail.shape[-1]] += self._tail
        self._tail = segment[..., self._stride :].copy()
        return segment[..., : self._stride]


def crossfade_weights(n_frames: int, stride: int, index: int) -> FloatArray:
    """Weight of each of the `n_frames` frames of segment `index`, when segments start every `stride` frames.

    Triangles over the segments, divided by their sum, so that the weights of all segments over one frame add up to 1:
    segments fade into each other where they overlap and stand alone where they do not. [shape=(frame,), float32]
    """
    ramp = np.minimum(np.arange(n_frames) + 1.0, n_frames - np.arange(n_frames))
    total = np.zeros(n_frames)
    reach = -(-n_frames // stride) - 1
    for other in range(max(-reach, -index), reach + 1):
        shift = other * stride
        inside = slice(max(shift, 0), min(n_frames, n_frames + shift))
        total[inside] += ramp[max(-shift, 0) : max(-shift, 0) + (inside.stop - inside.start)]
    weights: FloatArray = (ramp / total).astype(np.float32)
    return weights
