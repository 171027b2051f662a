"""ONNX nodes and parameters as they accumulate while a network is described."""

from __future__ import annotations

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

    def convolution(self, prefix: str, x: str, shape: tuple[int, ...], *, bias: bool = True, **attributes: Any) -> str:
        """Append a convolution whose kernel has this shape (out, in, height, width)."""
        weight = self.parameter(f"{prefix}weight", *shape)
        biases = [self.parameter(f"{prefix}bias", shape[0])] if bias else []
        return self.add("Conv", x, weight, *biases, **attributes)

    def transposed(self, prefix: str, x: str, shape: tuple[int, ...], **attributes: Any) -> str:
        """Append a transposed convolution whose kernel has this shape (in, out, height, width)."""
        weight = self.parameter(f"{prefix}weight", *shape)
        bias = self.parameter(f"{prefix}bias", shape[1])
        return self.add("ConvTranspose", x, weight, bias, **attributes)

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
