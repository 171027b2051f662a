"""Chunks, crops and 8 bits as Spleeter's training has them, against the arithmetic and a direct transform."""

import errno
import json
import os
import threading
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from song_makers import write_wav
from unbraid.datatypes import FloatArray
from unbraid.errors import AudioError, DatasetError
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.training import spleeter_data
from unbraid.training.examples import batches
from unbraid.training.spleeter_data import SpleeterExamples, from_8_bits, spleeter_examples, to_8_bits
from unbraid.training.spleeter_table import chunk_starts

RATE, N_FFT, HOP, T, F = 8000, 512, 128, 64, 128
STEMS = ("vocals", "drums")
LEAST = (T - 1) * HOP + N_FFT  # samples of T frames: 1.07 s


def config(**training: Any) -> SpleeterConfig:
    training = {"n_chunks_per_song": 3, "chunk_duration": 1.5} | training
    return SpleeterConfig(STEMS, sample_rate=RATE, n_fft=N_FFT, hop=HOP, n_frames=T, n_bins=F, training=training)


def signals_of(nth: int, n_samples: int) -> dict[str, FloatArray]:
    """A mix that is not the sum of the stems, and these, in 16 bits."""
    rng = np.random.default_rng(nth)
    loud = np.linspace(0.02, 0.3, n_samples)
    made = {name: rng.uniform(-loud, loud, (2, n_samples)) for name in ("mix", *STEMS)}
    return {name: (np.rint(one * 2**15) / 2**15).astype(np.float32) for name, one in made.items()}


def make_table(
    folder: Path, *seconds: float, durations: tuple[object, ...] | None = None, columns: str = "", rate: int = RATE
) -> Path:
    """Songs of so many seconds, and their table, last song first."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [columns or "mix_path,vocals_path,drums_path,duration"]
    for nth, length_s in reversed(list(enumerate(seconds))):
        for name, samples in signals_of(nth, round(length_s * rate)).items():
            soundfile.write(folder / f"song{nth} {name}.wav", samples.T, rate, subtype="PCM_16")
        cells = [f"song{nth} {name}.wav" for name in ("mix", *STEMS)]
        if columns != "mix_path,vocals_path,drums_path":
            cells.append(str(durations[nth] if durations else length_s))
        lines.append(",".join(cells))
    table = folder / "songs.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def direct(samples: FloatArray) -> FloatArray:
    """Magnitudes [shape=(channel, frame, F)] by one Fourier transform after another."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    starts = range(0, samples.shape[1] - N_FFT + 1, HOP)
    frames = [np.abs(np.fft.rfft(samples[:, start : start + N_FFT] * window))[:, :F] for start in starts]
    return np.stack(frames, axis=1).astype(np.float32)


def chunk_of(nth: int, length_s: float, start: int, size: int) -> FloatArray:
    """All rows of a chunk [shape=(row, channel, frame, F)], the mix last."""
    made = signals_of(nth, round(length_s * RATE))
    return np.stack([direct(made[name][:, start : start + size]) for name in (*STEMS, "mix")])


def first_frame(example: FloatArray, chunk: FloatArray) -> int | None:
    """Where an example lies in a chunk; None if it does not."""
    for first in range(chunk.shape[2] - T + 1):
        if np.allclose(example, chunk[:, :, first : first + T], rtol=0.03, atol=1e-3):
            return first
    return None


# Chunks


def test_the_only_chunk_is_central() -> None:
    assert chunk_starts(200.0, 20.0, 1) == (90.0,)
    assert chunk_starts(8.0, 20.0, 1) == (0.0,)


def test_several_are_evenly_spaced_between_margins_of_half_a_second() -> None:
    np.testing.assert_allclose(chunk_starts(221.0, 20.0, 2), [0.5, 200.5])  # which ends 0.5 s before the song
    np.testing.assert_allclose(chunk_starts(221.0, 20.0, 5), [0.5, 50.5, 100.5, 150.5, 200.5])
    starts = chunk_starts(180.0, 20.0, 40)
    assert len(starts) == 40 and starts[0] == 0.5 and starts[-1] + 20.0 == pytest.approx(179.5)
    np.testing.assert_allclose(np.diff(starts), 159.0 / 39)


def test_in_a_short_song_none_begins_before_it() -> None:
    assert chunk_starts(20.8, 20.0, 3) == pytest.approx((0.3, 0.4, 0.5))
    assert chunk_starts(15.0, 20.0, 3) == (0.0, 0.0, 0.5)


# 8 bits


@pytest.mark.parametrize("range_db", [0.5, 30.0, 99.0])
def test_8_bits_are_within_half_a_step(range_db: float) -> None:
    levels = np.random.default_rng(0).uniform(-range_db, 0, (2, 300, 128)) + 20
    codes, low, high = to_8_bits((10 ** (levels / 20)).astype(np.float32))
    assert codes.dtype == np.uint8 and codes.min() == 0 and codes.max() == 255
    step = (high - low) / 255
    assert high - low == pytest.approx(range_db, rel=1e-3)
    error = np.abs(20 * np.log10(from_8_bits(codes, low, high)) - levels)
    assert error.max() <= step / 2 + 1e-4  # float32 of up to 40 dB
    assert error.max() > 0.45 * step  # and it is 8 bits indeed


def test_levels_more_than_100_db_down_become_the_lowest() -> None:
    magnitudes = np.array([100.0, 1e-2, 1e-3, 1e-4, 0.0], np.float32)
    codes, low, high = to_8_bits(magnitudes)
    assert (low, high) == pytest.approx((-60.0, 40.0), abs=1e-4)
    np.testing.assert_allclose(from_8_bits(codes, low, high), [100, 1e-2, 1e-3, 1e-3, 1e-3], rtol=0.025)


def test_silence_stays_inaudible() -> None:
    codes, low, high = to_8_bits(np.zeros((2, 3, 4), np.float32))
    np.testing.assert_allclose(from_8_bits(codes, low, high), 1e-9)


def test_turning_into_8_bits_leaves_the_magnitudes_alone() -> None:
    magnitudes = np.random.default_rng(0).uniform(0, 1, (2, 3, 4)).astype(np.float32)
    before = magnitudes.copy()
    to_8_bits(magnitudes)
    np.testing.assert_array_equal(magnitudes, before)


# Examples


def test_validation_is_the_middle_of_each_song_in_the_tables_order(tmp_path: Path) -> None:
    table = make_table(tmp_path, 14.0, 13.0)
    found = list(spleeter_examples(config(), table, validation=True).validation())
    assert len(found) == 2 and found[0].shape == (3, 2, T, F) and found[0].dtype == np.float32
    for example, (nth, length_s, start) in zip(found, [(1, 13.0, 4000), (0, 14.0, 8000)], strict=True):
        whole = chunk_of(nth, length_s, start, 96000)
        first = (whole.shape[2] - T) // 2
        np.testing.assert_allclose(example, whole[:, :, first : first + T], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("is_cached", [False, True])
def test_examples_are_crops_of_the_chunks_and_all_of_these_occur(tmp_path: Path, is_cached: bool) -> None:
    table = make_table(tmp_path / "data", 4.5, 3.0)
    examples = spleeter_examples(config(), table, cache=tmp_path / "cache" if is_cached else None)
    assert examples.n_chunks == 6
    size = round(1.5 * RATE)
    starts = {0: (0.5, 1.5, 2.5), 1: (0.5, 0.75, 1.0)}
    chunks = [
        chunk_of(nth, length_s, round(start * RATE), size)
        for nth, length_s in ((0, 4.5), (1, 3.0))
        for start in starts[nth]
    ]
    n_places = chunks[0].shape[2] - T + 1
    assert n_places == 1 + (size - N_FFT) // HOP - T + 1
    rng = np.random.default_rng(1)
    seen, places = set(), set()
    for _ in range(60):
        example = examples.draw(rng)
        assert example.shape == (3, 2, T, F) and example.dtype == np.float32
        found = [(i, first) for i, chunk in enumerate(chunks) if (first := first_frame(example, chunk)) is not None]
        assert found
        seen |= {i for i, _ in found}
        places |= {first for _, first in found}
    assert seen == set(range(6)) and len(places) > n_places / 2 and max(places) < n_places


def test_the_cache_gives_what_decoding_gives_within_half_a_step(tmp_path: Path) -> None:
    table = make_table(tmp_path / "data", 4.0, 3.2)
    exact = spleeter_examples(config(), table)
    cached = spleeter_examples(config(), table, cache=tmp_path / "cache")
    for one, other in zip(exact.validation(), cached.validation(), strict=True):
        for row, kept in zip(one, other, strict=True):
            is_above = row > 1e-4 * row.max()
            error_db = np.abs(20 * np.log10(kept[is_above] / row[is_above]))
            assert error_db.max() <= 100 / 255 / 2 + 1e-3
    for step in range(5):
        one, other = (examples.draw(np.random.default_rng(step)) for examples in (exact, cached))
        np.testing.assert_allclose(one, other, rtol=0.024, atol=1e-2)


def test_songs_of_another_rate_are_the_same_with_and_without_a_cache(tmp_path: Path) -> None:
    table = make_table(tmp_path / "data", 4.0, rate=2 * RATE)
    said: list[str] = []
    exact = spleeter_examples(config(), table, on_notice=said.append)
    cached = spleeter_examples(config(), table, cache=tmp_path / "cache")
    for one, other in zip(exact.validation(), cached.validation(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0.024, atol=1e-2)
    assert said == [f"song0 mix: {name}: resampled from 16000 to 8000 Hz" for name in (*STEMS, "mix")]


def test_batches_can_be_made_of_it(tmp_path: Path) -> None:
    examples = spleeter_examples(config(), make_table(tmp_path, 4.0), cache=tmp_path / "cache")

    def some(n_workers: int) -> list[FloatArray]:
        steps = batches(examples, batch_size=2, n_samples=T, seed=0, first_step=0, n_workers=n_workers)
        return list(islice(steps, 4))

    for one, other in zip(some(0), some(2), strict=True):
        assert one.shape == (2, 3, 2, T, F)
        np.testing.assert_array_equal(one, other)


def test_without_a_duration_it_is_measured(tmp_path: Path) -> None:
    plain = spleeter_examples(config(), make_table(tmp_path / "a", 4.5))
    bare = spleeter_examples(config(), make_table(tmp_path / "b", 4.5, columns="mix_path,vocals_path,drums_path"))
    for one, other in zip(plain.validation(), bare.validation(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_defaults_are_spleeters() -> None:
    bare = SpleeterConfig(STEMS, sample_rate=RATE, n_fft=N_FFT, hop=HOP, n_frames=T, n_bins=F)
    assert spleeter_data._chunks_of(bare) == (2, 20.0)


# What is left out


@pytest.mark.parametrize("is_cached", [False, True])
def test_chunks_that_are_too_short_are_left_out_and_said(tmp_path: Path, is_cached: bool) -> None:
    table = make_table(tmp_path / "data", 4.5, durations=(6.0,))  # chunks at 0.5, 2.25 and 4.0 s: the last has 0.5 s
    said: list[str] = []
    cache = tmp_path / "cache" if is_cached else None
    examples = spleeter_examples(config(), table, cache=cache, on_notice=said.append)
    assert len(list(examples.validation())) == 2
    n_frames = 1 + (RATE // 2 - N_FFT) // HOP
    assert said == [f"song0 mix: the chunk at 4.00 s is left out: only {n_frames} frames, and T is {T}"]
    for seed in range(9):
        examples.draw(np.random.default_rng(seed))
    assert len(said) == 1


@pytest.mark.parametrize("is_cached", [False, True])
def test_a_chunk_beyond_the_songs_end_is_left_out(tmp_path: Path, is_cached: bool) -> None:
    table = make_table(tmp_path / "data", 2.5, durations=(20.0,))
    examples = spleeter_examples(config(), table, cache=tmp_path / "cache" if is_cached else None)
    assert len(list(examples.validation())) == 1


@pytest.mark.parametrize("is_cached", [False, True])
def test_values_that_are_not_finite_are_left_out_and_said(tmp_path: Path, is_cached: bool) -> None:
    table = make_table(tmp_path / "data", 4.5)
    drums = signals_of(0, round(4.5 * RATE))["drums"]
    drums[0, 22000:22500] = 3e38  # overflows in the transform; the chunks from 1.5 s and from 2.5 s on have it
    write_wav(tmp_path / "data" / "song0 drums.wav", drums, sample_rate=RATE)
    said: list[str] = []
    cache = tmp_path / "cache" if is_cached else None
    examples = spleeter_examples(config(), table, cache=cache, on_notice=said.append)
    (example,) = examples.validation()
    assert np.isfinite(example).all()
    starts = ("1.50", "2.50")
    assert said == [f"song0 mix: the chunk at {s} s is left out: values that are not finite" for s in starts]


def test_a_cache_without_any_chunk_is_an_error(tmp_path: Path) -> None:
    table = make_table(tmp_path / "data", 0.5)
    with pytest.raises(DatasetError, match=r"no chunk of any song of '.*songs\.csv' can be used"):
        spleeter_examples(config(), table, cache=tmp_path / "cache")
    with pytest.raises(DatasetError, match=r"none of 100 chunks drawn has 64 finite frames"):
        spleeter_examples(config(), table).draw(np.random.default_rng(0))


def test_a_damaged_file_stops_it_or_leaves_its_song_out(tmp_path: Path) -> None:
    table = make_table(tmp_path / "data", 4.0, 3.0)
    (tmp_path / "data" / "song1 drums.wav").write_bytes(b"no audio" * 30)
    with pytest.raises(AudioError, match=r"song1 drums\.wav"):
        spleeter_examples(config(), table, cache=tmp_path / "cache")
    said: list[str] = []
    examples = spleeter_examples(config(), table, cache=tmp_path / "cache", unreadable="skip", on_notice=said.append)
    assert examples.n_chunks == 3 and len(said) == 1 and "song1 drums.wav" in said[0]


def test_stems_that_do_not_belong_to_the_mix_are_refused(tmp_path: Path) -> None:
    table = make_table(tmp_path / "data", 4.0)
    short = signals_of(0, 2 * RATE)["drums"]
    soundfile.write(tmp_path / "data" / "song0 drums.wav", short.T, RATE, subtype="PCM_16")
    with pytest.raises(AudioError, match=r"song0 drums\.wav' is 2\.000 s long"):
        spleeter_examples(config(), table, cache=tmp_path / "cache")


# Tables and keys


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            "mix_path,vocals_path,drum_path,duration",
            "unknown column 'drum_path'; the nearest known one is 'drums_path'",
        ),
        ("mix_path,vocals_path,drums_path,length", "unknown column 'length'; the nearest known one is"),
        ("mix_path,vocals_path,drums_path,bass_path", "unknown column 'bass_path'; the nearest"),
        ("mix_path,vocals_path,duration,", "unknown column ''; the nearest"),
    ],
)
def test_other_columns_are_refused(tmp_path: Path, columns: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        spleeter_examples(config(), make_table(tmp_path, 4.0, columns=columns))


def test_a_stem_without_a_column_is_named(tmp_path: Path) -> None:
    table = make_table(tmp_path, 4.0)
    lines = [line.split(",") for line in table.read_text().splitlines()]
    table.write_text("\n".join(",".join([*line[:2], line[3]]) for line in lines))
    with pytest.raises(DatasetError, match="no column 'drums_path', and the configuration's stems are vocals, drums"):
        spleeter_examples(config(), table)


@pytest.mark.parametrize(
    ("text", "message"), [("", "its first line is not"), ("mix_path,vocals_path,drums_path,duration\n", "no tracks")]
)
def test_an_empty_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "songs.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        spleeter_examples(config(), tmp_path / "songs.csv")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    table = make_table(tmp_path, 4.0)
    (tmp_path / "song0 drums.wav").unlink()
    with pytest.raises(DatasetError, match=r"not there: '.*song0 drums\.wav'"):
        spleeter_examples(config(), table)


def test_paths_are_relative_to_the_data_root(tmp_path: Path) -> None:
    table = make_table(tmp_path / "data", 4.0)
    moved = table.rename(tmp_path / "songs.csv")
    assert len(list(spleeter_examples(config(), moved, tmp_path / "data").validation())) == 3
    with pytest.raises(DatasetError, match="data_root"):
        spleeter_examples(config(), moved)


@pytest.mark.parametrize("duration", ["long", "-3", "nan", "inf", "0"])
def test_a_duration_that_is_none_is_refused(tmp_path: Path, duration: str) -> None:
    table = make_table(tmp_path, 4.0, durations=(duration,))
    with pytest.raises(
        DatasetError, match=f"duration of 'song0 mix' must be a positive number of seconds, got '{duration}'"
    ):
        spleeter_examples(config(), table)


@pytest.mark.parametrize(
    ("key", "value"),
    [("n_chunks_per_song", 0), ("n_chunks_per_song", 2.5), ("n_chunks_per_song", True), ("chunk_duration", 0),
     ("chunk_duration", "20"), ("chunk_duration", float("nan"))],
)  # fmt: skip
def test_keys_that_make_no_sense_are_refused(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(DatasetError, match=f"{key} must be"):
        spleeter_examples(config(**{key: value}), make_table(tmp_path, 4.0))


def test_chunks_must_hold_the_frames_of_an_example(tmp_path: Path) -> None:
    table = make_table(tmp_path, 4.0)
    with pytest.raises(DatasetError, match=r"chunks of 1 s are too short: T = 64 frames take 1\.07 s"):
        spleeter_examples(config(chunk_duration=1), table)
    example = next(spleeter_examples(config(chunk_duration=LEAST / RATE), table).validation())
    assert example.shape == (3, 2, T, F)


# The cache


def cached(table: Path, folder: Path, **options: Any) -> SpleeterExamples:
    return spleeter_examples(config(), table, cache=folder, **options)


def refuse(*args: object) -> None:
    raise AssertionError("made again")


def test_what_is_there_is_only_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = make_table(tmp_path / "data", 4.5, 3.0, durations=(6.0, 3.0))
    said: list[list[str]] = [[], []]
    first = list(cached(table, tmp_path / "cache", on_notice=said[0].append).validation())
    monkeypatch.setattr(spleeter_data, "_write", refuse)
    second = list(cached(table, tmp_path / "cache", on_notice=said[1].append).validation())
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert said[0] == said[1] != []


def test_other_sizes_and_files_make_other_entries(tmp_path: Path) -> None:
    table = make_table(tmp_path / "data", 4.0)
    cached(table, tmp_path / "cache")
    for n, made in enumerate((config(n_chunks_per_song=2), config(chunk_duration=1.2)), 2):
        spleeter_examples(made, table, cache=tmp_path / "cache")
        assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == n
    os.utime(tmp_path / "data" / "song0 drums.wav", ns=(1, 1))
    cached(table, tmp_path / "cache")
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 4


@pytest.mark.parametrize("damage", ["cut", "gone", "json"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, damage: str) -> None:
    table = make_table(tmp_path / "data", 4.0)
    before = list(cached(table, tmp_path / "cache").validation())
    (file,) = (tmp_path / "cache").glob("song0*/1.npy")
    if damage == "cut":
        os.truncate(file, 500)
    elif damage == "gone":
        file.unlink()
    else:
        file.with_name("chunks.json").write_text(json.dumps({"chunks": 3}))
    for one, other in zip(before, cached(table, tmp_path / "cache").validation(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_file_that_vanishes_from_the_cache_is_named(tmp_path: Path) -> None:
    examples = cached(make_table(tmp_path / "data", 4.0), tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("song0*/1.npy")
    file.unlink()
    with pytest.raises(DatasetError, match=r"1\.npy' of the cache"):
        list(examples.validation())


def test_a_full_disk_is_said_and_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = make_table(tmp_path / "data", 4.0)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(spleeter_data.np.lib.format, "write_array_header_1_0", full)
        with pytest.raises(DatasetError, match=r"no room .*--cache"):
            cached(table, tmp_path / "cache", unreadable="skip")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
    assert cached(table, tmp_path / "cache").n_chunks == 3


def test_a_second_one_at_the_same_time_waits_and_finds_it_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = make_table(tmp_path / "data", 4.0)
    begun, go_on, n_made = threading.Event(), threading.Event(), 0
    real = spleeter_data._write

    def slow(*args: Any) -> None:
        nonlocal n_made
        n_made += 1
        begun.set()
        assert go_on.wait(20)
        real(*args)

    monkeypatch.setattr(spleeter_data, "_write", slow)
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(cached(table, tmp_path / "cache").n_chunks)) for _ in range(2)
    ]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert n_made == 1 and found == [3, 3]


def test_progress_is_told_by_song(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    table = make_table(tmp_path / "data", 4.0, 3.0)
    cached(table, tmp_path / "cache", on_progress=lambda *progress: told.append(progress))
    assert told == [(1, 2, "song1 mix"), (2, 2, "song0 mix")]
