"""Layers of the Spleeter family as nodes of an ONNX graph, whose parameters they declare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unbraid.models.onnx_graph import GraphNodes

__all__ = ["INPUT", "NORM", "OUTPUT", "activation", "batch_norm", "convolution", "share", "transposed"]

INPUT = "magnitude"
OUTPUT = "stems"
NORM = ("weight", "bias", "running_mean", "running_var")
LEAKY_SLOPE = 0.2


def convolution(
    graph: GraphNodes,
    prefix: str,
    x: str,
    shape: tuple[int, ...],
    *,
    bias: bool = True,
    turned: bool = False,
    **attributes: Any,
) -> str:
    """Append a convolution whose kernel has this shape: (out, in, height, width), or height last if `turned`."""
    weight = graph.parameter(f"{prefix}weight", *shape)
    kernel = graph.add("Transpose", weight, perm=[0, 1, 3, 2]) if turned else weight
    biases = [graph.parameter(f"{prefix}bias", shape[0])] if bias else []
    return graph.add("Conv", x, kernel, *biases, **attributes)


def transposed(
    graph: GraphNodes, prefix: str, x: str, shape: tuple[int, ...], *, turned: bool = False, **attributes: Any
) -> str:
    """Append a transposed convolution, likewise; the shape of its kernel is (in, out, height, width)."""
    weight = graph.parameter(f"{prefix}weight", *shape)
    kernel = graph.add("Transpose", weight, perm=[0, 1, 3, 2]) if turned else weight
    return graph.add("ConvTranspose", x, kernel, graph.parameter(f"{prefix}bias", shape[1]), **attributes)


def batch_norm(graph: GraphNodes, prefix: str, x: str, n_channels: int, *, epsilon: float) -> str:
    """Append a batch normalisation with the statistics that it has learnt."""
    values = [graph.parameter(f"{prefix}{name}", n_channels) for name in NORM]
    return graph.add("BatchNormalization", x, *values, epsilon=epsilon)


def activation(graph: GraphNodes, name: str, x: str) -> str:
    """Append an activation by the name that Spleeter's JSON gives it."""
    if name == "LeakyReLU":
        return graph.add("LeakyRelu", x, alpha=LEAKY_SLOPE)
    return graph.add({"ReLU": "Relu", "ELU": "Elu"}[name], x)


def share(graph: GraphNodes, logits: Sequence[str], mix: str) -> None:
    """Append the output: a softmax over the stems, times the mix.

    Written out, since engines are slow at a softmax over an axis that is not the last.
    logits, mix : each [shape=(1, 1, channel, n_frames, n_bins)]
    """
    largest = graph.add("Max", *logits)
    powers = [graph.add("Exp", graph.add("Sub", logit, largest)) for logit in logits]
    shares = graph.add("Div", mix, graph.add("Sum", *powers))
    graph.add("Concat", *(graph.add("Mul", power, shares) for power in powers), axis=1, name=OUTPUT)
