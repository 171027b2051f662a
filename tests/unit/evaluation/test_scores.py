from __future__ import annotations

import math

import numpy as np
import pytest

from unbraid.evaluation.scores import energy_sdr, irm2_oracle, oracle_share


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_sdr_of_a_tenth_of_noise_energy_is_ten_db(rng: np.random.Generator) -> None:
    reference = rng.standard_normal((2, 44100)).astype(np.float32)
    noise = rng.standard_normal((2, 44100)).astype(np.float32)
    noise *= np.float32(np.sqrt(0.1 * np.sum(reference**2) / np.sum(noise**2)))
    assert energy_sdr(reference, reference + noise) == pytest.approx(10.0, abs=1e-3)


def test_sdr_counts_a_level_error_as_distortion(rng: np.random.Generator) -> None:
    reference = rng.standard_normal((2, 1000)).astype(np.float32)
    assert energy_sdr(reference, np.float32(0.5) * reference) == pytest.approx(20 * math.log10(2), abs=1e-3)


def test_sdr_pools_channels(rng: np.random.Generator) -> None:
    reference = np.stack([np.full(100, 2.0), np.full(100, 1.0)]).astype(np.float32)
    estimate = np.stack([np.full(100, 1.0), np.full(100, 1.0)]).astype(np.float32)
    assert energy_sdr(reference, estimate) == pytest.approx(10 * math.log10(5), abs=1e-6)


def test_sdr_at_the_ends() -> None:
    silence, ones = np.zeros((2, 10), np.float32), np.ones((2, 10), np.float32)
    assert energy_sdr(ones, ones) == math.inf
    assert energy_sdr(silence, ones) == -math.inf
    assert math.isnan(energy_sdr(silence, silence))


def test_sdr_refuses_different_shapes() -> None:
    with pytest.raises(ValueError, match="one shape"):
        energy_sdr(np.zeros((2, 10), np.float32), np.zeros((1, 10), np.float32))


def test_share_is_zero_at_the_mix_and_one_at_the_oracle() -> None:
    assert oracle_share(-5.0, -5.0, 13.0) == 0.0
    assert oracle_share(13.0, -5.0, 13.0) == 1.0
    assert oracle_share(4.0, -5.0, 13.0) == pytest.approx(0.5)


@pytest.mark.parametrize("n_samples", [1, 1023, 30000, 44100 * 7])
def test_oracle_estimates_sum_to_the_mix(rng: np.random.Generator, n_samples: int) -> None:
    stems = rng.standard_normal((4, 2, n_samples)).astype(np.float32)
    kept = stems.copy()
    estimates = irm2_oracle(stems)
    assert estimates.shape == stems.shape
    np.testing.assert_allclose(estimates.sum(axis=0), stems.sum(axis=0), atol=2e-5)
    np.testing.assert_array_equal(stems, kept)


def test_oracle_separates_distant_tones_almost_exactly() -> None:
    time_s = np.arange(44100) / 44100
    low, high = np.sin(2 * np.pi * 200 * time_s), np.sin(2 * np.pi * 5000 * time_s)
    stems = np.stack([np.stack([low, low]), np.stack([high, 0.5 * high])]).astype(np.float32)
    estimates = irm2_oracle(stems)
    inner = np.s_[:, 4096:-4096]
    assert energy_sdr(stems[0][inner], estimates[0][inner]) > 40
    assert energy_sdr(stems[1][inner], estimates[1][inner]) > 40


def test_oracle_agrees_with_a_naive_computation(rng: np.random.Generator) -> None:
    n_fft, hop, n_samples = 64, 16, 200
    stems = rng.standard_normal((3, 1, n_samples)).astype(np.float32)
    window = np.hanning(n_fft + 1)[:-1]
    padded = np.pad(stems.astype(np.float64), ((0, 0), (0, 0), (n_fft, 2 * n_fft)))
    expected, weight = np.zeros_like(padded), np.zeros(padded.shape[-1])
    for start in range(0, padded.shape[-1] - n_fft + 1, hop):
        spectra = np.fft.rfft(padded[..., start : start + n_fft] * window)
        power = np.abs(spectra) ** 2
        total = power.sum(axis=0)
        masks = np.divide(power, total, out=np.full_like(power, 1 / 3), where=total > 0)
        expected[..., start : start + n_fft] += np.fft.irfft(masks * spectra.sum(axis=0), n_fft) * window
        weight[start : start + n_fft] += window**2
    kept = slice(n_fft, n_fft + n_samples)
    np.testing.assert_allclose(
        irm2_oracle(stems, n_fft=n_fft, hop=hop), (expected / np.maximum(weight, 1e-9))[..., kept], atol=1e-4
    )
