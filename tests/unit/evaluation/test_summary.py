import csv
import math
from pathlib import Path

import numpy as np
import pytest

from unbraid.errors import UnbraidError
from unbraid.evaluation.aggregate import Aggregation, summarise, tabulate
from unbraid.evaluation.published import published_rows
from unbraid.evaluation.report import Table
from unbraid.evaluation.results import BSS_METRICS, StemScores, TrackScores
from unbraid.evaluation.summary import HEADINGS, MEASURED_HERE, Summaries, ranking, summary_table, tidy_rows, write_csv

FOUR = ("drums", "bass", "other", "vocals")
NAN = math.nan


def made_up(
    system: str = "ours",
    *,
    n_tracks: int = 5,
    stems: tuple[str, ...] = FOUR,
    seed: int = 0,
    mean_db: float = 5.0,
    bss: bool = True,
) -> list[TrackScores]:
    rng = np.random.default_rng(seed)
    tracks = []
    for nth in range(n_tracks):
        scores = {}
        for stem in stems:
            frames = {metric: rng.normal(mean_db, 3, 9) for metric in BSS_METRICS} if bss else {}
            for values in frames.values():
                values[2], values[5] = NAN, np.inf
            whole = {"uSDR": float(rng.normal(mean_db, 3)), "SI-SDR": float(rng.normal(4, 3)), "L1": 0.0123456789}
            scores[stem] = StemScores(frames, whole)
        tracks.append(TrackScores(system=system, track=f"track {nth}", subset="test", stems=scores))
    return tracks


def frame_median(scores: StemScores, metric: str) -> float:
    values = scores.frames[metric]
    return float(np.median(values[np.isfinite(values)]))


def cells(table: Table, system: str, score: str) -> dict[str, str]:
    (row,) = (row for row in table.rows if row[:2] == [system, score])
    return dict(zip(table.headers, row, strict=True))


# The table of one's own systems.


def test_medians_of_medians_and_means_of_whole_tracks(tmp_path: Path) -> None:
    tracks = [*made_up("a", seed=1, n_tracks=6), *made_up("b", seed=2)]
    table = summary_table(Summaries.of(tracks), intervals=False)
    assert list(table.headers) == ["System", "Score", *FOUR, "Avg", "Tracks"]
    assert [row[:2] for row in table.rows] == [
        [system, score] for system in "ab" for score in (*BSS_METRICS, "uSDR", "SI-SDR")
    ]
    for system in "ab":
        own = [track for track in tracks if track.system == system]
        for score in (*BSS_METRICS, "uSDR", "SI-SDR"):
            found = cells(table, system, score)
            expected = []
            for stem in FOUR:
                if score in BSS_METRICS:
                    values = [frame_median(track.stems[stem], score) for track in own]
                    expected.append(float(np.median(values)))
                else:
                    expected.append(float(np.mean([track.stems[stem].whole[score] for track in own])))
                assert found[stem] == f"{expected[-1]:.2f}"
            assert found["Avg"] == f"{np.mean(expected):.2f}"
            assert found["Tracks"] == f"{len(own)}"


def test_intervals_are_those_of_the_bootstrap() -> None:
    tracks = made_up(n_tracks=8)
    medians = summarise(tabulate(tracks))
    means = summarise(tabulate(tracks), Aggregation(tracks="mean"))
    table = summary_table(Summaries.of(tracks))
    for score, summaries in (("SDR", medians), ("uSDR", means)):
        for stem in (*FOUR, "Avg"):
            one = summaries[score, stem]
            assert one.low < one.value < one.high
            assert cells(table, "ours", score)[stem] == f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"
    assert (
        "bootstrap" in table.caption and "bootstrap" not in summary_table(Summaries.of(tracks), intervals=False).caption
    )


def test_one_track_has_no_interval() -> None:
    tracks = made_up(n_tracks=1)
    for row in summary_table(Summaries.of(tracks)).rows:
        assert all("[" not in cell for cell in row)


def test_what_has_no_score_has_a_dash_and_without_bsseval_there_are_no_rows_of_it() -> None:
    tracks = [*made_up("both"), *made_up("two", stems=("vocals", "drums"), bss=False)]
    silent = StemScores({}, {"uSDR": 0.0, "SI-SDR": NAN})
    tracks[0] = TrackScores("both", "track 0", "test", {**tracks[0].stems, "bass": silent})
    table = summary_table(Summaries.of(tracks), intervals=False)
    assert [row[1] for row in table.rows if row[0] == "two"] == ["uSDR", "SI-SDR"]
    two = cells(table, "two", "uSDR")
    assert (two["bass"], two["other"]) == ("–", "–")
    # Without its worst stem, a system would look better than it is; but these are all that it has.
    expected = np.mean([track.stems[stem].whole["uSDR"] for track in tracks[5:] for stem in ("vocals", "drums")])
    assert two["Avg"] == f"{expected:.2f}"
    both = cells(table, "both", "SDR")
    assert both["bass"] == f"{np.median([frame_median(one.stems['bass'], 'SDR') for one in tracks[1:5]]):.2f}"
    assert cells(table, "both", "SI-SDR")["bass"] == (
        f"{np.mean([one.stems['bass'].whole['SI-SDR'] for one in tracks[1:5]]):.2f}"
    )
    assert both["Tracks"] == "5"


def test_a_silent_estimate_is_infinitely_bad_in_the_mean() -> None:
    tracks = made_up(n_tracks=3)
    bass = StemScores({}, {"uSDR": 0.0, "SI-SDR": -math.inf})
    tracks[0] = TrackScores("ours", "track 0", "test", {**tracks[0].stems, "bass": bass})
    found = cells(summary_table(Summaries.of(tracks), intervals=False), "ours", "SI-SDR")
    assert (found["bass"], found["Avg"]) == ("-inf", "-inf")


# Beside published scores.


def test_the_ranking_is_in_order_with_ours_marked() -> None:
    tracks = [*made_up("good", mean_db=9.0), *made_up("bad", mean_db=2.0, seed=3)]
    table = ranking(Summaries.of(tracks), "SDR")
    assert table is not None
    assert list(table.headers) == ["System", *FOUR, "Avg", "Source"]
    averages = [float(row[-2]) for row in table.rows if row[-2] != "–"]
    assert averages == sorted(averages, reverse=True)
    assert all(row[-2] == "–" for row in table.rows[len(averages) :])
    own = {row[0]: row for row in table.rows if row[-1] == MEASURED_HERE}
    assert list(own) == ["▶ good", "▶ bad"]
    for system in ("good", "bad"):
        some = [track for track in tracks if track.system == system]
        expected = [float(np.median([frame_median(track.stems[stem], "SDR") for track in some])) for stem in FOUR]
        assert own[f"▶ {system}"][1:-1] == [f"{value:.2f}" for value in (*expected, np.mean(expected))]
    published = [row for row in published_rows() if row.metric == "SDR"]
    assert len(table.rows) == len(published) + 2
    names = [row[0] for row in table.rows]
    assert all(sum(name.startswith(row.system) for name in names) >= 1 for row in published)
    ht_demucs = next(row for row in table.rows if row[0] == "HT Demucs + 800 songs")
    assert ht_demucs[1:-1] == ["10.05", "9.78", "6.42", "8.93", f"{np.mean([10.05, 9.78, 6.42, 8.93]):.2f}"]
    assert "2211.08553" in ht_demucs[-1]


def test_where_only_the_average_is_published_it_takes_its_place() -> None:
    table = ranking(Summaries.of(made_up()), "SDR")
    assert table is not None
    small = next(row for row in table.rows if row[0].startswith("BS-RoFormer, small"))
    assert small[1:-1] == ["–"] * 4 + ["9.80"]


def test_the_accompaniment_counts_in_no_average() -> None:
    """It has its 10 dB from the others: with it, a system would stand above better ones."""
    four = made_up()
    rng = np.random.default_rng(9)
    five = [
        TrackScores(
            "ours",
            track.track,
            "test",
            {**track.stems, "accompaniment": StemScores({"SDR": rng.normal(30, 1, 9)}, {"uSDR": 30.0})},
        )
        for track in four
    ]
    averages = []
    for tracks in (four, five):
        table = ranking(Summaries.of(tracks), "SDR")
        assert table is not None
        averages.append({row[0]: row[-2] for row in table.rows})
        assert (
            averages[-1]["▶ ours"] == cells(summary_table(Summaries.of(tracks), intervals=False), "ours", "SDR")["Avg"]
        )
    assert averages[0] == averages[1]


def test_averages_of_other_stems_are_not_compared() -> None:
    table = ranking(Summaries.of(made_up(stems=("vocals", "accompaniment"), mean_db=20)), "SDR")
    assert table is not None
    rows = {row[0]: row for row in table.rows}
    assert float(rows["▶ ours"][-2]) > 15
    assert rows["HT Demucs + 800 songs"][1:-1] == ["8.93", "–", "–"]
    assert not any(name.startswith("BS-RoFormer, small") for name in rows)
    # Of these two, the average is that of these two.
    table = ranking(Summaries.of(made_up(stems=("vocals", "drums"))), "SDR")
    assert table is not None
    found = next(row for row in table.rows if row[0] == "HT Demucs + 800 songs")
    assert found[1:-1] == ["8.93", "10.05", f"{(8.93 + 10.05) / 2:.2f}"]


def test_nothing_published_is_no_ranking() -> None:
    assert ranking(Summaries.of(made_up(stems=("guitar", "piano"))), "SDR") is None
    assert ranking(Summaries.of(made_up()), "L1") is None


def test_systems_without_the_score_come_last() -> None:
    table = ranking(Summaries.of([*made_up("a", bss=False), *made_up("b")]), "SDR")
    assert table is not None
    assert table.rows[-1] == ["▶ a", *["–"] * 5, MEASURED_HERE]


# For programs.


def test_the_table_for_programs_has_every_number(tmp_path: Path) -> None:
    names = ('a, "b"', "two\nlines", "semi;colon\ttab", "=1+1", "Söng 愛", "\r", "ends in \\", "'")
    tracks = [
        TrackScores(name, f"track {name}", "" if name == "'" else "test", scores.stems)
        for name, scores in zip(names, made_up(n_tracks=len(names)), strict=True)
    ]
    path = tmp_path / "new folder" / "scores.csv"
    write_csv(path, tracks)
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert tuple(head) == HEADINGS
    assert len({tuple(row[:-1]) for row in rows}) == len(rows) == len(names) * 4 * (4 * 2 + 3)
    found = {tuple(row[:-1]): float(row[-1]) for row in rows}
    for track in tracks:
        for stem, scores in track.stems.items():
            about = (track.system, track.subset, track.track, stem)
            for metric, frames in scores.frames.items():
                finite = frames[np.isfinite(frames)]
                median = found[(*about, metric, "median of frames")]
                assert median == pytest.approx(np.median(finite), abs=1e-5)
                assert found[(*about, metric, "mean of frames")] == pytest.approx(np.mean(finite), abs=1e-5)
            for score, value in scores.whole.items():
                assert found[(*about, score, "track")] == pytest.approx(value, abs=1e-5)
            assert found[(*about, "L1", "track")] == 0.01234568
    assert [path.name for path in path.parent.iterdir()] == ["scores.csv"]


def test_what_is_no_number_is_readable_too(tmp_path: Path) -> None:
    stems = {"bass": StemScores({"SDR": np.array([NAN, NAN])}, {"SI-SDR": -math.inf, "uSDR": NAN})}
    tracks = [TrackScores("x", "\udcff", "", stems)]  # a file's name that is no text
    write_csv(tmp_path / "scores.csv", tracks)
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    assert [(row[2], row[5], str(float(row[6]))) for row in rows] == [
        ("\\udcff", "median of frames", "nan"),
        ("\\udcff", "mean of frames", "nan"),
        ("\\udcff", "track", "-inf"),
        ("\\udcff", "track", "nan"),
    ]


def test_rows_are_in_the_order_of_the_scores() -> None:
    tracks = [*made_up("b", n_tracks=2), *made_up("a", n_tracks=1)]
    rows = list(tidy_rows(tracks))
    assert list(dict.fromkeys((row[0], row[2]) for row in rows)) == [
        ("b", "track 0"),
        ("b", "track 1"),
        ("a", "track 0"),
    ]
    assert list(dict.fromkeys(row[3] for row in rows)) == list(FOUR)


def test_a_table_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").mkdir()
    with pytest.raises(UnbraidError, match=r"cannot write the table '.*scores\.csv'"):
        write_csv(tmp_path / "scores.csv", made_up())
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]
