import enum
from pathlib import Path

import numpy as np
import pytest

from unbraid import Audio, read_audio, write_audio
from unbraid.compat.spleeter import Separator
from unbraid.errors import AudioError, UsageError


class Codec(str, enum.Enum):
    """As in spleeter.audio."""

    FLAC = "flac"


@pytest.fixture(scope="module")
def separator(model_folder: Path) -> Separator:
    return Separator(str(model_folder))


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song.wav"
    samples = (0.1 * np.random.default_rng(0).standard_normal((2, 88_200))).astype(np.float32)
    write_audio(path, Audio(samples, 44100))
    return path


def test_separate_takes_and_gives_samples_by_channels(separator: Separator, song: Path) -> None:
    waveform = read_audio(song).samples.T
    stems = separator.separate(waveform, "ignored")
    assert {stem.shape for stem in stems.values()} == {(88_200, 2)}
    # The masks end at the model's band, as in Spleeter: above it, all stems are silent.
    spectrum = np.abs(np.fft.rfft(sum(stems.values())[:, 0]))
    bins_hz = np.fft.rfftfreq(88_200, 1 / 44100)
    assert spectrum[bins_hz > 11_500].max() < 1e-2 * spectrum[bins_hz < 10_500].max()
    with pytest.raises(UsageError, match=r"\(samples, channels\)"):
        separator.separate(waveform[:, 0])


def test_separate_to_file_in_the_background(separator: Separator, song: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        separator.separate_to_file(str(song), str(tmp_path / name), codec=Codec.FLAC, synchronous=False, duration=1.0)
    separator.join()
    for name in ("a", "b"):
        audio = read_audio(tmp_path / name / "song" / "vocals.flac")
        assert audio.samples.shape == (2, 44_100)


def test_save_to_file_writes_what_it_is_given(separator: Separator, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    sources = {name: (0.1 * rng.standard_normal((5000, 2))).astype(np.float32) for name in ("vocals", "drums")}
    separator.save_to_file(sources, "x/any.mp3", tmp_path, filename_format="{filename}_{instrument}.{codec}")
    for name, source in sources.items():
        audio = read_audio(tmp_path / f"any_{name}.wav")
        assert np.abs(audio.samples.T - source).max() <= 0.5 / 32768 + 1e-7


def test_failures_in_the_background_are_raised_by_join(separator: Separator, tmp_path: Path) -> None:
    separator.separate_to_file(tmp_path / "absent.mp3", tmp_path, synchronous=False)
    with pytest.raises(AudioError, match="absent"):
        separator.join()
    separator.join()


def test_an_adapter_is_refused(separator: Separator, song: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="audio_adapter must be None"):
        separator.separate_to_file(song, tmp_path, audio_adapter=object())
