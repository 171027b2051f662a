"""Demucs of the time domain as a torch module: a U-Net of strided convolutions over the samples.

After A. Défossez et al., "Music source separation in the waveform domain", 2019 (section 3), with what its second
(resampling, normalisation) and third release (GELU, residual branches, group normalisation) added.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from unbraid.models.demucs.config import STD_FLOOR, DemucsConfig
from unbraid.models.demucs.lengths import valid_length
from unbraid.models.demucs.resampling import resampling_kernels
from unbraid.models.layers import BLSTM, DConv, rescale_weights

__all__ = ["DemucsNetwork"]


class DemucsNetwork(nn.Module):
    """Stems from a window of the mix.

    Parameters are named as `state.parameter_shapes` says. A seed gives the same ones as upstream's class.
    """

    def __init__(self, config: DemucsConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = nn.ModuleList()
        self.decoder = nn.ModuleList()
        if config.upsample:
            n_last = config.hidden_channels + config.n_channels
            self.final = nn.Conv1d(n_last, len(config.stems) * config.n_channels, 1)
        for i in range(config.depth):
            self.encoder.append(_encoder_layer(config, i))
            self.decoder.insert(0, _decoder_layer(config, i))
        self.lstm = BLSTM(config.widths[-1], config.lstm_layers) if config.lstm_layers else None
        self.up = _Upsampling() if config.resample else None
        self.down = _Downsampling() if config.resample else None
        if config.rescale:
            rescale_weights(self, config.rescale)

    def forward(self, mix: Tensor) -> Tensor:
        """Separate windows.

        mix : tensor [shape=(batch, channel, n)], n as `lengths.valid_length` gives it; version 3 takes any
        returns : tensor [shape=(batch, stem, channel, m)], m = `lengths.output_length` of n, around the centre
        """
        if self.config.normalize:
            mean, std = _level(mix)
            return self._stems((mix - mean) / (STD_FLOOR + std)) * std[:, None] + mean[:, None]
        return self._stems(mix / (STD_FLOOR + 1) if self.config.version == 2 else mix)

    def _stems(self, mix: Tensor) -> Tensor:
        """All but the normalisation."""
        config, n, x = self.config, mix.shape[-1], mix
        if config.version == 3:
            surplus = valid_length(config, n) - n
            x = functional.pad(x, (surplus // 2, surplus - surplus // 2))
        if self.up is not None:
            x = self.up(x)
        x = self._unet(x)
        if self.down is not None:
            x = self.down(x)
        if config.version == 3:
            x = _centre(x, n)
        return x.reshape(x.shape[0], len(config.stems), config.n_channels, x.shape[-1])

    def _unet(self, mix: Tensor) -> Tensor:
        """From the mix to all stems' channels, [shape=(batch, stem · channel, time)]."""
        stride = self.config.stride if self.config.upsample else 1
        x, skips = mix, []
        for encode in self.encoder:
            x = encode(x)
            skips.append(x)
            x = x[..., ::stride]
        if self.lstm is not None:
            x = self.lstm(x)
        for decode in self.decoder:
            if self.config.upsample:
                x = _interpolate(x, stride)
            x = decode(x + _centre(skips.pop(), x.shape[-1]))
        if self.config.upsample:
            x = self.final(torch.cat((x, _centre(mix, x.shape[-1])), dim=1))
        return x


def _encoder_layer(config: DemucsConfig, i: int) -> nn.Sequential:
    """Layer `i`, counted from the outside."""
    width, n_in = config.widths[i], config.widths[i - 1] if i else config.n_channels
    stride = 1 if config.upsample else config.stride
    parts = [nn.Conv1d(n_in, width, config.kernel_size, stride), _norm(config, i, width), _activation(config)]
    if config.dconv_mode & 1:
        parts.append(_branch(config, i))
    if config.rewrite:
        parts += _rewrite(config, i, kernel_size=1, padding=0)
    return nn.Sequential(*parts)


def _decoder_layer(config: DemucsConfig, i: int) -> nn.Sequential:
    """The layer that answers to the encoder's `i`."""
    width, kernel_size = config.widths[i], config.kernel_size
    n_out = config.widths[i - 1] if i else len(config.stems) * config.n_channels
    parts: list[nn.Module] = []
    if config.rewrite:
        padding = config.context if config.version == 3 else 0
        parts += _rewrite(config, i, kernel_size=2 * config.context + 1, padding=padding)
    if config.dconv_mode & 2:
        parts.append(_branch(config, i))
    if config.upsample:
        n_out = n_out if i else config.hidden_channels
        parts.append(nn.Conv1d(width, n_out, kernel_size))
    else:
        parts.append(nn.ConvTranspose1d(width, n_out, kernel_size, config.stride))
    if i:
        parts += [_norm(config, i, n_out), _activation(config)]
    return nn.Sequential(*parts)


def _rewrite(config: DemucsConfig, i: int, *, kernel_size: int, padding: int) -> list[nn.Module]:
    """The further convolution of a layer; GLU halves its channels again."""
    width = config.widths[i]
    n_out = 2 * width if config.glu else width
    conv = nn.Conv1d(width, n_out, kernel_size, padding=padding)
    return [conv, _norm(config, i, n_out), nn.GLU(1) if config.glu else nn.ReLU()]


def _branch(config: DemucsConfig, i: int) -> DConv:
    return DConv(
        config.widths[i],
        depth=config.dconv_depth,
        dilate=config.dconv_dilate,
        compression=config.dconv_comp,
        init=config.dconv_init,
        attention=i >= config.dconv_attn,
        with_lstm=i >= config.dconv_lstm,
    )


def _norm(config: DemucsConfig, i: int, width: int) -> nn.Module:
    return nn.GroupNorm(config.norm_groups, width) if i >= config.norm_starts else nn.Identity()


def _activation(config: DemucsConfig) -> nn.Module:
    return nn.GELU() if config.gelu else nn.ReLU()


def _level(mix: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the mean of the channels, [shape=(batch, 1, 1)] each."""
    mono = mix.mean(dim=1, keepdim=True)
    return mono.mean(dim=2, keepdim=True), mono.std(dim=2, keepdim=True)


def _centre(x: Tensor, n: int) -> Tensor:
    """The `n` steps around the centre; of an odd surplus, one more is left out behind."""
    return x.narrow(-1, (x.shape[-1] - n) // 2, n)


def _interpolate(x: Tensor, stride: int) -> Tensor:
    """Linear interpolation: `stride` steps from each step on towards the next, [shape=(…, (time − 1) · stride)]."""
    weights = torch.arange(stride, device=x.device, dtype=x.dtype) / stride
    here, there = x[..., :-1, None], x[..., 1:, None]
    return (here * (1 - weights) + there * weights).flatten(-2)


class _Upsampling(nn.Module):
    """Twice the sample rate: even samples are the input, low-passed; odd ones lie halfway between."""

    def __init__(self) -> None:
        super().__init__()
        # Not persistent: it is no part of the state.
        self.register_buffer("kernel", _kernel(old=1, new=2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """From (batch, channel, time) to (batch, channel, 2 · time)."""
        kernel = self.get_buffer("kernel")
        reach = kernel.shape[-1] // 2
        padded = functional.pad(x.flatten(0, 1)[:, None], (reach, reach), mode="replicate")
        return functional.conv1d(padded, kernel).transpose(1, 2).reshape(*x.shape[:2], -1)


class _Downsampling(nn.Module):
    """Half the sample rate."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", _kernel(old=2, new=1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """From (batch, channel, time) to (batch, channel, time // 2)."""
        kernel = self.get_buffer("kernel")
        reach = kernel.shape[-1] // 2 - 1
        padded = functional.pad(x.flatten(0, 1)[:, None], (reach, reach), mode="replicate")
        return functional.conv1d(padded, kernel, stride=2).reshape(*x.shape[:2], -1)


def _kernel(old: int, new: int) -> Tensor:
    """Filters for resampling as `conv1d` takes them: tensor [shape=(new, 1, tap)]."""
    return torch.from_numpy(resampling_kernels(old=old, new=new)).float()[:, None]
