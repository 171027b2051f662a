from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from unbraid.dsp.wiener import WienerFilter, WienerStatistics, wiener
from unbraid.errors import UsageError

EPSILON = np.finfo(np.float32).eps


def relative_error(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def random_mix(
    *, n_stems: int = 3, n_channels: int = 2, n_freqs: int = 45, n_frames: int = 60, level: float = 20.0, seed: int = 0
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Stems from different directions, sparse in frequency and time; the mix and the noisy magnitudes of the stems."""
    rng = np.random.default_rng(seed)
    complex_normal = rng.standard_normal((2, n_stems, 1, n_freqs, n_frames))
    envelope = rng.gamma(0.3, 1.0, (n_stems, 1, n_freqs, n_frames))
    direction = rng.standard_normal((2, n_stems, n_channels, n_freqs, 1))
    diffuse = 0.1 * rng.standard_normal((2, n_stems, n_channels, n_freqs, n_frames))
    shape = (direction[0] + 1j * direction[1]) + (diffuse[0] + 1j * diffuse[1])
    stems = level * envelope * (complex_normal[0] + 1j * complex_normal[1]) * shape
    v = np.abs(stems) * np.exp(0.3 * rng.standard_normal(stems.shape))
    return stems.sum(axis=0).astype(np.complex64), v.astype(np.float32)


def in_float64(x: np.ndarray[Any, Any], v: np.ndarray[Any, Any], iterations: int) -> np.ndarray[Any, Any]:
    """The equations as they stand, one frequency and frame at a time."""
    x, v = x.astype(np.complex128), v.astype(np.float64)
    scale = max(1.0, np.abs(x).max() / 10)
    y = v / (v.sum(axis=0) + EPSILON) * x / scale
    n_stems, n_channels, n_freqs, n_frames = v.shape
    for _ in range(iterations):
        power = (np.abs(y) ** 2).mean(axis=1)
        refined = np.zeros_like(y)
        for f in range(n_freqs):
            spatial = [
                sum(np.outer(y[j, :, f, t], y[j, :, f, t].conj()) for t in range(n_frames))
                / (EPSILON + power[j, f].sum())
                for j in range(n_stems)
            ]
            for t in range(n_frames):
                model = sum(power[j, f, t] * spatial[j] for j in range(n_stems)) + np.sqrt(EPSILON) * np.eye(n_channels)
                whitened = np.linalg.solve(model, x[:, f, t] / scale)
                for j in range(n_stems):
                    refined[j, :, f, t] = power[j, f, t] * spatial[j] @ whitened
        y = refined
    return y * scale


@pytest.mark.parametrize("n_channels", [1, 2, 3])
@pytest.mark.parametrize("iterations", [0, 1, 2])
def test_is_the_equations(n_channels: int, iterations: int) -> None:
    x, v = random_mix(n_channels=n_channels, n_freqs=9, n_frames=12)
    theirs = in_float64(x, v, iterations)
    assert relative_error(wiener(x, v, iterations=iterations), theirs) < 1e-5


@pytest.mark.parity
@pytest.mark.parametrize("n_channels", [1, 2, 3])
@pytest.mark.parametrize("iterations", [0, 1, 3])
@pytest.mark.parametrize("level", [0.01, 20.0])
def test_is_what_norbert_computes(n_channels: int, iterations: int, level: float) -> None:
    norbert = pytest.importorskip("norbert", reason="norbert is a development dependency")
    x, v = random_mix(n_channels=n_channels, level=level)
    v[:, :, 30:] = 0  # a network that sees the lower band only
    theirs = norbert.wiener(v.transpose(3, 2, 1, 0), x.transpose(2, 1, 0).copy(), iterations=iterations)
    assert relative_error(wiener(x, v, iterations=iterations), theirs.transpose(3, 2, 1, 0)) < 1e-4


@pytest.mark.parity
def test_one_direction_is_more_exact_than_norbert_in_single_precision() -> None:
    norbert = pytest.importorskip("norbert", reason="norbert is a development dependency")
    x, v = random_mix(level=50)
    x[1] = x[0] * np.complex64(0.3 + 0.5j)
    v[:, 1] = v[:, 0] * np.float32(abs(0.3 + 0.5j))
    mix, magnitudes = x.transpose(2, 1, 0).astype(np.complex128), v.transpose(3, 2, 1, 0).astype(np.float64)
    theirs = norbert.wiener(magnitudes, mix, eps=EPSILON).transpose(3, 2, 1, 0)
    assert relative_error(wiener(x, v), theirs) < 1e-6


@pytest.mark.parametrize("iterations", [1, 2])
def test_block_by_block_is_the_same_as_at_once(iterations: int) -> None:
    x, v = random_mix(n_freqs=70, n_frames=1100)
    bounds = [0, 1, 8, 500, 1023, 1100]
    blocks = [slice(start, stop) for start, stop in pairwise(bounds)]
    wiener_filter: WienerFilter | None = None
    for _ in range(iterations):
        statistics = WienerStatistics(3, 2, 70, refined=wiener_filter)
        for block in blocks:
            statistics.update(x[:, :, block], v[..., block])
        wiener_filter = statistics.finish()
    assert wiener_filter is not None
    stems = np.concatenate([wiener_filter.apply(x[:, :, block], v[..., block]) for block in blocks], axis=-1)
    assert relative_error(stems, wiener(x, v, iterations=iterations)) < 1e-6


def test_result_does_not_depend_on_the_number_of_threads() -> None:
    x, v = random_mix(n_freqs=200, n_frames=600)
    np.testing.assert_array_equal(wiener(x, v, workers=3), wiener(x, v, workers=1))


def test_missing_high_frequencies_are_silent_stems() -> None:
    x, v = random_mix(n_freqs=60)
    x[:, 50] *= 30  # the loudest frequency is one without stems; the scale must still be the mix's
    v[:, :, 40:] = 0
    assert relative_error(wiener(x, v[:, :, :40]), wiener(x, v)) < 1e-6
    assert not wiener(x, v)[:, :, 40:].any()


def test_silence_gives_silence() -> None:
    x, v = np.zeros((2, 33, 20), np.complex64), np.zeros((4, 2, 33, 20), np.float32)
    assert not wiener(x, v).any()
    assert not wiener(x, v + 1).any()
    noise, _ = random_mix(n_freqs=33, n_frames=20)
    assert not wiener(noise, v).any()


def test_silent_frames_stay_silent_beside_loud_ones() -> None:
    x, v = random_mix()
    x[:, :, 10:20] = 0
    stems = wiener(x, v)
    assert not stems[..., 10:20].any()
    assert np.isfinite(stems).all()


def test_no_frames() -> None:
    assert wiener(np.zeros((2, 5, 0), np.complex64), np.zeros((3, 2, 5, 0), np.float32)).shape == (3, 2, 5, 0)


def test_a_single_stem_is_the_mix() -> None:
    x, v = random_mix(n_stems=1, level=500)
    assert relative_error(wiener(x, v)[0], x) < 1e-2


def test_stems_add_up_to_the_mix_but_for_the_regularisation() -> None:
    x, v = random_mix(n_stems=4, n_frames=200)
    stems = wiener(x, v)
    # What is missing is √ε (Σ v R + √ε I)⁻¹ x: next to nothing where there is energy, and never more than x.
    assert relative_error(stems.sum(axis=0), x) < 0.02
    missing = np.linalg.norm(stems.sum(axis=0) - x, axis=0)
    assert (missing <= np.linalg.norm(x, axis=0) * (1 + 1e-4)).all()


def test_directions_separate_what_magnitudes_cannot() -> None:
    rng = np.random.default_rng(3)
    sources = rng.gamma(0.2, 30, (2, 20, 400)) * np.exp(2j * np.pi * rng.random((2, 20, 400)))
    images = np.einsum("jfn,cj->jcfn", sources, np.array([[1, 0.2], [0.1, 1]])).astype(np.complex64)
    blurred = np.abs(images) + 0.3 * np.abs(images[::-1])
    x = images.sum(axis=0)

    def error(iterations: int) -> float:
        return relative_error(wiener(x, blurred.astype(np.float32), iterations=iterations), images)

    assert error(1) < 0.8 * error(0)


def test_is_homogeneous_once_the_mix_is_loud() -> None:
    x, v = random_mix(level=50)
    assert relative_error(wiener(8 * x, 8 * v), 8 * wiener(x, v)) < 1e-4


@pytest.mark.parametrize("n_channels", [1, 2, 3])
@pytest.mark.parametrize("level", [1e-30, 1e-10, 1e10, 1e25])
def test_any_level_is_finite(level: float, n_channels: int) -> None:
    x, v = random_mix(level=1, n_channels=n_channels)
    stems = wiener(x * np.float32(level), v * np.float32(level), iterations=2)
    assert np.isfinite(stems).all()
    assert np.abs(stems).max() <= 3 * np.abs(x).max() * level


def test_arguments_are_left_alone() -> None:
    x, v = random_mix()
    x_before, v_before = x.copy(), v.copy()
    wiener(x, v, iterations=2)
    np.testing.assert_array_equal(x, x_before)
    np.testing.assert_array_equal(v, v_before)


@pytest.mark.parametrize(
    ("x_shape", "v_shape"),
    [
        ((2, 9, 5), (3, 2, 9, 4)),
        ((2, 9, 5), (3, 1, 9, 5)),
        ((2, 8, 5), (3, 2, 9, 5)),
        ((9, 5), (3, 2, 9, 5)),
    ],
)
def test_shapes_that_do_not_fit(x_shape: tuple[int, ...], v_shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="do not fit"):
        wiener(np.zeros(x_shape, np.complex64), np.zeros(v_shape, np.float32))


def test_other_misuse() -> None:
    x, v = random_mix()
    with pytest.raises(UsageError, match="iterations must be >= 0"):
        wiener(x, v, iterations=-1)
    statistics = WienerStatistics(3, 2, 45)
    statistics.update(x, v)
    with pytest.raises(UsageError, match="do not fit"):
        statistics.update(x, v[:2])
    with pytest.raises(UsageError, match="filter to refine"):
        WienerStatistics(2, 2, 45, refined=statistics.finish())
