"""BSSEval version 4: SDR, ISR, SIR and SAR of separated images, as museval 0.4.1 defines them.

Each estimate ŝ_j is compared with its projections onto what 512-tap filters can make of the true stem s_j alone (P_j ŝ)
and of all true stems together (P ŝ). The filters are the least-squares ones over the whole track (version 4) or over
each window (version 3, `framewise`). In each window, with norms over channels and time [1, 2]:

    SDR = |s_j|² / |ŝ − s_j|²        ISR = |s_j|² / |P_j ŝ − s_j|²
    SIR = |P_j ŝ|² / |P ŝ − P_j ŝ|²      SAR = |P ŝ|² / |ŝ − P ŝ|²

where s and ŝ are cut out by the window before the filters are applied, so that the filters' tails count. A window in
which the channels of any stem, true or estimated, sum to silence is NaN for every stem.

How it is fast: all correlations of a track come from one set of short FFTs; the normal equations are block-Toeplitz and
solved as such (`unbraid.evaluation.toeplitz`); and the norms are taken in the frequency domain (Parseval), where a
projection is one small matrix product for each frequency. Memory grows with the length of the windows, but not with
that of the track: it is read in pieces, twice.

How exact it is: as museval on stems whose spectrum has a floor, such as 16-bit audio (differences of 10⁻⁹ dB). Where a
band is empty or channels are exact multiples of each other, the normal equations are singular; museval's numbers then
depend on rounding, and change, for example, with the order of the stems.

[1] Vincent, Gribonval, Févotte, "Performance measurement in blind audio source separation", IEEE TASLP 14(4), 2006.
[2] Stöter, Liutkus, Ito, "The 2018 Signal Separation Evaluation Campaign", LVA/ICA 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from unbraid.datatypes import FloatArray
from unbraid.errors import UsageError
from unbraid.evaluation.arrays import Arrays, open_arrays
from unbraid.evaluation.results import ScoreArray
from unbraid.evaluation.toeplitz import solve_block_toeplitz

__all__ = ["BSSScores", "Signals", "bss_eval", "bss_eval_signals"]

# What is worked on together: more is no faster, and takes more memory.
_N_FFT = 1 << 14
_BLOCKS_AT_ONCE = 16  # of the correlations
_SAMPLES_AT_ONCE = 8 * 44100  # of the frames
_EPS = float(np.finfo(np.float64).eps)  # museval adds it to the diagonal of the normal equations

Pair = tuple[FloatArray, FloatArray]


@dataclass(frozen=True, eq=False)
class BSSScores:
    """Scores in dB, each an ndarray [shape=(stem, frame), float64]; NaN for windows in which a stem is silent."""

    sdr: ScoreArray
    isr: ScoreArray
    sir: ScoreArray
    sar: ScoreArray


@dataclass(frozen=True, eq=False)
class Signals:
    """True and estimated stems that can be read in any order.

    n_stems : true ones
    n_channels, n_samples : of each
    read : (start, stop) → references and estimates, each of shape (stem, channel, stop − start)
    n_estimates : estimated ones, of the first true ones; the others only serve to tell interference. None for all
    """

    n_stems: int
    n_channels: int
    n_samples: int
    read: Callable[[int, int], Pair]
    n_estimates: int | None = None

    @property
    def n_scored(self) -> int:
        """How many stems have an estimate."""
        return self.n_stems if self.n_estimates is None else self.n_estimates


def bss_eval(
    references: FloatArray,
    estimates: FloatArray,
    *,
    window: int | None = 44100,
    hop: int | None = 44100,
    framewise: bool = False,
    n_taps: int = 512,
    device: str = "numpy",
) -> BSSScores:
    """Score estimates in memory; see the module's text.

    Parameters
    ----------
    references, estimates : ndarray [shape=(stem, channel, time)]
        The true stems and, in the same order, the estimated ones; not changed.
    window, hop : int or None
        Length and step of the frames in samples; None for one frame of the whole track.
        `frame = 1 + (time − window) // hop`, or one shorter frame where the track is shorter than a window.
    framewise : bool
        Whether each frame has its own filters (BSSEval version 3).
    n_taps : int
        Length of the filters.
    device : str
        "numpy", or a device of PyTorch: "cpu", "cuda"; "mps" has no double precision and is refused.

    Raises
    ------
    UsageError
        If shapes differ or are empty, something is not finite, or a stem is silent from beginning to end (the
        equations would be singular: leave that stem out).
    """
    references, estimates = np.asarray(references), np.asarray(estimates)
    if references.shape != estimates.shape or references.ndim != 3 or not references.size:
        raise UsageError(
            f"references and estimates must have one shape (stem, channel, time), got {references.shape} and "
            f"{estimates.shape}"
        )
    for what, stems in (("reference", references), ("estimate", estimates)):
        if (silent := _silent(stems)).any():
            raise UsageError(f"{what} number {int(np.argmax(silent))} is silent; leave that stem out")
    n_stems, n_channels, n_samples = references.shape

    def read(start: int, stop: int) -> Pair:
        return references[..., start:stop], estimates[..., start:stop]

    signals = Signals(n_stems, n_channels, n_samples, read)
    return bss_eval_signals(
        signals, window=window, hop=hop, framewise=framewise, n_taps=n_taps, arrays=open_arrays(device)
    )


def bss_eval_signals(
    signals: Signals,
    *,
    window: int | None,
    hop: int | None,
    framewise: bool = False,
    n_taps: int = 512,
    arrays: Arrays,
    on_progress: Callable[[float], None] | None = None,
) -> BSSScores:
    """Score signals of any length in bounded memory; options as of `bss_eval`.

    on_progress : called now and then with the part done, 0 to 1; what it raises stops the work
    """
    if n_taps < 1:
        raise UsageError(f"n_taps must be at least 1, got {n_taps}")
    frames = _frames(signals.n_samples, window, hop)
    ratios = np.full((4, signals.n_scored, len(frames)), np.nan)
    report = on_progress or (lambda part: None)
    if not framewise:
        filters = _filters(signals, 0, signals.n_samples, n_taps, arrays, lambda part: report(part / 2))
        responses = _responses(filters, frames, arrays)
        pieces = _pieces(signals, frames, responses)
        for first in range(0, len(frames), _at_once(frames)):
            some = frames[first : first + _at_once(frames)]
            ratios[..., first : first + len(some)] = _ratios(signals, some, responses, arrays, pieces)
            report(0.5 + 0.5 * (first + len(some)) / len(frames))
    else:
        for index, (start, stop) in enumerate(frames):
            references, estimates = signals.read(start, stop)
            if not (_silent(references).any() or _silent(estimates).any()):
                filters = _filters(signals, start, stop, n_taps, arrays, lambda part: None)
                responses = _responses(filters, frames, arrays)
                pieces = _pieces(signals, frames[:1], responses)
                ratios[..., index : index + 1] = _ratios(signals, [(start, stop)], responses, arrays, pieces)
            report((index + 1) / len(frames))
    sdr, isr, sir, sar = ratios
    return BSSScores(sdr, isr, sir, sar)


def _frames(n_samples: int, window: int | None, hop: int | None) -> list[tuple[int, int]]:
    """Start and stop of each frame."""
    if window is None or hop is None or window >= n_samples:
        return [(0, n_samples)]
    if window < 1 or hop < 1:
        raise UsageError(f"window and hop must be at least 1 sample, got {window} and {hop}")
    return [(start, start + window) for start in range(0, n_samples - window + 1, hop)]


def _at_once(frames: list[tuple[int, int]]) -> int:
    """How many frames to work on together."""
    length = frames[0][1] - frames[0][0]
    return max(1, _SAMPLES_AT_ONCE // length)


def _silent(stems: FloatArray) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether the sum of the channels of each stem [shape=(stem, channel, time)] is zero throughout, as in museval."""
    if (stems[..., :256].sum(axis=1) != 0).any(axis=-1).all():  # nearly always, and soon found out
        return np.zeros(len(stems), bool)
    result: np.ndarray[tuple[int], np.dtype[np.bool_]] = (stems.sum(axis=1) == 0).all(axis=-1)
    return result


@dataclass(frozen=True, eq=False)
class _Filters:
    """Projection filters, as impulse responses.

    all_stems : ndarray [shape=(tap, true stem · channel, estimated stem · channel)]: true signal in, estimated one out
    own_stem : ndarray [shape=(tap, estimated stem, channel, channel)]
    """

    all_stems: ScoreArray
    own_stem: ScoreArray


def _filters(
    signals: Signals, start: int, stop: int, n_taps: int, arrays: Arrays, on_progress: Callable[[float], None]
) -> _Filters:
    """The least-squares filters for a part of the signals: solutions of the normal equations."""
    n, k, c = signals.n_stems, signals.n_scored, signals.n_channels
    own, cross = _correlations(signals, start, stop, n_taps, arrays, on_progress)
    own[0] = (own[0] + own[0].T) / 2 + _EPS * np.eye(n * c)
    all_stems = solve_block_toeplitz(own, cross)
    if n == 1:
        return _Filters(all_stems, all_stems[:, None])
    diagonal = np.arange(k)
    blocks = own.reshape(n_taps, n, c, n, c)[:, diagonal, :, diagonal]
    right = cross.reshape(n_taps, n, c, k, c)[:, diagonal, :, diagonal]
    own_stem = solve_block_toeplitz(blocks, right)
    return _Filters(all_stems, np.moveaxis(own_stem, 0, 1))


def _correlations(
    signals: Signals, start: int, stop: int, n_taps: int, arrays: Arrays, on_progress: Callable[[float], None]
) -> tuple[ScoreArray, ScoreArray]:
    """Correlations of true stems with true stems, and with estimates, for lags 0 … n_taps − 1.

    Returns
    -------
    two ndarrays [shape=(lag, signal, signal), float64], signal = stem · channel
        r[k, a, b] = Σ_t x_a[t] y_b[t + k] with x a true signal, over start ≤ t, t + k < stop.
    """
    m, n_both = signals.n_stems * signals.n_channels, (signals.n_stems + signals.n_scored) * signals.n_channels
    n_fft = max(_N_FFT, 1 << (2 * n_taps - 1).bit_length())
    n_fft = min(n_fft, 1 << math.ceil(math.log2(stop - start + n_taps - 1)))
    step = n_fft - n_taps + 1
    total = arrays.zeros((n_fft // 2 + 1, m, n_both))
    # What two neighbouring blocks have in common: the last samples of one with the first ones of the next.
    n_edge = n_taps - 1 if step < stop - start else 0
    n_edge_fft = arrays.fast_length(2 * n_taps)
    edge_total = arrays.zeros((n_edge_fft // 2 + 1, m, n_both))
    # New memory costs about as much time as the transforms, so these are used again and again.
    joint = np.zeros((n_both, _BLOCKS_AT_ONCE * step + n_edge))
    core = np.zeros((n_both, _BLOCKS_AT_ONCE, n_fft))
    ends, starts = np.zeros((2, n_both, _BLOCKS_AT_ONCE, n_edge_fft))
    for first in range(start, stop, _BLOCKS_AT_ONCE * step):
        n_blocks = min(_BLOCKS_AT_ONCE, -(-(stop - first) // step))
        last = min(stop, first + n_blocks * step + n_edge)
        references, estimates = signals.read(first, last)
        if not (np.isfinite(references).all() and np.isfinite(estimates).all()):
            raise UsageError("references and estimates must be finite, got NaN or infinity")
        joint[:m, : last - first] = references.reshape(m, -1)
        joint[m:, : last - first] = estimates.reshape(n_both - m, -1)
        joint[:, last - first :] = 0
        core[:, :n_blocks, :step] = joint[:, : n_blocks * step].reshape(n_both, n_blocks, step)
        spectra = arrays.spectra(core[:, :n_blocks])
        arrays.add_cross_spectra(total, spectra[:m], spectra)
        if n_edge:
            ends[:, :n_blocks, :n_edge] = core[:, :n_blocks, step - n_edge : step]
            following = np.lib.stride_tricks.sliding_window_view(joint[:, step:], n_edge, axis=1)
            starts[:, :n_blocks, n_edge : 2 * n_edge] = following[:, : n_blocks * step : step]
            edges = arrays.spectra(ends[:m, :n_blocks]), arrays.spectra(starts[:, :n_blocks])
            arrays.add_cross_spectra(edge_total, *edges)
        on_progress((last - start) / (stop - start))
    lags = arrays.lags(total, n_fft, n_taps) + arrays.lags(edge_total, n_edge_fft, n_taps)
    return np.ascontiguousarray(lags[..., :m]), np.ascontiguousarray(lags[..., m:])


@dataclass(frozen=True, eq=False)
class _Responses:
    """Frequency responses of `_Filters`, for frames of one length."""

    n_fft: int
    all_stems: Any
    own_stem: Any


def _responses(filters: _Filters, frames: list[tuple[int, int]], arrays: Arrays) -> _Responses:
    n_fft = arrays.fast_length(frames[0][1] - frames[0][0] + len(filters.all_stems) - 1)
    all_stems = arrays.filter_spectra(filters.all_stems, n_fft)
    return _Responses(n_fft, all_stems, arrays.filter_spectra(filters.own_stem, n_fft))


def _pieces(signals: Signals, frames: list[tuple[int, int]], responses: _Responses) -> ScoreArray:
    """Room for true and estimated stems, and silence behind them [shape=(stem, channel, frame, time)]."""
    n_frames = min(len(frames), _at_once(frames))
    return np.zeros((signals.n_stems + signals.n_scored, signals.n_channels, n_frames, responses.n_fft))


def _ratios(
    signals: Signals, frames: list[tuple[int, int]], responses: _Responses, arrays: Arrays, pieces: ScoreArray
) -> ScoreArray:
    """SDR, ISR, SIR and SAR of some frames of one length, in dB [shape=(4, stem, frame)]; `pieces` is overwritten."""
    n, k, c, n_fft = signals.n_stems, signals.n_scored, signals.n_channels, responses.n_fft
    length = frames[0][1] - frames[0][0]
    pieces = pieces[:, :, : len(frames)]
    true, wrong = np.empty((2, k, len(frames)))
    silent = np.zeros(len(frames), bool)
    for index, (start, stop) in enumerate(frames):
        references, estimates = signals.read(start, stop)
        pieces[:n, :, index, :length] = references
        pieces[n:, :, index, :length] = estimates
        true[:, index] = _energies(pieces[:k, :, index])
        wrong[:, index] = _energies(pieces[n:, :, index] - pieces[:k, :, index])
        silent[index] = _silent(references).any() or _silent(estimates).any()
    spectra = arrays.one_sided_spectra(pieces.reshape((n + k) * c, len(frames), n_fft))
    energies = arrays.projection_energies(spectra, responses.all_stems, responses.own_stem, n_fft)
    target, projected, spatial, interference, artefacts = energies
    ratios = np.stack(
        [
            _decibels(true, wrong),
            _decibels(true, spatial),
            _decibels(target, interference),
            _decibels(projected, artefacts),
        ]
    )
    ratios[..., silent] = np.nan
    return ratios


def _energies(stems: ScoreArray) -> ScoreArray:
    """Sum of squares of each stem [shape=(stem, channel, time)]."""
    return np.asarray(np.einsum("jct,jct->j", stems, stems))


def _decibels(signal: ScoreArray, error: ScoreArray) -> ScoreArray:
    """10 log10(signal / error), +inf where there is no error (museval's rule, also for 0 / 0)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error == 0, np.inf, 10 * np.log10(signal / error))
