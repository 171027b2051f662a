"""The U-Nets of Spleeter as torch modules, for training and for PyTorch as an engine.

Spleeter works on arrays (batch, frame, freq, channel); here they are (batch, channel, frame, freq), so that its kernels
keep their orientation: height along the frames, width along the bins.
After A. Jansson et al., "Singing voice separation with deep U-Net convolutional networks", ISMIR 2017; what differs
from the paper (5 x 5 transposed convolutions, skips ahead of the normalisation, the dilated last layer) is Spleeter's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.models.spleeter.shared_unet import SharedUNet

__all__ = ["SpleeterNetwork", "UNet", "make_module"]

BATCH_NORM_EPS = 1e-3  # TensorFlow's default, which Spleeter leaves as it is
BATCH_NORM_MOMENTUM = 0.01  # torch counts the new share: 1 - TensorFlow's 0.99
LEAKY_SLOPE = 0.2


def _activation(name: str) -> nn.Module:
    if name == "LeakyReLU":
        return nn.LeakyReLU(LEAKY_SLOPE)
    return nn.ELU() if name == "ELU" else nn.ReLU()


class _Layer(nn.Module):
    """A convolution and, except at the bottom of the U, the normalisation that goes with it."""

    conv: nn.Module
    norm: nn.BatchNorm2d

    def __init__(self, conv: nn.Module, n_normalised: int | None) -> None:
        super().__init__()
        self.conv = conv
        if n_normalised is not None:
            self.norm = nn.BatchNorm2d(n_normalised, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)


def _begin_as_spleeter(conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Random weights as Spleeter's: Keras' he_uniform, up to sqrt(6 / fan-in), and biases of zero.

    The fan-in of a transposed convolution is that of its kernel's last axis but one in Keras, the outputs; so it is in
    torch.
    """
    nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)


class UNet(nn.Module):
    """The network of one stem, up to the logit of its mask.

    Parameters are named `encoder.{0..5}.conv`, `encoder.{0..4}.norm`, `decoder.{0..5}.conv`, `decoder.{0..5}.norm`
    and `mask`.
    """

    def __init__(self, config: SpleeterConfig) -> None:
        super().__init__()
        filters = config.conv_n_filters
        self.conv_activation = _activation(config.conv_activation)
        self.deconv_activation = _activation(config.deconv_activation)
        self.encoder = nn.ModuleList(
            _Layer(nn.Conv2d(n_in, n_out, 5, stride=2), n_out if i < len(filters) - 1 else None)
            for i, (n_in, n_out) in enumerate(zip((config.n_channels, *filters), filters, strict=False))
        )
        # From the bottom up; every layer but the first also gets the skip, which has as many channels as its input.
        ups = (*filters[-2::-1], 1)
        n_ins = (filters[-1], *(2 * n for n in ups[:-1]))
        self.decoder = nn.ModuleList(
            _Layer(nn.ConvTranspose2d(n_in, n_out, 5, stride=2, padding=1), n_out)
            for n_in, n_out in zip(n_ins, ups, strict=True)
        )
        self.mask = nn.Conv2d(1, config.n_channels, 4, dilation=2, padding=3)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                _begin_as_spleeter(module)

    def forward(self, magnitude: Tensor) -> Tensor:
        """Estimate the logit of a stem's mask.

        magnitude : tensor [shape=(batch, channel, n_frames, n_bins)]
        returns : tensor of the same shape
        """
        x = magnitude
        skips: list[Tensor] = []
        encoder, decoder = cast(Sequence[_Layer], self.encoder), cast(Sequence[_Layer], self.decoder)
        for layer in encoder:
            if skips:
                x = self.conv_activation(encoder[len(skips) - 1].norm(x))
            # TensorFlow's SAME at stride 2 and an even length: one zero ahead, two behind.
            x = layer.conv(functional.pad(x, (1, 2, 1, 2)))
            skips.append(x)
        skips.pop()
        for layer in decoder:
            x = layer.conv(x)[..., :-1, :-1]
            x = layer.norm(self.deconv_activation(x))
            if skips:
                x = torch.cat((skips.pop(), x), dim=1)
        logit: Tensor = self.mask(x)
        return logit


class SpleeterNetwork(nn.Module):
    """One U-Net a stem: magnitudes of the mix in, magnitudes of the stems out.

    Parameters are named `stems.{k}.` + those of `UNet`, k being the index of the stem.
    """

    def __init__(self, config: SpleeterConfig) -> None:
        super().__init__()
        self.softmax = config.network == "unet.softmax_unet"
        self.stems = nn.ModuleList(UNet(config) for _ in config.stems)

    def forward(self, magnitude: Tensor) -> Tensor:
        """Separate a block of the mix's magnitude spectrogram.

        magnitude : tensor [shape=(batch, channel, n_frames, n_bins)]
        returns : tensor [shape=(batch, stem, channel, n_frames, n_bins)]
        """
        logits = torch.stack([stem(magnitude) for stem in self.stems], dim=1)
        masks = logits.softmax(dim=1) if self.softmax else logits.sigmoid()
        return masks * magnitude[:, None]


def make_module(config: SpleeterConfig) -> nn.Module:
    """Make the network that a configuration asks for, with random parameters."""
    return SpleeterNetwork(config) if config.shared_unet is None else SharedUNet(config.shared_unet)
