"""Several threads' runs of a network as one run of a batch, which is what keeps a GPU busy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeAlias

import numpy as np

from unbraid.datatypes import FloatArray

__all__ = ["Batches"]

Arrays: TypeAlias = tuple[FloatArray, ...]


class Batches:
    """Gathers what waits while a batch runs into the next one.

    A thread that comes while nothing runs does so at once, for itself and for those that come in the meantime: nobody
    ever waits for a batch to fill up.

    run : runs the network on inputs of shape (batch, …)
    largest : items in a batch; halved for good whenever `run` raises MemoryError
    """

    def __init__(self, run: Callable[[Arrays], Arrays], largest: int) -> None:
        self._run, self._largest = run, largest
        self._waiting: list[tuple[Arrays, Future[Arrays]]] = []
        self._lock = threading.Lock()
        self._is_running = False

    def run(self, inputs: Arrays) -> Arrays:
        """Run the network on one item, inputs of shape (1, …); what `run` raises is raised for all of its batch."""
        result: Future[Arrays] = Future()
        with self._lock:
            self._waiting.append((inputs, result))
            is_leader, self._is_running = not self._is_running, True
        while is_leader:
            with self._lock:
                batch = self._take()
                if not batch:
                    self._is_running = False
                    break
            self._complete(batch)
        return result.result()

    def _take(self) -> list[tuple[Arrays, Future[Arrays]]]:
        """The next items to run: as many of the first one's shapes as a batch may have."""
        if not self._waiting:
            return []
        shapes = [array.shape for array in self._waiting[0][0]]
        alike = [item for item in self._waiting if [array.shape for array in item[0]] == shapes][: self._largest]
        self._waiting = [item for item in self._waiting if all(item is not one for one in alike)]
        return alike

    def _complete(self, batch: list[tuple[Arrays, Future[Arrays]]]) -> None:
        """Run a batch and hand out its results."""
        try:
            inputs = [inputs for inputs, _ in batch]
            outputs = self._run(inputs[0] if len(batch) == 1 else tuple(map(np.concatenate, zip(*inputs, strict=True))))
            for i, (_, result) in enumerate(batch):
                result.set_result(tuple(output[i : i + 1] for output in outputs))
        except MemoryError as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            with self._lock:
                self._largest = max(1, len(batch) // 2)
                self._waiting = batch + self._waiting
        except BaseException as error:
            for _, result in batch:
                result.set_exception(error)
