"""Every format: the right samples, at the right place, and exactly as many as were encoded."""

import io
import struct
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from song_makers import encode, music, video, write_wav
from unbraid.audio.read import open_audio, read_audio
from unbraid.datatypes import AudioInfo, FloatArray
from unbraid.errors import AudioError

Read = Callable[[Path], tuple[AudioInfo, FloatArray, list[str]]]

PCM = [
    # container, libsndfile's subtype, what we call its depth, largest error of rounding, file extension
    ("WAV", "PCM_U8", 8, 2.0**-7, "wav"),
    ("WAV", "PCM_16", 16, 2.0**-15, "wav"),
    ("WAV", "PCM_24", 24, 2.0**-23, "wav"),
    ("WAV", "PCM_32", 32, 2.0**-24, "wav"),
    ("WAV", "FLOAT", "float", 0.0, "wav"),
    ("WAV", "DOUBLE", "float", 0.0, "wav"),
    ("WAVEX", "PCM_16", 16, 2.0**-15, "wav"),
    ("WAVEX", "PCM_24", 24, 2.0**-23, "wav"),
    ("WAVEX", "FLOAT", "float", 0.0, "wav"),
    ("RF64", "PCM_16", 16, 2.0**-15, "wav"),
    ("W64", "PCM_16", 16, 2.0**-15, "w64"),
    ("W64", "PCM_24", 24, 2.0**-23, "w64"),
    ("AIFF", "PCM_S8", 8, 2.0**-7, "aiff"),
    ("AIFF", "PCM_16", 16, 2.0**-15, "aiff"),
    ("AIFF", "PCM_24", 24, 2.0**-23, "aiff"),
    ("AIFF", "FLOAT", "float", 0.0, "aiff"),
    ("FLAC", "PCM_S8", 8, 2.0**-7, "flac"),
    ("FLAC", "PCM_16", 16, 2.0**-15, "flac"),
    ("FLAC", "PCM_24", 24, 2.0**-23, "flac"),
    ("CAF", "PCM_24", 24, 2.0**-23, "caf"),
    ("AU", "PCM_16", 16, 2.0**-15, "au"),
]


@pytest.mark.parametrize(("container", "subtype", "depth", "tolerance", "extension"), PCM)
@pytest.mark.parametrize("n_samples", [1, 2, 70001])
def test_lossless_files_give_the_very_samples(
    container: str,
    subtype: str,
    depth: int | str,
    tolerance: float,
    extension: str,
    n_samples: int,
    tmp_path: Path,
    read: Read,
) -> None:
    samples = music(n_samples)
    path = tmp_path / f"song.{extension}"
    soundfile.write(path, samples.T, 44100, format=container, subtype=subtype)
    info, decoded, notices = read(path)
    assert decoded.shape == samples.shape and decoded.dtype == np.float32
    assert np.abs(decoded - samples).max() <= tolerance
    assert np.array_equal(decoded, soundfile.read(path, dtype="float32", always_2d=True)[0].T)
    assert (info.n_samples, info.sample_rate, info.bit_depth, info.lossy) == (n_samples, 44100, depth, False)
    assert (info.channels, notices) == (("FL", "FR"), [])


@pytest.mark.parametrize(
    ("codec", "sample_rate"),
    [("mp3", 44100), ("mp3", 22050), ("m4a", 44100), ("m4a", 48000), ("ogg", 44100), ("opus", 48000)],
)
@pytest.mark.parametrize("n_samples", [1, 100, 1151, 1152, 1153, 2048, 2052, 30011])
def test_lossy_files_have_their_length_and_no_delay(
    codec: str,
    sample_rate: int,
    n_samples: int,
    tmp_path: Path,
    read: Read,
    delay: Callable[[FloatArray, FloatArray], int],
) -> None:
    samples = music(n_samples, sample_rate=sample_rate)
    path = encode(tmp_path / f"song.{codec}", samples, sample_rate=sample_rate)
    if codec == "mp3":  # FFmpeg's MP3 files note one frame of padding at most: up to 46 samples too little
        frame = 1152 if sample_rate >= 32000 else 576
        n_samples = max(n_samples, (n_samples - 1) // frame * frame + 47)
    info, decoded, notices = read(path)
    assert decoded.shape == (2, n_samples)
    assert (info.n_samples, info.bit_depth, info.lossy, notices) == (n_samples, 16, True, [])
    if n_samples >= 30000:
        assert delay(decoded, samples) == 0
        assert np.corrcoef(decoded.ravel(), samples.ravel())[0, 1] > 0.85


@pytest.mark.parametrize("n_samples", [1, 4095, 30011])
def test_alac_gives_the_very_samples(n_samples: int, tmp_path: Path, read: Read) -> None:
    samples = music(n_samples)
    info, decoded, _ = read(encode(tmp_path / "song.m4a", samples, codec="alac"))
    assert np.array_equal(decoded, np.round(samples * np.float32(32767)) / np.float32(32768))
    assert (info.codec, info.n_samples, info.bit_depth, info.lossy) == ("alac", n_samples, 16, False)


def test_mp3_without_its_header_keeps_the_encoders_delay(
    tmp_path: Path, read: Read, delay: Callable[[FloatArray, FloatArray], int]
) -> None:
    samples = music(30011)
    info, decoded, _ = read(encode(tmp_path / "song.mp3", samples, options={"write_xing": "0"}))
    assert info.n_samples is None
    assert decoded.shape[1] % 1152 == 0 and decoded.shape[1] >= 30011 + 1105
    assert delay(decoded, samples) == 1105  # LAME's 576 and the decoder's 529


@pytest.mark.parametrize("n_samples", [20000, 44100])
def test_itunes_note_of_the_length_is_believed(n_samples: int, tmp_path: Path, read: Read) -> None:
    path = encode(
        tmp_path / "song.m4a",
        music(44100),
        options={"movflags": "use_metadata_tags"},
        tags={"iTunSMPB": f" 00000000 00000840 000001CA {n_samples:016X} 00000000"},
    )
    info, decoded, _ = read(path)
    assert info.n_samples == decoded.shape[1] == n_samples


def test_the_sound_of_a_video_is_read(tmp_path: Path, read: Read) -> None:
    samples = music(44100)
    for name in ("film.mp4", "film.mkv", "film.mov"):
        info, decoded, notices = read(video(tmp_path / name, samples))
        assert (info.codec, info.sample_rate, info.channels, notices) == ("aac", 44100, ("FL", "FR"), [])
        assert abs(decoded.shape[1] - 44100) <= 2048


def test_the_first_of_several_streams_is_read_and_said(tmp_path: Path, read: Read) -> None:
    samples = music(9000)
    _, decoded, notices = read(encode(tmp_path / "song.mka", samples, n_streams=3))
    assert notices == ["3 audio streams: number 1 was used"]
    assert np.abs(decoded - samples).max() < 2.0**-14


def test_the_default_stream_goes_before_the_first(tmp_path: Path, read: Read) -> None:
    path, quiet, loud = tmp_path / "song.mka", 0.1 * music(9000), music(9000)
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("flac", rate=44100, layout="stereo", format="s16") for _ in range(2)]
        streams[1].disposition = av.stream.Disposition.default
        for stream, samples in zip(streams, (quiet, loud), strict=True):
            data = np.round(samples.T * 32767).astype(np.int16).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(data, format="s16", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = 44100, 0, Fraction(1, 44100)
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    _, decoded, notices = read(path)
    assert notices == ["2 audio streams: number 2 was used"]
    assert np.abs(decoded - loud).max() < 2.0**-14


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4, 5, 6, 7, 8, 16])
@pytest.mark.parametrize(("container", "subtype"), [("WAV", "PCM_24"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")])
def test_no_channel_is_lost_or_swapped(
    n_channels: int, container: str, subtype: str, tmp_path: Path, read: Read
) -> None:
    if n_channels > 8 and container != "WAV":
        pytest.skip("holds eight channels at most")
    # The last is the lowest tone: Vorbis takes the last of six and more for the subwoofer.
    pitches = 80 * np.arange(n_channels, 0, -1)
    samples = 0.5 * np.sin(2 * np.pi * np.outer(pitches, np.arange(12000) / 48000))
    path = tmp_path / "song"
    soundfile.write(path, samples.T, 48000, format=container, subtype=subtype)
    info, decoded, _ = read(path)
    assert len(info.channels) == len(set(info.channels)) == n_channels
    # Vorbis I, §4.3.9: libsndfile writes its channels as they come, in Vorbis' order
    order = {
        3: [0, 2, 1],
        5: [0, 2, 1, 3, 4],
        6: [0, 2, 1, 5, 3, 4],
        7: [0, 2, 1, 6, 5, 3, 4],
        8: [0, 2, 1, 7, 5, 6, 3, 4],
    }
    expected = order.get(n_channels, range(n_channels)) if container == "OGG" else range(n_channels)
    heard = np.argmax(np.abs(np.fft.rfft(decoded)), axis=1) * 4
    assert heard.tolist() == pitches[list(expected)].tolist()


@pytest.mark.parametrize("sample_rate", [8000, 11025, 44056, 96000, 192000])
def test_any_sample_rate(sample_rate: int, tmp_path: Path, read: Read) -> None:
    path = write_wav(tmp_path / "song.wav", music(999), sample_rate=sample_rate, packing="s16")
    info, decoded, _ = read(path)
    assert (info.sample_rate, decoded.shape) == (sample_rate, (2, 999))


def test_speakers_that_are_named_are_kept(tmp_path: Path, read: Read) -> None:
    data = np.zeros((100, 6), "<i2").tobytes()
    guid = bytes.fromhex("0100000000001000800000aa00389b71")
    fmt = struct.pack("<HHIIHHHHI", 0xFFFE, 6, 44100, 44100 * 12, 12, 16, 22, 16, 0x60F) + guid
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", len(data)) + data
    path = tmp_path / "surround.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert read(path)[0].channels == ("FL", "FR", "FC", "LFE", "SL", "SR")


def test_tags_are_found(tmp_path: Path, read: Read) -> None:
    tags = {"title": "Für Elise", "artist": "L. v. B.", "album": "日本"}
    for extension in ("mp3", "m4a", "flac", "opus", "mka"):
        path = encode(tmp_path / f"song.{extension}", music(5000, sample_rate=48000), sample_rate=48000, tags=tags)
        found = read(path)[0].tags
        assert {key: found[key] for key in tags} == tags


@pytest.mark.parametrize("extension", ["wav", "mp3", "ogg"])
def test_a_part_is_a_slice_of_the_whole(extension: str, tmp_path: Path) -> None:
    path = encode(tmp_path / f"song.{extension}", music(150_000)) if extension != "wav" else None
    path = path or write_wav(tmp_path / "song.wav", music(150_000))
    whole = read_audio(path).samples
    for start, length in [(0, 100), (1, 70_000), (65_536, 65_536), (70_000, None), (149_999, None)]:
        duration_s = None if length is None else length / 44100
        part = read_audio(path, offset_s=start / 44100, duration_s=duration_s).samples
        assert np.array_equal(part, whole[:, start:][:, :length])


def test_a_file_can_be_read_again_and_in_part_first(tmp_path: Path) -> None:
    path = encode(tmp_path / "song.mp3", music(150_000))
    with open_audio(path) as reader:
        first = next(iter(reader.blocks())).copy()
        whole = [np.concatenate(list(reader.blocks()), axis=1) for _ in range(2)]
    assert whole[0].shape == (2, 150_000)
    assert np.array_equal(whole[0], whole[1])
    assert np.array_equal(first, whole[0][:, : first.shape[1]])


def test_memory_is_bounded_by_blocks(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "song.wav", music(400_000), packing="s16")
    with open_audio(path) as reader:
        lengths = [block.shape[1] for block in reader.blocks()]
    assert sum(lengths) == 400_000
    assert max(lengths) < 80_000


def test_resampling_while_reading(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "song.wav", music(44100), packing="f32")
    audio = read_audio(path, sample_rate=48000)
    assert (audio.sample_rate, audio.samples.shape) == (48000, (2, 48000))


def test_nothing_at_the_offset_is_an_error(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "song.wav", music(44100))
    with pytest.raises(AudioError, match=r"from 1\.5 s on: it is only 1\.000 s long"):
        read_audio(path, offset_s=1.5)


def test_integers_are_divided_by_a_power_of_two(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "extremes.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.array([-32768, -1, 0, 1, 32767], "<i2").tobytes())
    assert read(path)[1].tolist() == [[-1.0, -(2.0**-15), 0.0, 2.0**-15, 1 - 2.0**-15]]


def test_only_the_file_itself_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that FFmpeg takes for something else, and files that name others."""
    monkeypatch.chdir(tmp_path)
    secret = write_wav(tmp_path / "secret.wav", music(100))
    buffer = io.BytesIO()
    soundfile.write(buffer, music(50).T, 44100, format="WAV")
    for name in ("concat:secret.wav|secret.wav", "file:secret.wav", "-i", "%03d.wav", "data:audio,x", "pipe:0"):
        (tmp_path / name).write_bytes(buffer.getvalue())
        assert read_audio(name).samples.shape == (2, 50)
    for name, text in [
        ("a.ffconcat", f"ffconcat version 1.0\nfile {secret.name}\n"),
        ("b.m3u8", "#EXTM3U\nsecret.wav\n"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(AudioError, match="it is not audio, or damaged"):
            open_audio(name)
