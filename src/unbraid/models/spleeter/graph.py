"""The networks of the Spleeter family as ONNX graphs without weights, built from the configuration alone.

Why they are not exported from the torch module: docs/decisions/001-graphs-are-built-from-the-configuration.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unbraid.datatypes import Network
from unbraid.errors import ModelError
from unbraid.models.spleeter.config import SpleeterConfig

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build_graph", "network", "parameter_shapes"]

GRAPH_VERSION = 1  # part of every fingerprint: raised whenever `build_graph` builds something else than before
OPSET = 17
IR_VERSION = 8  # what every ONNX Runtime since 1.13 reads
BATCH_NORM_EPS = 1e-3
LEAKY_SLOPE = 0.2
BLOCK = 4
INPUT = "magnitude"
OUTPUT = "stems"
NORM = ("weight", "bias", "running_mean", "running_var")


class _Graph:
    """ONNX nodes and parameters as they accumulate."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.parameters: dict[str, tuple[int, ...]] = {}
        self.constants: list[Any] = []

    def add(self, op: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Append a node and return the name of its output."""
        from onnx import helper

        output = name or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def parameter(self, name: str, *shape: int) -> str:
        """Declare a parameter and return its name."""
        self.parameters[name] = shape
        return name

    def constant(self, value: NDArray[Any]) -> str:
        """Add a constant and return its name."""
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name


def build_graph(config: SpleeterConfig) -> bytes:
    """Build a network's graph.

    returns : a serialised ONNX model with input "magnitude" [shape=(1, channel, n_frames, n_bins)], then one input for
        each parameter under the name that it has in the torch module, and output "stems"
        [shape=(1, stem, channel, n_frames, n_bins)]
    """
    from onnx import TensorProto, helper

    graph = _describe(config)
    shape = (1, config.n_channels, config.n_frames, config.n_bins)
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)]
    inputs += [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in graph.parameters.items()]
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, (1, len(config.stems), *shape[1:]))
    model = helper.make_model(
        helper.make_graph(graph.nodes, "spleeter", inputs, [output], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="unbraid",
    )
    return bytes(model.SerializeToString())


def parameter_shapes(config: SpleeterConfig) -> dict[str, tuple[int, ...]]:
    """Tell which parameters a network has, by name, in the order of the graph's inputs."""
    return _describe(config).parameters


def network(config: SpleeterConfig, state: Callable[[], Mapping[str, NDArray[Any]]], fingerprint: str) -> Network:
    """Make a network that any engine can run.

    state : reads the parameters by name, float32 or float16; called only when an engine wants them
    fingerprint : hex digest of the configuration and of whatever `state` reads
    """

    def weights() -> Mapping[str, NDArray[Any]]:
        return _checked(state(), parameter_shapes(config))

    def module() -> nn.Module:
        import torch

        from unbraid.models.spleeter.network import make_module

        made = make_module(config)
        parameters = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in weights().items()}
        made.load_state_dict(made.state_dict() | parameters)
        return made.eval()

    return Network(
        fingerprint=hashlib.sha256(f"{GRAPH_VERSION} {fingerprint}".encode()).hexdigest(),
        input_shapes=((1, config.n_channels, config.n_frames, config.n_bins),),
        graph=lambda: build_graph(config),
        weights=weights,
        module=module,
    )


def _checked(state: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, NDArray[Any]]:
    """Those parameters that a network has, or ModelError where they do not fit it."""
    for name, shape in shapes.items():
        if name not in state:
            raise ModelError(f"the weights do not fit the model's configuration: '{name}' is missing")
        if tuple(state[name].shape) != shape:
            raise ModelError(
                f"the weights do not fit the model's configuration: '{name}' must be {shape}, got {state[name].shape}"
            )
    return {name: state[name] for name in shapes}


def _describe(config: SpleeterConfig) -> _Graph:
    graph = _Graph()
    logits = [_unet(graph, config, f"stems.{k}.") for k in range(len(config.stems))]
    axes = graph.constant(np.array([1], dtype=np.int64))
    stacked = graph.add("Concat", *(graph.add("Unsqueeze", logit, axes) for logit in logits), axis=1)
    if config.network == "unet.softmax_unet":
        masks = graph.add("Softmax", stacked, axis=1)
    else:
        masks = graph.add("Sigmoid", stacked)
    graph.add("Mul", masks, graph.add("Unsqueeze", INPUT, axes), name=OUTPUT)
    return graph


def _unet(graph: _Graph, config: SpleeterConfig, prefix: str) -> str:
    """Add the network of one stem and return the name of its logits."""
    filters = config.conv_n_filters
    x, skips = INPUT, []
    for i, (n_in, n_out) in enumerate(zip((config.n_channels, *filters), filters, strict=False)):
        if i > 0:
            x = _activation(graph, config.conv_activation, _norm(graph, f"{prefix}encoder.{i - 1}.norm.", x, n_in))
        # TensorFlow's SAME at stride 2 and an even length: one zero ahead, two behind.
        x = _conv(graph, f"{prefix}encoder.{i}.conv.", x, (n_out, n_in, 5, 5), strides=[2, 2], pads=[1, 1, 2, 2])
        skips.append(x)
    skips.pop()
    n_in = filters[-1]
    for i, n_out in enumerate(filters[-2::-1]):
        name = f"{prefix}decoder.{i}."
        x = _transposed(graph, f"{name}conv.", x, (n_in, n_out, 5, 5))
        x = _norm(graph, f"{name}norm.", _activation(graph, config.deconv_activation, x), n_out)
        if i < len(filters) - 2:
            x = graph.add("Concat", skips.pop(), x, axis=1)
        n_in = 2 * n_out
    return _last_layers(graph, config, prefix, skips.pop(), x)


def _last_layers(graph: _Graph, config: SpleeterConfig, prefix: str, skip: str, x: str) -> str:
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
    attributes = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    halves = []
    for i, half in enumerate((skip, x)):
        taps = graph.add("Gather", kernel, graph.constant(np.arange(i * n_half, (i + 1) * n_half)), axis=1)
        biases = [graph.add("Expand", bias, to_block)] if i == 0 else []
        halves.append(graph.add("Conv", half, taps, *biases, **attributes))
    x = _activation(graph, config.deconv_activation, graph.add("Add", *halves))
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
    distance = BLOCK * (np.arange(3) - 1) + place[:, None] - place[:, None, None] + 3  # 2 k, of tap k
    taps = _pairs((distance // 2).reshape(BLOCK, -1), ((distance % 2 == 0) & (0 <= distance) & (distance < 8)).reshape(BLOCK, -1), 4)
    return taps.reshape(BLOCK, BLOCK, BLOCK, 3, BLOCK, 3).transpose(0, 1, 2, 4, 3, 5)


def _pairs(taps: NDArray[np.int64], valid: NDArray[np.bool_], n_taps: int) -> NDArray[np.int64]:
    """Combine the taps of rows and columns, (a, b) with itself, to [shape=(a, a, b, b)]; n_taps² where there is none."""
    both = taps[:, None, :, None] * n_taps + taps[None, :, None, :]
    return np.where(valid[:, None, :, None] & valid[None, :, None, :], both, n_taps**2)


def _gathered(graph: _Graph, weight: str, flat: tuple[int, int], taps: NDArray[np.int64], shape: tuple[int, ...]) -> str:
    """Rearrange the taps of a kernel; an engine does this once, when it loads the weights."""
    flattened = graph.add("Reshape", weight, graph.constant(np.array(flat, np.int64)))
    padded = graph.add("Concat", flattened, graph.constant(np.zeros((flat[0], 1), np.float32)), axis=1)
    gathered = graph.add("Gather", padded, graph.constant(taps.reshape(-1)), axis=1)
    return graph.add("Reshape", gathered, graph.constant(np.array(shape, np.int64)))


def _conv(graph: _Graph, prefix: str, x: str, shape: tuple[int, ...], **attributes: Any) -> str:
    weight = graph.parameter(f"{prefix}weight", *shape)
    bias = graph.parameter(f"{prefix}bias", shape[0])
    return graph.add("Conv", x, weight, bias, **attributes)


def _transposed(graph: _Graph, prefix: str, x: str, shape: tuple[int, ...]) -> str:
    weight = graph.parameter(f"{prefix}weight", *shape)
    bias = graph.parameter(f"{prefix}bias", shape[1])
    return graph.add("ConvTranspose", x, weight, bias, strides=[2, 2], pads=[1, 1, 2, 2])


def _norm(graph: _Graph, prefix: str, x: str, n_channels: int) -> str:
    values = [graph.parameter(f"{prefix}{name}", n_channels) for name in NORM]
    return graph.add("BatchNormalization", x, *values, epsilon=BATCH_NORM_EPS)


def _activation(graph: _Graph, name: str, x: str) -> str:
    if name == "LeakyReLU":
        return graph.add("LeakyRelu", x, alpha=LEAKY_SLOPE)
    return graph.add({"ReLU": "Relu", "ELU": "Elu"}[name], x)
