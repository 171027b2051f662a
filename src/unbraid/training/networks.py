"""Networks with the arithmetic around them in torch: from a mix's samples to its stems, all of it differentiable.

What `unbraid.models` does in NumPy around a network is done here once more for examples of one length, so that a loss
of samples reaches the parameters. An example is what the pipeline would make of a track that is no longer than it. What
needs the whole track is left out: its normalisation (see `Trainable.normalises`) is the caller's, and where EM steps
refine magnitudes, what EM starts from is used: the magnitudes with the phase of the mix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from unbraid.dsp.masks import EPSILON
from unbraid.dsp.stft import frames_to_samples, hann, squares_covering
from unbraid.errors import UsageError
from unbraid.models import families
from unbraid.models.demucs.network import DemucsNetwork
from unbraid.models.hdemucs.network import HDemucsNetwork
from unbraid.models.htdemucs.network import HTDemucsNetwork
from unbraid.models.layers import rescale_weights
from unbraid.models.openunmix.network import OpenUnmixNetwork
from unbraid.models.spleeter.network import make_module
from unbraid.models.spleeter.shared_unet import SharedUNet

__all__ = [
    "Trainable",
    "example_samples",
    "initialise",
    "make_trainable",
    "set_input_statistics",
]

AnyTrainable = TypeVar("AnyTrainable", bound="Trainable")

# As in the transforms of Hybrid Demucs and Open-Unmix, which say why.
_SILENCE: Final = 1e-8
_LEAST_COVERING: Final = 0.1
_OPENUNMIX_S: Final = 6.0  # length of Open-Unmix's examples ("seq-dur" of its training script)
# The least deviation that a bin is divided by, as a share of the greatest (Open-Unmix's training script).
_LEAST_DEVIATION: Final = 1e-4


class Trainable(nn.Module):
    """A network, and the way from the samples of a mix to those of its stems.

    family : its name
    config : the family's configuration
    n_samples : of an example; as `example_samples` gives it, or any other that the family allows

    network : the torch module, whose parameters have the names of a model folder's tensors
    stems : names of the stems that `separate` gives (a residual that the pipeline adds is none of them)
    normalises : whether the pipeline brings a whole track to mean 0 and deviation 1 before it separates it; to do so is
        the caller's
    on_magnitudes : whether the family is trained on `magnitudes`

    Raises
    ------
    UsageError : examples of this length are impossible
    """

    on_magnitudes: ClassVar[bool] = False

    def __init__(self, family: str, config: Any, n_samples: int) -> None:
        super().__init__()
        self.family = family
        self.config = config
        self.n_samples = n_samples
        self.stems: tuple[str, ...] = config.stems
        self.batch_norm = "live"
        transform: Any = families.family(family).transform(config)
        self.transform = transform
        self.n_channels: int = transform.n_channels
        self.normalises: bool = transform.normalises
        self.n_before, self.n_window = transform.window(n_samples)
        if not 0 < n_samples <= self.n_window:
            raise UsageError(f"an example must be from 1 to {self.n_window} samples for this network, got {n_samples}")
        self.network = _seeded(family, config, seed=0)

    def separate(self, mix: Tensor) -> Tensor:
        """Separate examples.

        mix : tensor [shape=(batch, channel, n_samples), float32]
        returns : tensor [shape=(batch, stem, channel, n_samples), float32]
        """
        raise NotImplementedError

    def magnitudes(self, mix: Tensor, stems: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate the stems' magnitudes, and compute the true ones.

        mix : tensor [shape=(batch, channel, n_samples), float32]
        stems : tensor [shape=(batch, stem, channel, n_samples), float32]
        returns : (estimated, true), tensors [shape=(batch, stem, channel, frame, bin)] with the bins that the network
            estimates, and its one channel where it has but one

        Raises
        ------
        UsageError : the family is not trained on magnitudes
        """
        raise UsageError(f"networks of the family '{self.family}' are not trained on magnitudes")

    def errors(self, mix: Tensor, stems: Tensor) -> tuple[Tensor, Tensor]:
        """Energies of what is wrong in the stems' spectra, and of the mix.

        mix : tensor [shape=(batch, channel, n_samples), float32]
        stems : tensor [shape=(batch, stem, channel, n_samples), float32]
        returns : (errors, energies), tensors [shape=(batch, stem)] and [shape=(batch,)], over all channels, frames, and
            bins that the network estimates

        Raises
        ------
        UsageError : the family is not trained on spectra
        """
        raise UsageError(f"networks of the family '{self.family}' are not trained on spectra")

    def train(self: AnyTrainable, mode: bool = True) -> AnyTrainable:
        """Switch between training and evaluation; frozen batch normalisations stay in evaluation."""
        super().train(mode)
        if self.batch_norm == "frozen":
            for module in self.modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                    module.eval()
        return self

    def _window(self, mix: Tensor, n_total: int) -> Tensor:
        """What the network sees of an example, checked: zeros around it up to `n_total` samples."""
        if mix.ndim != 3 or tuple(mix.shape[1:]) != (self.n_channels, self.n_samples):
            raise UsageError(
                f"a mix must be (batch, {self.n_channels} channels, {self.n_samples} samples), got {tuple(mix.shape)}"
            )
        return functional.pad(mix, (self.n_before, n_total - self.n_before - self.n_samples))

    def _own(self, samples: Tensor, n_before: int) -> Tensor:
        """The samples of an example, after so many that are not."""
        return samples.narrow(-1, n_before, self.n_samples)


class _Spectrogram(nn.Module):
    """STFT of windows of one length and its inverse, as `unbraid.dsp.stft` computes them.

    n_samples, n_frames : of a window, and of its spectrogram
    n_before : samples to put before a window; behind it come as many as fill the last frame
    reflect : these mirror the window by the rule of `unbraid.dsp.stft.pad`; otherwise they are zeros
    normalised : divide by √n_fft
    """

    def __init__(
        self,
        n_samples: int,
        *,
        n_fft: int,
        hop: int,
        n_frames: int,
        n_before: int = 0,
        reflect: bool = True,
        normalised: bool = False,
    ) -> None:
        super().__init__()
        self.n_fft, self.hop, self.normalised = n_fft, hop, normalised
        self.n_total = frames_to_samples(n_frames, n_fft, hop)
        n_after = self.n_total - n_before - n_samples
        self.zeros, self.mirrored = (n_before, n_after), (0, 0)
        if reflect:
            n_missing = max(0, max(n_before, n_after) - n_samples + 1)
            behind = min(n_after, n_missing)
            self.zeros = (n_missing - behind, behind)
            self.mirrored = (n_before - self.zeros[0], n_after - self.zeros[1])
        _keep(self, "window", hann(n_fft))

    def forward(self, samples: Tensor) -> Tensor:
        """From (…, n_samples) to (…, n_fft/2 + 1, frame), complex."""
        x = functional.pad(samples, self.zeros).flatten(0, -2)
        if any(self.mirrored):
            x = functional.pad(x, self.mirrored, mode="reflect")
        window = self.get_buffer("window")
        spec = torch.stft(
            x, self.n_fft, self.hop, window=window, center=False, normalized=self.normalised, return_complex=True
        )
        return spec.reshape(*samples.shape[:-1], *spec.shape[1:])

    def inverse(self, spec: Tensor) -> Tensor:
        """From (…, bin, frame) to (…, n_total), not yet divided by how completely frames cover each sample.

        spec : its bins from the first one on; those that are missing are zeros
        """
        scale = self.hop / (self.n_fft * 3 / 8) * (self.n_fft**0.5 if self.normalised else 1)
        window = self.get_buffer("window")[:, None] * scale
        frames = torch.fft.irfft(spec, self.n_fft, dim=-2) * window
        added = functional.fold(
            frames.flatten(0, -3), (1, self.n_total), kernel_size=(1, self.n_fft), stride=(1, self.hop)
        )
        return added.reshape(*spec.shape[:-2], self.n_total)


class _DemucsTrainable(Trainable):
    """Demucs in the time domain: an example, with zeros around it up to a length that the network takes."""

    def separate(self, mix: Tensor) -> Tensor:
        stems: Tensor = self.network(self._window(mix, self.n_window)).to(mix.dtype)
        return self._own(stems, (stems.shape[-1] - self.n_samples) // 2)


class _HybridTrainable(Trainable):
    """Hybrid Demucs and HT Demucs: spectrograms, samples, or both, which are added up."""

    def __init__(self, family: str, config: Any, n_samples: int) -> None:
        super().__init__(family, config, n_samples)
        n_fft, hop = config.n_fft, config.hop
        self.hybrid: bool = getattr(config, "hybrid", True)
        late: bool = getattr(config, "hybrid_old", False)
        self.n_network: int = self.transform.network_samples(self.n_window)
        n_frames = self.transform.n_frames(self.n_network)
        n_padding = (3 if self.hybrid else 4) * hop // 2
        self.spectrogram = _Spectrogram(
            self.n_network,
            n_fft=n_fft,
            hop=hop,
            n_frames=n_frames,
            n_before=n_padding,
            reflect=not late,
            normalised=True,
        )
        # Which frames count as covering a sample, and where stems begin, is explained in `HybridTransform._unpadded`.
        self.n_skipped = self.n_before + (0 if late else n_padding)
        covering = np.ones(self.spectrogram.n_total, np.float32)
        if late:
            covering = squares_covering(n_frames + 2, n_fft=n_fft, hop=hop)[2 * hop :]
        elif not self.hybrid:
            covering = squares_covering(n_frames, n_fft=n_fft, hop=hop)
        _keep(self, "covering", covering[self.n_skipped :][:n_samples])

    def separate(self, mix: Tensor) -> Tensor:
        window = self._window(mix, self.n_network)
        spec = self.spectrogram(window)[..., :-1, :]
        if self.config.complex_as_channels:
            inputs = torch.view_as_real(spec).movedim(-1, 2).flatten(1, 2)
        else:
            inputs = spec.abs()
        spectra, *waves = self.network(inputs, window) if self.hybrid else self.network(inputs)
        spectra = spectra.to(mix.dtype)
        if self.config.complex_as_channels:
            parts = spectra.unflatten(2, (-1, 2))
            spectra = torch.complex(parts[:, :, :, 0], parts[:, :, :, 1])
        else:
            phases = spec / (spec.abs() + _SILENCE) if self.config.n_wiener_iterations < 0 else _phases(spec)
            spectra = spectra * phases[:, None]
        stems = self._own(self.spectrogram.inverse(spectra), self.n_skipped) / self.get_buffer("covering")
        for wave in waves:
            stems = stems + self._own(wave.to(mix.dtype), self.n_before)
        return stems


class _MaskedErrors(torch.autograd.Function):
    """Energies Σ |m x − s|² − |s|² of real masks m, over all but the first two axes.

    m, |x|² and Re x s* as arrays [shape=(batch, stem, channel, frame, bin)], the second without stems. The sum is of
    m (m |x|² − 2 Re x s*), half the work of complex numbers; its slope is kept instead of what it is made from.
    """

    @staticmethod
    def forward(ctx: Any, masks: Tensor, power: Tensor, common: Tensor) -> Tensor:
        sums, slopes = masks.new_empty(masks.shape[:2]), torch.empty_like(common)
        for b, s in np.ndindex(*masks.shape[:2]):
            half = torch.mul(masks[b, s], power[b]).sub_(common[b, s])
            sums[b, s] = torch.dot(masks[b, s].reshape(-1), (half - common[b, s]).view(-1))
            torch.mul(half, 2, out=slopes[b, s])
        ctx.save_for_backward(slopes)
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * gradients[0][:, :, None, None, None], None, None


class _SpleeterTrainable(Trainable):
    """Spleeter and the shared U-Net: ratio masks of the estimated magnitudes.

    As in the pipeline, where neighbouring segments complete them, `separate` gives the first and last n_fft − hop
    samples with the weight that the frames inside the segment have: the stems together are not the mix there.
    """

    on_magnitudes = True

    def __init__(self, family: str, config: Any, n_samples: int) -> None:
        super().__init__(family, config, n_samples)
        if n_samples != self.n_window:
            raise UsageError(f"an example must be {self.n_window} samples for this network, got {n_samples}")
        self.spectrogram = _Spectrogram(n_samples, n_fft=config.n_fft, hop=config.hop, n_frames=config.n_frames)

    def separate(self, mix: Tensor) -> Tensor:
        n_bins = self.config.n_bins
        spec = self.spectrogram(self._window(mix, self.n_samples))
        masks = self._masks(spec)
        stems = masks * spec[:, None, :, :n_bins]
        if self.config.mask_extension == "average":
            stems = torch.cat((stems, masks.mean(-2, keepdim=True) * spec[:, None, :, n_bins:]), dim=-2)
        return self.spectrogram.inverse(stems)

    def magnitudes(self, mix: Tensor, stems: Tensor) -> tuple[Tensor, Tensor]:
        estimated = self.network(self._seen(self.spectrogram(self._window(mix, self.n_samples))))
        return estimated.to(mix.dtype), self._seen(self.spectrogram(stems))

    def errors(self, mix: Tensor, stems: Tensor) -> tuple[Tensor, Tensor]:
        spec = self.spectrogram(self._window(mix, self.n_samples))
        masks = self._own_masks(spec)
        seen = self._real(spec)
        power = seen.square().sum(-1)
        common, energies = torch.zeros_like(masks), masks.new_zeros(masks.shape[:2])
        # One stem at a time, which stays in the cache. In a fifth of them is silence.
        for b, s in np.ndindex(*masks.shape[:2]):
            if not stems[b, s].any():
                continue
            true = self._real(self.spectrogram(stems[b, s]))
            common[b, s] = (true * seen[b]).sum(-1)
            energies[b, s] = true.square().sum()
        errors: Tensor = _MaskedErrors.apply(masks, power, common) + energies  # type: ignore[no-untyped-call]
        return errors.clamp_min(0), power.sum((1, 2, 3))

    def _real(self, spec: Tensor) -> Tensor:
        """The bins that the network sees, as pairs of numbers [shape=(…, frame, n_bins, 2)]: as they lie in memory."""
        return torch.view_as_real(spec[..., : self.config.n_bins, :].transpose(-1, -2))

    def _masks(self, spec: Tensor) -> Tensor:
        """Ratio masks [shape=(batch, stem, channel, n_bins, frame)] of the mix's spectrogram."""
        estimates = self.network(self._seen(spec)).to(spec.real.dtype).transpose(-1, -2)
        # The root of 0 would have no slope.
        powers = estimates.clamp_min(torch.finfo(estimates.dtype).tiny) ** self.config.separation_exponent
        shares = powers + EPSILON / len(self.stems)
        masks: Tensor = shares / shares.sum(1, keepdim=True)
        return masks

    def _own_masks(self, spec: Tensor) -> Tensor:
        """The same, frames before bins, by a shorter way where the network's masks add up to one.

        They differ in silence only.
        """
        if not isinstance(self.network, SharedUNet) or self.config.separation_exponent != 1:
            return self._masks(spec).transpose(-1, -2)
        logits = self.network.mask_logits(self._seen(spec))
        return logits.to(spec.real.dtype).softmax(1)

    def _seen(self, spec: Tensor) -> Tensor:
        """What the network sees of a spectrogram: [shape=(…, frame, n_bins)]."""
        return spec[..., : self.config.n_bins, :].abs().transpose(-1, -2)


class _OpenUnmixTrainable(Trainable):
    """Open-Unmix: estimated magnitudes with the phase of the mix, or its masks; never the steps of EM after them."""

    on_magnitudes = True

    def __init__(self, family: str, config: Any, n_samples: int) -> None:
        super().__init__(family, config, n_samples)
        n_fft, hop, n_frames = config.n_fft, config.hop, self.transform.n_frames(n_samples)
        self.spectrogram = _Spectrogram(n_samples, n_fft=n_fft, hop=hop, n_frames=n_frames, n_before=n_fft // 2)
        covering = squares_covering(n_frames, n_fft=n_fft, hop=hop)[n_fft // 2 :][:n_samples]
        _keep(self, "covering", covering.clip(_LEAST_COVERING))

    def separate(self, mix: Tensor) -> Tensor:
        spec = self.spectrogram(self._window(mix, self.n_samples))
        estimates = self.network(self._seen(spec)).to(mix.dtype).transpose(-1, -2)
        if self.config.softmask:
            stems = estimates / (estimates.sum(1, keepdim=True) + EPSILON) * spec[:, None]
        else:
            stems = estimates * _phases(spec)[:, None]
        samples = self.spectrogram.inverse(stems)
        return self._own(samples, self.config.n_fft // 2) / self.get_buffer("covering")

    def magnitudes(self, mix: Tensor, stems: Tensor) -> tuple[Tensor, Tensor]:
        estimated = self.network(self._seen(self.spectrogram(self._window(mix, self.n_samples))))
        return estimated.to(mix.dtype), self._seen(self.spectrogram(stems))

    def _seen(self, spec: Tensor) -> Tensor:
        """What the networks see of a spectrogram: [shape=(…, n_channels of the networks, frame, bin)]."""
        magnitudes = spec.abs().transpose(-1, -2)
        return magnitudes if self.config.n_channels > 1 else magnitudes.mean(-3, keepdim=True)


# By family: what makes the network of a configuration, and what surrounds it.
_FAMILIES: Final[Mapping[str, tuple[Callable[[Any], nn.Module], type[Trainable]]]] = MappingProxyType(
    {
        "spleeter": (make_module, _SpleeterTrainable),
        "demucs": (DemucsNetwork, _DemucsTrainable),
        "hdemucs": (HDemucsNetwork, _HybridTrainable),
        "htdemucs": (HTDemucsNetwork, _HybridTrainable),
        "openunmix": (OpenUnmixNetwork, _OpenUnmixTrainable),
    }
)


def make_trainable(family: str, config: Any, *, n_samples: int) -> Trainable:
    """Make a network that can be trained; its weights are random, rescaled as the configuration says.

    family, config : as a model folder names them
    n_samples : of an example

    Raises
    ------
    ModelError : there is no such family
    UsageError : examples of this length are impossible
    """
    families.family(family)  # which knows what to say of a name that is none
    _, kind = _FAMILIES[family]
    return kind(family, config, n_samples)


def example_samples(family: str, config: Any, segment_s: float | None = None) -> int:
    """How many samples an example has.

    segment_s : wanted length in seconds; None for the family's own

    Raises
    ------
    UsageError : no length, or not the only one that the network is made for (Spleeter's T frames; the training segment
        of an HT Demucs that fills everything up to it)
    """
    n_own = _own_samples(family, config)
    if segment_s is None:
        return n_own
    n_samples: int = round(segment_s * config.sample_rate)
    if n_samples < 1:
        raise UsageError(f"segment_s must be positive, got {segment_s:g}")
    if n_samples != n_own and (family == "spleeter" or (family == "htdemucs" and config.use_train_segment)):
        only = n_own / config.sample_rate
        raise UsageError(f"segment_s must be left out, or {only:.6g} as this network is made for, got {segment_s:g}")
    return n_samples


def initialise(trainable: Trainable, *, seed: int, rescale: float | None) -> None:
    """Give a network the random weights of a seed; torch's own generator stays as it is.

    rescale : reference deviation of the weights of convolutions (demucs-2019, section 3), whatever the configuration
        says; None or 0 for no rescaling

    Raises
    ------
    UsageError : `rescale` is negative, or the network has no convolutions
    """
    config, rescale = trainable.config, float(rescale or 0)
    if rescale < 0:
        raise UsageError(f"rescale must be 0 or more, got {rescale:g}")
    if hasattr(config, "rescale"):  # the constructor knows which convolutions are meant
        network = _seeded(trainable.family, replace(config, rescale=rescale), seed)
    else:
        network = _seeded(trainable.family, config, seed)
        if rescale and trainable.family == "openunmix":
            raise UsageError("rescale is for convolutions, and Open-Unmix has none")
        if rescale:
            rescale_weights(network, rescale)
    trainable.network.load_state_dict(network.state_dict())


def set_input_statistics(
    trainable: Trainable, magnitudes_mean: NDArray[np.floating[Any]], magnitudes_std: NDArray[np.floating[Any]]
) -> None:
    """Tell an Open-Unmix network how loud each bin is, after `initialise`, which forgets it.

    magnitudes_mean, magnitudes_std : mean and standard deviation of the magnitudes of the training set's mixes
        [shape=(n_fft/2 + 1,)]; a deviation below 1e-4 of the greatest counts as that

    Raises
    ------
    UsageError : another family, or other shapes
    """
    if trainable.family != "openunmix":
        raise UsageError(f"networks of the family '{trainable.family}' have no input statistics")
    mean, std = np.asarray(magnitudes_mean, np.float64), np.asarray(magnitudes_std, np.float64)
    if mean.shape != (trainable.config.n_bins,) or std.shape != mean.shape:
        raise UsageError(f"statistics must be of {trainable.config.n_bins} bins, got {mean.shape} and {std.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and std.max() > 0):
        raise UsageError("statistics must be finite, and some deviation above 0")
    scale = 1 / np.maximum(std, _LEAST_DEVIATION * std.max())
    parameters = dict(trainable.network.named_parameters())
    with torch.no_grad():
        for stem, target in zip(trainable.stems, trainable.config.targets, strict=True):
            parameters[f"{stem}.input_mean"].copy_(torch.from_numpy(-mean[: target.max_bin]))
            parameters[f"{stem}.input_scale"].copy_(torch.from_numpy(scale[: target.max_bin]))


def _seeded(family: str, config: Any, seed: int) -> nn.Module:
    """A network with the random weights of a seed."""
    make, _ = _FAMILIES[family]
    with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU
        torch.manual_seed(seed)
        return make(config)


def _own_samples(family: str, config: Any) -> int:
    if family == "spleeter":
        return frames_to_samples(config.n_frames, config.n_fft, config.hop)
    n_samples: int = round(_OPENUNMIX_S * config.sample_rate) if family == "openunmix" else config.segment_samples
    return n_samples


def _keep(module: nn.Module, name: str, constant: NDArray[np.float32]) -> None:
    """Make a constant part of a module, which moves with it, but of no state."""
    module.register_buffer(name, torch.from_numpy(constant.copy()), persistent=False)


def _phases(spec: Tensor) -> Tensor:
    """Numbers of magnitude 1 with the phases of a spectrogram; 1 where it is silent."""
    magnitude = spec.abs()
    silent = magnitude == 0
    return torch.where(silent, torch.ones_like(spec), spec / magnitude.masked_fill(silent, 1))
