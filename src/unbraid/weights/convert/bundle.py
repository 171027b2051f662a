"""Reads TensorFlow checkpoints (TensorBundle) without TensorFlow, believing nothing that is not checked.

A bundle is ``PREFIX.index`` and ``PREFIX.data-00000-of-0000N``. The index is a LevelDB table: blocks of sorted
key-value pairs, each followed by its kind of compression and its CRC-32C; an index of the blocks; a footer. The empty
key holds the bundle's header, every other key is a tensor's name and its value says where the bytes lie, with their
CRC-32C. (LevelDB, doc/table_format.md; TensorFlow, tensor_bundle.proto.)
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from unbraid.errors import ModelError
from unbraid.weights.convert.crc32c import crc32c, masked
from unbraid.weights.tensors import is_tensor_name, map_file, shaped

__all__ = ["read_bundle"]

_FOOTER_SIZE = 48
_MAGIC = 0xDB4775248B80FB57
_TRAILER_SIZE = 5  # kind of compression, CRC-32C

# The index of the largest official model has 13 kB, its longest name 40. Keys are stored without what they share with
# the one before, so that without a limit on their length a small file could stand for any amount of memory.
_LARGEST_INDEX = 1 << 20
_LONGEST_KEY = 256
_MOST_DIMENSIONS = 32

# Numeric members of TensorFlow's DataType.
_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    9: np.dtype("<i8"),
    10: np.dtype("?"),
    17: np.dtype("<u2"),
    19: np.dtype("<f2"),
    22: np.dtype("<u4"),
    23: np.dtype("<u8"),
}

Fields: TypeAlias = dict[int, list[int | bytes]]


class _Damage(Exception):
    """What is wrong; becomes a ModelError that names the file."""


@dataclass(frozen=True)
class _Entry:
    """Where one tensor lies."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


def read_bundle(prefix: Path) -> dict[str, NDArray[Any]]:
    """Map every tensor of a checkpoint into memory, each checked against its CRC-32C.

    prefix : path of the checkpoint without ``.index``
    Returns read-only arrays by name. On Windows nothing can remove the files as long as one of them is referred to.
    Raises ModelError, naming file and tensor, for whatever is missing, damaged, or not a numeric little-endian tensor.
    """
    path = prefix.with_name(prefix.name + ".index")
    try:
        with path.open("rb") as file:
            index = file.read(_LARGEST_INDEX + 1)
    except OSError as error:
        raise ModelError(f"cannot read checkpoint index '{path}': {error.strerror or error}") from error
    try:
        if len(index) > _LARGEST_INDEX:
            raise _Damage(f"it is larger than {_LARGEST_INDEX} bytes")
        n_shards, entries = _parse_index(index)
    except _Damage as damage:
        raise ModelError(f"cannot read checkpoint index '{path}': {damage}; fetch the checkpoint again") from damage
    tensors: dict[str, NDArray[Any]] = {}
    for shard in sorted({entry.shard for entry in entries}):
        data = prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{n_shards:05d}")
        try:
            tensors |= _read_shard(data, [entry for entry in entries if entry.shard == shard])
        except OSError as error:
            raise ModelError(f"cannot read checkpoint data '{data}': {error.strerror or error}") from error
        except _Damage as damage:
            raise ModelError(f"cannot read checkpoint data '{data}': {damage}; fetch the checkpoint again") from damage
    return {entry.name: tensors[entry.name] for entry in entries}


def _read_shard(path: Path, entries: list[_Entry]) -> dict[str, NDArray[Any]]:
    """Map the tensors of one data file; nothing is allocated that the file's own size does not cover."""
    tensors: dict[str, NDArray[Any]] = {}
    end, before = 0, ""
    data = map_file(path)
    for entry in sorted(entries, key=lambda entry: (entry.offset, entry.size)):
        if entry.offset + entry.size > len(data):
            raise _Damage(
                f"tensor '{entry.name}' ends at byte {entry.offset + entry.size}, but the file has {len(data)} bytes"
            )
        if entry.offset < end:
            raise _Damage(f"tensors '{before}' and '{entry.name}' overlap")
        end, before = entry.offset + entry.size, entry.name
        raw = data[entry.offset : end]
        if masked(crc32c(raw)) != entry.crc:
            raise _Damage(f"tensor '{entry.name}' does not match its checksum")
        try:
            tensors[entry.name] = shaped(raw, entry.dtype, entry.shape)
        except ValueError as error:
            raise _Damage(f"tensor '{entry.name}' has an impossible shape") from error
    return tensors


def _parse_index(index: bytes) -> tuple[int, list[_Entry]]:
    """Return the number of shards and the tensors, in the order of their names."""
    if len(index) < _FOOTER_SIZE or index[-8:] != struct.pack("<Q", _MAGIC):
        raise _Damage("it does not end as an index does (truncated, or another kind of file)")
    footer = index[-_FOOTER_SIZE:-8]
    meta, at = _handle(footer, 0)
    top, at = _handle(footer, at)
    if any(footer[at:]):
        raise _Damage("the footer is damaged")
    blocks = [_handle_of(value) for _, value in _pairs(_block(index, top))]
    _check_tiling(sorted([*blocks, meta, top]), len(index) - _FOOTER_SIZE)
    _block(index, meta)
    pairs = [pair for handle in blocks for pair in _pairs(_block(index, handle))]
    if any(later <= earlier for (earlier, _), (later, _) in pairwise(pairs)):
        raise _Damage("its names are not in order")
    if not pairs or pairs[0][0] != b"":
        raise _Damage("it has no header")
    n_shards = _parse_header(pairs[0][1])
    return n_shards, [_parse_entry(key, value, n_shards) for key, value in pairs[1:]]


def _check_tiling(handles: list[tuple[int, int]], length: int) -> None:
    """The blocks, each with its trailer, fill the file without gap or overlap."""
    at = 0
    for offset, size in handles:
        if offset != at:
            raise _Damage(f"its blocks do not join at byte {at}")
        at += size + _TRAILER_SIZE
    if at != length:
        raise _Damage(f"its blocks end at byte {at}, not {length}")


def _block(index: bytes, handle: tuple[int, int]) -> bytes:
    """Return a block's bytes, checked."""
    offset, size = handle
    end = offset + size
    if end + _TRAILER_SIZE > len(index) - _FOOTER_SIZE:
        raise _Damage(f"a block at byte {offset} reaches beyond the end")
    (crc,) = struct.unpack_from("<I", index, end + 1)
    if masked(crc32c(index[offset : end + 1])) != crc:
        raise _Damage(f"the block at byte {offset} does not match its checksum")
    if index[end] != 0:
        raise _Damage(f"the block at byte {offset} is compressed (kind {index[end]}), which checkpoints never are")
    return index[offset:end]


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield a block's keys and values; a key is stored without what it shares with the one before."""
    if len(block) < 4:
        raise _Damage("a block is too short")
    (n_restarts,) = struct.unpack_from("<I", block, len(block) - 4)
    end = len(block) - 4 - 4 * n_restarts
    if end < 0:
        raise _Damage("a block's restart points do not fit into it")
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        rest, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + rest + length > end:
            raise _Damage("a block's entry reaches beyond its end")
        if shared + rest > _LONGEST_KEY:
            raise _Damage(f"a name in it has {shared + rest} bytes, more than {_LONGEST_KEY}")
        key = key[:shared] + block[at : at + rest]
        at += rest + length
        yield key, block[at - length : at]


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _handle_of(value: bytes) -> tuple[int, int]:
    handle, at = _handle(value, 0)
    if at != len(value):
        raise _Damage("the index of its blocks is damaged")
    return handle


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, lowest first, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise _Damage("a number in it has no end")


def _fields(message: bytes) -> Fields:
    """Return the fields of a protocol buffer by number, each with its values in order."""
    fields: Fields = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        value: int | bytes
        if kind == 0:
            value, at = _varint(message, at)
        else:
            size = {1: 8, 5: 4}.get(kind, 0)
            if kind == 2:
                size, at = _varint(message, at)
            if kind not in (1, 2, 5) or at + size > len(message):
                raise _Damage("a message in it is damaged")
            raw = message[at : at + size]
            value = raw if kind == 2 else int.from_bytes(raw, "little")
            at += size
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _number(fields: Fields, field: int) -> int:
    """The last value of a numeric field; absent means 0, as protocol buffers have it."""
    value = fields.get(field, [0])[-1]
    if not isinstance(value, int):
        raise _Damage(f"field {field} of a message is no number")
    return value


def _message(value: int | bytes) -> Fields:
    if not isinstance(value, bytes):
        raise _Damage("a message in it is damaged")
    return _fields(value)


def _parse_header(value: bytes) -> int:
    """BundleHeaderProto: 1 number of shards, 2 byte order (0 little, 1 big)."""
    fields = _fields(value)
    n_shards = _number(fields, 1)
    if not 1 <= n_shards <= 99999:
        raise _Damage(f"it says that there are {n_shards} data files")
    if _number(fields, 2) != 0:
        raise _Damage("its numbers are big-endian, which no published model is")
    return n_shards


def _parse_entry(key: bytes, value: bytes, n_shards: int) -> _Entry:
    """BundleEntryProto: 1 dtype, 2 shape, 3 shard, 4 offset, 5 size, 6 CRC-32C, 7 slices."""
    name = key.decode("utf-8", "surrogateescape")
    if not is_tensor_name(name):
        raise _Damage(f"{key[:40]!r} is no name of a tensor")
    fields = _fields(value)
    if 7 in fields:
        raise _Damage(f"tensor '{name}' is stored in slices, which is not supported")
    dtype = _DTYPES.get(_number(fields, 1))
    if dtype is None:
        raise _Damage(f"tensor '{name}' is not numeric (TensorFlow data type {_number(fields, 1)})")
    # TensorShapeProto: 2 dimensions (each: 1 size), 3 unknown rank
    shapes = [_message(shape) for shape in fields.get(2, [])]
    if len(shapes) > 1 or any(_number(shape, 3) or len(shape.get(2, [])) > _MOST_DIMENSIONS for shape in shapes):
        raise _Damage(f"tensor '{name}' has no definite shape of at most {_MOST_DIMENSIONS} dimensions")
    shape = tuple(_number(_message(dim), 1) for fields in shapes for dim in fields.get(2, []))
    entry = _Entry(name, dtype, shape, _number(fields, 3), _number(fields, 4), _number(fields, 5), _number(fields, 6))
    if max(shape, default=0) > 1 << 40 or math.prod(shape) * dtype.itemsize != entry.size:
        raise _Damage(f"tensor '{name}' of shape {shape} and type {dtype} cannot have {entry.size} bytes")
    if entry.shard >= n_shards:
        raise _Damage(f"tensor '{name}' is in data file {entry.shard} of {n_shards}")
    return entry
