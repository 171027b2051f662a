"""Networks as ONNX graphs without weights: nodes as a family describes them, and the `Network` made of these.

Why they are not exported from the torch modules: docs/decisions/001-graphs-are-built-from-the-configuration.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unbraid.datatypes import Network
from unbraid.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["GraphNodes", "make_network", "serialized"]

OPSET = 17
IR_VERSION = 8  # what every ONNX Runtime since 1.13 reads


class GraphNodes:
    """A graph as it accumulates: nodes and constants, and the shapes of what goes in and comes out.

    name : of the graph
    inputs : shapes of the real inputs by name, in order
    parameters : shapes of the parameters by name, where they are known beforehand; `parameter` declares them otherwise.
        A parameter is used in a node by its name, as any other value
    outputs : shapes by name, in order; a node that makes one is added with this name
    """

    def __init__(
        self,
        name: str,
        inputs: Mapping[str, tuple[int, ...]],
        parameters: Mapping[str, tuple[int, ...]],
        outputs: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.name = name
        self.inputs = dict(inputs)
        self.parameters = dict(parameters)
        self.outputs = dict(outputs)
        self.nodes: list[Any] = []
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

    def integers(self, *values: int) -> str:
        """Add a constant list of integers (axes, a shape) and return its name."""
        return self.constant(np.array(values, np.int64))

    def reshape(self, x: str, *shape: int) -> str:
        """Append a change of shape."""
        return self.add("Reshape", x, self.integers(*shape))

    def split(self, x: str, n_parts: int, axis: int = 1) -> list[str]:
        """Append a division of an axis into equal parts."""
        from onnx import helper

        parts = [f"{x}_part_{i}" for i in range(n_parts)]
        self.nodes.append(helper.make_node("Split", [x], parts, axis=axis))
        return parts


def serialized(graph: GraphNodes) -> bytes:
    """Turn a description into an ONNX model.

    returns : its inputs are the real ones, then one for each parameter under its own name
    """
    from onnx import TensorProto, helper

    def values(shapes: Mapping[str, tuple[int, ...]]) -> list[Any]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]

    inputs = values(graph.inputs) + values(graph.parameters)
    model = helper.make_model(
        helper.make_graph(graph.nodes, graph.name, inputs, values(graph.outputs), graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="unbraid",
    )
    return bytes(model.SerializeToString())


def make_network(
    describe: Callable[[], GraphNodes],
    make_module: Callable[[], nn.Module],
    parameter_shapes: Callable[[], Mapping[str, tuple[int, ...]]],
    state: Callable[[], Mapping[str, NDArray[Any]]],
    *,
    input_shapes: tuple[tuple[int, ...], ...],
    fingerprint: str,
) -> Network:
    """Make a network that any engine can run. What is passed as a function is called only when an engine wants it.

    describe, make_module : the network as a graph, and as a torch module with random parameters
    parameter_shapes : of both, by name
    state : reads the parameters by name, float32 or float16
    fingerprint : a text that decides the result: of the configuration and of whatever `state` reads, the version of
        the graph, and sizes that the configuration leaves open
    """

    def weights() -> Mapping[str, NDArray[Any]]:
        return _checked(state(), parameter_shapes())

    def module() -> nn.Module:
        import torch

        made = make_module()
        parameters = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in weights().items()}
        made.load_state_dict(made.state_dict() | parameters)
        return made.eval()

    return Network(
        fingerprint=hashlib.sha256(fingerprint.encode()).hexdigest(),
        input_shapes=input_shapes,
        graph=lambda: serialized(describe()),
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
        if not np.isfinite(state[name]).all():
            raise ModelError(f"the weights are damaged: '{name}' is not finite")
    # torch counts batches beside its statistics; anything else belongs to another network.
    unknown = sorted(name for name in state if name not in shapes and not name.endswith(".num_batches_tracked"))
    if unknown:
        raise ModelError(f"the weights do not fit the model's configuration, which has no '{unknown[0]}'")
    return {name: state[name] for name in shapes}
