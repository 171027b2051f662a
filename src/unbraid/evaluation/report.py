"""The report of an evaluation: one HTML file that holds all it needs, and asks no network for anything."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from unbraid.errors import UnbraidError
from unbraid.evaluation.aggregate import frame_value
from unbraid.evaluation.results import BSS_METRICS, ScoreArray, StemScores, TrackScores
from unbraid.evaluation.scores import SCORES
from unbraid.evaluation.whole_file import write_whole

__all__ = ["Table", "write_report"]

# Of the boxes: whiskers, edges and middle. Whiskers that leave out 5 % at either end keep one silent track from
# squashing all the rest.
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# The axis of box plots shows the boxes whose median lies so near to the median of all: the SAR of an untouched mix is
# nearly infinite. It is never narrower than a difference that can be heard.
_REACH_DB = 30.0
_NARROWEST_DB = 2.0
# Frames are sent as hundredths in 16 bits; what does not fit, ±327.66 dB, has codes of its own.
_NOT_A_NUMBER, _INFINITE = -32768, 32767
# Scores that are not in dB, with the decimals that they need.
_PLAIN_DECIMALS = {"L1": 4}
# Cells that make a column one of numbers: "−1.25", "8.1 dB", "6.3 ± 0.2", "6.3 [6.0, 6.8]"; or "–" for none.
_NUMBER = re.compile(r"[-+−±\d.,;∞ \[\]()–—%dB]*")


@dataclass(frozen=True)
class Table:
    """A table of finished strings, whose first column names the row.

    Raises
    ------
    ValueError
        If a row is not as long as the headers.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.headers):
                raise ValueError(f"a row must have {len(self.headers)} cells, got {len(row)}: {list(row)}")


@dataclass(frozen=True, eq=False)
class _Results:
    """The scores in the order of the report: systems and stems as they come, tracks by name.

    scored : (system, label of the track) → its scores
    """

    systems: tuple[str, ...]
    stems: tuple[str, ...]
    labels: tuple[str, ...]
    scored: Mapping[tuple[str, str], TrackScores]

    def stem(self, system: str, label: str, stem: str) -> StemScores | None:
        """The scores of one stem, or None where there are none."""
        track = self.scored.get((system, label))
        return None if track is None else track.stems.get(stem)


def write_report(
    path: Path, tracks: Sequence[TrackScores], *, title: str, tables: Sequence[Table], notes: Sequence[str] = ()
) -> None:
    """Write an HTML report with tables, box plots, bars per track and scores over time.

    The file shows itself offline, in light and dark, on a screen or a phone; the address after `#` holds what the
    reader chose (`report.html#track=…&stem=vocals`), so that a link leads to one track. It is written whole or not at
    all.

    Parameters
    ----------
    path : Path
        Where; an existing file is replaced.
    tracks : sequence of TrackScores
        One per system and track, of one or several systems; a system may lack a track or a stem.
    title : str
        The heading.
    tables : sequence of Table
        The summary, such as the medians, and those that others have published.
    notes : sequence of str
        Lines below the title: the dataset, the date, what was run.

    Raises
    ------
    ValueError
        If there are no tracks, or one system has two scores for the same track.
    UnbraidError
        If plotly is not installed, or the file cannot be written.
    """
    results = _gathered(tracks)
    page = Template(_part("report.html")).substitute(
        title=html.escape(title),
        notes=_paragraphs(notes),
        table="\n".join(map(_table, tables)),
        nothing="" if _scores(results) else "nothing",
        remarks=_list(_remarks(results)),
        notices=_notices(results),
        settings=_settings(results),
        style=_part("report.css"),
        script=_part("report.js"),
        plotly=_plotly(),
        data=_embedded(_data(results)),
    )
    write_whole(path, _writable(page), "report")


def _gathered(tracks: Sequence[TrackScores]) -> _Results:
    if not tracks:
        raise ValueError("a report needs at least one track")
    several = len({track.subset for track in tracks}) > 1
    scored: dict[tuple[str, str], TrackScores] = {}
    for track in tracks:
        system = _writable(track.system)
        label = _writable(f"{track.subset}/{track.track}" if several and track.subset else track.track)
        if (system, label) in scored:
            raise ValueError(f"{system!r} has two scores for the track {label!r}")
        scored[system, label] = track
    return _Results(
        systems=tuple(dict.fromkeys(system for system, _ in scored)),
        stems=tuple(dict.fromkeys(stem for track in tracks for stem in track.stems)),
        labels=tuple(sorted(dict.fromkeys(label for _, label in scored), key=lambda label: (label.casefold(), label))),
        scored=scored,
    )


def _writable(name: str) -> str:
    """The name of a file may hold bytes that are no UTF-8, which no page and no address can hold."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


# What the script of the page draws.


def _data(results: _Results) -> dict[str, Any]:
    """All that the page draws, as plain numbers and strings; see report.js."""
    return {
        "systems": results.systems,
        "stems": results.stems,
        "tracks": results.labels,
        "scores": _scores(results),
        "frames": {
            system: {
                label: _frames(results.scored[system, label])
                for label in results.labels
                if (system, label) in results.scored
            }
            for system in results.systems
        },
    }


def _scores(results: _Results) -> list[dict[str, Any]]:
    """Every score that any stem has, one number a track: medians over the frames first, then those of whole tracks."""
    stems = [scores for track in results.scored.values() for scores in track.stems.values()]
    framewise = [metric for metric in BSS_METRICS if any(metric in scores.frames for scores in stems)]
    whole = dict.fromkeys(name for scores in stems for name in scores.whole)
    return [_score(results, name, framewise=True) for name in framewise] + [
        _score(results, name, framewise=False) for name in whole
    ]


def _score(results: _Results, name: str, *, framewise: bool) -> dict[str, Any]:
    def one(scores: StemScores | None) -> float:
        if scores is None:
            return np.nan
        if not framewise:
            return scores.whole.get(name, np.nan)
        return frame_value(scores.frames[name]) if name in scores.frames else np.nan

    values = np.array(
        [
            [[one(results.stem(system, label, stem)) for label in results.labels] for stem in results.stems]
            for system in results.systems
        ],
        dtype=np.float64,
    )
    decimals = _PLAIN_DECIMALS.get(name, 2)
    kind = SCORES.get(name.partition(":")[0])  # "bleed:vocals" is a kind of "bleed"
    boxes = [[_box(of_stem) for of_stem in of_system] for of_system in values]
    return {
        "name": f"{name} (whole track)" if name in BSS_METRICS and not framewise else name,
        "framewise": framewise,
        "unit": "" if name in _PLAIN_DECIMALS else "dB",
        "decimals": decimals,
        "lessIsBetter": kind is not None and not kind.higher_is_better,
        "values": [[[_plain(value, decimals) for value in stem] for stem in system] for system in values],
        "boxes": [[box and [round(value, decimals) for value in box] for box in system] for system in boxes],
        "counts": np.isfinite(values).sum(axis=2).tolist(),
        "range": _axis([box for system in boxes for box in system if box], in_db=name not in _PLAIN_DECIMALS),
    }


def _box(values: ScoreArray) -> list[float] | None:
    """The quantiles of the finite scores, or None where there are none."""
    finite = values[np.isfinite(values)]
    return np.quantile(finite, _QUANTILES).tolist() if finite.size else None


def _axis(boxes: Sequence[Sequence[float]], *, in_db: bool) -> list[float] | None:
    """From the lowest to the highest whisker and a little more, but not for the sake of a stray box."""
    if not boxes:
        return None
    middle = float(np.median([box[2] for box in boxes]))
    near = [box for box in boxes if not in_db or abs(box[2] - middle) <= _REACH_DB] or boxes
    lowest, highest = min(box[0] for box in near), max(box[-1] for box in near)
    if in_db:
        lowest, highest = max(lowest, middle - _REACH_DB), min(highest, middle + _REACH_DB)
        lacking = max(0.0, _NARROWEST_DB - (highest - lowest)) / 2.0
        lowest, highest = lowest - lacking, highest + lacking
    margin = 0.05 * (highest - lowest) or 0.05 * abs(highest) or 1.0
    return [lowest - margin, highest + margin]


def _plain(value: float, decimals: int) -> float | str | None:
    """What JSON can hold of a score: NaN becomes null, and ∞ a string that JavaScript's Number understands."""
    if np.isnan(value):
        return None
    if np.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return round(float(value), decimals)


def _frames(track: TrackScores) -> dict[str, Any]:
    return {
        "window": track.window_s,
        "hop": track.hop_s,
        "stems": {
            stem: {metric: _packed(scores.frames[metric]) for metric in BSS_METRICS if metric in scores.frames}
            for stem, scores in track.stems.items()
        },
    }


def _packed(values: ScoreArray) -> str:
    """Hundredths as 16-bit integers in base64: a third of the length of the same numbers in writing."""
    known = np.where(np.isnan(values), 0.0, values)
    hundredths = np.clip(np.rint(100.0 * known), -_INFINITE, _INFINITE)
    codes = np.where(np.isnan(values), _NOT_A_NUMBER, hundredths).astype("<i2")
    return base64.b64encode(codes.tobytes()).decode("ascii")


def _embedded(data: object) -> str:
    """JSON that cannot end the script element around it, whatever names it holds."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _part(name: str) -> str:
    return (resources.files("unbraid.evaluation") / "report_page" / name).read_text(encoding="utf-8")


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UnbraidError(
            f"cannot write the report: cannot load plotly ({error}): pip install 'unbraid[evaluate]'"
        ) from error
    return str(get_plotlyjs())


# What the page says in words.


def _remarks(results: _Results) -> list[str]:
    """What is missing, system by system."""
    found = []
    for system in results.systems:
        tracks = [results.scored[system, label] for label in results.labels if (system, label) in results.scored]
        missing = [label for label in results.labels if (system, label) not in results.scored]
        if missing:
            found.append(f"{system}: no scores for {_enumerated(missing, 'track')}.")
        lacking = [stem for stem in results.stems if not any(stem in track.stems for track in tracks)]
        if lacking:
            found.append(f"{system}: no scores for {_enumerated(lacking, 'stem')}.")
    return found


def _notices(results: _Results) -> str:
    """The notices of the tracks, each once, with the tracks that it concerns."""
    concerned: dict[tuple[str, str], list[str]] = {}
    for (system, label), track in sorted(results.scored.items(), key=lambda item: results.labels.index(item[0][1])):
        for notice in track.notices:
            concerned.setdefault((system, notice), []).append(label)
    if not concerned:
        return "<p>None of the tracks has a notice.</p>"
    rows = [
        (system, notice, _enumerated(labels, "track"))
        for (system, notice), labels in sorted(concerned.items(), key=lambda item: results.systems.index(item[0][0]))
    ]
    return _table(Table(("System", "Notice", "Tracks"), rows, "Notices"))


def _settings(results: _Results) -> str:
    """Setting by system; one that differs between tracks shows all its values."""
    names = dict.fromkeys(name for track in results.scored.values() for name in track.settings)
    if not names:
        return "<p>No settings were recorded.</p>"

    def values(name: str, system: str) -> str:
        found = dict.fromkeys(
            track.settings.get(name, "–") for (of, _), track in results.scored.items() if of == system
        )
        return _enumerated(list(found), "value")

    rows = [(name, *(values(name, system) for system in results.systems)) for name in names]
    return _table(Table(("Setting", *results.systems), rows, "Settings"))


def _enumerated(names: Sequence[str], kind: str, *, most: int = 12) -> str:
    """One name as it is, several as "2 tracks: a, b" or "90 tracks: a, b, … and 78 more"."""
    if len(names) == 1:
        return names[0]
    rest = f", … and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} {kind}s: {', '.join(names[:most])}{rest}"


def _paragraphs(lines: Iterable[str]) -> str:
    return "\n".join(f"<p>{html.escape(line)}</p>" for line in lines)


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


def _holds_numbers(column: Sequence[str]) -> bool:
    return all(map(_NUMBER.fullmatch, column)) and any(letter.isdigit() for text in column for letter in text)


def _table(table: Table) -> str:
    """Markup of a table that scrolls sideways where it is too wide; columns of numbers are set flush right."""
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.headers)
    flush = [' class="number"' if index and _holds_numbers(column) else "" for index, column in enumerate(columns)]
    head = "".join(
        f'<th scope="col"{kind}>{html.escape(text)}</th>' for kind, text in zip(flush, table.headers, strict=True)
    )
    rows = [
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td{kind}>{html.escape(text)}</td>" for kind, text in zip(flush[1:], row[1:], strict=True))
        + "</tr>"
        for row in table.rows
    ]
    label = html.escape(table.caption or "Table")
    caption = f"<caption>{html.escape(table.caption)}</caption>" if table.caption else ""
    return (
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table>{caption}'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
