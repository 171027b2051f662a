"""What a Hybrid Demucs network is, and what it has in common with HT Demucs, checked when built."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from unbraid.errors import ModelError
from unbraid.models.demucs.config import check_branch, check_groups, check_width
from unbraid.models.demucs.kwargs import fields_from_kwargs
from unbraid.models.plain import check_fields, check_stems, read_plain, shown, write_plain

__all__ = ["UNET_ARGUMENTS", "UNET_RANGES", "HDemucsConfig", "UNetConfig", "UNetLayer"]

# Arguments of upstream's classes of both families.
UNET_ARGUMENTS: Final = (
    *("sources", "audio_channels", "channels", "channels_time", "growth", "nfft", "wiener_iters", "end_iters"),
    *("wiener_residual", "cac", "depth", "rewrite", "multi_freqs", "multi_freqs_depth", "freq_emb", "emb_scale"),
    *("emb_smooth", "kernel_size", "time_stride", "stride", "context", "context_enc", "norm_starts", "norm_groups"),
    *("dconv_mode", "dconv_depth", "dconv_comp", "dconv_init", "rescale", "samplerate", "segment"),
)
UNET_RANGES: Final = MappingProxyType(
    {
        "n_channels": (1, 64),
        "sample_rate": (1, 1_000_000),
        "segment_samples": (1, 2**31),
        "hidden_channels": (1, 4096),
        "hidden_channels_time": (1, 4096),
        "growth": (0, 16),
        "n_fft": (16, 2**18),
        "n_wiener_iterations": (-1, 100),
        "depth": (1, 12),
        "multi_freqs": (0, 1),
        "multi_freqs_depth": (0, 12),
        "freq_emb": (0, 1e3),
        "emb_scale": (1e-6, 1e6),
        "kernel_size": (1, 1024),
        "stride": (1, 1024),
        "time_stride": (1, 1024),
        "context": (0, 1024),
        "context_enc": (0, 1024),
        "norm_starts": (0, 2**31),
        "norm_groups": (1, 4096),
        "dconv_mode": (0, 3),
        "dconv_depth": (0, 16),
        "dconv_comp": (1, 4096),
        "dconv_init": (0, 1e3),
        "rescale": (0, 1e3),
    }
)
_RANGES: Final = MappingProxyType(
    {
        **UNET_RANGES,
        "n_wiener_iterations_training": (-1, 100),
        "dconv_attn": (0, 2**31),
        "dconv_lstm": (0, 2**31),
    }
)
_MOST_BANDS: Final = 64


@dataclass(frozen=True)
class UNetLayer:
    """One layer of the encoder of both branches, with the layer of the decoder that mirrors it.

    n_in, n_out : channels that the spectrogram's encoder takes and gives
    n_decoded : channels that the spectrogram's decoder gives; it takes `n_out`
    n_in_time, n_out_time, n_decoded_time : the same of the waveform's branch
    kernel_size, stride : of the spectrogram's branch, along frequency; along time where `along_time`
    along_time : past the layer that leaves one bin of the spectrogram: there is but one branch, along time
    merges : this is that layer; the waveform's branch ends here with its first convolution, without padding
    normed : has group normalisation
    n_bands : bands of the spectrogram with weights of their own; 0 for one set of weights and context along frequency
    """

    n_in: int
    n_out: int
    n_decoded: int
    n_in_time: int
    n_out_time: int
    n_decoded_time: int
    kernel_size: int
    stride: int
    along_time: bool
    merges: bool
    normed: bool
    n_bands: int


@dataclass(frozen=True)
class UNetConfig:
    """The U-Nets over waveform and spectrogram that Hybrid Demucs and HT Demucs have in common.

    stems : names of the stems in the order of the network's outputs
    n_channels : of the audio
    sample_rate : in Hz
    segment_samples : length of the excerpts it is given when a whole track is separated
    hidden_channels : of the outermost layer ("channels" upstream); each further layer has `growth` times as many
    hidden_channels_time : the same for the waveform's branch; None for as many
    growth, depth : of the encoders; the decoders mirror them
    n_fft : STFT window in samples; the hop is a quarter. The Nyquist bin is left out
    complex_as_channels : real and imaginary parts are channels, and the network gives the stems' spectrograms;
        otherwise it sees magnitudes and gives magnitudes
    n_wiener_iterations : EM steps of the multichannel Wiener filter on these magnitudes; -1 gives them the mix's phase
    wiener_residual : the filter has one more source, for what the stems leave of the mix
    rewrite : a further convolution with GLU in every layer
    multi_freqs : where to cut the spectrogram, as fractions of its height, into bands with weights of their own
    multi_freqs_depth : outermost layers for which this holds
    freq_emb : weight of the frequency embedding that is added after the outermost layer; 0 for none
    emb_scale : factor on the embedding's parameters, so that they learn faster
    emb_smooth : the embedding is smooth along frequency before training
    kernel_size, stride : of the outer convolution of each layer
    time_stride : stride of the layers after both branches have met; their kernel is twice as long
    context, context_enc : steps on either side that the further convolution of decoder and encoder sees
    norm_starts, norm_groups : first layer with group normalisation, and its groups
    dconv_mode : residual branches in 0 neither, 1 the encoders, 2 the decoders, 3 both
    dconv_depth, dconv_dilate : convolutions in each branch, and whether their dilation doubles from one to the next
    dconv_comp : a branch has 1 / dconv_comp of its layer's channels
    dconv_init : scale of the branches before training
    rescale : reference standard deviation for the weights before training; 0 for no rescaling

    Raises
    ------
    ModelError : a value that no such network can have
    """

    stems: tuple[str, ...]
    n_channels: int = 2
    sample_rate: int = 44100
    segment_samples: int = 40 * 44100
    hidden_channels: int = 48
    hidden_channels_time: int | None = None
    growth: float = 2
    n_fft: int = 4096
    complex_as_channels: bool = True
    n_wiener_iterations: int = 0
    wiener_residual: bool = False
    depth: int = 6
    rewrite: bool = True
    multi_freqs: tuple[float, ...] = ()
    multi_freqs_depth: int = 2
    freq_emb: float = 0.2
    emb_scale: float = 10
    emb_smooth: bool = True
    kernel_size: int = 8
    stride: int = 4
    time_stride: int = 2
    context: int = 1
    context_enc: int = 0
    norm_starts: int = 4
    norm_groups: int = 4
    dconv_mode: int = 1
    dconv_depth: int = 2
    dconv_dilate: bool = True
    dconv_comp: float = 4
    dconv_init: float = 1e-4
    rescale: float = 0.1

    @property
    def hop(self) -> int:
        """Samples from one frame of the STFT to the next."""
        return self.n_fft // 4

    @property
    def n_embedded_bins(self) -> int:
        """Bins after the outermost layer, each of which has its embedding."""
        return _next_bins(self.n_fft // 2, self.kernel_size, self.stride)

    def layers(self) -> tuple[UNetLayer, ...]:
        """Channels and convolutions of every layer, outermost first."""
        layers: list[UNetLayer] = []
        n_bins = self.n_fft // 2
        per_bin = 2 if self.complex_as_channels else 1
        n_in, n_in_time = self.n_channels * per_bin, self.n_channels
        n_decoded, n_decoded_time = n_in * len(self.stems), n_in_time * len(self.stems)
        n_out, n_out_time = self.hidden_channels, self.hidden_channels_time or self.hidden_channels
        for i in range(self.depth):
            along_time = n_bins == 1
            merges = not along_time and n_bins <= self.kernel_size
            if merges:
                n_out = n_out_time = max(n_out, n_out_time)
            layers.append(
                UNetLayer(
                    n_in=n_in,
                    n_out=n_out,
                    n_decoded=n_decoded,
                    n_in_time=n_in_time,
                    n_out_time=n_out_time,
                    n_decoded_time=n_decoded_time,
                    kernel_size=2 * self.time_stride if along_time else n_bins if merges else self.kernel_size,
                    stride=self.time_stride if along_time else self.stride,
                    along_time=along_time,
                    merges=merges,
                    normed=i >= self.norm_starts,
                    n_bands=len(self.multi_freqs) + 1 if self.multi_freqs and i < self.multi_freqs_depth else 0,
                )
            )
            n_in = n_decoded = n_out
            n_in_time = n_decoded_time = n_out_time
            n_out, n_out_time = int(self.growth * n_out), int(self.growth * n_out_time)
            n_bins = _next_bins(n_bins, self.kernel_size, self.stride)
        return tuple(layers)

    def check_unet(self, ranges: Mapping[str, tuple[float, float]], *, hybrid: bool, attention_starts: int) -> None:
        """Check what both families have in common.

        ranges : of the numbers of both families, and of this family's own
        hybrid : there is a branch for the waveform
        attention_starts : first layer whose residual branches have attention

        Raises
        ------
        ModelError : a value that no such network can have
        """
        check_stems(self.stems)
        check_fields(self, ranges)
        if self.n_fft % 4:
            raise ModelError(f"n_fft must be a multiple of 4, got {self.n_fft}")
        edges = (0, *self.multi_freqs, 1)
        if len(edges) > _MOST_BANDS or any(low >= high for low, high in itertools.pairwise(edges)):
            raise ModelError(f"multi_freqs must rise from 0 to 1, got {shown(self.multi_freqs)}")
        n_bins = self.n_fft // 2
        for i, layer in enumerate(self.layers()):
            if n_bins > self.kernel_size and n_bins % self.stride:
                raise ModelError(f"stride must divide the bins of every layer, got {self.stride} for {n_bins}")
            n_bins = _next_bins(n_bins, self.kernel_size, self.stride)
            self._check_layer(layer, hybrid=hybrid, attention=i >= attention_starts)

    def _check_layer(self, layer: UNetLayer, *, hybrid: bool, attention: bool) -> None:
        widths, decoded = [layer.n_out], [layer.n_decoded]
        if hybrid and not layer.along_time:
            decoded.append(layer.n_decoded_time)
            if not layer.merges:
                widths.append(layer.n_out_time)
        for width in widths:
            check_width(width)
        if layer.normed:
            check_groups(self.norm_groups, *widths, *decoded)
        if layer.n_bands and (layer.normed or layer.merges or layer.along_time):
            raise ModelError("multi_freqs_depth must end before the first layer with norm or without frequencies")
        if self.dconv_mode and self.dconv_depth:
            for width in widths:
                check_branch(width, self.dconv_comp, attention)


@dataclass(frozen=True)
class HDemucsConfig(UNetConfig):
    """A Hybrid Demucs network: the fields of `UNetConfig`, and these.

    hybrid : there is a branch for the waveform, which meets the spectrogram's where one bin is left of it
    hybrid_old : the STFT pads with zeros instead of reflecting the ends, and its inverse keeps the padding on the left,
        so that the spectrogram's branch comes 3/2 hops late: the first models were trained like this
    n_wiener_iterations_training : EM steps in training; those of a hybrid network are `n_wiener_iterations`
    dconv_attn, dconv_lstm : first layer whose residual branches have attention, and an LSTM

    Raises
    ------
    ModelError : a value that no such network can have
    """

    hybrid: bool = True
    hybrid_old: bool = False
    n_wiener_iterations_training: int = 0
    dconv_attn: int = 4
    dconv_lstm: int = 4

    def __post_init__(self) -> None:
        self.check_unet(_RANGES, hybrid=self.hybrid, attention_starts=self.dconv_attn)
        if self.hybrid_old and not self.hybrid:
            raise ModelError("hybrid_old needs hybrid")
        if self.hybrid and self.n_wiener_iterations_training != self.n_wiener_iterations:
            raise ModelError("n_wiener_iterations_training must be n_wiener_iterations in a hybrid network")

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> HDemucsConfig:
        """Read the arguments that upstream's HDemucs was built with; those absent have that class's defaults.

        kwargs : as packages hold them; numbers may be fractions

        Raises
        ------
        ModelError : an unknown argument (the nearest known one is named) or an impossible value
        """
        known = (*UNET_ARGUMENTS, "hybrid", "hybrid_old", "dconv_attn", "dconv_lstm")
        return cls(**fields_from_kwargs(kwargs, known))

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> HDemucsConfig:
        """Read what `to_plain` writes; ModelError for an unknown key or an impossible value."""
        return read_plain(cls, content)

    def to_plain(self) -> dict[str, Any]:
        """Turn into plain numbers, strings and lists by our names."""
        return write_plain(self)


def _next_bins(n_bins: int, kernel_size: int, stride: int) -> int:
    """Bins after a layer: one that can see them all leaves one."""
    return 1 if n_bins <= kernel_size else n_bins // stride
