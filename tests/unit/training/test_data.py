"""From a dataset to what is trained on: which stems, which parts, and what else is in the mix."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from training_makers import RATE, STEMS, make_songs
from unbraid.datasets.tracks import load_dataset
from unbraid.errors import DatasetError
from unbraid.training.data import Span, part, spans_of, stems_of
from unbraid.training.recipe import ValidationConfig

WHOLE = ValidationConfig(seconds=0)


def spans(
    root: Path, cache: Path, stems: tuple[str, ...], notices: list[str] | None = None, **options: bool
) -> list[Span]:
    said = [] if notices is None else notices
    return spans_of(
        load_dataset(root), cache, stems=stems, sample_rate=RATE, n_channels=2, on_notice=said.append, **options
    )  # fmt: skip


def true(root: Path, song: str, stem: str) -> np.ndarray:
    return soundfile.read(root / song / f"{stem}.wav", dtype="float32", always_2d=True)[0].T


def write(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples.T, RATE, subtype="FLOAT")


def test_rows_are_the_stems_wanted_and_the_rest(tmp_path: Path) -> None:
    root, notices = make_songs(tmp_path / "data", n_tracks=1, seconds=2.0), list[str]()
    (span,) = spans(root, tmp_path / "cache", ("vocals", "drums"), notices)
    assert notices == ["not learnt, but in the mix: bass, other"]
    rows = span.read(0, span.n_samples)
    np.testing.assert_array_equal(rows[0], true(root, "song 0", "vocals"))
    np.testing.assert_array_equal(rows[1], true(root, "song 0", "drums"))
    rest = true(root, "song 0", "bass") + true(root, "song 0", "other")
    np.testing.assert_allclose(rows[2], rest, atol=1e-6)


@pytest.mark.parametrize(("rest", "without"), [("accompaniment", "vocals"), ("no_drums", "drums")])
def test_the_rest_of_a_stem_is_all_the_others(rest: str, without: str, tmp_path: Path) -> None:
    root = make_songs(tmp_path / "data", n_tracks=1, seconds=2.0)
    stems = stems_of(load_dataset(root), (without, rest))
    (span,) = spans(root, tmp_path / "cache", stems)
    rows = span.read(0, span.n_samples)
    assert len(rows) == 2
    np.testing.assert_allclose(rows.sum(axis=0), sum(true(root, "song 0", stem) for stem in STEMS), atol=1e-6)
    np.testing.assert_array_equal(rows[0], true(root, "song 0", without))


def test_a_file_of_the_sum_does_not_count_twice(tmp_path: Path) -> None:
    root = make_songs(tmp_path / "data", n_tracks=1, seconds=2.0)
    write(root / "song 0" / "accompaniment.wav", np.ones((2, 2 * RATE), np.float32))
    dataset = load_dataset(root)
    assert set(stems_of(dataset, ())) == set(STEMS)
    (span,) = spans(root, tmp_path / "cache", stems_of(dataset, ("vocals", "accompaniment")))
    assert np.abs(span.read(0, span.n_samples)[1] - 1).max() > 0.1


def test_a_stem_that_is_not_wanted_may_be_missing(tmp_path: Path) -> None:
    root = make_songs(tmp_path / "data", n_tracks=2, seconds=2.0)
    (root / "song 1" / "bass.wav").unlink()
    found = spans(root, tmp_path / "cache", ("vocals", "drums"))
    np.testing.assert_allclose(found[1].read(0, 2 * RATE)[2], true(root, "song 1", "other"), atol=1e-6)
    with pytest.raises(DatasetError, match=r"song 1.*bass"):
        spans(root, tmp_path / "cache", ("vocals", "bass"))


def test_stems_that_nobody_has(tmp_path: Path) -> None:
    root = make_songs(tmp_path / "data", n_tracks=1, seconds=2.0)
    with pytest.raises(DatasetError, match=r"no track of .* has the stem 'piano'; it has bass, drums, other, vocals"):
        stems_of(load_dataset(root), ("piano",))
    write(tmp_path / "one" / "song" / "vocals.wav", np.ones((2, RATE), np.float32))
    with pytest.raises(DatasetError, match="one stem only, 'vocals': there is nothing to separate it from"):
        stems_of(load_dataset(tmp_path / "one"), ())


def test_a_stem_that_never_sounds_is_refused(tmp_path: Path) -> None:
    root = make_songs(tmp_path / "data", n_tracks=2, seconds=2.0)
    for nth in range(2):
        write(root / f"song {nth}" / "bass.wav", np.zeros((2, 2 * RATE), np.float32))
    with pytest.raises(DatasetError, match="the stem 'bass' is silent in every track"):
        spans(root, tmp_path / "cache", ("bass", "drums"))


def test_test_tracks_are_never_trained_on(tmp_path: Path) -> None:
    for subset in ("train", "test"):
        make_songs(tmp_path / "data" / subset, n_tracks=1, seconds=2.0)
    write(tmp_path / "data" / "test" / "song 0" / "piano.wav", np.zeros((2, 2 * RATE), np.float32))
    dataset = load_dataset(tmp_path / "data")
    assert "piano" not in stems_of(dataset, ())
    (span,) = spans(tmp_path / "data", tmp_path / "cache", STEMS)
    assert span.track.subset == "train"
    make_songs(tmp_path / "tests" / "test", n_tracks=1, seconds=2.0)
    with pytest.raises(DatasetError, match="test tracks only"):
        stems_of(load_dataset(tmp_path / "tests"), ())


def test_validation_is_the_datasets_own(tmp_path: Path) -> None:
    for subset in ("train", "validation"):
        make_songs(tmp_path / "data" / subset, n_tracks=2, seconds=2.0)
    material = part(spans(tmp_path / "data", tmp_path / "cache", STEMS), STEMS, 0.1, WHOLE, print)
    assert {span.track.subset for span in material.validation} == {"validation"}
    assert {span.track.subset for span in material.training} == {"train"}
    assert material.training_s == 4.0


@pytest.mark.parametrize(("n_tracks", "share", "n_kept"), [(4, 0.3, 1), (3, 0.9, 2), (2, 0.9, 1)])
def test_else_some_tracks(n_tracks: int, share: float, n_kept: int, tmp_path: Path) -> None:
    found = spans(make_songs(tmp_path / "data", n_tracks=n_tracks, seconds=1.0), tmp_path / "cache", STEMS)
    material = part(found, STEMS, share, WHOLE, print)
    names = {span.name for span in material.validation}, {span.name for span in material.training}
    assert len(names[0]) == n_kept
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == n_tracks
    assert part(found, STEMS, share, WHOLE, print) == material


def test_else_the_end_of_each(tmp_path: Path) -> None:
    notices: list[str] = []
    found = spans(make_songs(tmp_path / "data", n_tracks=2, seconds=20.0), tmp_path / "cache", STEMS)
    material = part(found, STEMS, 0.1, ValidationConfig(seconds=2.0), notices.append)
    assert notices == ["kept for validation, as there are few tracks: the last 6 s of song 0, 6 s of song 1"]
    assert [(span.start, span.stop) for span in material.training] == [(0, 14 * RATE)] * 2
    assert [(span.start, span.stop) for span in material.validation] == [(16 * RATE, 18 * RATE)] * 2
    one = part(found, STEMS, 0.1, ValidationConfig(seconds=0.0, n_tracks=1), notices.append)
    assert [(span.start, span.stop) for span in one.validation] == [(14 * RATE, 20 * RATE)]


def test_a_normalised_mix_has_deviation_one(tmp_path: Path) -> None:
    root = make_songs(tmp_path / "data", n_tracks=1, seconds=2.0)
    (span,) = spans(root, tmp_path / "cache", STEMS, normalise=True)
    assert span.read(0, span.n_samples).sum(axis=0).mean(axis=0).std() == pytest.approx(1, rel=1e-3)
