"""Threads whose work an interrupt stops at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

__all__ = ["in_threads"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# A thread that waits for a lock without a limit does not see an interrupt on Windows, nor, elsewhere, one that another
# thread of the process was given or that comes just before the wait begins.
_LOOK_EVERY_S = 0.2


def in_threads(
    do: Callable[[_Item], _Result], items: Iterable[_Item], n_threads: int, *, name: str, stop: threading.Event
) -> list[_Result]:
    """Do the same with each item, `n_threads` at a time; sets `stop` if one fails or the user interrupts."""
    with ThreadPoolExecutor(n_threads, name) as pool:
        try:
            futures = [pool.submit(do, item) for item in items]
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, timeout=_LOOK_EVERY_S, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()  # raises what its item did
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            raise
