"""The signals of a track, decoded once and kept in a temporary file, to be read in any order, as often as needed."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np

from unbraid.datatypes import FloatArray
from unbraid.errors import UnbraidError

__all__ = ["Spool"]

_CHUNK = 1 << 16  # samples of each signal that lie together


class Spool:
    """Some signals of one length, on disk; use it as a context manager. The system deletes the file, even if we die.

    folder : where the file is made: 4 bytes a sample and signal, 1 GB for ten minutes of four stereo stems and the mix
    n_signals : how many

    Raises
    ------
    UnbraidError : the file cannot be made, or, later, written or read
    """

    def __init__(self, folder: Path, n_signals: int) -> None:
        self._folder = folder
        self._n_signals = n_signals
        self._tail = np.zeros((n_signals, 0), np.float32)
        self.n_samples = 0
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed by __exit__)
        except OSError as error:
            raise self._failed("make", error) from error

    def append(self, block: FloatArray) -> None:
        """Add the next samples [shape=(signal, time), float32]."""
        self.n_samples += block.shape[1]
        tail = np.concatenate([self._tail, block], axis=1) if self._tail.shape[1] else block
        try:
            if tail.shape[1] >= _CHUNK:
                self._file.seek(0, os.SEEK_END)
            while tail.shape[1] >= _CHUNK:
                self._file.write(np.ascontiguousarray(tail[:, :_CHUNK]).data)
                tail = tail[:, _CHUNK:]
        except OSError as error:
            raise self._failed("write", error) from error
        self._tail = tail.copy()

    def read(self, start: int, stop: int) -> FloatArray:
        """The samples from `start` to `stop` [shape=(signal, stop − start), float32]."""
        assert 0 <= start <= stop <= self.n_samples, (start, stop, self.n_samples)
        out = np.empty((self._n_signals, stop - start), np.float32)
        n_full = self.n_samples // _CHUNK
        for chunk in range(start // _CHUNK, -(-stop // _CHUNK)):
            first = chunk * _CHUNK
            here = self._chunk(chunk) if chunk < n_full else self._tail
            part = here[:, max(start - first, 0) : stop - first]
            at = max(first - start, 0)
            out[:, at : at + part.shape[1]] = part
        return out

    def _chunk(self, index: int) -> FloatArray:
        n_bytes = self._n_signals * _CHUNK * 4
        try:
            self._file.flush()
            self._file.seek(index * n_bytes)
            data = self._file.read(n_bytes)
        except OSError as error:
            raise self._failed("read", error) from error
        return np.frombuffer(data, np.float32).reshape(self._n_signals, _CHUNK)

    def _failed(self, what: str, error: OSError) -> UnbraidError:
        reason = error.strerror or error
        return UnbraidError(
            f"cannot {what} a temporary file in {str(self._folder)!r}: {reason}; choose another output folder"
        )

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what a full disk did not take is of no use now
            self._file.close()
