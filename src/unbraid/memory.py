"""Freed memory is kept for the next arrays: a program that is given it anew each time waits while it is cleared."""

from __future__ import annotations

import contextlib
import sys
from typing import Final

__all__ = ["keep_memory"]

# Of glibc's malloc.h: what `mallopt` is to change.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_MMAP_MAX: Final = -4
_ARENA_MAX: Final = -8

_LARGEST: Final = 2**31 - 1
_LARGEST_THRESHOLD: Final = 32 << 20  # that glibc takes


def keep_memory(*, of_any_size: bool = False) -> None:
    """Have arrays taken from the memory that this process has, where its allocator is glibc's; elsewhere do nothing.

    Separation and training make and drop the same arrays over and over. By default glibc takes those of some size from
    the system each time, which fills them with zeros, page by page: a third of the time of a light network, and nearly
    half of a step of training. All threads share one heap, so that each does not keep its own. This holds for the whole
    process, so it is for commands to decide, not for a library.

    of_any_size : also keep what arrays over 32 MB leave; otherwise they go back at once
    """
    if sys.platform != "linux":
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # another C library
        change = ctypes.CDLL(None).mallopt
        change(_TRIM_THRESHOLD, _LARGEST)
        change(_ARENA_MAX, 1)
        if of_any_size:
            change(_MMAP_MAX, 0)
        else:
            change(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
