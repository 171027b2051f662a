"""Runs of several threads become batches, each thread gets its own result, and a full memory makes batches smaller."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from unbraid.engines.batching import Batches

N_THREADS = 8


class Squares:
    """A network: squares of its first input plus its second. Its first run waits until the others have come."""

    def __init__(self, fits: int = 100) -> None:
        self.fits, self.sizes = fits, []
        self.may_go_on = threading.Event()

    def __call__(self, inputs):
        self.sizes.append(len(inputs[0]))
        if len(self.sizes) == 1:
            assert self.may_go_on.wait(10)
        if len(inputs[0]) > self.fits:
            raise MemoryError
        return (inputs[0] ** 2 + inputs[1],)


def results(network: Squares, batches: Batches, shapes: list[tuple[int, ...]]) -> None:
    """Run everything from as many threads, and check each result."""
    rng = np.random.default_rng(0)
    items = [tuple(rng.normal(size=(1, *shape)).astype(np.float32) for _ in range(2)) for shape in shapes]
    with ThreadPoolExecutor(len(items)) as pool:
        futures = [pool.submit(batches.run, item) for item in items]
        while len(batches._waiting) < len(items) - 1:
            pass
        network.may_go_on.set()
        for (a, b), future in zip(items, futures, strict=True):
            (found,) = future.result(timeout=10)
            np.testing.assert_array_equal(found, a**2 + b)


def test_what_waits_becomes_one_batch() -> None:
    network = Squares()
    results(network, Batches(network, 4), [(3, 5)] * N_THREADS)
    assert network.sizes == [1, 4, 3]


def test_only_inputs_of_one_shape_are_joined() -> None:
    network = Squares()
    results(network, Batches(network, 8), [(3, 5), (4, 5)] * 4)
    assert network.sizes[0] == 1
    assert sorted(network.sizes[1:]) == [3, 4]


def test_a_full_memory_halves_the_batches_for_good() -> None:
    network = Squares(fits=2)
    batches = Batches(network, 8)
    results(network, batches, [(3, 5)] * N_THREADS)
    assert network.sizes[:3] == [1, 7, 3]
    assert max(network.sizes[3:]) <= 2
    results(network, batches, [(3, 5)] * 1)
    assert batches._largest <= 2


def test_a_single_item_that_does_not_fit_is_an_error() -> None:
    network = Squares(fits=0)
    network.may_go_on.set()
    with pytest.raises(MemoryError):
        Batches(network, 4).run((np.ones((1, 2)), np.ones((1, 2))))


def test_a_failure_reaches_everyone_of_its_batch_and_nobody_after() -> None:
    failing = threading.Event()
    failing.set()

    def network(inputs):
        if failing.is_set():
            raise ValueError("broken")
        return inputs

    batches = Batches(network, 4)
    with pytest.raises(ValueError, match="broken"):
        batches.run((np.ones((1, 2)),))
    failing.clear()
    assert batches.run((np.ones((1, 2)),))[0].shape == (1, 2)
