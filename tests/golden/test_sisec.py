"""What SiSEC 2018's own per-frame scores aggregate to, beside the tables that papers made of them.

The scores are not part of this repository: see CONTRIBUTING.md. What was found with them (SDR in dB; 50 tracks each,
frames and steps of 1 s, 12435 or 12439 frames, no infinite one; drums, bass, other, vocals):

======================================  ========================  ========================
                                        TAK1                      STL2
======================================  ========================  ========================
Demucs paper, Table 1                   6.40  5.14  4.13  6.57    4.16  3.17  2.24  3.05
medians, lower median of tracks         6.398 5.137 4.126 6.574   4.158 3.172 2.240 3.051
medians, median of tracks (museval)     6.431 5.156 4.152 6.600   4.224 3.209 2.252 3.253
medians, mean of tracks                 6.552 4.821 3.892 5.122   4.393 3.151 1.953 2.007
means, median of tracks                 5.996 4.448 3.958 3.673   3.421 2.262 2.247 -0.125
median of the frames of all tracks      6.339 4.549 3.939 6.112   4.155 2.912 2.037 2.993
======================================  ========================  ========================

So the paper took the lower of the two tracks in the middle, as torch.median does: all eight numbers, to the last digit.
The same for its column "All", 5.34 and 3.17: per-track medians of all stems together, lower median 5.341 and 3.172
(usual median 5.343, 3.187; all frames together 5.156, 2.990; mean of the stems 5.585 or, of lower medians, 5.559, and
3.234 or 3.155; median over tracks of the frames of all stems 5.427, 3.169, and of the tracks' means over the stems
5.436, 3.410). A lower median over the frames too changes nothing in these rows but TAK1's All, to 5.338, still 5.34.

HT Demucs's oracle is IRM2 by the usual median, 8.454 7.125 7.852 9.431, its "All" their mean, 8.216 (printed 8.22);
lower medians, 8.394 7.107 7.836 9.426, are not what is printed.

Nothing else makes that difference: time axes have no gap or repetition, and both systems have all tracks. But vocals
lack fewer frames than the other three in TAK1 and IRM2 (2916 and 2802 of 12435, against 4039 and 3916; in STL2 all lack
the same 3912 of 12439): museval scores vocals beside the accompaniment, where there is one, and that pair is seldom
silent. On the frames of the other three, the vocals' median would be 6.389 and 9.348.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from museval_metrics import import_museval
from unbraid.evaluation.aggregate import ALL, AVERAGE, Aggregation, averaged_stems, summarise, tabulate
from unbraid.evaluation.compare import compare
from unbraid.evaluation.published import PublishedRow, published_rows
from unbraid.evaluation.records import read_scores

SHARED = Path(os.environ.get("UNBRAID_SHARED", Path(__file__).parents[3] / "shared"))
SISEC = SHARED / "reference" / "sisec18"
# What the papers call them.
SYSTEMS = {"IRM2": "IRM oracle", "TAK1": "MMDenseNet (TAK1)", "STL2": "Wave-U-Net (STL2)"}
STEMS = ("drums", "bass", "other", "vocals")
LAST_DIGIT = 0.005 + 1e-9

pytestmark = pytest.mark.skipif(not SISEC.is_dir(), reason=f"no scores of SiSEC 2018 in '{SISEC}'")


def published(system: str) -> PublishedRow:
    return next(row for row in published_rows() if row.system == SYSTEMS[system])


def summary(system: str, tracks: str, row: str) -> float:
    table = tabulate(read_scores(SISEC / system))
    return summarise(table, Aggregation(tracks=tracks, n_resamples=100))["SDR", row].value


@pytest.mark.parametrize(("system", "tracks"), [("IRM2", "median"), ("TAK1", "lower median"), ("STL2", "lower median")])
@pytest.mark.parametrize("stem", STEMS)
def test_stems_are_those_of_the_papers(system: str, tracks: str, stem: str) -> None:
    assert summary(system, tracks, stem) == pytest.approx(published(system).values[stem], abs=LAST_DIGIT)


@pytest.mark.parametrize(
    ("system", "tracks", "row"),
    [("IRM2", "median", AVERAGE), ("TAK1", "lower median", ALL), ("STL2", "lower median", ALL)],
)
def test_what_papers_call_all(system: str, tracks: str, row: str) -> None:
    row_of_paper = published(system)
    assert row_of_paper.kind_of_all == {AVERAGE: "mean", ALL: "together"}[row]
    assert summary(system, tracks, row) == pytest.approx(row_of_paper.all, abs=LAST_DIGIT)


@pytest.mark.parametrize(("system", "tolerance"), [("TAK1", 0.1), ("STL2", 0.25)])
@pytest.mark.parametrize("stem", STEMS)
def test_the_usual_median_is_near(system: str, tolerance: float, stem: str) -> None:
    found = summary(system, "median", stem)
    assert found == pytest.approx(published(system).values[stem], abs=tolerance)
    assert found > published(system).values[stem]


@pytest.mark.parametrize("system", SYSTEMS)
def test_files_hold_what_the_docstring_says(system: str) -> None:
    tracks = read_scores(SISEC / system)
    assert {(scores.system, scores.window_s, scores.hop_s, scores.subset) for scores in tracks} == {(system, 1, 1, "")}
    assert len(tracks) == 50
    assert set(averaged_stems(tuple(tracks[0].stems))) == set(STEMS)
    assert not any(np.isinf(values).any() for scores in tracks for stem in scores.stems.values()
                   for values in stem.frames.values())  # fmt: skip


def test_fifty_tracks_tell_a_network_from_another() -> None:
    found = compare(read_scores(SISEC / "TAK1"), read_scores(SISEC / "STL2"))
    assert not found.only_first and not found.only_second
    assert [difference.stem for difference in found.differences][-1] == AVERAGE
    assert all(difference.is_significant and difference.median.low > 0 for difference in found.differences)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("system", SYSTEMS)
def test_museval_aggregates_them_alike(system: str) -> None:
    museval = import_museval()
    tracks = read_scores(SISEC / system)[:12]  # museval takes its time
    found = summarise(tabulate(tracks), Aggregation(n_resamples=100))
    store = museval.EvalStore()
    for scores in tracks:
        track = museval.TrackStore(scores.track)
        for stem, stem_scores in scores.stems.items():
            track.add_target(stem, stem_scores.frames)
        store.add_track(track)
    expected = store.agg_frames_tracks_scores()
    for stem in tracks[0].stems:
        for metric in ("SDR", "ISR", "SIR", "SAR"):
            assert found[metric, stem].value == pytest.approx(expected[stem, metric], abs=1e-9)
