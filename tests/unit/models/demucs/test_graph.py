"""The graph, in both engines that take one, beside the torch module, which is checked against the originals."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from demucs_networks import random_kwargs
from unbraid.engines.select import load_engine
from unbraid.errors import ModelError
from unbraid.models.demucs.config import DemucsConfig
from unbraid.models.demucs.graph import GRAPH_VERSION, describe, network
from unbraid.models.demucs.lengths import output_length, valid_length
from unbraid.models.demucs.resampling_graph import doubled, halved
from unbraid.models.demucs.state import parameter_shapes
from unbraid.models.onnx_graph import GraphNodes, make_network, serialized

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

Array = np.ndarray[Any, Any]
ENGINES = ["openvino", "onnxruntime"]
TOLERANCE = 1e-5  # of the energy: some 100 roundings to float32
SMALL: dict[str, Any] = {"hidden_channels": 8, "depth": 3, "norm_groups": 2, "dconv_mode": 0, "segment_samples": 100}
OLD: dict[str, Any] = {**SMALL, "gelu": False, "norm_starts": 3, "normalize": False, "resample": False}
BRANCHES: dict[str, Any] = {**SMALL, "dconv_comp": 2, "dconv_init": 0.1, "norm_starts": 1}
CONFIGS = {
    "v1": DemucsConfig(("a", "b"), version=1, **OLD, lstm_layers=2),
    "v1 without GLU": DemucsConfig(("a", "b"), version=1, **OLD, glu=False, context=2),
    "v1, interpolation": DemucsConfig(("a",), version=1, **OLD, upsample=True, stride=2, lstm_layers=1),
    "v2": DemucsConfig(("a", "b"), version=2, **{**OLD, "resample": True}, lstm_layers=1),
    "v2, normalised": DemucsConfig(("a",), version=2, **{**OLD, "normalize": True}, rewrite=False, n_channels=1),
    "v2, wide": DemucsConfig(("a",), version=2, **{**OLD, "hidden_channels": 130, "depth": 2}),
    "v3": DemucsConfig(("a", "b"), **SMALL, norm_starts=1, context=2),
    "v3 without": DemucsConfig(("a", "b"), **SMALL, norm_starts=3, resample=False, normalize=False, stride=3),
    "v3, branches": DemucsConfig(("a",), **{**BRANCHES, "dconv_mode": 3, "dconv_attn": 1, "dconv_lstm": 2}),
    "v3, branches behind": DemucsConfig(("a",), **{**BRANCHES, "dconv_mode": 2, "dconv_dilate": False}, stride=2),
    "v3, stride beyond kernel": DemucsConfig(("a",), **{**SMALL, "resample": False}, kernel_size=3, stride=4),
}


def random_state(config: DemucsConfig, seed: int = 0) -> dict[str, Array]:
    """Parameters that let every one of them matter."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in parameter_shapes(config).items():
        if len(shape) == 1:
            value = rng.normal(0, 0.1, shape) + (name.endswith(".weight") or name.endswith(".scale"))
        else:
            value = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape)
        state[name] = value.astype(np.float32)
    return state


def random_mix(config: DemucsConfig, n: int, seed: int = 0, mean: float = 0.1) -> Array:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((1, config.n_channels, n)) * 0.3 + mean).astype(np.float32)


def relative_error(ours: Array, theirs: Array) -> float:
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs.astype(float)) / np.linalg.norm(theirs.astype(float)))


def by_engine(name: str, config: DemucsConfig, state: Mapping[str, Array], mix: Array) -> Array:
    """What the graph gives for a window."""
    made = network(config, mix.shape[2], lambda: state, "test")
    engine = load_engine(made, engine=name, precision="f32", n_threads=1, cache_dir=None)
    (stems,) = engine.run((mix,))
    engine.close()
    return stems


def by_module(config: DemucsConfig, state: Mapping[str, Array], mix: Array) -> Array:
    """What the module gives, in float64."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    module = network(config, mix.shape[2], lambda: state, "test").module().double()
    with torch.inference_mode():
        stems: Array = module(torch.from_numpy(mix).double()).numpy()
    return stems


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CONFIGS)
def test_graph_equals_module(name: str, engine: str) -> None:
    config = CONFIGS[name]
    pytest.importorskip(engine)
    state = random_state(config)
    mix = random_mix(config, valid_length(config, 1500))
    stems = by_engine(engine, config, state, mix)
    assert stems.shape == (1, len(config.stems), config.n_channels, output_length(config, mix.shape[2]))
    assert relative_error(stems, by_module(config, state, mix)) < TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["v1, interpolation", "v2", "v3", "v3, stride beyond kernel"])
def test_any_length(name: str, engine: str) -> None:
    """Windows that upstream never makes, too: odd ones, and the shortest."""
    config = CONFIGS[name]
    pytest.importorskip(engine)
    state = random_state(config)
    shortest = 2 if config.version == 3 else valid_length(config, 1)
    for n in (shortest, shortest + 1, shortest + 38, shortest + 401):
        mix = random_mix(config, n, seed=n)
        error = relative_error(by_engine(engine, config, state, mix), by_module(config, state, mix))
        # Of two samples the mean may all but cancel what is not rounding.
        assert error < (TOLERANCE if n > 2 else 1e-3), n


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_random_networks(version: int, engine: str) -> None:
    pytest.importorskip(engine)
    n_seen = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        kwargs = random_kwargs(f"demucs{version}", rng)
        kwargs.update(kernel_size=int(rng.integers(1, 10)), stride=int(rng.integers(1, 7)))
        try:
            config = DemucsConfig.from_kwargs(kwargs, version=version)
        except ModelError:
            continue
        n = valid_length(config, int(rng.integers(2, 4000)))
        if n > 50_000:  # the deepest with the widest strides
            continue
        state, mix = random_state(config, seed), random_mix(config, n, seed)
        error = relative_error(by_engine(engine, config, state, mix), by_module(config, state, mix))
        # ONNX Runtime's erf, of which GELU is made, is exact to 1e-7 absolutely only.
        assert error < (3 * TOLERANCE if engine == "onnxruntime" else TOLERANCE), (kwargs, n, error)
        n_seen += 1
    assert n_seen >= 20


@pytest.mark.parametrize("engine", ENGINES)
def test_an_offset_does_not_drown_the_mix(engine: str) -> None:
    """Added up one after the other in float32, 10^6 samples lose the mean's last digits."""
    pytest.importorskip(engine)
    config = DemucsConfig(("a",), **{**OLD, "version": 3, "normalize": True, "depth": 1, "norm_starts": 1})
    state = random_state(config)
    mix = random_mix(config, 1_000_003, mean=3.0)
    error = by_engine(engine, config, state, mix) - by_module(config, state, mix)
    # What rounding a sample near 3 to float32 comes to, in and out.
    assert np.sqrt(np.mean(error**2)) < 2 * 3.0 * np.finfo(np.float32).eps


@pytest.mark.parametrize("n", [1, 2, 63, 64, 1000, 1337])
def test_resampling_block_by_block_is_resampling(n: int) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("onnxruntime")
    from torch.nn import functional

    from unbraid.models.demucs.resampling import resampling_kernels

    x = np.random.default_rng(0).standard_normal((1, 3, 1, n)).astype(np.float32)
    for describe_one, old, new in ((doubled, 1, 2), (halved, 2, 1)):
        n_out = n * new // old
        if not n_out:
            continue
        graph = GraphNodes("resampling", {"x": x.shape}, {}, {"y": (1, 3, 1, n_out)})
        graph.add("Identity", describe_one(graph, "x", 3, n), name="y")
        made = make_network(lambda g=graph: g, dict, dict, dict, input_shapes=(x.shape,), fingerprint="")
        (got,) = load_engine(made, engine="onnxruntime", precision="f32", n_threads=1, cache_dir=None).run((x,))
        kernels = torch.from_numpy(resampling_kernels(old=old, new=new)).float()[:, None]
        reach = (kernels.shape[2] - old) // 2
        padded = functional.pad(torch.from_numpy(x[0]), (reach, reach + old - 1), mode="replicate")
        expected = functional.conv1d(padded.transpose(0, 1).reshape(3, 1, -1), kernels, stride=old)
        flat = expected.transpose(1, 2).reshape(3, -1)[:, :n_out].numpy()
        np.testing.assert_allclose(got[0, :, 0], flat, atol=2e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_graph_is_sound_and_takes_every_parameter(name: str) -> None:
    config = CONFIGS[name]
    graph = describe(config, valid_length(config, 1000))
    model = onnx.load_from_string(serialized(graph))
    onnx.checker.check_model(model, full_check=True)
    assert graph.parameters == parameter_shapes(config)
    used = {value for node in model.graph.node for value in node.input}
    assert not set(graph.parameters) - used


def test_network_reads_its_weights_late_and_knows_its_length() -> None:
    config, reads = CONFIGS["v2"], []

    def state() -> dict[str, Array]:
        reads.append(1)
        return random_state(config)

    made = network(config, 2000, state, "a")
    assert made.input_shapes == ((1, 2, 2000),)
    made.graph()
    assert not reads
    assert made.weights().keys() == parameter_shapes(config).keys()
    others = (network(config, 2001, state, "a"), network(config, 2000, state, "b"))
    assert len({made.fingerprint, *(other.fingerprint for other in others)}) == 3
    assert made.fingerprint == network(config, 2000, state, "a").fingerprint


def test_a_window_that_is_too_short() -> None:
    with pytest.raises(ModelError, match="20 samples are too short for this network"):
        describe(replace(CONFIGS["v1"], depth=2), 20)


def test_a_changed_graph_has_a_new_version() -> None:
    """A compiled network in a user's cache is found by GRAPH_VERSION: raise it together with the digests."""
    digests = {}
    for name, config in CONFIGS.items():
        graph = onnx.load_from_string(serialized(describe(config, valid_length(config, 1000)))).graph
        digests[name] = hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()[:16]
    assert (GRAPH_VERSION, digests) == (1, DIGESTS)


DIGESTS = {
    "v1": "ec7b7d4b91e28026",
    "v1 without GLU": "e738358e824186a8",
    "v1, interpolation": "3628c714d8b3a33f",
    "v2": "f0ea306dfad22664",
    "v2, normalised": "f88754db9399e14e",
    "v2, wide": "28c45d7cc5be5289",
    "v3": "c7aa601a8ebc00c7",
    "v3 without": "ab2166eab7f10149",
    "v3, branches": "3bf3190aa6e80932",
    "v3, branches behind": "dc344d806b0453ef",
    "v3, stride beyond kernel": "fc5f54132ee642f3",
}
