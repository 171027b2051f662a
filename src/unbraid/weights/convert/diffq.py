"""Gives the weights that diffq stored as whole numbers of a few bits back as floating point, without diffq.

(diffq 0.1.0 to 0.2.4: diffq/base.py, diffq.py, uniform.py, torch_pack.py, bitpack.pyx.)

A large parameter is a grid of levels 0 to 2^bits − 1 between its smallest and its largest value,

    value = level · 1/(2^bits − 1) · (largest − smallest) + smallest,

every step in float32. `UniformQuantizer` has one number of bits for all; `DiffQuantizer` one for each group of weights
that follow each other. Small parameters are stored as they are, or in half precision. None of them has a name: their
order is that of the network's parameters, and the quantiser's options tell which are large.

Levels may be packed by the planes of their bits: with words of w bits, level number i = (line · w + s) · block + b has
its j-th bit at bit s of word [line, j, b]. Words are of 64 bits and blocks of 32 words; or else (torch_pack) words are
of 16 bits, and there is one line with a block as long as needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unbraid.errors import ModelError
from unbraid.models.plain import shown
from unbraid.weights.convert.pickle_calls import Reference

__all__ = ["is_quantized", "restore_quantized"]

_PARTS = ("quantized", "float16", "others")
_MOST_BITS = 15
_MOST_PACKED_BITS = 14  # diffq packs groups of 1 to 14 bits; those of 15 it loses
_BLOCK = 32
_LINES = 64  # that are unpacked at once

# Options of each quantiser that matter to what is stored, with diffq's defaults, and those that do not.
_DIFFQ = {"min_size": 0.01, "float16": False, "exclude": [], "group_size": 1, "min_bits": 2}
_UNIFORM = {"min_size": 0.01, "float16": False, "exclude": [], "bits": 8.0}
_WITHOUT_EFFECT = {"max_bits", "param", "noise", "init_bits", "extra_bits", "suffix", "detect_bound", "qat"}


@dataclass(frozen=True)
class _Quantizer:
    """Which parameters are quantised, and how.

    limit : parameters of more values than this are quantised
    float16 : the others are stored in half precision
    exclude : patterns of names of parameters that are not quantised, whatever their size
    bits : of every level; None for one number for each group
    group_size : weights that share a number of bits; 0 for all
    min_bits : what a packed number of bits counts from
    """

    limit: float
    float16: bool
    exclude: tuple[str, ...]
    bits: int | None
    group_size: int
    min_bits: int
    packed: bool
    torch_pack: bool

    def part(self, name: str, shape: tuple[int, ...]) -> str:
        """In which part of the state a parameter is found."""
        module, _, short = name.rpartition(".")
        small = math.prod(shape) <= self.limit or any(
            fnmatchcase(f"{module}.{short}", pattern) or fnmatchcase(short, pattern) for pattern in self.exclude
        )
        return ("float16" if self.float16 else "others") if small else "quantized"


def is_quantized(state: Mapping[str, Any]) -> bool:
    """Whether the state of a network is what diffq makes of it."""
    return set(_PARTS) <= state.keys()


def restore_quantized(
    state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: str
) -> dict[str, NDArray[Any]]:
    """Restore a network's parameters from a state that diffq wrote.

    The networks of Demucs have neither buffers nor shared parameters, which diffq treats apart.

    state : its three lists of tensors, and ``meta``, the quantiser with its options
    shapes : of all parameters by name, in torch's order
    where : the file, for the messages

    Returns the parameters by name: float32 where they were quantised, else as stored.

    Raises
    ------
    ModelError : the state is no such thing, or does not fit the parameters
    """
    try:
        quantizer = _quantizer(state)
        stored = {part: iter(_items(state[part], part)) for part in _PARTS}
    except ModelError as error:
        raise ModelError(f"cannot use '{where}': {error}") from error
    tensors: dict[str, NDArray[Any]] = {}
    for name, shape in shapes.items():
        part = quantizer.part(name, shape)
        try:
            item = _next(stored[part], part)
            tensors[name] = _restored(quantizer, item, shape) if part == "quantized" else _as_stored(item, shape)
        except ModelError as error:
            raise ModelError(f"cannot restore tensor '{name}' of '{where}': {error}") from error
    for part, rest in stored.items():
        if any(True for _ in rest):
            raise ModelError(f"cannot use '{where}': '{part}' holds more tensors than its configuration has")
    return tensors


def _next(items: Iterator[Any], part: str) -> Any:
    for item in items:
        return item
    raise ModelError(f"'{part}' holds too few tensors for its configuration")


def _items(value: object, what: str, n: int | None = None) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or n not in (None, len(value)):
        raise ModelError(f"{what} must be a list{'' if n is None else f' of {n}'}, got {shown(value)}")
    return value


def _quantizer(state: Mapping[str, Any]) -> _Quantizer:
    if not is_quantized(state) or not state.keys() <= {*_PARTS, "meta", "__quantized"}:
        raise ModelError(f"a quantised state must have {', '.join(_PARTS)} and meta, got {shown(list(state))}")
    match state.get("meta"):
        case {
            "klass": Reference(module="diffq.diffq", name="DiffQuantizer"),
            "init_kwargs": Mapping() as given,
            **flags,
        }:
            defaults = _DIFFQ
        case {
            "klass": Reference(module="diffq.uniform", name="UniformQuantizer"),
            "init_kwargs": Mapping() as given,
            **flags,
        }:
            defaults = _UNIFORM
        case meta:
            raise ModelError(f"no quantiser that is known wrote it: {shown(meta)}")
    for key in given:
        if key not in defaults and key not in _WITHOUT_EFFECT:
            raise ModelError(f"its quantiser has an unknown option {shown(key)}")
    options: dict[str, Any] = {**defaults, **given}
    exclude = options["exclude"] or []
    for pattern in _items(exclude, "exclude"):
        # Patterns become regular expressions.
        if not isinstance(pattern, str) or not re.fullmatch(r"[\w.*?]{1,100}", pattern):
            raise ModelError(f"exclude must hold names with * and ?, got {shown(pattern)}")
    return _Quantizer(
        limit=_number("min_size", options["min_size"], 1 << 20) * 2**20 // 4,
        float16=_flag("float16", options["float16"]),
        exclude=tuple(exclude),
        bits=_whole("bits", options["bits"], 1, _MOST_BITS) if "bits" in options else None,
        group_size=_whole("group_size", options.get("group_size", 0), 0, 1 << 30),
        min_bits=_whole("min_bits", options.get("min_bits", 0), 0, _MOST_BITS),
        packed=_flag("packed", flags.get("packed", False)),
        torch_pack=_flag("torch_pack", flags.get("torch_pack", False)),
    )


def _number(name: str, value: object, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ModelError(f"{name} must be a number from 0 to {most}, got {shown(value)}")
    return value


def _whole(name: str, value: object, least: int, most: int) -> int:
    number = _number(name, value, most)
    if number % 1 or number < least:
        raise ModelError(f"{name} must be a whole number from {least} to {most}, got {shown(value)}")
    return int(number)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ModelError(f"{name} must be true or false, got {shown(value)}")
    return value


def _as_stored(item: object, shape: tuple[int, ...]) -> NDArray[Any]:
    tensor = _tensor(item, "its value", "f")
    if tensor.shape != shape:
        raise ModelError(f"it must have shape {shape}, got {tensor.shape}")
    return tensor


def _tensor(item: object, what: str, kinds: str) -> NDArray[Any]:
    if not isinstance(item, np.ndarray) or item.dtype.kind not in kinds:
        raise ModelError(
            f"{what} must be a tensor of {'numbers' if kinds == 'f' else 'whole numbers'}, got {shown(item)}"
        )
    return item


def _restored(quantizer: _Quantizer, item: object, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Restore a quantised parameter."""
    if quantizer.bits is not None:
        levels, scales = _items(item, "a quantised parameter", 2)
        values = _uniform_levels(quantizer, levels, shape, quantizer.bits).astype(np.float32)
        values *= np.float32(1) / np.float32(2**quantizer.bits - 1)
    else:
        levels, scales, bits = _items(item, "a quantised parameter", 3)
        levels, bits = _grouped_levels(quantizer, levels, bits, math.prod(shape))
        values = levels.astype(np.float32)
        values *= (np.float32(1) / ((1 << bits) - 1).astype(np.float32))[:, np.newaxis]
    low, high = (_scale(value) for value in _items(scales, "the range of a parameter", 2))
    values *= np.float32(high - low)
    values += np.float32(low)
    return values.reshape(shape)


def _scale(value: object) -> float:
    # Half of the largest float32, so that the width of the range is one too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1.7e38:
        raise ModelError(f"the range of a parameter must be two finite numbers, got {shown(value)}")
    return float(value)


def _uniform_levels(quantizer: _Quantizer, item: object, shape: tuple[int, ...], bits: int) -> NDArray[Any]:
    if quantizer.packed:
        return _unpacked(quantizer, item, math.prod(shape), bits, "its levels")
    levels = _tensor(item, "its levels", "iu")
    if levels.shape != shape:
        raise ModelError(f"its levels must have shape {shape}, got {levels.shape}")
    return _checked(levels, 0, 2**bits - 1, "levels")


def _grouped_levels(
    quantizer: _Quantizer, item: object, stored_bits: object, n: int
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Return the levels of n weights [shape=(group, weight)], and the bits of each group [shape=(group,)]."""
    group = quantizer.group_size or n
    if n % group:
        raise ModelError(f"its {n} values do not fall into groups of {group}")
    if quantizer.packed:
        return _packed_groups(quantizer, item, stored_bits, n // group, group)
    levels = _tensor(item, "its levels", "iu")
    bits = _tensor(stored_bits, "its bits", "iu")
    if levels.shape != (n // group, group) or bits.shape not in ((n // group,), (n // group, 1)):
        raise ModelError(f"it must have {n // group} groups of {group}, got levels {levels.shape}, bits {bits.shape}")
    bits = _checked(bits, 1, _MOST_BITS, "bits").reshape(-1).astype(np.int32)
    if levels.min() < 0 or (levels.max(axis=1) >= 1 << bits).any():
        raise ModelError("it has levels beyond its bits")
    return levels, bits


def _packed_groups(
    quantizer: _Quantizer, item: object, stored_bits: object, n_groups: int, group: int
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """The levels of all groups with the same number of bits are packed together, bits from 1 on."""
    by_bits = _items(item, "packed levels", _MOST_PACKED_BITS)
    n_stored = sum(_capacity(packed) for packed in by_bits)
    if n_stored < n_groups * group:  # ahead of making room for what may be a wild claim
        raise ModelError(f"it must have {n_groups * group} levels, and at most {n_stored} are stored")
    bits = _unpacked(quantizer, stored_bits, n_groups, None, "its bits").astype(np.int32)
    bits += quantizer.min_bits
    _checked(bits, 1, _MOST_PACKED_BITS, "bits")
    levels = np.empty((n_groups, group), np.uint16)
    for n_bits, packed in enumerate(by_bits, 1):
        chosen = bits == n_bits
        n_levels = int(np.count_nonzero(chosen)) * group
        what = f"its levels of {n_bits} bits"
        if packed is not None:
            levels[chosen] = _unpacked(quantizer, packed, n_levels, n_bits, what).reshape(-1, group)
        elif n_levels:
            raise ModelError(f"{what} are missing, {n_levels} in number")
    return levels, bits


def _capacity(packed: object) -> int:
    """How many levels packed ones can be: one for every bit of a plane."""
    if packed is None:
        return 0
    words = _tensor(packed, "its levels", "iu")
    return words.nbytes * 8 // max(1, words.shape[-2]) if words.ndim > 1 and words.shape[-2] else 0


def _unpacked(quantizer: _Quantizer, item: object, n: int, n_bits: int | None, what: str) -> NDArray[np.uint16]:
    """Unpack n numbers of `n_bits` (None: as many as there are planes) from the planes of their bits."""
    words = _tensor(item, what, "iu")
    word, block = (16, -(-n // 16)) if quantizer.torch_pack else (64, _BLOCK)
    n_lines = 1 if quantizer.torch_pack else -(-n // (word * block))
    n_planes = words.shape[-2] if words.ndim > 1 and n_bits is None else n_bits
    expected = (n_planes, block) if quantizer.torch_pack else (n_lines, n_planes, block)
    if n_planes is None or n_planes > _MOST_BITS or words.shape != expected or words.itemsize * 8 != word:
        raise ModelError(f"{what} must be {n} packed numbers, got {words.dtype} of shape {words.shape}")
    numbers = np.zeros((n_lines, word, block), np.uint16)
    words = words.reshape(n_lines, n_planes, block)
    for start in range(0, n_lines, _LINES):  # since every bit becomes a byte on the way
        lines = slice(start, start + _LINES)
        for plane in range(n_planes):
            octets = np.ascontiguousarray(words[lines, plane, :, np.newaxis], words.dtype.newbyteorder("<"))
            bits = np.unpackbits(octets.view(np.uint8), axis=2, bitorder="little")
            numbers[lines] |= bits.swapaxes(1, 2).astype(np.uint16) << plane
    if numbers.reshape(-1)[n:].any():  # filled up with zeros
        raise ModelError(f"{what} must be {n} packed numbers, got more")
    return numbers.reshape(-1)[:n]


def _checked(numbers: NDArray[Any], least: int, most: int, what: str) -> NDArray[Any]:
    if not (least <= numbers.min() and numbers.max() <= most):
        raise ModelError(f"it has {what} beyond {least} to {most}")
    return numbers
