"""Ratio masks: how the networks' estimates of the stems share out the mix."""

from __future__ import annotations

import numpy as np

from unbraid.datatypes import ComplexArray, FloatArray

__all__ = ["apply_mask", "ratio_masks"]

# Spleeter's constant: keeps silent bins at equal shares (model/__init__.py of Spleeter 2.4, EPSILON).
EPSILON = 1e-10


def ratio_masks(estimates: FloatArray, *, exponent: float = 2.0) -> FloatArray:
    """Masks m_s = (v_s^p + ε/S) / (Σ v^p + ε), which add up to 1.

    estimates : ndarray [shape=(stem, …), float32], magnitudes v_s of the S stems
    exponent : p; 1 shares by magnitude, 2 by power
    returns : ndarray [shape=(stem, …), float32]
    """
    n_stems = len(estimates)
    if exponent == 2.0:
        masks = estimates * estimates
    elif exponent == 1.0:
        masks = estimates.copy()
    else:
        masks = estimates ** np.float32(exponent)
    masks += np.float32(EPSILON / n_stems)
    # ε/S is added to every stem first, so the plain sum is Σ v^p + ε.
    total = masks.sum(axis=0)
    np.reciprocal(total, out=total)
    masks *= total
    return masks


def apply_mask(spec: ComplexArray, mask: FloatArray, *, extension: str) -> ComplexArray:
    """Masked spectrogram of one stem, with its mask extended from F bins to all of them.

    spec : ndarray [shape=(channel, freq, frame), complex64], of the mix
    mask : ndarray [shape=(channel, F, frame), float32], F ≤ freq
    extension : "zeros" silences the bins from F on, "average" gives each frame's mean mask to them
    returns : ndarray [shape=(channel, freq, frame), complex64]
    """
    if extension not in ("zeros", "average"):
        raise ValueError(f'extension must be "zeros" or "average", got {extension!r}')
    rows, mask_rows = spec.swapaxes(-1, -2), mask.swapaxes(-1, -2)
    if rows.strides[-1] != rows.itemsize:  # not as `stft` lays it out
        rows = np.ascontiguousarray(rows)
    n_bins = mask_rows.shape[-1]
    out = np.empty(rows.shape, np.complex64)
    np.multiply(rows[..., :n_bins], mask_rows, out=out[..., :n_bins])
    if extension == "average":
        # One number for a whole row: real arithmetic on the real and imaginary parts is twice as fast as complex.
        high, target = rows[..., n_bins:].view(np.float32), out[..., n_bins:].view(np.float32)
        np.multiply(high, mask_rows.mean(axis=-1, keepdims=True), out=target)
    else:
        out[..., n_bins:] = 0
    return out.swapaxes(-1, -2)
