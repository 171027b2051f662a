"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from unbraid.audio.write import leftovers
from unbraid.errors import UnbraidError

__all__ = ["write_whole"]


def write_whole(path: Path, text: str, what: str) -> None:
    """Write a text in UTF-8 under a temporary name, which then becomes the final one; folders are made as needed.

    Temporary files that a killed run has left of the same name are removed.

    what : of the file, for the message

    Raises
    ------
    UnbraidError : it cannot be written; nothing is left
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in leftovers(path):
            with suppress(OSError):  # another run was quicker
                stale.unlink()
        with temporary.open("x", encoding="utf-8", newline="") as file:
            _lock(file)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise UnbraidError(f"cannot write the {what} {str(path)!r}: {reason}; choose another output folder") from error
    finally:
        with suppress(OSError):  # it has its final name, or was never made
            temporary.unlink()


def _lock(file: TextIO) -> None:
    """Mark a file as being written, as `leftovers` understands it; Windows removes no open file anyway."""
    if sys.platform != "win32":
        import fcntl

        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
