"""Runs networks with ONNX Runtime, on the CPU."""

from __future__ import annotations

from typing import Any

from unbraid.datatypes import FloatArray, Network
from unbraid.errors import EngineError
from unbraid.models.filled_graph import filled_graph

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
    any_shape = False
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
                filled_graph(network).SerializeToString(), options, providers=["CPUExecutionProvider"]
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


def _translated(doing: str, error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return error
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return EngineError(f"cannot {doing} ONNX Runtime: {reason[0]}; try the engine 'openvino'")
