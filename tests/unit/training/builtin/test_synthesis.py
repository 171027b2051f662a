from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unbraid.training.builtin.bank import pitched
from unbraid.training.builtin.synthesis import Patch, bass_patch, kick, lead_patch, play_patch, reverberate

SAMPLE_RATE = 44100


def strongest_hz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * SAMPLE_RATE / len(samples))


@pytest.mark.parametrize("semitones", [-5.0, 0.0, 7.0])
def test_pitched_moves_a_tone_by_semitones(semitones: float) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)[None]
    kept = tone.copy()
    shifted = pitched(tone, semitones)
    assert strongest_hz(shifted[0]) == pytest.approx(440 * 2 ** (semitones / 12), abs=1.5)
    assert shifted.shape[1] == pytest.approx(SAMPLE_RATE / 2 ** (semitones / 12), abs=2)
    np.testing.assert_array_equal(tone, kept)
    assert not np.shares_memory(tone, shifted)


@pytest.mark.parametrize("shape", ["saw", "square", "sine", "fm"])
def test_a_patch_sounds_at_its_pitch_and_ends_silent(shape: str) -> None:
    patch = Patch(shape, 1, 0.0, 2.0, 0.3, 0.01, 0.1, 1.0, 0.0)
    note = play_patch(patch, 57, 127, 1.0, SAMPLE_RATE, np.random.default_rng(0))
    assert note.dtype == np.float32
    assert note.shape == (2, pytest.approx(1.1 * SAMPLE_RATE, abs=2))
    assert strongest_hz(note[0, 22050:44100]) == pytest.approx(220, abs=3)
    assert np.abs(note[:, -5:]).max() < 1e-3


def test_random_patches_are_finite_and_repeatable() -> None:
    for draw in (bass_patch, lead_patch):
        for seed in range(10):
            patch = draw(np.random.default_rng(seed))
            assert patch == draw(np.random.default_rng(seed))
            note = play_patch(patch, 30, 100, 0.2, SAMPLE_RATE, np.random.default_rng(seed))
            assert np.isfinite(note).all()
            assert 0.01 < np.abs(note).max() < 20


def test_a_kick_starts_high_and_falls() -> None:
    sound = kick(np.random.default_rng(2), SAMPLE_RATE)
    power = np.abs(np.fft.rfft(sound[0])) ** 2
    frequencies = np.fft.rfftfreq(sound.shape[1], 1 / SAMPLE_RATE)
    assert power[frequencies < 400].sum() > 0.8 * power.sum()
    assert np.abs(sound[:, -1]).max() < 0.05


def test_reverberation_adds_a_tail_after_the_sound() -> None:
    click = np.zeros((2, SAMPLE_RATE), np.float32)
    click[:, 100] = 1
    wet = reverberate(click, np.random.default_rng(1), SAMPLE_RATE)
    assert wet.shape == click.shape
    np.testing.assert_allclose(wet[:, :100], 0, atol=1e-4)
    tail = wet[:, 5000:]
    assert np.sum(tail[:, :8000] ** 2) > 4 * np.sum(tail[:, -8000:] ** 2) > 0
    assert not np.allclose(wet[0], wet[1])


def test_the_bank_folder_is_needed(tmp_path: Path) -> None:
    from unbraid.training.builtin.bank import Bank

    with pytest.raises(FileNotFoundError):
        Bank(tmp_path, SAMPLE_RATE)
