import errno
import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from museval_metrics import import_museval
from unbraid.errors import UnbraidError
from unbraid.evaluation.aggregate import Aggregation, summarise, tabulate
from unbraid.evaluation.records import read_scores, read_track_scores, scores_path, write_track_scores
from unbraid.evaluation.results import BSS_METRICS, StemScores, TrackScores


def made_up(track: str = "A - Song", *, seed: int = 0, **changes: Any) -> TrackScores:
    """Scores with windows that have none, and infinite ones."""
    rng = np.random.default_rng(seed)
    stems = {}
    for stem in ("vocals", "drums"):
        frames = {metric: np.round(rng.normal(5, 3, 20), 5) for metric in BSS_METRICS}
        for values in frames.values():
            values[3:6] = np.nan
        frames["SDR"][7], frames["SIR"][8] = np.inf, -np.inf
        stems[stem] = StemScores(frames, {"uSDR": float(rng.normal(5, 3)), "SI-SDR": -np.inf, "bleed": np.nan})
    facts = {"system": "ours", "subset": "test", "notices": ("été", "two"), "settings": {"dataset": "x"}, "hop_s": 0.5}
    return TrackScores(**{"track": track, "stems": stems, **facts, **changes})


def assert_same(found: TrackScores, expected: TrackScores) -> None:
    for name in ("system", "track", "subset", "window_s", "hop_s", "notices", "settings"):
        assert getattr(found, name) == getattr(expected, name)
    assert list(found.stems) == list(expected.stems)
    for stem, scores in expected.stems.items():
        assert list(found.stems[stem].frames) == list(scores.frames)
        for metric, values in scores.frames.items():
            np.testing.assert_array_equal(found.stems[stem].frames[metric], values)
        assert list(found.stems[stem].whole) == list(scores.whole)
        np.testing.assert_array_equal(list(found.stems[stem].whole.values()), list(scores.whole.values()))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    scores = made_up()
    path = write_track_scores(tmp_path, scores)
    assert path == tmp_path / "ours" / "test" / "A - Song.json"
    assert_same(read_track_scores(path), scores)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_stems_without_frames_or_with_some_metrics(tmp_path: Path) -> None:
    stems = {
        "vocals": StemScores({}, {"uSDR": 1.0}),
        "drums": StemScores({"SDR": np.array([1.0, np.nan])}, {}),
        "bass": StemScores({"SAR": np.array([np.inf])}, {}),
    }
    scores = made_up(stems=stems)
    assert_same(read_track_scores(write_track_scores(tmp_path, scores)), scores)


def test_frames_keep_five_decimals_and_whole_scores_all(tmp_path: Path) -> None:
    scores = made_up(stems={"vocals": StemScores({"SDR": np.array([1 / 3, -2 / 3])}, {"uSDR": 1 / 3})})
    found = read_track_scores(write_track_scores(tmp_path, scores)).stems["vocals"]
    assert found.frames["SDR"].tolist() == [0.33333, -0.66667]
    assert found.whole["uSDR"] == 1 / 3


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule", ["median", "mean"])
def test_museval_reads_our_files_and_aggregates_them_alike(tmp_path: Path, rule: str) -> None:
    museval = import_museval()
    import jsonschema

    tracks = [made_up(f"track {seed}", seed=seed) for seed in range(7)]
    schema = json.loads((Path(museval.__path__[0]) / "musdb.schema.json").read_text())
    for scores in tracks:
        path = write_track_scores(tmp_path, scores)
        jsonschema.validate(json.loads(path.read_text()), schema)
    store = museval.EvalStore(frames_agg=rule, tracks_agg=rule)
    store.add_eval_dir(tmp_path / "ours")
    expected = store.agg_frames_tracks_scores()
    found = summarise(tabulate(tracks, frames=rule), Aggregation(frames=rule, tracks=rule))
    for stem in ("vocals", "drums"):
        for metric in BSS_METRICS:
            assert found[metric, stem].value == pytest.approx(expected[stem, metric], abs=1e-9)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_museval_would_have_written_the_same(tmp_path: Path) -> None:
    museval = import_museval()
    rng = np.random.default_rng(1)
    frames = {metric: rng.normal(5, 3, 500) for metric in BSS_METRICS}
    frames["SDR"][[1, 2, 3]] = np.nan, np.inf, -np.inf
    store = museval.TrackStore("x")
    store.add_target("vocals", frames)
    (tmp_path / "theirs.json").write_text(store.json)
    theirs = read_track_scores(tmp_path / "theirs.json", system="theirs", subset="test")
    path = write_track_scores(tmp_path, made_up("x", stems={"vocals": StemScores(frames, {})}, hop_s=1.0))
    # As text, since no NaN equals another; whole numbers of seconds are integers there.
    content, expected = (
        json.dumps(json.loads(text, parse_int=float), sort_keys=True) for text in (path.read_text(), store.json)
    )
    content = json.dumps({key: value for key, value in json.loads(content).items() if key != "unbraid"})
    assert content == expected
    assert (theirs.system, theirs.track, theirs.subset) == ("theirs", "theirs", "test")
    expected_frames = np.where(np.isfinite(frames["SDR"]), np.round(frames["SDR"], 5), np.nan)
    np.testing.assert_allclose(theirs.stems["vocals"].frames["SDR"], expected_frames, atol=1e-9)


def test_files_of_museval_take_their_system_from_where_they_are(tmp_path: Path) -> None:
    frame = {"time": 0.0, "duration": 2.0, "metrics": dict.fromkeys(BSS_METRICS, 1.5)}
    text = json.dumps({"targets": [{"name": "vocals", "frames": [frame, {**frame, "time": 0.25}]}]})
    for place in ("A/test/one.json", "A/test/two.1.json", "B/one.json"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
    (tmp_path / "B" / "three.json.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "B" / ".hidden.json").write_text("?")
    found = [(scores.system, scores.subset, scores.track) for scores in read_scores(tmp_path)]
    assert found == [("A", "test", "one"), ("A", "test", "two.1"), ("B", "", "one"), ("B", "", "three")]
    first = read_scores(tmp_path / "B")[0]
    assert (first.system, first.track, first.window_s, first.hop_s) == ("B", "one", 2.0, 0.25)


def test_null_and_absent_metrics_are_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    frames = [{"time": 0, "duration": 1, "metrics": {"SDR": None}}, {"time": 1, "duration": 1, "metrics": {"SAR": 2}}]
    path.write_text(json.dumps({"targets": [{"name": "vocals", "frames": frames}]}))
    found = read_track_scores(path).stems["vocals"].frames
    assert list(found) == ["SDR", "SAR"]
    np.testing.assert_array_equal(found["SDR"], [np.nan, np.nan])
    np.testing.assert_array_equal(found["SAR"], [np.nan, 2.0])


GOOD = {"time": 0, "duration": 1, "metrics": dict.fromkeys(BSS_METRICS, 1.0)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[1]",
        b"{}",
        b'{"targets": 3}',
        b'{"targets": [3]}',
        b'{"targets": [{"name": 1, "frames": []}]}',
        b'{"targets": [{"name": "a"}]}',
        b'{"targets": [{"name": "a", "frames": [{"metrics": 1}]}]}',
        b'{"targets": [{"name": "a", "frames": [{"metrics": {"SDR": "1"}}]}]}',
        b'{"targets": [{"name": "a", "frames": [{"metrics": {"SDR": true}}]}]}',
        b'{"targets": [{"name": "a", "frames": [{"metrics": {"SDR": 1' + b"0" * 400 + b"}}]}]}",
        b'{"targets": [{"name": "a", "frames": [{"duration": 0, "metrics": {"SDR": 1}}]}]}',
        b'{"targets": [{"name": "a", "frames": []}, {"name": "a", "frames": []}]}',
        b'{"targets": [], "unbraid": {"form": 2}}',
        b'{"targets": [], "unbraid": {"form": 1}}',
        b'{"targets": [], "unbraid": 1}',
        b"[" * 100000,
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_foreign_and_damaged_files_are_named(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(UnbraidError, match=f"cannot read the scores '.*{name}'"):
        read_track_scores(path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("system",), 1),
        (("notices",), [1]),
        (("settings",), {"a": 1}),
        (("window_s",), "1"),
        (("stems",), {}),
        (("stems", "vocals", "whole"), {"uSDR": "x"}),
        (("stems", "vocals", "infinite"), {"SDR": {"99": float("inf")}}),
        (("stems", "vocals", "infinite"), {"SDR": {"-1": float("inf")}}),
        (("stems", "vocals", "infinite"), {"SDR": {"1": 2.0}}),
    ],
)
def test_damaged_objects_of_ours_are_named(tmp_path: Path, path: tuple[str, ...], value: object) -> None:
    file = write_track_scores(tmp_path, made_up())
    content = json.loads(file.read_text())
    inner = content["unbraid"]
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file.write_text(json.dumps(content))
    with pytest.raises(UnbraidError, match="cannot read the scores"):
        read_track_scores(file)


def test_cut_off_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json.gz"
    with pytest.raises(UnbraidError, match=r"a\.json\.gz': No such file"):
        read_track_scores(path)
    data = gzip.compress(write_track_scores(tmp_path / "out", made_up()).read_bytes())
    for damaged in (data[:-20], data[:50] + b"\x00\xff" * 20 + data[90:], b"no gzip at all"):
        path.write_bytes(damaged)
        with pytest.raises(UnbraidError, match=r"cannot read the scores '.*a\.json\.gz'"):
            read_track_scores(path)


def test_folders_without_scores_or_with_two_of_one_track(tmp_path: Path) -> None:
    with pytest.raises(UnbraidError, match="no scores"):
        read_scores(tmp_path)
    path = write_track_scores(tmp_path, made_up())
    (tmp_path / "copy.json").write_bytes(path.read_bytes())
    with pytest.raises(UnbraidError, match=r"copy\.json' and '.*A - Song\.json' both"):
        read_scores(tmp_path)


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_nothing_is_left_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    before = write_track_scores(tmp_path, made_up()).read_bytes()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(UnbraidError, match=r"A - Song\.json': No space left on device"):
        write_track_scores(tmp_path, made_up(seed=1))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in files] == [before]


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UnbraidError, match="cannot write the scores"):
        write_track_scores(tmp_path / "out", made_up())


@pytest.mark.parametrize(
    ("system", "track", "expected"),
    [
        ("htdemucs", "A - B (c) é", "htdemucs/test/A - B (c) é.json"),
        ("spleeter:4stems", "AC/DC", "spleeter%3A4stems/test/AC%2FDC.json"),
        ("../x", "..", "%2E.%2Fx/test/%2E%2E.json"),
        ("/tmp/model", "100% a\n", "%2Ftmp%2Fmodel/test/100%25 a%0A.json"),
        ("nul", "COM1.x", "%6Eul/test/%43OM1.x.json"),
        ("", "a. ", "%/test/a.%20.json"),
        ("con ", "\udcff", "con%20/test/%ED%B3%BF.json"),
    ],
)
def test_paths_are_safe(system: str, track: str, expected: str) -> None:
    assert scores_path(Path("out"), system=system, subset="test", track=track) == Path("out") / expected
    assert scores_path(Path("out"), system="a", subset="", track="b") == Path("out/a/tracks/b.json")


# Of the characters that matter, so that collisions are likely.
NAMES = st.text(alphabet="a%2FE./:~ é", max_size=6) | st.text(max_size=400)


@given(st.lists(NAMES, min_size=2, max_size=30, unique=True))
def test_different_names_have_different_files(names: list[str]) -> None:
    paths = [scores_path(Path("out"), system="a", subset="test", track=name) for name in names]
    assert len(set(paths)) == len(names)
    for path in paths:
        assert path.parent == Path("out/a/test")
        assert len(path.name.encode()) <= 220


def test_names_that_differ_beyond_the_longest_have_different_files(tmp_path: Path) -> None:
    tracks = [made_up("é" * 300 + end) for end in "ab"]
    for scores in tracks:
        write_track_scores(tmp_path, scores)
    assert [scores.track for scores in read_scores(tmp_path)] == [scores.track for scores in tracks]


def test_another_track_is_not_replaced(tmp_path: Path) -> None:
    path = write_track_scores(tmp_path, made_up("song"))
    # What a file system that ignores case makes of it.
    os.replace(path, path.with_name("SONG.json"))
    with pytest.raises(UnbraidError, match="'song' are there"):
        write_track_scores(tmp_path, made_up("SONG"))


def test_damaged_scores_are_replaced(tmp_path: Path) -> None:
    path = write_track_scores(tmp_path, made_up())
    path.write_text("{")
    assert_same(read_track_scores(write_track_scores(tmp_path, made_up())), made_up())
