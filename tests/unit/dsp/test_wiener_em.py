"""The filter for an excerpt, beside its equations written out, and beside Open-Unmix where that is installed."""

import importlib.util
import sys
import types
from typing import Any

import numpy as np
import pytest

from unbraid.dsp.wiener_em import wiener_excerpt
from unbraid.errors import UsageError

EPSILON = 1e-10
Array = np.ndarray[Any, Any]


def relative_error(ours: Array, theirs: Array) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def random_excerpt(
    *, n_stems: int = 3, n_channels: int = 2, n_freqs: int = 45, n_frames: int = 30, level: float = 20.0, seed: int = 0
) -> tuple[Array, Array]:
    """Stems from different directions, sparse in frequency and time; the mix and the noisy magnitudes of the stems."""
    rng = np.random.default_rng(seed)
    shape = (2, n_stems, n_channels, n_freqs, n_frames)
    direction = rng.standard_normal((2, n_stems, n_channels, n_freqs, 1)) + 0.1 * rng.standard_normal(shape)
    sound = rng.standard_normal((2, n_stems, 1, n_freqs, n_frames)) * rng.gamma(0.3, 1.0, (n_freqs, n_frames))
    stems = level * (direction[0] + 1j * direction[1]) * (sound[0] + 1j * sound[1])
    v = np.abs(stems) * np.exp(0.3 * rng.standard_normal(stems.shape))
    return stems.sum(axis=0).astype(np.complex64), v.astype(np.float32)


def in_float64(x: Array, v: Array, *, iterations: int, softmask: bool, residual: bool) -> Array:
    """The equations as they stand, one frequency and frame at a time."""
    x, v = x.astype(np.complex128), np.broadcast_to(v.astype(np.float64), (len(v), *x.shape))
    y = v / (v.sum(axis=0) + EPSILON) * x if softmask else v * np.exp(1j * np.angle(x))
    if residual:
        y = np.concatenate([y, (x - y.sum(axis=0))[None]])
    scale = max(1.0, np.abs(x).max() / 10)
    x, y = x / scale, y / scale
    n_stems, n_channels, n_freqs, n_frames = y.shape
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
                whitened = np.linalg.solve(model, x[:, f, t])
                for j in range(n_stems):
                    refined[j, :, f, t] = power[j, f, t] * spatial[j] @ whitened
        y = refined
    return y * scale


@pytest.mark.parametrize("n_channels", [1, 2])
@pytest.mark.parametrize("iterations", [0, 1, 2])
@pytest.mark.parametrize(("softmask", "residual"), [(False, False), (True, False), (False, True)])
def test_is_the_equations(n_channels: int, iterations: int, softmask: bool, residual: bool) -> None:
    x, v = random_excerpt(n_channels=n_channels, n_freqs=9, n_frames=12)
    options: dict[str, Any] = {"iterations": iterations, "softmask": softmask, "residual": residual}
    before = x.copy(), v.copy()
    stems = wiener_excerpt(x, v, **options)
    assert stems.shape == (3 + residual, *x.shape)
    assert relative_error(stems, in_float64(x, v, **options)) < 1e-5
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(v, before[1])


@pytest.mark.parametrize("iterations", [0, 1])
def test_one_magnitude_for_both_channels(iterations: int) -> None:
    x, v = random_excerpt(n_freqs=9, n_frames=12)
    ours = wiener_excerpt(x, v[:, :1], iterations=iterations)
    assert relative_error(ours, in_float64(x, v[:, :1], iterations=iterations, softmask=False, residual=False)) < 1e-5


def test_sounds_from_one_direction_only() -> None:
    """Where the covariance of the mix is all but singular, float32 has to be used with care."""
    x, v = random_excerpt(n_freqs=9, n_frames=12, level=50)
    x[1] = x[0] * np.complex64(0.3 + 0.5j)
    v[:, 1] = v[:, 0] * np.float32(abs(0.3 + 0.5j))
    ours = wiener_excerpt(x, v, iterations=1)
    assert relative_error(ours, in_float64(x, v, iterations=1, softmask=False, residual=False)) < 1e-4


@pytest.mark.parametrize("iterations", [0, 1])
def test_silence_stays_silent_and_disturbs_nothing(iterations: int) -> None:
    x, v = random_excerpt(n_freqs=9, n_frames=12)
    x[:, :, :5] = 0
    v[:, :, :, :5] = 0
    stems = wiener_excerpt(x, v, iterations=iterations, residual=True)
    assert not stems[..., :5].any()
    alone = wiener_excerpt(x[..., 5:], v[..., 5:], iterations=iterations, residual=True)
    assert relative_error(stems[..., 5:], alone) < 1e-6
    assert not wiener_excerpt(np.zeros_like(x), np.zeros_like(v), iterations=iterations, residual=True).any()


def test_what_does_not_fit() -> None:
    x, v = random_excerpt()
    for wrong in (v[0], v[..., 1:], v[:, :, 1:], np.concatenate([v, v], axis=1)):
        with pytest.raises(UsageError, match="do not fit each other"):
            wiener_excerpt(x, wrong, iterations=1)


@pytest.mark.parity
@pytest.mark.parametrize("n_channels", [1, 2])
@pytest.mark.parametrize("iterations", [0, 1, 3])
@pytest.mark.parametrize("level", [0.01, 20.0])
@pytest.mark.parametrize(("softmask", "residual"), [(False, False), (True, False), (False, True)])
def test_is_what_open_unmix_computes(
    n_channels: int,
    iterations: int,
    level: float,
    softmask: bool,
    residual: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch")
    if importlib.util.find_spec("openunmix") is None:
        pytest.skip("Open-Unmix is not installed: pip install openunmix")
    if importlib.util.find_spec("torchaudio") is None:  # which the filter does not use
        monkeypatch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))
    from openunmix.filtering import wiener

    x, v = random_excerpt(n_channels=n_channels, level=level)
    mix = torch.view_as_real(torch.from_numpy(x.transpose(2, 1, 0).astype(np.complex128)))
    magnitudes = torch.from_numpy(v.transpose(3, 2, 1, 0).astype(np.float64))
    theirs = wiener(magnitudes, mix, iterations, softmask=softmask, residual=residual).numpy()
    ours = wiener_excerpt(x, v, iterations=iterations, softmask=softmask, residual=residual)
    assert relative_error(ours, (theirs[:, :, :, 0] + 1j * theirs[:, :, :, 1]).transpose(3, 2, 1, 0)) < 1e-5
