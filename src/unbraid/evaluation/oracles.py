"""Oracles: what a mask or filter can do at best, made from the true stems; and the mix itself, the least to beat.

=============  ========================================================================================
mix            the mix, as the estimate of every stem
oracle:irm1    ideal ratio mask |S_j|^α / Σ_k |S_k|^α with α = 1, per channel, frequency and frame
oracle:irm2    … with α = 2
oracle:ibm1    ideal binary mask: 1 where |S_j|^α > θ |X|^α, else 0, θ = 1/2, α = 1
oracle:ibm2    … with α = 2
oracle:mwf     multichannel Wiener filter of a local Gaussian model whose parameters the true stems give
=============  ========================================================================================

They are the oracles of SiSEC 2018 (Stöter, Liutkus & Ito, arXiv:1804.06267), with the parameters of their published
code, github.com/sigsep/sigsep-mus-oracle (IRM.py, IBM.py, MWF.py): Hann windows of 2048 samples, a frame every 1024,
the first one centred on the first sample, inversion by weighted overlap-add (scipy.signal's defaults); α and θ as
above. The binary masks compare each stem with the mix, so a bin may go to several stems or to none.

Two differences: where no stem sounds, ratio masks share out the mix equally, so that their estimates always add up to
it; and the mix is not divided by the number of its targets (MIX.py), so that it is what "uSDRi" compares with.

The Wiener filter (Liutkus, Badeau & Richard, IEEE TSP 59(7), 2011), with n channels, y_j(f,t) the true stem's:

    R_j(f)   = mean over t of y_j y_jᴴ / (ε + ‖y_j‖²/n), scaled to a trace of n, plus a little of the identity matrix
    v_j(f,t) = y_jᴴ R_j⁻¹ y_j / n                          the likeliest power, given R_j
    ŝ_j      = v_j R_j (Σ_k v_k R_k + ε I)⁻¹ x             the estimate, from the mix x

MWF.py says the same in its comments. Its code takes the trace over other axes, the first two of (freq, channel,
channel), which cost 5 to 17 dB of uSDR on synthesised songs; and adds its ε to determinants, which mutes quiet music.
Neither is done here.

Everything is done segment by segment; `oracle:mwf` reads the track twice, as R_j is a mean over all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from unbraid.datatypes import ComplexArray, FloatArray
from unbraid.dsp.masks import ratio_masks
from unbraid.dsp.segments import OverlapAdd, WindowCutter
from unbraid.dsp.stft import frames_to_samples, istft, squares_covering, stft
from unbraid.dsp.wiener_em import covariance_sums, em_step, planes
from unbraid.errors import UsageError
from unbraid.evaluation.scores import usdr

__all__ = ["ORACLES", "OracleShare", "TrueBlock", "oracle_blocks", "oracle_share", "oracle_shares"]

TrueBlock: TypeAlias = tuple[FloatArray, FloatArray]
"""The true stems [shape=(stem, channel, time)] and the mix [shape=(channel, time)] of a block; their sum or not."""

# (mix, true stems) -> estimates, all of them spectrograms
_Separate: TypeAlias = Callable[[ComplexArray, ComplexArray], ComplexArray]

_SEGMENT_FRAMES = 64

# Frequencies at a time in the Wiener filter: what is in flight stays in the cache.
_CHUNK_FREQS = 32

# ε of MWF.py, whose spectra are those of `stft` divided by the sum of the window, 1024. Stems below that power (about
# that of white noise at −120 dB) count less in the mean, and the filter fades out there.
_EPSILON = float(np.finfo(np.float64).eps) * 1024**2

# What is added to the diagonal of R_j, of which the mean is 1: well above the square of float32's rounding, so that a
# stem from one direction only does not get its power from rounding errors in the other.
_DIFFUSE = 1e-10

_THRESHOLD = 0.5  # θ


def _ratio_masked(mix: ComplexArray, stems: ComplexArray, *, exponent: float) -> ComplexArray:
    """Estimates [shape=(stem, channel, freq, frame)] by ideal ratio masks."""
    masked: ComplexArray = ratio_masks(np.abs(stems), exponent=exponent) * mix
    return masked


def _binary_masked(mix: ComplexArray, stems: ComplexArray, *, exponent: float) -> ComplexArray:
    """Estimates [shape=(stem, channel, freq, frame)] by ideal binary masks."""
    # |S|^α > θ |X|^α without the powers
    masks = np.abs(stems) > np.float32(_THRESHOLD ** (1 / exponent)) * np.abs(mix)
    masked: ComplexArray = masks * mix
    return masked


_MASKS: Mapping[str, _Separate] = {
    "oracle:irm1": partial(_ratio_masked, exponent=1.0),
    "oracle:irm2": partial(_ratio_masked, exponent=2.0),
    "oracle:ibm1": partial(_binary_masked, exponent=1.0),
    "oracle:ibm2": partial(_binary_masked, exponent=2.0),
}

ORACLES: tuple[str, ...] = ("mix", *_MASKS, "oracle:mwf")


def oracle_blocks(
    name: str, read: Callable[[], Iterable[TrueBlock]], *, n_fft: int = 2048, hop: int = 1024
) -> Iterator[FloatArray]:
    """Separate a track by an oracle, block by block, in memory that does not grow with its length.

    name : one of `ORACLES`, explained in the module's docstring
    read : starts anew the blocks of the track, of any lengths; called once, or twice for "oracle:mwf"
    n_fft, hop : frame length and step in samples; `hop` divides `n_fft` at least twice. The defaults are the published

    Yields the estimates [shape=(stem, channel, time), float32] in blocks of other lengths, together those of the track.
    Raises UsageError for an unknown name or frames that do not overlap evenly.
    """
    if name not in ORACLES:
        raise UsageError(f"no oracle {name!r}; there are {', '.join(ORACLES)}")
    if n_fft % hop or n_fft < 2 * hop:
        raise UsageError(f"n_fft must be a multiple of hop, at least twofold, got {n_fft} and {hop}")
    if name == "mix":
        return (np.repeat(mix[None], len(stems), axis=0) for stems, mix in read())
    if name == "oracle:mwf":
        return _wiener_blocks(read, n_fft=n_fft, hop=hop)
    return _separated(read(), _MASKS[name], n_fft=n_fft, hop=hop)


@dataclass(frozen=True)
class OracleShare:
    """uSDR of one stem in dB: of the mix taken as the estimate, of the model, of the IRM2 oracle."""

    mix_sdr: float
    sdr: float
    oracle_sdr: float

    @property
    def share(self) -> float:
        """Oracle share."""
        return oracle_share(self.sdr, self.mix_sdr, self.oracle_sdr)


def oracle_share(sdr: float, mix_sdr: float, oracle_sdr: float) -> float:
    """How far a score has come on the way from the untouched mix (0) to the oracle (1).

    sdr, mix_sdr, oracle_sdr : of the estimate, of the mix taken as the estimate, and of the oracle, in dB
    """
    return (sdr - mix_sdr) / (oracle_sdr - mix_sdr)


def oracle_shares(
    references: Mapping[str, FloatArray], estimates: Mapping[str, FloatArray], *, n_fft: int = 4096, hop: int = 1024
) -> dict[str, OracleShare]:
    """Place the estimates of all stems of a song, whose mix is the sum of the references, between mix and IRM2 oracle.

    references : true stems, each an ndarray [shape=(channel, time)]; a silent one is all zeros and gets no score
    estimates : the separated stems, at least those of `references` that sound
    n_fft, hop : frames of the oracle; the default is the transform of the built-in and of Spleeter's models

    Returns the score of each stem that sounds.
    """
    stems = np.stack(list(references.values()))
    mix = stems.sum(axis=0)
    blocks = list(oracle_blocks("oracle:irm2", lambda: [(stems, mix)], n_fft=n_fft, hop=hop))
    oracle = np.concatenate(blocks, axis=-1) if blocks else stems
    return {
        name: OracleShare(usdr(stem, mix), usdr(stem, estimates[name]), usdr(stem, bound))
        for name, stem, bound in zip(references, stems, oracle, strict=True)
        if stem.any()
    }


def _spectra(blocks: Iterable[TrueBlock], *, n_fft: int, hop: int) -> Iterator[tuple[int, ComplexArray, ComplexArray]]:
    """The frames of a track, segment by segment.

    Frames start every `hop` samples from `n_fft − hop` before the first sample on, up to the last sample: all samples
    lie under n_fft/hop frames. Yields (n, mix [shape=(channel, freq, frame)], stems [shape=(stem, channel, freq,
    frame)]), n the samples from the start of the segment that lie before the end of the track.
    """
    stride = _SEGMENT_FRAMES * hop
    segment = frames_to_samples(_SEGMENT_FRAMES, n_fft, hop)

    def window(n: int) -> tuple[int, int]:
        return 0, frames_to_samples(min(-(-n // hop), _SEGMENT_FRAMES), n_fft, hop)

    def transformed(chunk: tuple[int, int, FloatArray]) -> tuple[int, ComplexArray, ComplexArray]:
        _, n, samples = chunk
        spec = stft(samples, n_fft=n_fft, hop=hop)
        spec = spec.reshape(-1, n_channels, *spec.shape[1:])
        return n, spec[0], spec[1:]

    cutter, n_channels = None, 0
    for stems, mix in blocks:
        if cutter is None:
            n_channels = len(mix)
            rows = n_channels * (1 + len(stems))
            cutter = WindowCutter(rows, segment=segment, stride=stride, lead=n_fft - hop, window=window)
        for start in range(0, mix.shape[-1], stride):  # a long block is never copied as a whole
            piece = slice(start, start + stride)
            both = np.concatenate([mix[None, :, piece], stems[:, :, piece]]).astype(np.float32, copy=False)
            yield from map(transformed, cutter.push(both.reshape(-1, both.shape[-1])))
    if cutter is not None:
        yield from map(transformed, cutter.flush())


def _separated(blocks: Iterable[TrueBlock], separate: _Separate, *, n_fft: int, hop: int) -> Iterator[FloatArray]:
    """Yield the estimates that `separate` makes of the spectrograms [shape=(stem, channel, time), float32]."""
    n_frames = n_fft // hop
    # Less than threefold overlap of squared windows is not even: 1/2 to 1 at twofold.
    coverage = squares_covering(n_frames, n_fft=n_fft, hop=hop)[n_fft - hop : n_fft]
    added: OverlapAdd | None = None
    n_early = n_fft - hop  # samples before the track's first
    for n, mix, stems in _spectra(blocks, n_fft=n_fft, hop=hop):
        estimates = separate(mix, stems)
        if added is None:
            segment = frames_to_samples(_SEGMENT_FRAMES, n_fft, hop)
            added = OverlapAdd(stems.shape[:2], segment=segment, stride=_SEGMENT_FRAMES * hop)
        samples = istft(estimates.reshape(-1, *estimates.shape[2:]), hop=hop)[:, :n]
        done = added.add(samples.reshape(*stems.shape[:2], n))
        done /= np.resize(coverage, done.shape[-1])
        if done.shape[-1] > n_early:
            yield done[..., n_early:]
        n_early = max(n_early - done.shape[-1], 0)


def _wiener_blocks(read: Callable[[], Iterable[TrueBlock]], *, n_fft: int, hop: int) -> Iterator[FloatArray]:
    """Yield the estimates of the multichannel Wiener filter."""
    sums: NDArray[np.complex128] | None = None
    for _, _, stems in _spectra(read(), n_fft=n_fft, hop=hop):
        found = _direction_sums(stems)
        sums = found if sums is None else sums + found
    if sums is not None:
        yield from _separated(read(), _wiener_filter(sums), n_fft=n_fft, hop=hop)


def _direction_sums(stems: ComplexArray) -> NDArray[np.complex128]:
    """Σ_t y yᴴ / (ε + ‖y‖²/n) [shape=(stem, freq, channel, channel)] of (stem, channel, freq, frame)."""
    n_freqs = stems.shape[2]
    sums = []
    for start in range(0, n_freqs, _CHUNK_FREQS):
        rows = _stem_planes(stems[:, :, start : start + _CHUNK_FREQS])
        powers = np.square(rows).sum(axis=(2, 3), keepdims=True) / np.float32(rows.shape[3])
        sums.append(covariance_sums(rows / np.sqrt(powers + np.float32(_EPSILON))))
    return np.concatenate(sums, axis=1)


def _wiener_filter(sums: NDArray[np.complex128]) -> _Separate:
    """Return the filter made of the sums of a whole track [shape=(stem, freq, channel, channel)]."""
    n_freqs, n_channels = sums.shape[1:3]
    identity = np.eye(n_channels)
    traces = np.trace(sums, axis1=-2, axis2=-1).real[..., None, None]
    # A stem that is silent at a frequency has no power there, whatever its R_j.
    covariances = np.where(traces > 0, sums * n_channels / np.where(traces > 0, traces, 1), identity)
    covariances = covariances + _DIFFUSE * identity
    # ‖W y‖² = yᴴ R⁻¹ y, whose mean over the channels is v: what an EM step takes for the power of an estimate W y.
    whitening = np.linalg.inv(np.linalg.cholesky(covariances)).astype(np.complex64)
    chunks = [slice(start, start + _CHUNK_FREQS) for start in range(0, n_freqs, _CHUNK_FREQS)]
    steps = [em_step(covariances[:, freqs], _EPSILON) for freqs in chunks]

    def separate(mix: ComplexArray, stems: ComplexArray) -> ComplexArray:
        estimates = np.empty_like(stems)
        for freqs, step in zip(chunks, steps, strict=True):
            white = np.einsum("jfab,jbft->jaft", whitening[:, freqs], stems[:, :, freqs])
            found = step(planes(mix[:, freqs]), _stem_planes(white)).transpose(2, 1, 3, 0, 4)
            estimates.real[:, :, freqs], estimates.imag[:, :, freqs] = found
        return estimates

    return separate


def _stem_planes(stems: ComplexArray) -> FloatArray:
    """Turn (stem, channel, freq, frame) complex64 into (freq, stem, 2, channel, frame) float32."""
    return np.stack([planes(stem) for stem in stems], axis=1)
