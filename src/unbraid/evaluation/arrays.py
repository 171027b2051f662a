"""Double-precision spectra and products for BSSEval, on NumPy and SciPy or on a device of PyTorch.

Both libraries share the names used here, so that each computation is written once, for a slice of the frequencies; on
NumPy the slices are shared out among threads.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from unbraid.errors import EngineError, UsageError
from unbraid.evaluation.results import ScoreArray

__all__ = ["Arrays", "open_arrays"]

_BINS_AT_ONCE = 512  # so that what a thread works on stays in its cache

T = TypeVar("T")


def open_arrays(device: str = "numpy", n_threads: int | None = None) -> Arrays:
    """Choose what computes.

    device : "numpy", or a device of PyTorch with double precision: "cpu", "cuda", "cuda:1"
    n_threads : of NumPy and SciPy; None for one a processor

    Raises
    ------
    UsageError : the device has no double precision, or there is none of that name
    EngineError : PyTorch is not installed
    """
    n_threads = n_threads or os.cpu_count() or 1
    if device == "numpy":
        return Arrays(np, n_threads)
    try:
        import torch
    except ImportError as error:
        raise EngineError(
            f"device {device!r} needs PyTorch: pip install 'unbraid[torch]', or choose 'numpy'"
        ) from error
    try:
        torch.zeros(1, dtype=torch.float64, device=device).cpu()
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]  # PyTorch goes on and lists all it has
        raise UsageError(f"device {device!r} cannot be used for BSSEval: {reason}") from error
    return Arrays(torch, 1, device)


class Arrays:
    """Where BSSEval's arrays are, and what is done with them there.

    A "spectrum" is an array of that place [shape=(signal, piece, bin), complex128].
    """

    def __init__(self, xp: Any, n_threads: int, device: str = "") -> None:
        self._xp = xp
        self._n_threads = n_threads
        self._device = device

    def fast_length(self, n: int) -> int:
        """The next length from `n` on whose Fourier transform is fast; even."""
        from scipy import fft

        return 2 * int(fft.next_fast_len(-(-n // 2), real=True))

    def zeros(self, shape: tuple[int, ...]) -> Any:
        """Complex zeros."""
        if self._xp is np:
            return np.zeros(shape, np.complex128)
        return self._xp.zeros(shape, dtype=self._xp.complex128, device=self._device)

    def spectra(self, signals: ScoreArray) -> Any:
        """Spectra of real signals [shape=(signal, piece, time)]."""
        return self._rfft(signals, -1, signals.shape[-1])

    def one_sided_spectra(self, signals: ScoreArray) -> Any:
        """The same, such that Σ_bin |X|² / time is the energy: all bins but the first and the last count twice."""
        spectra = self.spectra(signals)
        spectra *= math.sqrt(2)
        spectra[..., 0] /= math.sqrt(2)
        spectra[..., -1] /= math.sqrt(2)
        return spectra

    def filter_spectra(self, filters: ScoreArray, n_fft: int) -> Any:
        """Frequency responses [shape=(bin, …)] of filters [shape=(tap, …)]."""
        return self._rfft(filters, 0, n_fft)

    def add_cross_spectra(self, total: Any, x: Any, y: Any) -> None:
        """Add Σ_piece conj(x_a) y_b to `total` [shape=(bin, signal of x, signal of y)]."""

        def add(bins: slice) -> None:
            total[bins] += self._bins_first(x, bins).conj() @ self._bins_first(y, bins).swapaxes(-1, -2)

        self._over_bins(add, len(total))

    def lags(self, cross_spectra: Any, n_fft: int, n_lags: int) -> ScoreArray:
        """The first correlations [shape=(lag, signal of x, signal of y)] of cross spectra."""
        if self._xp is np:
            from scipy import fft

            return np.asarray(fft.irfft(cross_spectra, n_fft, axis=0, workers=self._n_threads)[:n_lags])
        return np.asarray(self._xp.fft.irfft(cross_spectra, n_fft, dim=0)[:n_lags].cpu().numpy())

    def projection_energies(self, spectra: Any, all_stems: Any, own_stem: Any, n_fft: int) -> ScoreArray:
        """The energies that ISR, SIR and SAR are made of.

        Parameters
        ----------
        spectra : spectrum
            As of `one_sided_spectra`, of true signals, then of estimates of the first of them; signal = stem · channel.
        all_stems : array [shape=(bin, true signal, estimated signal)]
            Frequency responses of the projection onto all stems.
        own_stem : array [shape=(bin, estimated stem, true channel, estimated channel)]
            Of the projection onto each estimate's own stem.
        n_fft : int
            Length of the Fourier transforms.

        Returns
        -------
        ndarray [shape=(5, stem, piece), float64]
            Energies of P_j ŝ, P ŝ, P_j ŝ − s_j, P ŝ − P_j ŝ and ŝ − P ŝ.
        """
        n_true, n_estimated = all_stems.shape[1:]
        n_stems, n_channels = own_stem.shape[1:3]
        n_pieces, n_bins = spectra.shape[1:]

        def energies(bins: slice) -> Any:
            both = self._bins_first(spectra, bins)
            true, own, estimate = both[:, :n_true], both[:, :n_estimated], both[:, n_true:]
            projected = all_stems[bins].swapaxes(-1, -2) @ true
            target = projected
            if n_true > n_channels:  # with one stem, both projections are the same
                target = self._own_projection(own_stem[bins], own, n_stems, n_channels)
            sums = [self._energies(target), self._energies(projected)]
            # One array for all differences: memory that is new costs more than the arithmetic.
            difference = target - own
            sums.append(self._energies(difference))
            self._xp.subtract(projected, target, out=difference)
            sums.append(self._energies(difference))
            self._xp.subtract(estimate, projected, out=difference)
            sums.append(self._energies(difference))
            return self._xp.stack(sums)

        total: Any = sum(self._over_bins(energies, n_bins)) / n_fft
        total = total if self._xp is np else total.cpu().numpy()
        by_stem: ScoreArray = total.reshape(5, n_stems, n_channels, n_pieces).sum(axis=2)
        return by_stem

    def _own_projection(self, responses: Any, own: Any, n_stems: int, n_channels: int) -> Any:
        """P_j ŝ; the matrices of one stem are too small for a matrix product to be quick."""
        by_stem = own.reshape(len(own), n_stems, n_channels, -1)
        target = self._xp.empty_like(by_stem)
        for out in range(n_channels):
            target[:, :, out] = responses[:, :, 0, out, None] * by_stem[:, :, 0]
            for channel in range(1, n_channels):
                target[:, :, out] += responses[:, :, channel, out, None] * by_stem[:, :, channel]
        return target.reshape(own.shape)

    def _energies(self, z: Any) -> Any:
        """Σ |z|² over the bins [shape=(signal, piece)]."""
        reals = z.view(np.float64) if self._xp is np else self._xp.view_as_real(z)
        flat = reals.reshape(len(z), -1)
        return self._xp.einsum("bk,bk->k", flat, flat).reshape(*z.shape[1:], 2).sum(-1)

    def _rfft(self, signals: ScoreArray, axis: int, n_fft: int) -> Any:
        if self._xp is np:
            from scipy import fft

            return fft.rfft(signals, n_fft, axis=axis, workers=self._n_threads)
        return self._xp.fft.rfft(self._put(signals), n_fft, dim=axis)

    def _put(self, array: ScoreArray) -> Any:
        """The array, where the others are."""
        if self._xp is np:
            return array
        # PyTorch warns of arrays that cannot be written to, as views may be.
        return self._xp.from_numpy(np.require(array, requirements=["C", "W"])).to(self._device)

    def _bins_first(self, spectra: Any, bins: slice) -> Any:
        """Some bins of spectra, contiguous [shape=(bin, signal, piece)]."""
        some = self._xp.moveaxis(spectra[..., bins], -1, 0)
        return np.ascontiguousarray(some) if self._xp is np else some.contiguous()

    def _over_bins(self, do: Callable[[slice], T], n_bins: int) -> list[T]:
        """Do something for all bins, slice by slice; the results, in order."""
        if self._xp is not np:
            return [do(slice(0, n_bins))]
        slices = [slice(first, min(first + _BINS_AT_ONCE, n_bins)) for first in range(0, n_bins, _BINS_AT_ONCE)]
        with ThreadPoolExecutor(self._n_threads, "unbraid-bsseval") as pool:
            return list(pool.map(do, slices))
