"""Tables of the report, and its sections one by one: what was not measured again stays as it is."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["BF16_FLAGS", "Results", "kept_sections", "measured_on", "table"]

Results = dict[str, Any]
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown, all columns but the first to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def measured_on(machine: Results) -> str:
    """A line on where and when a section was measured, for those that say it themselves."""
    flags = ", ".join(machine["flags"]) or "no AVX2"
    sides = (machine["ours"], machine["demucs"])
    ours, theirs = (", ".join(f"{name} {version}" for name, version in side.items()) for side in sides)
    return (
        f"\n*Measured {machine['date']} at `{machine['commit']}`: {machine['processor']}, {machine['cores']} cores "
        f"({flags}), {machine['memory_gib']} GiB, load before {machine['load']}; ours: {ours}; "
        f"theirs: {theirs}.*\n"
    )


def kept_sections(text: str) -> dict[str, str]:
    """The sections of a report by title, without it; what comes before the first goes by ""."""
    before, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    return {"": before} | {title: body.strip("\n") for title, _, body in (part.partition("\n") for part in parts)}
