"""Writes torch's files for the tests without torch, well-formed or deliberately wrong in one place."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


# Pickles, piece by piece.


def pickled(body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def whole(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def ref(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def stacked_ref(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def dict_of(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + b"R"


def storage(n: int = 4, key: str = "0", kind: str = "FloatStorage", view: bytes = b"") -> bytes:
    """A storage; the old format also says of what it is a view: None."""
    return tuple_of(text("storage"), ref("torch", kind), text(key), text("cpu"), whole(n), view) + b"Q"


ORDERED_DICT = call(ref("collections", "OrderedDict"))


def tensor(
    shape: Sequence[int] = (4,),
    strides: Sequence[int] = (1,),
    offset: int = 0,
    stored: bytes | None = None,
    more: bytes = b"",
) -> bytes:
    """A call that makes a tensor of a storage, by default of 4 float32 numbers."""
    sizes = tuple_of(*map(whole, shape)), tuple_of(*map(whole, strides))
    rebuild = ref("torch._utils", "_rebuild_tensor_v2")
    return call(rebuild, stored or storage(), whole(offset), *sizes, b"\x89", ORDERED_DICT, more)


# Files of the present format: zip archives.


@dataclass
class Member:
    """One member of an archive, with every field open to forgery; None is what an honest writer would put there."""

    name: str | bytes
    data: bytes
    crc: int | None = None
    size: int | None = None
    packed: int | None = None
    method: int = 0
    flags: int = 0
    start: int | None = None
    local_name: bytes | None = None
    extra: bytes = b""

    @property
    def raw_name(self) -> bytes:
        return self.name if isinstance(self.name, bytes) else self.name.encode()

    def header(self) -> bytes:
        name = self.raw_name if self.local_name is None else self.local_name
        sizes = (zlib.crc32(self.data), len(self.data), len(self.data))
        fields = (b"PK\x03\x04", 20, self.flags, self.method, 0, 0, *sizes, len(name), len(self.extra))
        return struct.pack("<4s5H3I2H", *fields) + name + self.extra

    def entry(self, start: int) -> bytes:
        crc = zlib.crc32(self.data) if self.crc is None else self.crc
        size = len(self.data) if self.size is None else self.size
        packed = size if self.packed is None else self.packed
        start = start if self.start is None else self.start
        fields = (b"PK\x01\x02", 20, 20, self.flags, self.method, 0, 0, crc, packed, size, len(self.raw_name), 0)
        return struct.pack("<4s6H3I5H2I", *fields, 0, 0, 0, 0, start) + self.raw_name


def zip_archive(members: Sequence[Member], n_entries: int | None = None, size: int | None = None) -> bytes:
    data, directory = b"", b""
    for member in members:
        directory += member.entry(len(data))
        data += member.header() + member.data
    n = len(members) if n_entries is None else n_entries
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, n, n, len(directory) if size is None else size, len(data), 0)
    return data + directory + end


def members_of(pickle: bytes, storages: Mapping[str, bytes] | None = None, folder: str = "model") -> list[Member]:
    stored = {"0": bytes(range(16))} if storages is None else storages
    parts = {"data.pkl": pickle, "byteorder": b"little", **{f"data/{key}": raw for key, raw in stored.items()}}
    return [Member(f"{folder}/{name}", raw) for name, raw in {**parts, "version": b"3\n"}.items()]


def zip_file(pickle: bytes, storages: Mapping[str, bytes] | None = None) -> bytes:
    """A file of the present format, by default with the storage '0' of 16 bytes."""
    return zip_archive(members_of(pickle, storages))


# Files of the old format.


def legacy_file(
    pickle: bytes,
    storages: Sequence[tuple[str, int, bytes]] | None = None,
    *,
    magic: int = LEGACY_MAGIC,
    version: int = 1001,
    little_endian: bool = True,
    keys: bytes | None = None,
) -> bytes:
    """A file of the old format; a storage is its key, its length in numbers and its bytes."""
    stored = [("0", 4, bytes(range(16)))] if storages is None else storages
    system = dict_of({"protocol_version": whole(version), "little_endian": b"\x88" if little_endian else b"\x89"})
    listed = b"](" + b"".join(text(key) for key, _, _ in stored) + b"e" if keys is None else keys
    parts = [pickled(whole(magic)), pickled(whole(version)), pickled(system), pickle, pickled(listed)]
    return b"".join(parts) + b"".join(struct.pack("<q", n) + raw for _, n, raw in stored)
