"""Ratio masks: how the networks' estimates of the stems share out the mix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unbraid.datatypes import ComplexArray, FloatArray

__all__ = ["apply_masks", "ratio_masks"]

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


def apply_masks(
    spec: ComplexArray, masks: FloatArray, groups: Sequence[Sequence[int]], *, extension: str
) -> ComplexArray:
    """Masked spectrograms of groups of stems, with the masks extended from F bins to all of them.

    spec : ndarray [shape=(channel, freq, frame), complex64], of the mix
    masks : ndarray [shape=(stem, channel, F, frame), float32], F ≤ freq
    groups : the stems that are added up in each output, e.g. [[0], [1, 2, 3]]
    extension : "zeros" silences the bins from F on, "average" gives each frame's mean mask to them
    returns : ndarray [shape=(len(groups), channel, freq, frame), complex64]
    """
    if extension not in ("zeros", "average"):
        raise ValueError(f'extension must be "zeros" or "average", got {extension!r}')
    rows = spec.swapaxes(-1, -2)
    n_bins = masks.shape[-2]
    out = np.empty((len(groups), *rows.shape), np.complex64)
    for target, stems in zip(out, groups, strict=True):
        mask = masks[stems[0]] if len(stems) == 1 else masks[list(stems)].sum(axis=0)
        mask_rows = mask.swapaxes(-1, -2)
        np.multiply(rows[..., :n_bins], mask_rows, out=target[..., :n_bins])
        if extension == "average":
            np.multiply(rows[..., n_bins:], mask_rows.mean(axis=-1, keepdims=True), out=target[..., n_bins:])
        else:
            target[..., n_bins:] = 0
    return out.swapaxes(-1, -2)
