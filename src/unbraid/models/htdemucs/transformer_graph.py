"""The Transformer across both branches of HT Demucs as nodes of an ONNX graph: the arithmetic of `transformer`.

Arrays are (1, position, feature).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unbraid.datatypes import FloatArray
from unbraid.errors import ModelError
from unbraid.models.demucs_nodes import NORM_EPS, gelu, instance_norm
from unbraid.models.hdemucs.unet_graph import Maps
from unbraid.models.htdemucs.config import HTDemucsConfig, TransformerConfig
from unbraid.models.onnx_graph import GraphNodes

__all__ = ["describe_transformer"]

_ROOT = "crosstransformer."
_EMBEDDING_FACTOR = 3.0  # of learnt positions


@dataclass(frozen=True)
class _Tokens:
    """An array of the graph [shape=(1, n, width)]."""

    name: str
    n: int


def describe_transformer(graph: GraphNodes, config: HTDemucsConfig, x: Maps, wave: Maps) -> tuple[Maps, Maps]:
    """Append the Transformer, and the convolutions around it that change the number of channels.

    Raises
    ------
    ModelError : attention is sparse, or there are not enough learnt positions
    """
    transformer, width = config.transformer, config.transformer_width
    if transformer.sparse_self_attn or transformer.sparse_cross_attn:
        raise ModelError("a network with sparse attention runs with the engine 'torch' only")
    tokens, tokens_t = (_entered(graph, config, maps, suffix) for maps, suffix in ((x, ""), (wave, "_t")))
    positions = positions_2d(width, x.n_rows, x.n_steps, transformer.max_period) * np.float32(
        transformer.positions_weight
    )
    tokens = replace(tokens, name=graph.add("Add", tokens.name, graph.constant(positions)))
    positions_t = _wave_positions(graph, transformer, wave.n_steps, width)
    tokens_t = replace(tokens_t, name=graph.add("Add", tokens_t.name, positions_t))
    for i in range(transformer.n_layers):
        prefix, prefix_t = f"{_ROOT}layers.{i}.", f"{_ROOT}layers_t.{i}."
        if (i % 2 == 1) != transformer.cross_first:
            tokens, tokens_t = (
                _layer(graph, transformer, prefix, tokens, tokens_t),
                _layer(graph, transformer, prefix_t, tokens_t, tokens),
            )
        else:
            tokens = _layer(graph, transformer, prefix, tokens, None)
            tokens_t = _layer(graph, transformer, prefix_t, tokens_t, None)
    return _left(graph, config, tokens, x, ""), _left(graph, config, tokens_t, wave, "_t")


def _entered(graph: GraphNodes, config: HTDemucsConfig, x: Maps, suffix: str) -> _Tokens:
    """Append what comes before the positions; the frames of a bin one after another."""
    n = x.n_rows * x.n_steps
    # Attention does not mind the order, and this is how the convolutions' results lie in memory.
    y = graph.reshape(graph.add("Transpose", x.name, perm=[0, 2, 3, 1]), 1, n, x.n_channels)
    if config.bottom_channels:
        y = _linear(graph, y, f"channel_upsampler{suffix}.")
    norm, n_groups = f"{_ROOT}norm_in{suffix}.", config.transformer.norm_in_groups
    if config.transformer.norm_in:
        y = _norm(graph, norm, _Tokens(y, n), 0)
    elif n_groups:
        y = _norm(graph, norm, _Tokens(y, n), n_groups)
    return _Tokens(y, n)


def _left(graph: GraphNodes, config: HTDemucsConfig, tokens: _Tokens, like: Maps, suffix: str) -> Maps:
    """Append what undoes `_entered`."""
    y = _linear(graph, tokens.name, f"channel_downsampler{suffix}.") if config.bottom_channels else tokens.name
    y = graph.reshape(y, 1, like.n_rows, like.n_steps, like.n_channels)
    return replace(like, name=graph.add("Transpose", y, perm=[0, 3, 1, 2]))


def _layer(graph: GraphNodes, config: TransformerConfig, prefix: str, x: _Tokens, context: _Tokens | None) -> _Tokens:
    """Append a layer.

    context : the branch attended to, or None for its own
    """

    def norm(name: str, x: _Tokens) -> _Tokens:
        return replace(x, name=_norm(graph, f"{prefix}{name}.", x, config.norm_groups))

    def add(x: _Tokens, y: str) -> _Tokens:
        return replace(x, name=graph.add("Add", x.name, y))

    if not config.norm_first:
        x = norm("norm1", add(x, _attention(graph, config, prefix, x, context)))
        return norm("norm2", add(x, _fed(graph, config, prefix, x)))
    normed_context = norm("norm2", context) if context else None
    x = add(x, _attention(graph, config, prefix, norm("norm1", x), normed_context))
    x = add(x, _fed(graph, config, prefix, norm("norm3" if context else "norm2", x)))
    return (
        replace(x, name=_norm(graph, f"{prefix}norm_out.", x, config.norm_out_groups)) if config.norm_out_groups else x
    )


def _attention(graph: GraphNodes, config: TransformerConfig, layer: str, x: _Tokens, context: _Tokens | None) -> str:
    """Append the attention of a layer, with the layer's scale."""
    prefix = f"{layer}cross_attn." if context else f"{layer}self_attn."
    context = context or x
    (width,) = graph.parameters[f"{prefix}out_proj.bias"]
    n_features = width // config.n_heads
    weights, biases = (graph.split(f"{prefix}in_proj_{kind}", 3, axis=0) for kind in ("weight", "bias"))
    root = graph.scalar(n_features**-0.5)
    weights[0], biases[0] = graph.add("Mul", weights[0], root), graph.add("Mul", biases[0], root)
    heads = []
    for source, weight, bias in zip((x, context, context), weights, biases, strict=True):
        y = graph.add("MatMul", source.name, graph.add("Transpose", weight, perm=[1, 0]))
        heads.append(graph.reshape(graph.add("Add", y, bias), 1, source.n, config.n_heads, n_features))
    query, value = (graph.add("Transpose", heads[i], perm=[0, 2, 1, 3]) for i in (0, 2))
    key = graph.add("Transpose", heads[1], perm=[0, 2, 3, 1])
    shares = graph.add("Softmax", graph.add("MatMul", query, key), axis=3)
    y = graph.add("Transpose", graph.add("MatMul", shares, value), perm=[0, 2, 1, 3])
    scale = f"{layer}gamma_1.scale" if config.layer_scale else None
    return _linear(graph, graph.reshape(y, 1, x.n, width), f"{prefix}out_proj.", scale)


def _fed(graph: GraphNodes, config: TransformerConfig, prefix: str, x: _Tokens) -> str:
    """Append the feed-forward part of a layer, with the layer's scale."""
    y = _linear(graph, x.name, f"{prefix}linear1.")
    y = gelu(graph, y) if config.gelu else graph.add("Relu", y)
    return _linear(graph, y, f"{prefix}linear2.", f"{prefix}gamma_2.scale" if config.layer_scale else None)


def _linear(graph: GraphNodes, x: str, prefix: str, scale: str | None = None) -> str:
    """Append a dense layer, or a convolution that is one.

    scale : factors on its output, which engines multiply into the weights once
    """
    weight, bias = f"{prefix}weight", f"{prefix}bias"
    matrix = graph.add("Transpose", graph.reshape(weight, *graph.parameters[weight][:2]), perm=[1, 0])
    if scale:
        matrix, bias = graph.add("Mul", matrix, scale), graph.add("Mul", bias, scale)
    return graph.add("Add", graph.add("MatMul", x, matrix), bias)


def _norm(graph: GraphNodes, prefix: str, x: _Tokens, n_groups: int) -> str:
    """Append a group normalisation over positions and features, or a layer normalisation for no groups."""
    weight, bias = f"{prefix}weight", f"{prefix}bias"
    if not n_groups:
        return graph.add("LayerNormalization", x.name, weight, bias, axis=-1, epsilon=NORM_EPS)
    (width,) = graph.parameters[weight]
    parts = graph.add("Transpose", graph.reshape(x.name, x.n, n_groups, width // n_groups), perm=[1, 0, 2])
    y = instance_norm(graph, graph.reshape(parts, 1, n_groups, -1), n_groups)
    parts = graph.add("Transpose", graph.reshape(y, n_groups, x.n, width // n_groups), perm=[1, 0, 2])
    return graph.add("Add", graph.add("Mul", graph.reshape(parts, 1, x.n, width), weight), bias)


def _wave_positions(graph: GraphNodes, config: TransformerConfig, n_steps: int, width: int) -> str:
    """Add the embedding of the waveform's positions."""
    if config.positions == "scaled":
        if n_steps > config.max_positions:
            raise ModelError(f"max_positions must be at least {n_steps} for this length, got {config.max_positions}")
        rows = graph.add(
            "Slice",
            f"{_ROOT}position_embeddings.embedding.weight",
            graph.integers(0),
            graph.integers(n_steps),
            graph.integers(0),
        )
        return graph.add("Mul", rows, graph.scalar(_EMBEDDING_FACTOR * config.positions_weight))
    steps = np.arange(n_steps, dtype=np.float64)
    if config.positions == "cape" and config.cape_mean_normalize:
        steps -= (n_steps - 1) / 2
    half = width // 2
    phases = steps[:, None] / config.max_period ** (np.arange(half) / (half - 1))
    positions = np.concatenate((np.cos(phases), np.sin(phases)), axis=1)
    return graph.constant((positions * config.positions_weight).astype(np.float32))


def positions_2d(width: int, n_bins: int, n_frames: int, max_period: float) -> FloatArray:
    """Embed positions in a spectrogram by sinusoids: the first half of the features says when, the second which bin.

    returns : ndarray [shape=(n_bins * n_frames, width)], the frames of a bin one after another
    """
    half = width // 2
    rates = np.exp(np.arange(0, half, 2) * -(math.log(max_period) / half))

    def embed(n_steps: int) -> NDArray[np.float64]:  # sine and cosine in turn
        phases = np.arange(n_steps)[:, None] * rates
        return np.stack((np.sin(phases), np.cos(phases)), axis=2).reshape(n_steps, half)

    frames = np.broadcast_to(embed(n_frames), (n_bins, n_frames, half))
    bins = np.broadcast_to(embed(n_bins)[:, None], (n_bins, n_frames, half))
    return np.concatenate((frames, bins), axis=2).reshape(-1, width).astype(np.float32)
