"""Whole songs and folders of them."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unbraid.datasets.synthesis.library import Order, make_songs
from unbraid.datasets.synthesis.song import Studio
from unbraid.datasets.tracks import load_dataset
from unbraid.errors import DatasetError, UsageError

RATE = 16000
ALL = {"vocals", "drums", "bass", "piano", "other"}
SHARED = Path(os.environ.get("UNBRAID_SHARED", Path(__file__).parents[5] / "shared")) / "data"


def song(seed: int, seconds: float = 12.0, **options: object) -> dict[str, np.ndarray]:
    return Studio(RATE, **options).song(seconds, np.random.default_rng(seed))


def test_stems_are_of_the_length_and_add_up_to_less_than_full_scale() -> None:
    found: set[str] = set()
    for seed in range(6):
        stems = song(seed)
        found |= set(stems)
        assert all(one.shape == (2, 12 * RATE) and one.dtype == np.float32 for one in stems.values())
        mix = sum(stems.values())
        assert 0.02 < np.abs(mix).max() <= 0.96
        assert max(np.abs(one).max() for one in stems.values()) < 0.99
        assert all(np.isfinite(one).all() for one in stems.values())
    assert found == ALL


def test_a_seed_is_a_song() -> None:
    one, same, other = song(3, 4.0), song(3, 4.0), song(4, 4.0)
    assert one.keys() == same.keys()
    assert all(np.array_equal(one[stem], same[stem]) for stem in one)
    assert any(stem not in other or not np.array_equal(one[stem], other[stem]) for stem in one)


def test_stems_are_not_each_other() -> None:
    """No stem is, even in part, another one's copy: their correlation is that of different sounds."""
    stems = [one.ravel() for one in song(1).values()]
    for i, one in enumerate(stems):
        for other in stems[i + 1 :]:
            if one.any() and other.any():
                assert abs(np.corrcoef(one, other)[0, 1]) < 0.3


def test_recorded_instruments_and_voices_take_part() -> None:
    if not (SHARED / "bank").is_dir():
        pytest.skip(f"no instruments in {SHARED}")
    from unbraid.datasets.synthesis.sampler import Bank
    from unbraid.datasets.synthesis.voices import Voices

    recorded = {"bank": Bank(SHARED / "bank", RATE), "voices": Voices(SHARED / "voice", RATE)}
    with_them, without = song(5, 8.0, **recorded), song(5, 8.0)
    assert with_them.keys() <= ALL
    assert any(stem not in without or not np.array_equal(with_them[stem], without[stem]) for stem in with_them)


def order(folder: Path, **options: object) -> Order:
    return Order(folder, **{"n_songs": 3, "seconds": 4.0, "sample_rate": RATE, **options})


def test_a_folder_of_songs_is_a_dataset(tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    make_songs(order(tmp_path / "songs"), on_progress=lambda *done: said.append(done))
    assert said == [(0, 3), (1, 3), (2, 3), (3, 3)]
    tracks = load_dataset(tmp_path / "songs").tracks
    assert [track.name for track in tracks] == ["song 0000", "song 0001", "song 0002"]
    stems = Studio(RATE).song(4.0, np.random.default_rng([0, 1]))
    for stem, samples in stems.items():
        written, rate = soundfile.read(tmp_path / "songs" / "song 0001" / f"{stem}.flac", dtype="float32")
        assert rate == RATE
        np.testing.assert_allclose(written.T, samples, atol=2**-16 + 1e-7)  # half a step of 16 bits


def test_processes_make_the_same_songs_and_nothing_twice(tmp_path: Path) -> None:
    make_songs(order(tmp_path / "one"))
    make_songs(order(tmp_path / "two", n_songs=1))
    kept = next((tmp_path / "two" / "song 0000").iterdir())
    before = kept.stat().st_mtime_ns
    make_songs(order(tmp_path / "two"), n_workers=2)
    assert kept.stat().st_mtime_ns == before
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.flac"))
    assert files == sorted(path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*.flac"))
    assert all((tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes() for path in files)


def test_pianos_may_be_part_of_other(tmp_path: Path) -> None:
    make_songs(order(tmp_path / "five"))
    make_songs(order(tmp_path / "four", piano=False))
    assert list((tmp_path / "five").rglob("piano.flac")) and not list((tmp_path / "four").rglob("piano.flac"))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match=r"cannot write .*song 0000'.*songs that are done are kept"):
        make_songs(order(tmp_path / "file"))


def test_recordings_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="bank"):
        make_songs(order(tmp_path / "songs", bank=tmp_path / "bank"))
    assert not list((tmp_path / "songs").glob("*"))


@pytest.mark.parametrize(("change", "message"), [({"n_songs": 0}, "n_songs"), ({"seconds": 1}, "seconds must be")])
def test_impossible_orders_are_refused(change: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        order(tmp_path, **change)
