"""What others have measured, as published.toml has it."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["MEDIANS", "PublishedRow", "published_rows"]

_PATH = Path(__file__).with_name("published.toml")

# The aggregation of SiSEC 2018 and of `Aggregation()`.
MEDIANS = "median of frames, median of songs"

_METRICS = ("SDR", "ISR", "SIR", "SAR", "SI-SDR", "uSDR")
_KINDS_OF_ALL = ("mean", "together", "")


@dataclass(frozen=True)
class PublishedRow:
    """What one table says of one system; numbers in dB, as printed.

    system, extra : its name; what it was trained on beyond the dataset's own training set, or ""
    dataset, metric, aggregation : on what, and how the numbers are made; rows that differ here must not be compared
    values : by stem; none where only `all` is published
    all, kind_of_all : the number for all stems, or None; "mean" (`AVERAGE`) or "together" (`ALL`), or ""
    all_differs : whether `all` is not what `kind_of_all` says, as in a misprint
    source : the document and its table
    table_note, note : what else is to be known, or ""
    """

    system: str
    dataset: str
    metric: str
    aggregation: str
    source: str
    extra: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    all: float | None = None
    kind_of_all: str = ""
    all_differs: bool = False
    table_note: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        # The file is part of the package: what is wrong with it is our own mistake.
        assert self.metric in _METRICS, self
        assert self.kind_of_all in _KINDS_OF_ALL, self
        assert self.values or self.all is not None, self
        assert bool(self.kind_of_all) or self.all is None, self
        assert all(math.isfinite(value) for value in (*self.values.values(), self.all or 0.0)), self


@cache
def published_rows() -> tuple[PublishedRow, ...]:
    """Every row of every table, in the order of the file."""
    with _PATH.open("rb") as file:
        content = tomllib.load(file)
    return tuple(_row(row, table) for table in content["tables"] for row in table["rows"])


def _row(row: Mapping[str, Any], table: Mapping[str, Any]) -> PublishedRow:
    shared = {key: table[key] for key in ("dataset", "metric", "aggregation", "source")}
    facts = dict(row) | {"values": MappingProxyType(row.get("values", {}))}
    return PublishedRow(**shared, kind_of_all=table["all"], table_note=table.get("note", ""), **facts)
