"""Written files: the right samples and length when read by others, the same bytes each time, and all or nothing."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from song_makers import music
from unbraid.audio.encoding import CODECS, Encoding
from unbraid.audio.read import open_audio
from unbraid.audio.write import AudioWriter, write_audio
from unbraid.datatypes import Audio, AudioInfo, FloatArray
from unbraid.errors import AudioError, UsageError

Read = Callable[[Path], tuple[AudioInfo, FloatArray, list[str]]]
TAGS = {"title": "Für Elise", "artist": "L. v. B.", "album": "日本", "comment": "not carried"}
ALL = ["wav", "flac", "mp3", "ogg", "opus", "m4a", "wma"]


def test_these_are_all_codecs() -> None:
    assert list(CODECS) == ALL


@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize("codec", ["wav", "flac"])
def test_integers_come_back_bit_for_bit(codec: str, bits: int, tmp_path: Path, read: Read) -> None:
    full = 2 ** (bits - 1)
    integers = np.concatenate(
        [np.random.default_rng(0).integers(-full, full, 70_000), [-full, 1 - full, -1, 0, 1, full - 2, full - 1]]
    )
    samples = np.stack([integers, integers[::-1]]).astype(np.float64) / full
    path = tmp_path / f"song.{codec}"
    report = write_audio(path, Audio(samples.astype(np.float32), 44100), encoding=Encoding(codec, bits))
    assert (report.path, report.n_samples, report.n_clipped) == (path, 70_007, 0)
    by_soundfile = soundfile.read(path, dtype="int32")[0].T >> (32 - bits)
    assert np.array_equal(by_soundfile, np.stack([integers, integers[::-1]]))
    info, decoded, _ = read(path)
    assert np.array_equal(decoded, samples)
    assert (info.bit_depth, info.n_samples) == (bits, 70_007)


def test_floats_come_back_as_they_are(tmp_path: Path) -> None:
    samples = music(70_000) * np.float32(3)
    path = tmp_path / "song.wav"
    report = write_audio(path, Audio(samples, 44100), encoding=Encoding("wav", "float"))
    assert report.n_clipped == 0
    assert np.array_equal(soundfile.read(path, dtype="float32")[0].T, samples)
    assert soundfile.info(path).subtype == "FLOAT"


def test_rounding_is_to_the_nearest(tmp_path: Path) -> None:
    samples = np.array([[0.4, 0.6, -0.4, -0.6, 0.5, 1.5, 2.5, 1000.49, -1000.51]]) / 32768
    path = tmp_path / "song.wav"
    write_audio(path, Audio(samples.astype(np.float32), 8000))
    assert soundfile.read(path, dtype="int16")[0].tolist() == [0, 1, 0, -1, 0, 2, 2, 1000, -1001]


@pytest.mark.parametrize(
    ("encoding", "limits"),
    [
        (Encoding("wav", 16), (-32768 / 32768, 32767 / 32768)),
        (Encoding("flac", 24), (-1.0, (2**23 - 1) / 2**23)),
        (Encoding("wav", "float"), (-2.0, 3.0)),
    ],
)
def test_what_is_too_loud_is_limited_and_counted(
    encoding: Encoding, limits: tuple[float, float], tmp_path: Path, read: Read
) -> None:
    samples = np.array([[1.0, -1.0, 1.0000001, -1.1, 3.0, -2.0, 0.25], [0.0] * 7], np.float32)
    report = write_audio(tmp_path / "song", Audio(samples, 44100), encoding=encoding)
    _, decoded, _ = read(tmp_path / "song")
    assert np.array_equal(decoded, np.clip(samples, *limits).astype(np.float32))
    assert report.n_clipped == (0 if encoding.bit_depth == "float" else 4)


@pytest.mark.parametrize("codec", ["wav", "mp3", "ogg"])
def test_clamping_is_for_floats_too(codec: str, tmp_path: Path) -> None:
    samples = np.concatenate([3 * music(40_000), music(40_000)], axis=1)
    before = samples.copy()
    encoding = Encoding("wav", "float") if codec == "wav" else Encoding(codec)
    report = write_audio(tmp_path / "song", Audio(samples, 44100), encoding=encoding, clamp=codec == "wav")
    assert report.n_clipped == np.count_nonzero(np.abs(samples) > 1) > 100
    assert np.array_equal(samples, before)
    if codec == "wav":
        assert np.array_equal(soundfile.read(tmp_path / "song", dtype="float32")[0].T, np.clip(samples, -1, 1))


@pytest.mark.parametrize("codec", ALL)
@pytest.mark.parametrize("n_samples", [1, 46, 1153, 30_011])
def test_length_and_place_are_kept(
    codec: str, n_samples: int, tmp_path: Path, read: Read, delay: Callable[[FloatArray, FloatArray], int]
) -> None:
    samples = music(n_samples, sample_rate=48000)
    path = tmp_path / f"song.{codec}"
    assert write_audio(path, Audio(samples, 48000), encoding=Encoding(codec)).n_samples == n_samples
    info, decoded, notices = read(path)
    assert (info.sample_rate, info.channels, notices) == (48000, ("FL", "FR"), [])
    if codec == "wma":  # whole frames only
        assert info.n_samples is None and n_samples <= decoded.shape[1] < n_samples + 2048
    else:
        assert info.n_samples == decoded.shape[1] == n_samples
    if n_samples > 30_000:
        assert delay(decoded, samples) == 0
        assert np.corrcoef(decoded[:, :n_samples].ravel(), samples.ravel())[0, 1] > 0.85


@pytest.mark.parametrize(
    ("codec", "sample_rate"),
    [
        ("mp3", 8000),
        ("mp3", 22050),
        ("m4a", 96000),
        ("opus", 16000),
        ("wma", 22050),
        ("ogg", 192_000),
        ("flac", 192_000),
    ],
)
def test_other_sample_rates(codec: str, sample_rate: int, tmp_path: Path, read: Read) -> None:
    samples = music(20_000, n_channels=1, sample_rate=sample_rate)
    write_audio(tmp_path / "song", Audio(samples, sample_rate), encoding=Encoding(codec))
    info, decoded, _ = read(tmp_path / "song")
    read_rate = 48000 if codec == "opus" else sample_rate  # Opus is always decoded at 48 kHz
    assert info.sample_rate == read_rate
    if codec != "wma":
        assert decoded.shape == (1, 20_000 * read_rate // sample_rate)


SURROUND = [
    ("FL", "FR", "FC"),
    ("FL", "FR", "LFE"),
    ("FL", "FR", "BL", "BR"),
    ("FL", "FR", "FC", "BC"),
    ("FL", "FR", "FC", "BL", "BR"),
    ("FL", "FR", "FC", "LFE", "BL", "BR"),
    ("FL", "FR", "FC", "LFE", "SL", "SR"),
    ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"),
    ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
    tuple(f"CH{i}" for i in range(16)),
]


@pytest.mark.parametrize("channels", SURROUND, ids="-".join)
@pytest.mark.parametrize("codec", ["wav", "flac", "ogg", "opus", "m4a"])
def test_channels_stay_in_their_places_or_are_refused(
    codec: str, channels: tuple[str, ...], tmp_path: Path, read: Read
) -> None:
    pitches = np.array([60 if name == "LFE" else 120 * (i + 2) for i, name in enumerate(channels)])
    samples = 0.2 * np.sin(2 * np.pi * np.outer(pitches, np.arange(24_000) / 48000)).astype(np.float32)
    try:
        write_audio(tmp_path / "song", Audio(samples, 48000), encoding=Encoding(codec), channels=channels)
    except UsageError as error:
        assert codec != "wav" and "choose wav" in str(error)
        assert (codec, channels) != ("flac", SURROUND[5])
        assert not list(tmp_path.iterdir())
        return
    info, decoded, _ = read(tmp_path / "song")
    heard = np.argmax(np.abs(np.fft.rfft(decoded[:, :24_000])), axis=1) * 2
    assert heard.tolist() == pitches.tolist()
    if codec in ("wav", "flac") and len(channels) <= 8:
        assert info.channels == channels


@pytest.mark.parametrize("codec", ["mp3", "wma"])
def test_too_many_channels_are_refused(codec: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{codec} holds at most 2 channels, got 6: choose wav or flac"):
        write_audio(tmp_path / "song", Audio(music(100, n_channels=6), 44100), encoding=Encoding(codec))


@pytest.mark.parametrize("codec", ALL)
def test_title_artist_and_album_are_carried(codec: str, tmp_path: Path) -> None:
    path = tmp_path / f"song.{codec}"
    write_audio(path, Audio(music(20_000, sample_rate=48000), 48000), encoding=Encoding(codec), tags=TAGS)
    with open_audio(path) as reader:
        found = reader.info.tags
    assert {key: found.get(key) for key in TAGS} == {**TAGS, "comment": None}


WRITE_ALL = """
import sys
from pathlib import Path
from song_makers import music
from unbraid.audio.encoding import Encoding
from unbraid.audio.write import write_audio
from unbraid.datatypes import Audio
for codec in sys.argv[2:]:
    song, tags = Audio(music(30_000, sample_rate=48000), 48000), {"artist": "B", "title": "A"}
    write_audio(Path(sys.argv[1]) / codec, song, encoding=Encoding(codec), tags=tags)
"""


def test_the_same_bytes_in_another_process_and_second(tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    for nth, folder in enumerate(folders):
        folder.mkdir()
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": str(nth)}
        subprocess.run([sys.executable, "-c", WRITE_ALL, folder, *ALL], check=True, env=environment)
    for codec in ALL:
        assert (folders[0] / codec).read_bytes() == (folders[1] / codec).read_bytes(), codec


def test_ogg_pages_have_right_checksums(tmp_path: Path) -> None:
    """By the bit-by-bit definition of RFC 3533."""
    path = tmp_path / "song.ogg"
    write_audio(path, Audio(music(3000), 44100), encoding=Encoding("ogg"))
    content, at, n_pages = path.read_bytes(), 0, 0
    while at < len(content):
        n_segments = content[at + 26]
        size = 27 + n_segments + sum(content[at + 27 : at + 27 + n_segments])
        page = content[at : at + 22] + bytes(4) + content[at + 26 : at + size]
        crc = 0
        for byte in page:
            crc ^= byte << 24
            for _ in range(8):
                crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
        assert int.from_bytes(content[at + 22 : at + 26], "little") == crc
        assert int.from_bytes(content[at + 14 : at + 18], "little") == 1
        at, n_pages = at + size, n_pages + 1
    assert n_pages >= 3


@pytest.mark.parametrize("bit_depth", [16, 24, "float"])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_beyond_four_gigabytes_wav_becomes_rf64(
    bit_depth: int | str, n_channels: int, tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unbraid.audio.wav._RIFF_LIMIT", 5000)
    samples = music(9001, n_channels=n_channels)
    path = tmp_path / "song.wav"
    write_audio(path, Audio(samples, 44100), encoding=Encoding("wav", bit_depth), tags=TAGS)
    assert path.read_bytes()[:4] == b"RF64"
    assert path.stat().st_size % 2 == 0
    by_soundfile, _ = soundfile.read(path, dtype="float32", always_2d=True)
    info, decoded, notices = read(path)
    assert np.array_equal(by_soundfile.T, decoded)
    assert np.abs(decoded - samples).max() < 2.0**-15
    assert (info.n_samples, notices) == (9001, [])


def test_blocks_of_any_size_make_the_same_file(tmp_path: Path) -> None:
    samples = music(40_000)
    for codec in ("wav", "flac", "mp3", "ogg"):
        contents = []
        for sizes in ([40_000], [1, 0, 39_999], [30_000, 10_000]):
            path = tmp_path / f"song.{codec}"
            with AudioWriter(path, encoding=Encoding(codec), sample_rate=44100, channels=("FL", "FR")) as writer:
                start = 0
                for size in sizes:
                    writer.write(samples[:, start : start + size])
                    start += size
            contents.append(path.read_bytes())
        assert contents[0] == contents[1] == contents[2], codec


def writer_to(path: Path, codec: str = "wav") -> AudioWriter:
    return AudioWriter(path, encoding=Encoding(codec), sample_rate=48000, channels=("FL", "FR"))


@pytest.mark.parametrize("codec", ALL)
@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt])
def test_an_interrupted_file_is_not_left(codec: str, problem: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "song"
    path.write_bytes(b"old")
    with pytest.raises(problem), writer_to(path, codec) as writer:
        writer.write(music(30_000))
        assert len(list(tmp_path.iterdir())) == 2
        raise problem
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_an_old_file_is_replaced_at_the_end_only(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    path.write_bytes(b"old")
    with writer_to(path) as writer:
        writer.write(music(10))
        writer.finish()
        assert path.read_bytes() == b"old"
        assert writer.report.n_samples == 10
    assert soundfile.info(path).frames == 10


def test_several_files_get_their_names_together(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writer_to(tmp_path / "a") as first, writer_to(tmp_path / "b") as second:
        for writer in (first, second):
            writer.write(music(10))
            writer.finish()
        first.commit()
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("encoding", [Encoding("wav"), Encoding("wav", "float"), Encoding("mp3")], ids=str)
def test_what_is_no_number_is_never_written(value: float, encoding: Encoding, tmp_path: Path) -> None:
    samples = music(1000)
    samples[1, 500] = value
    with pytest.raises(AudioError, match="not finite numbers"):
        write_audio(tmp_path / "song", Audio(samples, 44100), encoding=encoding)
    assert not list(tmp_path.iterdir())


def test_a_wrong_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"shape \(2, time\), got \(3, 5\)"), writer_to(tmp_path / "song") as writer:
        writer.write(np.zeros((3, 5), np.float32))
    assert not list(tmp_path.iterdir())


def test_nothing_at_all_is_still_a_file(tmp_path: Path) -> None:
    with writer_to(tmp_path / "song.wav") as writer:
        pass
    assert writer.report.n_samples == 0
    assert soundfile.info(tmp_path / "song.wav").frames == 0
