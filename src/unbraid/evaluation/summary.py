"""What many tracks come to: a table for people, beside what others have published, and a table for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from unbraid.evaluation.aggregate import AVERAGE, Aggregation, Summary, averaged_stems, frame_value, summarise, tabulate
from unbraid.evaluation.published import MEDIANS, published_rows
from unbraid.evaluation.report import Table
from unbraid.evaluation.results import BSS_METRICS, TrackScores
from unbraid.evaluation.whole_file import write_whole

__all__ = ["HEADINGS", "MEASURED_HERE", "Summaries", "ranking", "summary_table", "tidy_rows", "write_csv"]

HEADINGS = ("system", "subset", "track", "stem", "score", "over", "value")
MEASURED_HERE = "measured here"  # in place of a source
CAPTION = (
    "dB. SDR, ISR, SIR and SAR: BSSEval, median over windows, then over tracks, as in SiSEC 2018; "
    "uSDR and SI-SDR: of whole tracks, mean over tracks."
)
_INTERVALS = " In brackets: 95 % bootstrap interval over tracks."
_WHOLE = ("uSDR", "SI-SDR")
_SCORES = (*BSS_METRICS, *_WHOLE)


@dataclass(frozen=True)
class Summaries:
    """What the tracks of some systems come to.

    stems : those of any system, in the order in which they come
    by_system : system → (score, stem or average) → summary; scores of whole tracks are averaged, as in the challenges
        that they come from, those of BSSEval are medians
    """

    stems: tuple[str, ...]
    by_system: Mapping[str, Mapping[tuple[str, str], Summary]]

    @staticmethod
    def of(tracks: Sequence[TrackScores]) -> Summaries:
        """Summarise the tracks of one or several systems, one after the other."""
        found = {}
        for system, some in groupby(tracks, key=lambda track: track.system):
            table = tabulate(list(some))
            means = summarise(table, Aggregation(tracks="mean"))
            whole = {key: means[key] for key in means if key[0] in _WHOLE}
            found[system] = {**summarise(table), **whole}
        return Summaries(tuple(dict.fromkeys(stem for track in tracks for stem in track.stems)), found)


def summary_table(summaries: Summaries, *, intervals: bool = True) -> Table:
    """One row for each system and score; `intervals` : whether to add the bootstrap intervals."""
    stems = summaries.stems
    rows = [
        [system, score, *(_cell(of_system.get((score, name)), intervals) for name in (*stems, AVERAGE)), n_tracks]
        for system, of_system in summaries.by_system.items()
        for score in _SCORES
        if (n_tracks := _n_tracks(of_system, score, stems)) != "0"
    ]
    return Table(["System", "Score", *stems, AVERAGE, "Tracks"], rows, CAPTION + _INTERVALS * intervals)


def ranking(summaries: Summaries, score: str) -> Table | None:
    """The systems, on MUSDB18's test set, among published ones, best first; None where none has these stems."""
    stems = summaries.stems
    places = []
    for system, of_system in summaries.by_system.items():
        values = [of_system[score, stem].value if (score, stem) in of_system else np.nan for stem in stems]
        places.append((f"▶ {system}", values, _average(stems, values), MEASURED_HERE))
    n_own = len(places)
    for row in published_rows():
        if row.metric == score:
            values = [row.values.get(stem, np.nan) for stem in stems]
            average = _average(stems, values)
            if np.isnan(average) and row.all is not None and set(averaged_stems(stems)) == _FOUR:
                average = row.all
            name = f"{row.system} + {row.extra}" if row.extra else row.system
            if np.isfinite([*values, average]).any():
                # Another aggregation moves a score by a tenth or two.
                source = row.source if row.aggregation == MEDIANS else f"{row.source} ({row.aggregation})"
                places.append((name, values, average, source))
    if len(places) == n_own:
        return None
    places.sort(key=lambda place: -place[2] if np.isfinite(place[2]) else np.inf)
    rows = [[name, *map(_plain, values), _plain(average), source] for name, values, average, source in places]
    caption = f"{score} in dB beside published scores on MUSDB18's test set, best first; {AVERAGE}: mean of the stems."
    return Table(["System", *stems, AVERAGE, "Source"], rows, caption)


_FOUR = {"vocals", "drums", "bass", "other"}  # of which published averages are


def _average(stems: Sequence[str], values: Sequence[float]) -> float:
    """The mean of those stems that `AVERAGE` is of."""
    averaged = averaged_stems(stems)
    return float(np.mean([value for stem, value in zip(stems, values, strict=True) if stem in averaged]))


def _n_tracks(summaries: Mapping[tuple[str, str], Summary], score: str, stems: Sequence[str]) -> str:
    return str(max((summaries[score, stem].n_tracks for stem in stems if (score, stem) in summaries), default=0))


def _cell(summary: Summary | None, intervals: bool) -> str:
    if summary is None:
        return "–"
    has_interval = intervals and np.isfinite(summary.low) and np.isfinite(summary.high)
    return _plain(summary.value) + (f" [{summary.low:.2f}, {summary.high:.2f}]" if has_interval else "")


def _plain(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"


def tidy_rows(tracks: Sequence[TrackScores]) -> Iterator[tuple[str, ...]]:
    """One row for each number: system, subset, track, stem, score, what it is over, and the number itself."""
    for scores in tracks:
        about = (scores.system, scores.subset, scores.track)
        for stem, of_stem in scores.stems.items():
            for metric, frames in of_stem.frames.items():
                for how in ("median", "mean"):
                    yield (*about, stem, metric, f"{how} of frames", f"{frame_value(frames, how):.5f}")
            for score, value in of_stem.whole.items():
                yield (*about, stem, score, "track", f"{value:.7g}" if score == "L1" else f"{value:.5f}")


def write_csv(path: Path, tracks: Sequence[TrackScores]) -> None:
    """Write `tidy_rows` as a CSV file in UTF-8, whole or not at all; UnbraidError if that cannot be."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([HEADINGS, *tidy_rows(tracks)])
    write_whole(path, text.getvalue().encode("utf-8", "backslashreplace").decode(), "table")
