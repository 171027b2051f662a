"""ONNX nodes and parameters as they accumulate while a network is described."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["INPUT", "NORM", "OUTPUT", "GraphNodes"]

INPUT = "magnitude"
OUTPUT = "stems"
NORM = ("weight", "bias", "running_mean", "running_var")
LEAKY_SLOPE = 0.2


class GraphNodes:
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

    def scalar(self, value: float) -> str:
        """Add a constant number and return its name."""
        return self.constant(np.array(value, np.float32))

    def convolution(
        self, prefix: str, x: str, shape: tuple[int, ...], *, bias: bool = True, turned: bool = False, **attributes: Any
    ) -> str:
        """Append a convolution whose kernel has this shape: (out, in, height, width), or height last if `turned`."""
        weight = self.parameter(f"{prefix}weight", *shape)
        kernel = self.add("Transpose", weight, perm=[0, 1, 3, 2]) if turned else weight
        biases = [self.parameter(f"{prefix}bias", shape[0])] if bias else []
        return self.add("Conv", x, kernel, *biases, **attributes)

    def transposed(
        self, prefix: str, x: str, shape: tuple[int, ...], *, turned: bool = False, **attributes: Any
    ) -> str:
        """Append a transposed convolution, likewise; the shape of its kernel is (in, out, height, width)."""
        weight = self.parameter(f"{prefix}weight", *shape)
        kernel = self.add("Transpose", weight, perm=[0, 1, 3, 2]) if turned else weight
        return self.add("ConvTranspose", x, kernel, self.parameter(f"{prefix}bias", shape[1]), **attributes)

    def norm(self, prefix: str, x: str, n_channels: int, *, epsilon: float) -> str:
        """Append a batch normalisation with the statistics that it has learnt."""
        values = [self.parameter(f"{prefix}{name}", n_channels) for name in NORM]
        return self.add("BatchNormalization", x, *values, epsilon=epsilon)

    def activation(self, name: str, x: str) -> str:
        """Append an activation by the name that Spleeter's JSON gives it."""
        if name == "LeakyReLU":
            return self.add("LeakyRelu", x, alpha=LEAKY_SLOPE)
        return self.add({"ReLU": "Relu", "ELU": "Elu"}[name], x)

    def reshape(self, x: str, *shape: int) -> str:
        """Append a change of shape."""
        return self.add("Reshape", x, self.constant(np.array(shape, np.int64)))

    def split(self, x: str, n_parts: int) -> list[str]:
        """Append a division of axis 1 into parts of length 1."""
        from onnx import helper

        parts = [f"{x}_part_{i}" for i in range(n_parts)]
        self.nodes.append(helper.make_node("Split", [x], parts, axis=1))
        return parts

    def share(self, logits: Sequence[str], mix: str) -> None:
        """Append the output: a softmax over the stems, times the mix.

        Written out, since engines are slow at a softmax over an axis that is not the last.
        logits, mix : each [shape=(1, 1, channel, n_frames, n_bins)]
        """
        largest = self.add("Max", *logits)
        powers = [self.add("Exp", self.add("Sub", logit, largest)) for logit in logits]
        share = self.add("Div", mix, self.add("Sum", *powers))
        self.add("Concat", *(self.add("Mul", power, share) for power in powers), axis=1, name=OUTPUT)
