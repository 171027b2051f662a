"""Freed memory goes back to the system at once."""

from __future__ import annotations

import contextlib
import sys
from typing import Final

__all__ = ["return_large_arrays"]

_M_MMAP_THRESHOLD: Final = -3  # of malloc.h
_LARGE: Final = 1 << 20  # bytes


def return_large_arrays() -> None:
    """Have glibc give large arrays back as soon as they are freed; nothing happens on other systems.

    Otherwise it learns to keep what is freed often, up to 32 MB each, in a heap for every thread: 100 MB more at the
    peak of a separation by HT Demucs, for no time that could be measured.
    """
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
