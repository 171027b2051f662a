"""Scoring systems on a track: decode, estimate, compare, write, in memory that does not grow with the track.

::

    files ─> true stems, mix (temporary file) ─> system ─> estimates ─┬─> scores of the whole track
                           │                                          └─> (temporary file) ─┐
                           └────────────────────────────────────────────────> BSSEval <─────┘
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import unbraid
from unbraid.datasets.tracks import Track
from unbraid.datatypes import FloatArray
from unbraid.errors import CancelledError, UnbraidError, UsageError
from unbraid.evaluation.arrays import Arrays
from unbraid.evaluation.bsseval import Signals, bss_eval_signals
from unbraid.evaluation.records import read_track_scores, scores_path, write_track_scores
from unbraid.evaluation.results import BSS_METRICS, ScoreArray, StemScores, TrackScores
from unbraid.evaluation.scores import ScoreSums
from unbraid.evaluation.spool import Spool
from unbraid.evaluation.systems import Estimates, System, file_state
from unbraid.evaluation.targets import Target, match_notices, match_stems
from unbraid.evaluation.true_stems import TOLERANCE_S, TrueStems, read_true_stems

__all__ = ["Done", "Scoring", "evaluate_track", "score_estimates"]

OnProgress = Callable[[str, float], None]


@dataclass(frozen=True)
class Scoring:
    """How estimates are scored.

    bss : whether by BSSEval, or only by the scores of whole tracks
    framewise : whether BSSEval's filters are of each window (version 3) instead of the whole track (version 4)
    window_s, hop_s : of BSSEval, in seconds
    strict : whether to refuse a track, as museval does, of which a stem is silent from beginning to end
    """

    bss: bool = True
    framewise: bool = False
    window_s: float = 1.0
    hop_s: float = 1.0
    strict: bool = False

    def __post_init__(self) -> None:
        if not all(length_s > 0 and math.isfinite(length_s) for length_s in (self.window_s, self.hop_s)):
            raise UsageError(f"window and hop must be more than 0 s, and finite, got {self.window_s} and {self.hop_s}")

    @property
    def settings(self) -> dict[str, str]:
        """The same in words, for the files of scores."""
        if not self.bss:
            return {"bsseval": "none", **self._strictness}
        filters = "512 taps, of each window (version 3)" if self.framewise else "512 taps, of the track (version 4)"
        bsseval = f"{filters}, windows of {self.window_s:g} s every {self.hop_s:g} s"
        return {"bsseval": bsseval, **self._strictness}

    @property
    def _strictness(self) -> dict[str, str]:
        # Scores that are not strict do not do for a strict run.
        return {"silent stems": "refused, as by museval"} if self.strict else {}


@dataclass(frozen=True)
class Done:
    """What became of one system on one track: its scores, or why there are none.

    is_new : False where the scores were there already
    """

    system: str
    scores: TrackScores | None = None
    error: UnbraidError | None = None
    is_new: bool = True


def evaluate_track(
    track: Track,
    systems: Sequence[System],
    folder: Path,
    *,
    dataset: str,
    scoring: Scoring,
    arrays: Arrays,
    on_progress: OnProgress,
) -> Iterator[Done]:
    """Score systems on a track, and write what they got into `folder`; scores that are there are not made again.

    dataset : its kind, for the settings
    on_progress : told what is done and which part of it; what it raises stops the work
    """
    try:
        shared = {"dataset": dataset, "track": _files(track), **scoring.settings}
    except OSError as error:
        yield from (Done(system.name, error=_foreseen(track, error)) for system in systems)
        return
    missing: list[System] = []
    settings: dict[str, dict[str, str]] = {}
    for system in systems:
        try:
            own = {f"system's {key}": value for key, value in system.settings(track).items()}
        except (UnbraidError, OSError) as error:
            yield Done(system.name, error=_foreseen(track, error))
            continue
        settings[system.name] = {**shared, **own}
        there = _read(folder, system.name, track, settings[system.name])
        if there is None:
            missing.append(system)
        else:
            yield Done(system.name, there, is_new=False)
    if not missing:
        return
    with ExitStack() as stack:
        try:
            on_progress("reading", 0.0)
            true = read_true_stems(track, folder, stack)
        except CancelledError:
            raise
        except UnbraidError as error:
            yield from (Done(system.name, error=error) for system in missing)
            return
        for system in missing:
            try:
                scores = _score(system, track, true, settings[system.name], folder, scoring, arrays, on_progress)
                # With the file's decimals: a run that was stopped and goes on ends with the same numbers.
                scores = read_track_scores(write_track_scores(folder, scores))
            except CancelledError:
                raise
            except UnbraidError as error:
                yield Done(system.name, error=error)
            else:
                yield Done(system.name, scores)


# Known only when the track was read, or of no influence.
_LATER_SETTINGS = ("sample_rate", "unbraid")


def _read(folder: Path, system: str, track: Track, settings: Mapping[str, str]) -> TrackScores | None:
    """The scores that an earlier run has left, if they were made in the same way."""
    path = scores_path(folder, system=system, subset=track.subset, track=track.name)
    if not path.exists():
        return None
    try:
        scores = read_track_scores(path)
    except UnbraidError:  # damaged: made again
        return None
    known_before = {key: value for key, value in scores.settings.items() if key not in _LATER_SETTINGS}
    return scores if known_before == settings else None


def _files(track: Track) -> str:
    """What tells whether the files of a track are the same as in an earlier run."""
    files = {**track.stems, **({"mix": track.mix} if track.mix else {})}
    return ", ".join(f"{name} {file_state(file.path)}" for name, file in files.items())


def _foreseen(track: Track, error: UnbraidError | OSError) -> UnbraidError:
    if isinstance(error, UnbraidError):
        return error
    where = f"cannot score {track.name!r}: cannot read {str(error.filename)!r}: {error.strerror or error}"
    return UnbraidError(track.problem or where)


def _score(
    system: System,
    track: Track,
    true: TrueStems,
    settings: Mapping[str, str],
    folder: Path,
    scoring: Scoring,
    arrays: Arrays,
    on_progress: OnProgress,
) -> TrackScores:
    on_progress("separating", 0.0)  # the first block may be long in coming
    with ExitStack() as stack:
        estimates = system.estimate(track, true, stack)
        stems, notices = score_estimates(true, estimates, folder, scoring, arrays, on_progress)
    later = {"sample_rate": f"{true.sample_rate} Hz", "unbraid": unbraid.__version__}
    return TrackScores(
        system=system.name,
        track=track.name,
        subset=track.subset,
        stems=stems,
        window_s=scoring.window_s,
        hop_s=scoring.hop_s,
        notices=(*(f"true {notice}" for notice in true.notices), *notices),
        settings={**settings, **later},
    )


def score_estimates(
    true: TrueStems,
    estimates: Estimates,
    folder: Path,
    scoring: Scoring,
    arrays: Arrays,
    on_progress: OnProgress,
) -> tuple[dict[str, StemScores], list[str]]:
    """Score estimates as they come; `folder` is for a temporary file.

    Returns
    -------
    dict of str to StemScores, list of str
        By stem, in the dataset's order; and what the reader should know.

    Raises
    ------
    UnbraidError
        If the estimates cannot be made, or do not fit the track.
    """
    matched = match_stems(true.stems, estimates.stems)
    groups = [_Group(targets, true, scoring) for targets in matched]
    n_rows = len(estimates.stems) * true.n_channels
    with Spool(folder, n_rows) as spool:
        for block in _fitted(estimates, true):
            truth, mix = true.read(spool.n_samples, spool.n_samples + block.shape[-1])
            for group in groups:
                group.add(truth, block, mix)
            spool.append(block.reshape(n_rows, -1))
            on_progress("separating", spool.n_samples / true.n_samples)
        stems: dict[str, StemScores] = {}
        notices = [*estimates.notices, *match_notices(true.stems, estimates.stems, matched)]
        for index, group in enumerate(groups):

            def report(part: float, index: int = index) -> None:
                on_progress("scoring", (index + part) / len(groups))

            scored, said = group.scores(spool, arrays, report)
            stems.update(scored)
            notices += [notice for notice in said if notice not in notices]
    return stems, notices


def _fitted(estimates: Estimates, true: TrueStems) -> Iterator[FloatArray]:
    """The blocks, together as long as the track: a little more is cut off, a little less filled up, as in museval."""
    n_given = 0
    for block in estimates.blocks:
        wanted = block[..., : max(0, true.n_samples - n_given)]
        n_given += block.shape[-1]
        if wanted.shape[-1]:
            yield wanted
    n_missing = true.n_samples - n_given
    if abs(n_missing) > TOLERANCE_S * true.sample_rate:
        raise UnbraidError(
            f"the estimated stems are {n_given / true.sample_rate:.3f} s long, but the true ones "
            f"{true.n_samples / true.sample_rate:.3f} s: they may differ by {TOLERANCE_S:g} s"
        )
    if n_missing > 0:
        yield np.zeros((len(estimates.stems), true.n_channels, n_missing), np.float32)
    if n_missing:
        what = "short, filled up with silence" if n_missing > 0 else "long, cut off"
        estimates.notices.append(f"the estimated stems were {abs(n_missing)} samples too {what}")


class _Group:
    """Targets that are scored together, while their signals go by."""

    def __init__(self, targets: Sequence[Target], true: TrueStems, scoring: Scoring) -> None:
        self._targets = targets
        self._scored = [target for target in targets if target.estimated]
        self._true = true
        self._scoring = scoring
        self._sums = ScoreSums([target.name for target in self._scored], true.n_channels)
        self._sounds = np.zeros((2, len(targets)), bool)  # true, estimated

    def add(self, truth: FloatArray, block: FloatArray, mix: FloatArray) -> None:
        """Take up the next block."""
        references = _summed(truth, [target.true for target in self._targets])
        estimates = _summed(block, [target.estimated for target in self._scored])
        self._sums.add(references[: len(self._scored)], estimates, mix)
        self._sounds[0] |= _sounds(references)
        self._sounds[1, : len(self._scored)] |= _sounds(estimates)

    def scores(
        self, spool: Spool, arrays: Arrays, on_progress: Callable[[float], None]
    ) -> tuple[dict[str, StemScores], list[str]]:
        """The scores of each stem, and what the reader should know."""
        silent = [target.name for target, sounds in zip(self._targets, self._sounds[0], strict=True) if not sounds]
        mute = [
            target.name
            for target, (sounds, answered) in zip(self._scored, self._sounds.T, strict=False)
            if sounds and not answered
        ]
        if self._scoring.strict and (silent or mute):
            raise UnbraidError(
                f"{'true' if silent else 'estimated'} {(silent or mute)[0]} is silent from beginning to end, which "
                "museval refuses; without --museval-strict the other stems are scored"
            )
        whole = self._sums.scores()
        frames = self._frames(spool, arrays, on_progress) if self._scoring.bss else {}
        notices = [f"true {name} is silent: no SDR, ISR, SIR, SAR" for name in silent if name in whole]
        notices += [f"estimated {name} is silent: no SDR, ISR, SIR, SAR" for name in mute]
        if len(self._targets) == 1:
            notices.append(f"{self._targets[0].name} is the only stem: there is no interference to measure")
        return {name: StemScores(frames.get(name, {}), scores) for name, scores in whole.items()}, notices

    def _frames(
        self, spool: Spool, arrays: Arrays, on_progress: Callable[[float], None]
    ) -> dict[str, dict[str, ScoreArray]]:
        """BSSEval of those stems that sound in truth and estimate; the truth of the others still counts as such."""
        pairs = list(zip(self._targets, *self._sounds, strict=True))
        scored = [target for target, sounds, answered in pairs if sounds and answered]
        known = [*scored, *(target for target, sounds, answered in pairs if sounds and not answered)]
        if not scored:
            return {}
        n_channels, rate = self._true.n_channels, self._true.sample_rate

        def read(start: int, stop: int) -> tuple[FloatArray, FloatArray]:
            truth, _ = self._true.read(start, stop)
            estimates = spool.read(start, stop).reshape(-1, n_channels, stop - start)
            return (
                _summed(truth, [target.true for target in known]),
                _summed(estimates, [target.estimated for target in scored]),
            )

        scores = bss_eval_signals(
            Signals(len(known), n_channels, self._true.n_samples, read, len(scored)),
            window=round(self._scoring.window_s * rate),
            hop=round(self._scoring.hop_s * rate),
            framewise=self._scoring.framewise,
            arrays=arrays,
            on_progress=on_progress,
        )
        by_metric = {metric: getattr(scores, metric.lower()) for metric in BSS_METRICS}
        return {
            target.name: {metric: values[index] for metric, values in by_metric.items()}
            for index, target in enumerate(scored)
        }


def _summed(stems: FloatArray, groups: Sequence[tuple[int, ...]]) -> FloatArray:
    """The sum of some stems, for each group of numbers [shape=(group, channel, time)]."""
    return np.stack([stems[group[0]] if len(group) == 1 else stems[list(group)].sum(axis=0) for group in groups])


def _sounds(stems: FloatArray) -> NDArray[np.bool_]:
    """Whether the sum of each stem's channels is anything but silence (museval's rule)."""
    return np.asarray((stems.sum(axis=1) != 0).any(axis=-1))
