"""How good an estimate is: the energy-ratio SDR, and where it lies between the mix and the ratio-mask oracle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unbraid.datatypes import FloatArray

__all__ = ["StemScore", "energy_sdr", "irm2_oracle", "oracle_share", "score_stems"]

_FRAMES_AT_ONCE = 256  # bounds the memory of the oracle, whatever the length of the song


@dataclass(frozen=True)
class StemScore:
    """Energy-ratio SDR, in dB, of one stem: of the mix taken as the estimate, of the model, of the IRM2 oracle."""

    mix_sdr: float
    sdr: float
    oracle_sdr: float

    @property
    def share(self) -> float:
        """Oracle share."""
        return oracle_share(self.sdr, self.mix_sdr, self.oracle_sdr)


def score_stems(references: Mapping[str, FloatArray], estimates: Mapping[str, FloatArray]) -> dict[str, StemScore]:
    """Score the estimates of all stems of a song whose mix is the sum of the references.

    Parameters
    ----------
    references : mapping of str to ndarray [shape=(channel, time)]
        Every true stem; a silent one is all zeros and gets no score.
    estimates : mapping of str to ndarray [shape=(channel, time)]
        The separated stems, at least those of `references` that sound.

    Returns
    -------
    dict of str to StemScore
        Of the stems that sound.
    """
    names = list(references)
    stems = np.stack([references[name] for name in names])
    mix = stems.sum(axis=0)
    oracle = irm2_oracle(stems)
    return {
        name: StemScore(
            energy_sdr(stems[index], mix),
            energy_sdr(stems[index], estimates[name]),
            energy_sdr(stems[index], oracle[index]),
        )
        for index, name in enumerate(names)
        if stems[index].any()
    }


def energy_sdr(reference: FloatArray, estimate: FloatArray) -> float:
    """Signal-to-distortion ratio as a ratio of energies over all channels and the whole length.

    SDR = 10 log10( Σ s² / Σ (s − ŝ)² ), the global score of the Music Demixing challenges (no filter is allowed for,
    so a wrong level or delay counts as distortion).

    Parameters
    ----------
    reference : ndarray [shape=(channel, time)]
        The true stem s.
    estimate : ndarray [shape=(channel, time)]
        The separated stem ŝ.

    Returns
    -------
    float
        In dB; +inf for an exact estimate, −inf for a silent reference and an estimate that is not,
        NaN where both are silent (nothing was asked, nothing was answered).

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if reference.shape != estimate.shape:
        raise ValueError(f"reference and estimate must have one shape, got {reference.shape} and {estimate.shape}")
    signal = _energy(reference)
    error = _energy(np.subtract(reference, estimate, dtype=np.float32))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(10.0 * np.log10(np.float64(signal) / np.float64(error)))


def oracle_share(sdr: float, mix_sdr: float, oracle_sdr: float) -> float:
    """How far a score has come on the way from the untouched mix (0) to the oracle (1).

    Parameters
    ----------
    sdr, mix_sdr, oracle_sdr : float
        Of the estimate, of the mix taken as the estimate, and of the oracle, in dB.
    """
    return (sdr - mix_sdr) / (oracle_sdr - mix_sdr)


def irm2_oracle(stems: FloatArray, *, n_fft: int = 4096, hop: int = 1024) -> FloatArray:
    """Separate the sum of the stems with the ideal ratio masks of their own power spectra ("IRM2").

    The mask of stem j is |S_j|² / Σ_k |S_k|², per channel, frequency and frame (Hann window); where every stem is
    silent it is 1 / n_stems. It bounds what real masks on the phase of the mix can reach.

    Parameters
    ----------
    stems : ndarray [shape=(stem, channel, time)]
        The true stems; their sum is the mix.
    n_fft, hop : int
        Frame length and step in samples; `hop` divides `n_fft` at least twice.

    Returns
    -------
    ndarray [shape=(stem, channel, time), float32]
        The estimates; their sum is the mix.
    """
    from scipy import fft

    if n_fft % hop or n_fft < 2 * hop:
        raise ValueError(f"n_fft must be a multiple of hop, at least twofold, got {n_fft} and {hop}")
    n_samples = stems.shape[-1]
    window = (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)
    lead = n_fft - hop  # so that the first sample lies under as many frames as any other
    n_frames = -(-(n_samples + lead) // hop)
    padded = np.pad(stems.astype(np.float32, copy=False), ((0, 0), (0, 0), (lead, n_frames * hop - n_samples)))
    estimates = np.zeros_like(padded)
    for first in range(0, n_frames, _FRAMES_AT_ONCE):
        count = min(_FRAMES_AT_ONCE, n_frames - first)
        start = first * hop
        block = padded[..., start : start + (count - 1) * hop + n_fft]
        frames = np.lib.stride_tricks.sliding_window_view(block, n_fft, axis=-1)[..., ::hop, :]
        spectra = fft.rfft(frames * window, axis=-1)
        power = spectra.real**2 + spectra.imag**2
        total = power.sum(axis=0)
        masks = np.where(total > 0, power / np.where(total > 0, total, 1), np.float32(1 / len(stems)))
        masked = fft.irfft(masks * spectra.sum(axis=0), n_fft, axis=-1) * window
        for index in range(count):
            at = start + index * hop
            estimates[..., at : at + n_fft] += masked[..., index, :]
    # Σ w² over the overlapping frames of a periodic Hann window: 3/8 of their number
    return estimates[..., lead : lead + n_samples] / np.float32(0.375 * n_fft / hop)


def _energy(samples: FloatArray) -> float:
    """Sum of squares in double precision, without a double-precision copy of the samples."""
    return sum(float(np.dot(row.astype(np.float64), row.astype(np.float64))) for row in samples)
