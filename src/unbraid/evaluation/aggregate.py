"""From the scores of many tracks to one number a stem, with the interval that so few tracks leave it in.

SiSEC 2018, and with it most tables since: the median over the frames of a track, then the median over the tracks.
What papers call "All" or "Avg" is one of two things. HT Demucs (arXiv:2211.08553) and most others: the mean over the
stems of those medians. Demucs (arXiv:1909.01174), Table 1: the median of the per-track medians of all stems together;
with `tracks="lower median"` its rows come out of SiSEC's files to the last digit (tests/golden/test_sisec.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from unbraid.errors import UnbraidError, UsageError
from unbraid.evaluation.results import BSS_METRICS, ScoreArray, TrackScores

__all__ = [
    "ALL",
    "AVERAGE",
    "Aggregation",
    "Summary",
    "TrackTable",
    "averaged_stems",
    "frame_value",
    "summarise",
    "summarise_values",
    "tabulate",
    "track_value",
]

AVERAGE = "Avg"  # the mean over the stems
ALL = "All"  # the stems of all tracks taken together

_FRAME_RULES = ("median", "mean")
_TRACK_RULES = ("median", "mean", "lower median")


@dataclass(frozen=True)
class Aggregation:
    """How many scores become one.

    frames : over the frames of a track: "median" or "mean"
    tracks : over the tracks: "median", "mean" or "lower median" (of an even number, the lower of the two in the middle,
        as torch.median has it and the Demucs paper used it)
    confidence : of the intervals, in (0, 1)
    n_resamples : how many times the tracks are drawn anew for them
    seed : of those draws

    Raises
    ------
    UsageError : a value that makes no sense
    """

    frames: str = "median"
    tracks: str = "median"
    confidence: float = 0.95
    n_resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.frames not in _FRAME_RULES:
            raise UsageError(f"frames must be aggregated by {' or '.join(_FRAME_RULES)}, got {self.frames!r}")
        if self.tracks not in _TRACK_RULES:
            raise UsageError(f"tracks must be aggregated by {', '.join(_TRACK_RULES)}, got {self.tracks!r}")
        if not 0 < self.confidence < 1:
            raise UsageError(f"confidence must be in (0, 1), got {self.confidence}")
        if self.n_resamples < 100:
            raise UsageError(f"n_resamples must be at least 100, got {self.n_resamples}")


@dataclass(frozen=True)
class Summary:
    """One number of many tracks.

    value : NaN where no track has a score
    low, high : ends of its confidence interval; NaN where fewer than two tracks have a score
    n_tracks : how many have one
    """

    value: float
    low: float
    high: float
    n_tracks: int


@dataclass(frozen=True, eq=False)
class TrackTable:
    """One number a stem, metric and track, of one system.

    tracks : in the order of the scores
    values : (metric, stem) → ndarray [shape=(track,), float64]; NaN where a track has no such score
    """

    system: str
    tracks: tuple[str, ...]
    stems: tuple[str, ...]
    metrics: tuple[str, ...]
    values: Mapping[tuple[str, str], ScoreArray]


def frame_value(frames: ScoreArray, how: str = "median") -> float:
    """The score of a track from those of its frames; NaN where none has one.

    Windows without a score do not count, nor do infinite ones (an error that is exactly zero): museval writes NaN for
    both, and all published figures are made so.

    Parameters
    ----------
    frames : ndarray [shape=(frame,), float64]
        As in `StemScores.frames`.
    how : str
        "median" or "mean".
    """
    finite = frames[np.isfinite(frames)]
    if not finite.size:
        return float("nan")
    return float(np.median(finite) if how == "median" else np.mean(finite))


def tabulate(tracks: Sequence[TrackScores], *, frames: str = "median") -> TrackTable:
    """Gather the scores of one system, each track's frames made one number.

    Metrics are those of frames, in the order of `BSS_METRICS`, then those of whole tracks; of these, one that is named
    as one of frames gets "(whole track)" behind its name.

    Raises
    ------
    UnbraidError
        If there are no tracks, several systems, or two scores of one track.
    """
    if not tracks:
        raise UnbraidError("there are no scores to aggregate")
    systems = list(dict.fromkeys(scores.system for scores in tracks))
    if len(systems) > 1:
        raise UnbraidError(f"cannot aggregate {systems[0]!r} and {systems[1]!r} as if they were one system")
    names = tuple(scores.track for scores in tracks)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UnbraidError(f"{systems[0]!r} has two scores of the track {twice!r}; choose one subset")
    rows = [
        {
            (metric, stem): value
            for stem, scores in track.stems.items()
            for metric, value in (
                *((metric, frame_value(values, frames)) for metric, values in scores.frames.items()),
                *((_whole_name(name), float(value)) for name, value in scores.whole.items()),
            )
        }
        for track in tracks
    ]
    keys = dict.fromkeys(key for row in rows for key in row)
    present = dict.fromkeys(metric for metric, _ in keys)
    framewise = tuple(metric for metric in BSS_METRICS if metric in present)
    return TrackTable(
        system=systems[0],
        tracks=names,
        stems=tuple(dict.fromkeys(stem for track in tracks for stem in track.stems)),
        metrics=framewise + tuple(metric for metric in present if metric not in framewise),
        values=MappingProxyType({key: np.array([row.get(key, np.nan) for row in rows], np.float64) for key in keys}),
    )


def _whole_name(name: str) -> str:
    return f"{name} (whole track)" if name in BSS_METRICS else name


def averaged_stems(stems: Sequence[str]) -> tuple[str, ...]:
    """The stems that "Avg" and "All" are of: all but museval's "accompaniment", where its parts are there too."""
    parts = tuple(stem for stem in stems if stem != "accompaniment")
    return parts if len(parts) > 1 else tuple(stems)


def summarise(table: TrackTable, aggregation: Aggregation | None = None) -> dict[tuple[str, str], Summary]:
    """Aggregate over the tracks, with bootstrap intervals.

    The intervals are percentiles of what comes out when as many tracks are drawn, with replacement, as there are. All
    stems of a draw are of the same tracks, so that those of the averages are right too. (Percentiles, since the
    correction of BCa rests on leaving out one track at a time, of which a median takes no more than two values.)

    Tracks that have no score of a stem do not count there; infinite scores (of whole tracks: a silent estimate has an
    SI-SDR of −inf) do. `AVERAGE` and `ALL` are NaN where one of their stems has no score at all: without its worst
    stem, a system would look better than it is.

    Returns
    -------
    dict of (str, str) to Summary
        By (metric, stem), (metric, `AVERAGE`) and (metric, `ALL`).
    """
    aggregation = aggregation or Aggregation()
    n_tracks = len(table.tracks)
    draws = _draws(n_tracks, aggregation)
    averaged = averaged_stems(table.stems)
    summaries = {}
    for metric in table.metrics:
        scores = {stem: table.values.get((metric, stem), np.full(n_tracks, np.nan)) for stem in table.stems}
        # The first row is of the tracks as they are, the others of those drawn.
        values = {stem: track_value(found[draws], aggregation.tracks) for stem, found in scores.items()}
        counts = {stem: int((~np.isnan(found)).sum()) for stem, found in scores.items()}
        fewest = min(counts[stem] for stem in averaged)
        together = np.concatenate([scores[stem][draws] for stem in averaged], axis=1)
        with np.errstate(invalid="ignore"):  # ∞ − ∞
            values[AVERAGE] = np.mean([values[stem] for stem in averaged], axis=0)
        values[ALL] = track_value(together, aggregation.tracks) if fewest else values[AVERAGE]
        counts[AVERAGE] = counts[ALL] = fewest
        for row, found in values.items():
            summaries[metric, row] = _summary(found, counts[row], aggregation.confidence)
    return summaries


def summarise_values(values: ScoreArray, aggregation: Aggregation | None = None) -> Summary:
    """Aggregate one number a track, as `summarise` does.

    Parameters
    ----------
    values : ndarray [shape=(track,), float64]
        NaN do not count.
    aggregation : Aggregation, optional
        Its `frames` does not matter here.
    """
    aggregation = aggregation or Aggregation()
    found = track_value(values[_draws(len(values), aggregation)], aggregation.tracks)
    return _summary(found, int((~np.isnan(values)).sum()), aggregation.confidence)


def track_value(scores: ScoreArray, how: str = "median") -> ScoreArray:
    """Aggregate over the last axis, without its NaN; NaN where there is nothing else.

    Parameters
    ----------
    scores : ndarray [shape=(…, track), float64]
        Infinite ones count; a mean or middle of both infinities is NaN.
    how : str
        "median", "mean" or "lower median".

    Returns
    -------
    ndarray [shape=(…), float64]
    """
    counts = (~np.isnan(scores)).sum(axis=-1)
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        if how == "mean":
            sums = np.where(counts > 0, np.nansum(scores, axis=-1), np.nan)
            return np.asarray(sums / np.maximum(counts, 1), dtype=np.float64)
        # Far quicker than nanmedian: NaN are sorted to the end.
        ordered = np.sort(scores, axis=-1)
        lower = np.take_along_axis(ordered, np.maximum(counts - 1, 0)[..., None] // 2, axis=-1)[..., 0]
        if how == "lower median":
            return np.asarray(lower, dtype=np.float64)
        upper = np.take_along_axis(ordered, counts[..., None] // 2, axis=-1)[..., 0]  # the first, NaN, if all are
        return np.asarray((lower + upper) / 2, dtype=np.float64)


def _draws(n_tracks: int, aggregation: Aggregation) -> NDArray[np.intp]:
    """Numbers of tracks [shape=(1 + n_resamples, track)]: all of them, then those drawn."""
    rng = np.random.default_rng(aggregation.seed)
    drawn = rng.integers(n_tracks, size=(aggregation.n_resamples, n_tracks), dtype=np.intp)
    return np.concatenate([np.arange(n_tracks, dtype=np.intp)[None], drawn])


def _summary(found: ScoreArray, n_tracks: int, confidence: float) -> Summary:
    """The first number with the interval of the others, those left out that no drawn track has a score for."""
    low = high = float("nan")
    if n_tracks > 1:
        drawn = np.sort(found[1:][~np.isnan(found[1:])])
        # The nearest ones, since between infinite ones there is nothing.
        low, high = (
            float(drawn[round(share * (len(drawn) - 1))]) for share in ((1 - confidence) / 2, (1 + confidence) / 2)
        )
    return Summary(value=float(found[0]), low=low, high=high, n_tracks=n_tracks)
