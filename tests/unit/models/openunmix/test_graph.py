"""The graph, in both engines that take one, beside the torch module, which is checked against the original."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from unbraid.engines.select import load_engine
from unbraid.models.onnx_graph import serialized
from unbraid.models.openunmix.config import OpenUnmixConfig, TargetConfig
from unbraid.models.openunmix.graph import GRAPH_VERSION, describe, network
from unbraid.models.openunmix.state import parameter_shapes

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

Array = np.ndarray[Any, Any]
ENGINES = ["openvino", "onnxruntime"]
TOLERANCE = 1e-6
TARGETS = (
    TargetConfig(hidden_size=6, max_bin=20),
    TargetConfig(hidden_size=8, max_bin=33, n_layers=1),
    TargetConfig(hidden_size=5, max_bin=7, n_layers=2, unidirectional=True),
)
CONFIGS = {
    "stereo": OpenUnmixConfig(tuple("abc"), TARGETS, n_fft=64, hop=16),
    "mono": OpenUnmixConfig(("a b", "c"), TARGETS[:2], n_fft=64, hop=32, n_channels=1, sample_rate=16000),
    "one stem": OpenUnmixConfig(("a",), TARGETS[2:], n_fft=30, hop=7, n_iterations=0),
}


def random_state(config: OpenUnmixConfig, seed: int = 0) -> dict[str, Array]:
    """Parameters that let every one of them matter, and counts of batches as torch has them."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in parameter_shapes(config).items():
        if name.endswith(("running_var", "_scale", "output_mean")) or (".bn" in name and name.endswith("weight")):
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) < 2:
            value = rng.normal(0, 0.5, shape)
        else:
            value = rng.normal(0, shape[1] ** -0.5, shape)
        state[name] = np.asarray(value, np.float32) if shape else np.array(3)
    return state


def random_magnitudes(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).gamma(0.5, 4.0, shape).astype(np.float32)


def relative_errors(config: OpenUnmixConfig, n_samples: int, engine: str, seed: int = 0) -> Array:
    """Of each stem, between the graph in an engine and the module in float64."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip(engine)
    state = random_state(config, seed)
    made = network(config, n_samples, lambda: state, "test")
    magnitude = random_magnitudes(made.input_shapes[0], seed)
    (stems,) = load_engine(made, engine=engine, precision="f32", n_threads=1, cache_dir=None).run((magnitude,))
    with torch.inference_mode():
        expected = made.module().double()(torch.from_numpy(magnitude).double()).numpy()
    assert stems.shape == expected.shape
    flat = expected[0].reshape(len(expected[0]), -1)
    return np.linalg.norm(stems[0].reshape(flat.shape) - flat, axis=1) / np.linalg.norm(flat, axis=1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CONFIGS)
def test_graph_equals_module(name: str, engine: str) -> None:
    for n_samples in (0, 31, 2000):
        assert relative_errors(CONFIGS[name], n_samples, engine).max() < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_published_sizes(engine: str) -> None:
    """Sums of thousands, with scales folded into the weights."""
    config = OpenUnmixConfig(("vocals", "drums"), (TargetConfig(), TargetConfig()))
    assert relative_errors(config, 100 * config.hop, engine).max() < 10 * TOLERANCE


@pytest.mark.parametrize("name", CONFIGS)
def test_graph_is_sound_and_takes_every_parameter(name: str) -> None:
    config = CONFIGS[name]
    graph = describe(config, 1000)
    model = onnx.load_from_string(serialized(graph))
    onnx.checker.check_model(model, full_check=True)
    wanted = {name: shape for name, shape in parameter_shapes(config).items() if shape}
    assert graph.parameters == wanted
    used = {value for node in model.graph.node for value in node.input}
    assert not set(graph.parameters) - used


def test_network_reads_its_weights_late_and_knows_its_length() -> None:
    config, reads = CONFIGS["stereo"], []

    def state() -> Mapping[str, Array]:
        reads.append(1)
        return random_state(config)

    made = network(config, 1000, state, "a")
    assert made.input_shapes == ((1, 2, 63, 33),)
    made.graph()
    assert not reads
    assert not any(name.endswith("num_batches_tracked") for name in made.weights())
    others = (network(config, 1008, state, "a"), network(config, 1000, state, "b"))
    assert len({made.fingerprint, *(other.fingerprint for other in others)}) == 3
    # The same frames are the same network.
    assert made.fingerprint == network(config, 1007, state, "a").fingerprint


def test_a_changed_graph_has_a_new_version() -> None:
    """A compiled network in a user's cache is found by GRAPH_VERSION: raise it together with the digests."""
    digests = {}
    for name, config in CONFIGS.items():
        graph = onnx.load_from_string(serialized(describe(config, 1000))).graph
        digests[name] = hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()[:16]
    assert (GRAPH_VERSION, digests) == (1, DIGESTS)


DIGESTS = {
    "stereo": "ae10aa37dc217cb3",
    "mono": "892efbd17eadb413",
    "one stem": "0af93853b13dfeb0",
}
