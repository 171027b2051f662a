"""Nodes of the Demucs families, where an engine needs care."""

from typing import Any

import numpy as np
import pytest

from processor import has_bf16
from unbraid.engines.select import load_engine
from unbraid.models.demucs_nodes import conv
from unbraid.models.onnx_graph import GraphNodes, make_network

N_STEPS = 400


def strided(n_in: int, padding: int, precision: str, state: dict[str, Any], x: Any) -> Any:
    """A convolution with kernel 8 and stride 4 along the steps, in OpenVINO."""
    shapes = {name: value.shape for name, value in state.items()}
    n_out = (N_STEPS + 2 * padding - 8) // 4 + 1
    graph = GraphNodes("strided", {"x": x.shape}, shapes, {"y": (1, 2 * n_in, 1, n_out)})
    graph.add("Identity", conv(graph, "", "x", strides=[1, 4], pads=[0, padding, 0, padding]), name="y")
    network = make_network(lambda: graph, dict, lambda: shapes, lambda: state, input_shapes=(x.shape,), fingerprint="")
    engine = load_engine(network, engine="openvino", precision=precision, n_threads=1)
    (y,) = engine.run((x,))
    engine.close()
    return y


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("n_in", [2, 4, 5, 8, 12, 16, 24, 28, 31, 32, 48])
def test_strides_along_few_channels(n_in: int, padding: int) -> None:
    """In bfloat16 too: 1.1 of relative error was seen where rounding makes 0.003."""
    rng = np.random.default_rng(n_in)
    weight = rng.normal(0, (8 * n_in) ** -0.5, (2 * n_in, n_in, 8)).astype(np.float32)
    state = {"weight": weight, "bias": rng.normal(0, 0.1, 2 * n_in).astype(np.float32)}
    x = rng.standard_normal((1, n_in, 1, N_STEPS)).astype(np.float32)
    padded = np.pad(x[0, :, 0], ((0, 0), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 8, axis=1)[:, ::4]
    expected = np.einsum("oik,itk->ot", weight, windows) + state["bias"][:, None]
    for precision, tolerance in (("f32", 1e-6), ("bf16", 1e-2)):
        if precision == "bf16" and not has_bf16():
            continue
        y = strided(n_in, padding, precision, state, x)[0, :, 0]
        assert np.linalg.norm(y - expected) <= tolerance * np.linalg.norm(expected), precision
