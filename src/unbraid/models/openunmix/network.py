"""Open-Unmix as a torch module: for each stem three dense layers around an LSTM that reads magnitude spectra.

After F.-R. Stöter, S. Uhlich, A. Liutkus and Y. Mitsufuji, "Open-Unmix - a reference implementation for music source
separation", JOSS 4(41), 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unbraid.models.openunmix.config import OpenUnmixConfig, TargetConfig

__all__ = ["OpenUnmixNetwork", "TargetNetwork"]

DROPOUT = 0.4  # between the layers of the LSTM, in training


class TargetNetwork(nn.Module):
    """The network of one stem. Parameters are named as `state.target_shapes` says.

    n_bins, n_channels : of the spectrogram
    """

    def __init__(self, target: TargetConfig, n_bins: int, n_channels: int) -> None:
        super().__init__()
        hidden, bidirectional = target.hidden_size, not target.unidirectional
        self.max_bin = target.max_bin
        self.fc1 = nn.Linear(target.max_bin * n_channels, hidden, bias=False)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.lstm = nn.LSTM(
            hidden,
            hidden // 2 if bidirectional else hidden,
            target.n_layers,
            bidirectional=bidirectional,
            batch_first=True,
            dropout=DROPOUT if target.n_layers > 1 else 0.0,
        )
        self.fc2 = nn.Linear(2 * hidden, hidden, bias=False)
        self.bn2 = nn.BatchNorm1d(hidden)
        self.fc3 = nn.Linear(hidden, n_bins * n_channels, bias=False)
        self.bn3 = nn.BatchNorm1d(n_bins * n_channels)
        # Training sets the first two to what brings its spectra to mean 0 and standard deviation 1, bin by bin.
        self.input_mean = nn.Parameter(torch.zeros(target.max_bin))
        self.input_scale = nn.Parameter(torch.ones(target.max_bin))
        self.output_scale = nn.Parameter(torch.ones(n_bins))
        self.output_mean = nn.Parameter(torch.ones(n_bins))

    def forward(self, magnitude: Tensor) -> Tensor:
        """Estimate the stem's magnitudes: a mask, which may exceed 1, times those of the mix.

        magnitude : tensor [shape=(batch, channel, frame, bin)]
        returns : tensor of the same shape
        """
        n_batch, n_channels, n_frames, n_bins = magnitude.shape
        spectra = magnitude.transpose(1, 2)
        x = (spectra[..., : self.max_bin] + self.input_mean) * self.input_scale
        x = self.bn1(self.fc1(x.reshape(n_batch * n_frames, -1))).tanh().reshape(n_batch, n_frames, -1)
        x = torch.cat((x, self.lstm(x)[0]), dim=2)
        x = self.bn2(self.fc2(x.flatten(0, 1))).relu()
        x = self.bn3(self.fc3(x)).reshape(n_batch, n_frames, n_channels, n_bins)
        mask: Tensor = (x * self.output_scale + self.output_mean).relu()
        return (mask * spectra).transpose(1, 2)


class OpenUnmixNetwork(nn.Module):
    """The networks of all stems. Parameters are named as `state.parameter_shapes` says."""

    def __init__(self, config: OpenUnmixConfig) -> None:
        super().__init__()
        for stem, target in zip(config.stems, config.targets, strict=True):
            # Not `add_module`, which refuses stems that are called as a method is, such as "double" or "half".
            self._modules[stem] = TargetNetwork(target, config.n_bins, config.n_channels)

    def forward(self, magnitude: Tensor) -> Tensor:
        """Estimate the magnitudes of all stems.

        magnitude : tensor [shape=(batch, channel, frame, bin)] of the mix
        returns : tensor [shape=(batch, stem, channel, frame, bin)]
        """
        return torch.stack([stem(magnitude) for stem in self.children()], dim=1)
