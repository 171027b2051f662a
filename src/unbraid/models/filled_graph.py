"""A network's graph with its weights inside, for programs that take the two together."""

from __future__ import annotations

from typing import Any

import numpy as np

from unbraid.datatypes import Network

__all__ = ["filled_graph"]


def filled_graph(network: Network) -> Any:
    """Build the ONNX model of a network with its weights, in float32, as initializers in place of graph inputs.

    returns : onnx.ModelProto, whose inputs are the network's real ones; of 2 GB and more it cannot be one file
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(network.graph())
    weights = network.weights()
    for value in list(model.graph.input)[len(network.input_shapes) :]:
        array = np.ascontiguousarray(weights[value.name], dtype=np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, value.name))
        model.graph.input.remove(value)
    _spell_out_sigmoids(model.graph)
    return model


def _spell_out_sigmoids(graph: Any) -> None:
    """Replace each Sigmoid by 1 / (1 + exp(−x)).

    ONNX Runtime's is exact to 1e-8 absolutely, so that two stems of 1e-6 come out in a wrong ratio, and ratios are
    what masks are made of: 6e-3 of error in the stems of Spleeter's 2-stem goldens.
    """
    from onnx import helper, numpy_helper

    nodes = list(graph.node)
    del graph.node[:]
    one = "sigmoid.one"
    for node in nodes:
        if node.op_type != "Sigmoid":
            graph.node.append(node)
            continue
        if not any(value.name == one for value in graph.initializer):
            graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), one))
        steps = [f"{node.output[0]}.{step}" for step in ("neg", "exp", "sum")]
        graph.node.append(helper.make_node("Neg", [node.input[0]], [steps[0]]))
        graph.node.append(helper.make_node("Exp", [steps[0]], [steps[1]]))
        graph.node.append(helper.make_node("Add", [steps[1], one], [steps[2]]))
        graph.node.append(helper.make_node("Reciprocal", [steps[2]], [node.output[0]]))
