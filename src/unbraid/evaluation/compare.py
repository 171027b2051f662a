"""Whether one system is really better than another, or the tracks were kind to it.

Both systems are scored on the same tracks, so the differences per track count: their Wilcoxon signed-rank test asks
whether they lie about zero evenly, the bootstrap says how large their median is. (The intervals of the systems' own
medians overlap long before two systems are alike, since hard tracks are hard for both.)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from unbraid.errors import UnbraidError
from unbraid.evaluation.aggregate import (
    AVERAGE,
    Aggregation,
    Summary,
    TrackTable,
    averaged_stems,
    summarise_values,
    tabulate,
)
from unbraid.evaluation.results import ScoreArray, TrackScores
from unbraid.evaluation.scores import SCORES

__all__ = ["Comparison", "Difference", "compare", "comparison_rows", "holm", "signed_rank_p", "verdict"]

SIGNIFICANCE = 0.05

# Scores made with other values of these are of other things. Other settings may differ, and are named, unless they are
# of the track or of the system itself.
_MUST_AGREE = ("dataset", "sample_rate", "bsseval")
_EXACT_UP_TO = 200  # tracks; a normal distribution is as good beyond


@dataclass(frozen=True)
class Difference:
    """First system minus second, track by track, of one stem or of the mean of all stems.

    stem : its name, or `AVERAGE`, of the tracks that have a score of each stem
    median, mean : over the tracks, with bootstrap intervals; in dB but for scores that are not
    wins, losses : on how many tracks the first system is better, and the second
    p : of the Wilcoxon signed-rank test, two-sided, exact up to 200 tracks; 1 where there is nothing to test
    p_adjusted : the same, by Holm's method for as many stems as were tested; that of `AVERAGE`, one test, is `p` itself
    n_tests : how many stems were tested
    """

    stem: str
    median: Summary
    mean: Summary
    wins: int
    losses: int
    p: float
    p_adjusted: float
    n_tests: int

    @property
    def n_tracks(self) -> int:
        """How many tracks both systems have a score for."""
        return self.median.n_tracks

    @property
    def lowest_p(self) -> float:
        """The lowest `p_adjusted` that so many tracks with a difference can give."""
        return min(1.0, self.n_tests * 2.0 ** (1 - self.wins - self.losses))

    @property
    def is_significant(self) -> bool:
        """Whether it is more than chance, at the 5 % level."""
        return self.p_adjusted < SIGNIFICANCE


@dataclass(frozen=True)
class Comparison:
    """Two systems on the tracks that both have.

    confidence : of the intervals
    differences : of each stem that both have, then of their mean, where there are several
    only_first, only_second : tracks that the other system lacks
    notes : settings that differ, stems that one of them lacks, and what else the reader should know
    """

    first: str
    second: str
    metric: str
    confidence: float
    differences: tuple[Difference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    notes: tuple[str, ...]


def compare(
    first: Sequence[TrackScores],
    second: Sequence[TrackScores],
    *,
    metric: str = "SDR",
    aggregation: Aggregation | None = None,
    must_agree: Collection[str] = _MUST_AGREE,
) -> Comparison:
    """Compare two systems, paired by the tracks' names.

    Parameters
    ----------
    first, second : sequence of TrackScores
        Of one system each, on one subset.
    metric : str
        As `tabulate` names it: "SDR", or one of whole tracks.
    aggregation : Aggregation, optional
        Over the frames, and for the intervals; the table has medians and means over the tracks.
    must_agree : collection of str
        Settings that have to be the same in all scores, where they are given.

    Raises
    ------
    UnbraidError
        If the scores were made in different ways, no track has been scored for both, or neither has the metric.
    """
    aggregation = aggregation or Aggregation()
    _check_settings(first, second, must_agree)
    tables = tabulate(first, frames=aggregation.frames), tabulate(second, frames=aggregation.frames)
    for table in tables:
        if metric not in table.metrics:
            raise UnbraidError(f"{table.system!r} has no {metric}; there are {', '.join(table.metrics) or 'no scores'}")
    tracks = tuple(track for track in tables[0].tracks if track in set(tables[1].tracks))
    if not tracks:
        raise UnbraidError(f"no track has been scored for both {tables[0].system!r} and {tables[1].system!r}")
    stems = tuple(stem for stem in tables[0].stems if all((metric, stem) in table.values for table in tables))
    gaps = {stem: _gaps(*(_column(table, (metric, stem), tracks) for table in tables)) for stem in stems}
    less_is_better = _less_is_better(metric)
    differences = [_difference(stem, found, len(stems), aggregation, less_is_better) for stem, found in gaps.items()]
    adjusted = holm([difference.p for difference in differences])
    differences = [replace(found, p_adjusted=p) for found, p in zip(differences, adjusted, strict=True)]
    averaged = averaged_stems(stems)
    if len(averaged) > 1:
        with np.errstate(invalid="ignore"):  # ∞ − ∞
            mean = np.mean([gaps[stem] for stem in averaged], axis=0)
        differences.append(_difference(AVERAGE, mean, 1, aggregation, less_is_better))
    return Comparison(
        first=tables[0].system,
        second=tables[1].system,
        metric=metric,
        confidence=aggregation.confidence,
        differences=tuple(differences),
        only_first=tuple(track for track in tables[0].tracks if track not in tracks),
        only_second=tuple(track for track in tables[1].tracks if track not in tracks),
        notes=(*_differing_settings(first, second, must_agree), *_lacking(tables, stems, metric)),
    )


def _column(table: TrackTable, key: tuple[str, str], tracks: Sequence[str]) -> ScoreArray:
    """The scores of these tracks."""
    at = {track: index for index, track in enumerate(table.tracks)}
    return table.values[key][[at[track] for track in tracks]]


def _gaps(first: ScoreArray, second: ScoreArray) -> ScoreArray:
    """First minus second; 0 where both are the same infinity, NaN where either is."""
    with np.errstate(invalid="ignore"):
        return np.where(first == second, 0.0, first - second)


def _difference(
    stem: str, differences: ScoreArray, n_tests: int, aggregation: Aggregation, less_is_better: bool
) -> Difference:
    known = differences[~np.isnan(differences)]
    gains = -known if less_is_better else known
    p = signed_rank_p(known)
    return Difference(
        stem=stem,
        median=summarise_values(differences, replace(aggregation, tracks="median")),
        mean=summarise_values(differences, replace(aggregation, tracks="mean")),
        wins=int((gains > 0).sum()),
        losses=int((gains < 0).sum()),
        p=p,
        p_adjusted=p,
        n_tests=n_tests,
    )


# What the scores were made with.


def _check_settings(first: Sequence[TrackScores], second: Sequence[TrackScores], must_agree: Collection[str]) -> None:
    tracks = [*first, *second]
    framed = [scores for scores in tracks if any(stem.frames for stem in scores.stems.values())]
    for what, values in (
        ("windows", [(f"{scores.window_s:g} s", scores) for scores in framed]),
        ("steps between windows", [(f"{scores.hop_s:g} s", scores) for scores in framed]),
        *((f"settings of {key!r}", _values(tracks, key)) for key in must_agree),
    ):
        for value, scores in values:
            if value != values[0][0]:
                expected, example = values[0]
                raise UnbraidError(
                    f"cannot compare scores with different {what}: {expected} of {example.system!r} on "
                    f"{example.track!r}, {value} of {scores.system!r} on {scores.track!r}; evaluate both in one way"
                )


def _values(tracks: Sequence[TrackScores], key: str) -> list[tuple[str, TrackScores]]:
    """The values of a setting, each with its track; none for those that do not say."""
    return [(scores.settings[key], scores) for scores in tracks if key in scores.settings]


def _differing_settings(
    first: Sequence[TrackScores], second: Sequence[TrackScores], must_agree: Collection[str]
) -> list[str]:
    keys = dict.fromkeys(
        key
        for scores in (*first, *second)
        for key in scores.settings
        if not (key in must_agree or key == "track" or key.startswith("system's "))
    )
    notes = []
    for key in keys:
        one, other = (
            ", ".join(sorted({value for value, _ in _values(tracks, key)})) or "not said" for tracks in (first, second)
        )
        if one != other:
            notes.append(f"{key}: {one} for {first[0].system!r}, {other} for {second[0].system!r}")
    return notes


def _lacking(tables: tuple[TrackTable, TrackTable], stems: Sequence[str], metric: str) -> list[str]:
    return [
        f"only {table.system!r} has the {metric} of {stem!r}"
        for table in tables
        for stem in table.stems
        if (metric, stem) in table.values and stem not in stems
    ]


# Statistics.


def signed_rank_p(differences: ScoreArray) -> float:
    """Two-sided p-value of the Wilcoxon signed-rank test; zeros are left out.

    Exact, but for ties (scores of five decimals have hardly any) and beyond 200 differences, where the sum of ranks is
    taken for normal.

    Parameters
    ----------
    differences : ndarray [shape=(track,), float64]
        None of them NaN.

    Returns
    -------
    float
        1 where all differences are zero.
    """
    from scipy.stats import wilcoxon

    known = differences[differences != 0]
    if not known.size:
        return 1.0
    is_exact = known.size <= _EXACT_UP_TO and np.unique(np.abs(known)).size == known.size
    return float(wilcoxon(known, method="exact" if is_exact else "auto").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests, raised so that all of them together err no oftener than one would (Holm, 1979).

    The smallest counts as many times as there are tests, the next one time less, and so on; none gets below a smaller
    one's.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


# In words.


def verdict(comparison: Comparison, difference: Difference) -> str:
    """What a difference says: "A better than B by 0.31 dB (95 % CI 0.12…0.50), p = 0.003".

    The number is the median of the differences, with the sign of "better".
    """
    n_tracks = difference.n_tracks
    if not n_tracks:
        return "no track has a score of both"
    tracks = "1 track" if n_tracks == 1 else f"{n_tracks} tracks"
    if not difference.wins + difference.losses:
        return f"the same on {tracks}"
    if difference.lowest_p >= SIGNIFICANCE:
        needed = math.floor(math.log2(difference.n_tests / SIGNIFICANCE)) + 2
        return f"no difference that {tracks} can show: no test can be significant with fewer than {needed} that differ"
    if not difference.is_significant:
        return f"no difference that {tracks} can show, p {_p(difference.p_adjusted)}"
    gain = difference.median.value or difference.mean.value
    first_is_better = (gain > 0) != _less_is_better(comparison.metric)
    better, worse = (comparison.first, comparison.second)[:: 1 if first_is_better else -1]
    ends = [math.copysign(1, gain) * end for end in (difference.median.low, difference.median.high)]
    unit = f" {_unit(comparison.metric)}".rstrip()
    return (
        f"{better} better than {worse} by {_signed(abs(difference.median.value))}{unit} "
        f"({_percent(comparison)} CI {_interval(ends)}), p {_p(difference.p_adjusted)}"
    )


def comparison_rows(comparison: Comparison) -> list[list[str]]:
    """The comparison as a table: a row of headings, then one for each stem and one for their mean."""
    unit = f" ({_unit(comparison.metric)})".removesuffix(" ()")
    headings = ["stem", f"median{unit}", f"{_percent(comparison)} CI", f"mean{unit}", f"{_percent(comparison)} CI"]
    rows = [[*headings, "tracks", "better/worse", "p", "verdict"]]
    for difference in comparison.differences:
        summaries = [
            (_signed(found.value), _interval((found.low, found.high))) for found in (difference.median, difference.mean)
        ]
        rows.append(
            [
                difference.stem,
                *(cell for cells in summaries for cell in cells),
                str(difference.n_tracks),
                f"{difference.wins}/{difference.losses}",
                _p(difference.p_adjusted).removeprefix("= ") if difference.n_tracks else "–",
                verdict(comparison, difference),
            ]
        )
    return rows


def _less_is_better(metric: str) -> bool:
    kind = SCORES.get(metric.partition(":")[0])
    return kind is not None and not kind.higher_is_better


def _unit(metric: str) -> str:
    """Of a score of whole tracks; those of frames are in dB."""
    kind = SCORES.get(metric.partition(":")[0])
    return "dB" if kind is None else kind.unit


def _percent(comparison: Comparison) -> str:
    return f"{100 * comparison.confidence:g} %"


def _interval(ends: Sequence[float]) -> str:
    low, high = sorted(ends)
    return "–" if math.isnan(low) else f"{_signed(low)}…{_signed(high)}"


def _signed(value: float) -> str:
    """A number with two decimals (more, where it is smaller), and a true minus."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    text = f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"
    return "0.00" if not value else text.replace("-", "−")


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
