"""Decoded tracks are the files' samples, to the bit, and whole or not there."""

import errno
import json
import os
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from dataset_makers import make_csv, make_folder, make_musdb18_hq
from song_makers import music, write_wav
from unbraid.audio.read import read_audio
from unbraid.datasets.tracks import AudioFile, Track, load_dataset
from unbraid.datatypes import FloatArray
from unbraid.errors import AudioError, DatasetError
from unbraid.training import cache
from unbraid.training.cache import CachedTrack, cache_tracks

RATE = 8000
N = 4000


def steps(samples: FloatArray) -> FloatArray:
    """Rounded to values of 16 bits."""
    return np.rint(samples * 2**15).astype(np.float32) / np.float32(2**15)


def track_of(folder: Path, name: str = "song", *, suffix: str = "", **signals: FloatArray) -> Track:
    """A track of WAVs of float samples, "mix" among them if given."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for stem, samples in signals.items():
        path = write_wav(folder / f"{name} {stem}{suffix}.wav", samples, sample_rate=RATE)
        files[stem] = AudioFile(path)
    mix = files.pop("mix", None)
    return Track(name, "train", mix, files)


def decode(track: Track | list[Track], folder: Path, **options: Any) -> list[CachedTrack]:
    tracks = track if isinstance(track, list) else [track]
    settings: dict[str, Any] = {"stems": ("vocals", "drums"), "sample_rate": RATE, "n_channels": 2}
    return cache_tracks(tracks, folder, **settings | options)


def stereo(seed: int, n: int = N) -> FloatArray:
    return music(n, sample_rate=RATE, seed=seed)


def test_16_bit_values_are_kept_in_16_bits_and_exactly(tmp_path: Path) -> None:
    vocals, drums = steps(stereo(1)), steps(stereo(2))
    vocals[0, :2] = -1, 1 - 2**-15  # both ends of the range
    (found,) = decode(track_of(tmp_path, vocals=vocals, drums=drums), tmp_path / "cache")
    stored = np.load(found.folder / "samples.npy")
    assert stored.dtype == np.int16 and stored.shape == (2, 2, N)
    np.testing.assert_array_equal(found.read(0, N), np.stack([vocals, drums]))
    assert found.read(17, 30).dtype == np.float32
    np.testing.assert_array_equal(found.read(17, 30), np.stack([vocals, drums])[..., 17:30])


@pytest.mark.parametrize("value", [1.0, 2**-16, 1.5], ids=["full scale", "half a step", "beyond"])
def test_a_single_other_value_makes_all_of_it_float(tmp_path: Path, value: float) -> None:
    vocals, drums = steps(stereo(1)), steps(stereo(2))
    drums[1, -1] = value
    (found,) = decode(track_of(tmp_path, vocals=vocals, drums=drums), tmp_path / "cache")
    assert np.load(found.folder / "samples.npy").dtype == np.float32
    np.testing.assert_array_equal(found.read(0, N), np.stack([vocals, drums]))


def test_a_track_of_several_blocks_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_BLOCK", 70_001)  # neither the decoder's nor the spool's
    vocals, drums = stereo(1, 200_003), stereo(2, 200_003)
    (found,) = decode(track_of(tmp_path, vocals=vocals, drums=drums), tmp_path / "cache")
    np.testing.assert_array_equal(found.read(0, found.n_samples), np.stack([vocals, drums]))


def test_16_bit_wavs_of_a_dataset_take_the_room_of_16_bits(tmp_path: Path) -> None:
    (made,) = make_musdb18_hq(tmp_path / "data", subsets=("train",), seconds=1.0)
    dataset = load_dataset(tmp_path / "data")
    (found,) = decode(list(dataset.tracks), tmp_path / "cache", stems=("drums", "vocals"), sample_rate=44100)
    assert (found.folder / "samples.npy").stat().st_size == 2 * 2 * 44100 * 2 + 128
    path = tmp_path / "data" / "train" / made.name / "vocals.wav"
    np.testing.assert_array_equal(found.read(0, 44100)[1], soundfile.read(path, dtype="float32")[0].T)


def test_deviation_is_that_of_the_mix(tmp_path: Path) -> None:
    vocals, drums = stereo(1) + np.float32(0.1), stereo(2)
    mix = (vocals.astype(np.float64) + drums).astype(np.float32)
    (found,) = decode(track_of(tmp_path, vocals=vocals, drums=drums), tmp_path / "cache")
    assert found.std == pytest.approx(float(mix.mean(axis=0).std()), rel=1e-5)


def test_other_rates_and_channels_are_changed_and_said(tmp_path: Path) -> None:
    vocals, drums = music(2 * N, n_channels=1, sample_rate=2 * RATE), stereo(2)
    track = track_of(tmp_path, drums=drums)
    path = write_wav(tmp_path / "vocals.wav", vocals, sample_rate=2 * RATE)
    track = Track("song", "", None, {"vocals": AudioFile(path), **track.stems})
    notices: list[str] = []
    (found,) = decode(track, tmp_path / "cache", on_notice=notices.append)
    expected = read_audio(path, sample_rate=RATE).samples
    np.testing.assert_allclose(found.read(0, N)[0], np.repeat(expected, 2, axis=0), atol=1e-6)
    assert any("vocals: resampled from 16000 to 8000 Hz" in notice for notice in notices)
    assert any("vocals: its one channel is used for both" in notice for notice in notices)
    (mono,) = decode(track_of(tmp_path, "b", vocals=drums, drums=drums), tmp_path / "cache", n_channels=1)
    np.testing.assert_allclose(mono.read(0, N)[0, 0], drums.mean(axis=0), atol=1e-7)
    assert "mixed to one channel" in mono.notices


def test_more_channels_than_the_network_has_are_refused(tmp_path: Path) -> None:
    track = track_of(tmp_path, vocals=music(N, n_channels=4, sample_rate=RATE), drums=stereo(1))
    with pytest.raises(AudioError, match="'song': it has 4 channels"):
        decode(track, tmp_path / "cache")


def test_stems_may_differ_by_a_tenth_of_a_second_in_length(tmp_path: Path) -> None:
    notices: list[str] = []
    near = track_of(tmp_path, vocals=stereo(1), drums=stereo(2, N - 800))
    (found,) = decode(near, tmp_path / "cache", on_notice=notices.append)
    assert found.n_samples == N and not found.read(N - 800, N)[1].any() and found.read(N - 800, N)[0].any()
    assert any("drums: 800 samples shorter" in notice for notice in notices)
    far = track_of(tmp_path, "far", vocals=stereo(1), drums=stereo(2, N - 801))
    with pytest.raises(AudioError, match=r"'.*far drums\.wav' is 0\.400 s long, but '.*far vocals\.wav' 0\.500 s"):
        decode(far, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if "far" in path.name and path.suffix != ".lock"]


def test_a_missing_stem_is_an_error_or_silence(tmp_path: Path) -> None:
    track = track_of(tmp_path, vocals=stereo(1))
    with pytest.raises(DatasetError, match=r"'song': it has no drums; --missing silent"):
        decode(track, tmp_path / "cache")
    notices: list[str] = []
    (found,) = decode(track, tmp_path / "cache", missing="silent", on_notice=notices.append)
    np.testing.assert_array_equal(found.read(0, N), np.stack([stereo(1), np.zeros((2, N))]))
    assert found.silent == ("drums",) and notices == ["song: drums is missing: silence"]


def test_a_tracks_own_problem_is_what_the_error_says(tmp_path: Path) -> None:
    make_csv(tmp_path / "songs.csv", seconds=0.5)
    (gone,) = tmp_path.glob("audio/*/bass.wav")
    gone.unlink()
    dataset = load_dataset(tmp_path / "songs.csv")
    with pytest.raises(DatasetError, match=r"not there: .*bass\.wav"):
        decode(list(dataset.tracks), tmp_path / "cache", stems=("bass",), sample_rate=44100)


def test_silence_and_clipping_are_noticed(tmp_path: Path) -> None:
    drums = stereo(1)
    drums[0, 100] = 1.0
    track = track_of(tmp_path, vocals=np.zeros((2, N), np.float32), drums=drums)
    notices: list[str] = []
    (found,) = decode(track, tmp_path / "cache", on_notice=notices.append)
    assert found.silent == ("vocals",)
    assert "song: vocals is silent throughout" in notices
    assert "song: drums reaches full scale: it may be clipped" in notices


def test_what_is_the_same_in_many_songs_is_said_once(tmp_path: Path) -> None:
    tracks = [track_of(tmp_path, f"song {i}", vocals=stereo(i)) for i in range(5)]
    notices: list[str] = []
    cache_tracks(
        tracks,
        tmp_path / "cache",
        stems=("vocals", "drums"),
        sample_rate=RATE,
        n_channels=2,
        missing="silent",
        on_notice=notices.append,
    )
    assert notices == ["song 0, song 1, song 2 and 2 more: drums is missing: silence"]


def test_a_damaged_file_stops_it_or_leaves_its_track_out(tmp_path: Path) -> None:
    good = track_of(tmp_path, "good", vocals=stereo(1), drums=stereo(2))
    bad = track_of(tmp_path, "bad", vocals=stereo(1), drums=stereo(2))
    bad.stems["drums"].path.write_bytes(b"no audio" * 20)
    with pytest.raises(AudioError, match=r"bad drums\.wav"):
        decode([bad, good], tmp_path / "cache")
    notices: list[str] = []
    found = decode([bad, good], tmp_path / "cache", unreadable="skip", on_notice=notices.append)
    assert [one.name for one in found] == ["good"]
    assert any("bad: left out" in notice and "bad drums.wav" in notice for notice in notices)
    with pytest.raises(DatasetError, match="no track of the dataset can be used"):
        decode(bad, tmp_path / "cache", unreadable="skip")


def test_lossy_files_of_mixed_formats_are_what_the_reader_gives(tmp_path: Path) -> None:
    make_folder(tmp_path / "data", seconds=1.0)
    (track,) = load_dataset(tmp_path / "data").tracks
    (found,) = decode(track, tmp_path / "cache", stems=tuple(track.stems), sample_rate=44100)
    for row, stem in enumerate(found.rows):
        expected = read_audio(track.stems[stem].path).samples
        np.testing.assert_array_equal(found.read(0, expected.shape[1])[row], expected)


def test_progress_is_told_by_track(tmp_path: Path) -> None:
    tracks = [track_of(tmp_path, f"song {i}", vocals=stereo(1), drums=stereo(2)) for i in range(3)]
    told: list[tuple[int, int, str]] = []
    decode(tracks, tmp_path / "cache", on_progress=lambda *progress: told.append(progress))
    assert told == [(1, 3, "song 0"), (2, 3, "song 1"), (3, 3, "song 2")]


def refuse(*args: object, **options: object) -> None:
    raise AssertionError("decoded again")


def test_what_is_there_is_only_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    track = track_of(tmp_path, vocals=stereo(1), drums=stereo(2))
    (first,) = decode(track, tmp_path / "cache")
    monkeypatch.setattr(cache, "_decode", refuse)
    (second,) = decode(track, tmp_path / "cache")
    assert second == first
    (moved,) = decode(Track("song", "validation", None, track.stems), tmp_path / "cache")
    assert moved.subset == "validation" and moved.folder == first.folder


@pytest.mark.parametrize("what", ["file", "stems", "others", "rate", "channels"])
def test_whatever_decides_the_samples_makes_another_entry(tmp_path: Path, what: str) -> None:
    track = track_of(tmp_path, vocals=stereo(1), drums=stereo(2))
    (first,) = decode(track, tmp_path / "cache")
    options: dict[str, dict[str, Any]] = {
        "file": {},
        "stems": {"stems": ("drums", "vocals")},
        "rate": {"sample_rate": 16000},
        "channels": {"n_channels": 1},
        "others": {"stems": ("vocals",), "others": ("drums",)},
    }
    if what == "file":
        write_wav(track.stems["drums"].path, stereo(9), sample_rate=RATE)
        os.utime(track.stems["drums"].path, ns=(1, 1))
    (second,) = decode(track, tmp_path / "cache", **options[what])
    assert second.folder != first.folder
    if what == "file":
        np.testing.assert_array_equal(second.read(0, N)[1], stereo(9))


@pytest.mark.parametrize(
    "damage", ["samples cut", "samples gone", "samples zeros", "json cut", "json odd", "json gone", "unknown key"]
)
def test_a_damaged_entry_is_made_again(tmp_path: Path, damage: str) -> None:
    track = track_of(tmp_path, vocals=stereo(1), drums=stereo(2))
    (found,) = decode(track, tmp_path / "cache")
    samples, description = found.folder / "samples.npy", found.folder / "track.json"
    text = description.read_text()
    if damage == "samples cut":
        os.truncate(samples, 1000)
    elif damage == "samples zeros":
        samples.write_bytes(bytes(samples.stat().st_size))
    elif damage == "samples gone":
        samples.unlink()
    elif damage == "json gone":
        description.unlink()
    else:
        changed = {"json cut": text[:20], "json odd": "[]", "unknown key": json.dumps(json.loads(text) | {"x": 1})}
        description.write_text(changed[damage])
    (again,) = decode(track, tmp_path / "cache")
    np.testing.assert_array_equal(again.read(0, N), np.stack([stereo(1), stereo(2)]))


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("where", ["mkdir", "spool", "samples", "description"])
def test_a_full_disk_is_said_and_nothing_half_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    first = track_of(tmp_path, "first", vocals=stereo(1), drums=stereo(2))
    second = track_of(tmp_path, "second", vocals=stereo(3), drums=stereo(4))
    (kept,) = decode(first, tmp_path / "cache")

    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if where == "spool":
            patch.setattr("unbraid.evaluation.spool.tempfile.TemporaryFile", full)
        elif where == "samples":
            patch.setattr(cache.np.lib.format, "write_array_header_1_0", full)
        else:
            patch.setattr(Path, "mkdir" if where == "mkdir" else "write_text", full)
            patch.setattr(cache, "make_cache", lambda folder: None)
        with pytest.raises(DatasetError, match=r"no room .*MB are free.*--cache"):
            decode([first, second], tmp_path / "cache", unreadable="skip")
    assert left_in(tmp_path / "cache") == [kept.folder.name]
    assert len(decode([first, second], tmp_path / "cache")) == 2


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    track = track_of(tmp_path, vocals=stereo(1), drums=stereo(2))
    with pytest.raises(DatasetError, match=r"cannot make the cache '.*file/cache': .*--cache"):
        decode(track, tmp_path / "file" / "cache")


def test_what_a_killed_process_left_is_no_hindrance(tmp_path: Path) -> None:
    track = track_of(tmp_path, vocals=stereo(1), drums=stereo(2))
    (found,) = decode(track, tmp_path / "cache")
    half = found.folder.with_name(f".{found.folder.name}.part")
    found.folder.rename(half)
    os.truncate(half / "samples.npy", 500)
    (again,) = decode(track, tmp_path / "cache")
    np.testing.assert_array_equal(again.read(0, N), np.stack([stereo(1), stereo(2)]))
    assert left_in(tmp_path / "cache") == [again.folder.name]


def test_a_second_one_at_the_same_time_waits_and_finds_it_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    track = track_of(tmp_path, vocals=stereo(1), drums=stereo(2))
    begun, go_on, n_decoded = threading.Event(), threading.Event(), 0
    real = cache._decode

    def slow(*args: Any) -> None:
        nonlocal n_decoded
        n_decoded += 1
        begun.set()
        assert go_on.wait(20)
        real(*args)

    monkeypatch.setattr(cache, "_decode", slow)
    found: list[CachedTrack] = []
    threads = [threading.Thread(target=lambda: found.extend(decode(track, tmp_path / "cache"))) for _ in range(2)]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert n_decoded == 1 and len(found) == 2 and found[0] == found[1]


def test_a_track_can_be_sent_to_another_process(tmp_path: Path) -> None:
    (found,) = decode(track_of(tmp_path, vocals=stereo(1), drums=stereo(2)), tmp_path / "cache")
    expected = found.read(100, 200)
    assert len(pickle.dumps(found)) < 2000  # without its samples
    again = pickle.loads(pickle.dumps(found))
    assert again == found
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        np.testing.assert_array_equal(pool.submit(CachedTrack.read, found, 100, 200).result(60), expected)


def test_reading_changes_nothing(tmp_path: Path) -> None:
    (found,) = decode(track_of(tmp_path, vocals=stereo(1), drums=stereo(2)), tmp_path / "cache")
    found.read(0, N)[:] = 0
    np.testing.assert_array_equal(found.read(0, N)[0], stereo(1))


def test_a_cache_that_cannot_be_written_is_no_tracks_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does --unreadable skip go through all tracks to say so of each."""

    def broken(*args: object, **options: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("unbraid.evaluation.spool.tempfile.TemporaryFile", broken)
    track = track_of(tmp_path, vocals=stereo(1), drums=stereo(2))
    with pytest.raises(DatasetError, match=r"cannot write into the cache '.*cache': Input/output error; .*--cache"):
        decode(track, tmp_path / "cache", unreadable="skip")
    assert left_in(tmp_path / "cache") == []


def test_a_cache_that_is_gone_before_it_is_read_is_named(tmp_path: Path) -> None:
    (found,) = decode(track_of(tmp_path, vocals=stereo(1), drums=stereo(2)), tmp_path / "cache")
    unread = pickle.loads(pickle.dumps(found))
    (found.folder / "samples.npy").unlink()
    with pytest.raises(DatasetError, match=r"cannot read '.*' of the cache: .*; start again"):
        unread.read(0, 1)


def test_names_that_are_long_in_bytes_make_files_all_the_same(tmp_path: Path) -> None:
    place = cache.entry(tmp_path, "\U00020000" * 60, "")
    place.mkdir()
    assert len(place.name.encode()) < 200
