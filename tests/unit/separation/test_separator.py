import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import quick_engine
from unbraid import Audio, Output, Separator, read_audio, write_audio
from unbraid.errors import AudioError, CancelledError, EngineError, ModelError, UsageError
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.models.spleeter.graph import parameter_shapes
from unbraid.separation.plan import Options
from unbraid.weights.folder import write_model
from unbraid.weights.model_file import ModelFile, NetworkPart


@pytest.fixture(scope="module")
def separator(model_folder: Path):
    with Separator(model_folder, threads=2) as one:
        yield one


def music(n_samples: int, n_channels: int = 2, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal((n_channels, n_samples))).astype(np.float32)


def test_separate_keeps_shape_and_input(separator) -> None:
    samples = music(100_000)
    before = samples.copy()
    stems = separator.separate(samples, sample_rate=44100)
    assert tuple(stems) == separator.stems
    assert {stem.shape for stem in stems.values()} == {samples.shape}
    assert np.abs(sum(stems.values()) - samples).max() < 1e-6
    assert np.array_equal(samples, before)


def test_one_dimension_is_mono_and_doubles_are_taken(separator) -> None:
    samples = music(50_000, 1)[0]
    stems = separator.separate(samples)
    both = separator.separate(samples[None].astype(np.float64))
    for stem in stems:
        assert stems[stem].shape == (50_000,)
        assert np.array_equal(stems[stem], both[stem][0])


def test_stream_equals_separate(separator) -> None:
    samples = music(200_001)
    blocks = [samples[:, start : start + 30_000] for start in range(0, 200_001, 30_000)]
    streamed = list(separator.stream(blocks, sample_rate=48000))
    assert len(streamed) > 1
    whole = separator.separate(samples, sample_rate=48000)
    for stem in separator.stems:
        joined = np.concatenate([block[stem] for block in streamed], axis=-1)
        assert np.abs(joined - whole[stem]).max() < 1e-6  # soxr rounds differently in blocks of other lengths


def test_an_empty_stream_gives_nothing(separator) -> None:
    assert list(separator.stream([])) == []


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((1000, 2), np.float32), "transpose them"),
        (np.zeros((1, 2, 1000), np.float32), "got \\(1, 2, 1000\\)"),
        (np.zeros((2, 1000), np.int16), "floating-point"),
        (np.full((2, 1000), np.nan, np.float32), "finite"),
    ],
)
def test_wrong_arrays_are_refused(separator, samples: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        separator.separate(samples)


def test_blocks_must_agree_in_channels(separator) -> None:
    with pytest.raises(UsageError, match="blocks must all have 2 channels, got 1"):
        list(separator.stream([music(1000), music(1000, 1)]))


def test_threads_do_not_disturb_each_other(separator) -> None:
    songs = [music(90_000, seed=seed) for seed in range(3)]
    alone = [separator.separate(song) for song in songs]
    together: list[dict[str, np.ndarray]] = [{} for _ in songs]

    def work(i: int) -> None:
        together[i] = separator.separate(songs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, together, strict=True):
        assert all(np.array_equal(one[stem], other[stem]) for stem in separator.stems)


def test_progress_reaches_the_end_and_may_cancel(separator, tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    write_audio(song, Audio(music(400_000), 44100))
    seen = []
    separator.separate_to_file(song, tmp_path / "a", on_progress=seen.append)
    assert [one.done_s for one in seen] == sorted(one.done_s for one in seen)
    assert seen[-1].done_s == pytest.approx(400_000 / 44100)
    assert seen[-1].total_s == pytest.approx(400_000 / 44100)

    def cancel(progress) -> None:
        raise CancelledError("enough")

    with pytest.raises(CancelledError, match="enough"):
        separator.separate_to_file(song, tmp_path / "b", on_progress=cancel)
    assert not [path for path in (tmp_path / "b").rglob("*") if path.is_file()]


def test_files_are_what_arrays_are(separator, tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    samples = music(123_457)
    write_audio(song, Audio(samples, 44100))
    report = separator.separate_to_file(song, tmp_path, output=Output(bit_depth="float"))
    stems = separator.separate(read_audio(song).samples, sample_rate=44100)
    for stem, written in report.stems.items():
        audio = read_audio(written.path)
        assert (audio.sample_rate, written.n_samples, written.n_clipped) == (44100, 123_457, 0)
        assert np.abs(audio.samples - stems[stem]).max() < 1e-6
    assert report.seconds == pytest.approx(123_457 / 44100)


def test_the_wiener_filter_needs_more_than_a_stream(model_folder: Path) -> None:
    with Separator(model_folder, options=Options(wiener=True)) as separator:
        with pytest.raises(UsageError, match="use separate"):
            next(separator.stream(iter([music(1000)])))
        stems = separator.separate(music(70_000))
        assert all(np.isfinite(stem).all() for stem in stems.values())


class Blocks:
    """Blocks of a track that can be gone through again; how often they were is counted."""

    def __init__(self, samples: np.ndarray, length: int) -> None:
        self._parts = [samples[:, start : start + length] for start in range(0, samples.shape[1], length)]
        self.n_finished = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        yield from self._parts
        self.n_finished += 1


@pytest.mark.parametrize("sample_rate", [44100, 32000])
@pytest.mark.parametrize("wiener", [False, True])
def test_what_can_be_read_again_is_a_stream_for_all_models(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, wiener: bool, sample_rate: int
) -> None:
    monkeypatch.setattr("unbraid.separation.separator.load_engine", quick_engine)
    samples = music(150_001)
    before = samples.copy()
    with Separator(model_folder, options=Options(wiener=wiener)) as separator:
        whole = separator.separate(samples, sample_rate=sample_rate)
        blocks = Blocks(samples, 40_000)
        for source in (blocks, list(blocks), [samples]):
            streamed = list(separator.stream(source, sample_rate=sample_rate))
            for stem in separator.stems:
                joined = np.concatenate([block[stem] for block in streamed], axis=-1)
                assert joined.shape == samples.shape
                assert np.abs(joined - whole[stem]).max() < 2e-6
        assert blocks.n_finished == 1 + (2 if wiener else 1)  # once for the list
    assert np.array_equal(samples, before)


def test_blocks_that_can_be_read_again_must_agree_in_channels_too(model_folder: Path) -> None:
    with Separator(model_folder, options=Options(wiener=True)) as separator:
        assert list(separator.stream([])) == []
        for blocks in ([music(1000), music(1000, 1)], [music(1000, 1), music(1000)]):
            with pytest.raises(UsageError, match=r"blocks must all have [12] channels, got [12]"):
                list(separator.stream(blocks))


def fingerprint(folder: Path, **options: Any) -> str:
    with Separator(folder, options=Options(**options)) as separator:
        return separator.fingerprint


def test_fingerprints_tell_all_that_makes_the_results(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unbraid.separation.separator.load_engine", quick_engine)
    first = fingerprint(model_folder)
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert fingerprint(model_folder) == first
    others = [
        fingerprint(model_folder, **options)
        for options in (
            {"stems": ("vocals", "drums")},
            {"stems": ("drums", "vocals")},
            {"two_stems": "vocals"},
            {"two_stems": "vocals", "other_method": "none"},
            {"wiener": True},
            {"shifts": 2},
            {"shifts": 2, "seed": 1},
            {"overlap": 0.5},
            {"high_band": "zeros"},
        )
    ]
    copy = tmp_path / "copy"
    shutil.copytree(model_folder, copy)
    others.append(fingerprint(copy))  # other files, which may hold other weights
    assert len({first, *others}) == 1 + len(others)


def test_fingerprints_tell_what_is_around_the_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks, names and shares are no part of a network, and change all the same what comes out."""
    monkeypatch.setattr("unbraid.separation.separator.load_engine", quick_engine)
    config = SpleeterConfig(stems=("vocals", "drums"), n_frames=64, n_bins=1024, conv_n_filters=(4, 4, 8, 8, 8, 8))
    parts = tuple(NetworkPart("spleeter", config, name, (share, 1.0)) for name, share in (("a", 0.25), ("b", 0.75)))
    state = {
        f"{part.name}.{name}": np.ones(shape, np.float32)
        for part in parts
        for name, shape in parameter_shapes(config).items()
    }
    folder = tmp_path / "bag"
    write_model(folder, ModelFile("bag", config.stems, config.sample_rate, parts, 0, ""), state)
    described = (folder / "model.toml").read_text()
    found = [fingerprint(folder, high_band="model")]
    for old, new in (
        ("separation_exponent = 2", "separation_exponent = 1"),
        ('mask_extension = "zeros"', 'mask_extension = "average"'),
        ("0.25", "0.5"),
        ('"drums"', '"piano"'),
    ):
        assert old in described, described
        (folder / "model.toml").write_text(described.replace(old, new))
        found.append(fingerprint(folder, high_band="model"))
    assert len(set(found)) == 5


def test_closed_is_closed(model_folder: Path) -> None:
    separator = Separator(model_folder)
    separator.close()
    with pytest.raises(EngineError, match="closed"):
        separator.separate(music(1000))


def test_what_does_not_exist_is_named(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unknown model 'unbraid:4stem'; did you mean 'unbraid:4stems'"):
        Separator("unbraid:4stem")
    with pytest.raises(UsageError, match="unknown engine 'opencl'"):
        Separator(model_folder, engine="opencl")
    with Separator(model_folder) as separator, pytest.raises(AudioError, match="absent"):
        separator.separate_to_file(tmp_path / "absent.wav", tmp_path)
