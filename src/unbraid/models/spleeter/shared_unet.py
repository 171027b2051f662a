"""One U-Net that masks all stems at once: the network of Unbraid's own small models.

It sits in the Spleeter pipeline (magnitude spectrogram in, masked magnitudes of the stems out) but is far cheaper than
one U-Net per stem: neighbouring bins and frames are folded into channels, and dense layers along frequency ("TDF",
Choi et al. 2020, arXiv:2010.11631) see all partials of a note at once.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from unbraid.models.spleeter.config import SharedUNetConfig

__all__ = ["SharedUNet", "SharedUNetConfig"]


class _ConvUnit(nn.Module):
    """3 × 3 convolution, batch normalisation, ReLU; keeps the grid."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.norm(self.conv(x)))


class _FrequencyUnit(nn.Module):
    """Two dense layers along frequency, shared by all channels and frames; adds to its input."""

    def __init__(self, n_features: int, n_rows: int, divisor: int) -> None:
        super().__init__()
        self.squeeze = nn.Parameter(torch.randn(n_rows // divisor, n_rows) * (2 / n_rows) ** 0.5)
        self.norm = nn.BatchNorm2d(n_features)
        self.expand = nn.Parameter(torch.randn(n_rows, n_rows // divisor) * 0.2 * (divisor / n_rows) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu_(self.norm(self._dense(self.squeeze, x)))
        return x + self._dense(self.expand, inner)

    @staticmethod
    def _dense(weight: Tensor, x: Tensor) -> Tensor:
        """A dense layer along the rows of (batch, feature, row, column)."""
        n_batch, n_features, n_rows, n_columns = x.shape
        # Features last, as convolutions have them here: no array is moved, and one product a batch suffices.
        flat = x.permute(0, 2, 3, 1).reshape(n_batch, n_rows, n_columns * n_features)
        return torch.matmul(weight, flat).view(n_batch, -1, n_columns, n_features).permute(0, 3, 1, 2)


class _Block(nn.Module):
    """A convolution unit and a frequency unit."""

    def __init__(self, n_in: int, n_out: int, n_rows: int, divisor: int) -> None:
        super().__init__()
        self.conv = _ConvUnit(n_in, n_out)
        self.frequency = _FrequencyUnit(n_out, n_rows, divisor)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.frequency(self.conv(x))
        return out


class SharedUNet(nn.Module):
    """Mask a magnitude spectrogram for all stems with one U-Net.

    ``forward(magnitude)`` takes [shape=(batch, channel, n_bins, frame), float32], non-negative, `frame` a multiple of
    ``config.frame_multiple``, and returns [shape=(batch, stem, channel, n_bins, frame)]: the masks (softmax over the
    stems, so they sum to one) times the input.
    """

    def __init__(self, config: SharedUNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, divisor = config.widths, config.tdf_divisor
        rows = [config.n_rows // 2**level for level in range(len(widths))]
        self.bin_scale = nn.Parameter(torch.full((config.n_bins, 1), 0.4))
        self.bin_offset = nn.Parameter(torch.zeros(config.n_bins, 1))
        self.stem = _ConvUnit(config.n_channels * config.n_folded, widths[0])
        self.encoders = nn.ModuleList(
            nn.Sequential(*(_Block(width, width, rows[level], divisor) for _ in range(config.n_blocks)))
            for level, width in enumerate(widths)
        )
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairwise(widths))
        self.decoders = nn.ModuleList(
            _Block(width, width, rows[level], divisor) for level, width in enumerate(widths[:-1])
        )
        self.head = nn.Conv2d(widths[0], config.n_stems * config.n_channels * config.n_folded, 1)
        # Features last: a quarter faster than features first.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, magnitude: Tensor) -> Tensor:
        """See the class."""
        return torch.softmax(self.mask_logits(magnitude), dim=1) * magnitude.unsqueeze(1)

    def mask_logits(self, magnitude: Tensor) -> Tensor:
        """Masks before the softmax [shape=(batch, stem, channel, n_bins, frame)]."""
        features = torch.log(magnitude + self.config.log_offset) * self.bin_scale + self.bin_offset
        x = self.stem(self._fold(features).contiguous(memory_format=torch.channels_last))
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
        """(batch, channel, bin, frame) to (batch, channel · bin-in-row · frame-in-column, row, column)."""
        c = self.config
        n_batch, _, _, n_frames = features.shape
        shape = (n_batch, c.n_channels, c.n_rows, c.fold_bins, n_frames // c.fold_frames, c.fold_frames)
        folded = features.reshape(shape).permute(0, 1, 3, 5, 2, 4)
        return folded.reshape(n_batch, c.n_channels * c.n_folded, c.n_rows, n_frames // c.fold_frames)

    def _unfold(self, logits: Tensor) -> Tensor:
        """(batch, stem · channel · bin-in-row · frame-in-column, row, column) to (batch, stem, channel, bin, frame)."""
        c = self.config
        n_batch, _, _, n_columns = logits.shape
        parts = (n_batch, c.n_stems * c.n_channels, c.fold_bins, c.fold_frames, c.n_rows, n_columns)
        unfolded = logits.reshape(parts).permute(0, 1, 4, 2, 5, 3)
        return unfolded.reshape(n_batch, c.n_stems, c.n_channels, c.n_bins, n_columns * c.fold_frames)
