"""Downloads: a file of the catalogue becomes a verified file in a folder, once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FetchProgress", "Fetched", "RemoteFile", "fetch"]


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be downloaded.

    name : of the file in the folder of downloads
    addresses : where it is published, the best first
    size : in bytes, None where nobody says
    sha256 : all 64 hex digits, None where nobody publishes them
    sha256_prefix : the first hex digits, where only they are published
    """

    name: str
    addresses: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None


@dataclass(frozen=True)
class FetchProgress:
    """How many bytes of a file are there, of `total` (None while the size is unknown)."""

    name: str
    done: int
    total: int | None


@dataclass(frozen=True)
class Fetched:
    """A verified file.

    sha256 : all 64 hex digits
    address : where it came from, without a password; None when the file was there already
    pinned : whether its hash was known before; False when nobody publishes it, so that it was taken on trust and
        recorded
    """

    path: Path
    sha256: str
    size: int
    address: str | None
    pinned: bool


def fetch(file: RemoteFile, folder: Path, *, on_progress: Callable[[FetchProgress], None] | None = None) -> Fetched:
    """Put the file, verified, at `folder / file.name`.

    on_progress : called while bytes come, and while another process downloads the same file; what it raises ends the
        download and leaves what came so far, to be continued

    Raises
    ------
    ModelError : the file cannot be had, or is not what was promised
    """
    raise NotImplementedError
