"""Losses: how far estimated stems are from the true ones, for each stem, and as one number."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from unbraid.errors import UsageError

__all__ = ["LossConfig", "spectral_losses", "stem_losses", "weigh"]

# Least power of a bin in the STFT loss, whose logarithm and root would have no slope at 0 (−70 dB below a bin of 1).
_POWER_FLOOR = 1e-7
# Added to energies in the SI-SDR, so that silence gives a number: that of the evaluation's uSDR.
_DELTA = 1e-7
# Energy of a stem's error, relative to the mix, under which it hardly matters: there the root has no slope to speak of.
_LEAST_ERROR = 1e-4


@dataclass(frozen=True)
class LossConfig:
    """What a training makes small.

    kind : of waveforms "l1", "mse", "stft" (see `n_ffts`), "l1+stft" (their sum) or "si_sdr"; of spectra
        "spectral_mse" or "spectral_rms" (see `spectral_losses`); of magnitudes "magnitude_l1" (Spleeter),
        "magnitude_l1_weighted" (Spleeter's `weighted_L1_mask`) or "magnitude_mse" (Open-Unmix)
    weights : of stems, by name; 1 where none is given
    n_ffts : sizes of the FFTs of "stft" and "l1+stft", in samples; hops are a quarter of them
    """

    kind: str = "l1"
    weights: Mapping[str, float] = field(default_factory=dict)
    n_ffts: tuple[int, ...] = (2048, 1024, 512)

    def __post_init__(self) -> None:
        kinds = (*_KINDS, *_SPECTRAL)
        if self.kind not in kinds:
            near = difflib.get_close_matches(self.kind, kinds, n=1, cutoff=0)[0]
            raise UsageError(f"loss.kind must be one of {', '.join(kinds)}, got '{self.kind}'; the nearest is '{near}'")
        for stem, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise UsageError(f"loss.weights.{stem} must be 0 or more, got {weight}")
        if not self.n_ffts or any(n_fft < 4 or n_fft % 4 for n_fft in self.n_ffts):
            raise UsageError(f"loss.n_ffts must be multiples of 4, and one at least, got {list(self.n_ffts)}")

    @property
    def on_spectra(self) -> bool:
        """Whether it is of the energy of errors in spectra, not of waveforms."""
        return self.kind in _SPECTRAL

    @property
    def on_magnitudes(self) -> bool:
        """Whether it compares magnitudes, not waveforms."""
        return self.kind.startswith("magnitude_")


def stem_losses(estimates: Tensor, truths: Tensor, config: LossConfig) -> Tensor:
    """Give the loss of each stem, as the mean over the batch.

    Parameters
    ----------
    estimates, truths : tensor
        Waveforms [shape=(batch, stem, channel, time)], or, where `config.on_magnitudes`, magnitudes
        [shape=(batch, stem, channel, frame, bin)]. Numbers of half precision are computed with as float32.
    config : LossConfig
        Which loss; weights are for `weigh`.

    Returns
    -------
    losses : tensor [shape=(stem,)]
        In dB for "si_sdr"; else in the unit of the samples or magnitudes, squared for "mse" and "magnitude_mse", and
        without one for "stft".
    """
    assert estimates.shape == truths.shape and estimates.ndim == (5 if config.on_magnitudes else 4)
    return _KINDS[config.kind](_precise(estimates), _precise(truths), config)


def weigh(losses: Tensor, config: LossConfig, stems: Sequence[str]) -> Tensor:
    """Make one number of the losses of stems: their weighted mean, or, as Spleeter does, their weighted sum.

    Parameters
    ----------
    losses : tensor
        [shape=(stem,)]
    config : LossConfig
        With the weights.
    stems : sequence of str
        Their names, in order.

    Returns
    -------
    loss : tensor [shape=()]

    Raises
    ------
    UsageError : a weight is of a stem that is not there, or all of them are 0
    """
    for name in config.weights:
        if name not in stems:
            near = difflib.get_close_matches(name, stems, n=1, cutoff=0)[0]
            raise UsageError(f"loss.weights has '{name}', which is no stem of the network; the nearest is '{near}'")
    weights = losses.new_tensor([config.weights.get(stem, 1.0) for stem in stems])
    if not any(config.weights.get(stem, 1.0) for stem in stems):
        raise UsageError("loss.weights are 0 for every stem: there is nothing to learn")
    total = (weights * losses).sum()
    return total if config.kind in _SUMMED else total / weights.sum()


def _precise(x: Tensor) -> Tensor:
    """Half precision to float32: squares of small errors would vanish, and sums of many lose their end."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _mean(x: Tensor) -> Tensor:
    """Mean of all but the stems [shape=(stem,)]."""
    return x.movedim(1, 0).flatten(1).mean(1)


def _absolute(estimates: Tensor, truths: Tensor, config: LossConfig) -> Tensor:
    return _mean((estimates - truths).abs())


def _squared(estimates: Tensor, truths: Tensor, config: LossConfig) -> Tensor:
    return _mean((estimates - truths).square())


def _weighted_absolute(estimates: Tensor, truths: Tensor, config: LossConfig) -> Tensor:
    """Spleeter's `weighted_L1_mask` (its code, model/__init__.py; it is in no paper).

    An example's differences are multiplied with the mean of its true magnitudes: a loud stem counts more than a soft
    one, and a silent stem not at all.
    """
    loudness = truths.mean(dim=(2, 3, 4), keepdim=True)
    return _mean(loudness * (estimates - truths).abs())


def _spectral(estimates: Tensor, truths: Tensor, config: LossConfig) -> Tensor:
    """The multi-resolution STFT loss of R. Yamamoto et al., "Parallel WaveGAN", ICASSP 2020, equations 4 to 6.

    For each resolution, spectral convergence ‖|S| − |Ŝ|‖ / ‖|S|‖ plus the mean of |log|S| − log|Ŝ||, and of these the
    mean. Norms are over the whole batch: of single examples, a nearly silent one would outweigh all others. There is
    no convergence to a stem that is silent in the whole batch, so that only the logarithms count.
    """
    total = estimates.new_zeros(estimates.shape[1])
    for n_fft in config.n_ffts:
        power, true_power = _powers(estimates, n_fft), _powers(truths, n_fft)
        magnitude, true_magnitude = power.sqrt(), true_power.sqrt()
        sounds = (true_power > _POWER_FLOOR).movedim(1, 0).flatten(1).any(1)
        # The root of 0 has no slope: a perfect estimate leaves the root of the floor, a thirtieth of a percent.
        ratio = _mean((magnitude - true_magnitude).square()) / _mean(true_power)
        convergence = torch.where(sounds, ratio.clamp_min(_POWER_FLOOR).sqrt(), 0)
        total = total + convergence + _mean((power.log() - true_power.log()).abs()) / 2
    return total / len(config.n_ffts)


def _powers(x: Tensor, n_fft: int) -> Tensor:
    """Squared magnitudes of the STFT [shape=(batch, stem, channel, bin, 1 + time // (n_fft // 4))], never 0."""
    window = torch.hann_window(n_fft, dtype=x.dtype, device=x.device)
    # Zeros around it, not reflections: these need more samples than a short example may have.
    spec = torch.stft(
        x.flatten(0, 2), n_fft, n_fft // 4, window=window, center=True, pad_mode="constant", return_complex=True
    )
    powers = torch.view_as_real(spec).square().sum(-1).clamp_min(_POWER_FLOOR)
    return powers.view(*x.shape[:3], *powers.shape[1:])


def _absolute_and_spectral(estimates: Tensor, truths: Tensor, config: LossConfig) -> Tensor:
    return _absolute(estimates, truths, config) + _spectral(estimates, truths, config)


def _negative_si_sdr(estimates: Tensor, truths: Tensor, config: LossConfig) -> Tensor:
    """J. Le Roux et al., "SDR – half-baked or well done?", ICASSP 2019, equations 4 and 5, in dB.

    One scale for all channels of a stem, so that the estimate keeps its place between them. `_DELTA` makes the scale
    of a silent stem 0, so that all of its estimate is error.
    """
    truth, estimate = truths.flatten(2), estimates.flatten(2)
    scale = (estimate * truth).sum(-1, keepdim=True) / (truth.square().sum(-1, keepdim=True) + _DELTA)
    target = scale * truth
    energy, error = target.square().sum(-1), (estimate - target).square().sum(-1)
    decibels: Tensor = 10 * ((error + _DELTA).log10() - (energy + _DELTA).log10())
    return decibels.mean(0)


def spectral_losses(errors: Tensor, energies: Tensor, config: LossConfig) -> Tensor:
    """Give the loss of each stem in "spectral_mse" or "spectral_rms", as the mean over the batch.

    e / x, or its root. Relative to the mix, so that a soft example counts as much as a loud one. Needs
    no transform back to samples. Both are convex in masks. A logarithm is not, which SDR would ask for: with it, all of
    a mix in one stem and silence in the others is a minimum that networks do not leave.

    errors, energies : e of each stem [shape=(batch, stem)], and x of the mix [shape=(batch,)], in the same unit
    config : says which
    returns : tensor [shape=(stem,)]
    """
    relative = errors / (energies[:, None] + _DELTA)
    return (relative if config.kind == "spectral_mse" else (relative + _LEAST_ERROR).sqrt()).mean(0)


_KINDS: Final[Mapping[str, Callable[[Tensor, Tensor, LossConfig], Tensor]]] = MappingProxyType(
    {
        "l1": _absolute,
        "mse": _squared,
        "stft": _spectral,
        "l1+stft": _absolute_and_spectral,
        "si_sdr": _negative_si_sdr,
        "magnitude_l1": _absolute,
        "magnitude_l1_weighted": _weighted_absolute,
        "magnitude_mse": _squared,
    }
)
_SPECTRAL = ("spectral_mse", "spectral_rms")
_SUMMED = ("magnitude_l1", "magnitude_l1_weighted")
