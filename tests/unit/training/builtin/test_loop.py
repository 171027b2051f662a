from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from unbraid.errors import ModelError
from unbraid.models.spleeter.config import SharedUNetConfig, SpleeterConfig
from unbraid.models.spleeter.shared_unet import SharedUNet
from unbraid.training.builtin.checkpoint import load_checkpoint, save_checkpoint
from unbraid.training.builtin.export import balanced_state, save_model
from unbraid.training.builtin.loop import (
    LoopConfig,
    Training,
    learning_rate,
    loss_of,
    random_equaliser,
    start,
    stem_spectra,
    train,
)
from unbraid.weights.model_file import read_model_file

MODEL = SharedUNetConfig(n_bins=64, widths=(8, 8), tdf_divisor=2)
CONFIG = LoopConfig(n_fft=256, hop=64, n_frames=32, batch_size=2, warm_up_steps=5, peak_rate=1e-2, p_equalise=0.0)


def tones(rng: np.random.Generator) -> np.ndarray:
    """Four stems in four bands of frequencies: easy to tell apart."""
    time = np.arange(CONFIG.n_samples)
    bins = np.array([5, 18, 32, 50]) + rng.uniform(-2, 2, 4)
    phases = rng.uniform(0, 6.28, (4, 2, 1))
    return (0.3 * np.sin(2 * np.pi * bins[:, None, None] / 256 * time + phases)).astype(np.float32)


def run(training: Training, until: int, total: int = 60) -> list[float]:
    losses = []
    for loss in train(training, CONFIG, tones, lambda state: state.step / total if state.step < until else 1.0):
        losses.append(loss)
    return losses


def test_the_loop_learns_to_separate_tones() -> None:
    training = start(MODEL, CONFIG, 0)
    losses = run(training, 60)
    assert len(losses) == training.step == 60
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 1.0
    stems = torch.from_numpy(np.stack([tones(np.random.default_rng(10**6))]))
    spectra = stem_spectra(stems, torch.hann_window(256), CONFIG, 64)
    with torch.no_grad():
        estimates = training.average(spectra.sum(dim=1).abs())
    errors = (estimates - spectra.abs()).square().sum(dim=(0, 2, 3, 4)) / spectra.abs().square().sum(dim=(0, 2, 3, 4))
    assert errors.max() < 0.3
    assert errors.mean() < 0.1


def test_training_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    run(start(MODEL, CONFIG, 0), 2)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    whole = start(MODEL, CONFIG, 3)
    expected = run(whole, 8)
    first = start(MODEL, CONFIG, 3)
    losses = run(first, 4)
    save_checkpoint(first, path)
    second = start(MODEL, CONFIG, 99)
    load_checkpoint(second, path)
    assert second.step == 4
    assert second.elapsed_s == first.elapsed_s
    losses += run(second, 8)
    assert losses == expected
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, second.average.state_dict()[name]), name
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    save_checkpoint(start(SharedUNetConfig(n_bins=64, widths=(8, 16), tdf_divisor=2), CONFIG, 0), path)
    with pytest.raises(ModelError, match="cannot resume"):
        load_checkpoint(start(MODEL, CONFIG, 0), path)
    path.write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="cannot resume"):
        load_checkpoint(start(MODEL, CONFIG, 0), path)


def test_the_loss_is_that_of_its_formula() -> None:
    rng = np.random.default_rng(1)
    shape = (2, 4, 2, 64, 8)
    spectra = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    network = start(MODEL, CONFIG, 0).average
    mix = spectra.sum(axis=1)
    with torch.no_grad():
        loss = float(loss_of(network, torch.from_numpy(spectra), CONFIG))
        estimates = network(torch.from_numpy(np.abs(mix))).numpy()
    phase = (mix / np.abs(mix))[:, None]
    error = np.abs(estimates * phase - spectra) ** 2
    relative = error.sum(axis=(2, 3, 4)) / (np.abs(mix) ** 2).sum(axis=(1, 2, 3))[:, None]
    wanted = (spectra * phase.conj()).real
    distance = np.abs(estimates - wanted).sum(axis=(2, 3, 4)) / np.abs(mix).sum(axis=(1, 2, 3))[:, None]
    each = (np.log10(relative + CONFIG.error_floor) + 4 * distance).mean(axis=0)
    expected = np.average(each, weights=CONFIG.stem_weights)
    assert loss == pytest.approx(expected, rel=1e-4)


def test_masks_sum_to_the_mix_and_blocks_may_have_any_length() -> None:
    network = start(MODEL, CONFIG, 0).average
    magnitude = torch.rand(1, 2, 64, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stems = network(magnitude)
    assert stems.shape == (1, 4, 2, 64, 48)
    torch.testing.assert_close(stems.sum(dim=1), magnitude)
    assert (stems >= 0).all()


def test_folding_is_undone_by_unfolding() -> None:
    network = SharedUNet(MODEL)
    features = torch.arange(2 * 64 * 6, dtype=torch.float32).reshape(1, 2, 64, 6)
    folded = network._fold(features)
    assert folded.shape == (1, 16, 16, 3)
    assert torch.equal(network._unfold(folded.repeat(1, 4, 1, 1))[:, 2], features)


def test_the_equaliser_is_smooth_and_mostly_neutral_by_choice() -> None:
    rng = np.random.default_rng(0)
    always = random_equaliser((50, 4), 512, LoopConfig(p_equalise=1.0, equalise_db=3.0), rng)
    assert always.shape == (50, 4, 1, 512, 1)
    decibels = 20 * np.log10(always)
    assert 2 < decibels.std() < 4
    assert np.abs(np.diff(decibels[..., 4:, 0], axis=-1)).max() < 3
    assert (random_equaliser((5, 4), 512, LoopConfig(p_equalise=0.0), rng) == 1).all()


def test_the_learning_rate_warms_up_and_falls() -> None:
    config = LoopConfig(peak_rate=1.0, warm_up_steps=10)
    assert learning_rate(0.0, 0, config) == pytest.approx(0.1)
    assert learning_rate(0.0, 50, config) == 1.0
    assert learning_rate(0.5, 500, config) == pytest.approx(0.505)
    assert learning_rate(1.0, 1000, config) == pytest.approx(0.01)


def test_a_model_folder_is_complete_and_readable(tmp_path: Path) -> None:
    network = start(MODEL, CONFIG, 5).average
    save_model(network, tmp_path / "model", separation_exponent=2, n_frames=64)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.toml", "weights.safetensors"]
    (part,) = read_model_file(tmp_path / "model").networks
    config = part.config
    assert isinstance(config, SpleeterConfig)
    assert config.shared_unet == MODEL
    assert config.stems == ("vocals", "drums", "bass", "other")
    assert (config.n_frames, config.separation_exponent, config.mask_extension) == (64, 2, "average")
    arrays = load_file(tmp_path / "model" / "weights.safetensors")
    state = balanced_state(network)
    assert set(arrays) == {name for name in state if not name.endswith("num_batches_tracked")}
    for name, array in arrays.items():
        assert array.dtype == np.float16
        np.testing.assert_allclose(array, state[name].numpy(), rtol=1e-3, atol=1e-6)


def test_balancing_for_float16_keeps_the_function() -> None:
    training = start(MODEL, CONFIG, 2)
    run(training, 10)
    network = training.average
    with torch.no_grad():
        network.encoders[1][0].conv.norm.running_var *= 1e7  # beyond float16
        network.encoders[1][0].conv.norm.weight *= 3e3
        network.decoders[0].frequency.norm.running_var *= 1e6
        magnitude = 10 * torch.rand(1, 2, 64, 16, generator=torch.Generator().manual_seed(0))
        expected = network(magnitude)
        state = balanced_state(network)
        assert max(value.abs().max() for name, value in state.items() if "running" in name) < 1e4
        balanced = SharedUNet(MODEL).eval()
        balanced.load_state_dict(state)
        torch.testing.assert_close(balanced(magnitude), expected, rtol=1e-4, atol=1e-4)
        rounded = {name: value.half().float() if value.is_floating_point() else value for name, value in state.items()}
        balanced.load_state_dict(rounded)
        torch.testing.assert_close(balanced(magnitude), expected, rtol=0.02, atol=0.05)
