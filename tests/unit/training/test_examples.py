"""What an example is depends on the seed, the step and its number alone."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest

from unbraid.datatypes import FloatArray
from unbraid.training.examples import Examples, batches

N = 50


@dataclass(frozen=True)
class Ramp:
    """A track whose samples tell where they are: its own number, and the place in it."""

    number: int
    n_samples: int

    def read(self, start: int, stop: int) -> FloatArray:
        place = np.arange(start, stop)
        ramp = np.where((place >= 0) & (place < self.n_samples), place + 1, 0)
        return np.stack([self.number * ramp, ramp]).astype(np.float32)[:, np.newaxis]


def of_lengths(*lengths: int) -> Examples:
    return Examples([Ramp(number, length) for number, length in enumerate(lengths, 1)])


def drawn(examples: Examples, n_draws: int, n_samples: int = N) -> list[tuple[int, int]]:
    """Track and start of examples."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(n_draws):
        example = examples.draw(rng, n_samples)
        assert example.shape == (2, 1, n_samples)
        found.append((round(example[0, 0, 0] / example[1, 0, 0]), int(example[1, 0, 0]) - 1))
    return found


def test_every_possible_start_is_as_likely_as_any_other() -> None:
    lengths = (N + 9, N + 29, N)  # 10, 30 and 1 starts
    found = drawn(of_lengths(*lengths), 41 * 400)
    counts = {(number, start): 0 for number, length in enumerate(lengths, 1) for start in range(length - N + 1)}
    for one in found:
        counts[one] += 1  # a start that is not possible is a KeyError
    observed = np.array(list(counts.values()))
    chi_square = float(((observed - 400) ** 2 / 400).sum())
    assert chi_square < 40 + 5 * np.sqrt(2 * 40)  # mean and deviation for 40 degrees of freedom


def test_a_short_track_is_followed_by_silence() -> None:
    example = of_lengths(20).draw(np.random.default_rng(0), N)
    np.testing.assert_array_equal(example[1, 0], [*range(1, 21), *[0] * (N - 20)])


def test_a_short_track_is_drawn_as_if_it_had_one_start() -> None:
    numbers = [number for number, _ in drawn(of_lengths(20, N + 2), 4000)]
    assert abs(numbers.count(1) / 4000 - 1 / 4) < 0.03


EXAMPLES = of_lengths(200, 90, 20, 3000)


def noisy(batch: FloatArray, rngs: list[np.random.Generator]) -> FloatArray:
    """An augmentation that draws from every example's own generator."""
    return np.stack(
        [one + rng.uniform(size=one.shape).astype(np.float32) for one, rng in zip(batch, rngs, strict=True)]
    )


def some(n: int, **options: int) -> list[FloatArray]:
    settings = {"batch_size": 4, "seed": 3, "first_step": 0, "n_workers": 0}
    steps = batches(EXAMPLES, n_samples=N, transform=noisy, **settings | options)  # type: ignore[arg-type]
    found = list(islice(steps, n))
    steps.close()  # type: ignore[attr-defined]
    return found


def check_same(one: Sequence[FloatArray], other: Sequence[FloatArray]) -> None:
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_batch_is_its_examples_drawn_with_their_generators() -> None:
    for step, batch in enumerate(some(3)):
        rngs = [np.random.default_rng([3, step, i]) for i in range(4)]
        check_same([batch], [noisy(np.stack([EXAMPLES.draw(rng, N) for rng in rngs]), rngs)])


def test_seeds_and_steps_differ() -> None:
    first, second = some(2)
    (other,) = some(1, seed=4)
    assert not np.array_equal(first, second) and not np.array_equal(first, other)
    assert len({example.tobytes() for example in (*first, *second, *other)}) == 12


@pytest.mark.parametrize("n_workers", [1, 2, 5])
def test_workers_change_nothing(n_workers: int) -> None:
    check_same(some(12, n_workers=n_workers), some(12))


@pytest.mark.parametrize("n_workers", [0, 2])
def test_beginning_later_goes_on_as_if_uninterrupted(n_workers: int) -> None:
    check_same(some(4, first_step=5, n_workers=n_workers), some(9)[5:])


def test_two_processes_share_the_batch_of_one() -> None:
    halves = [some(5, rank=rank, world_size=2, batch_size=2) for rank in (0, 1)]
    check_same([np.concatenate(pair) for pair in zip(*halves, strict=True)], some(5))


def workers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "unbraid-examples" in thread.name}


def test_closing_ends_the_threads() -> None:
    steps = batches(EXAMPLES, batch_size=2, n_samples=N, seed=0, first_step=0, n_workers=2)
    next(steps)
    assert workers()
    steps.close()  # type: ignore[attr-defined]
    assert not workers()


def test_forgetting_it_ends_the_threads_too() -> None:
    steps: Iterator[FloatArray] = batches(EXAMPLES, batch_size=2, n_samples=N, seed=0, first_step=0, n_workers=2)
    next(steps)
    del steps
    assert not workers()


@pytest.mark.parametrize("n_workers", [0, 2])
def test_an_error_surfaces_at_its_step_and_ends_the_threads(n_workers: int) -> None:
    n_made = 0

    def failing(batch: FloatArray, rngs: list[np.random.Generator]) -> FloatArray:
        if (batch == np.stack([EXAMPLES.draw(np.random.default_rng([0, 2, i]), N) for i in range(2)])).all():
            raise OSError("the disk is gone")
        return batch

    steps = batches(EXAMPLES, batch_size=2, n_samples=N, seed=0, first_step=0, transform=failing, n_workers=n_workers)
    with pytest.raises(OSError, match="the disk is gone"):
        for _ in steps:
            n_made += 1
    assert n_made == 2 and not workers()


def test_no_more_than_a_few_batches_are_made_ahead() -> None:
    made: list[int] = []
    lock = threading.Lock()

    def counting(batch: FloatArray, rngs: list[np.random.Generator]) -> FloatArray:
        with lock:
            made.append(1)
        return batch

    steps = batches(EXAMPLES, batch_size=1, n_samples=N, seed=0, first_step=0, transform=counting, n_workers=2)
    for _ in range(5):
        next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert 5 <= len(made) <= 5 + 3


def test_an_endless_stream_does_not_repeat_itself() -> None:
    found = {batch.tobytes() for batch in some(40, batch_size=1)}
    assert len(found) == 40
