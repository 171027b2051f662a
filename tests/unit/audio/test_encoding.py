from pathlib import Path

import pytest

from unbraid.audio.encoding import CODECS, Encoding, parse_bitrate
from unbraid.datatypes import AudioInfo
from unbraid.errors import UsageError


@pytest.mark.parametrize(
    ("text", "bits_per_s"),
    [("128k", 128000), ("128K", 128000), ("320kbps", 320000), ("96000", 96000), ("0.5M", 500000), (" 64k ", 64000)],
)
def test_bitrates_are_read(text: str, bits_per_s: int) -> None:
    assert parse_bitrate(text) == bits_per_s


@pytest.mark.parametrize("text", ["", "k", "-128k", "128 kilo", "1e5", "0x20", "nan", "128k\n64k"])
def test_other_bitrates_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="bitrate must be like 128k"):
        parse_bitrate(text)


@pytest.mark.parametrize(
    ("codec", "bit_depth", "bitrate", "words"),
    [
        ("mp4", None, None, "choose one of wav, flac, mp3, ogg, opus, m4a, wma"),
        ("wav", 8, None, "choose one of 16, 24, float"),
        ("wav", 32, None, "choose one of 16, 24, float"),
        ("flac", "float", None, "choose one of 16, 24"),
        ("flac", None, 128000, "lossless"),
        ("mp3", 16, None, "lossy"),
        ("mp3", None, 999000, "choose 8k to 320k"),
        ("opus", None, 100, "choose 6k to 512k"),
    ],
)
def test_what_does_not_exist_is_refused(
    codec: str, bit_depth: int | str | None, bitrate: int | None, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        Encoding(codec, bit_depth, bitrate)


@pytest.mark.parametrize(
    ("codec", "input_depth", "written"),
    [
        ("wav", 8, 16),
        ("wav", 16, 16),
        ("wav", 24, 24),
        ("wav", 32, "float"),
        ("wav", "float", "float"),
        ("flac", 16, 16),
        ("flac", 24, 24),
        ("flac", 32, 24),
        ("flac", "float", 24),
        ("mp3", 24, None),
    ],
)
def test_the_input_decides_what_is_not_asked_for(codec: str, input_depth: int | str, written: int | str | None) -> None:
    info = AudioInfo(Path("x"), "any", 44100, ("FC",), None, input_depth, lossy=False)
    assert Encoding.choose(codec, like=info).bit_depth == written
    if codec == "wav":
        assert Encoding.choose(codec, bit_depth=24, like=info).bit_depth == 24


@pytest.mark.parametrize(
    ("codec", "sample_rate", "written"),
    [
        ("wav", 44056, 44056),
        ("wav", 384000, 384000),
        ("flac", 192000, 192000),
        ("mp3", 44100, 44100),
        ("mp3", 44056, 44100),
        ("mp3", 96000, 48000),
        ("mp3", 4000, 8000),
        ("opus", 44100, 48000),
        ("opus", 8000, 8000),
        ("opus", 192000, 48000),
        ("m4a", 192000, 96000),
        ("wma", 96000, 48000),
        ("ogg", 384000, 192000),
    ],
)
def test_the_nearest_sample_rate_cuts_nothing_off_if_it_can(codec: str, sample_rate: int, written: int) -> None:
    assert Encoding(codec).nearest_sample_rate(sample_rate) == written


@pytest.mark.parametrize("codec", CODECS)
def test_the_nearest_sample_rate_is_its_own_nearest(codec: str) -> None:
    encoding = Encoding(codec)
    for sample_rate in (1000, 8000, 22050, 44100, 48000, 96000, 400000, 1000000):
        written = encoding.nearest_sample_rate(sample_rate)
        assert encoding.nearest_sample_rate(written) == written
