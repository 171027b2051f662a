"""Broken files: what is there is decoded, time is kept, and what is missing is said; strict makes it an error."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from song_makers import encode, music, write_wav
from unbraid.audio.read import open_audio, read_audio
from unbraid.datatypes import AudioInfo, FloatArray
from unbraid.errors import AudioError

Read = Callable[[Path], tuple[AudioInfo, FloatArray, list[str]]]
N = 60_000


def song(folder: Path, codec: str) -> Path:
    if codec == "wav":
        return write_wav(folder / "song.wav", music(N), packing="s16")
    extension, options = ("m4a", {"movflags": "+faststart"}) if codec in ("m4a", "alac") else (codec, {})
    return encode(folder / f"song.{extension}", music(N), codec=codec, options=options)


def strictly(path: Path) -> None:
    with open_audio(path, strict=True) as reader:
        for _ in reader.blocks():
            pass


@pytest.mark.parametrize("codec", ["wav", "aiff", "flac", "mp3", "m4a", "alac"])
def test_a_cut_file_says_how_much_is_missing(codec: str, tmp_path: Path, read: Read) -> None:
    path = song(tmp_path, codec)
    complete = read_audio(path).samples
    strictly(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10 - 7])
    info, decoded, notices = read(path)
    assert info.n_samples == N
    assert 0.45 * N < decoded.shape[1] < 0.62 * N
    safe = decoded.shape[1] - 1200  # the last frame may need what follows
    assert np.array_equal(decoded[:, :safe], complete[:, :safe])
    n_missing = N - decoded.shape[1]
    assert notices == [f"truncated: the last {n_missing} samples ({n_missing / 44100:.3f} s) are missing"]
    with pytest.raises(AudioError, match=f"{n_missing} samples.*strict"):
        strictly(path)


def test_a_cut_ogg_is_noticed(tmp_path: Path, read: Read) -> None:
    path = song(tmp_path, "ogg")
    complete = read_audio(path).samples
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    _, decoded, notices = read(path)
    assert decoded.shape[1] > 0.2 * N
    assert np.array_equal(decoded, complete[:, : decoded.shape[1]])
    assert notices == ["truncated: the file ends in the middle; how much is missing is not known"]
    with pytest.raises(AudioError, match="strict"):
        strictly(path)


@pytest.mark.parametrize("codec", ["flac", "alac", "m4a"])
def test_a_damaged_middle_becomes_silence_and_what_follows_stays_in_place(
    codec: str, tmp_path: Path, read: Read
) -> None:
    path = song(tmp_path, codec)
    complete = read_audio(path).samples
    content = bytearray(path.read_bytes())
    start = 6 * len(content) // 10
    content[start : start + 1500] = np.random.default_rng(1).bytes(1500)
    path.write_bytes(content)
    _, decoded, notices = read(path)
    assert decoded.shape == complete.shape
    (notice,) = notices
    assert notice.startswith("damaged at ") and notice.endswith("missing and were replaced by silence")
    silent = np.flatnonzero((decoded == 0).all(axis=0))
    assert silent[0] > 0.3 * N and silent[-1] < 0.8 * N and len(silent) > 900
    assert np.array_equal(decoded[:, : silent[0] - 2048], complete[:, : silent[0] - 2048])
    before, after = complete[:, silent[-1] + 2048 :], decoded[:, silent[-1] + 2048 :]
    # AAC fills bands with noise, which goes on differently after a loss
    assert np.array_equal(before, after) if codec != "m4a" else np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9
    with pytest.raises(AudioError, match=r"damaged at .*strict"):
        strictly(path)


def test_a_lost_page_of_ogg_becomes_silence(tmp_path: Path, read: Read) -> None:
    path = encode(tmp_path / "song.ogg", music(300_000))
    complete = read_audio(path).samples
    content = path.read_bytes()
    pages = [i for i in range(len(content)) if content.startswith(b"OggS", i)]
    lost = len(pages) // 2
    path.write_bytes(content[: pages[lost]] + content[pages[lost + 2] :])
    _, decoded, notices = read(path)
    assert decoded.shape == complete.shape
    assert notices and notices[0].startswith("damaged at ")
    assert np.array_equal(decoded[:, -50_000:], complete[:, -50_000:])


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF - 8])
def test_a_streamed_wav_that_does_not_know_its_length(size: int, tmp_path: Path, read: Read) -> None:
    samples = music(5000)
    info, decoded, notices = read(write_wav(tmp_path / "pipe.wav", samples, data_bytes=size))
    assert np.array_equal(decoded, samples)
    assert (info.n_samples, notices) == (None, [])
    strictly(tmp_path / "pipe.wav")


@pytest.mark.parametrize("packing", ["f32", "f64"])
def test_what_is_no_number_becomes_zero_and_is_counted(packing: str, tmp_path: Path, read: Read) -> None:
    samples = music(100_000).astype(np.float64)
    samples[0, 10:20], samples[1, 70_000], samples[0, 70_001] = np.nan, np.inf, -np.inf
    expected = np.where(np.isfinite(samples), samples, 0).astype(np.float32)
    n_bad = 12
    if packing == "f64":
        samples[1, 5], expected[1, 5], n_bad = 1e300, 0.0, 13  # beyond float32
    _, decoded, notices = read(write_wav(tmp_path / "odd.wav", samples, packing=packing))  # type: ignore[arg-type]
    assert np.array_equal(decoded, expected)
    assert notices == [f"{n_bad} non-finite samples set to zero"]


def test_huge_and_tiny_numbers_are_left_alone(tmp_path: Path, read: Read) -> None:
    samples = np.array([[1e30, -1e30, 1e-40, 3.0, -1.0]], np.float32)
    _, decoded, notices = read(write_wav(tmp_path / "odd.wav", samples))
    assert np.array_equal(decoded, samples)
    assert notices == []


def test_notices_are_of_the_last_pass_only(tmp_path: Path) -> None:
    path = song(tmp_path, "wav")
    path.write_bytes(path.read_bytes()[:-400])
    with open_audio(path) as reader:
        assert reader.notices == []
        for _ in range(2):
            for _ in reader.blocks():
                pass
            assert reader.notices == ["truncated: the last 100 samples (0.002 s) are missing"]


def test_a_change_of_the_sample_rate_is_an_error(tmp_path: Path) -> None:
    first = encode(tmp_path / "a.mp3", music(30_000), options={"write_xing": "0"})
    second = encode(tmp_path / "b.mp3", music(30_000), sample_rate=32000, options={"write_xing": "0"})
    path = tmp_path / "both.mp3"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(AudioError, match="sample rate changes from"):
        read_audio(path)


def test_a_change_of_channels_is_an_error(tmp_path: Path) -> None:
    first = encode(tmp_path / "a.mp3", music(30_000), options={"write_xing": "0"})
    second = encode(tmp_path / "b.mp3", music(30_000, n_channels=1), options={"write_xing": "0"})
    path = tmp_path / "both.mp3"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(AudioError, match="changes from 2 to 1 channels"):
        read_audio(path)


@pytest.mark.parametrize("name", ["noise.mp3", "noise.wav", "noise.flac", "noise.aac", "noise.ogg", "noise"])
def test_noise_is_not_audio(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(np.random.default_rng(5).bytes(60_000))
    with pytest.raises(AudioError, match=r"it is not audio, or damaged|no samples"):
        read_audio(tmp_path / name)
