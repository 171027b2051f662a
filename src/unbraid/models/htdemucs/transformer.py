"""The Transformer across both branches of HT Demucs, as torch modules.

After S. Rouard et al., "Hybrid Transformers for music source separation", ICASSP 2023, section 3 and figure 1. Layers
attend in turn to their own branch and to the other.
"""

from __future__ import annotations

import math
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from unbraid.errors import ModelError
from unbraid.models.htdemucs.config import TransformerConfig
from unbraid.models.htdemucs.sparse import SparseAttend
from unbraid.models.layers import LayerScale, ScaledEmbedding

__all__ = ["CrossTransformer", "positions_1d", "positions_2d"]

_SCALE_INIT: Final = 1e-4  # of the layer scales
_EMBEDDING_STD: Final = 0.2  # of learnt positions
_EMBEDDING_FACTOR: Final = 3.0


class CrossTransformer(nn.Module):
    """The Transformer across both branches.

    config : of the Transformer
    width : features of each position, in both branches

    Parameters are named `position_embeddings`, `norm_in`, `norm_in_t`, `layers.{i}` (spectrogram) and `layers_t.{i}`.
    """

    def __init__(self, config: TransformerConfig, width: int) -> None:
        super().__init__()
        self.config = config
        if config.positions == "scaled":
            self.position_embeddings = ScaledEmbedding(
                config.max_positions, width, std=_EMBEDDING_STD, factor=_EMBEDDING_FACTOR
            )
        self.norm_in = _norm_in(config, width)
        self.norm_in_t = _norm_in(config, width)
        self.layers = nn.ModuleList()
        self.layers_t = nn.ModuleList()
        for i in range(config.n_layers):
            crosses = (i % 2 == 1) != config.cross_first
            self.layers.append(_Layer(config, width, crosses=crosses))
            self.layers_t.append(_Layer(config, width, crosses=crosses))

    def forward(self, x: Tensor, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Let both branches attend to themselves and to each other.

        x : tensor [shape=(batch, width, freq, frame)]
        wave : tensor [shape=(batch, width, time)]
        returns : two tensors of the same shapes
        """
        weight = self.config.positions_weight
        n_bins, n_frames = x.shape[2:]
        # Positions of the spectrogram go through the bins of a frame first.
        tokens = self.norm_in(x.transpose(2, 3).flatten(2).transpose(1, 2))
        tokens = tokens + weight * positions_2d(x.shape[1], n_bins, n_frames, self.config.max_period, x.device)
        wave_tokens = self.norm_in_t(wave.transpose(1, 2))
        n_batch, n_steps, width = wave_tokens.shape
        wave_tokens = wave_tokens + weight * self._wave_positions(n_batch, n_steps, width, device=x.device)
        for layer, layer_t in zip(cast(list[_Layer], self.layers), cast(list[_Layer], self.layers_t), strict=True):
            if layer.crosses:
                tokens, wave_tokens = layer(tokens, wave_tokens), layer_t(wave_tokens, tokens)
            else:
                tokens, wave_tokens = layer(tokens, tokens), layer_t(wave_tokens, wave_tokens)
        x = tokens.transpose(1, 2).reshape(*x.shape[:2], n_frames, n_bins).transpose(2, 3)
        return x, wave_tokens.transpose(1, 2)

    def _wave_positions(self, n_batch: int, n_steps: int, width: int, device: torch.device) -> Tensor:
        """Embed the waveform's positions: tensor [shape=(n_steps, width)], or (n_batch, n_steps, width)."""
        config = self.config
        if config.positions == "scaled":
            if n_steps > config.max_positions:
                raise ModelError(
                    f"max_positions must be at least {n_steps} for this length, got {config.max_positions}"
                )
            embedded: Tensor = self.position_embeddings(n_steps)
            return embedded
        steps = torch.arange(n_steps, device=device)
        if config.positions == "cape":
            if config.cape_mean_normalize:
                steps = steps - (n_steps - 1) / 2
            if self.training and config.cape_augment:
                steps = _disturbed(steps, n_batch, *config.cape_glob_loc_scale)
        elif self.training and config.sin_random_shift:
            # Upstream draws it outside training too, so that a separation differs from one run to the next.
            steps = steps + torch.randint(config.sin_random_shift + 1, (), device=device)
        return positions_1d(steps, width, config.max_period)


class _Layer(nn.Module):
    """Attention, to the own branch or to the other, and a feed-forward part.

    Parameters are named `self_attn` or `cross_attn`, `linear1`, `linear2`, `norm1`, `norm2`, `norm3`, `norm_out`,
    `gamma_1` and `gamma_2`.
    """

    def __init__(self, config: TransformerConfig, width: int, *, crosses: bool) -> None:
        super().__init__()
        self.crosses = crosses
        self.norm_first = config.norm_first
        sparse = config.sparse_cross_attn if crosses else config.sparse_self_attn
        attention = _SparseAttention(config, width) if sparse else _Attention(config, width)
        self.add_module("cross_attn" if crosses else "self_attn", attention)
        hidden = int(width * config.hidden_scale)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.activation = nn.GELU() if config.gelu else nn.ReLU()
        self.dropout = nn.Dropout(config.dropout)
        self.norm1 = _norm(config.norm_groups, width)
        self.norm2 = _norm(config.norm_groups, width)
        if crosses:
            self.norm3 = _norm(config.norm_groups, width)
        self.norm_out: nn.Module = nn.Identity()
        if config.norm_first and config.norm_out_groups:
            self.norm_out = _norm(config.norm_out_groups, width)
        self.gamma_1 = _layer_scale(config, width)
        self.gamma_2 = _layer_scale(config, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Attend.

        x : tensor [shape=(batch, position, width)]
        context : tensor [shape=(batch, position of the branch attended to, width)]; `x` itself for its own branch
        returns : tensor of the shape of `x`
        """
        y: Tensor
        if self.norm_first:
            y = self.norm1(x)
            x = x + self._attended(y, self.norm2(context) if self.crosses else y)
            x = x + self._fed((self.norm3 if self.crosses else self.norm2)(x))
            y = self.norm_out(x)
        else:
            x = self.norm1(x + self._attended(x, context))
            y = self.norm2(x + self._fed(x))
        return y

    def _attended(self, x: Tensor, context: Tensor) -> Tensor:
        attention = cast(nn.Module, self.cross_attn if self.crosses else self.self_attn)
        return cast(Tensor, self.gamma_1(self.dropout(attention(x, context))))

    def _fed(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear2(self.dropout(self.activation(self.linear1(x))))
        return cast(Tensor, self.gamma_2(self.dropout(y)))


class _Attention(nn.Module):
    """Attention with several heads. Parameters are named as in `torch.nn.MultiheadAttention`, and begin as there."""

    def __init__(self, config: TransformerConfig, width: int) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Attend from `x` to `context`, as `_Layer.forward` takes them."""
        width = x.shape[2]
        if context is x:
            query, key, value = functional.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=2)
        else:
            query = functional.linear(x, self.in_proj_weight[:width], self.in_proj_bias[:width])
            both = functional.linear(context, self.in_proj_weight[width:], self.in_proj_bias[width:])
            key, value = both.chunk(2, dim=2)
        query, key, value = (_split(part, self.n_heads) for part in (query, key, value))
        dropout = self.dropout if self.training else 0.0
        attended = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        y: Tensor = self.out_proj(_merge(attended))
        return y


class _SparseAttention(nn.Module):
    """Attention with several heads to chosen positions only. Parameters are named `q`, `k`, `v` and `proj`."""

    def __init__(self, config: TransformerConfig, width: int) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)
        self.attend = SparseAttend(config)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Attend from `x` to `context`, as `_Layer.forward` takes them."""
        query, key, value = (_split(part, self.n_heads) for part in (self.q(x), self.k(context), self.v(context)))
        attended: Tensor = self.attend(query, key, value, self.dropout.p if self.training else 0.0)
        y: Tensor = self.dropout(self.proj(_merge(attended)))
        return y


def positions_1d(steps: Tensor, width: int, max_period: float) -> Tensor:
    """Embed positions in time by sinusoids, cosines first.

    steps : tensor [shape=(…, n_steps)], positions
    max_period : of the slowest sinusoid, over 2 pi; the fastest has period 2 pi
    returns : tensor [shape=(…, n_steps, width)]
    """
    half = width // 2
    exponents = torch.arange(half, device=steps.device) / (half - 1)
    phases = steps[..., None] / max_period**exponents
    return torch.cat((phases.cos(), phases.sin()), dim=-1)


def positions_2d(width: int, n_bins: int, n_frames: int, max_period: float, device: torch.device) -> Tensor:
    """Embed positions in a spectrogram by sinusoids: the first half of the features says when, the second which bin.

    max_period : of the sinusoids, over 2 pi: the next one after the slowest has it
    returns : tensor [shape=(n_frames * n_bins, width)], the bins of a frame one after another
    """
    half = width // 2
    rates = torch.exp(torch.arange(0.0, half, 2, device=device) * -(math.log(max_period) / half))

    def embed(n_steps: int) -> Tensor:  # sine and cosine in turn
        phases = torch.arange(n_steps, device=device)[:, None] * rates
        return torch.stack((phases.sin(), phases.cos()), dim=2).flatten(1)

    frames = embed(n_frames)[:, None].expand(-1, n_bins, -1)
    bins = embed(n_bins).expand(n_frames, -1, -1)
    return torch.cat((frames, bins), dim=2).flatten(0, 1)


def _disturbed(steps: Tensor, n_batch: int, most_global: float, most_local: float, most_scale: float) -> Tensor:
    """Shift all positions of an example alike, each a little more, and scale them (T. Likhomanenko et al., "CAPE").

    steps : tensor [shape=(n_steps,)]
    most_global, most_local : largest shifts, in positions
    most_scale : largest factor; the least is its inverse
    returns : tensor [shape=(n_batch, n_steps)]
    """

    def uniform(n_steps: int, most: float) -> Tensor:
        return torch.empty(n_batch, n_steps, device=steps.device).uniform_(-most, most)

    shifted = steps + uniform(1, most_global) + uniform(steps.shape[0], most_local)
    return shifted * uniform(1, math.log(most_scale)).exp()


class _GroupNorm(nn.GroupNorm):
    """Group normalisation over positions and features of arrays (batch, position, width)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def _norm(n_groups: int, width: int) -> nn.Module:
    """Group normalisation, or layer normalisation for no groups."""
    return _GroupNorm(n_groups, width) if n_groups else nn.LayerNorm(width)


def _norm_in(config: TransformerConfig, width: int) -> nn.Module:
    if config.norm_in:
        return nn.LayerNorm(width)
    return _GroupNorm(config.norm_in_groups, width) if config.norm_in_groups else nn.Identity()


def _layer_scale(config: TransformerConfig, width: int) -> nn.Module:
    return LayerScale(width, _SCALE_INIT, channels_last=True) if config.layer_scale else nn.Identity()


def _split(x: Tensor, n_heads: int) -> Tensor:
    """Part the heads: (batch, position, width) to (batch, head, position, width / n_heads)."""
    return x.view(*x.shape[:2], n_heads, -1).transpose(1, 2)


def _merge(x: Tensor) -> Tensor:
    """Put the heads beside each other again: the inverse of `_split`."""
    return x.transpose(1, 2).flatten(2)
