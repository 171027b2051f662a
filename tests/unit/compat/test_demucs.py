import importlib.util
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unbraid import Audio, Options, read_audio, write_audio
from unbraid import Separator as OurSeparator
from unbraid.audio.resample import resample
from unbraid.compat.demucs import Separator, list_models, save_audio
from unbraid.datatypes import FloatArray
from unbraid.errors import AudioError, ModelError, UsageError

torch = pytest.importorskip("torch")

STEMS = ("vocals", "drums", "bass", "other")


class Listener:
    """An engine that gives each stem a fixed share of each bin, and remembers what came in."""

    name, device, precision, n_streams, any_shape = "listener", "cpu", "f32", 1, True

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.closed = False

    def run(self, inputs: Sequence[FloatArray]) -> tuple[FloatArray, ...]:
        (magnitudes,) = inputs
        self.shapes.append(magnitudes.shape)
        shares = np.random.default_rng(5).uniform(0.1, 1.0, (len(STEMS), 1, 1, 1024)).astype(np.float32)
        return (magnitudes[:, None] * shares,)

    def describe(self) -> str:
        return self.name

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Listener]:
    """Every engine that is loaded, in order."""
    loaded: list[Listener] = []

    def load(network: Any, *, device: str = "auto", **options: Any) -> Listener:
        if device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"unknown device '{device}'")
        loaded.append(Listener())
        return loaded[-1]

    monkeypatch.setattr("unbraid.separation.separator.load_engine", load)
    return loaded


@pytest.fixture
def separator(model_folder: Path, engines: list[Listener]) -> Separator:
    return Separator(str(model_folder))


def music(n_samples: int, n_channels: int = 2, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal((n_channels, n_samples))).astype(np.float32)


def ours(model_folder: Path, samples: FloatArray, **options: Any) -> dict[str, FloatArray]:
    with OurSeparator(model_folder, options=Options(**{"overlap": 0.25, **options})) as one:
        return one.separate(samples, sample_rate=44100)


def test_what_is_known_of_the_model(separator: Separator) -> None:
    assert (separator.samplerate, separator.audio_channels) == (44100, 2)
    model = separator.model
    assert (model.sources, model.samplerate, model.audio_channels) == (STEMS, 44100, 2)
    assert model.segment == pytest.approx((63 * 1024 + 4096) / 44100)


def test_arrays_give_arrays_and_tensors_give_tensors(separator: Separator, model_folder: Path) -> None:
    samples = music(100_000)
    before = samples.copy()
    expected = ours(model_folder, samples)
    mix, stems = separator.separate_tensor(samples)
    assert mix is samples
    wav = torch.from_numpy(samples.copy())
    origin, tensors = separator.separate_tensor(wav, 44100)
    assert origin is wav
    assert tuple(stems) == tuple(tensors) == STEMS
    for name in STEMS:
        assert np.array_equal(stems[name], expected[name])
        assert (tensors[name].dtype, tensors[name].device) == (torch.float32, wav.device)
        assert np.array_equal(tensors[name].numpy(), expected[name])
    assert np.array_equal(samples, before)
    assert np.array_equal(wav.numpy(), before)


def test_tensors_may_be_doubles_that_need_gradients(separator: Separator, model_folder: Path) -> None:
    wav = torch.from_numpy(music(5000)).double().requires_grad_()
    origin, stems = separator.separate_tensor(wav)
    assert origin is wav
    expected = ours(model_folder, music(5000))
    assert all(np.array_equal(stems[name].numpy(), expected[name]) for name in STEMS)


def test_the_sample_rate_becomes_the_models_and_mono_both_of_its_channels(
    separator: Separator, model_folder: Path
) -> None:
    mono = music(20_001, 1)
    origin, stems = separator.separate_tensor(mono, 32000)
    assert np.array_equal(origin, np.repeat(resample(mono, 32000, 44100), 2, axis=0))
    assert origin.shape == (2, round(20_001 * 44100 / 32000))
    expected = ours(model_folder, origin)
    assert all(np.array_equal(stems[name], expected[name]) for name in STEMS)


def test_more_channels_all_come_back(separator: Separator) -> None:
    wav = torch.from_numpy(music(5000, 6))
    origin, stems = separator.separate_tensor(wav)
    assert origin is wav
    assert {stem.shape for stem in stems.values()} == {wav.shape}
    assert (sum(stems.values()) - wav).abs().max() < 1e-6


def test_files(separator: Separator, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    song = tmp_path / "song.wav"
    write_audio(song, Audio(music(30_000, 1), 44100))
    origin, stems = separator.separate_audio_file(song)
    assert np.array_equal(origin.numpy(), np.repeat(read_audio(song).samples, 2, axis=0))
    expected = ours(model_folder, origin.numpy())
    assert all(isinstance(stem, torch.Tensor) for stem in stems.values())
    assert all(np.array_equal(stems[name].numpy(), expected[name]) for name in STEMS)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    plain, arrays = separator.separate_audio_file(str(song))
    assert isinstance(plain, np.ndarray)
    assert all(np.array_equal(arrays[name], expected[name]) for name in STEMS)
    with pytest.raises(AudioError, match="absent"):
        separator.separate_audio_file(tmp_path / "absent.wav")


def test_parameters_can_be_changed(separator: Separator, model_folder: Path, engines: list[Listener]) -> None:
    samples = music(150_000)
    separator.update_parameter(overlap=0.5, segment=3.0)
    assert [engine.closed for engine in engines] == [True, False]
    _, stems = separator.separate_tensor(samples)
    expected = ours(model_folder, samples, overlap=0.5, segment_s=3.0)
    assert all(np.array_equal(stems[name], expected[name]) for name in STEMS)
    n_loaded = len(engines)
    separator.update_parameter(progress=False, jobs=3, callback=None, overlap=0.5)
    assert len(engines) == n_loaded


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"overlap": 1}, UsageError, r"overlap must be in \[0, 1\), got 1"),
        ({"overlap": -0.5}, UsageError, r"overlap must be in \[0, 1\), got -0.5"),
        ({"segment": 0}, UsageError, r"segment must be in \(0, 600\] seconds, got 0"),
        ({"segment": 601}, UsageError, r"segment must be in \(0, 600\] seconds, got 601"),
        ({"shifts": -1}, UsageError, "shifts must be in 0…100, got -1"),
        ({"device": "toaster"}, UsageError, "unknown device 'toaster'"),
        ({"repo": "models"}, (UsageError, TypeError), "repo"),
        ({"overlaps": 0.1}, TypeError, "overlaps"),
    ],
)
def test_impossible_parameters_are_refused_and_change_nothing(
    separator: Separator, model_folder: Path, changes: dict[str, Any], error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        Separator(str(model_folder), **changes)
    with pytest.raises(error, match=message):
        separator.update_parameter(**changes)
    _, stems = separator.separate_tensor(music(1000))
    assert set(stems) == set(STEMS)


@pytest.mark.parametrize(
    ("wav", "sample_rate", "message"),
    [
        (np.zeros(1000, np.float32), None, r"shape \(channels, samples\), got \(1000,\)"),
        (torch.zeros(1, 2, 1000), None, r"got \(1, 2, 1000\) float32"),
        (torch.zeros(2, 1000, dtype=torch.int16), None, "floating-point .* int16"),
        (np.full((2, 1000), np.inf, np.float32), None, "finite"),
        (np.zeros((2, 1000), np.float32), 0, "sr must be a sample rate in Hz, got 0"),
    ],
)
def test_wrong_audio_is_refused(separator: Separator, wav: Any, sample_rate: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        separator.separate_tensor(wav, sample_rate)


def test_an_unknown_model_is_named(home: Path) -> None:
    with pytest.raises(ModelError, match="unknown model 'htdemuc'; did you mean 'htdemucs'"):
        Separator("htdemuc")
    with pytest.raises(UsageError, match="repo must be None, got 'models': 'unbraid models import'"):
        Separator("htdemucs", Path("models"))


@pytest.mark.parametrize(("device", "name"), [(None, "auto"), (torch.device("cpu"), "cpu"), ("cuda:0", "cuda")])
def test_devices_of_torch(model_folder: Path, monkeypatch: pytest.MonkeyPatch, device: Any, name: str) -> None:
    asked = []

    def load(network: Any, **options: Any) -> Listener:
        asked.append(options["device"])
        return Listener()

    monkeypatch.setattr("unbraid.separation.separator.load_engine", load)
    Separator(str(model_folder), device=device)
    assert asked == [name]


@pytest.mark.parametrize(("shifts", "n_runs"), [(1, 1), (2, 2)])
def test_without_splitting_the_network_sees_the_whole_track_at_once(
    separator: Separator, engines: list[Listener], shifts: int, n_runs: int
) -> None:
    samples = music(300_000)
    separator.update_parameter(shifts=shifts)
    _, in_segments = separator.separate_tensor(samples)
    assert len(engines[-1].shapes) > 5 * n_runs
    separator.update_parameter(split=False)
    n_loaded = len(engines)
    _, at_once = separator.separate_tensor(samples)
    (whole,) = engines[n_loaded:]
    assert whole.closed
    assert len(whole.shapes) == n_runs
    # The shares do not depend on time, so segments make no difference.
    assert all(np.abs(at_once[name] - in_segments[name]).max() < 1e-5 for name in STEMS)


def test_a_short_track_is_one_segment_anyway(separator: Separator, engines: list[Listener]) -> None:
    separator.update_parameter(split=False)
    separator.separate_tensor(music(30_000))
    assert engines[-1].shapes == [(1, 2, 64, 1024)]


@pytest.mark.parametrize("shifts", [0, 1, 3])
def test_the_callback_hears_of_parts_as_if_they_came_one_after_the_other(separator: Separator, shifts: int) -> None:
    n, events = 300_000, []
    separator.update_parameter(callback=events.append, callback_arg={"song": 7, "state": "mine"}, shifts=shifts)
    separator.separate_tensor(music(n))
    assert [event["state"] for event in events] == ["start", "end"] * (len(events) // 2)
    assert all(event["song"] == 7 and event["audio_length"] == n and event["models"] == 1 for event in events)
    assert {event["model_idx_in_bag"] for event in events} == {0}
    places = [event["shift_idx"] * n + event["segment_offset"] for event in events]
    assert all(0 <= event["segment_offset"] < n for event in events)
    assert places[::2] == places[1::2] == sorted(places[::2])
    assert places[0] == 0
    assert 0.6 < places[-1] / (max(1, shifts) * n) < 1


def test_the_callback_may_stop_the_work(separator: Separator) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event["segment_offset"] > 0:
            raise KeyboardInterrupt

    separator.update_parameter(callback=stop)
    with pytest.raises(KeyboardInterrupt):
        separator.separate_tensor(music(400_000))


def test_progress_is_shown_on_the_error_stream(separator: Separator, capsys: pytest.CaptureFixture[str]) -> None:
    separator.separate_tensor(music(100_000))
    assert capsys.readouterr() == ("", "")
    separator.update_parameter(progress=True)
    separator.separate_tensor(music(100_000))
    out, err = capsys.readouterr()
    assert out == ""
    assert "separating" in err
    assert "100%" in err


LOUD = 3 * music(5000) / np.abs(music(5000)).max()


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        ("rescale", LOUD / (1.01 * 3)),
        ("clamp", np.clip(LOUD, -0.99, 0.99)),
        ("tanh", np.tanh(LOUD)),
        ("none", LOUD),
        (None, LOUD),
    ],
)
def test_saved_audio_is_clipped_as_asked(clip: str | None, expected: np.ndarray, tmp_path: Path) -> None:
    for wav in (LOUD, torch.from_numpy(LOUD).requires_grad_()):
        save_audio(wav, tmp_path / "a.wav", 44100, clip=clip, as_float=True)
        audio = read_audio(tmp_path / "a.wav")
        assert audio.sample_rate == 44100
        assert np.abs(audio.samples - expected).max() < 1e-6
    save_audio(LOUD, tmp_path / "b.wav", 22050, clip=clip)
    assert np.abs(read_audio(tmp_path / "b.wav").samples - np.clip(expected, -1, 1)).max() <= 1 / 32768


def test_quiet_audio_is_not_rescaled(tmp_path: Path) -> None:
    save_audio(music(1000), str(tmp_path / "a.FLAC"), 44100, bits_per_sample=24)
    assert np.abs(read_audio(tmp_path / "a.FLAC").samples - music(1000)).max() <= 2**-24


def test_the_suffix_is_the_codec(tmp_path: Path) -> None:
    sizes = []
    for bitrate in (64, 320):
        save_audio(music(88_200), tmp_path / "a.mp3", 44100, bitrate, preset=7)
        assert read_audio(tmp_path / "a.mp3").samples.shape == (2, 88_200)
        sizes.append((tmp_path / "a.mp3").stat().st_size)
    assert 4 < sizes[1] / sizes[0] < 6


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.xyz", {}, "must be one of .wav, .flac, .mp3"),
        ("a", {}, "suffix of"),
        ("a.wav", {"clip": "hard"}, "clip must be one of rescale, clamp, tanh, none, got 'hard'"),
        ("a.wav", {"bits_per_sample": 12}, "wav has no bit depth 12"),
        ("a.flac", {"as_float": True}, "flac has no bit depth float"),
        ("a.mp3", {"bitrate": 400}, "mp3 has no bitrate 400000"),
    ],
)
def test_what_cannot_be_saved_is_refused(name: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        save_audio(music(100), tmp_path / name, 44100, **options)
    assert not list(tmp_path.iterdir())


def test_models_are_listed_by_how_many_networks_they_have(home: Path) -> None:
    models = list_models()
    assert {"htdemucs", "htdemucs_6s", "umxhq", "spleeter:4stems", "unbraid:4stems"} <= set(models["single"])
    assert {"htdemucs_ft", "mdx_extra"} <= set(models["bag"])
    assert not set(models["single"]) & set(models["bag"])
    assert Path(models["single"]["unbraid:4stems"]).is_dir()
    assert str(models["single"]["htdemucs"]).startswith("https://")
    with pytest.raises(UsageError, match="repo must be None"):
        list_models(Path("models"))


def test_demucss_own_default_is_fetched_or_refused_where_nothing_may_be(home: Path) -> None:
    with pytest.raises(ModelError, match="UNBRAID_OFFLINE"):
        Separator()


@pytest.mark.parity
def test_signatures_are_those_of_demucs() -> None:
    try:
        from demucs import api
    except ImportError as error:
        pytest.skip(f"demucs 4.1 cannot be imported: {error}")
    for theirs, mine in [
        (api.Separator.__init__, Separator.__init__),
        (api.Separator.separate_tensor, Separator.separate_tensor),
        (api.Separator.separate_audio_file, Separator.separate_audio_file),
        (api.save_audio, save_audio),
        (api.list_models, list_models),
    ]:
        expected, found = (inspect.signature(one).parameters for one in (theirs, mine))
        assert list(found) == list(expected)
        assert all(found[name].default == expected[name].default for name in expected if name != "device")
    changeable = set(inspect.signature(api.Separator.update_parameter).parameters) - {"self"}
    assert changeable == set(inspect.signature(Separator.__init__).parameters) - {"self", "model", "repo"}
    public = {name for name in vars(api.Separator) if not name.startswith("_")}
    assert public <= set(vars(Separator))
