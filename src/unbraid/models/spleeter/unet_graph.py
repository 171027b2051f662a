"""Spleeter's own U-Nets as nodes of an ONNX graph: the arithmetic of `network.SpleeterNetwork`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unbraid.models.onnx_graph import GraphNodes
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.models.spleeter.nodes import INPUT, NORM, OUTPUT, activation, batch_norm, convolution, share, transposed

__all__ = ["describe_unets"]

BATCH_NORM_EPS = 1e-3
BLOCK = 4


def describe_unets(graph: GraphNodes, config: SpleeterConfig) -> None:
    """Add one U-Net a stem, and the masks that they make."""
    logits = [_unet(graph, config, f"stems.{k}.") for k in range(len(config.stems))]
    axes = graph.constant(np.array([1], dtype=np.int64))
    logits = [graph.add("Unsqueeze", logit, axes) for logit in logits]
    mix = graph.add("Unsqueeze", INPUT, axes)
    if config.network == "unet.softmax_unet":
        share(graph, logits, mix)
    else:
        masks = graph.add("Sigmoid", graph.add("Concat", *logits, axis=1))
        graph.add("Mul", masks, mix, name=OUTPUT)


def _unet(graph: GraphNodes, config: SpleeterConfig, prefix: str) -> str:
    """Add the network of one stem and return the name of its logits."""
    filters = config.conv_n_filters
    x, skips = INPUT, []
    for i, (n_in, n_out) in enumerate(zip((config.n_channels, *filters), filters, strict=False)):
        if i > 0:
            x = batch_norm(graph, f"{prefix}encoder.{i - 1}.norm.", x, n_in, epsilon=BATCH_NORM_EPS)
            x = activation(graph, config.conv_activation, x)
        # TensorFlow's SAME at stride 2 and an even length: one zero ahead, two behind.
        x = convolution(graph, f"{prefix}encoder.{i}.conv.", x, (n_out, n_in, 5, 5), strides=[2, 2], pads=[1, 1, 2, 2])
        skips.append(x)
    skips.pop()
    n_in = filters[-1]
    for i, n_out in enumerate(filters[-2::-1]):
        name = f"{prefix}decoder.{i}."
        x = transposed(graph, f"{name}conv.", x, (n_in, n_out, 5, 5), strides=[2, 2], pads=[1, 1, 2, 2])
        x = activation(graph, config.deconv_activation, x)
        x = batch_norm(graph, f"{name}norm.", x, n_out, epsilon=BATCH_NORM_EPS)
        if i < len(filters) - 2:
            x = graph.add("Concat", skips.pop(), x, axis=1)
        n_in = 2 * n_out
    return _last_layers(graph, config, prefix, skips.pop(), x)


def _last_layers(graph: GraphNodes, config: SpleeterConfig, prefix: str, skip: str, x: str) -> str:
    """Add the layers after the last concatenation, which is split up: both have a single channel in between.

    A convolution with one channel at full resolution leaves most of a vector unit idle. So a block of 4 x 4 pixels
    becomes 16 channels at a quarter of the resolution, for which the kernels' taps are rearranged: the same sums.
    """
    n_half, n_channels = config.conv_n_filters[0], config.n_channels
    name = f"{prefix}decoder.5."
    weight = graph.parameter(f"{name}conv.weight", 2 * n_half, 1, 5, 5)
    bias = graph.parameter(f"{name}conv.bias", 1)
    kernel = _gathered(graph, weight, (2 * n_half, 25), _transposed_taps(), (2 * n_half, BLOCK**2, 4, 4))
    kernel = graph.add("Transpose", kernel, perm=[1, 0, 2, 3])
    to_block = graph.constant(np.array([BLOCK**2], np.int64))
    halves = []
    for i, half in enumerate((skip, x)):
        taps = graph.add("Gather", kernel, graph.constant(np.arange(i * n_half, (i + 1) * n_half)), axis=1)
        biases = [graph.add("Expand", bias, to_block)] if i == 0 else []
        halves.append(graph.add("Conv", half, taps, *biases, strides=[2, 2], pads=[1, 1, 1, 1]))
    x = activation(graph, config.deconv_activation, graph.add("Add", *halves))
    norm = [graph.add("Expand", graph.parameter(f"{name}norm.{key}", 1), to_block) for key in NORM]
    x = graph.add("BatchNormalization", x, *norm, epsilon=BATCH_NORM_EPS)
    weight = graph.parameter(f"{prefix}mask.weight", n_channels, 1, 4, 4)
    bias = graph.parameter(f"{prefix}mask.bias", n_channels)
    kernel = _gathered(graph, weight, (n_channels, 16), _mask_taps(), (n_channels * BLOCK**2, BLOCK**2, 3, 3))
    biases = [graph.add("Gather", bias, graph.constant(np.repeat(np.arange(n_channels), BLOCK**2)), axis=0)]
    x = graph.add("Conv", x, kernel, *biases, pads=[1, 1, 1, 1])
    return graph.add("DepthToSpace", x, blocksize=BLOCK, mode="CRD")


def _transposed_taps() -> NDArray[np.int64]:
    """Which of the 5 x 5 taps of a transposed convolution (25: none) goes where, when 2 x 2 inputs give 4 x 4 outputs.

    returns : [shape=(row in block, column in block, 4, 4)]; output 2y - 1 + k of input y lies in the block's row
    """
    taps = np.arange(BLOCK)[:, None] + 1 - 2 * (np.arange(4) - 1)
    return _pairs(taps, (taps >= 0) & (taps < 5), 5)


def _mask_taps() -> NDArray[np.int64]:
    """Which of the 4 x 4 taps of the dilated convolution (16: none) goes where, from blocks to blocks.

    returns : [shape=(row out, column out, row in, column in, 3, 3)]
    """
    place = np.arange(BLOCK)
    distance = BLOCK * (np.arange(3) - 1) + place[:, None] - place[:, None, None] + 3  # of tap k: 2 k
    distance = distance.reshape(BLOCK, BLOCK * 3)
    taps = _pairs(distance // 2, (distance % 2 == 0) & (distance >= 0) & (distance < 8), 4)
    return taps.reshape(BLOCK, BLOCK, BLOCK, 3, BLOCK, 3).transpose(0, 1, 2, 4, 3, 5)


def _pairs(taps: NDArray[np.int64], valid: NDArray[np.bool_], n_taps: int) -> NDArray[np.int64]:
    """Combine the taps of rows and columns [shape=(a, b)] to [shape=(a, a, b, b)]; n_taps² where there is none."""
    both = taps[:, None, :, None] * n_taps + taps[None, :, None, :]
    return np.where(valid[:, None, :, None] & valid[None, :, None, :], both, n_taps**2)


def _gathered(
    graph: GraphNodes, weight: str, flat: tuple[int, int], taps: NDArray[np.int64], shape: tuple[int, ...]
) -> str:
    """Rearrange the taps of a kernel; an engine does this once, when it loads the weights."""
    flattened = graph.reshape(weight, *flat)
    padded = graph.add("Concat", flattened, graph.constant(np.zeros((flat[0], 1), np.float32)), axis=1)
    gathered = graph.add("Gather", padded, graph.constant(taps.reshape(-1)), axis=1)
    return graph.reshape(gathered, *shape)
