"""Examples: parts of tracks, drawn at random, in batches that depend on nothing but the seed and the step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from unbraid.datatypes import FloatArray

__all__ = ["Drawable", "Examples", "Readable", "Transform", "batches"]

Transform = Callable[[FloatArray, list[np.random.Generator]], FloatArray]


class Readable(Protocol):
    """Something that examples are cut from; outside it there is silence."""

    @property
    def n_samples(self) -> int:
        """Its length."""

    def read(self, start: int, stop: int) -> FloatArray:
        """Samples [shape=(row, channel, stop - start), float32]."""


class Drawable(Protocol):
    """Something that examples are drawn from."""

    def draw(self, rng: np.random.Generator, size: int, /) -> FloatArray:
        """Draw one [shape=(row, channel, size, …), float32]; it depends on the generator alone."""


class Examples:
    """Draws parts of tracks: each possible part is as likely as any other."""

    def __init__(self, tracks: Sequence[Readable]) -> None:
        self._tracks = tracks
        self._lengths = np.array([track.n_samples for track in tracks])

    def draw(self, rng: np.random.Generator, n_samples: int) -> FloatArray:
        """Draw a part [shape=(row, channel, n_samples), float32]; a shorter track is followed by silence."""
        n_starts = np.maximum(self._lengths - n_samples, 0) + 1
        start = int(rng.integers(n_starts.sum()))
        ends = np.cumsum(n_starts)
        index = int(np.searchsorted(ends, start, side="right"))
        start -= int(ends[index] - n_starts[index])
        return self._tracks[index].read(start, start + n_samples)


def batches(
    examples: Drawable,
    *,
    batch_size: int,
    n_samples: int,
    seed: int,
    first_step: int,
    rank: int = 0,
    world_size: int = 1,
    transform: Transform | None = None,
    n_workers: int = 2,
) -> Iterator[FloatArray]:
    """Make batches [shape=(batch_size, row, channel, n_samples), float32] for ever, from `first_step` on.

    Parameters
    ----------
    examples : Drawable
        Where from: `Examples`, or spectrograms.
    batch_size : int
        For this process; all `world_size` of them share a batch of so many times as much.
    n_samples : int
        Of an example, before `transform`; frames, where it is a spectrogram.
    seed : int
        With step and number in the whole batch, it decides what an example is, and what `transform` does to it.
    first_step : int
        Where to begin.
    rank, world_size : int
        Which process this is, and of how many.
    transform : callable, optional
        From a batch and a generator for each example to another batch.
    n_workers : int
        Threads that work ahead, a batch each; 0 for none.
    """

    def batch(step: int) -> FloatArray:
        numbers = range(rank * batch_size, (rank + 1) * batch_size)
        rngs = [np.random.default_rng([seed, step, number]) for number in numbers]
        drawn = np.stack([examples.draw(rng, n_samples) for rng in rngs])
        return drawn if transform is None else transform(drawn, rngs)

    if n_workers == 0:
        step = first_step
        while True:
            yield batch(step)
            step += 1
    # Threads: NumPy and SciPy release the interpreter's lock in what takes the time, and nothing is sent. Four examples
    # of 4 s and four stems, two workers, both cores busy with a training: 16 ms a batch by threads and 59 ms by
    # processes as they are drawn; with an equaliser on every stem 136 to 207 and 172 to 175 ms.
    with ThreadPoolExecutor(n_workers, "unbraid-examples") as pool:
        upcoming: deque[Future[FloatArray]] = deque()
        step = first_step
        try:
            while True:
                while len(upcoming) <= n_workers:
                    upcoming.append(pool.submit(batch, step))
                    step += 1
                yield upcoming.popleft().result()
        finally:
            for future in upcoming:
                future.cancel()
