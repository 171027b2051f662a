"""Layers that the Demucs families share, as torch modules: residual branches, LSTM, local attention, embeddings.

After A. Défossez, "Hybrid spectrogram and waveform source separation", ISMIR 2021 workshop (the residual branches:
section 3.2 and figure 2a), and "Music source separation in the waveform domain" (weights before training: section 3).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from unbraid.models.demucs.config import LONGEST_LSTM, N_DECAYS, N_HEADS, SELF_SCORE

__all__ = ["BLSTM", "DConv", "LayerScale", "LocalAttention", "ScaledEmbedding", "rescale_weights"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


class LayerScale(nn.Module):
    """One learnt factor a channel (H. Touvron et al., "Going deeper with image transformers", 2021).

    width : channels
    init : of every factor
    channels_last : of arrays (…, channel) instead of (batch, channel, time)
    """

    def __init__(self, width: int, init: float, *, channels_last: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), float(init)))
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        """Scale every channel."""
        return x * (self.scale if self.channels_last else self.scale[:, None])


class BLSTM(nn.Module):
    """A bidirectional LSTM with as many features as its input, and a dense layer that makes one of both directions.

    width : features
    n_layers : of the LSTM
    max_steps : a longer input is cut into windows of so many steps (a multiple of 4) that overlap by half, each of
        which gives the steps around its centre; None for no limit
    skip : the input is added to the output
    """

    def __init__(self, width: int, n_layers: int, *, max_steps: int | None = None, skip: bool = False) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, n_layers, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * width, width)
        self.max_steps = max_steps
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        """Run along time.

        x : tensor [shape=(batch, channel, time)]
        returns : tensor of the same shape
        """
        steps = x.transpose(1, 2)
        if self.max_steps is None or x.shape[2] <= self.max_steps:
            y = self._run(steps)
        else:
            y = self._run_windows(steps, self.max_steps)
        y = y.transpose(1, 2)
        return x + y if self.skip else y

    def _run(self, steps: Tensor) -> Tensor:
        y: Tensor = self.linear(self.lstm(steps)[0])
        return y

    def _run_windows(self, steps: Tensor, length: int) -> Tensor:
        """Run over windows of `length` steps, one every length / 2, the last of which go on with zeros."""
        n_batch, n_steps, width = steps.shape
        stride, edge = length // 2, length // 4
        n_windows = math.ceil(n_steps / stride)
        padded = functional.pad(steps, (0, 0, 0, (n_windows - 1) * stride + length - n_steps))
        windows = padded.unfold(1, length, stride).transpose(2, 3).reshape(-1, length, width)
        y = self._run(windows).view(n_batch, n_windows, length, width)
        # The first window also gives the steps before its centre; the last one's centre reaches past the end.
        centres = y[:, :, edge : edge + stride].flatten(1, 2)
        return torch.cat((y[:, 0, :edge], centres), dim=1)[:, :n_steps]


class LocalAttention(nn.Module):
    """Attention whose scores fall with distance in time, at a rate that each step chooses, without positions.

    width : channels, a multiple of `N_HEADS`
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.content = nn.Conv1d(width, width, 1)
        self.query = nn.Conv1d(width, width, 1)
        self.key = nn.Conv1d(width, width, 1)
        self.query_decay = nn.Conv1d(width, N_HEADS * N_DECAYS, 1)
        self.proj = nn.Conv1d(width, width, 1)
        with torch.no_grad():  # before training scores fall slowly, and alike everywhere
            self.query_decay.weight.mul_(0.01)
            self.query_decay.bias.fill_(-2)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """Attend to all other steps, and add the result to the input.

        x : tensor [shape=(batch, channel, time)]
        returns : tensor of the same shape
        """
        query, key, content = (layer(x).unflatten(1, (N_HEADS, -1)) for layer in (self.query, self.key, self.content))
        steps = torch.arange(x.shape[2], device=x.device)
        distance = (steps[:, None] - steps).abs()
        rates = torch.arange(1, N_DECAYS + 1, device=x.device, dtype=x.dtype) / (2 * N_DECAYS**0.5)
        decay = self.query_decay(x).unflatten(1, (N_HEADS, N_DECAYS)).sigmoid()
        slope = (decay * rates[:, None]).sum(2)  # (batch, head, step that asks): how fast its scores fall
        scores = query.transpose(2, 3) @ key / key.shape[2] ** 0.5 - slope[..., None] * distance
        weights = scores.masked_fill(distance == 0, SELF_SCORE).softmax(3)
        found = content @ weights.transpose(2, 3)
        y: Tensor = x + self.proj(found.flatten(1, 2))
        return y


class DConv(nn.Module):
    """The residual branch of a layer: dilated convolutions on fewer channels, each added to its input.

    width : channels of the layer
    depth : number of convolutions
    dilate : the dilation doubles from each to the next
    compression : the branch has `width / compression` channels, rounded down
    init : scale of what each convolution adds before training
    attention, with_lstm : the branch has local attention, and before it an LSTM

    Parameters are named `layers.{i}.{position in the sequence}`.
    """

    def __init__(
        self,
        width: int,
        *,
        depth: int,
        dilate: bool,
        compression: float,
        init: float,
        attention: bool,
        with_lstm: bool,
    ) -> None:
        super().__init__()
        hidden = int(width / compression)
        self.layers = nn.ModuleList()
        for i in range(depth):
            dilation = 2**i if dilate else 1
            # Made in the order of upstream's class, so that a seed gives the same network.
            first = nn.Conv1d(width, hidden, 3, dilation=dilation, padding=dilation)
            last = nn.Conv1d(hidden, 2 * width, 1)
            inner: list[nn.Module] = [LocalAttention(hidden)] if attention else []
            if with_lstm:
                inner.insert(0, BLSTM(hidden, 2, max_steps=LONGEST_LSTM, skip=True))
            self.layers.append(
                nn.Sequential(
                    *(first, nn.GroupNorm(1, hidden), nn.GELU(), *inner),
                    *(last, nn.GroupNorm(1, 2 * width), nn.GLU(1), LayerScale(width, init)),
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        """Add to the input what each convolution in turn makes of it.

        x : tensor [shape=(batch, channel, time)]
        returns : tensor of the same shape
        """
        for layer in self.layers:
            x = x + layer(x)
        return x


class ScaledEmbedding(nn.Module):
    """A learnt vector for each of some positions.

    n_positions, width : number of vectors and their features
    std : standard deviation of the features before training
    factor : what the parameters are multiplied with, so that they learn so much faster
    smooth : before training, a vector is the sum of random ones up to its position, over the root of their number:
        close positions have close vectors
    """

    def __init__(self, n_positions: int, width: int, *, std: float, factor: float, smooth: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_positions, width)
        self.factor = factor
        with torch.no_grad():
            weight = self.embedding.weight
            if smooth:
                weight.copy_(weight.cumsum(0) / torch.arange(1, n_positions + 1).sqrt()[:, None])
            weight.mul_(std / factor)

    def forward(self, n_positions: int) -> Tensor:
        """Give the vectors of the first positions: tensor [shape=(n_positions, width)]."""
        return self.embedding.weight[:n_positions] * self.factor


def rescale_weights(module: nn.Module, reference: float) -> None:
    """Bring the weights of all convolutions closer to one standard deviation, before training.

    Weights and biases of a layer whose weights deviate by s are divided by sqrt(s / reference).
    """
    for layer in module.modules():
        if isinstance(layer, _CONVOLUTIONS):
            with torch.no_grad():
                scale = (layer.weight.std() / reference) ** 0.5
                layer.weight.div_(scale)
                if layer.bias is not None:
                    layer.bias.div_(scale)
