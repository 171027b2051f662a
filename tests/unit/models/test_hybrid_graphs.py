"""The graphs of Hybrid Demucs and HT Demucs beside their torch modules in double precision, by both engines."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from demucs_networks import PUBLISHED
from unbraid.datatypes import FloatArray, Network
from unbraid.engines.select import load_engine
from unbraid.errors import ModelError
from unbraid.models.families import family
from unbraid.models.hdemucs import graph as hdemucs_graph
from unbraid.models.hdemucs.config import HDemucsConfig, UNetConfig
from unbraid.models.htdemucs import graph as htdemucs_graph
from unbraid.models.htdemucs.config import HTDemucsConfig, TransformerConfig
from unbraid.models.onnx_graph import GraphNodes, serialized

torch = pytest.importorskip("torch", reason="torch is not installed")
from hybrid_networks import SMALL, UNET, make, random_inputs, relative_error, run, shaken  # noqa: E402

ENGINES = ["openvino", "onnxruntime"]
# Rounding of float32 through all layers. Of ONNX Runtime's, up to 1e-5 is its erf, exact to 1e-7 absolutely only.
TOLERANCE = {"openvino": 5e-6, "onnxruntime": 3e-5}
CLASSES: dict[str, Any] = {"hdemucs": HDemucsConfig, "htdemucs": HTDemucsConfig}
TWO: dict[str, Any] = {"stems": ("a", "b"), **UNET}
# Every option that changes the arithmetic, beside those of `SMALL`.
UNETS = {
    "wide contexts": HDemucsConfig(
        **TWO, depth=4, growth=1.5, context=2, context_enc=1, dconv_mode=3, dconv_dilate=False
    ),
    "norm and all branches everywhere": HDemucsConfig(
        **{**TWO, "dconv_comp": 1}, depth=4, norm_starts=0, dconv_mode=3, dconv_depth=1, dconv_attn=0, dconv_lstm=0
    ),
    "attention without LSTM": HDemucsConfig(**TWO, depth=5, dconv_attn=1, dconv_lstm=5),
    "LSTM without attention": HDemucsConfig(**TWO, depth=5, dconv_attn=5, dconv_lstm=2, time_stride=4),
    "a narrow waveform": HDemucsConfig(**TWO, depth=4, hidden_channels_time=4, dconv_mode=2, dconv_depth=3),
    "a wide waveform": HDemucsConfig(**TWO, depth=4, hidden_channels_time=12, dconv_mode=0),
    "bands, mono": HDemucsConfig(
        **{**TWO, "n_fft": 128}, depth=2, multi_freqs=(0.5,), multi_freqs_depth=1, n_channels=1, emb_scale=3
    ),
}
TRANSFORMERS = {
    "group norms": TransformerConfig(norm_in=False, norm_in_groups=2, norm_groups=4, norm_out_groups=2),
    "norms last": TransformerConfig(norm_first=False, gelu=False, layer_scale=False),
    "few norms": TransformerConfig(norm_in=False, norm_out_groups=0, hidden_scale=2.5),
    "cape": TransformerConfig(positions="cape", positions_weight=0.5, max_period=50),
    "cape from 0": TransformerConfig(positions="cape", cape_mean_normalize=False, cross_first=True),
    "learnt positions": TransformerConfig(positions="scaled", max_positions=300, positions_weight=2),
}
CONFIGS: dict[str, UNetConfig] = {
    **SMALL,
    **UNETS,
    **{
        name: HTDemucsConfig(**TWO, depth=2, dconv_mode=3, transformer=replace(transformer, n_layers=2, n_heads=2))
        for name, transformer in TRANSFORMERS.items()
    },
}


def describe(config: UNetConfig, n: int) -> GraphNodes:
    if isinstance(config, HTDemucsConfig):
        return htdemucs_graph.describe(config, n)
    assert isinstance(config, HDemucsConfig)
    return hdemucs_graph.describe(config, n)


def network_of(config: UNetConfig, n: int, state: dict[str, FloatArray]) -> Network:
    if isinstance(config, HTDemucsConfig):
        return htdemucs_graph.network(config, n, lambda: state, "weights")
    assert isinstance(config, HDemucsConfig)
    return hdemucs_graph.network(config, n, lambda: state, "weights")


def state_of(module: Any) -> dict[str, FloatArray]:
    return {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}


def largest_error(network: Network, inputs: tuple[Any, ...], engine: str) -> float:
    """Of all outputs of an engine, beside the module that the network makes, in double precision."""
    assert network.input_shapes == tuple(tuple(given.shape) for given in inputs)
    loaded = load_engine(network, engine=engine, precision="f32", n_threads=2)
    found = loaded.run(tuple(given.numpy() for given in inputs))
    loaded.close()
    expected = run(network.module().double(), *(given.double() for given in inputs))
    assert len(found) == len(expected)
    return max(relative_error(torch.from_numpy(a), b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CONFIGS)
def test_numbers(name: str, engine: str) -> None:
    config, n = CONFIGS[name], 597
    network = network_of(config, n, state_of(shaken(make(config))))
    assert largest_error(network, random_inputs(config, n), engine) <= TOLERANCE[engine]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n", [1601, 3207, 3993])  # 201 steps at the first LSTM; 201 and 250 at the second
def test_long_windows_are_cut_for_the_lstm(n: int, engine: str) -> None:
    config = HDemucsConfig(**TWO, depth=4, norm_starts=2, dconv_attn=3, dconv_lstm=2)
    network = network_of(config, n, state_of(shaken(make(config))))
    assert largest_error(network, random_inputs(config, n), engine) <= TOLERANCE[engine]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["htdemucs", "htdemucs_6s", "hdemucs_mmi", "mdx, amplitude", "mdx, bands"])
def test_numbers_at_published_size(name: str) -> None:
    kind, kwargs = PUBLISHED[name]
    config = CLASSES[kind].from_kwargs(kwargs)
    n = config.segment_samples if kind == "htdemucs" else 10 * 44100
    network = network_of(config, n, state_of(shaken(make(config))))
    assert largest_error(network, random_inputs(config, n), "openvino") <= 1e-4


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_the_module_and_all_are_used(name: str) -> None:
    config = CONFIGS[name]
    graph = describe(config, 597)
    expected = family("htdemucs" if isinstance(config, HTDemucsConfig) else "hdemucs").shapes(config)
    assert list(graph.parameters.items()) == list(expected.items())
    used = {value for node in graph.nodes for value in node.input}
    # A layer that normalises last has, as upstream, a normalisation that it does not need.
    unused = [
        parameter
        for parameter in expected
        if parameter not in used and (name, "norm3") != ("norms last", parameter.split(".")[-2])
    ]
    assert not unused


def test_sparse_attention_is_for_torch() -> None:
    config = HTDemucsConfig(**TWO, depth=2, transformer=TransformerConfig(n_heads=2, sparse_cross_attn=True))
    with pytest.raises(ModelError, match="sparse attention runs with the engine 'torch' only"):
        describe(config, 597)


def test_windows_longer_than_the_learnt_positions_are_refused() -> None:
    transformer = TransformerConfig(n_heads=2, positions="scaled", max_positions=149)
    config = HTDemucsConfig(**TWO, depth=2, transformer=transformer)
    with pytest.raises(ModelError, match="max_positions must be at least 150 for this length, got 149"):
        describe(config, 597)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_fft": 64, "kernel_size": 8}, "n_fft / 4 must be the product of the strides"),
        ({"n_fft": 64, "stride": 4, "depth": 2}, "kernel_size must suit stride, got 4 for 4"),
        ({"n_fft": 64, "stride": 4, "depth": 1, "multi_freqs": (0.5,)}, "kernel_size must suit stride, got 4 for 4"),
    ],
)
def test_branches_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        describe(HDemucsConfig(**{**TWO, "depth": 4, **changes}), 597)


def test_fingerprint_follows_family_window_and_weights() -> None:
    config, other = SMALL["hdemucs"], SMALL["htdemucs"]
    networks = [
        *(network_of(config, n, {}) for n in (597, 597, 605)),
        network_of(other, 597, {}),
        hdemucs_graph.network(config, 597, dict, "other weights"),
    ]
    assert len({network.fingerprint for network in networks}) == 4


def test_a_changed_graph_has_a_new_version() -> None:
    """A compiled network in a user's cache is found by GRAPH_VERSION: raise it together with the digests."""
    import onnx

    digests = {}
    for name in ("hdemucs", "bands", "htdemucs"):
        graph = onnx.load_from_string(serialized(describe(CONFIGS[name], 597))).graph
        digests[name] = hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()[:16]
    assert (hdemucs_graph.GRAPH_VERSION, htdemucs_graph.GRAPH_VERSION, digests) == (1, 1, DIGESTS)


DIGESTS = {
    "hdemucs": "80a8732801aa7abf",
    "bands": "8f31211d641b7883",
    "htdemucs": "ee338821761ba3ae",
}
