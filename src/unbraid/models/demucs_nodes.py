"""Layers that the Demucs families share as nodes of an ONNX graph: the arithmetic of `layers`.

Arrays are (1, channel, row, step): rows are bins of a spectrogram, each of which is treated alike, or one row for a
waveform. A layer's parameters are those of the graph under the layer's prefix.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from unbraid.models.demucs.config import LONGEST_LSTM, N_DECAYS, N_HEADS, SELF_SCORE
from unbraid.models.lstm_nodes import lstm
from unbraid.models.onnx_graph import GraphNodes

__all__ = [
    "blstm",
    "conv",
    "conv_transposed",
    "dconv",
    "gated_conv",
    "gelu",
    "glu",
    "group_norm",
    "slices",
    "standardised",
]

NORM_EPS: Final = 1e-5  # torch's default
# oneDNN, in OpenVINO 2026.4 and PyTorch 2.13, gives wrong numbers in bfloat16 on processors with AMX for convolutions
# with strides along the steps whose inputs have from about 8 to 28 channels. Published networks have 2, 4, or 48 and
# more; those of a narrower one are filled up to so many with zeros.
_FEWEST: Final = 32


def conv(graph: GraphNodes, prefix: str, x: str, **attributes: Any) -> str:
    """Append a convolution over rows and steps, or over steps alone if its kernel has one axis."""
    kernel = _kernel(graph, f"{prefix}weight")
    n_missing = _FEWEST - graph.parameters[f"{prefix}weight"][1]
    if attributes.get("strides", [1, 1])[1] > 1 and 0 < n_missing < _FEWEST - 4:
        zeros = graph.integers(0, 0, 0, 0, 0, n_missing, 0, 0)
        x, kernel = graph.add("Pad", x, zeros), graph.add("Pad", kernel, zeros)
    return graph.add("Conv", x, kernel, f"{prefix}bias", **attributes)


def conv_transposed(graph: GraphNodes, prefix: str, x: str, **attributes: Any) -> str:
    """Append a transposed convolution, likewise."""
    return graph.add("ConvTranspose", x, _kernel(graph, f"{prefix}weight"), f"{prefix}bias", **attributes)


def gated_conv(graph: GraphNodes, prefix: str, x: str, **attributes: Any) -> str:
    """Append a convolution and a GLU.

    As two convolutions, so that nobody need part their channels, which lie next to each other in engines.
    """
    kernels = graph.split(_kernel(graph, f"{prefix}weight"), 2, axis=0)
    biases = graph.split(f"{prefix}bias", 2, axis=0)
    value, gate = (graph.add("Conv", x, k, b, **attributes) for k, b in zip(kernels, biases, strict=True))
    return graph.add("Mul", value, graph.add("Sigmoid", gate))


def gelu(graph: GraphNodes, x: str) -> str:
    """Append the exact GELU, in the form in which engines recognise it."""
    inner = graph.add("Erf", graph.add("Div", x, graph.scalar(math.sqrt(2))))
    return graph.add("Mul", graph.add("Mul", x, graph.add("Add", inner, graph.scalar(1))), graph.scalar(0.5))


def glu(graph: GraphNodes, x: str) -> str:
    """Append a GLU over the channels."""
    value, gate = graph.split(x, 2)
    return graph.add("Mul", value, graph.add("Sigmoid", gate))


def slices(graph: GraphNodes, x: str, start: int, stop: int, axis: int) -> str:
    """Append what takes the places from `start` up to `stop` of an axis."""
    return graph.add("Slice", x, graph.integers(start), graph.integers(stop), graph.integers(axis))


def group_norm(graph: GraphNodes, prefix: str, x: str, shape: tuple[int, ...], n_groups: int) -> str:
    """Append a group normalisation over rows and steps.

    shape : of `x`
    """
    y = instance_norm(graph, graph.reshape(x, 1, n_groups, -1), n_groups)
    return _affine(graph, prefix, graph.reshape(y, *shape))


def instance_norm(graph: GraphNodes, x: str, n_groups: int) -> str:
    """Append a normalisation of (1, n_groups, n) over the last axis."""
    ones, zeros = (graph.constant(np.full(n_groups, value, np.float32)) for value in (1, 0))
    return graph.add("InstanceNormalization", x, ones, zeros, epsilon=NORM_EPS)


def standardised(graph: GraphNodes, x: str, shape: tuple[int, ...], floor: float) -> tuple[str, str, str]:
    """Append what brings an array to mean 0 and standard deviation 1.

    shape : of `x`
    floor : what is added to the standard deviation

    returns : the array, mean and standard deviation, which have as many axes
    """
    axes = list(range(1, len(shape)))
    # In two steps, since engines sum up in float32, one after the other.
    mean = graph.add("ReduceMean", graph.add("ReduceMean", x, axes=axes[-1:]), axes=axes[:-1])
    centred = graph.add("Sub", x, mean)
    squares = graph.add("ReduceMean", graph.add("Mul", centred, centred), axes=axes[-1:])
    variance = graph.add("ReduceMean", squares, axes=axes[:-1])
    n = math.prod(shape)
    deviation = graph.add("Sqrt", graph.add("Mul", variance, graph.scalar(n / (n - 1))))
    return graph.add("Div", centred, graph.add("Add", deviation, graph.scalar(floor))), mean, deviation


def dconv(
    graph: GraphNodes,
    prefix: str,
    x: str,
    n_rows: int,
    n_steps: int,
    *,
    depth: int,
    dilate: bool,
    attention: bool,
    with_lstm: bool,
) -> str:
    """Append a residual branch.

    x : [shape=(1, channel, n_rows, n_steps)]
    depth, dilate : number of convolutions, and whether their dilation doubles from each to the next
    attention, with_lstm : the branch has local attention, and before it an LSTM
    """
    for i in range(depth):
        dilation = 2**i if dilate else 1
        layer = f"{prefix}layers.{i}."
        hidden = graph.parameters[f"{layer}0.weight"][0]
        y = conv(graph, f"{layer}0.", x, dilations=[1, dilation], pads=[0, dilation, 0, dilation])
        y = gelu(graph, _row_norm(graph, f"{layer}1.", y))
        position = 3
        if with_lstm:
            windows = {"n_layers": 2, "max_steps": LONGEST_LSTM}
            y = graph.add("Add", y, blstm(graph, f"{layer}3.", y, (hidden, n_rows, n_steps), **windows))
            position += 1
        if attention:
            y = _local_attention(graph, f"{layer}{position}.", y, (hidden, n_rows, n_steps))
            position += 1
        x = graph.add("Add", x, _branch_end(graph, layer, position, y))
    return x


def blstm(
    graph: GraphNodes,
    prefix: str,
    x: str,
    shape: tuple[int, int, int],
    *,
    n_layers: int,
    max_steps: int | None = None,
) -> str:
    """Append a bidirectional LSTM along the steps of each row, and a dense layer that makes one of both directions.

    shape : channels, rows and steps of `x`
    max_steps : more steps are cut into windows of so many that overlap by half
    """
    width, n_rows, n_steps = shape
    steps = graph.reshape(graph.add("Transpose", x, perm=[0, 3, 2, 1]), n_steps, n_rows, width)
    if max_steps is None or n_steps <= max_steps:
        y = _lstm(graph, prefix, steps, n_steps, n_rows, n_layers)
    else:
        stride, edge = max_steps // 2, max_steps // 4
        n_windows = -(-n_steps // stride)
        n_padded = (n_windows + 1) * stride
        padded = graph.add("Pad", steps, graph.integers(0, 0, 0, n_padded - n_steps, 0, 0))
        blocks = graph.reshape(padded, n_windows + 1, stride, n_rows, width)
        halves = [slices(graph, blocks, i, n_windows + i, axis=0) for i in range(2)]
        windows = graph.add("Transpose", graph.add("Concat", *halves, axis=1), perm=[1, 0, 2, 3])
        windows = graph.reshape(windows, max_steps, n_windows * n_rows, width)
        y = _lstm(graph, prefix, windows, max_steps, n_windows * n_rows, n_layers)
        y = graph.reshape(y, max_steps, n_windows, n_rows, width)
        # The first window also gives the steps before its centre; the last one's centre reaches past the end.
        first = slices(graph, slices(graph, y, 0, 1, axis=1), 0, edge, axis=0)
        centres = graph.add("Transpose", slices(graph, y, edge, edge + stride, axis=0), perm=[1, 0, 2, 3])
        parts = [graph.reshape(part, -1, n_rows, width) for part in (first, centres)]
        y = slices(graph, graph.add("Concat", *parts, axis=0), 0, n_steps, axis=0)
    return graph.reshape(graph.add("Transpose", y, perm=[2, 1, 0]), 1, width, n_rows, n_steps)


def _lstm(graph: GraphNodes, prefix: str, x: str, n_steps: int, n_batch: int, n_layers: int) -> str:
    """Append an LSTM and a dense layer: (step, batch, width) to the same shape."""
    y = lstm(graph, f"{prefix}lstm.", x, n_steps, n_batch, n_layers=n_layers)
    weight = graph.add("Transpose", f"{prefix}linear.weight", perm=[1, 0])
    return graph.add("Add", graph.add("MatMul", y, weight), f"{prefix}linear.bias")


def _local_attention(graph: GraphNodes, prefix: str, x: str, shape: tuple[int, int, int]) -> str:
    """Append attention whose scores fall with distance.

    shape : channels, rows and steps of `x`
    """
    width, n_rows, n_steps = shape
    n_features = width // N_HEADS

    def heads(name: str, n_inner: int, *perm: int) -> str:
        y = graph.reshape(conv(graph, f"{prefix}{name}.", x), N_HEADS, n_inner, n_rows, n_steps)
        return graph.add("Transpose", y, perm=list(perm))

    query = graph.add("Mul", heads("query", n_features, 2, 0, 3, 1), graph.scalar(n_features**-0.5))
    key, content = heads("key", n_features, 2, 0, 1, 3), heads("content", n_features, 2, 0, 3, 1)
    decay = graph.add("Sigmoid", heads("query_decay", N_DECAYS, 2, 0, 3, 1))
    rates = graph.constant((np.arange(1, N_DECAYS + 1) / (2 * N_DECAYS**0.5)).astype(np.float32))
    slope = graph.add("ReduceSum", graph.add("Mul", decay, rates), graph.integers(3))
    steps = np.arange(n_steps, dtype=np.float32)
    distance = graph.add("Abs", graph.add("Sub", graph.constant(steps[:, None]), graph.constant(steps)))
    scores = graph.add("Sub", graph.add("MatMul", query, key), graph.add("Mul", slope, distance))
    itself = graph.add("Equal", distance, graph.scalar(0))
    weights = graph.add("Softmax", graph.add("Where", itself, graph.scalar(SELF_SCORE), scores), axis=3)
    found = graph.add("Transpose", graph.add("MatMul", weights, content), perm=[1, 3, 0, 2])
    return graph.add("Add", x, conv(graph, f"{prefix}proj.", graph.reshape(found, 1, width, n_rows, n_steps)))


def _row_norm(graph: GraphNodes, prefix: str, x: str) -> str:
    """Append a group normalisation of one group over channels and steps, of each row by itself."""
    mean = graph.add("ReduceMean", x, axes=[1, 3])
    centred = graph.add("Sub", x, mean)
    variance = graph.add("ReduceMean", graph.add("Mul", centred, centred), axes=[1, 3])
    deviation = graph.add("Sqrt", graph.add("Add", variance, graph.scalar(NORM_EPS)))
    return _affine(graph, prefix, graph.add("Div", centred, deviation))


def _branch_end(graph: GraphNodes, prefix: str, position: int, x: str) -> str:
    """Append the last convolution of a residual branch, its normalisation, GLU and scale.

    What the convolution gives is many times larger than what it takes, so the statistics for the normalisation of each
    row come from the latter. W (d + m) + b, where d has no mean along the steps, has the mean of W m + b over the
    channels; its variance is the sum of d (Wᵀ W) d over its channels' number, and the variance of W m + b.

    position : of the convolution in the sequence
    """
    weight, bias = f"{prefix}{position}.weight", f"{prefix}{position}.bias"
    n_out, n_in, _ = graph.parameters[weight]
    kernel, matrix = graph.reshape(weight, n_out, n_in, 1, 1), graph.reshape(weight, n_out, n_in)
    product = graph.add("MatMul", graph.add("Transpose", matrix, perm=[1, 0]), matrix)
    mean = graph.add("ReduceMean", x, axes=[3])
    deviations = graph.add("Sub", x, mean)
    turned = graph.add("Conv", deviations, graph.reshape(product, n_in, n_in, 1, 1))
    inner = graph.add("ReduceMean", graph.add("Mul", deviations, turned), axes=[1, 3])
    means = graph.add("Conv", mean, kernel, bias)
    centre = graph.add("ReduceMean", means, axes=[1])
    apart = graph.add("Sub", means, centre)
    outer = graph.add("ReduceMean", graph.add("Mul", apart, apart), axes=[1])
    variance = graph.add("Add", graph.add("Mul", inner, graph.scalar(n_in / n_out)), outer)
    rate = graph.add("Reciprocal", graph.add("Sqrt", graph.add("Add", variance, graph.scalar(NORM_EPS))))
    # The scale goes into the half that is not the gate.
    ones = graph.constant(np.ones(n_out // 2, np.float32))
    scales = graph.add("Concat", f"{prefix}{position + 3}.scale", ones, axis=0)
    gain, shift = (
        graph.reshape(graph.add("Mul", f"{prefix}{position + 1}.{name}", scales), n_out, 1, 1)
        for name in ("weight", "bias")
    )
    start = graph.add("Sub", graph.reshape(bias, 1, n_out, 1, 1), centre)
    shifts = graph.add("Add", graph.add("Mul", graph.add("Mul", start, rate), gain), shift)
    kernels = graph.add("Mul", kernel, graph.reshape(gain, n_out, 1, 1, 1))
    halves = []
    for half, offset in zip(graph.split(kernels, 2, axis=0), graph.split(shifts, 2), strict=True):
        halves.append(graph.add("Add", graph.add("Mul", graph.add("Conv", x, half), rate), offset))
    return graph.add("Mul", halves[0], graph.add("Sigmoid", halves[1]))


def _affine(graph: GraphNodes, prefix: str, x: str) -> str:
    (width,) = graph.parameters[f"{prefix}weight"]
    weight, bias = (graph.reshape(f"{prefix}{name}", 1, width, 1, 1) for name in ("weight", "bias"))
    return graph.add("Add", graph.add("Mul", x, weight), bias)


def _kernel(graph: GraphNodes, name: str) -> str:
    """A kernel with an axis for the rows."""
    shape = graph.parameters[name]
    return name if len(shape) == 4 else graph.reshape(name, *shape[:2], 1, shape[2])
