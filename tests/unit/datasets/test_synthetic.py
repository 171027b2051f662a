from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unbraid.datasets.sounds import Clock, tone
from unbraid.datasets.synthetic import STEMS, synthesize_song
from unbraid.errors import UsageError

SEEDS = range(4)
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module", params=SEEDS)
def song(request: pytest.FixtureRequest) -> dict[str, Array]:
    return synthesize_song(9.0, seed=request.param)


def share_of_energy(samples: Array, low_hz: float, high_hz: float, sample_rate: int = 44100) -> float:
    power = np.square(np.abs(np.fft.rfft(samples.sum(axis=0))))
    frequency = np.fft.rfftfreq(samples.shape[1], 1 / sample_rate)
    return float(power[(frequency >= low_hz) & (frequency < high_hz)].sum() / power.sum())


def fundamentals(samples: Array, sample_rate: int = 44100) -> Array:
    """Pitch of each frame that is periodic, by the peak of its autocorrelation between 60 and 1000 Hz."""
    found = []
    for start in range(0, samples.shape[1] - 4096, 4096):
        frame = samples[:, start : start + 4096].sum(axis=0)
        spectrum = np.fft.rfft(frame * np.hanning(4096), 8192)
        correlation = np.fft.irfft(np.square(np.abs(spectrum)))
        lags = np.arange(sample_rate // 1000, sample_rate // 60)
        best = lags[np.argmax(correlation[lags])]
        if np.square(frame).mean() > 1e-5 and correlation[best] > 0.6 * correlation[0]:
            found.append(sample_rate / best)
    return np.array(found)


def test_stems_are_sound_and_fit_together(song: dict[str, Array]) -> None:
    assert tuple(song) == STEMS
    for samples in song.values():
        assert samples.shape == (2, 9 * 44100)
        assert samples.dtype == np.float32
        assert np.isfinite(samples).all()
        assert 0.005 < np.sqrt(np.square(samples).mean()) < 0.3
        assert abs(float(samples.mean())) < 0.005
    peak = np.abs(sum(song.values())).max()
    assert 0.5 < peak < 0.9


def test_stems_are_not_correlated(song: dict[str, Array]) -> None:
    mono = np.stack([samples.sum(axis=0) for samples in song.values()])
    correlation = np.corrcoef(mono)
    assert np.abs(correlation - np.eye(len(mono))).max() < 0.15


def test_bass_is_low(song: dict[str, Array]) -> None:
    assert share_of_energy(song["bass"], 30, 300) > 0.85
    pitches = fundamentals(song["bass"])
    assert len(pitches) > 5
    assert 60 <= np.median(pitches) < 160 or share_of_energy(song["bass"], 30, 60) > 0.1


def test_drums_have_a_kick_and_hats(song: dict[str, Array]) -> None:
    assert share_of_energy(song["drums"], 30, 200) > 0.1
    assert share_of_energy(song["drums"], 4000, 20000) > 0.01
    # Hits: the energy of 10 ms blocks is far from even.
    energy = np.square(song["drums"].sum(axis=0)).reshape(-1, 441).sum(axis=1)
    assert energy.max() > 8 * np.median(energy)


def test_voice_sings_in_its_range_and_pauses(song: dict[str, Array]) -> None:
    pitches = fundamentals(song["vocals"])
    assert len(pitches) > 20
    assert 100 < np.median(pitches) < 520
    assert len(set(np.round(12 * np.log2(pitches / 440)))) >= 3  # a melody
    assert share_of_energy(song["vocals"], 100, 5000) > 0.95
    level = np.sqrt(np.square(song["vocals"]).sum(axis=0).reshape(-1, 4410).mean(axis=1))
    assert level.min() < 0.3 * np.median(level)


def test_other_is_stereo_and_in_the_middle(song: dict[str, Array]) -> None:
    assert share_of_energy(song["other"], 150, 5000) > 0.9
    left, right = song["other"]
    assert np.square(left - right).mean() > 0.05 * np.square(left + right).mean()


def test_the_same_seed_is_the_same_song() -> None:
    first, second = synthesize_song(2.5, seed=3), synthesize_song(2.5, seed=3)
    for stem in STEMS:
        np.testing.assert_array_equal(first[stem], second[stem])


def test_another_seed_is_another_song() -> None:
    first, second = synthesize_song(4, seed=1), synthesize_song(4, seed=2)
    for stem in STEMS:
        assert abs(np.corrcoef(first[stem].ravel(), second[stem].ravel())[0, 1]) < 0.2


@pytest.mark.parametrize("sample_rate", [8000, 22050, 48000, 96000])
def test_other_sample_rates_are_the_same_length_of_music(sample_rate: int) -> None:
    stems = synthesize_song(1.5, seed=1, sample_rate=sample_rate)
    for samples in stems.values():
        assert samples.shape == (2, round(1.5 * sample_rate))
        assert np.isfinite(samples).all()
        assert np.abs(samples).max() > 0.01


@pytest.mark.parametrize("n_samples", [0, 1, 31, 32, 33, 1000])
def test_very_short_songs(n_samples: int) -> None:
    for samples in synthesize_song(n_samples / 44100).values():
        assert samples.shape == (2, n_samples)
        assert np.isfinite(samples).all()


@pytest.mark.parametrize(
    ("seconds", "sample_rate"), [(-1, 44100), (float("nan"), 44100), (float("inf"), 44100), (1, 7999)]
)
def test_nonsense_is_refused(seconds: float, sample_rate: int) -> None:
    with pytest.raises(UsageError):
        synthesize_song(seconds, sample_rate=sample_rate)


def test_a_tone_has_its_pitch_and_its_harmonics() -> None:
    clock = Clock(44100, 44100)
    f0 = np.full(len(clock.control_seconds()), 441, np.float32)
    sound = tone(clock, f0, 1000.0, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(sound)) / 22050
    harmonics = spectrum[441:8000:441]
    np.testing.assert_allclose(harmonics[1:] / harmonics[:-1], np.exp(-441 / 1000), rtol=0.01)
    assert np.square(spectrum).sum() - np.square(spectrum[441::441]).sum() < 1e-6 * np.square(spectrum).sum()
    assert np.square(sound).mean() == pytest.approx(1, rel=0.01)


def test_a_glide_follows_its_curve() -> None:
    clock = Clock(44100, 44100)
    f0 = np.linspace(200, 400, len(clock.control_seconds())).astype(np.float32)
    sound = tone(clock, f0, 30.0, np.random.default_rng(0))  # a cutoff this low leaves the fundamental alone
    upward = np.flatnonzero((sound[:-1] < 0) & (sound[1:] >= 0))
    measured = 44100 / np.diff(upward)
    expected = np.interp(upward[:-1] + 100, clock.control_seconds() * 44100, f0)
    np.testing.assert_allclose(measured, expected, rtol=0.02)
    assert len(upward) == pytest.approx(300, abs=1)
