"""Reads the files of ``torch.save``, in both of its formats, without PyTorch and without unpickling.

Since version 1.6 torch writes a zip archive: ``NAME/data.pkl`` is a pickle, ``NAME/data/KEY`` the bytes of a storage.
Before, it wrote five pickles (a magic number, the version, facts about the machine, the object, the storages' keys) and
then each storage, its length ahead of it. A tensor is a window into a storage: offset, shape and strides.
(PyTorch, torch/serialization.py.)
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from unbraid.errors import ModelError
from unbraid.weights.convert.pickle_calls import Damage, Record, Reference, Storage, StoredTensor, shown
from unbraid.weights.convert.pickle_reader import read_pickle, read_pickle_at, replaced
from unbraid.weights.convert.stored_zip import stored_members

__all__ = ["Record", "Reference", "read_torch_file"]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001

# A checkpoint may hold a tensor as state, best state and average. Many more claims than bytes are an attack.
_MOST_SHARING = 4

# Of a tensor without elements: the product of its other dimensions.
_LARGEST_EMPTY = 1 << 40

# Finds the bytes of a storage, or raises Damage.
Finder: TypeAlias = Callable[[Storage], memoryview]


def read_torch_file(path: Path) -> object:
    """Read what ``torch.save`` wrote to a file; nothing in it is imported, called or trusted.

    Returns dicts, lists, tuples, str, bytes, int, float, bool, None and Fraction as they are; for tensors read-only
    arrays that map the file into memory (they keep it open, and it must not change while they live); for classes and
    functions a `Reference` with their name; for the few other objects a `Record`.
    Raises ModelError, naming the file, where it is damaged or asks for anything that a saved model does not need.
    """
    try:
        if not path.is_file():
            raise ModelError(f"cannot read '{path}': there is no such file")
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                raise Damage("it is empty")
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return _read(data)
    except OSError as error:
        raise ModelError(f"cannot read '{path}': {error.strerror or error}") from error
    except Damage as damage:
        raise ModelError(f"cannot read '{path}': {damage}; fetch or export the file again") from damage


def _read(data: memoryview) -> object:
    head = bytes(data[:512])
    if head.startswith(b"PK\x03\x04"):
        value, find = _read_zip(data)
    elif head.startswith(b"\x80"):
        value, find = _read_legacy(data)
    else:
        raise Damage(_other_kind(head))
    claims = _claims(value)
    stored = {key: find(storage) for key, storage in _storages(claims).items()}
    _check_claims(claims, stored, len(data))
    arrays = {id(claim): _array(claim, stored[claim.storage.key]) for claim in claims}
    return replaced(value, lambda claim: arrays[id(claim)])


def _other_kind(head: bytes) -> str:
    """Say what a file is that torch did not write."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "it is a web page, not a model"
    if text.startswith(b"version https://git-lfs"):
        return "it is only a pointer of Git LFS to the model"
    if head.startswith(b"\x1f\x8b"):
        return "it is compressed by gzip; unpack it first"
    if head[257:262] == b"ustar":
        return "it is a tar archive, torch's first format, which is not supported"
    if not any(byte < 9 for byte in head):
        return "it is a text, not a model"
    return "torch.save did not write it"


def _read_zip(data: memoryview) -> tuple[object, Finder]:
    """Return the value with its tensors still claims, and what finds their storages."""
    members = stored_members(data)
    folders = [name[: -len("data.pkl")] for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(folders) != 1 or not all(name.startswith(folders[0]) for name in members):
        raise Damage("it is a zip archive, but not torch.save's, which has one folder with a data.pkl")
    folder = folders[0]
    if f"{folder}constants.pkl" in members:
        raise Damage("it is a TorchScript program, not a saved model")
    order = members.get(f"{folder}byteorder")
    if order is not None and bytes(order.checked()) != b"little":
        raise Damage("its numbers are big-endian, which no published model is")

    def find(storage: Storage) -> memoryview:
        member = members.get(f"{folder}data/{storage.key}")
        if member is None or len(member.data) != storage.n * storage.dtype.itemsize:
            raise Damage(f"storage {shown(storage.key)} is missing, or has not the length that its tensors say")
        return member.checked()

    return read_pickle(members[f"{folder}data.pkl"].checked()), find


def _read_legacy(data: memoryview) -> tuple[object, Finder]:
    """Return the value with its tensors still claims, and what finds their storages."""
    magic, at = read_pickle_at(data, 0)
    if magic != _LEGACY_MAGIC:
        raise Damage("it is a pickle, but torch.save did not write it")
    version, at = read_pickle_at(data, at)
    system, at = read_pickle_at(data, at)
    if version != _LEGACY_VERSION or not isinstance(system, dict):
        raise Damage("it is of an unknown version of torch's old format")
    if system.get("little_endian") is not True:
        raise Damage("its numbers are big-endian, which no published model is")
    value, at = read_pickle_at(data, at)
    keys, at = read_pickle_at(data, at)
    storages = _storages(_claims(value))
    # torch.save sorts them.
    if keys != sorted(storages):
        raise Damage("its list of storages does not fit its tensors")
    found: dict[str, memoryview] = {}
    for key, storage in sorted(storages.items()):
        n = int.from_bytes(data[at : at + 8], "little")
        begin, at = at + 8, at + 8 + n * storage.dtype.itemsize
        if n != storage.n or at > len(data):
            raise Damage(f"storage {shown(key)} is cut short, or has not the length that its tensors say")
        found[key] = data[begin:at]
    if at != len(data):
        raise Damage(f"{len(data) - at} bytes follow its end")
    return value, lambda storage: found[storage.key]


def _claims(value: object) -> list[StoredTensor]:
    """Return every tensor within a value, as often as it occurs."""
    claims: list[StoredTensor] = []
    replaced(value, claims.append)
    return claims


def _storages(claims: list[StoredTensor]) -> dict[str, Storage]:
    """Return the storages that tensors claim, by key."""
    storages: dict[str, Storage] = {}
    for claim in claims:
        if storages.setdefault(claim.storage.key, claim.storage) != claim.storage:
            raise Damage(f"storage {shown(claim.storage.key)} is described in two ways")
    return storages


def _check_claims(claims: list[StoredTensor], stored: Mapping[str, memoryview], n_bytes: int) -> None:
    """Raise Damage unless each tensor lies in its storage, and apart from others or exactly where another lies.

    n_bytes : size of the file
    """
    total = 0
    spans = []
    for index, claim in enumerate(claims):
        begin, end = _span(claim, len(stored[claim.storage.key]))
        total += math.prod(claim.shape) * claim.dtype.itemsize
        if total > _MOST_SHARING * n_bytes:
            raise Damage("its tensors share their storages so often that they would fill several files")
        if begin < end:
            spans.append((claim.storage.key, begin, end, index))
    before = ("", 0, 0, 0)
    for span in sorted(spans):
        if span[0] == before[0] and span[1] < before[2] and not _same(claims[span[3]], claims[before[3]]):
            raise Damage(f"two tensors overlap in storage {shown(span[0])}")
        before = span


def _same(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors of the same storage are the same window."""
    return (one.dtype, one.offset, one.shape, one.strides) == (other.dtype, other.offset, other.shape, other.strides)


def _span(claim: StoredTensor, n_bytes: int) -> tuple[int, int]:
    """Return the bytes of its storage between which a tensor lies, having checked offset, shape and strides."""
    shape = shown(str(claim.shape))
    if 0 in claim.shape:
        if math.prod(max(size, 1) for size in claim.shape) > _LARGEST_EMPTY:
            raise Damage(f"a tensor cannot have the shape {shape}")
        return 0, 0
    reach = 0  # from the first element to the last of the axes seen so far, in elements
    for stride, size in sorted(zip(claim.strides, claim.shape, strict=True)):
        if size > 1 and stride <= reach:
            raise Damage(f"the elements of a tensor of shape {shape} overlap")
        reach += stride * (size - 1)
    end = (claim.offset + reach + 1) * claim.dtype.itemsize
    if end > n_bytes:
        raise Damage(f"a tensor of shape {shape} reaches beyond its storage {shown(claim.storage.key)}")
    return claim.offset * claim.dtype.itemsize, end


def _array(claim: StoredTensor, stored: memoryview) -> NDArray[Any]:
    """Return a tensor as a read-only view of its storage."""
    size = claim.dtype.itemsize
    array: NDArray[Any]
    if 0 in claim.shape:
        array = np.empty(claim.shape, claim.dtype)
        array.flags.writeable = False
        return array
    # The stride of an axis of length 1 means nothing, and torch leaves any number there.
    strides = [stride * size if n > 1 else size for stride, n in zip(claim.strides, claim.shape, strict=True)]
    array = np.ndarray(claim.shape, claim.dtype, stored, claim.offset * size, strides)
    return array
