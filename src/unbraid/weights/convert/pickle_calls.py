"""What a saved model's pickle may name and call, as values that do nothing.

(PyTorch, torch/_utils.py and torch/serialization.py; `__reduce__` of Fraction, OrderedDict, paths, NumPy's scalars.)
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from unbraid.errors import ModelError

__all__ = [
    "CALLS",
    "STORAGE_TYPES",
    "Damage",
    "Misfit",
    "NumpyType",
    "Record",
    "Reference",
    "Storage",
    "StoredTensor",
    "shown",
]

Arguments: TypeAlias = tuple[Any, ...]


class Damage(ModelError):
    """What is wrong with a file, in a few words; whoever knows the file adds its name."""


@dataclass(frozen=True)
class Reference:
    """The name of a class or function. It is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Record:
    """What is known of an object of a class that is not ours: the class, its arguments, and what was set in it."""

    kind: Reference
    arguments: Arguments
    state: object = None


@dataclass(frozen=True)
class Storage:
    """A claim that the file holds `n` numbers under the name `key`."""

    dtype: np.dtype[Any]
    key: str
    n: int


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A claim that a tensor lies in a storage; `offset` and `strides` count numbers, not bytes."""

    storage: Storage
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class NumpyType:
    """A type of NumPy's numbers, wrapped because NumPy tries to read whatever a dtype is compared with."""

    dtype: np.dtype[Any]


def shown(text: str | int | Reference) -> str:
    """Return foreign text in quotes, on one line and not too long, for a message."""
    quoted = repr(str(text)[:101])
    return quoted if len(quoted) <= 100 else f"{quoted[:97]}…'"


class Misfit(Exception):
    """The arguments of a call are not what saved models have."""


def _tensor(arguments: Arguments) -> StoredTensor:
    """(storage, offset, shape, strides)."""
    match arguments:
        case (Storage() as storage, offset, tuple() as shape, tuple() as strides) if len(shape) == len(strides) <= 32:
            if all(type(n) is int and 0 <= n < 1 << 63 for n in (offset, *shape, *strides)):
                return StoredTensor(storage, storage.dtype, offset, shape, strides)
    raise Misfit


def _tensor_v2(arguments: Arguments) -> StoredTensor:
    """(…, requires_grad, hooks, and perhaps what conjugates or negates the numbers, which is refused)."""
    if len(arguments) not in (6, 7) or any(arguments[6:]):
        raise Misfit
    return _tensor(arguments[:4])


def _tensor_v3(arguments: Arguments) -> StoredTensor:
    """(…, requires_grad, hooks, dtype, and perhaps what conjugates or negates the numbers)."""
    if len(arguments) not in (7, 8) or any(arguments[7:]) or not isinstance(arguments[6], Reference):
        raise Misfit
    if arguments[6] not in _OTHER_TYPES:
        raise Damage(f"it holds tensors of type {shown(arguments[6])}, which is not supported")
    return replace(_tensor(arguments[:4]), dtype=_OTHER_TYPES[arguments[6]])


def _parameter(arguments: Arguments) -> StoredTensor:
    """(tensor, requires_grad, hooks)."""
    match arguments:
        case (StoredTensor() as tensor, _, _):
            return tensor
    raise Misfit


def _fraction(arguments: Arguments) -> Fraction:
    """('39/5'), or from Python 3.12 on (39, 5)."""
    match arguments:
        case (str() as text,) if re.fullmatch(r"-?\d{1,30}(/\d{1,30})?", text, re.ASCII):
            over, _, under = text.partition("/")
            arguments = (int(over), int(under or 1))
    match arguments:
        case (int() as numerator, int() as denominator) if denominator:
            return Fraction(numerator, denominator)
    raise Misfit


def _numpy_type(arguments: Arguments) -> NumpyType:
    """(name, whether to align, whether to copy)."""
    match arguments:
        case (str() as code, _, _) if re.fullmatch(r"f[248]|[iu][1248]|b1", code):
            return NumpyType(np.dtype(f"<{code}"))
    raise Misfit


def _numpy_scalar(arguments: Arguments) -> object:
    """(dtype, bytes)."""
    match arguments:
        case (NumpyType(dtype=dtype), bytes() as raw) if len(raw) == dtype.itemsize:
            number: object = np.frombuffer(raw, dtype)[0].item()
            return number
    raise Misfit


def _bytes(arguments: Arguments) -> bytes:
    """(text, 'latin1'): how protocol 2 writes bytes."""
    match arguments:
        case (str() as text, "latin1"):
            try:
                return text.encode("latin-1")
            except UnicodeEncodeError:
                pass
    raise Misfit


def _size(arguments: Arguments) -> Arguments:
    """((1, 2, …))."""
    match arguments:
        case (tuple() as shape,):
            return shape
    raise Misfit


def _nothing(kind: Callable[[], object]) -> Callable[[Arguments], object]:
    """A call without arguments."""

    def made(arguments: Arguments) -> object:
        if arguments:
            raise Misfit
        return kind()

    return made


def _path(kind: str) -> Callable[[Arguments], Record]:
    """The options of `demucs` 2 hold paths."""

    def made(arguments: Arguments) -> Record:
        if not all(isinstance(part, str) for part in arguments):
            raise Misfit
        return Record(Reference("pathlib", kind), arguments)

    return made


# Each call takes its arguments as one tuple, and raises Misfit where they are not as expected.
CALLS: dict[str, Callable[[Arguments], object]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
    "collections.OrderedDict": _nothing(OrderedDict),
    "fractions.Fraction": _fraction,
    "_codecs.encode": _bytes,
    "__builtin__.bytes": _nothing(bytes),
    "numpy.dtype": _numpy_type,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "pathlib.PosixPath": _path("PosixPath"),
    "pathlib.WindowsPath": _path("WindowsPath"),
    "pathlib._local.PosixPath": _path("PosixPath"),
    "pathlib._local.WindowsPath": _path("WindowsPath"),
}

STORAGE_TYPES: dict[str, np.dtype[Any]] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
    "UntypedStorage": np.dtype("u1"),
}

# The types without a storage class of their own; their storage is untyped.
_OTHER_TYPES: dict[Reference, np.dtype[Any]] = {
    Reference("torch", "uint16"): np.dtype("<u2"),
    Reference("torch", "uint32"): np.dtype("<u4"),
    Reference("torch", "uint64"): np.dtype("<u8"),
}
