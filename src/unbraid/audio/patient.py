"""A file for libraries that call back from C, where an exception would be printed and lost."""

from __future__ import annotations

from typing import BinaryIO

__all__ = ["PatientFile"]


class PatientFile:
    """Takes everything that is written, and tells later, by `check`, what went wrong first (a full disk, Ctrl-C, …).

    Parameters
    ----------
    file : binary, readable, writable, seekable
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._error: BaseException | None = None

    def write(self, data: bytes) -> int:
        """Write all of it, unless something went wrong before."""
        try:
            if self._error is None:
                self._file.write(data)
        except BaseException as error:
            self._error = error
        return len(data)

    def read(self, n_bytes: int = -1) -> bytes:
        """Read what was written."""
        return self._file.read(n_bytes)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to another place."""
        try:
            if self._error is None:
                return self._file.seek(offset, whence)
        except BaseException as error:
            self._error = error
        return offset

    def tell(self) -> int:
        """Where we are."""
        return 0 if self._error else self._file.tell()

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self._error is not None:
            raise self._error
