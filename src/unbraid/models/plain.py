"""Frozen configurations as plain data (numbers, strings, lists, tables), and the checks that they share."""

from __future__ import annotations

import difflib
import math
import reprlib
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from unbraid.errors import ModelError

__all__ = ["check_fields", "check_known", "check_stems", "read_plain", "shown", "write_plain"]

Config = TypeVar("Config")


def read_plain(kind: type[Config], content: object, name: str = "") -> Config:
    """Make a configuration of plain data.

    kind : a dataclass whose fields are bool, int, float, str, such dataclasses, tuples of one of these, or one of
        these or None
    content : values by field name, as TOML or JSON gives them: lists for tuples, tables for dataclasses; a field
        that is absent has its default
    name : of the table, for the messages; "" for the outermost

    Raises
    ------
    ModelError : an unknown key (the nearest known one is named), a missing one, or a value that `kind` refuses
    """
    if not isinstance(content, Mapping):
        raise ModelError(f"{name or 'the configuration'} must be a table, got {shown(content)}")
    prefix = f"{name}." if name else ""
    hints = _hints(kind)
    check_known("key", content, hints, prefix)
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name not in content and field.default is MISSING and field.default_factory is MISSING:
            raise ModelError(f"{prefix}{field.name} is missing")
    return kind(**{key: _value(hints[key], value, prefix + key) for key, value in content.items()})


def write_plain(config: Any) -> dict[str, Any]:
    """Turn a configuration into what `read_plain` makes the same one of; a field that is None is left out."""
    return {
        field.name: _plain(getattr(config, field.name))
        for field in fields(config)
        if getattr(config, field.name) is not None
    }


def check_fields(config: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Check that every field of a configuration has the type it declares and lies in its range.

    ranges : the least and the greatest value by name of a number's field, or of a tuple of numbers. Limits keep a
        damaged file from asking for a network that fills the memory.

    Raises
    ------
    ModelError : the first field with a wrong value
    """
    for name, hint in _hints(type(config)).items():
        value = getattr(config, name)
        _check_type(name, hint, value)
        if name in ranges and value is not None:
            low, high = ranges[name]
            for number in value if isinstance(value, tuple) else (value,):
                if not low <= number <= high:
                    raise ModelError(f"{name} must be from {low:g} to {high:g}, got {shown(value)}")


def check_stems(stems: tuple[str, ...], most: int = 64) -> None:
    """Check the names of a network's stems: one or more (but not more than `most`), none empty, none twice."""
    if not isinstance(stems, tuple) or not stems or not all(isinstance(stem, str) and stem for stem in stems):
        raise ModelError(f"stems must be one name or more, got {shown(stems)}")
    if len(stems) > most:
        raise ModelError(f"stems must be at most {most}, got {len(stems)}")
    if len(set(stems)) < len(stems):
        raise ModelError(f"stems must differ from each other, got {shown(stems)}")


def check_known(what: str, names: Iterable[object], known: Iterable[str], prefix: str = "") -> None:
    """Raise ModelError for the first of the names that is not known, with the nearest that is."""
    by_lower = {name.lower(): name for name in known}
    for name in names:
        if name not in by_lower.values():
            unknown = shown(name).strip("'\"")
            near = by_lower[difflib.get_close_matches(unknown.lower(), by_lower, n=1, cutoff=0)[0]]
            raise ModelError(f"unknown {what} '{prefix}{unknown}'; the nearest known one is '{prefix}{near}'")


def shown(value: object) -> str:
    """A value of unknown origin for a message: one short line."""
    try:
        return " ".join(reprlib.repr(value).split())
    except ValueError:  # Python refuses to write out integers of thousands of digits
        return "a number of thousands of digits"


def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _value(hint: Any, value: object, name: str) -> Any:
    """Turn plain data into what a field of this type holds; its value is checked by the configuration itself."""
    hint = _without_none(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        return read_plain(hint, value, name)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ModelError(f"{name} must be a list, got {shown(value)}")
        return tuple(_value(get_args(hint)[0], item, name) for item in value)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return write_plain(value) if is_dataclass(value) else value


def _check_type(name: str, hint: Any, value: object) -> None:
    if value is None and _without_none(hint) is not hint:
        return
    hint = _without_none(hint)
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            raise ModelError(f"{name} must be a tuple, got {shown(value)}")
        for item in value:
            _check_type(name, get_args(hint)[0], item)
    elif hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or (isinstance(value, float) and not math.isfinite(value)):
            raise ModelError(f"{name} must be a number, got {shown(value)}")
    elif not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        what = {int: "a whole number", bool: "true or false", str: "a text"}.get(hint, f"a {hint.__name__}")
        raise ModelError(f"{name} must be {what}, got {shown(value)}")


def _without_none(hint: Any) -> Any:
    """X of `X | None`, and any other type as it is."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(choice for choice in get_args(hint) if choice is not type(None))
    return hint
