"""One U-Net that masks all stems at once: the network of Unbraid's own small models.

It sits in the Spleeter pipeline (magnitude spectrogram in, masked magnitudes of the stems out) but is far cheaper than
one U-Net per stem: neighbouring bins and frames are folded into channels, and dense layers along frequency ("TDF",
Choi et al. 2020, arXiv:2010.11631) see all partials of a note at once. Nothing is normalised: with the statistics of a
batch, the network learnt to lean on what else was in it.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from unbraid.models.spleeter.config import SharedUNetConfig

__all__ = ["SharedUNet", "SharedUNetConfig"]


class _FrequencyUnit(nn.Module):
    """Two dense layers along frequency, shared by all channels and frames; adds to its input."""

    def __init__(self, n_features: int, n_rows: int, divisor: int) -> None:
        super().__init__()
        self.squeeze = nn.Parameter(torch.randn(n_rows // divisor, n_rows) * (2 / n_rows) ** 0.5)
        self.scale = nn.Parameter(torch.ones(n_features, 1, 1))
        self.offset = nn.Parameter(torch.zeros(n_features, 1, 1))
        self.expand = nn.Parameter(torch.randn(n_rows, n_rows // divisor) * 0.2 * (divisor / n_rows) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        inner = self._dense(self.squeeze, x)
        # In its precision, which in training may be half.
        inner = torch.relu_(inner * self.scale.to(inner.dtype) + self.offset.to(inner.dtype))
        return x + self._dense(self.expand, inner)

    @staticmethod
    def _dense(weight: Tensor, x: Tensor) -> Tensor:
        """A dense layer along the rows of (batch, feature, row, column)."""
        n_batch, n_features, n_rows, n_columns = x.shape
        # Features last, as convolutions have them here: no array is moved, and one product a batch suffices.
        flat = x.permute(0, 2, 3, 1).reshape(n_batch, n_rows, n_columns * n_features)
        return torch.matmul(weight, flat).view(n_batch, -1, n_columns, n_features).permute(0, 3, 1, 2)


class _Block(nn.Module):
    """A convolution unit and a frequency unit, each of which adds to its input."""

    def __init__(self, width: int, n_rows: int, divisor: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        # He et al. 2015 (arXiv:1502.01852) for the convolution; with half of it added, features stay of one size.
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        self.gain = nn.Parameter(torch.full((width, 1, 1), 0.5))
        self.frequency = _FrequencyUnit(width, n_rows, divisor)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.frequency(x + torch.relu_(self.conv(x)) * self.gain.to(x.dtype))
        return out


class SharedUNet(nn.Module):
    """Mask a magnitude spectrogram for all stems with one U-Net.

    ``forward(magnitude)`` takes [shape=(batch, channel, frame, n_bins), float32], non-negative, `frame` a multiple of
    ``config.frame_multiple``, and returns [shape=(batch, stem, channel, frame, n_bins)]: the masks (softmax over the
    stems, so they sum to one) times the input.
    """

    def __init__(self, config: SharedUNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, divisor = config.widths, config.tdf_divisor
        rows = [config.n_rows // 2**level for level in range(len(widths))]
        self.bin_scale = nn.Parameter(torch.full((config.n_bins,), 0.4))
        self.bin_offset = nn.Parameter(torch.zeros(config.n_bins))
        self.stem = nn.Conv2d(config.n_channels * config.n_folded, widths[0], 3, padding=1)
        self.encoders = nn.ModuleList(
            nn.Sequential(*(_Block(width, rows[level], divisor) for _ in range(config.n_blocks)))
            for level, width in enumerate(widths)
        )
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairwise(widths))
        self.decoders = nn.ModuleList(_Block(width, rows[level], divisor) for level, width in enumerate(widths[:-1]))
        self.head = nn.Conv2d(widths[0], config.n_stems * config.n_channels * config.n_folded, 1)
        # Features last: a quarter faster than features first.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, magnitude: Tensor) -> Tensor:
        """See the class."""
        return torch.softmax(self.mask_logits(magnitude), dim=1) * magnitude.unsqueeze(1)

    def mask_logits(self, magnitude: Tensor) -> Tensor:
        """Masks before the softmax [shape=(batch, stem, channel, frame, n_bins)]."""
        features = torch.log(magnitude + self.config.log_offset) * self.bin_scale + self.bin_offset
        x = self.stem(self._fold(features))
        skips: list[Tensor] = []
        for level, encoder in enumerate(self.encoders):
            x = encoder(x)
            if level < len(self.downs):
                skips.append(x)
                x = self.downs[level](x)
        for level in reversed(range(len(self.ups))):
            x = self.decoders[level](self.ups[level](x) + skips[level])
        return self._unfold(self.head(x))

    def _fold(self, features: Tensor) -> Tensor:
        """(batch, channel, frame, bin) to (batch, channel · bin-in-row · frame-in-column, row, column)."""
        c = self.config
        n_batch, _, n_frames, _ = features.shape
        n_columns = n_frames // c.fold_frames
        parts = features.reshape(n_batch, c.n_channels, n_columns, c.fold_frames, c.n_rows, c.fold_bins)
        # In the order in which they are to lie in memory, features last: one copy.
        folded = parts.permute(0, 4, 2, 1, 5, 3).reshape(n_batch, c.n_rows, n_columns, c.n_channels * c.n_folded)
        return folded.permute(0, 3, 1, 2)

    def _unfold(self, logits: Tensor) -> Tensor:
        """(batch, stem · channel · bin-in-row · frame-in-column, row, column) to (batch, stem, channel, frame, bin)."""
        c = self.config
        n_batch, _, _, n_columns = logits.shape
        shape = (n_batch, c.n_rows, n_columns, c.n_stems, c.n_channels, c.fold_bins, c.fold_frames)
        parts = logits.permute(0, 2, 3, 1).reshape(shape).permute(0, 3, 4, 2, 6, 1, 5)
        return parts.reshape(n_batch, c.n_stems, c.n_channels, n_columns * c.fold_frames, c.n_bins)
