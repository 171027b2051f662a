"""Makes tar.gz archives in the layout in which Spleeter's models are published."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

MEMBERS = ("checkpoint", "model.index", "model.meta", "model.data-00000-of-00001")

# What macOS's tar adds for a file with extended attributes: an AppleDouble header and nothing in it.
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        \x00\x02\x00\x00\x00\x09" + bytes(100)


def checkpoint_members(folder: Path, prefix: str = "model") -> dict[str, bytes]:
    """The content of the four members, from the files of a checkpoint written as PREFIX in a folder."""
    return {
        "checkpoint": f'model_checkpoint_path: "{prefix}"\nall_model_checkpoint_paths: "{prefix}"\n'.encode(),
        "model.index": (folder / f"{prefix}.index").read_bytes(),
        "model.meta": b"a graph",
        "model.data-00000-of-00001": (folder / f"{prefix}.data-00000-of-00001").read_bytes(),
    }


def member(name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, **fields: object) -> bytes:
    """One member with its header, as ustar has it; `fields` are those of TarInfo."""
    header = tarfile.TarInfo(name)
    header.size, header.type, header.mode = len(content), kind, 0o644
    for field, value in fields.items():
        setattr(header, field, value)
    return header.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def plain_tar(members: Mapping[str, bytes]) -> bytes:
    """The members alone, as a script of ours would pack them."""
    return b"".join(member(name, content) for name, content in members.items()) + bytes(1024)


def published_tar(members: Mapping[str, bytes]) -> bytes:
    """The members as they are published: packed on macOS as ``tar -C folder .``, with a companion of the first."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        folder = tarfile.TarInfo("./")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        folder.pax_headers = {"mtime": "1571923245.123456"}
        tar.addfile(folder)
        for name, content in {"._checkpoint": APPLE_DOUBLE, **members}.items():
            header = tarfile.TarInfo(f"./{name}")
            header.size = len(content)
            header.pax_headers = {"mtime": "1571923245.123456", "LIBARCHIVE.creationtime": "1571923245"}
            tar.addfile(header, io.BytesIO(content))
    return file.getvalue()


def gzipped(data: bytes, level: int = 6) -> bytes:
    """A gzip file of one member."""
    packer = zlib.compressobj(level, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()
