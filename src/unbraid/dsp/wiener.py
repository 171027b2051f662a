"""Multichannel Wiener filter by expectation-maximisation, in bounded memory over any length of music.

Each stem is a local Gaussian model: at frequency f and frame t its covariance across the channels is v_j(f,t) R_j(f),
a power times a spatial covariance that holds for the whole track. One iteration is

    v_j = mean over channels of |y_j|²                       the power of the present estimate y_j
    R_j = Σ_t y_j y_jᴴ / (ε + Σ_t v_j)                       its spatial covariance
    y_j = v_j R_j (Σ_k v_k R_k + √ε I)⁻¹ x                   the new estimate, from the mix x

(Uhlich et al., ICASSP 2017; Nugraha et al., IEEE/ACM TASLP 24(9), 2016), started from the ratio mask
y_j = x |stem j| / (ε + Σ_k |stem k|), on a mix that is divided by s = max(1, max|x| / 10) for the purpose: the
conventions of norbert, which Spleeter's ``--mwf`` uses, with ε that of float32.

Only the sums over t tie the frames together, hence two passes over the track: `WienerStatistics` adds the sums up,
block by block, and `WienerFilter` applies the result to the same blocks. The scale s needs no pass of its own: divided
out, it leaves the sums as they are and turns ε into ε s². Each further iteration is one more first pass.

The steps themselves are those of `unbraid.dsp.wiener_em`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import frexp
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unbraid.datatypes import ComplexArray, FloatArray
from unbraid.dsp.wiener_em import Step, covariance_sums, em_step, planes
from unbraid.errors import UsageError

__all__ = ["WienerFilter", "WienerStatistics", "wiener"]

EPSILON = float(np.finfo(np.float32).eps)
REGULARIZATION = EPSILON**0.5

# The reciprocal of 2 to this power is finite in float32.
_LEAST_EXPONENT = -100

# Frames and frequencies worked on at once: what is in flight (about 250 bytes a frame and frequency with four stems)
# stays in the cache, and the matrix products stay below the size at which BLAS starts threads of its own.
_CHUNK_FRAMES = 512
_CHUNK_FREQS = 32


@dataclass(frozen=True, eq=False)
class WienerFilter:
    """What the filter knows of the track after its first pass.

    covariances : ndarray [shape=(iteration, stem, freq, channel, channel), complex128], R_j(f) of each iteration
    scale : s of the module's docstring; the mix is divided by it
    """

    covariances: NDArray[np.complex128]
    scale: float

    def apply(self, x: ComplexArray, v: FloatArray, *, workers: int = 1) -> ComplexArray:
        """Separate one block of the track that the statistics were made of.

        x : ndarray [shape=(channel, freq, frame), complex64], the mix
        v : ndarray [shape=(stem, channel, freq, frame), float32], magnitudes of the stems, ≥ 0; with fewer
            frequencies than `x`, the stems are silent above
        workers : threads to work with; the result does not depend on it

        Returns an ndarray [shape=(stem, channel, freq, frame), complex64] with the frequencies of `x`.
        Raises UsageError where the shapes do not fit each other or the statistics.
        """
        _, n_stems, n_freqs, n_channels, _ = self.covariances.shape
        _check(x, v, n_stems=n_stems, n_channels=n_channels, n_freqs=n_freqs)
        stems = np.zeros((n_stems, *x.shape), np.complex64)
        scale = np.float32(self.scale)

        def separate(freqs: slice) -> None:
            steps = self._steps(freqs)
            for frames in _chunks(0, x.shape[2], _CHUNK_FRAMES):
                mix = planes(x[:, freqs, frames])
                mix *= np.float32(1 / self.scale)
                estimate = _ratio_masked(mix, v[:, :, freqs, frames])
                for step in steps:
                    estimate = step(mix, estimate)
                target = stems[:, :, freqs, frames]
                np.multiply(estimate[:, :, 0].transpose(1, 2, 0, 3), scale, out=target.real)
                np.multiply(estimate[:, :, 1].transpose(1, 2, 0, 3), scale, out=target.imag)

        parts = [
            freqs
            for freqs in _chunks(0, n_freqs, _CHUNK_FREQS)
            if len(self.covariances) == 0 or self.covariances[:, :, freqs].any()
        ]
        _for_each(separate, parts, workers)
        return stems

    def _steps(self, freqs: slice) -> list[Step]:
        """Return one function (mix, estimate) -> estimate for each iteration, ready for these frequencies."""
        # With one channel norbert adds ε once more where it divides.
        delta = REGULARIZATION + (EPSILON if self.covariances.shape[-1] == 1 else 0.0)
        return [em_step(covariances[:, freqs], delta) for covariances in self.covariances]


class WienerStatistics:
    """The first pass: sums over the frames of a track, taken up block by block.

    n_stems, n_channels, n_freqs : the shape of the magnitudes to come
    refined : the filter that the statistics are to refine by one more iteration, None for the first one
    workers : threads to work with; the result does not depend on it
    """

    def __init__(
        self, n_stems: int, n_channels: int, n_freqs: int, *, refined: WienerFilter | None = None, workers: int = 1
    ) -> None:
        self._shape = (n_stems, n_freqs, n_channels, n_channels)
        if refined is not None and refined.covariances.shape[1:] != self._shape:
            raise UsageError(
                f"the filter to refine has covariances of shape {refined.covariances.shape[1:]}, expected {self._shape}"
            )
        self._earlier = refined
        self._workers = workers
        self._sums = np.zeros(self._shape, np.complex128)
        self._peak = 0.0
        self._lock = Lock()

    def update(self, x: ComplexArray, v: FloatArray) -> None:
        """Take up one block; blocks may have any number of frames.

        x : ndarray [shape=(channel, freq, frame), complex64], the mix
        v : ndarray [shape=(stem, channel, freq, frame), float32], magnitudes of the stems, ≥ 0; with fewer
            frequencies than `x`, the stems are silent above

        Raises UsageError where the shapes do not fit each other or the statistics.
        """
        n_stems, n_freqs, n_channels, _ = self._shape
        _check(x, v, n_stems=n_stems, n_channels=n_channels, n_freqs=n_freqs)

        def accumulate(freqs: slice) -> None:
            for frames in _chunks(0, x.shape[2], _CHUNK_FRAMES):
                mix = planes(x[:, freqs, frames])
                largest = self._note_peak(mix)
                if largest > 0 and freqs.start < n_freqs:
                    self._accumulate(mix, largest, v[:, :, freqs, frames], freqs)

        parts = [*_chunks(0, n_freqs, _CHUNK_FREQS), *_chunks(n_freqs, x.shape[1], _CHUNK_FREQS)]
        _for_each(accumulate, parts, self._workers)

    def _note_peak(self, mix: FloatArray) -> float:
        """Raise the greatest |x| so far to that of one chunk; return the chunk's greatest real or imaginary part."""
        largest = max(float(mix.max(initial=0.0)), -float(mix.min(initial=0.0)))
        if largest * 2**0.5 > self._peak:
            # Divided by the largest part, so that the squares stay within float32 whatever the level is.
            peak = largest * float(np.square(mix / np.float32(largest)).sum(axis=1).max()) ** 0.5
            with self._lock:
                self._peak = max(self._peak, peak)
        return largest

    def _accumulate(self, mix: FloatArray, largest: float, v: FloatArray, freqs: slice) -> None:
        """Add the sums of one chunk."""
        if not v.any():
            return
        # A power of two changes no digit of the sums.
        scale = 2.0 ** max(frexp(largest)[1], _LEAST_EXPONENT) if self._earlier is None else self._earlier.scale
        mix = mix * np.float32(1 / scale)
        estimate = _ratio_masked(mix, v)
        for step in self._earlier._steps(freqs) if self._earlier is not None else ():
            estimate = step(mix, estimate)
        self._sums[:, freqs] += covariance_sums(estimate) * scale**2

    def finish(self) -> WienerFilter:
        """Return the filter for the track whose blocks were all taken up."""
        n_channels = self._shape[-1]
        scale = max(1.0, self._peak / 10.0)
        powers = np.trace(self._sums, axis1=-2, axis2=-1).real / n_channels
        covariances = (self._sums / (EPSILON * scale**2 + powers)[..., None, None])[None]
        if self._earlier is not None:
            covariances = np.concatenate([self._earlier.covariances, covariances])
        return WienerFilter(covariances, scale)


def wiener(x: ComplexArray, v: FloatArray, *, iterations: int = 1, workers: int = 1) -> ComplexArray:
    """Separate a whole track in memory; the same as `WienerStatistics` and `WienerFilter.apply` on one block.

    x : ndarray [shape=(channel, freq, frame), complex64], the mix
    v : ndarray [shape=(stem, channel, freq, frame), float32], magnitudes of the stems, ≥ 0; with fewer frequencies
        than `x`, the stems are silent above
    iterations : of expectation-maximisation; 0 is the ratio mask
    workers : threads to work with; the result does not depend on it

    Returns an ndarray [shape=(stem, channel, freq, frame), complex64].
    Raises UsageError where the shapes do not fit each other, or for a negative number of iterations.
    """
    if iterations < 0:
        raise UsageError(f"iterations must be >= 0, got {iterations}")
    n_stems, n_channels, n_freqs = v.shape[:3]
    wiener_filter = WienerFilter(np.zeros((0, n_stems, n_freqs, n_channels, n_channels), np.complex128), 1.0)
    for iteration in range(iterations):
        refined = wiener_filter if iteration else None
        statistics = WienerStatistics(n_stems, n_channels, n_freqs, refined=refined, workers=workers)
        statistics.update(x, v)
        wiener_filter = statistics.finish()
    return wiener_filter.apply(x, v, workers=workers)


def _check(x: NDArray[Any], v: NDArray[Any], *, n_stems: int, n_channels: int, n_freqs: int) -> None:
    """Raise UsageError unless mix and magnitudes have these sizes, and as many frames as each other."""
    fits = x.ndim == 3 and v.shape == (n_stems, n_channels, n_freqs, x.shape[2])
    if not fits or x.shape[0] != n_channels or x.shape[1] < n_freqs:
        raise UsageError(
            f"mix of shape {x.shape} and magnitudes of shape {v.shape} do not fit a Wiener filter of "
            f"{n_stems} stems, {n_channels} channels, {n_freqs} frequencies"
        )


def _chunks(start: int, stop: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` that together cover start … stop."""
    return (slice(at, min(at + size, stop)) for at in range(start, stop, size))


def _for_each(work: Callable[[slice], None], slices: list[slice], workers: int) -> None:
    """Call `work` on every slice, by several threads where asked; NumPy lets go of the interpreter lock."""
    if workers <= 1:
        for part in slices:
            work(part)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="wiener") as pool:
        for _ in pool.map(work, slices):
            pass


def _ratio_masked(mix: FloatArray, v: FloatArray) -> FloatArray:
    """Return the estimate to start from: the mix times each stem's share of the magnitudes.

    mix : ndarray [shape=(freq, 2, channel, frame), float32]
    v : ndarray [shape=(stem, channel, freq, frame), float32]
    Returns an ndarray [shape=(freq, stem, 2, channel, frame), float32].
    """
    total = v.sum(axis=0)
    total += np.float32(EPSILON)
    shares = v * np.reciprocal(total, out=total)
    masked: FloatArray = shares.transpose(2, 0, 1, 3)[:, :, None] * mix[:, None]
    return masked
