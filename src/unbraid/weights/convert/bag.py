"""Reads the files in which Demucs joins several networks to a bag: three keys of YAML, in flow or block style."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unbraid.errors import ModelError
from unbraid.models.plain import check_known, shown

__all__ = ["Bag", "read_bag"]

_LARGEST = 1 << 16  # bytes
_MOST_MODELS = 64
_LONGEST_S = 3600
_DEEPEST = 2  # lists within each other
_DEEPEST_INDENT = 16
_KEYS = ("models", "weights", "segment")

# Part of a list in flow style: a bracket, a comma, a text in quotes, or a plain one.
_TOKEN = re.compile(r"""\s*([\[\],]|'[^'"\\\n]*'|"[^'"\\\n]*"|[^\s\[\]{},'"#&*!|>%@`]+)""")
_NUMBER = re.compile(r"[-+]?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})([eE][-+]?\d{1,3})?")
_SIGNATURE = re.compile(r"\w[\w.-]{0,99}", re.ASCII)


@dataclass(frozen=True)
class Bag:
    """Networks whose results are averaged.

    models : signature of each, which the name of its file begins with; one may occur several times
    weights : how much its results count, for each network by stem; None for all alike
    segment_s : seconds that each of them sees at once; None for its own
    """

    models: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...] | None
    segment_s: float | None


def read_bag(path: Path) -> Bag:
    """Read the description of a bag, as Demucs publishes them: ``NAME.yaml``.

    Raises
    ------
    ModelError : the file cannot be read, or is anything but such a description
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise ModelError(f"it is larger than {_LARGEST} bytes")
        values = _values(text.decode("utf-8"))
        models = _models(values)
        return Bag(models, _weights(values.get("weights"), len(models)), _segment_s(values.get("segment")))
    except OSError as error:
        raise ModelError(f"cannot read '{path}': {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"cannot use '{path}': it is no text in UTF-8") from error
    except ModelError as error:
        raise ModelError(f"cannot use '{path}' as a bag of Demucs: {error}") from error


def _models(values: dict[str, Any]) -> tuple[str, ...]:
    models = values.get("models")
    if not isinstance(models, list) or not 1 <= len(models) <= _MOST_MODELS:
        raise ModelError(f"models must be a list of 1 to {_MOST_MODELS}, got {shown(models)}")
    for model in models:
        if not isinstance(model, str) or not _SIGNATURE.fullmatch(model):
            raise ModelError(f"models must be names of letters, digits, '.', '_', '-', got {shown(model)}")
    return tuple(models)


def _weights(value: object, n_models: int) -> tuple[tuple[float, ...], ...] | None:
    if value is None:
        return None
    rows = [[_number("weights", item) for item in _list(row)] for row in _list(value)]
    if len(rows) != n_models or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise ModelError(f"weights must be {n_models} lists of equal length, one for each model, got {shown(value)}")
    for column in zip(*rows, strict=True):
        if min(column) < 0 or not sum(column):
            raise ModelError(f"weights must not be negative, nor all 0 for a stem, got {shown(column)}")
    return tuple(tuple(row) for row in rows)


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ModelError(f"weights must be lists of numbers, got {shown(value)}")
    return value


def _segment_s(value: object) -> float | None:
    if value is None:
        return None
    segment = _number("segment", value)
    if not 0 < segment <= _LONGEST_S:
        raise ModelError(f"segment must be from 0 to {_LONGEST_S} seconds, got {shown(value)}")
    return segment


def _number(name: str, value: object) -> float:
    if not isinstance(value, str) or not _NUMBER.fullmatch(value) or not math.isfinite(float(value)):
        raise ModelError(f"{name} must be numbers, got {shown(value)}")
    return float(value)


def _values(text: str) -> dict[str, Any]:
    """Return lists, texts (numbers too) and None, by key."""
    values: dict[str, Any] = {}
    for key, lines in _entries(text):
        check_known("key", [key], _KEYS)
        if key in values:
            raise ModelError(f"it has '{key}' twice")
        value = _block(lines) if lines and lines[0].lstrip().startswith("- ") else _flow("\n".join(lines))
        values[key] = None if value in ("", "~", "null") else value
    return values


def _entries(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each key with the lines of its value; comments and empty lines are left out."""
    key = ""
    lines: list[str] = []
    for line in text.splitlines():
        line = re.sub(r"(^|\s)#.*", "", line).rstrip()
        if not line or line == "---":
            continue
        match = re.fullmatch(r"(\w+)\s*:(\s.*)?", line, re.ASCII)
        if match:
            if key:
                yield key, lines
            key, lines = match[1], [match[2]] if match[2] else []
        elif key:
            lines.append(line)
        else:
            raise ModelError(f"expected one of {', '.join(f'{name}:' for name in _KEYS)}, got {shown(line)}")
    if key:
        yield key, lines


def _block(lines: Sequence[str]) -> list[Any]:
    """Read a list of one item to a line, each behind a hyphen; an item can be such a list itself."""
    items: list[list[str]] = []
    indent = len(lines[0]) - len(lines[0].lstrip())
    for line in lines:
        start = len(line) - len(line.lstrip())
        if start == indent and re.match(r"-\s", line[start:]):
            items.append([" " * (start + 1) + line[start + 1 :]])
        elif start > indent:
            items[-1].append(line)
        else:
            raise ModelError(f"expected an item of a list, got {shown(line)}")
    return [_block(item) if _nests(item[0], indent) else _flow("\n".join(item)) for item in items]


def _nests(line: str, indent: int) -> bool:
    return line.lstrip().startswith("- ") and indent < _DEEPEST_INDENT


def _flow(text: str) -> Any:
    """Read a list in brackets, a single value, or nothing."""
    tokens = _TOKEN.findall(text)
    whole = "".join(tokens) == re.sub(r"\s", "", text)
    lists: list[list[Any]] = [[]]  # those that are open, the outermost one for the value itself
    complete = False  # nothing but a comma or a bracket can follow
    for token in tokens if whole else ["{"]:
        if token == "[" and not complete and len(lists) <= _DEEPEST:
            lists[-1].append([])
            lists.append(lists[-1][-1])
        elif token == "]" and len(lists) > 1:
            lists.pop()
            complete = True
        elif token == "," and complete and len(lists) > 1:
            complete = False
        elif token not in "[],{" and not complete:
            lists[-1].append(token.strip("'\""))
            complete = True
        else:
            raise ModelError(f"expected a list in brackets or a single value, got {shown(text)}")
    if len(lists) > 1:
        raise ModelError(f"expected the end of a list, got {shown(text)}")
    return lists[0][0] if lists[0] else ""
