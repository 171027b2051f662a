from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.signal import correlate

from unbraid.errors import UsageError
from unbraid.training.augment import AugmentConfig, augment, augment_spectrograms, drawn_samples
from unbraid.training.effects import (
    codec_round_trip,
    compress,
    equalise,
    repitch,
    reverb,
    shift_spectrogram,
    stretch_spectrogram,
)

RATE = 44100
ALL = AugmentConfig(
    shift_s=0.1,
    gain=(0.5, 1.5),
    swap_channels=True,
    flip_sign=True,
    remix_group=2,
    p_repitch=0.5,
    p_equalise=0.5,
    p_reverb=0.5,
    p_compress=0.5,
    p_codec=0.5,
)


def generators(n: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, i]) for i in range(n)]


def batch_of(n: int, n_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 3, 2, n_samples)).astype(np.float32)


def varied(examples: np.ndarray, seed: int = 0, n_samples: int | None = None, **settings: object) -> np.ndarray:
    config = AugmentConfig(**settings)
    n_samples = n_samples or examples.shape[-1]
    return augment(examples, config, generators(len(examples), seed), n_samples=n_samples, sample_rate=RATE)


def tone(frequency_hz: float, seconds: float = 2.0, n_channels: int = 1) -> np.ndarray:
    wave = np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)
    return np.tile(wave, (n_channels, 1))


def strongest_hz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 8 * len(samples)))
    return float(np.argmax(spectrum) * RATE / (8 * len(samples)))


def music(seconds: float = 3.0) -> np.ndarray:
    """Chords with decaying notes, and a hiss on each beat [shape=(2, time)]."""
    rng = np.random.default_rng(5)
    time_s = np.arange(round(seconds * RATE)) / RATE
    out = np.zeros((2, len(time_s)))
    for start_s, pitch in itertools.product(np.arange(0, seconds, 0.5), (45, 57, 61, 64)):
        since = np.maximum(time_s - start_s, 0)
        note = np.exp(-3 * since) * (time_s >= start_s)
        wave = sum(np.sin(2 * np.pi * k * 440 * 2 ** ((pitch - 69) / 12) * since) / k**2 for k in range(1, 8))
        out += note * wave * rng.uniform(0.3, 1, (2, 1))
        out += 0.1 * rng.standard_normal(out.shape) * np.exp(-60 * since) * (time_s >= start_s)
    return (0.8 * out / np.abs(out).max()).astype(np.float32)


# ---- whole batches ----


def test_by_default_nothing_is_done() -> None:
    examples = batch_of(3, 500)
    found = varied(examples, n_samples=400)
    np.testing.assert_array_equal(found, examples[..., :400])
    assert not np.shares_memory(found, examples)


def test_the_same_generators_give_the_same_bytes_and_the_input_stays() -> None:
    n_samples = 8000
    examples = np.stack([music()[None, :, i : i + 15000].repeat(2, 0) for i in range(0, 4000, 1000)])
    kept = examples.copy()

    def run(some: np.ndarray, rngs: list[np.random.Generator]) -> np.ndarray:
        return augment(some, ALL, rngs, n_samples=n_samples, sample_rate=RATE)

    whole = run(examples, generators(4))
    assert whole.shape == (4, 2, 2, n_samples)
    assert whole.dtype == np.float32
    assert np.isfinite(whole).all()
    np.testing.assert_array_equal(examples, kept)
    np.testing.assert_array_equal(whole, run(examples, generators(4)))
    assert not np.array_equal(whole, run(examples, generators(4, seed=1)))
    # In two halves, as two processes have them.
    halves = [run(examples[:2], generators(4)[:2]), run(examples[2:], generators(4)[2:])]
    np.testing.assert_array_equal(whole, np.concatenate(halves))


def test_silence_stays_silent_whatever_is_done() -> None:
    examples = np.zeros((2, 2, 2, 15000), np.float32)
    for seed in range(5):
        found = augment(examples, ALL, generators(2, seed), n_samples=8000, sample_rate=RATE)
        assert not found.any()


def test_each_stem_is_shifted_by_its_own_lag_within_the_range() -> None:
    n_shift, n_samples = 441, 1000
    ramp = np.broadcast_to(np.arange(n_samples + n_shift, dtype=np.float32), (8, 3, 2, n_samples + n_shift))
    found = varied(ramp, shift_s=0.01, n_samples=n_samples)
    lags = found[..., 0]
    np.testing.assert_array_equal(found, lags[..., None] + np.arange(n_samples))
    np.testing.assert_array_equal(lags[..., 0], lags[..., 1])  # channels stay together
    assert lags.min() >= 0 and lags.max() <= n_shift
    assert len(np.unique(lags)) > 20


def test_gains_are_one_factor_a_stem_within_the_range() -> None:
    examples = batch_of(16, 200)
    factors = varied(examples, gain=(0.25, 1.25)) / examples
    by_stem = factors.reshape(48, -1)
    np.testing.assert_allclose(by_stem, np.broadcast_to(by_stem[:, :1], by_stem.shape), rtol=1e-6)
    assert 0.25 <= by_stem.min() < 0.35 and 1.15 < by_stem.max() <= 1.25
    assert len(np.unique(by_stem[:, 0].round(5))) > 40
    np.testing.assert_allclose(varied(examples, gain=(2.0, 2.0)), 2 * examples)


def test_channels_change_places_exactly_in_half_of_the_stems() -> None:
    examples = batch_of(32, 50)
    found = varied(examples, swap_channels=True)
    swapped = [np.array_equal(one, other[::-1]) for one, other in _stems(found, examples)]
    same = [np.array_equal(one, other) for one, other in _stems(found, examples)]
    assert all(a != b for a, b in zip(swapped, same, strict=True))
    assert 32 < sum(swapped) < 64


def test_the_sign_changes_exactly_in_half_of_the_stems() -> None:
    examples = batch_of(32, 50)
    found = varied(examples, flip_sign=True)
    flipped = [np.array_equal(one, -other) for one, other in _stems(found, examples)]
    same = [np.array_equal(one, other) for one, other in _stems(found, examples)]
    assert all(a != b for a, b in zip(flipped, same, strict=True))
    assert 32 < sum(flipped) < 64


def _stems(found: np.ndarray, examples: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(found.reshape(-1, 2, 50), examples.reshape(-1, 2, 50), strict=True))


def test_remixing_deals_each_groups_stems_out_anew() -> None:
    # Sample values tell where a stem comes from: 10 × example + stem.
    origin = 10 * np.arange(12)[:, None] + np.arange(3)
    examples = np.broadcast_to(origin[..., None, None], (12, 3, 2, 4)).astype(np.float32)
    found = varied(examples, remix_group=4)[..., 0, 0]
    for first in range(0, 12, 4):
        for stem in range(3):
            np.testing.assert_array_equal(np.sort(found[first : first + 4, stem]), origin[first : first + 4, stem])
    together = [len(set((row - np.arange(3)).tolist())) == 1 for row in found]
    assert sum(together) < 6
    assert not np.array_equal(found, origin)


def test_repitching_changes_all_stems_of_an_example_alike() -> None:
    music_ = music()
    examples = np.stack([music_, 0.5 * music_[::-1], music_ + 0.5 * music_[::-1]])[None].repeat(6, 0)
    n_samples = examples.shape[-1] * 3 // 4
    found = varied(examples, p_repitch=1.0, n_samples=n_samples)
    # The third stem is the sum of the others before, so it is after.
    np.testing.assert_allclose(found[:, 2], found[:, 0] + found[:, 1], atol=1e-5)
    assert all(not np.allclose(one, examples[0, ..., :n_samples], atol=1e-2) for one in found)
    assert np.square(found[..., -2000:]).mean() > 1e-6  # music to the end


def test_repitching_draws_whole_semitones_and_tempos_within_the_range() -> None:
    config = AugmentConfig(p_repitch=1.0, semitones=2.0, tempo=0.0)
    examples = np.broadcast_to(tone(440, 0.5, 2), (16, 1, 2, RATE // 2))
    n_samples = RATE // 2 - 2000
    found = augment(examples, config, generators(16), n_samples=n_samples, sample_rate=RATE)
    steps = [12 * np.log2(strongest_hz(one[0, 0]) / 440) for one in found]
    assert {round(step) for step in steps} == {-2, -1, 0, 1, 2}
    np.testing.assert_allclose(steps, np.round(steps), atol=0.09)


def test_how_many_samples_are_drawn_suffices_for_the_fastest() -> None:
    config = AugmentConfig(shift_s=0.1, p_repitch=1.0, tempo=0.12)
    assert drawn_samples(AugmentConfig(), 1000, RATE) == 1000
    assert drawn_samples(AugmentConfig(shift_s=0.1), 1000, RATE) == 5410
    n_drawn = drawn_samples(config, 20000, RATE)
    assert n_drawn == int(np.ceil((20000 + 4410) * 1.12))
    hiss = batch_of(30, n_drawn)[:, :1]
    found = augment(hiss, config, generators(30), n_samples=20000, sample_rate=RATE)
    assert np.square(found[..., -100:]).mean(axis=-1).min() > 0.2


def test_batches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match=r"multiple of augment\.remix_group, which is 4, got 6"):
        varied(batch_of(6, 10), remix_group=4)
    with pytest.raises(UsageError, match="must be 451 samples long, got 100"):
        varied(batch_of(1, 100), shift_s=0.01, n_samples=10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"p_codec": 1.5}, r"augment\.p_codec must be in \[0, 1\], got 1\.5"),
        ({"gain": (2.0, 1.0)}, r"augment\.gain"),
        ({"tempo": 0.9}, r"augment\.tempo must be in \[0, 0\.5\]"),
        ({"semitones": 1.5}, r"augment\.semitones must be a whole number"),
        ({"shift_s": -1.0}, r"augment\.shift_s must be 0 or more"),
        ({"remix_group": 0}, r"augment\.remix_group must be 1 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AugmentConfig(**settings)


# ---- key and tempo ----


@pytest.mark.parametrize("tempo", [0.88, 1.0, 1.12])
@pytest.mark.parametrize("semitones", [-2.0, 0.0, 2.0])
def test_pitch_and_length_are_as_asked(semitones: float, tempo: float) -> None:
    sound = tone(440)
    kept = sound.copy()
    found = repitch(sound, semitones=semitones, tempo=tempo, sample_rate=RATE)
    assert found.dtype == np.float32
    assert found.shape == (1, round(sound.shape[1] / tempo))
    assert strongest_hz(found[0]) == pytest.approx(440 * 2 ** (semitones / 12), rel=0.005)
    level = np.sqrt(np.square(found[0, 2000:-2000]).mean())
    assert level == pytest.approx(np.sqrt(0.5), rel=0.02)
    np.testing.assert_array_equal(sound, kept)
    assert not np.shares_memory(sound, found)


@pytest.mark.parametrize("semitones", [0.0, 2.0])
@pytest.mark.parametrize("tempo", [0.88, 1.12])
def test_beats_come_at_the_tempo_and_their_time_does_not_drift(tempo: float, semitones: float) -> None:
    places = 5000 + 11025 * np.arange(15)
    clicks = np.zeros((1, 4 * RATE), np.float32)
    clicks[0, places] = 1
    found = np.abs(repitch(clicks, semitones=semitones, tempo=tempo, sample_rate=RATE)[0])
    near = [found[round(at / tempo) - 800 : round(at / tempo) + 800] for at in places]
    beats = np.array([round(at / tempo) - 800 + int(part.argmax()) for at, part in zip(places, near, strict=True)])
    assert np.abs(beats - places / tempo).max() < 0.0155 * RATE  # the windows' freedom
    slope = np.polyfit(np.arange(15), beats, 1)[0]
    assert slope == pytest.approx(11025 / tempo, rel=0.003)


def test_stereo_stays_in_its_place_and_stems_add_up() -> None:
    left, right = music()
    rows = np.stack([left, right, left + right, -left])
    found = repitch(rows, semitones=1, tempo=0.95, sample_rate=RATE)
    np.testing.assert_allclose(found[2], found[0] + found[1], atol=1e-5)
    np.testing.assert_allclose(found[3], -found[0], atol=1e-6)


def test_opposite_channels_are_stretched_as_well_as_one() -> None:
    sound = tone(440)
    found = repitch(np.concatenate([sound, -sound]), semitones=0, tempo=0.9, sample_rate=RATE)
    alone = repitch(sound, semitones=0, tempo=0.9, sample_rate=RATE)
    # At the end the windows reach into silence, and rounding decides between them.
    np.testing.assert_allclose(found[0, :-1000], alone[0, :-1000], atol=1e-5)


@pytest.mark.parametrize("n_samples", [0, 1, 100, 3000])
def test_short_sounds_have_the_right_length_too(n_samples: int) -> None:
    sound = np.ones((2, n_samples), np.float32)
    assert repitch(sound, semitones=1, tempo=1.1, sample_rate=RATE).shape == (2, round(n_samples / 1.1))


# ---- colour, room, level ----


def test_the_equaliser_changes_bands_by_their_decibels() -> None:
    bands_hz, gains_db = [125.0, 500.0, 2000.0, 8000.0], [3.0, -3.5, 0.0, 2.0]
    for frequency_hz, gain_db in [*zip(bands_hz, gains_db, strict=True), (1000.0, -1.75), (50.0, 3.0), (16000.0, 2.0)]:
        sound = tone(frequency_hz, 1.0, 2)
        found = equalise(sound, gains_db, bands_hz=bands_hz, sample_rate=RATE)
        inner = slice(RATE // 5, -RATE // 5)
        change_db = 10 * np.log10(np.square(found[:, inner]).sum() / np.square(sound[:, inner]).sum())
        assert change_db == pytest.approx(gain_db, abs=0.05)
        assert found.dtype == np.float32
        assert np.vdot(found[:, inner], sound[:, inner]) > 0.999 * np.linalg.norm(found[:, inner]) * np.linalg.norm(
            sound[:, inner]
        )  # without delay


def test_the_equaliser_leaves_flat_what_is_flat_and_does_not_wrap_around() -> None:
    sound = batch_of(1, 3000)[0, 0]
    np.testing.assert_allclose(equalise(sound, [0.0] * 9, sample_rate=RATE), sound, atol=1e-5)
    click = np.zeros((1, RATE), np.float32)
    click[0, 0] = 1
    found = equalise(click, [3.5, -3.5] * 4 + [3.5], sample_rate=RATE)
    assert np.abs(found[0, RATE // 2 :]).max() < 1e-4


def test_a_room_adds_a_tail_that_falls_by_its_decay() -> None:
    click = np.zeros((2, 2 * RATE), np.float32)
    click[:, 100] = 1
    found = reverb(click, np.random.default_rng(0), decay_s=1.0, wet_db=-10.0, sample_rate=RATE)
    tail = found - click
    assert not np.abs(tail[:, :541]).max() > 1e-6
    np.testing.assert_allclose(10 * np.log10(np.square(tail).sum(axis=1)), -10, atol=0.01)
    level_db = [10 * np.log10(np.square(tail[:, RATE * i // 10 :][:, : RATE // 10]).sum()) for i in range(1, 9)]
    np.testing.assert_allclose(np.diff(level_db), -6, atol=1)  # 60 dB a second
    assert abs(np.corrcoef(tail)[0, 1]) < 0.05  # from all sides
    assert np.abs(tail[:, RATE + 200 :]).max() < 1e-6


def test_the_compressor_follows_its_ratio_above_the_threshold() -> None:
    sound = tone(440, 3.0, 2)
    amplitudes_db = np.repeat([0.0, -10.0, -40.0, -50.0], sound.shape[1] // 4)
    sound = (sound * 10 ** (amplitudes_db / 20)).astype(np.float32)
    found = compress(sound, threshold_db=-20, ratio=4, sample_rate=RATE)
    length = sound.shape[1] // 4
    levels_db = [
        10 * np.log10(np.square(found[:, i * length + 5000 : (i + 1) * length - 5000]).mean()) for i in range(4)
    ]
    assert levels_db[0] - levels_db[1] == pytest.approx(10 / 4, abs=0.05)
    assert levels_db[1] - levels_db[2] == pytest.approx(10 / 4 + 20, abs=0.05)
    assert levels_db[2] - levels_db[3] == pytest.approx(10, abs=0.05)


def test_the_compressor_lowers_the_crest_factor_and_keeps_the_energy() -> None:
    sound = 7 * music()
    found = compress(sound, threshold_db=-20, ratio=4, sample_rate=RATE)

    def crest_db(samples: np.ndarray) -> float:
        return float(20 * np.log10(np.abs(samples).max() / np.sqrt(np.square(samples).mean())))

    assert crest_db(found) < crest_db(sound) - 2
    assert np.square(found).sum() == pytest.approx(np.square(sound).sum(), rel=1e-4)
    np.testing.assert_allclose(found[0] * sound[1], found[1] * sound[0], atol=1e-3)  # channels alike


# ---- codecs ----


@pytest.mark.parametrize("n_channels", [1, 2])
@pytest.mark.parametrize("codec", ["mp3", "aac"])
@pytest.mark.parametrize("sample_rate", [44100, 22050])
def test_a_coded_stem_is_close_to_the_original_and_at_its_time(codec: str, n_channels: int, sample_rate: int) -> None:
    sound = music()[:n_channels]
    found = codec_round_trip(sound, codec, bit_rate=128_000, sample_rate=sample_rate)
    assert found.shape == sound.shape
    assert found.dtype == np.float32
    for one, other in zip(found, sound, strict=True):
        lag = int(np.argmax(correlate(one, other, method="fft"))) - (len(other) - 1)
        assert lag == 0
    error = np.square(found - sound).sum()
    assert 0 < error < 0.1 * np.square(sound).sum()  # 10 dB


@pytest.mark.parametrize("codec", ["mp3", "aac"])
def test_fewer_bits_are_worse_and_loud_sound_is_not_clipped(codec: str) -> None:
    sound = 5 * music()
    errors = [
        np.square(codec_round_trip(sound, codec, bit_rate=bit_rate, sample_rate=RATE) - sound).sum()
        for bit_rate in (64_000, 192_000)
    ]
    assert errors[1] < errors[0] < 0.1 * np.square(sound).sum()


def test_what_codecs_cannot_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="codec must be one of mp3, aac, got 'ogg'"):
        codec_round_trip(music(), "ogg", bit_rate=64_000, sample_rate=RATE)
    with pytest.raises(UsageError, match="one or two channels, got 3"):
        codec_round_trip(np.ones((3, 100), np.float32), "mp3", bit_rate=64_000, sample_rate=RATE)
    with pytest.raises(UsageError, match="mp3 cannot hold 2 channels at 96000 Hz"):
        codec_round_trip(music(), "mp3", bit_rate=64_000, sample_rate=96000)


# ---- spectrograms ----


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_a_stretched_spectrogram_has_its_frames_where_they_belong(factor: float) -> None:
    n_frames = 101
    ramp = np.broadcast_to(np.arange(n_frames, dtype=np.float32)[:, None] + 1, (2, n_frames, 4))
    found = stretch_spectrogram(ramp, factor)
    n_new = int(n_frames * factor)
    stretched = 1 + np.arange(n_new) * (n_frames - 1) / (n_new - 1)
    offset = (n_new - n_frames) // 2 if n_new >= n_frames else -((n_frames - n_new) // 2)
    expected = [stretched[i + offset] if 0 <= i + offset < n_new else 0 for i in range(n_frames)]
    np.testing.assert_allclose(found, np.broadcast_to(np.array(expected)[:, None], ramp.shape), rtol=1e-5)
    assert found.dtype == np.float32
    assert not np.shares_memory(found, ramp)


@pytest.mark.parametrize("semitones", [-1.0, 0.0, 1.0])
def test_a_shifted_spectrogram_has_its_partials_a_semitone_away(semitones: float) -> None:
    n_bins, ratio = 1024, 2 ** (semitones / 12)
    bins = np.arange(n_bins)
    peaks = sum(np.exp(-(((bins - at) / 4) ** 2)) for at in (100, 300, 700))
    spectrum = np.broadcast_to(peaks, (2, 3, n_bins)).astype(np.float32)
    found = shift_spectrogram(spectrum, semitones)
    assert found.shape == spectrum.shape
    assert found.dtype == np.float32
    for at in (100, 300, 700):
        near = slice(round(at * ratio) - 20, round(at * ratio) + 20)
        centre = np.sum(bins[near] * found[0, 0, near]) / found[0, 0, near].sum()
        assert centre == pytest.approx(at * ratio, abs=1)
        assert found[0, 0, near].max() == pytest.approx(1, abs=0.03)
    if semitones < 0:
        assert not found[..., int(n_bins * ratio) :].any()


def test_all_rows_of_a_spectrogram_are_changed_alike() -> None:
    rng = np.random.default_rng(0)
    stems = rng.random((3, 2, 2, 20, 32)).astype(np.float32)
    examples = np.concatenate([stems, stems.sum(axis=1, keepdims=True)], axis=1)
    kept = examples.copy()
    config = AugmentConfig(spectrogram_stretch=0.1, spectrogram_semitones=1.0)
    found = augment_spectrograms(examples, config, generators(3))
    np.testing.assert_allclose(found[:, 2], found[:, 0] + found[:, 1], rtol=1e-5)
    np.testing.assert_array_equal(examples, kept)
    assert all(not np.allclose(one, other) for one, other in zip(found, examples, strict=True))
    np.testing.assert_array_equal(found[1:], augment_spectrograms(examples[1:], config, generators(3)[1:]))
    np.testing.assert_array_equal(augment_spectrograms(examples, AugmentConfig(), generators(3)), examples)
