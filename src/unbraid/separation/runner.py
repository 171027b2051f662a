"""A member's network, loaded into an engine for full windows, and for others when they come."""

from __future__ import annotations

import threading
from collections.abc import Callable

from unbraid.datatypes import FloatArray, Network
from unbraid.engines.select import Engine

__all__ = ["NetworkRunner"]


class NetworkRunner:
    """Runs a network on windows of any length.

    Compiled networks have fixed shapes. Nearly all windows are alike; the last ones of a track may be shorter, where a
    family does not fill them up, and need the network once more, for their length.

    network : it, for windows of so many samples
    n_samples : of a full window, for which it is loaded at once
    load : loads it into an engine; told whether that is worth being kept on disk
    """

    def __init__(
        self, network: Callable[[int], Network], n_samples: int, load: Callable[[Network, bool], Engine]
    ) -> None:
        self._network, self._load, self._n_samples = network, load, n_samples
        full = network(n_samples)
        self.fingerprint = full.fingerprint
        self.engine = load(full, True)
        self._other: tuple[int, Engine] | None = None
        self._lock = threading.Lock()

    @property
    def n_streams(self) -> int:
        """How many calls of `run` may usefully go on at once."""
        return self.engine.n_streams

    def run(self, inputs: tuple[FloatArray, ...], n_samples: int) -> tuple[FloatArray, ...]:
        """Run the network on a window of so many samples."""
        if n_samples == self._n_samples or self.engine.any_shape:
            return self.engine.run(inputs)
        with self._lock:  # loaded by one thread, and run by one: it is only a track's end
            if self._other is None or self._other[0] != n_samples:
                if self._other is not None:
                    self._other[1].close()
                self._other = (n_samples, self._load(self._network(n_samples), False))
            return self._other[1].run(inputs)

    def close(self) -> None:
        """Release the memory."""
        self.engine.close()
        if self._other is not None:
            self._other[1].close()
