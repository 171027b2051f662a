import numpy as np
import pytest

from unbraid.dsp.masks import apply_mask, ratio_masks


@pytest.fixture
def estimates() -> np.ndarray:
    return np.abs(np.random.default_rng(0).standard_normal((3, 2, 16, 5))).astype(np.float32)


@pytest.mark.parametrize("exponent", [1.0, 2.0, 1.7])
def test_masks_equal_the_formula_and_add_up_to_one(estimates: np.ndarray, exponent: float) -> None:
    before = estimates.copy()
    masks = ratio_masks(estimates, exponent=exponent)
    power = estimates.astype(np.float64) ** exponent
    expected = (power + 1e-10 / 3) / (power.sum(axis=0) + 1e-10)
    assert np.abs(masks - expected).max() < 1e-6
    assert np.abs(masks.sum(axis=0) - 1).max() < 1e-6
    assert np.array_equal(estimates, before)


def test_silence_is_shared_equally() -> None:
    masks = ratio_masks(np.zeros((4, 2, 8, 3), np.float32))
    assert np.allclose(masks, 0.25)


def spectrum() -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.standard_normal((2, 25, 5)) + 1j * rng.standard_normal((2, 25, 5))).astype(np.complex64)


def test_average_extension_gives_the_mean_mask_to_the_high_band(estimates: np.ndarray) -> None:
    spec, masks = spectrum(), ratio_masks(estimates)
    before = spec.copy()
    out = np.stack([apply_mask(spec, mask, extension="average") for mask in masks])
    assert out.shape == (3, 2, 25, 5)
    assert np.allclose(out[:, :, :16], spec[:, :16] * masks, atol=1e-6)
    assert np.allclose(out[:, :, 16:], spec[:, 16:] * masks.mean(axis=2, keepdims=True), atol=1e-6)
    assert np.allclose(out.sum(axis=0), spec, atol=1e-6)
    assert np.array_equal(spec, before)


def test_zeros_extension_silences_the_high_band(estimates: np.ndarray) -> None:
    out = apply_mask(spectrum(), ratio_masks(estimates)[0], extension="zeros")
    assert not out[:, 16:].any()
    assert out[:, :16].any()


def test_unknown_extension_is_refused(estimates: np.ndarray) -> None:
    with pytest.raises(ValueError, match="extension"):
        apply_mask(spectrum(), ratio_masks(estimates)[0], extension="mirror")
