from __future__ import annotations

import hashlib

import numpy as np
import pytest

from unbraid.errors import ModelError
from unbraid.models.onnx_graph import serialized
from unbraid.models.spleeter.config import SharedUNetConfig, SpleeterConfig
from unbraid.models.spleeter.graph import GRAPH_VERSION, describe, network, parameter_shapes

torch = pytest.importorskip("torch", reason="torch is not installed")
from unbraid.models.spleeter.network import SpleeterNetwork, UNet, make_module  # noqa: E402

STEMS = ("vocals", "other", "third")
SMALL = (2, 3, 4, 5, 6, 7)
CONFIGS = {
    "unet": SpleeterConfig(STEMS, n_frames=64, n_bins=128, conv_n_filters=SMALL),
    "unet-elu": SpleeterConfig(
        STEMS[:1], n_frames=128, n_bins=64, conv_n_filters=SMALL, conv_activation="ELU", deconv_activation="LeakyReLU"
    ),
    "softmax-relu": SpleeterConfig(
        STEMS, n_frames=64, n_bins=64, conv_n_filters=SMALL, network="unet.softmax_unet", conv_activation="ReLU"
    ),
    "shared": SpleeterConfig(
        STEMS,
        n_frames=64,
        n_bins=128,
        network="unet.shared_unet",
        shared_unet=SharedUNetConfig(n_stems=3, n_bins=128, widths=(6, 8, 10), fold_bins=2, fold_frames=4, n_blocks=2),
    ),
}


def random_module(config, seed=0):
    """The network with parameters that let every one of them matter."""
    rng = np.random.default_rng(seed)
    module = make_module(config).eval()
    for name, value in module.state_dict().items():
        if not value.is_floating_point():
            continue
        if name.endswith(("norm.weight", "running_var")):
            new = rng.uniform(0.7, 1.3, value.shape)
        elif value.ndim < 4:
            new = rng.normal(0, 0.2, value.shape)
        else:
            new = rng.normal(0, (2 / np.prod(value.shape[1:])) ** 0.5, value.shape)
        value.copy_(torch.from_numpy(np.asarray(new, np.float32)))
    return module


def state_of(module):
    return {name: value.numpy() for name, value in module.state_dict().items()}


def magnitudes(config, seed=1):
    shape = (1, config.n_channels, config.n_frames, config.n_bins)
    return np.random.default_rng(seed).gamma(0.5, 4.0, shape).astype(np.float32)


def naive_unet(state, x, config):
    """One stem's U-Net as Spleeter's layers are documented, in float64 and by explicit sums over the taps.

    x : [shape=(channel, frame, bin)]; returns the logits
    """

    def conv(name, x):  # 5 x 5, stride 2, TensorFlow's SAME
        kernel, bias = state[f"{name}.weight"].astype(float), state[f"{name}.bias"]
        padded = np.pad(x, ((0, 0), (1, 2), (1, 2)))
        out = np.zeros((len(kernel), x.shape[1] // 2, x.shape[2] // 2)) + bias[:, None, None]
        for i in range(5):
            for j in range(5):
                window = padded[:, i : i + x.shape[1] : 2, j : j + x.shape[2] : 2]
                out += np.einsum("oc,ctf->otf", kernel[:, :, i, j], window)
        return out

    def transposed(name, x):  # 5 x 5, stride 2: scattered, then cropped by 1 ahead and 2 behind
        kernel, bias = state[f"{name}.weight"].astype(float), state[f"{name}.bias"]
        full = np.zeros((kernel.shape[1], 2 * x.shape[1] + 3, 2 * x.shape[2] + 3))
        for i in range(5):
            for j in range(5):
                full[:, i : i + 2 * x.shape[1] : 2, j : j + 2 * x.shape[2] : 2] += np.einsum(
                    "co,ctf->otf", kernel[:, :, i, j], x
                )
        return full[:, 1:-2, 1:-2] + bias[:, None, None]

    def norm(name, x):
        scale = state[f"{name}.weight"] / np.sqrt(state[f"{name}.running_var"] + 1e-3)
        return (x - state[f"{name}.running_mean"][:, None, None]) * scale[:, None, None] + state[f"{name}.bias"][
            :, None, None
        ]

    def act(name, x):
        negative = {"LeakyReLU": 0.2 * x, "ReLU": 0 * x, "ELU": np.expm1(np.minimum(x, 0))}[name]
        return np.where(x > 0, x, negative)

    skips = []
    for i in range(6):
        if i:
            x = act(config.conv_activation, norm(f"encoder.{i - 1}.norm", skips[-1]))
        skips.append(conv(f"encoder.{i}.conv", x))
    x = skips.pop()
    for i in range(6):
        x = norm(f"decoder.{i}.norm", act(config.deconv_activation, transposed(f"decoder.{i}.conv", x)))
        if skips:
            x = np.concatenate([skips.pop(), x])
    padded = np.pad(x, ((0, 0), (3, 3), (3, 3)))
    logits = np.zeros((2, *x.shape[1:])) + state["mask.bias"][:, None, None]
    for i in range(4):
        for j in range(4):
            window = padded[0, 2 * i : 2 * i + x.shape[1], 2 * j : 2 * j + x.shape[2]]
            logits += state["mask.weight"][:, 0, i, j, None, None] * window
    return logits


@pytest.mark.parametrize("name", ["unet", "unet-elu", "softmax-relu"])
def test_unet_equals_the_sums_written_out(name):
    config = CONFIGS[name]
    module = random_module(config)
    magnitude = magnitudes(config)
    with torch.inference_mode():
        got = module(torch.from_numpy(magnitude)).numpy()[0]
    logits = []
    for k in range(len(config.stems)):
        prefix = f"stems.{k}."
        state = {key.removeprefix(prefix): v for key, v in state_of(module).items() if key.startswith(prefix)}
        logits.append(naive_unet(state, magnitude[0].astype(float), config))
    logits = np.array(logits)
    if config.network == "unet.softmax_unet":
        masks = np.exp(logits) / np.exp(logits).sum(axis=0)
    else:
        masks = 1 / (1 + np.exp(-logits))
    expected = masks * magnitude[0]
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_network_begins_with_weights_as_uniform_as_spleeters():
    """Keras' he_uniform: between ± sqrt(6 / fan-in); of the kernels' ends, one of a thousand weights comes near."""
    network = make_module(SpleeterConfig(STEMS[:1]))
    fan_ins = {f"encoder.{i}": 25 * n for i, n in enumerate((2, 16, 32, 64, 128, 256))}
    fan_ins |= {f"decoder.{i}": 25 * n for i, n in enumerate((256, 128, 64, 32, 16, 1))}  # of the outputs, in Keras
    for name, fan_in in fan_ins.items():
        conv = network.get_submodule(f"stems.0.{name}.conv").requires_grad_(False)
        bound = (6 / fan_in) ** 0.5
        assert 0.95 * bound < conv.weight.abs().max() <= bound
        assert conv.weight.std() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert not conv.bias.any()


def test_official_shapes_have_the_official_number_of_parameters():
    # Spleeter's 2-stem checkpoint has 9,826,759 numbers a stem, of which the unused normalisation at the bottom of the
    # U (4 x 512) is none of ours.
    shapes = parameter_shapes(SpleeterConfig(("a", "b")))
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 2 * (9_826_759 - 4 * 512)


@pytest.mark.parametrize("name", CONFIGS)
def test_graph_and_module_have_the_same_parameters(name):
    module = make_module(CONFIGS[name])
    of_module = {k: tuple(v.shape) for k, v in module.state_dict().items() if "num_batches_tracked" not in k}
    assert parameter_shapes(CONFIGS[name]) == of_module


@pytest.mark.parametrize("name", CONFIGS)
def test_graph_equals_module(name):
    """By ONNX's own reference interpreter, which shares no code with any engine."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    config = CONFIGS[name]
    module = random_module(config)
    magnitude = magnitudes(config)
    model = onnx.load_from_string(serialized(describe(config)))
    onnx.checker.check_model(model, full_check=True)
    values = {k: v for k, v in state_of(module).items() if "num_batches_tracked" not in k}
    (got,) = ReferenceEvaluator(model).run(None, {"magnitude": magnitude, **values})
    with torch.inference_mode():
        expected = module(torch.from_numpy(magnitude)).numpy()
    assert got.shape == expected.shape == (1, len(config.stems), 2, config.n_frames, config.n_bins)
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


def test_softmax_stems_add_up_to_the_mix():
    config = CONFIGS["softmax-relu"]
    magnitude = torch.from_numpy(magnitudes(config))
    with torch.inference_mode():
        total = random_module(config)(magnitude).sum(dim=1)
    torch.testing.assert_close(total, magnitude, rtol=1e-6, atol=0)


def test_stems_do_not_depend_on_each_other():
    config = CONFIGS["unet"]
    module = random_module(config)
    assert isinstance(module, SpleeterNetwork)
    magnitude = torch.from_numpy(magnitudes(config))
    with torch.inference_mode():
        alone = module.stems[1](magnitude).sigmoid() * magnitude
        torch.testing.assert_close(module(magnitude)[:, 1], alone, rtol=0, atol=0)
        assert isinstance(module.stems[1], UNet)


def test_network_gives_its_module_the_weights_and_reads_them_late():
    config = CONFIGS["unet"]
    module = random_module(config)
    reads = []

    def state():
        reads.append(1)
        return {**{k: v.astype(np.float16) for k, v in state_of(module).items()}}

    made = network(config, state, "fingerprint")
    made.graph()
    assert not reads
    key = "stems.2.decoder.3.conv.weight"
    np.testing.assert_array_equal(made.module().state_dict()[key].numpy(), state()[key].astype(np.float32))
    assert set(made.weights()) == set(parameter_shapes(config))
    assert made.input_shapes == ((1, 2, 64, 128),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("stems.1.mask.bias"), "'stems.1.mask.bias' is missing"),
        (
            lambda state: state.update({"stems.0.mask.bias": np.zeros(3)}),
            r"'stems.0.mask.bias' must be \(2,\), got \(3,\)",
        ),
        (lambda state: state.update({"stems.3.mask.bias": np.zeros(2)}), "which has no 'stems.3.mask.bias'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, message):
    state = state_of(make_module(CONFIGS["unet"]))
    change(state)
    made = network(CONFIGS["unet"], lambda: state, "fingerprint")
    for use in (made.weights, made.module):
        with pytest.raises(ModelError, match=message):
            use()


def test_fingerprint_follows_what_it_is_given():
    config = CONFIGS["unet"]
    fingerprints = {network(config, dict, given).fingerprint for given in ("a", "a", "b")}
    assert len(fingerprints) == 2


def test_a_changed_graph_has_a_new_version():
    """A compiled network in a user's cache is found by GRAPH_VERSION: raise it together with the digests."""
    import onnx

    digests = {}
    for name, config in CONFIGS.items():
        graph = onnx.load_from_string(serialized(describe(config))).graph
        digests[name] = hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()[:16]
    assert (GRAPH_VERSION, digests) == (3, DIGESTS)


DIGESTS = {
    "unet": "7953b6e4267b8e1e",
    "unet-elu": "6abe9babb1982c65",
    "softmax-relu": "51f00fc157ca800e",
    "shared": "b842a8c91579ba25",
}
