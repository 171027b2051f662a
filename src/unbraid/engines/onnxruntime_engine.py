"""Runs networks with ONNX Runtime, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from unbraid.datatypes import FloatArray, Network
from unbraid.errors import EngineError

__all__ = ["OnnxRuntimeEngine"]


class OnnxRuntimeEngine:
    """A network in an ONNX Runtime session.

    network : what to run, in float32
    n_threads : of the CPU, for one run

    Raises
    ------
    EngineError : ONNX Runtime does not work, or refuses the network
    """

    name = "onnxruntime"
    device = "cpu"
    precision = "f32"
    n_streams = 1  # all threads work on one run

    def __init__(self, network: Network, *, n_threads: int) -> None:
        self.n_threads = n_threads
        try:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = n_threads
            options.inter_op_num_threads = 1
            options.log_severity_level = 3
            self._session: Any = onnxruntime.InferenceSession(
                _filled(network), options, providers=["CPUExecutionProvider"]
            )
        # ONNX Runtime's own exceptions share no base class but Exception.
        except Exception as error:
            raise _translated("load the network into", error) from error
        self._names = [value.name for value in self._session.get_inputs()]

    def run(self, inputs: tuple[FloatArray, ...]) -> tuple[FloatArray, ...]:
        """Run the network once.

        Raises
        ------
        EngineError : ONNX Runtime failed, or the engine is closed
        """
        session = self._session
        if session is None:
            raise EngineError("cannot run the network: its engine is closed")
        try:
            return tuple(session.run(None, dict(zip(self._names, inputs, strict=True))))
        except Exception as error:
            raise _translated("run the network with", error) from error

    def describe(self) -> str:
        """Say what runs, in one line."""
        return f"ONNX Runtime on the CPU, f32, {self.n_threads} thread(s)"

    def close(self) -> None:
        """Release the memory of the session."""
        self._session = None


def _filled(network: Network) -> bytes:
    """The network's graph with its weights inside."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(network.graph())
    weights = network.weights()
    inputs = list(model.graph.input)
    n_real = len(network.input_shapes)
    for value in inputs[n_real:]:
        array = np.ascontiguousarray(weights[value.name], dtype=np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, value.name))
        model.graph.input.remove(value)
    _spell_out_sigmoids(model.graph)
    return bytes(model.SerializeToString())


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


def _translated(doing: str, error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return error
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return EngineError(f"cannot {doing} ONNX Runtime: {reason[0]}; try the engine 'openvino'")
