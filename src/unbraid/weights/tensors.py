"""Reads and writes safetensors files: by memory map on the way in, tensor by tensor on the way out.

A file is eight bytes with the length of its header, the header (JSON that tells each tensor's type, shape and place),
then the tensors' bytes. (safetensors, README: Format.)
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unbraid.errors import ModelError

__all__ = ["is_tensor_name", "map_file", "read_metadata", "read_tensors", "shaped", "write_tensors"]

# The format's names of the types that NumPy has too; always little-endian.
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}

# The largest official model has 533 tensors and a header of 60 kB; the format itself allows 100 MB.
_LARGEST_HEADER = 1 << 22
_LONGEST_NAME = 256
_METADATA = "__metadata__"
_PROPERTIES = ("dtype", "shape", "data_offsets")

# Where the tensors begin: at a multiple of a line of the processor's cache.
_ALIGNMENT = 64


class _Damage(Exception):
    """What is wrong; becomes a ModelError that names the file."""


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Map every tensor of a safetensors file into memory; bytes are read from the disk when they are first used.

    Returns read-only arrays by name, in the order of the header. On Windows nothing can replace or remove the file as
    long as one of them is referred to.
    Raises ModelError, naming the file, for whatever is missing, damaged, or of a type that NumPy does not have.
    """
    with _translated("read", path):
        header, start = _read_header(path)
        data = map_file(path)[start:]
        return {name: _tensor(name, entry, data) for name, entry in header.items() if name != _METADATA}


def read_metadata(path: Path) -> dict[str, str]:
    """Read the texts that a safetensors file holds beside its tensors; none at all is an empty dict.

    Raises ModelError, naming the file, for whatever is missing or damaged.
    """
    with _translated("read", path):
        header, _ = _read_header(path)
    return dict(header.get(_METADATA) or {})


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> str:
    """Write a safetensors file, one tensor after the other; of those that lie in order no copy is made.

    path : where to; whoever calls makes it a temporary file, and removes it after an error
    Returns the SHA-256 of the file as hex digits.
    Raises ModelError where a type or name has no place in the format, or the file cannot be written.
    """
    # Wider types go first: so each tensor lies at a multiple of its type's size, and a map of it can be used as it is.
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    digest = hashlib.sha256()
    with _translated("write", path):
        header = _format_header(tensors, order, metadata or {})
        with path.open("wb") as file:
            digest.update(header)
            file.write(header)
            for raw in (_raw(tensors[name]) for name in order):
                digest.update(raw)
                file.write(raw)
    return digest.hexdigest()


def map_file(path: Path) -> NDArray[np.uint8]:
    """Map a file into memory: its bytes as a read-only array; OSError where that fails."""
    # Nothing cannot be mapped.
    return np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size else np.empty(0, np.uint8)


def shaped(raw: NDArray[np.uint8], dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """View bytes as a read-only tensor, or copy them where they lie across the processor's words.

    Raises ValueError where NumPy has no such shape, or the bytes are not as many as it takes.
    """
    tensor = raw.view(dtype).reshape(shape)
    if not tensor.flags.aligned:
        tensor = tensor.copy()
    tensor.flags.writeable = False
    return tensor


def is_tensor_name(name: str) -> bool:
    """Whether a tensor can have this name: anything that fits into one line of an error."""
    return len(name) <= _LONGEST_NAME and name.isprintable()


@contextmanager
def _translated(doing: str, path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file into one line that names it."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"cannot {doing} weights '{path}': {error.strerror or error}") from error
    except _Damage as damage:
        hint = "; fetch or export the file again" if doing == "read" else ""
        raise ModelError(f"cannot {doing} weights '{path}': {damage}{hint}") from damage


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header, checked against the file, and where the tensors' bytes begin."""
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _LARGEST_HEADER:
            raise _Damage(f"its header claims {size} bytes, more than {_LARGEST_HEADER}")
        text = file.read(size)
    try:
        # The library checks that the tensors' bytes fill the file without gap or overlap, each as many as its type
        # and shape take.
        with safe_open(path, "np"):
            pass
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repeats)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise _Damage(" ".join(str(error).split())[:200]) from error
    for name in header:
        if not is_tensor_name(name):
            raise _Damage(f"{name[:40]!r} is no name of a tensor")
    return header, 8 + size


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose keys differ: of equal ones, programs disagree which counts."""
    result = dict(pairs)
    if len(result) < len(pairs):
        raise _Damage("its header names the same thing twice")
    return result


def _tensor(name: str, entry: Any, data: NDArray[np.uint8]) -> NDArray[Any]:
    # The library also takes what no writer writes: a list of values, more properties, a type as an object.
    if not isinstance(entry, dict) or entry.keys() != set(_PROPERTIES) or not isinstance(entry["dtype"], str):
        raise _Damage(f"tensor '{name}' must have {', '.join(_PROPERTIES)} and nothing else")
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise _Damage(f"tensor '{name}' is of type {entry['dtype']}, expected one of {', '.join(_DTYPES)}")
    start, end = entry["data_offsets"]
    try:
        return shaped(data[start:end], dtype, tuple(entry["shape"]))
    except (ValueError, OverflowError) as error:
        raise _Damage(f"tensor '{name}' has an impossible shape") from error


def _format_header(tensors: Mapping[str, NDArray[Any]], order: list[str], metadata: Mapping[str, str]) -> bytes:
    """Return the file's beginning, up to the first tensor's bytes; `order` is that of the bytes."""
    names = {dtype: code for code, dtype in _DTYPES.items()}
    places: dict[str, list[int]] = {}
    end = 0
    for name in order:
        places[name] = [end, end + tensors[name].nbytes]
        end += tensors[name].nbytes
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    for name, tensor in tensors.items():
        code = names.get(tensor.dtype.newbyteorder("<"))
        if code is None:
            raise _Damage(f"tensor '{name}' is of type {tensor.dtype}, expected one of {', '.join(_DTYPES)}")
        if name == _METADATA or not is_tensor_name(name):
            raise _Damage(f"{name[:40]!r} is no name of a tensor")
        header[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": places[name]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    if len(text) > _LARGEST_HEADER:
        raise _Damage(f"its header would have {len(text)} bytes, more than {_LARGEST_HEADER}")
    return struct.pack("<Q", len(text)) + text


def _raw(tensor: NDArray[Any]) -> memoryview:
    """The bytes of a tensor as a file has them; a copy only where they do not lie so already."""
    return np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
