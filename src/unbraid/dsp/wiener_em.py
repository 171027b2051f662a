"""Steps of expectation-maximisation for a multichannel Wiener filter, and the filter for one excerpt of a track.

`unbraid.dsp.wiener` has the equations: powers v_j, spatial covariances R_j, and a new estimate from the mix x. With
C = Σ_k v_k R_k + δI, two channels need no matrix inversion:

    y_j = v_j / det C · (δ R_j + Σ_k v_k R_j adj R_k) x,     det C = δ² + δ Σ_k v_k tr R_k + Σ_kl v_k v_l M_kl,

where R_j adj R_k and M_kl = (a_k d_l + d_k a_l − 2 Re b_k b_l*) / 2 ≥ 0 are known per frequency in float64. All is
then products of small real matrices with rows of frames, and sums of terms ≥ 0: float32 is enough even where a stem
sounds from one direction only and C is all but singular.

The frames of an excerpt are taken together and for themselves, as Open-Unmix and Hybrid Demucs do with every 300.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from unbraid.datatypes import ComplexArray, FloatArray
from unbraid.errors import UsageError

__all__ = ["Step", "covariance_sums", "em_step", "planes", "wiener_excerpt"]

# (mix, estimate) -> estimate, of the shapes that `em_step` states.
Step: TypeAlias = Callable[[FloatArray, FloatArray], FloatArray]

# Open-Unmix's constant (filtering.py of version 1.3, eps); δ is its root.
EPSILON = 1e-10

# Frequencies worked on at once: what is in flight stays in the cache (four stems, 300 frames: 0.6 MB an array).
_CHUNK_FREQS = 32


def wiener_excerpt(
    x: ComplexArray, v: FloatArray, *, iterations: int, softmask: bool = False, residual: bool = False
) -> ComplexArray:
    """Separate an excerpt, with the conventions of Open-Unmix.

    The estimates to start from are the magnitudes with the phase of the mix; EM then sees them and the mix divided by
    s = max(1, max|x| / 10). Where the mix is 0, so is the residual (Open-Unmix takes 1 for a mix of 0 there).

    x : ndarray [shape=(channel, freq, frame), complex64], the mix
    v : ndarray [shape=(stem, channel or 1, freq, frame), float32], magnitudes of the stems
    iterations : of expectation-maximisation; 0 returns the estimates to start from
    softmask : start from the mix times each stem's share of the magnitudes, v_j / (ε + Σ_k v_k)
    residual : what those estimates leave of the mix is one more stem

    Returns an ndarray [shape=(stem, channel, freq, frame), complex64].
    Raises UsageError where the shapes do not fit each other.
    """
    n_channels, n_freqs, n_frames = x.shape
    if v.ndim != 4 or v.shape[1] not in (1, n_channels) or v.shape[2:] != (n_freqs, n_frames):
        raise UsageError(f"mix of shape {x.shape} and magnitudes of shape {v.shape} do not fit each other")
    scale = np.float32(max(1.0, float(np.abs(x).max(initial=0.0)) / 10.0) if iterations else 1.0)
    stems = np.empty((len(v) + residual, *x.shape), np.complex64)
    for start in range(0, n_freqs, _CHUNK_FREQS):
        freqs = slice(start, start + _CHUNK_FREQS)
        mix = planes(x[:, freqs])
        estimate = _estimate(mix, v[:, :, freqs], softmask=softmask, residual=residual)
        mix /= scale
        estimate /= scale
        for _ in range(iterations):
            estimate = em_step(_covariances(estimate), EPSILON**0.5)(mix, estimate)
        np.multiply(estimate[:, :, 0].transpose(1, 2, 0, 3), scale, out=stems.real[:, :, freqs])
        np.multiply(estimate[:, :, 1].transpose(1, 2, 0, 3), scale, out=stems.imag[:, :, freqs])
    return stems


def _estimate(mix: FloatArray, v: FloatArray, *, softmask: bool, residual: bool) -> FloatArray:
    """Return what EM starts from [shape=(freq, stem, 2, channel, frame)].

    mix : ndarray [shape=(freq, 2, channel, frame)]
    v : ndarray [shape=(stem, channel or 1, freq, frame)]
    """
    if softmask:
        total: FloatArray = v.sum(axis=0)
        unit, v = mix, v / (total + np.float32(EPSILON))
    else:
        magnitude = np.hypot(mix[:, 0], mix[:, 1])
        silent = magnitude == 0
        magnitude[silent] = 1
        unit = np.divide(mix, magnitude[:, None], dtype=np.float32)
        unit[:, 0][silent] = 1  # a phase of 0
    estimate: FloatArray = v.transpose(2, 0, 1, 3)[:, :, None] * unit[:, None]
    if residual:
        estimate = np.concatenate([estimate, mix[:, None] - estimate.sum(axis=1, keepdims=True)], axis=1)
    return estimate


def _covariances(estimate: FloatArray) -> NDArray[np.complex128]:
    """Return R_j = Σ_t y yᴴ / (ε + Σ_t v) [shape=(stem, freq, channel, channel)]."""
    sums = covariance_sums(estimate)
    powers = np.trace(sums, axis1=-2, axis2=-1).real / estimate.shape[3]
    covariances: NDArray[np.complex128] = sums / (EPSILON + powers)[..., None, None]
    return covariances


def em_step(covariances: NDArray[np.complex128], delta: float) -> Step:
    """Return one iteration, ready for some frequencies: a function of the mix and the present estimate.

    covariances : ndarray [shape=(stem, freq, channel, channel), complex128], R_j
    delta : δ, what is added to the diagonal of C

    The function takes the mix [shape=(freq, 2, channel, frame), float32] and the estimate
    [shape=(freq, stem, 2, channel, frame), float32], real before imaginary parts, and returns the next estimate.
    """
    return (_stereo_step if covariances.shape[-1] == 2 else _general_step)(covariances, delta)


def planes(x: ComplexArray) -> FloatArray:
    """Turn (channel, freq, frame) complex64 into (freq, 2, channel, frame) float32: real parts, imaginary parts."""
    n_channels, n_freqs, n_frames = x.shape
    parts = np.empty((n_freqs, 2, n_channels, n_frames), np.float32)
    parts[:, 0] = x.real.swapaxes(0, 1)
    parts[:, 1] = x.imag.swapaxes(0, 1)
    return parts


def covariance_sums(estimate: FloatArray) -> NDArray[np.complex128]:
    """Return Σ_t y yᴴ [shape=(stem, freq, channel, channel), complex128] of (freq, stem, 2, channel, frame).

    In float64: the determinant of a stem from one direction is the difference of products that are all but equal.
    """
    n_freqs, n_stems, _, n_channels, n_frames = estimate.shape
    rows = estimate.reshape(n_freqs, n_stems, 2 * n_channels, n_frames).astype(np.float64)
    gram = np.matmul(rows, rows.swapaxes(-1, -2))
    real, imag = slice(0, n_channels), slice(n_channels, None)
    sums = gram[..., real, real] + gram[..., imag, imag] + 1j * (gram[..., imag, real] - gram[..., real, imag])
    by_stem: NDArray[np.complex128] = sums.swapaxes(0, 1)
    return by_stem


def _stereo_step(covariances: NDArray[np.complex128], delta: float) -> Step:
    """Return one iteration for two channels, by the products of the module's docstring.

    covariances : ndarray [shape=(stem, freq, 2, 2), complex128]
    """
    n_stems, n_freqs = covariances.shape[:2]
    r = covariances.swapaxes(0, 1)
    adjugate = np.trace(r, axis1=-2, axis2=-1)[..., None, None] * np.eye(2) - r
    # M_kl = tr(R_k adj R_l) / 2: the product's trace, written out as a sum of elementwise products.
    mixed = np.maximum(np.einsum("fkab,flba->fkl", r, adjugate).real / 2, 0).astype(np.float32)
    traces = (delta * np.trace(r, axis1=-2, axis2=-1).real)[..., None].astype(np.float32)

    # numerator[f, (stem, part, channel), (stem or mix, part, channel)] on the rows [v_1 x, …, v_J x, x]
    products = np.concatenate([r[:, :, None] @ adjugate[:, None], delta * r[:, :, None]], axis=2)
    numerator = np.empty((n_freqs, n_stems, 2, 2, n_stems + 1, 2, 2), np.float32)
    by_rows = products.transpose(0, 1, 3, 2, 4)
    numerator[:, :, 0, :, :, 0] = numerator[:, :, 1, :, :, 1] = by_rows.real
    numerator[:, :, 1, :, :, 0] = by_rows.imag
    numerator[:, :, 0, :, :, 1] = -by_rows.imag
    numerator = numerator.reshape(n_freqs, n_stems * 4, (n_stems + 1) * 4)

    def step(mix: FloatArray, estimate: FloatArray) -> FloatArray:
        n_frames = mix.shape[-1]
        power = _powers(estimate)
        determinant = np.matmul(mixed, power)
        determinant += traces
        determinant *= power
        total = determinant.sum(axis=1, keepdims=True)
        total += np.float32(delta**2)  # δ²
        gain = power * np.reciprocal(total, out=total)
        rows = np.empty((n_freqs, n_stems + 1, 2, 2, n_frames), np.float32)
        np.multiply(power[:, :, None, None], mix[:, None], out=rows[:, :-1])
        rows[:, -1] = mix
        product = np.matmul(numerator, rows.reshape(n_freqs, -1, n_frames))
        refined: FloatArray = product.reshape(estimate.shape)
        refined *= gain[:, :, None, None]
        return refined

    return step


def _general_step(covariances: NDArray[np.complex128], delta: float) -> Step:
    """Return one iteration for any number of channels: a linear system for every frequency and frame, in complex128.

    covariances : ndarray [shape=(stem, freq, channel, channel), complex128]
    """
    n_channels = covariances.shape[-1]
    identity = delta * np.eye(n_channels)

    def step(mix: FloatArray, estimate: FloatArray) -> FloatArray:
        power = _powers(estimate).astype(np.float64)
        model = np.einsum("fjt,jfab->ftab", power, covariances) + identity
        x = (mix[:, 0] + 1j * mix[:, 1]).swapaxes(-1, -2)[..., None]
        whitened = np.linalg.solve(model, x)[..., 0]
        refined = np.einsum("fjt,jfab,ftb->fjat", power, covariances, whitened)
        return np.stack([refined.real, refined.imag], axis=2).astype(np.float32)

    return step


def _powers(estimate: FloatArray) -> FloatArray:
    """Return the mean of |y|² over the channels [shape=(freq, stem, frame)] of (freq, stem, 2, channel, frame)."""
    powers: FloatArray = np.square(estimate).sum(axis=(2, 3))
    powers /= np.float32(estimate.shape[3])
    return powers
