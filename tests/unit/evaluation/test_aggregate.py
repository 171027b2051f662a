import math
import statistics
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from unbraid.errors import UnbraidError, UsageError
from unbraid.evaluation.aggregate import (
    ALL,
    AVERAGE,
    Aggregation,
    averaged_stems,
    frame_value,
    summarise,
    summarise_values,
    tabulate,
    track_value,
)
from unbraid.evaluation.results import BSS_METRICS, StemScores, TrackScores

NAN, INF = math.nan, math.inf


def track(name: str, stems: Mapping[str, Sequence[float]], *, system: str = "a", **whole: float) -> TrackScores:
    scores = {stem: StemScores({"SDR": np.array(frames, float)}, whole) for stem, frames in stems.items()}
    return TrackScores(system=system, track=name, subset="test", stems=scores)


@pytest.mark.parametrize(
    ("frames", "median", "mean"),
    [
        ([1, 2, 6], 2, 3),
        ([1, NAN, 2, NAN, 6, 9], 4, 4.5),
        ([1, INF, 2, -INF, 6], 2, 3),
        ([NAN, INF], NAN, NAN),
        ([], NAN, NAN),
    ],
)
def test_frames_without_a_score_do_not_count(frames: list[float], median: float, mean: float) -> None:
    values = np.array(frames, float)
    assert frame_value(values) == pytest.approx(median, nan_ok=True)
    assert frame_value(values, "mean") == pytest.approx(mean, nan_ok=True)


SCORES = st.floats(-100, 100) | st.just(NAN)


@given(arrays(np.float64, array_shapes(min_dims=1, max_dims=3, max_side=7), elements=SCORES))
def test_values_of_tracks_are_those_of_the_standard_library(scores: np.ndarray) -> None:
    before = scores.copy()
    rules = {"median": statistics.median, "lower median": statistics.median_low, "mean": statistics.fmean}
    for how, rule in rules.items():
        found = track_value(scores, how)
        assert found.shape == scores.shape[:-1]
        for index in np.ndindex(found.shape):
            known = [float(score) for score in scores[index] if not math.isnan(score)]
            assert float(found[index]) == pytest.approx(rule(known) if known else NAN, nan_ok=True, abs=1e-9)
    np.testing.assert_array_equal(scores, before)


def test_infinite_scores_of_tracks_count() -> None:
    assert track_value(np.array([-INF, 1.0, 2.0])) == 1
    assert track_value(np.array([-INF, -INF, 2.0])) == -INF
    assert track_value(np.array([-INF, 1.0, 2.0]), "mean") == -INF
    assert math.isnan(track_value(np.array([-INF, INF])))
    found = summarise_values(np.array([-INF, -INF, 1.0, 2.0, INF]))
    assert (found.value, found.low, found.high, found.n_tracks) == (1, -INF, INF, 5)


def test_values_by_hand() -> None:
    tracks = [
        track("one", {"vocals": [1, 2, 9], "drums": [NAN, 4]}, uSDR=1.0),
        track("two", {"vocals": [3], "drums": [NAN]}, uSDR=3.0),
        track("three", {"vocals": [7, 7], "drums": [5, 7]}, uSDR=NAN),
    ]
    found = summarise(tabulate(tracks))
    assert {key: (summary.value, summary.n_tracks) for key, summary in found.items()} == {
        ("SDR", "vocals"): (3, 3),
        ("SDR", "drums"): (5, 2),
        ("SDR", AVERAGE): (4, 2),
        ("SDR", ALL): (4, 2),  # of 2, 3, 7, 4, 6
        ("uSDR", "vocals"): (2, 2),
        ("uSDR", "drums"): (2, 2),
        ("uSDR", AVERAGE): (2, 2),
        ("uSDR", ALL): (2, 2),
    }
    lower = summarise(tabulate(tracks), Aggregation(tracks="lower median"))
    assert lower["SDR", "drums"].value == 4
    means = summarise(tabulate(tracks, frames="mean"), Aggregation(frames="mean", tracks="mean"))
    assert means["SDR", "vocals"].value == pytest.approx((4 + 3 + 7) / 3)
    assert means["SDR", AVERAGE].value == pytest.approx(((4 + 3 + 7) / 3 + (4 + 6) / 2) / 2)
    assert means["SDR", ALL].value == pytest.approx((4 + 3 + 7 + 4 + 6) / 5)


def test_a_stem_without_any_score_leaves_no_average() -> None:
    found = summarise(tabulate([track("one", {"vocals": [1, 2], "drums": [NAN]}), track("two", {"vocals": [1]})]))
    assert found["SDR", "drums"].n_tracks == found["SDR", AVERAGE].n_tracks == 0
    for row in ("drums", AVERAGE, ALL):
        assert all(math.isnan(value) for value in (found["SDR", row].value, found["SDR", row].low))
    assert found["SDR", "vocals"].value == 1.25


def test_one_track_has_no_interval() -> None:
    found = summarise(tabulate([track("one", {"vocals": [1, 2, 3]})]))["SDR", "vocals"]
    assert (found.value, found.n_tracks) == (2, 1)
    assert math.isnan(found.low) and math.isnan(found.high)


def test_intervals_are_the_same_each_time_and_depend_on_the_seed() -> None:
    values = np.random.default_rng(3).normal(6, 3, 50)
    assert summarise_values(values) == summarise_values(values)
    assert summarise_values(values) != summarise_values(values, Aggregation(seed=1))


@pytest.mark.parametrize("how", ["median", "mean"])
def test_intervals_are_those_of_scipy(how: str) -> None:
    from scipy.stats import bootstrap

    values = np.random.default_rng(3).normal(6, 3, 51)
    found = summarise_values(values, Aggregation(tracks=how, n_resamples=20000))
    rule = np.median if how == "median" else np.mean
    expected = bootstrap((values,), rule, method="percentile", n_resamples=20000, rng=np.random.default_rng(9))
    # Both are of random draws: 3 % of the width is several times what those differ by.
    tolerance = 0.03 * (found.high - found.low)
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=tolerance)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=tolerance)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    intervals = [summarise_values(rng.normal(6, 3, 50), Aggregation(n_resamples=500)) for _ in range(300)]
    held = np.mean([interval.low <= 6 <= interval.high for interval in intervals])
    assert 0.9 <= held <= 0.99  # 95 % of 300, within four standard deviations


def test_averages_have_narrower_intervals_than_stems_that_err_apart() -> None:
    rng = np.random.default_rng(6)
    tracks = [track(str(number), {stem: [rng.normal(6, 3)] for stem in "abcd"}) for number in range(50)]
    found = summarise(tabulate(tracks))
    widths = {row: found["SDR", row].high - found["SDR", row].low for row in (*"abcd", AVERAGE)}
    assert widths[AVERAGE] < 0.7 * min(widths[stem] for stem in "abcd")
    # Stems that rise and fall together average nothing out.
    levels = rng.normal(6, 3, 50)
    tracks = [track(str(number), {stem: [level] for stem in "abcd"}) for number, level in enumerate(levels)]
    found = summarise(tabulate(tracks))
    assert found["SDR", AVERAGE] == found["SDR", "a"]


def test_accompaniment_is_averaged_only_where_it_is_no_sum() -> None:
    assert averaged_stems(("drums", "accompaniment", "vocals", "bass")) == ("drums", "vocals", "bass")
    assert averaged_stems(("vocals", "accompaniment")) == ("vocals", "accompaniment")
    assert averaged_stems(("vocals",)) == ("vocals",)


def test_metrics_come_in_one_order() -> None:
    stem = StemScores({metric: np.ones(2) for metric in reversed(BSS_METRICS)}, {"uSDR": 1.0, "SDR": 2.0})
    table = tabulate([TrackScores(system="a", track="t", subset="", stems={"vocals": stem})])
    assert table.metrics == (*BSS_METRICS, "uSDR", "SDR (whole track)")
    assert table.values["SDR (whole track)", "vocals"].tolist() == [2.0]


def test_what_cannot_be_aggregated() -> None:
    one = track("one", {"vocals": [1]})
    with pytest.raises(UnbraidError, match="no scores"):
        tabulate([])
    with pytest.raises(UnbraidError, match="two scores of the track 'one'"):
        tabulate([one, one])
    with pytest.raises(UnbraidError, match="'a' and 'b'"):
        tabulate([one, track("two", {"vocals": [1]}, system="b")])


@pytest.mark.parametrize("options", [{"frames": "max"}, {"tracks": "max"}, {"confidence": 1.0}, {"n_resamples": 10}])
def test_options_that_make_no_sense(options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        Aggregation(**options)


def test_speed() -> None:
    rng = np.random.default_rng(0)
    tracks = [
        TrackScores("a", str(number), "test", {
            stem: StemScores({metric: rng.normal(5, 3, 240) for metric in BSS_METRICS}, dict.fromkeys("uvw", 1.0))
            for stem in ("vocals", "drums", "bass", "other")
        })
        for number in range(50)
    ]  # fmt: skip
    start = time.perf_counter()
    summarise(tabulate(tracks))
    assert time.perf_counter() - start < 2  # 0.1 s on two quiet cores
