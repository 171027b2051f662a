"""Downloads on the disk: what has come so far, and the lock that lets one process at a time work on a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from unbraid.errors import ModelError

__all__ = ["Part", "locked", "sync_folder", "writing"]

_POLL_S = 0.25


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise a ModelError about this file or folder in place of an error of the system."""
    try:
        yield
    except (OSError, NotImplementedError) as error:  # the latter from locks
        reason = getattr(error, "strerror", None) or error
        raise ModelError(
            f"cannot write {str(path)!r}: {reason}; make room or give yourself the right to, or set UNBRAID_HOME to "
            "another folder"
        ) from error


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock of a file, which is `NAME.lock` beside it; the system lets go of it when a process dies.

    waiting : called now and then while another process holds the lock; what it raises ends the waiting

    Raises
    ------
    ModelError : the folder cannot be written
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f"{path.name}.lock"))
    while True:
        with writing(path.parent), suppress(Timeout):
            lock.acquire(timeout=_POLL_S)
            break
        if waiting is not None:
            waiting()
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Part:
    """The first bytes of a download, at `path`, and beside them, in `NAME.json`, where they came from.

    The note holds the address (without a password) and what its server calls this version of the file.
    """

    path: Path

    def length(self) -> int:
        """How many bytes there are."""
        try:
            return self.path.stat().st_size
        except OSError:  # none yet
            return 0

    def origin(self) -> tuple[str, str]:
        """The address that the bytes came from and the name of the version, "" where they are not known."""
        try:
            note = json.loads(self._note.read_text("utf-8"))
            address, version = note["address"], note["version"]
        except (OSError, ValueError, KeyError, TypeError):  # a note that was not completed is as good as none
            return "", ""
        return str(address), str(version)

    def begin(self, address: str, version: str) -> None:
        """Throw away what is there, and note where the new bytes come from."""
        with writing(self.path):
            # In this order, so that at no moment old bytes have a new note.
            self.path.write_bytes(b"")
            self._note.write_text(json.dumps({"address": address, "version": version}), "utf-8")

    @contextmanager
    def opened(self) -> Iterator[Callable[[bytes], None]]:
        """Gives a function that appends bytes; each call leaves them with the system, so that a kill loses nothing.

        When writing fails, what has come is removed: on a full disk, it would be in everybody's way.
        """
        with writing(self.path):
            file = open(self.path, "ab", buffering=0)  # noqa: SIM115

        def write(data: bytes) -> None:
            with writing(self.path):
                try:
                    rest = memoryview(data)
                    while rest:
                        rest = rest[file.write(rest) :]
                except OSError:
                    file.close()
                    self.drop()
                    raise

        try:
            yield write
        finally:
            with writing(self.path):
                file.close()

    def drop(self) -> None:
        """Remove it all."""
        for path in (self.path, self._note):
            with writing(path):
                path.unlink(missing_ok=True)

    def put(self, path: Path) -> None:
        """Give the complete bytes their final name, in one step and for good."""
        with writing(path):
            with self.path.open("r+b") as file:
                os.fsync(file.fileno())
            # First, so that no note stays behind; without it, complete bytes are still recognised by their hash.
            self._note.unlink(missing_ok=True)
            os.replace(self.path, path)
            sync_folder(path.parent)

    @property
    def _note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")


def sync_folder(folder: Path) -> None:
    """Have the names in a folder written to the disk, on systems and file systems that know how."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
