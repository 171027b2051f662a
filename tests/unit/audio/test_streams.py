"""Files of several audio streams: the one that was asked for, all of it and nothing else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dataset_makers import write_stem_mp4
from song_makers import encode, music, write_wav
from unbraid.audio.read import open_audio, read_audio
from unbraid.datatypes import FloatArray
from unbraid.errors import AudioError

LENGTHS = (30011, 1, 1023, 70001, 1024, 1025, 44100)


def tones(lengths: tuple[int, ...]) -> list[FloatArray]:
    """A tone of another pitch for each stream, louder on the left; it swells so that a delay shows."""
    signals = []
    for nth, n_samples in enumerate(lengths):
        time_s = np.arange(n_samples) / 44100
        tone = 0.4 * np.sin(2 * np.pi * (200 + 130 * nth) * time_s) * (1 - np.exp(-9 * time_s))
        signals.append(np.stack([tone, 0.5 * tone]).astype(np.float32))
    return signals


def test_every_aac_stream_of_an_mp4_has_its_own_length_and_no_delay(
    tmp_path: Path, delay: Callable[[FloatArray, FloatArray], int]
) -> None:
    signals = tones(LENGTHS)
    path = write_stem_mp4(tmp_path / "x.stem.mp4", signals)
    for nth, samples in enumerate(signals):
        with open_audio(path, stream=nth) as reader:
            decoded = np.concatenate(list(reader.blocks()), axis=1)
        assert (reader.info.n_samples, decoded.shape) == (LENGTHS[nth], samples.shape)
        assert (reader.info.codec, reader.notices) == ("aac", [])
        if LENGTHS[nth] >= 30000:
            assert delay(decoded, samples) == 0
            for other in signals:
                if other.shape[1] >= LENGTHS[nth]:
                    likeness = np.corrcoef(decoded[0], other[0, : LENGTHS[nth]])[0, 1]
                    assert (likeness > 0.99) == (other is samples)
            np.testing.assert_allclose(decoded[1], 0.5 * decoded[0], atol=0.02)


def test_the_note_of_one_stream_is_not_taken_for_another(tmp_path: Path) -> None:
    tags = {"iTunSMPB": f" 00000000 00000840 000001CA {20000:016X} 00000000"}
    options = {"movflags": "use_metadata_tags"}
    path = encode(tmp_path / "x.m4a", music(44100), n_streams=2, tags=tags, options=options)
    for stream in (0, 1):
        assert read_audio(path, stream=stream).samples.shape == (2, 44100)


@pytest.mark.parametrize("codec", ["mka", "alac"])
def test_lossless_streams_give_their_very_samples(codec: str, tmp_path: Path) -> None:
    samples = music(9000)
    path = encode(tmp_path / f"song.{codec}", samples, codec=codec, n_streams=3)
    for nth in range(3):
        assert np.abs(read_audio(path, stream=nth).samples - samples / 2**nth).max() < 2.0**-14


def test_only_a_choice_that_was_ours_is_said(tmp_path: Path) -> None:
    path = encode(tmp_path / "song.mka", music(9000), n_streams=3)
    for stream, notices in ((None, ["3 audio streams: number 1 was used"]), (0, []), (2, [])):
        with open_audio(path, stream=stream) as reader:
            assert sum(block.shape[1] for block in reader.blocks()) == 9000
            assert reader.notices == notices


def test_reading_again_reads_the_same_stream(tmp_path: Path) -> None:
    path = write_stem_mp4(tmp_path / "x.stem.mp4", tones((70001, 70001)))
    with open_audio(path, stream=1) as reader:
        first = np.concatenate(list(reader.blocks()), axis=1)
        again = np.concatenate(list(reader.blocks()), axis=1)
        part = np.concatenate(list(reader.blocks(offset_s=0.5, duration_s=0.25)), axis=1)
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(part, first[:, 22050 : 22050 + 11025])
    np.testing.assert_array_equal(read_audio(path, stream=1).samples, first)
    half = read_audio(path, stream=1, sample_rate=22050)
    assert (half.sample_rate, half.samples.shape) == (22050, (2, 35001))


@pytest.mark.parametrize("stream", [2, 5, -1])
def test_a_stream_that_is_not_there_is_an_error(stream: int, tmp_path: Path) -> None:
    path = write_stem_mp4(tmp_path / "x.stem.mp4", tones((2000, 2000)))
    with pytest.raises(AudioError) as error:
        open_audio(path, stream=stream)
    assert str(error.value) == f"cannot read '{path}': it has 2 audio streams, number {stream} (from 0) was asked for"


def test_a_file_of_one_stream_has_number_0_only(tmp_path: Path) -> None:
    samples = music(2000)
    path = write_wav(tmp_path / "song.wav", samples)
    np.testing.assert_array_equal(read_audio(path, stream=0).samples, samples)
    with pytest.raises(AudioError, match=r"it has 1 audio stream, number 1 \(from 0\) was asked for$"):
        read_audio(path, stream=1)
