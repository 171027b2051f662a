"""Writes TensorBundles for the tests, well-formed or deliberately wrong in one place."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int64": 9, "bool": 10, "float16": 19}


def crc32c_masked(data: bytes | bytearray) -> int:
    """By the definition, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def numeric(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def nested(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


@dataclass
class Entry:
    """One BundleEntryProto, with every field open to forgery."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    extra: bytes = b""

    def encode(self) -> bytes:
        shape = b"".join(nested(2, numeric(1, size)) for size in self.shape)
        numbers = numeric(1, self.dtype) + nested(2, shape) + numeric(3, self.shard)
        numbers += numeric(4, self.offset) + numeric(5, self.size)
        return numbers + varint(6 << 3 | 5) + struct.pack("<I", self.crc) + self.extra


@dataclass
class Bundle:
    """What goes into the files; change it in `forge` before it is written."""

    entries: dict[bytes, Entry] = field(default_factory=dict)
    shards: list[bytearray] = field(default_factory=list)
    header: bytes = b""
    block_kind: int = 0
    pairs_per_block: int = 5
    padding: bytes = b""  # between the data blocks and the index of them
    sort: bool = True


def block(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """A block of the table, keys without what they share with the one before."""
    out, before = b"", b""
    for key, value in pairs:
        shared = 0
        while shared < min(len(key), len(before)) and key[shared] == before[shared]:
            shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return out + struct.pack("<II", 0, 1)


def write_bundle(
    prefix: Path,
    tensors: dict[str, np.ndarray[Any, Any]],
    *,
    n_shards: int = 1,
    forge: Callable[[Bundle], None] = lambda bundle: None,
    checksum: Callable[[bytes], int] = crc32c_masked,
) -> Path:
    """Write PREFIX.index and its data files; tensors go to the shards in turn.

    checksum : a faster one for large tensors
    """
    bundle = Bundle(
        shards=[bytearray() for _ in range(n_shards)], header=numeric(1, n_shards) + nested(3, numeric(1, 1))
    )
    for i, (name, tensor) in enumerate(sorted(tensors.items())):
        raw, shard = np.ascontiguousarray(tensor).tobytes(), i % n_shards
        bundle.entries[name.encode()] = Entry(
            DTYPES[str(tensor.dtype)], tensor.shape, shard, len(bundle.shards[shard]), len(raw), checksum(raw)
        )
        bundle.shards[shard] += raw
    forge(bundle)
    pairs = [(key, entry.encode()) for key, entry in bundle.entries.items()]
    if bundle.header:
        pairs.insert(0, (b"", bundle.header))
    pairs = sorted(pairs) if bundle.sort else pairs
    index, handles = b"", []
    for start in range(0, len(pairs), bundle.pairs_per_block):
        part = pairs[start : start + bundle.pairs_per_block]
        index, handle = append(index, block(part), bundle.block_kind)
        handles.append((part[-1][0], handle))
    index += bundle.padding
    index, meta = append(index, block([]))
    index, top = append(index, block(handles))
    index += (meta + top).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    prefix.with_name(prefix.name + ".index").write_bytes(index)
    for shard, data in enumerate(bundle.shards):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{n_shards:05d}").write_bytes(data)
    return prefix


def append(index: bytes, data: bytes, kind: int = 0) -> tuple[bytes, bytes]:
    """The index with a block and its trailer at the end, and the block's handle."""
    handle = varint(len(index)) + varint(len(data))
    data += bytes([kind])
    return index + data + struct.pack("<I", crc32c_masked(data)), handle
