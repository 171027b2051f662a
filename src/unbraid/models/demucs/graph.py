"""Demucs of the time domain as an ONNX graph without weights: the arithmetic of `network.DemucsNetwork`.

Arrays inside are (1, channel, 1, time): the layers that the families share want an axis for rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from unbraid.datatypes import Network
from unbraid.models.demucs.config import STD_FLOOR, DemucsConfig
from unbraid.models.demucs.lengths import output_length, valid_length
from unbraid.models.demucs.resampling_graph import doubled, halved
from unbraid.models.demucs.state import parameter_shapes
from unbraid.models.demucs_nodes import (
    blstm,
    conv,
    conv_transposed,
    dconv,
    gated_conv,
    gelu,
    glu,
    group_norm,
    slices,
)
from unbraid.models.onnx_graph import GraphNodes, make_network

if TYPE_CHECKING:
    from torch import nn

__all__ = ["describe", "network"]

INPUT: Final = "mix"
OUTPUT: Final = "stems"
WIDEST_SPREAD: Final = 128  # channels after a transposed convolution that is computed as a plain one: see `_spread`
ROW: Final = 1024  # samples that are added up by themselves: see `_sum`
GRAPH_VERSION: Final = 1  # part of every fingerprint: raised whenever `describe` describes something else than before


def describe(config: DemucsConfig, n_samples: int) -> GraphNodes:
    """Describe a network for windows of so many samples.

    returns : input "mix" [shape=(1, channel, n_samples)], output "stems" [shape=(1, stem, channel, m)], with m the
        `lengths.output_length` of n_samples
    """
    (shape,) = _input_shapes(config, n_samples)
    n_out = output_length(config, n_samples)
    output = (1, len(config.stems), config.n_channels, n_out)
    graph = GraphNodes("demucs", {INPUT: shape}, parameter_shapes(config), {OUTPUT: output})
    x = INPUT
    if config.normalize:
        x, mean, deviation = _normalised(graph, n_samples)
    elif config.version == 2:
        x = graph.add("Div", x, graph.scalar(1 + STD_FLOOR))
    x, n = _separated(graph, config, graph.reshape(x, 1, config.n_channels, 1, n_samples), n_samples)
    if n > n_out:
        x = slices(graph, x, (n - n_out) // 2, (n - n_out) // 2 + n_out, axis=3)
    if config.normalize:
        x = graph.add("Add", graph.add("Mul", x, deviation), mean)
    graph.add("Reshape", x, graph.integers(*output), name=OUTPUT)
    return graph


def network(
    config: DemucsConfig, n_samples: int, state: Callable[[], Mapping[str, NDArray[Any]]], fingerprint: str
) -> Network:
    """Make a network that any engine can run.

    n_samples : of the windows that it is given
    state : reads the parameters by name, float32 or float16; called only when an engine wants them
    fingerprint : hex digest of the configuration and of whatever `state` reads
    """

    def make_module() -> nn.Module:
        from unbraid.models.demucs.network import DemucsNetwork

        return DemucsNetwork(config)

    return make_network(
        lambda: describe(config, n_samples),
        make_module,
        lambda: parameter_shapes(config),
        state,
        input_shapes=_input_shapes(config, n_samples),
        fingerprint=f"demucs {GRAPH_VERSION} {n_samples} {fingerprint}",
    )


def _input_shapes(config: DemucsConfig, n_samples: int) -> tuple[tuple[int, ...], ...]:
    return ((1, config.n_channels, n_samples),)


def _normalised(graph: GraphNodes, n: int) -> tuple[str, str, str]:
    """Append what takes out mean and standard deviation of the mean of the channels.

    returns : the mix, and the two as numbers without axes
    """
    mono = graph.add("ReduceMean", INPUT, axes=[0, 1], keepdims=0)
    about = graph.add("Div", _sum(graph, mono, n), graph.scalar(n))
    near = graph.add("Sub", mono, about)
    # Sums in float32 lose what is small beside an offset, so what is left of it is taken out in a second step.
    rest = graph.add("Div", _sum(graph, near, n), graph.scalar(n))
    mean, centred = graph.add("Add", about, rest), graph.add("Sub", near, rest)
    squares = _sum(graph, graph.add("Mul", centred, centred), n)
    deviation = graph.add("Sqrt", graph.add("Div", squares, graph.scalar(n - 1)))
    x = graph.add("Div", graph.add("Sub", INPUT, mean), graph.add("Add", deviation, graph.scalar(STD_FLOOR)))
    return x, mean, deviation


def _sum(graph: GraphNodes, x: str, n: int) -> str:
    """Append the sum of `n` samples, row by row: engines add in float32, one after the other."""
    rows = graph.reshape(graph.add("Pad", x, graph.integers(0, -n % ROW)), -1, ROW)
    sums = graph.add("ReduceSum", rows, graph.integers(1), keepdims=0)
    return graph.add("ReduceSum", sums, graph.integers(0), keepdims=0)


def _separated(graph: GraphNodes, config: DemucsConfig, x: str, n: int) -> tuple[str, int]:
    """Append all but the normalisation.

    x : [shape=(1, n_channels, 1, n)]
    returns : all stems' channels [shape=(1, n_stems · n_channels, 1, m)], and m
    """
    if config.version == 3:
        surplus = valid_length(config, n) - n
        if surplus:
            before = surplus // 2
            x = graph.add("Pad", x, graph.integers(0, 0, 0, before, 0, 0, 0, surplus - before))
        n += surplus
    if config.resample:
        x, n = doubled(graph, x, config.n_channels, n), 2 * n
    x, n = _unet(graph, config, x, n)
    if config.resample:
        x, n = halved(graph, x, len(config.stems) * config.n_channels, n), n // 2
    return x, n


def _unet(graph: GraphNodes, config: DemucsConfig, mix: str, n_mix: int) -> tuple[str, int]:
    """Append encoder, LSTM and decoder; `mix` and what is returned are shaped as in `_separated`."""
    x, n = mix, n_mix
    skips: list[tuple[str, int]] = []
    for i in range(config.depth):
        x, n = _encoded(graph, config, i, x, n)
        skips.append((x, n))
        if config.upsample:
            x = graph.add("Slice", x, *(graph.integers(value) for value in (0, n, 3, config.stride)))
            n = -(-n // config.stride)
    if config.lstm_layers:
        x = blstm(graph, "lstm.", x, (config.widths[-1], 1, n), n_layers=config.lstm_layers)
    for i in reversed(range(config.depth)):
        if config.upsample:
            x, n = _interpolated(graph, x, config.widths[i], n, config.stride)
        x = graph.add("Add", x, _centre(graph, *skips.pop(), n))
        x, n = _decoded(graph, config, i, x, n)
    if config.upsample:
        x = conv(graph, "final.", graph.add("Concat", x, _centre(graph, mix, n_mix, n), axis=1))
    return x, n


def _encoded(graph: GraphNodes, config: DemucsConfig, i: int, x: str, n: int) -> tuple[str, int]:
    """Append layer `i` of the encoder, counted from the outside."""
    prefix, stride = f"encoder.{i}.", 1 if config.upsample else config.stride
    n = (n - config.kernel_size) // stride + 1
    x = conv(graph, f"{prefix}0.", x, strides=[1, stride])
    x = _activated(graph, config, i, f"{prefix}1.", x, config.widths[i], n)
    position = 3
    if config.dconv_mode & 1:
        x = _branch(graph, config, i, f"{prefix}{position}.", x, n)
        position += 1
    if config.rewrite:
        x = _rewritten(graph, config, i, prefix, position, x, n)
    return x, n


def _decoded(graph: GraphNodes, config: DemucsConfig, i: int, x: str, n: int) -> tuple[str, int]:
    """Append the layer of the decoder that answers to the encoder's `i`."""
    prefix, position = f"decoder.{config.depth - 1 - i}.", 0
    if config.rewrite:
        context = config.context if config.version == 3 else 0
        n += 2 * (context - config.context)
        x = _rewritten(graph, config, i, prefix, position, x, n, pads=[0, context, 0, context])
        position += 3
    if config.dconv_mode & 2:
        x = _branch(graph, config, i, f"{prefix}{position}.", x, n)
        position += 1
    if config.upsample:
        x, n = conv(graph, f"{prefix}{position}.", x), n - config.kernel_size + 1
    else:
        x, n = _spread(graph, f"{prefix}{position}.", x, n, config.stride)
    if i:
        x = _activated(graph, config, i, f"{prefix}{position + 1}.", x, config.widths[i - 1], n)
    return x, n


def _rewritten(
    graph: GraphNodes, config: DemucsConfig, i: int, prefix: str, position: int, x: str, n: int, **attributes: Any
) -> str:
    """Append the further convolution of layer `i`, after which there are `n` steps."""
    if config.glu and i < config.norm_starts:
        return gated_conv(graph, f"{prefix}{position}.", x, **attributes)
    x = conv(graph, f"{prefix}{position}.", x, **attributes)
    n_out = config.widths[i] * (2 if config.glu else 1)
    x = _normed(graph, config, i, f"{prefix}{position + 1}.", x, n_out, n)
    return glu(graph, x) if config.glu else graph.add("Relu", x)


def _spread(graph: GraphNodes, prefix: str, x: str, n: int, stride: int) -> tuple[str, int]:
    """Append a transposed convolution.

    With few channels it is a plain one over the steps ahead of it, which gives `stride` steps as channels: the same
    sums, which fill vector units better. Engines that keep the channels of a step together need not move anything for
    what turns these into steps.
    """
    n_in, n_out, kernel_size = graph.parameters[f"{prefix}weight"]
    n_full = (n - 1) * stride + kernel_size
    if n_out > WIDEST_SPREAD:
        return conv_transposed(graph, prefix, x, strides=[1, stride]), n_full
    n_taps = -(-kernel_size // stride)
    padded = graph.add("Pad", f"{prefix}weight", graph.integers(*[0] * 5, n_taps * stride - kernel_size))
    phases = graph.add("Transpose", graph.reshape(padded, n_in, n_out, n_taps, stride), perm=[3, 1, 0, 2])
    backwards = graph.add("Gather", phases, graph.integers(*reversed(range(n_taps))), axis=3)
    kernel = graph.reshape(backwards, stride * n_out, n_in, 1, n_taps)
    biases = graph.add("Concat", *[f"{prefix}bias"] * stride, axis=0)
    y = graph.add("Conv", x, kernel, biases, pads=[0, n_taps - 1, 0, n_taps - 1])
    steps = graph.reshape(graph.add("Transpose", y, perm=[0, 2, 3, 1]), 1, 1, -1, n_out)
    y = graph.add("Transpose", steps, perm=[0, 3, 1, 2])
    return y if n_taps * stride == kernel_size else slices(graph, y, 0, n_full, axis=3), n_full


def _activated(graph: GraphNodes, config: DemucsConfig, i: int, prefix: str, x: str, width: int, n: int) -> str:
    """Append what follows an outer convolution of layer `i`."""
    x = _normed(graph, config, i, prefix, x, width, n)
    return gelu(graph, x) if config.gelu else graph.add("Relu", x)


def _normed(graph: GraphNodes, config: DemucsConfig, i: int, prefix: str, x: str, width: int, n: int) -> str:
    return group_norm(graph, prefix, x, (1, width, 1, n), config.norm_groups) if i >= config.norm_starts else x


def _branch(graph: GraphNodes, config: DemucsConfig, i: int, prefix: str, x: str, n: int) -> str:
    return dconv(
        graph,
        prefix,
        x,
        1,
        n,
        depth=config.dconv_depth,
        dilate=config.dconv_dilate,
        attention=i >= config.dconv_attn,
        with_lstm=i >= config.dconv_lstm,
    )


def _centre(graph: GraphNodes, x: str, n: int, n_wanted: int) -> str:
    """Append what leaves the steps around the centre; of an odd surplus, one more is left out behind."""
    start = (n - n_wanted) // 2
    return x if n == n_wanted else slices(graph, x, start, start + n_wanted, axis=3)


def _interpolated(graph: GraphNodes, x: str, width: int, n: int, stride: int) -> tuple[str, int]:
    """Append linear interpolation: `stride` steps from each step on towards the next."""
    weights = (np.arange(stride) / stride).astype(np.float32)
    here, there = (graph.reshape(slices(graph, x, i, n - 1 + i, axis=3), 1, width, n - 1, 1) for i in range(2))
    y = graph.add(
        "Add",
        graph.add("Mul", here, graph.constant(1 - weights)),
        graph.add("Mul", there, graph.constant(weights)),
    )
    return graph.reshape(y, 1, width, 1, (n - 1) * stride), (n - 1) * stride
