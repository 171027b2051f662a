"""What can go wrong, as one tree.

::

    UnbraidError                exit code 1
    ├── AudioError              a file cannot be read, decoded or written
    ├── UsageError              an option or argument makes no sense           exit code 2
    ├── ModelError              a model, its configuration or its weights      exit code 3
    ├── DatasetError            music with stems is not there, or not as told  exit code 3
    ├── EngineError             the program that runs networks
    └── CancelledError          a progress callback asked to stop              exit code 130

A message is one line: what we were doing, to which file, and what to do next.
Errors of other libraries are translated where they enter (``raise … from``).
"""

from __future__ import annotations

__all__ = ["AudioError", "CancelledError", "DatasetError", "EngineError", "ModelError", "UnbraidError", "UsageError"]


class UnbraidError(Exception):
    """Any failure that Unbraid foresees; its text is one line for the user."""

    exit_code = 1


class AudioError(UnbraidError):
    """An audio file cannot be read, decoded or written."""


class UsageError(UnbraidError, ValueError):
    """An option or an argument makes no sense; nothing was done."""

    exit_code = 2


class ModelError(UnbraidError):
    """A model is unknown, or its configuration or weights are missing or damaged."""

    exit_code = 3


class DatasetError(UnbraidError):
    """A dataset is missing, empty, or not laid out as it should be."""

    exit_code = 3


class EngineError(UnbraidError):
    """The program that runs networks is missing, or failed."""


class CancelledError(UnbraidError):
    """A progress callback asked to stop."""

    exit_code = 130
