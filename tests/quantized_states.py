"""States as diffq makes them, of random levels, and the parameters they mean: number by number, without our reader."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unbraid.weights.convert.torch_file import Reference

DIFFQ = Reference("diffq.diffq", "DiffQuantizer")
UNIFORM = Reference("diffq.uniform", "UniformQuantizer")


@dataclass(frozen=True)
class Quantizer:
    """A quantiser's options, and the form in which it writes.

    form : "packed", "torch_pack", "plain", "0.1" (plain, as version 0.1 wrote: without meta, bits in a column), "0.2.0"
        (packed, as only that version wrote: empty arrays of unsigned words instead of None)
    """

    kind: Reference = DIFFQ
    form: str = "packed"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def packed(self) -> bool:
        return self.form in ("packed", "torch_pack", "0.2.0")

    def meta(self) -> dict[str, Any]:
        flags = {"packed": self.packed, "torch_pack": self.form == "torch_pack"}
        return {"init_kwargs": dict(self.options), "klass": self.kind, **flags}


def quantized_state(
    quantizer: Quantizer, shapes: Mapping[str, tuple[int, ...]], large: set[str], rng: np.random.Generator
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return a state, and the parameters that it means.

    large : names of the parameters to quantise
    """
    parts: dict[str, list[Any]] = {"quantized": [], "float16": [], "others": []}
    meant: dict[str, NDArray[Any]] = {}
    for name, shape in shapes.items():
        if name in large:
            item, meant[name] = _quantized(quantizer, shape, rng)
            parts["quantized"].append(item)
        else:
            half = quantizer.options.get("float16", False)
            meant[name] = rng.standard_normal(shape).astype(np.float16 if half else np.float32)
            parts["float16" if half else "others"].append(meant[name])
    state: dict[str, Any] = {**parts}
    if quantizer.form != "0.1":
        state |= {"meta": quantizer.meta(), "__quantized": True}
    return state, meant


def _quantized(quantizer: Quantizer, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Any, NDArray[Any]]:
    n = math.prod(shape)
    low, high = sorted(float(np.float32(value)) for value in rng.normal(size=2))
    if quantizer.kind == UNIFORM:
        bits = int(quantizer.options.get("bits", 8))
        levels = rng.integers(0, 2**bits, n)
        item: Any = _pack(levels, bits, quantizer.form) if quantizer.packed else _plain(levels, bits).reshape(shape)
        return (item, (low, high)), _meant(levels, np.full(n, bits), low, high).reshape(shape)
    group = quantizer.options.get("group_size", 1) or n
    least = quantizer.options.get("min_bits", 2)
    group_bits = rng.integers(least, 15 if quantizer.packed else 16, n // group)
    levels = rng.integers(0, 2 ** np.repeat(group_bits, group))
    meant = _meant(levels, np.repeat(group_bits, group), low, high).reshape(shape)
    if not quantizer.packed:
        column = (-1, 1) if quantizer.form == "0.1" else -1
        plain = _plain(levels, group_bits.max()).reshape(-1, group)
        return (plain, (low, high), group_bits.astype(np.uint8).reshape(column)), meant
    by_bits = []
    for bits in range(1, 15):
        chosen = [level for level, own in zip(levels, np.repeat(group_bits, group), strict=True) if own == bits]
        by_bits.append(_pack(chosen, bits, quantizer.form) if chosen or quantizer.form == "0.2.0" else None)
    width = int(max(group_bits - least)).bit_length()
    return (by_bits, (low, high), _pack(group_bits - least, width, quantizer.form)), meant


def _plain(levels: NDArray[Any], bits: int) -> NDArray[Any]:
    return levels.astype(np.uint8 if bits <= 8 else np.int16)


def _meant(levels: NDArray[Any], bits: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """value = level / (2^bits - 1) · (high - low) + low, rounded to float32 after each step."""
    one = np.float32
    return np.array(
        [
            one(one(one(level) * one(one(1) / one(2 ** int(own) - 1))) * one(high - low)) + one(low)
            for level, own in zip(levels, bits, strict=True)
        ],
        np.float32,
    )


def _pack(numbers: Any, n_bits: int, form: str) -> NDArray[Any]:
    """Pack numbers bit by bit into words."""
    numbers = [int(number) for number in numbers]
    if form == "torch_pack":
        n_words = math.ceil(len(numbers) / 16)
        words = [[0] * n_words for _ in range(n_bits)]
        for i, number in enumerate(numbers):
            for bit in range(n_bits):
                words[bit][i % n_words] |= (number >> bit & 1) << i // n_words
        return np.array(words, np.uint16).view(np.int16).reshape(n_bits, n_words)
    n_lines = math.ceil(len(numbers) / 2048)
    lines = [[[0] * 32 for _ in range(n_bits)] for _ in range(n_lines)]
    for i, number in enumerate(numbers):
        for bit in range(n_bits):
            lines[i // 2048][bit][i % 32] |= (number >> bit & 1) << i % 2048 // 32
    packed = np.array(lines, np.uint64).reshape(n_lines, n_bits, 32)
    return packed if form == "0.2.0" else packed.view(np.int64)
