"""torch's LSTM as nodes of an ONNX graph."""

from __future__ import annotations

from typing import Final

from unbraid.models.onnx_graph import GraphNodes

__all__ = ["lstm"]

# Gates lie as input, forget, cell, output in torch, and as input, output, forget, cell in ONNX.
_GATES: Final = (0, 3, 1, 2)


def lstm(
    graph: GraphNodes, prefix: str, x: str, n_steps: int, n_batch: int, *, n_layers: int, bidirectional: bool = True
) -> str:
    """Append an LSTM, whose parameters are those of the graph under the prefix.

    x : [shape=(n_steps, n_batch, width)]
    returns : [shape=(n_steps, n_batch, feature)], those of the way back after those of the way forward
    """
    # Both ways are one node: OpenVINO 2026.4 gives wrong numbers for two nodes with an input in common and a batch.
    direction, ways = ("bidirectional", ("", "_reverse")) if bidirectional else ("forward", ("",))
    for layer in range(n_layers):
        names = [f"l{layer}{way}" for way in ways]
        weights = [_arranged(graph, [f"{prefix}weight_{kind}_{name}" for name in names]) for kind in ("ih", "hh")]
        biases = [_arranged(graph, [f"{prefix}bias_{kind}_{name}" for name in names]) for kind in ("ih", "hh")]
        width = graph.parameters[f"{prefix}weight_hh_{names[0]}"][1]
        bias = graph.add("Concat", *biases, axis=1)
        y = graph.add("LSTM", x, *weights, bias, hidden_size=width, direction=direction)
        if bidirectional:
            y = graph.add("Transpose", y, perm=[0, 2, 1, 3])
        x = graph.reshape(y, n_steps, n_batch, len(ways) * width)
    return x


def _arranged(graph: GraphNodes, names: list[str]) -> str:
    """Parameters of all ways as ONNX takes them [shape=(way, 4 · width, …)]."""
    n_gates, *inner = graph.parameters[names[0]]
    both = graph.add("Concat", *names, axis=0)
    gates = graph.reshape(both, len(names), len(_GATES), n_gates // len(_GATES), *inner)
    return graph.reshape(graph.add("Gather", gates, graph.integers(*_GATES), axis=1), len(names), n_gates, *inner)
