"""Hybrid Demucs as a torch module, and the U-Nets over spectrogram and waveform that HT Demucs has too.

After A. Défossez, "Hybrid spectrogram and waveform source separation", ISMIR 2021 workshop, section 3. The STFT and its
inverse are not part of the network: it takes the mix in both forms and gives the stems in both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from unbraid.errors import ModelError
from unbraid.models.hdemucs.bands import decoder_bands, encoder_bands
from unbraid.models.hdemucs.config import HDemucsConfig, UNetConfig, UNetLayer
from unbraid.models.layers import DConv, ScaledEmbedding, rescale_weights

__all__ = ["HDemucsNetwork", "HybridUNet"]

_SILENCE = 1e-5  # added to the standard deviation that the input is divided by


@dataclass(frozen=True)
class _Spec:
    """A layer of one branch: its convolutions and what goes with them.

    over_bins : arrays are (batch, channel, freq, frame) and the outer convolution goes along freq; else (…, time)
    padding : of the outer convolution on either side
    bare : has nothing but the outer convolution and its normalisation
    attention, with_lstm : of the residual branch
    """

    n_in: int
    n_out: int
    n_decoded: int
    kernel_size: int
    stride: int
    padding: int
    over_bins: bool
    normed: bool
    bare: bool
    banded: bool
    attention: bool
    with_lstm: bool


def _spectral(layer: UNetLayer, *, attention: bool, with_lstm: bool) -> _Spec:
    """Describe a layer of the spectrogram's branch."""
    return _Spec(
        n_in=layer.n_in,
        n_out=layer.n_out,
        n_decoded=layer.n_decoded,
        kernel_size=layer.kernel_size,
        stride=layer.stride,
        padding=0 if layer.merges else layer.kernel_size // 4,
        over_bins=not layer.along_time,
        normed=layer.normed,
        bare=False,
        banded=layer.n_bands > 0,
        attention=attention,
        with_lstm=with_lstm,
    )


def _temporal(config: UNetConfig, layer: UNetLayer, beside: _Spec) -> _Spec:
    """Describe a layer of the waveform's branch by the spectrogram's beside it."""
    return replace(
        beside,
        n_in=layer.n_in_time,
        n_out=layer.n_out_time,
        n_decoded=layer.n_decoded_time,
        kernel_size=config.kernel_size,
        stride=config.stride,
        padding=config.kernel_size // 4,
        over_bins=False,
        bare=layer.merges,
        banded=False,
    )


class _Encoder(nn.Module):
    """One layer of an encoder.

    Parameters are named `conv`, `norm1`, `rewrite`, `norm2` and `dconv`.
    """

    def __init__(self, config: UNetConfig, spec: _Spec) -> None:
        super().__init__()
        self.spec = spec
        padding = 0 if spec.banded else spec.padding
        self.conv: nn.Module
        if spec.over_bins:
            self.conv = nn.Conv2d(spec.n_in, spec.n_out, (spec.kernel_size, 1), (spec.stride, 1), (padding, 0))
        else:
            self.conv = nn.Conv1d(spec.n_in, spec.n_out, spec.kernel_size, spec.stride, padding)
        if spec.bare:
            return
        self.norm1 = _norm(config, spec, spec.n_out)
        self.rewrite = _rewrite(config, spec, config.context_enc, config.context_enc)
        self.norm2 = _norm(config, spec, 2 * spec.n_out) if config.rewrite else nn.Identity()
        self.dconv = _dconv(config, spec) if config.dconv_mode & 1 else None

    def forward(self, x: Tensor, injected: Tensor | None = None) -> Tensor:
        """Encode.

        x : tensor [shape=(batch, n_in, freq, frame)], or (batch, n_in, time)
        injected : tensor [shape=(batch, n_out, frame)], added to what the outer convolution gives
        returns : tensor [shape=(batch, n_out, freq / stride, frame)], or (batch, n_out, ceil(time / stride))
        """
        if not self.spec.over_bins:
            x = x.flatten(1, -2)  # there is one bin where the branches have met
            x = functional.pad(x, (0, -x.shape[-1] % self.spec.stride))
        x = self.conv(x)
        if self.spec.bare:
            return x
        if injected is not None:
            if injected.shape[-1] != x.shape[-1]:
                raise ModelError(
                    f"n_fft / 4 must be the product of the strides up to where the branches meet, "
                    f"got {injected.shape[-1]} steps of the waveform for {x.shape[-1]} frames"
                )
            x = x + injected[:, :, None]
        x = functional.gelu(self.norm1(x))
        x = _along_time(self.dconv, x)
        return x if self.rewrite is None else functional.glu(self.norm2(self.rewrite(x)), dim=1)


class _Decoder(nn.Module):
    """One layer of a decoder: what the encoder's does, in reverse.

    outermost : its output has no activation

    Parameters are named `conv_tr`, `norm2`, `rewrite`, `norm1` and `dconv`.
    """

    def __init__(self, config: UNetConfig, spec: _Spec, *, outermost: bool) -> None:
        super().__init__()
        self.spec = spec
        self.outermost = outermost
        self.conv_tr: nn.ConvTranspose1d | nn.ConvTranspose2d
        if spec.over_bins:
            self.conv_tr = nn.ConvTranspose2d(spec.n_out, spec.n_decoded, (spec.kernel_size, 1), (spec.stride, 1))
        else:
            self.conv_tr = nn.ConvTranspose1d(spec.n_out, spec.n_decoded, spec.kernel_size, spec.stride)
        self.norm2 = _norm(config, spec, spec.n_decoded)
        if spec.bare:
            return
        # A band must not see its neighbours.
        self.rewrite = _rewrite(config, spec, 0 if spec.banded else config.context, config.context)
        self.norm1 = _norm(config, spec, 2 * spec.n_out) if config.rewrite else nn.Identity()
        self.dconv = _dconv(config, spec) if config.dconv_mode & 2 else None

    def forward(self, x: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Decode.

        x : tensor [shape=(batch, n_out, freq, frame)], or (batch, n_out, time)
        length : how many steps of time to give, where this layer goes along time

        Returns
        -------
        decoded : tensor [shape=(batch, n_decoded, stride * freq, frame)], or (batch, n_decoded, length)
        inner : tensor of the shape of `x`, what the transposed convolution took
        """
        inner = self.inner(x)
        y = self.norm2(self.conv_tr(inner))
        padding, axis = self.spec.padding, -2 if self.spec.over_bins else -1
        y = y.narrow(axis, padding, y.shape[axis] - 2 * padding if self.spec.over_bins else length)
        return y if self.outermost else functional.gelu(y), inner

    def inner(self, x: Tensor) -> Tensor:
        """Do all that comes before the transposed convolution."""
        if self.spec.bare:
            return x
        if self.rewrite is not None:
            x = functional.glu(self.norm1(self.rewrite(x)), dim=1)
        return _along_time(self.dconv, x)


class _BandedEncoder(nn.Module):
    """A layer of the spectrogram's encoder for each band."""

    def __init__(self, config: UNetConfig, spec: _Spec) -> None:
        super().__init__()
        self.spec = spec
        self.cuts = config.multi_freqs
        self.layers = nn.ModuleList(_Encoder(config, spec) for _ in range(len(self.cuts) + 1))

    def forward(self, x: Tensor, injected: None = None) -> Tensor:
        """Encode as `_Encoder` does."""
        bands = encoder_bands(x.shape[2], self.cuts, self.spec.kernel_size, self.spec.stride)
        return torch.cat(
            [
                layer(functional.pad(x[:, :, band.start : band.stop], (0, 0, band.n_below, band.n_above)))
                for band, layer in zip(bands, self.layers, strict=True)
            ],
            dim=2,
        )


class _BandedDecoder(nn.Module):
    """A layer of the spectrogram's decoder for each band."""

    def __init__(self, config: UNetConfig, spec: _Spec, *, outermost: bool) -> None:
        super().__init__()
        self.spec = spec
        self.outermost = outermost
        self.cuts = config.multi_freqs
        self.layers = nn.ModuleList(_Decoder(config, spec, outermost=outermost) for _ in range(len(self.cuts) + 1))

    def forward(self, x: Tensor, length: int) -> tuple[Tensor, None]:
        """Decode as `_Decoder` does, but for what the transposed convolutions took."""
        stride = self.spec.stride
        parts: list[Tensor] = []
        for band, layer in zip(decoder_bands(x.shape[2], self.cuts), cast(list[_Decoder], self.layers), strict=True):
            part = layer.conv_tr(layer.inner(x[:, :, band.start : band.stop]))
            if parts:
                bias = cast(Tensor, layer.conv_tr.bias)[:, None, None]
                shared = parts[-1][:, :, -stride:] + (part[:, :, :stride] - bias)
                parts[-1] = parts[-1][:, :, :-stride]
                part = torch.cat((shared, part[:, :, stride:]), dim=2)
            parts.append(part)
        y = torch.cat(parts, dim=2)
        y = y[:, :, stride // 2 : y.shape[2] - (stride + 1) // 2]
        return y if self.outermost else functional.gelu(y), None


class HybridUNet(nn.Module):
    """A U-Net over the spectrogram and, where it is hybrid, one over the waveform.

    config : of either family
    hybrid : there is a branch for the waveform
    attention_starts, lstm_starts : first layer whose residual branches have attention, and an LSTM

    Parameters are named `encoder`, `decoder`, `tencoder`, `tdecoder` and `freq_emb`. Convolutions are rescaled.
    """

    def __init__(self, config: UNetConfig, *, hybrid: bool, attention_starts: int, lstm_starts: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = nn.ModuleList()
        self.decoder = nn.ModuleList()
        self.tencoder = nn.ModuleList()
        self.tdecoder = nn.ModuleList()
        self.freq_emb: ScaledEmbedding | None = None
        # Made in the order of upstream's classes, so that a seed gives the same network.
        for i, layer in enumerate(config.layers()):
            spec = _spectral(layer, attention=i >= attention_starts, with_lstm=i >= lstm_starts)
            time_spec = _temporal(config, layer, spec) if hybrid and not layer.along_time else None
            self.encoder.append(_BandedEncoder(config, spec) if spec.banded else _Encoder(config, spec))
            if time_spec is not None:
                self.tencoder.append(_Encoder(config, time_spec))
            decoder = _BandedDecoder if spec.banded else _Decoder
            self.decoder.insert(0, decoder(config, spec, outermost=i == 0))
            if time_spec is not None:
                self.tdecoder.insert(0, _Decoder(config, time_spec, outermost=i == 0))
            if i == 0 and config.freq_emb:
                self.freq_emb = ScaledEmbedding(
                    config.n_embedded_bins, layer.n_out, std=1, factor=config.emb_scale, smooth=config.emb_smooth
                )
        if config.rescale:
            rescale_weights(self, config.rescale)

    def forward(self, spectrum: Tensor, mix: Tensor | None = None) -> tuple[Tensor, ...]:
        """Separate.

        spectrum : tensor [shape=(batch, n_maps, n_fft / 2, frame)], STFT of the mix without its Nyquist bin; maps are
            the channels' real and imaginary parts in turn (complex as channels), or their magnitudes
        mix : tensor [shape=(batch, channel, time)], frame = ceil(time / hop); None for a network that is not hybrid

        Returns
        -------
        spectra : tensor [shape=(batch, stem, n_maps, n_fft / 2, frame)]
        waves : tensor [shape=(batch, stem, channel, time)], of a hybrid network only
        """
        if bool(self.tencoder) != (mix is not None):
            raise ModelError("a hybrid network takes the mix's samples too, and no other does")
        x, *scale = _normalised(spectrum)
        wave, *wave_scale = (None,) if mix is None else _normalised(mix)
        spectra, waves = self._run(x, wave)
        if waves is None:
            return (self._stems(spectra, *scale),)
        return self._stems(spectra, *scale), self._stems(waves, *wave_scale)

    def _stems(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Part the stems, and give them the mean and standard deviation of the mix."""
        stems = x.view(x.shape[0], len(self.config.stems), -1, *x.shape[2:])
        return stems * deviation[:, None] + mean[:, None]

    def bottom(self, x: Tensor, wave: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Turn what the encoders give into what the decoders get besides the skips; None for nothing.

        x : tensor [shape=(batch, width, freq, frame)], or (batch, width, time) where one bin is left
        wave : tensor [shape=(batch, width, time)], or None where there is no such branch
        """
        raise NotImplementedError

    def _run(self, x: Tensor, wave: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Encode and decode both branches."""
        time_encoder, time_decoder = cast(list[_Encoder], self.tencoder), cast(list[_Decoder], self.tdecoder)
        skips: list[Tensor] = []
        lengths: list[int] = []
        time_skips: list[Tensor] = []
        time_lengths: list[int] = []
        for i, encode in enumerate(self.encoder):
            injected = None
            if wave is not None and i < len(time_encoder):
                time_lengths.append(wave.shape[-1])
                wave = time_encoder[i](wave)
                if time_encoder[i].spec.bare:
                    injected = wave
                else:
                    time_skips.append(wave)
            lengths.append(x.shape[-1])
            x = encode(x, injected)
            if i == 0 and self.freq_emb is not None:
                x = x + self.config.freq_emb * self.freq_emb(x.shape[2]).T[:, :, None]
            skips.append(x)
        y, wave = self.bottom(x, wave)
        for i, decode in enumerate(self.decoder, len(time_decoder) - len(self.decoder)):
            y, inner = decode(_joined(y, skips.pop()), lengths.pop())
            if i >= 0:
                bare = time_decoder[i].spec.bare
                wave, _ = time_decoder[i](
                    inner[:, :, 0] if bare else _joined(wave, time_skips.pop()), time_lengths.pop()
                )
        assert y is not None
        return y, wave


class HDemucsNetwork(HybridUNet):
    """Hybrid Demucs: nothing but the skips leads from the encoders to the decoders.

    Parameters are named as `unbraid.models.hdemucs.state.parameter_shapes` says.
    """

    def __init__(self, config: HDemucsConfig) -> None:
        super().__init__(
            config, hybrid=config.hybrid, attention_starts=config.dconv_attn, lstm_starts=config.dconv_lstm
        )

    def bottom(self, x: Tensor, wave: Tensor | None) -> tuple[None, None]:
        """Leave the decoders to the skips."""
        return None, None


def _norm(config: UNetConfig, spec: _Spec, width: int) -> nn.Module:
    return nn.GroupNorm(config.norm_groups, width) if spec.normed else nn.Identity()


def _rewrite(config: UNetConfig, spec: _Spec, bin_context: int, context: int) -> nn.Module | None:
    """Make the further convolution, which sees so many bins and steps on either side; None where there is none."""
    if not config.rewrite:
        return None
    if spec.over_bins:
        kernel = (2 * bin_context + 1, 2 * context + 1)
        return nn.Conv2d(spec.n_out, 2 * spec.n_out, kernel, padding=(bin_context, context))
    return nn.Conv1d(spec.n_out, 2 * spec.n_out, 2 * context + 1, padding=context)


def _dconv(config: UNetConfig, spec: _Spec) -> DConv:
    return DConv(
        spec.n_out,
        depth=config.dconv_depth,
        dilate=config.dconv_dilate,
        compression=config.dconv_comp,
        init=config.dconv_init,
        attention=spec.attention,
        with_lstm=spec.with_lstm,
    )


def _along_time(dconv: DConv | None, x: Tensor) -> Tensor:
    """Run a residual branch along time, in every bin alike."""
    if dconv is None:
        return x
    if x.dim() == 3:
        y: Tensor = dconv(x)
        return y
    rows: Tensor = dconv(x.transpose(1, 2).flatten(0, 1))
    return rows.view(x.shape[0], x.shape[2], *rows.shape[1:]).transpose(1, 2)


def _joined(x: Tensor | None, skip: Tensor) -> Tensor:
    """Add a skip to what the layer below gives; past the point where one bin is left, that has no axis of bins."""
    if x is None:
        return skip
    return (x[:, :, None] if x.dim() < skip.dim() else x) + skip


def _normalised(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bring each example to mean 0 and standard deviation 1; give both too, with as many axes."""
    axes = tuple(range(1, x.dim()))
    mean, deviation = x.mean(axes, keepdim=True), x.std(axes, keepdim=True)
    return (x - mean) / (_SILENCE + deviation), mean, deviation
