"""Scores of a whole track, summed up block by block.

All channels of a stem are one vector: s_j the true stem, ŝ_j its estimate, x the mix, ‖·‖² the energy (the sum of
squares over channels and time). P_sj is the orthogonal projection on s_j, P_s that on the span of all true stems.

=============  ====  ======================================================================================
name           unit  definition and source
=============  ====  ======================================================================================
uSDR           dB    10 log10((‖s‖² + δ) / (‖s − ŝ‖² + δ)), δ = 1e-7: the score of the Music Demixing Challenges
                     2021 (Mitsufuji et al., arXiv:2108.13559; δ is that of the starter kit's ``sdr``) and 2023;
                     "nSDR" in Demucs's code, "utterance-level SDR" in Luo & Yu, arXiv:2209.15174
uSDRi          dB    uSDR less that of the mix taken as the estimate
SI-SDR         dB    10 log10(‖P_sj ŝ‖² / ‖ŝ − P_sj ŝ‖²), whatever the estimate's gain (Le Roux et al., ICASSP 2019,
                     eq. 3); the very number is the "simple SDR" of Demucs, since its e_interf + e_artif is
                     ŝ − P_sj ŝ (Défossez et al., arXiv:1909.01174, eq. 2)
SI-SDRi        dB    SI-SDR less that of the mix taken as the estimate
simple SIR     dB    10 log10(‖P_sj ŝ‖² / ‖P_s ŝ − P_sj ŝ‖²): other stems in the estimate (same paper, appendix B)
simple SAR     dB    10 log10(‖P_s ŝ‖² / ‖ŝ − P_s ŝ‖²): what is in no true stem (same paper, appendix B)
L1             -     mean of |s − ŝ| over channels and time: the loss that Demucs is trained with
bleed          dB    10 log10(‖Σ_k≠j a_k s_k‖² / ‖a_j s_j‖²), where P_s ŝ_j = Σ_k a_k s_k, one gain a stem
bleed:<stem>   dB    10 log10(‖a_k s_k‖² / ‖a_j s_j‖²) of one other stem k
=============  ====  ======================================================================================

A silent true stem has an uSDR, which δ defines, and an L1; its other scores are NaN, as is the bleed of a silent stem
into any other. A silent estimate has an uSDR of 0 dB and an SI-SDR of −inf; its other ratios of projections are NaN.
Where true stems are linearly dependent (two are the same), the parts a_k s_k are those of least energy in all. Samples
that are NaN or infinite make NaN of the scores that they enter.

Everything follows from sums of products in double precision. Those of the errors e = ŝ − s are summed up themselves,
not found as differences of sums: scores well above 100 dB are right. What a projection leaves of an error is such a
difference, and counts as nothing below 1e-13 of it: an estimate wrong by a gain alone has an SI-SDR of +inf.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from unbraid.datatypes import FloatArray
from unbraid.errors import UsageError

__all__ = ["SCORES", "ScoreKind", "ScoreSums", "usdr"]


@dataclass(frozen=True)
class ScoreKind:
    """What a score is: its unit ("dB", or "" where it has none), which way is better, and a line for the reader."""

    unit: str
    higher_is_better: bool
    meaning: str


SCORES: Mapping[str, ScoreKind] = MappingProxyType(
    {
        "uSDR": ScoreKind("dB", True, "energy of the stem over that of the error, whole track"),
        "uSDRi": ScoreKind("dB", True, "uSDR less that of the mix"),
        "SI-SDR": ScoreKind("dB", True, "the same whatever the gain of the estimate"),
        "SI-SDRi": ScoreKind("dB", True, "SI-SDR less that of the mix"),
        "simple SIR": ScoreKind("dB", True, "the stem in the estimate over other stems in it"),
        "simple SAR": ScoreKind("dB", True, "true stems in the estimate over what is in none of them"),
        "L1": ScoreKind("", False, "mean absolute error"),
        "bleed": ScoreKind("dB", False, "other stems in the estimate, relative to the stem itself"),
    }
)
"""The scores in order of printing; "bleed:vocals", … come after "bleed" and are of its kind."""

# δ of the Music Demixing Challenges (docs/LOCAL_RUN.md of AIcrowd/music-demixing-challenge-starter-kit).
_DELTA = 1e-7

# Rounding of a sum in double precision, relative to it, with a margin.
_ROUNDING = 1e-13

# Directions in which the unit vectors of the true stems reach less than this (its square root) count as none.
_LEAST_EIGENVALUE = 1e-12

_SAMPLES_AT_ONCE = 1 << 14  # 17 rows of two channels in float64: 4 MB

_Array64 = NDArray[np.float64]


class ScoreSums:
    """The sums that the scores of one track are made of, fed with blocks of any length.

    stems : names, in the order of the arrays' first axis
    n_channels : of the track
    """

    def __init__(self, stems: Sequence[str], n_channels: int) -> None:
        self._stems = tuple(stems)
        self._n_channels = n_channels
        n_stems = len(self._stems)
        # Products of all rows with each other: true stems s, estimates ŝ, errors ŝ − s, errors of the mix x − s.
        self._gram = np.zeros((4, n_stems, 4, n_stems))
        self._absolute_errors = np.zeros(n_stems)
        self._n_samples = 0

    def add(self, references: FloatArray, estimates: FloatArray, mix: FloatArray) -> None:
        """Take up the next block.

        references, estimates : ndarray [shape=(stem, channel, time), float32]
        mix : ndarray [shape=(channel, time), float32]

        Raises UsageError where the shapes do not fit each other or the track.
        """
        shape = (len(self._stems), self._n_channels, mix.shape[-1])
        if not (references.shape == estimates.shape == shape and mix.shape == shape[1:]):
            raise UsageError(
                f"true stems of shape {references.shape}, estimates of shape {estimates.shape} and a mix of shape "
                f"{mix.shape} do not fit {shape[0]} stems of {shape[1]} channels"
            )
        for start in range(0, shape[2], _SAMPLES_AT_ONCE):
            part = slice(start, start + _SAMPLES_AT_ONCE)
            with np.errstate(invalid="ignore"):  # infinite samples
                self._add(references[..., part], estimates[..., part], mix[..., part])
        self._n_samples += shape[2]

    def _add(self, references: FloatArray, estimates: FloatArray, mix: FloatArray) -> None:
        """Add the products of a short block."""
        n_stems = len(self._stems)
        rows = np.empty((4, *references.shape))
        rows[0], rows[1] = references, estimates
        np.subtract(rows[1], rows[0], out=rows[2])
        np.subtract(mix, rows[0], out=rows[3])
        self._absolute_errors += np.abs(rows[2]).sum(axis=(1, 2))
        flat = rows.reshape(4 * n_stems, -1)
        self._gram += (flat @ flat.T).reshape(self._gram.shape)

    def scores(self) -> dict[str, dict[str, float]]:
        """Score of all that was added: stem → name → value; the names are those of the module's docstring, in order."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return {stem: self._scores_of(index) for index, stem in enumerate(self._stems)}

    def _scores_of(self, j: int) -> dict[str, float]:
        """Scores of stem number `j`."""
        gram = self._gram
        energy, estimate, error, mix_error = (gram[row, j, row, j] for row in range(4))
        found = _usdr(energy, error)
        n_values = np.float64(self._n_samples * self._n_channels)
        scores = dict.fromkeys(SCORES, float("nan"))
        scores |= {"uSDR": found, "L1": float(self._absolute_errors[j] / n_values)}
        others = [k for k in range(len(self._stems)) if k != j]
        if energy == 0:
            return scores | {f"bleed:{self._stems[k]}": float("nan") for k in others}

        # ‖P_sj y‖² and ‖y − P_sj y‖², for the estimate and for the mix: e and y differ by s_j, which P_sj leaves alone.
        target, own_error = gram[0, j, 1, j] ** 2 / energy, gram[0, j, 2, j] ** 2 / energy
        si_sdr = _decibels(target / _left(error, own_error)) if estimate != 0 else float("-inf")
        mix_target, mix_own_error = (energy + gram[0, j, 3, j]) ** 2 / energy, gram[0, j, 3, j] ** 2 / energy
        mix_si_sdr = _decibels(mix_target / _left(mix_error, mix_own_error))
        scores |= {
            "uSDRi": found - _usdr(energy, mix_error),
            "SI-SDR": si_sdr,
            "SI-SDRi": si_sdr - mix_si_sdr,
        }
        if estimate != 0:
            parts, projected = self._parts(j)
            interference = _left(projected, own_error)
            scores["simple SIR"] = _decibels(target / interference)
            scores["simple SAR"] = _decibels((target + interference) / _left(error, projected))
            scores["bleed"] = _decibels(parts[others][:, others].sum().clip(0) / parts[j, j])
        else:
            parts = np.full_like(gram[0, :, 0], np.nan)
        for k in others:
            level = _decibels(parts[k, k] / parts[j, j]) if gram[0, k, 0, k] > 0 else float("nan")
            scores[f"bleed:{self._stems[k]}"] = level
        return scores

    def _parts(self, j: int) -> tuple[_Array64, float]:
        """What estimate number `j` has of each true stem, and ‖P_s e‖² of its error e.

        Returns the inner products of the parts a_k s_k with each other [shape=(stem, stem)].
        """
        products = self._gram[0, :, 0, :]
        if not np.isfinite(products).all():
            return np.full_like(products, np.nan), np.nan
        norms = np.sqrt(np.diagonal(products))
        scale = np.where(norms > 0, norms, 1.0)
        cosines = products / np.outer(scale, scale)
        values, vectors = np.linalg.eigh(cosines)
        spans = values > _LEAST_EIGENVALUE
        error = vectors.T @ (self._gram[0, :, 2, j] / scale)
        projected = float(np.sum(error[spans] ** 2 / values[spans]))
        # a_k ‖s_k‖, as P_s ŝ_j = s_j + P_s e; of dependent stems the shortest such vector
        amounts = vectors[:, spans] @ (error[spans] / values[spans])
        amounts[j] += norms[j]
        amounts -= vectors[:, ~spans] @ (vectors[:, ~spans].T @ amounts)
        return cosines * np.outer(amounts, amounts), projected


def usdr(reference: FloatArray, estimate: FloatArray) -> float:
    """Score a stem that is in memory: uSDR of the module's docstring, in dB.

    reference, estimate : ndarray [shape=(channel, time), float32]

    No filter or gain is allowed for: a wrong level or delay counts as distortion. An exact estimate scores
    10 log10(‖s‖²/δ + 1), which is 0 for a silent one of a silent stem.
    Raises UsageError if the shapes differ.
    """
    if reference.shape != estimate.shape:
        raise UsageError(f"reference and estimate must have one shape, got {reference.shape} and {estimate.shape}")
    energy = error = 0.0
    for start in range(0, reference.shape[-1], _SAMPLES_AT_ONCE):
        part = slice(start, start + _SAMPLES_AT_ONCE)
        signal = reference[..., part].astype(np.float64)
        energy += float(np.square(signal).sum())
        error += float(np.square(signal - estimate[..., part]).sum())
    return _usdr(energy, error)


def _usdr(energy: float, error: float) -> float:
    """Return the uSDR from ‖s‖² and ‖s − ŝ‖²."""
    return _decibels((energy + _DELTA) / (error + _DELTA))


def _left(whole: float, part: float) -> np.float64:
    """Return what a part leaves of the whole, 0 where that is no more than rounding."""
    left = whole - part
    return np.float64(0.0 if left <= _ROUNDING * whole else left)


def _decibels(ratio: float) -> float:
    """10 log10; −inf for 0."""
    return float(10.0 * np.log10(ratio))
