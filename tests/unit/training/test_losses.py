from __future__ import annotations

import numpy as np
import pytest
import torch

from unbraid.errors import UsageError
from unbraid.training.losses import LossConfig, spectral_losses, stem_losses, weigh

STEMS = ("vocals", "drums", "other")
WAVE_KINDS = ("l1", "mse", "stft", "l1+stft", "si_sdr")
MAGNITUDE_KINDS = ("magnitude_l1", "magnitude_l1_weighted", "magnitude_mse")
N_FFTS = (64, 32)


def config_of(kind: str, **weights: float) -> LossConfig:
    return LossConfig(kind, weights=weights, n_ffts=N_FFTS)


def pair(kind: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    shape = (2, 3, 2, 5, 7) if kind in MAGNITUDE_KINDS else (2, 3, 2, 150)
    truths = rng.standard_normal(shape) * np.array([1, 0.3, 0.05]).reshape(1, 3, *[1] * (len(shape) - 2))
    estimates = truths + 0.2 * rng.standard_normal(shape)
    if kind in MAGNITUDE_KINDS:
        truths, estimates = np.abs(truths), np.abs(estimates)
    return torch.from_numpy(estimates).to(dtype), torch.from_numpy(truths).to(dtype)


def direct_powers(signal: np.ndarray, n_fft: int) -> np.ndarray:
    """By the definition of the Fourier transform, frame by frame."""
    hop = n_fft // 4
    padded = np.concatenate([np.zeros(n_fft // 2), signal, np.zeros(n_fft // 2)])
    n = np.arange(n_fft)
    window = np.sin(np.pi * n / n_fft) ** 2
    kernel = np.exp(-2j * np.pi * np.outer(np.arange(n_fft // 2 + 1), n) / n_fft)
    frames = [kernel @ (window * padded[i * hop : i * hop + n_fft]) for i in range(1 + len(signal) // hop)]
    return np.maximum(np.abs(np.array(frames)) ** 2, 1e-7)


def direct_stft(estimates: np.ndarray, truths: np.ndarray) -> float:
    """Of one stem [shape=(batch, channel, time)]."""
    losses = []
    for n_fft in N_FFTS:
        one, two = (
            np.sqrt([[direct_powers(signal, n_fft) for signal in example] for example in both])
            for both in (estimates, truths)
        )
        convergence = np.linalg.norm((one - two).ravel()) / np.linalg.norm(two.ravel())
        losses.append(convergence + np.mean(np.abs(np.log(one) - np.log(two))))
    return float(np.mean(losses))


def direct_si_sdr(estimates: np.ndarray, truths: np.ndarray) -> float:
    found = []
    for estimate, truth in zip(estimates, truths, strict=True):
        target = np.vdot(estimate, truth) / np.vdot(truth, truth) * truth
        found.append(10 * np.log10(np.sum(target**2) / np.sum((estimate - target) ** 2)))
    return -float(np.mean(found))


def direct(kind: str, estimates: np.ndarray, truths: np.ndarray) -> float:
    """The loss of one stem [shape=(batch, channel, …)]."""
    match kind:
        case "l1" | "magnitude_l1":
            return float(np.mean(np.abs(estimates - truths)))
        case "mse" | "magnitude_mse":
            return float(np.mean((estimates - truths) ** 2))
        case "magnitude_l1_weighted":
            pairs = zip(estimates, truths, strict=True)
            return float(np.mean([truth.mean() * np.abs(estimate - truth).mean() for estimate, truth in pairs]))
        case "stft":
            return direct_stft(estimates, truths)
        case "l1+stft":
            return direct("l1", estimates, truths) + direct_stft(estimates, truths)
    return direct_si_sdr(estimates, truths)


@pytest.mark.parametrize("kind", [*WAVE_KINDS, *MAGNITUDE_KINDS])
def test_each_stem_has_the_loss_of_a_direct_computation(kind: str) -> None:
    estimates, truths = pair(kind)
    found = stem_losses(estimates, truths, config_of(kind))
    expected = [direct(kind, estimates[:, i].numpy(), truths[:, i].numpy()) for i in range(3)]
    # The SI-SDR alone differs, by what is added to the energies (1e-7 of 1).
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6 if kind == "si_sdr" else 1e-10)


@pytest.mark.parametrize("kind", [*WAVE_KINDS, *MAGNITUDE_KINDS])
def test_slopes_are_those_of_finite_differences(kind: str) -> None:
    estimates, truths = pair(kind, seed=1)
    estimates = estimates[:1, :, :, :20].clone().requires_grad_()
    config = LossConfig(kind, weights={"drums": 0.5}, n_ffts=(16, 8))
    assert torch.autograd.gradcheck(
        lambda x: weigh(stem_losses(x, truths[:1, :, :, :20], config), config, STEMS), estimates
    )


@pytest.mark.parametrize("kind", [*WAVE_KINDS, *MAGNITUDE_KINDS])
def test_a_stem_without_weight_has_no_gradient_and_others_do(kind: str) -> None:
    estimates, truths = pair(kind)
    estimates.requires_grad_()
    config = config_of(kind, drums=0.0)
    weigh(stem_losses(estimates, truths, config), config, STEMS).backward()
    assert estimates.grad is not None
    assert torch.all(estimates.grad[:, 1] == 0)
    assert all(torch.any(estimates.grad[:, i] != 0) for i in (0, 2))


@pytest.mark.parametrize("kind", [*WAVE_KINDS, *MAGNITUDE_KINDS])
@pytest.mark.parametrize("silent", ["truth", "estimate", "both"])
def test_silence_has_a_finite_loss_and_gradient(kind: str, silent: str) -> None:
    estimates, truths = pair(kind, dtype=torch.float32)
    if silent != "estimate":
        truths[:, 1] = 0
    if silent != "truth":
        estimates[:, 1] = 0
    estimates.requires_grad_()
    losses = stem_losses(estimates, truths, config_of(kind))
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert estimates.grad is not None
    assert torch.isfinite(estimates.grad).all()
    if silent == "both":
        assert losses[1].abs() < 1e-6


@pytest.mark.parametrize("kind", ["l1", "mse", "stft", "l1+stft", "si_sdr", "magnitude_l1", "magnitude_mse"])
def test_a_louder_estimate_of_a_silent_stem_costs_more(kind: str) -> None:
    estimates, truths = pair(kind)
    truths = torch.zeros_like(truths)
    soft, loud = (stem_losses(factor * estimates, truths, config_of(kind)) for factor in (0.1, 1.0))
    assert (soft < loud).all()


@pytest.mark.parametrize("kind", ["l1", "mse", "stft", "l1+stft", "magnitude_l1", "magnitude_l1_weighted"])
def test_the_truth_costs_nothing(kind: str) -> None:
    _, truths = pair(kind)
    losses = stem_losses(truths, truths, config_of(kind))
    # The floor beneath the root: sqrt(1e-7).
    np.testing.assert_allclose(losses.numpy(), 1e-7**0.5 if "stft" in kind else 0, rtol=1e-12)


def test_si_sdr_does_not_know_scale_and_is_in_decibels() -> None:
    estimates, truths = pair("si_sdr")
    config = config_of("si_sdr")
    first = stem_losses(estimates, truths, config)
    np.testing.assert_allclose(stem_losses(3 * estimates, truths, config), first, atol=1e-5)
    np.testing.assert_allclose(stem_losses(-0.1 * estimates, truths, config), first, atol=1e-3)
    # An error at right angles with a tenth of the amplitude is 20 dB below.
    truth = torch.zeros(1, 1, 1, 100, dtype=torch.float64)
    truth[..., :50] = 1
    assert stem_losses(truth + 0.1 * truth.flip(-1), truth, config).item() == pytest.approx(-20, abs=1e-5)


def test_errors_of_spectra_count_beside_the_mix() -> None:
    rng = np.random.default_rng(5)
    errors, energies = rng.random((2, 3)) * np.array([1, 0.01, 1e-4]), rng.random(2) + 0.1
    relative = [[one / energy for one in error] for error, energy in zip(errors, energies, strict=True)]
    expected = {"spectral_mse": np.mean(relative, 0), "spectral_rms": np.mean(np.sqrt(np.add(relative, 1e-4)), 0)}
    for kind, losses in expected.items():
        config = LossConfig(kind)
        assert config.on_spectra
        found = spectral_losses(torch.from_numpy(errors), torch.from_numpy(energies), config)
        np.testing.assert_allclose(found, losses, rtol=1e-6)
        silence = torch.zeros(1, 3, requires_grad=True)
        nothing = spectral_losses(silence, torch.zeros(1), config)
        nothing.sum().backward()
        np.testing.assert_allclose(nothing.detach(), 0 if kind == "spectral_mse" else 0.01, rtol=1e-6)
        assert silence.grad is not None and torch.isfinite(silence.grad).all()
    assert not LossConfig("l1").on_spectra


@pytest.mark.parametrize("kind", ["spectral_mse", "spectral_rms"])
def test_between_two_masks_the_loss_is_no_higher(kind: str) -> None:
    """All of the mix in one stem is then no minimum; with the logarithm of errors it was, and networks stayed there."""
    rng = np.random.default_rng(6)
    mixes = rng.standard_normal((20, 1, 30))
    truths = mixes * rng.dirichlet([0.3] * 3, (20, 30)).transpose(0, 2, 1)
    truths[::4, 0] = 0

    def loss(masks: np.ndarray) -> np.ndarray:
        errors, energies = np.square(masks * mixes - truths).sum(2), np.square(mixes).sum((1, 2))
        return spectral_losses(torch.from_numpy(errors), torch.from_numpy(energies), LossConfig(kind)).numpy()

    all_in_one = np.zeros((20, 3, 30))
    all_in_one[:, 1] = 1
    for other in (rng.dirichlet([1.0] * 3, (20, 30)).transpose(0, 2, 1), truths / mixes):
        along = [loss((1 - part) * all_in_one + part * other) for part in np.linspace(0, 1, 11)]
        assert (np.diff(along, 2, axis=0) >= -1e-9).all()


def test_a_loss_of_halves_is_computed_in_float32() -> None:
    estimates, truths = pair("mse", dtype=torch.float32)
    estimates, truths = (1e-4 * x for x in (estimates, truths))  # their squares are no numbers of half precision
    found = stem_losses(estimates.half(), truths.half(), config_of("mse"))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, stem_losses(estimates, truths, config_of("mse")), rtol=0.01)


def test_one_number_is_the_weighted_mean_and_spleeters_the_sum() -> None:
    losses = torch.tensor([1.0, 2.0, 6.0])
    assert weigh(losses, config_of("l1"), STEMS).item() == 3
    assert weigh(losses, config_of("l1", vocals=2.0, drums=0.0), STEMS).item() == pytest.approx(8 / 3)
    assert weigh(losses, config_of("magnitude_mse"), STEMS).item() == 3
    assert weigh(losses, config_of("magnitude_l1"), STEMS).item() == 9
    assert weigh(losses, config_of("magnitude_l1_weighted", other=0.5), STEMS).item() == 6


def test_the_weighted_form_lets_a_stem_count_by_its_loudness() -> None:
    estimates, truths = pair("magnitude_l1_weighted")
    config = config_of("magnitude_l1_weighted")
    found = stem_losses(estimates, truths, config)
    np.testing.assert_allclose(stem_losses(3 * estimates, 3 * truths, config), 9 * found)
    assert stem_losses(estimates, torch.zeros_like(truths), config).abs().max() == 0


@pytest.mark.parametrize("kind", [*WAVE_KINDS, *MAGNITUDE_KINDS])
def test_which_losses_are_on_magnitudes(kind: str) -> None:
    assert LossConfig(kind).on_magnitudes == (kind in MAGNITUDE_KINDS)


def test_what_makes_no_sense_is_told() -> None:
    with pytest.raises(
        UsageError, match=r"loss\.kind must be one of l1, mse, .*, got 'sisdr'; the nearest is 'si_sdr'"
    ):
        LossConfig("sisdr")
    with pytest.raises(UsageError, match=r"loss\.weights\.drums must be 0 or more, got -1"):
        LossConfig(weights={"drums": -1.0})
    with pytest.raises(UsageError, match=r"loss\.n_ffts must be multiples of 4"):
        LossConfig(n_ffts=(510,))
    with pytest.raises(UsageError, match=r"'vocal', which is no stem of the network; the nearest is 'vocals'"):
        weigh(torch.ones(3), config_of("l1", vocal=1.0), STEMS)
    with pytest.raises(UsageError, match="nothing to learn"):
        weigh(torch.ones(3), config_of("l1", **dict.fromkeys(STEMS, 0.0)), STEMS)
