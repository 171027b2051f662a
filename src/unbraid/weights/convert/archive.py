"""Reads the archives in which Spleeter's models are published, writing nothing but the members that are asked for.

An archive is a gzip stream of a tar file: for each member a header of 512 bytes, then its content up to the next
multiple of 512; zeros at the end (POSIX.1-1988, ustar). Names in it are compared, never used as paths. What
`tarfile.open` does besides (links, devices, sparse files, names and sizes from extended headers) is refused.
"""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from unbraid.errors import ModelError

__all__ = ["unpacked"]

# Every member, and how large it may be in bytes: the largest checkpoints, those with the state of an optimiser, have
# 600 MB of data.
_MEMBERS = {
    "checkpoint": 1 << 16,
    "model.index": 1 << 20,
    "model.meta": 1 << 26,
    "model.data-00000-of-00001": 1 << 30,
}
# The graph, which TensorFlow needs and we do not.
_UNUSED = "model.meta"

# The published archives were packed on macOS, which adds attributes of a file as ``._NAME``; read past, as are headers
# that extend the next member's, and the folder itself.
_COMPANIONS = {f"._{name}" for name in (".", *_MEMBERS)}
_LARGEST_EXTRA = 1 << 16
# Of all that is read past, zeros at the end included.
_LARGEST_REST = 1 << 20

# What would give the next member another name, size or content than its own header does.
_OVERRIDE = re.compile(rb" (path|linkpath|size|hdrcharset|GNU\.sparse\.[^=\n]*)=")

_BLOCK = 512
_PIECE = 1 << 18


class _Damage(Exception):
    """What is wrong; becomes a ModelError that names the archive."""


@contextmanager
def unpacked(path: Path, folder: Path) -> Iterator[Path]:
    """Unpack a model's archive for as long as the context lasts.

    path : NAME.tar.gz with exactly the members checkpoint, model.index, model.meta and model.data-00000-of-00001
    folder : where the temporary folder is made
    Yields a folder with those that `latest_checkpoint` and `read_checkpoint` need. Arrays that map its files keep
    working after it is gone; on Windows let go of them first, or it stays.
    Raises ModelError, naming the archive, where it is damaged, too large or holds anything else.
    """
    try:
        # Windows removes no file that somebody maps.
        temporary = tempfile.TemporaryDirectory(prefix="unpacked-", dir=folder, ignore_cleanup_errors=os.name == "nt")
    except OSError as error:
        raise ModelError(f"cannot unpack '{path}' in '{folder}': {error.strerror or error}") from error
    with temporary as name:
        try:
            with path.open("rb") as file:
                _unpack(_Unzipped(file), Path(name))
        except OSError as error:
            raise ModelError(
                f"cannot unpack '{path}' in '{folder}': {error.strerror or error}; "
                "free some space, or choose another place (UNBRAID_HOME)"
            ) from error
        except (_Damage, zlib.error, tarfile.TarError) as error:
            raise ModelError(f"cannot read archive '{path}': {error}; fetch it again") from error
        yield Path(name)


class _Unzipped:
    """The content of a gzip file, in order, a piece at a time; never more is in memory than a few pieces.

    `rest` is what may still be read that is no member's content.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        # zlib checks length and CRC-32 at the end by itself when told (16 + window bits) that a gzip header comes.
        self._zlib = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._waiting = b""
        self.rest = _LARGEST_REST

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield the next `size` bytes."""
        while size:
            piece = self._piece(min(size, _PIECE))
            if not piece:
                raise _Damage("it ends within a member")
            size -= len(piece)
            yield piece

    def past(self, size: int) -> bytes:
        """Return the next bytes, which are no member's content."""
        self.rest -= size
        if self.rest < 0:
            raise _Damage(f"it has more than {_LARGEST_REST} bytes beside its members")
        return b"".join(self.pieces(size))

    def finish(self) -> None:
        """Check that only zeros are left, that the whole agrees with its checksum, and that nothing follows."""
        while piece := self._piece(_PIECE):
            self.rest -= len(piece)
            if piece.strip(b"\0") or self.rest < 0:
                raise _Damage("something follows its last member")
        if self._zlib.unused_data or self._file.read(1):
            raise _Damage("something follows its end")

    def _piece(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end."""
        while not self._zlib.eof:
            if not self._waiting:
                self._waiting = self._file.read(_PIECE)
                if not self._waiting:
                    raise _Damage("it is truncated")
            piece = self._zlib.decompress(self._waiting, size)
            self._waiting = self._zlib.unconsumed_tail
            if piece:
                return piece
        return b""


def _unpack(stream: _Unzipped, folder: Path) -> None:
    seen: set[str] = set()
    while any(block := stream.past(_BLOCK)):
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        name = header.name.removeprefix("./")
        if header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE):
            if _OVERRIDE.search(_extra(stream, header)):
                raise _Damage("an extended header in it changes a member's name, size or content")
            continue
        if header.isdir() and name == "." and header.size == 0:
            continue
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or name not in {*_MEMBERS, *_COMPANIONS}:
            raise _Damage(f"it holds {header.name!r} (type {header.type!r}), which no archive of a model does")
        if name in seen:
            raise _Damage(f"it holds '{name}' twice")
        seen.add(name)
        if name in _COMPANIONS:
            _extra(stream, header)
            continue
        if not 0 <= header.size <= _MEMBERS[name]:
            raise _Damage(f"'{name}' claims {header.size} bytes, expected at most {_MEMBERS[name]}")
        with open(os.devnull if name == _UNUSED else folder / name, "wb") as file:
            for piece in stream.pieces(header.size):
                file.write(piece)
        stream.past(-header.size % _BLOCK)
    for name in _MEMBERS:
        if name not in seen:
            raise _Damage(f"it holds no '{name}'")
    stream.finish()


def _extra(stream: _Unzipped, header: tarfile.TarInfo) -> bytes:
    """Read past something small that is no member of a model."""
    if not 0 <= header.size <= _LARGEST_EXTRA:
        raise _Damage(f"{header.name!r} claims {header.size} bytes, expected at most {_LARGEST_EXTRA}")
    return stream.past(header.size + -header.size % _BLOCK)
