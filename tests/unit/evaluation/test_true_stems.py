from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dataset_makers import STREAMS, make_musdb18, write_stem_mp4
from song_makers import encode, music, write_wav
from unbraid.audio.read import read_audio
from unbraid.audio.resample import resample
from unbraid.datasets.tracks import AudioFile, Track, load_dataset
from unbraid.datatypes import FloatArray
from unbraid.errors import AudioError, UnbraidError
from unbraid.evaluation.true_stems import TOLERANCE_S, MixBlocks, read_true_stems

RATE = 8000  # so that long is quick


def wav(folder: Path, name: str, samples: FloatArray, *, sample_rate: int = RATE) -> AudioFile:
    return AudioFile(write_wav(folder / f"{name}.wav", samples, sample_rate=sample_rate))


def track(stems: dict[str, AudioFile], mix: AudioFile | None = None, problem: str | None = None) -> Track:
    return Track(name="song", subset="", mix=mix, stems=stems, problem=problem)


def read_all(track: Track, folder: Path) -> tuple[FloatArray, FloatArray, int, tuple[str, ...]]:
    """Stems, mix, sample rate and notices; pieces are read in two ways."""
    with ExitStack() as stack:
        true = read_true_stems(track, folder, stack)
        assert true.stems == tuple(track.stems)
        stems, mix = true.read(0, true.n_samples)
        blocks = list(true.blocks())
        np.testing.assert_array_equal(np.concatenate([block for block, _ in blocks], axis=-1), stems)
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks], axis=-1), mix)
        middle = true.n_samples // 3
        part, part_mix = true.read(middle, middle + 1000)
        np.testing.assert_array_equal(part, stems[..., middle : middle + 1000])
        np.testing.assert_array_equal(part_mix, mix[..., middle : middle + 1000])
        mixes = MixBlocks(true)
        for _ in range(2):  # any number of times
            np.testing.assert_array_equal(np.concatenate(list(mixes), axis=-1), mix)
        return stems, mix, true.sample_rate, true.notices


@pytest.mark.parametrize("n_channels", [1, 2, 3])
def test_what_is_in_the_files_is_what_is_read(tmp_path: Path, n_channels: int) -> None:
    signals = [music(150_001, n_channels=n_channels, sample_rate=RATE, seed=seed) for seed in range(4)]
    drums, bass, vocals, mix = (wav(tmp_path, name, one) for name, one in zip("dbvm", signals, strict=True))
    found = read_all(track({"drums": drums, "bass": bass, "vocals": vocals}, mix), tmp_path)
    np.testing.assert_array_equal(found[0], np.stack(signals[:3]))
    np.testing.assert_array_equal(found[1], signals[3])
    assert found[2:] == (RATE, ())


def test_without_a_mix_it_is_the_sum(tmp_path: Path) -> None:
    signals = [music(70_000, sample_rate=RATE, seed=seed) for seed in range(3)]
    files = {name: wav(tmp_path, name, one) for name, one in zip("abc", signals, strict=True)}
    stems, mix, _, _ = read_all(track(files), tmp_path)
    np.testing.assert_array_equal(stems, np.stack(signals))
    np.testing.assert_allclose(mix, np.sum(signals, axis=0, dtype=np.float64), atol=1e-6)


def test_the_sum_of_other_stems_does_not_count_twice(tmp_path: Path) -> None:
    signals = {stem: np.float32(0.2) * music(9000) for stem in ("vocals", "drums", "bass")}
    accompaniment = signals["drums"] + signals["bass"]
    files = {stem: wav(tmp_path, stem, samples) for stem, samples in signals.items()}
    whole = track({"accompaniment": wav(tmp_path, "accompaniment", accompaniment), **files})
    with ExitStack() as stack:
        true = read_true_stems(whole, tmp_path, stack)
        assert true.stems == ("vocals", "drums", "bass")
        np.testing.assert_allclose(true.read(0, 9000)[1], sum(signals.values()), atol=1e-6)
        assert "accompaniment: left out, since it is the sum of other stems" in true.notices
    two = track({"vocals": files["vocals"], "accompaniment": whole.stems["accompaniment"]})
    with ExitStack() as stack:
        assert read_true_stems(two, tmp_path, stack).stems == ("vocals", "accompaniment")


def in_16_bits(samples: FloatArray) -> FloatArray:
    return np.array([round(value) / 32768 for value in (samples.ravel() * 32768).tolist()], np.float32).reshape(
        samples.shape
    )


def test_lossy_files_are_rounded_to_16_bits_and_others_are_not(tmp_path: Path) -> None:
    """docs/decisions/007: what an encoder leaves empty would make the scores meaningless."""
    fine = music(60_000, seed=2)
    files = {
        "bass": AudioFile(encode(tmp_path / "bass.ogg", music(60_000))),
        "drums": AudioFile(encode(tmp_path / "drums.mp3", music(60_000, seed=1))),
        "vocals": wav(tmp_path, "vocals", fine, sample_rate=44100),
    }
    stems, mix, _, _ = read_all(track(files), tmp_path)
    for stem, file in list(files.items())[:2]:
        decoded = read_audio(file.path).samples
        found = stems[list(files).index(stem)][:, : decoded.shape[1]]
        assert not np.array_equal(found, decoded)
        np.testing.assert_array_equal(found, in_16_bits(decoded))
    np.testing.assert_array_equal(stems[2, :, :60_000], fine)
    np.testing.assert_allclose(mix, stems.sum(axis=0, dtype=np.float64), atol=1e-6)
    lossy_mix = track({"vocals": files["vocals"]}, files["drums"])
    _, mix, _, _ = read_all(lossy_mix, tmp_path)
    np.testing.assert_array_equal(mix[:, :60_000], in_16_bits(read_audio(files["drums"].path).samples[:, :60_000]))


def test_streams_of_one_file(tmp_path: Path) -> None:
    make_musdb18(tmp_path, subsets=("test",), seconds=2.0)
    (song,) = load_dataset(tmp_path).tracks
    stems, mix, sample_rate, notices = read_all(song, tmp_path)
    assert song.mix is not None
    for stem, samples in zip(song.stems, stems, strict=True):
        stream = STREAMS.index(stem)
        np.testing.assert_array_equal(samples, in_16_bits(read_audio(song.mix.path, stream=stream).samples))
    np.testing.assert_array_equal(mix, in_16_bits(read_audio(song.mix.path, stream=0).samples))
    assert (sample_rate, notices, len(stems)) == (44100, (), 4)


@pytest.mark.parametrize("with_mix", [True, False])
def test_the_sample_rate_is_that_of_the_mix_or_of_the_first_stem(tmp_path: Path, with_mix: bool) -> None:
    drums, vocals = music(60_000, sample_rate=RATE), music(90_000, sample_rate=12000, seed=4)
    mix = music(90_000, sample_rate=12000, seed=5)
    files = {"drums": wav(tmp_path, "drums", drums), "vocals": wav(tmp_path, "vocals", vocals, sample_rate=12000)}
    given = track(files, wav(tmp_path, "mix", mix, sample_rate=12000) if with_mix else None)
    stems, found_mix, sample_rate, notices = read_all(given, tmp_path)
    if with_mix:
        expected = np.stack([resample(drums, RATE, 12000), vocals])
        assert (sample_rate, notices) == (12000, ("drums: resampled from 8000 to 12000 Hz",))
        np.testing.assert_array_equal(found_mix, mix)
    else:
        expected = np.stack([drums, resample(vocals, 12000, RATE)])
        assert (sample_rate, notices) == (RATE, ("vocals: resampled from 12000 to 8000 Hz",))
    np.testing.assert_allclose(stems, expected, atol=1e-6)  # soxr rounds differently in blocks of other lengths


def test_a_tone_keeps_its_pitch_and_level_from_48_to_44_1_khz(tmp_path: Path) -> None:
    tone = [0.5 * np.sin(2 * np.pi * 1000 * np.arange(2 * rate) / rate) for rate in (48000, 44100)]
    high, low = (np.stack([one, one]).astype(np.float32) for one in tone)
    files = {"vocals": wav(tmp_path, "vocals", high, sample_rate=48000)}
    given = track(files, wav(tmp_path, "mix", low, sample_rate=44100))
    (found,), mix, sample_rate, notices = read_all(given, tmp_path)
    assert (sample_rate, notices) == (44100, ("vocals: resampled from 48000 to 44100 Hz",))
    assert found.shape == mix.shape == (2, 88200)
    assert np.abs(found - low)[:, 500:-500].max() < 1e-5


def test_one_channel_is_used_for_both(tmp_path: Path) -> None:
    mono, stereo = music(50_000, n_channels=1), music(50_000, seed=7)
    stems, mix, _, notices = read_all(
        track({"bass": wav(tmp_path, "bass", mono), "vocals": wav(tmp_path, "vocals", stereo)}), tmp_path
    )
    np.testing.assert_array_equal(stems, np.stack([np.concatenate([mono, mono]), stereo]))
    np.testing.assert_allclose(mix, mono + stereo, atol=1e-6)
    assert notices == ("bass: its one channel is used for both",)


def test_surround_among_stereo_is_refused_and_both_files_named(tmp_path: Path) -> None:
    surround = tmp_path / "drums.wav"
    soundfile.write(surround, music(4000, n_channels=6).T, RATE)
    bass = wav(tmp_path, "bass", music(4000))
    for stems in ({"bass": bass, "drums": AudioFile(surround)}, {"drums": AudioFile(surround), "bass": bass}):
        with pytest.raises(AudioError) as error, ExitStack() as stack:
            read_true_stems(track(stems), tmp_path, stack)
        assert str(error.value) == f"cannot use '{bass.path}': it has 2 channels, but '{surround}' 6"


def test_a_little_shorter_is_filled_up_and_said(tmp_path: Path) -> None:
    n = 100_000
    lengths = {"drums": n - 1, "bass": n, "vocals": n - int(TOLERANCE_S * RATE)}
    signals = {name: music(length, seed=length % 7) for name, length in lengths.items()}
    files = {name: wav(tmp_path, name, one) for name, one in signals.items()}
    mix = music(n, seed=8)
    stems, found_mix, _, notices = read_all(track(files, wav(tmp_path, "mix", mix)), tmp_path)
    for found, (name, signal) in zip(stems, signals.items(), strict=True):
        np.testing.assert_array_equal(found[:, : lengths[name]], signal)
        assert not found[:, lengths[name] :].any()
    np.testing.assert_array_equal(found_mix, mix)
    assert notices == (
        "drums: 1 samples shorter than the others, padded with silence",
        "vocals: 800 samples shorter than the others, padded with silence",
    )


def test_a_mix_that_is_shorter_is_filled_up_too(tmp_path: Path) -> None:
    stem, mix = music(66_000), music(65_900, seed=1)
    stems, found, _, notices = read_all(track({"a": wav(tmp_path, "a", stem)}, wav(tmp_path, "mix", mix)), tmp_path)
    np.testing.assert_array_equal(stems[0], stem)
    np.testing.assert_array_equal(found, np.pad(mix, ((0, 0), (0, 100))))
    assert notices == ("mix: 100 samples shorter than the others, padded with silence",)


def test_beyond_the_tolerance_both_files_and_lengths_are_named(tmp_path: Path) -> None:
    long, short, middle = (wav(tmp_path, name, music(n)) for name, n in (("l", 80_801), ("s", 80_000), ("m", 80_100)))
    with pytest.raises(AudioError) as error, ExitStack() as stack:
        read_true_stems(track({"a": middle, "b": short, "c": long}), tmp_path, stack)
    assert str(error.value) == (
        f"'{short.path}' is 10.000 s long, but '{long.path}' 10.100 s: they may differ by 0.1 s"
    )


def test_streams_that_differ_in_length_are_named_with_their_number(tmp_path: Path) -> None:
    path = write_stem_mp4(tmp_path / "x.stem.mp4", [music(n) for n in (44100, 44100, 30000, 44100, 44100)])
    stems = {stem: AudioFile(path, stream) for stream, stem in enumerate(STREAMS) if stream}
    with pytest.raises(AudioError) as error, ExitStack() as stack:
        read_true_stems(track(stems, AudioFile(path, 0)), tmp_path, stack)
    where = r"'{0}' \(stream {1}\)"
    assert error.match(rf"{where.format(path, 2)} is 0\.\d+ s long, but {where.format(path, '[0134]')} 1\.\d+ s: ")


def test_lengths_are_compared_after_resampling(tmp_path: Path) -> None:
    """A second at one rate is a second at another, though its samples are more."""
    files = {"a": wav(tmp_path, "a", music(RATE)), "b": wav(tmp_path, "b", music(48000), sample_rate=48000)}
    stems, _, _, notices = read_all(track(files), tmp_path)
    assert stems.shape == (2, 2, RATE)
    assert notices == ("b: resampled from 48000 to 8000 Hz",)


def test_damage_is_said_by_stem(tmp_path: Path) -> None:
    path = encode(tmp_path / "vocals.flac", music(90_000))
    good = wav(tmp_path, "drums", music(90_000), sample_rate=44100)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    _, _, _, notices = read_all(track({"drums": good, "vocals": AudioFile(path)}), tmp_path)
    assert any(notice.startswith("vocals: damaged") for notice in notices)
    assert not any(notice.startswith("drums") for notice in notices)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    good = wav(tmp_path, "good", music(4000))
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no audio at all" * 10)
    for broken, reason in ((bad, "it is not audio|not in any"), (tmp_path / "gone.wav", "gone.wav")):
        with pytest.raises(AudioError, match=reason) as error, ExitStack() as stack:
            read_true_stems(track({"a": good, "b": AudioFile(broken)}), tmp_path, stack)
        assert repr(str(broken)) in str(error.value)


def test_the_temporary_file_is_closed_with_the_stack(tmp_path: Path) -> None:
    with ExitStack() as stack:
        true = read_true_stems(track({"a": wav(tmp_path, "a", music(70_000))}), tmp_path, stack)
        assert true.n_samples == 70_000
    with pytest.raises(ValueError, match="closed"):
        true.read(0, 1)


def test_a_track_with_a_problem_is_refused_with_it(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"^cannot use the track 'song': it is odd$"), ExitStack() as stack:
        read_true_stems(track({}, problem="cannot use the track 'song': it is odd"), tmp_path, stack)


def test_a_folder_that_cannot_hold_the_temporary_file_is_named(tmp_path: Path) -> None:
    stems = {"a": wav(tmp_path, "a", music(4000))}
    with pytest.raises(UnbraidError, match=r"temporary file in '.*gone': No such file"), ExitStack() as stack:
        read_true_stems(track(stems), tmp_path / "gone", stack)
