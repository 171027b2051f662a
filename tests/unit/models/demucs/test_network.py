"""The torch module, beside its layers written out in NumPy, and beside the classes of the original program."""

import importlib
import inspect
import warnings
from typing import Any

import numpy as np
import pytest

from demucs_networks import STEMS, random_kwargs
from unbraid.errors import ModelError
from unbraid.models.demucs.config import DemucsConfig
from unbraid.models.demucs.lengths import output_length, valid_length
from unbraid.models.demucs.resampling import resampling_kernels
from unbraid.models.demucs.state import from_v2_names, parameter_shapes

torch = pytest.importorskip("torch", reason="torch is not installed")
from unbraid.models.demucs.network import DemucsNetwork  # noqa: E402

Array = np.ndarray[Any, Any]
SMALL: dict[str, Any] = {"hidden_channels": 4, "depth": 3, "norm_groups": 2, "dconv_mode": 0, "segment_samples": 100}
OLD: dict[str, Any] = {**SMALL, "gelu": False, "norm_starts": 3, "normalize": False, "resample": False}
WRITTEN_OUT = {
    "v1": DemucsConfig(("a", "b"), version=1, **OLD, lstm_layers=2),
    "v1 without GLU": DemucsConfig(("a", "b"), version=1, **OLD, glu=False, context=2),
    "v1, interpolation": DemucsConfig(("a",), version=1, **OLD, upsample=True, stride=2, lstm_layers=1),
    "v2": DemucsConfig(("a", "b"), version=2, **{**OLD, "resample": True}, lstm_layers=1),
    "v2, normalised": DemucsConfig(("a",), version=2, **{**OLD, "normalize": True}, rewrite=False, n_channels=1),
    "v3": DemucsConfig(("a", "b"), version=3, **SMALL, norm_starts=1, context=2),
    "v3 without": DemucsConfig(("a", "b"), **SMALL, norm_starts=3, resample=False, normalize=False, stride=3),
}


def random_network(config: DemucsConfig, seed: int = 0) -> DemucsNetwork:
    """With vectors that let every one of them matter."""
    torch.manual_seed(seed)
    network = DemucsNetwork(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return network


def random_mix(config: DemucsConfig, n: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((1, config.n_channels, n)) * 0.3 + 0.1).astype(np.float32)


def relative_error(ours: Array, theirs: Array) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def drawn(kind: str, seed: int) -> dict[str, Any]:
    """Arguments of a network that can be built."""
    rng = np.random.default_rng(seed)
    while True:
        kwargs = random_kwargs(kind, rng)
        try:
            DemucsConfig.from_kwargs(kwargs, version=int(kind[-1]))
        except ModelError:
            continue
        return kwargs


class WrittenOut:
    """The layers of a network in float64, by sums over the taps; x : [shape=(channel, time)]."""

    def __init__(self, config: DemucsConfig, network: DemucsNetwork) -> None:
        self.config = config
        self.state = {name: value.numpy().astype(float) for name, value in network.state_dict().items()}

    def conv(self, x: Array, name: str, stride: int = 1, padding: int = 0) -> Array:
        kernel, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        x = np.pad(x, ((0, 0), (padding, padding)))
        n_out = (x.shape[1] - kernel.shape[2]) // stride + 1
        out = np.repeat(bias[:, None], n_out, axis=1)
        for tap in range(kernel.shape[2]):
            out += kernel[:, :, tap] @ x[:, tap : tap + (n_out - 1) * stride + 1 : stride]
        return out

    def transposed(self, x: Array, name: str, stride: int) -> Array:
        kernel, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        out = np.repeat(bias[:, None], (x.shape[1] - 1) * stride + kernel.shape[2], axis=1)
        for t in range(x.shape[1]):
            out[:, t * stride : t * stride + kernel.shape[2]] += np.einsum("i,iok->ok", x[:, t], kernel)
        return out

    def norm(self, x: Array, name: str) -> Array:
        if f"{name}.weight" not in self.state:
            return x
        groups = x.reshape(self.config.norm_groups, -1)
        groups = groups - groups.mean(axis=1, keepdims=True)
        x = (groups / np.sqrt((groups**2).mean(axis=1, keepdims=True) + 1e-5)).reshape(x.shape)
        return x * self.state[f"{name}.weight"][:, None] + self.state[f"{name}.bias"][:, None]

    def activation(self, x: Array) -> Array:
        if self.config.gelu:
            return x * (1 + np.vectorize(__import__("math").erf)(x / 2**0.5)) / 2
        return np.maximum(x, 0)

    def gate(self, x: Array) -> Array:
        if not self.config.glu:
            return np.maximum(x, 0)
        return x[: len(x) // 2] * sigmoid(x[len(x) // 2 :])

    def encode(self, x: Array, i: int) -> Array:
        stride = 1 if self.config.upsample else self.config.stride
        x = self.activation(self.norm(self.conv(x, f"encoder.{i}.0", stride), f"encoder.{i}.1"))
        if self.config.rewrite:
            x = self.gate(self.norm(self.conv(x, f"encoder.{i}.3"), f"encoder.{i}.4"))
        return x

    def decode(self, x: Array, i: int) -> Array:
        name, at = f"decoder.{self.config.depth - 1 - i}", 0
        if self.config.rewrite:
            padding = self.config.context if self.config.version == 3 else 0
            x = self.gate(self.norm(self.conv(x, f"{name}.0", padding=padding), f"{name}.1"))
            at = 3
        if self.config.upsample:
            x = self.conv(x, f"{name}.{at}")
        else:
            x = self.transposed(x, f"{name}.{at}", self.config.stride)
        return self.activation(self.norm(x, f"{name}.{at + 1}")) if i else x

    def lstm(self, x: Array) -> Array:
        for layer in range(self.config.lstm_layers):
            x = np.concatenate(
                [self.direction(x, f"l{layer}"), self.direction(x[:, ::-1], f"l{layer}_reverse")[:, ::-1]]
            )
        return self.state["lstm.linear.weight"] @ x + self.state["lstm.linear.bias"][:, None]

    def direction(self, x: Array, suffix: str) -> Array:
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        w_x, w_h, b_x, b_h = (self.state[f"lstm.lstm.{kind}_{suffix}"] for kind in kinds)
        h = cell = np.zeros(w_h.shape[1])
        out = []
        for step in x.T:
            i, f, g, o = np.split(w_x @ step + b_x + w_h @ h + b_h, 4)
            cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(cell)
            out.append(h)
        return np.array(out).T

    def __call__(self, mix: Array) -> Array:
        """Stems [shape=(stem, channel, m)] of a mix [shape=(channel, n)]."""
        config, n, x = self.config, mix.shape[1], mix.astype(float)
        mean, std = 0.0, 1.0
        if config.normalize:
            mean, std = x.mean(axis=0).mean(), x.mean(axis=0).std(ddof=1)
        if config.version == 2 or config.normalize:
            x = (x - mean) / (1e-5 + std)
        if config.version == 3:
            surplus = valid_length(config, n) - n
            x = np.pad(x, ((0, 0), (surplus // 2, surplus - surplus // 2)))
        if config.resample:
            x = resampled(x, 1, 2)
        skips = [x]
        for i in range(config.depth):
            x = self.encode(x, i)
            skips.append(x)
            x = x[:, :: config.stride] if config.upsample else x
        x = self.lstm(x) if config.lstm_layers else x
        for i in reversed(range(config.depth)):
            if config.upsample:
                at = np.arange((x.shape[1] - 1) * config.stride) / config.stride
                x = np.stack([np.interp(at, np.arange(x.shape[1]), row) for row in x])
            x = self.decode(x + centre(skips.pop(), x.shape[1]), i)
        if config.upsample:
            x = self.conv(np.concatenate([x, centre(skips[0], x.shape[1])]), "final")
        if config.resample:
            x = resampled(x, 2, 1)
        x = x * std + mean
        if config.version == 3:
            x = centre(x, n)
        return x.reshape(len(config.stems), config.n_channels, -1)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def centre(x: Array, n: int) -> Array:
    start = (x.shape[-1] - n) // 2
    return x[..., start : start + n]


def resampled(x: Array, old: int, new: int) -> Array:
    """Sinc interpolation by its formula, one output sample at a time; the edges go on as they are."""
    n_out = x.shape[1] * new // old
    out = np.empty((len(x), n_out))
    for j in range(n_out):
        at = np.arange(j * old // new - 60, j * old // new + 61)
        t = 0.945 * (at / old - j / new)
        t = t[inside := np.abs(t) < 24]
        weights = np.sinc(t) * np.cos(np.pi * t / 48) ** 2
        out[:, j] = x[:, np.clip(at[inside], 0, x.shape[1] - 1)] @ (weights / weights.sum())
    return out


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_is_its_layers_written_out(name: str) -> None:
    config = WRITTEN_OUT[name]
    network = random_network(config)
    mix = random_mix(config, valid_length(config, 150))
    with torch.no_grad():
        ours = network(torch.from_numpy(mix)).numpy()[0]
    expected = WrittenOut(config, network)(mix[0])
    assert ours.shape == expected.shape == (len(config.stems), config.n_channels, output_length(config, mix.shape[2]))
    assert relative_error(ours, expected) < 1e-5


@pytest.mark.parametrize("kind", ["demucs1", "demucs2", "demucs3"])
def test_names_order_and_shapes_of_the_tensors(kind: str) -> None:
    for seed in range(25):
        config = DemucsConfig.from_kwargs(drawn(kind, seed), version=int(kind[-1]))
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = DemucsNetwork(config).state_dict()
        assert [(name, tuple(value.shape)) for name, value in state.items()] == list(parameter_shapes(config).items())


@pytest.mark.parametrize("kind", ["demucs1", "demucs2", "demucs3"])
def test_gives_as_many_samples_as_output_length_says(kind: str) -> None:
    for seed in range(8):
        config = DemucsConfig.from_kwargs({**drawn(kind, seed), "depth": 2}, version=int(kind[-1]))
        n = valid_length(config, 301 + seed)
        with torch.no_grad():
            stems = random_network(config)(torch.from_numpy(random_mix(config, n)))
        assert stems.shape == (1, len(config.stems), config.n_channels, output_length(config, n))


def test_a_batch_is_its_windows_one_by_one() -> None:
    config = DemucsConfig(tuple(STEMS), hidden_channels=8, depth=3, dconv_attn=1, dconv_lstm=1, norm_starts=1)
    network = random_network(config)
    windows = torch.from_numpy(np.concatenate([random_mix(config, 2000, seed) * 10.0**seed for seed in (0, 1, 2)]))
    with torch.no_grad():
        alone = torch.cat([network(window[None]) for window in windows])
        together = network(windows)
    for one, other in zip(together.numpy(), alone.numpy(), strict=True):
        assert relative_error(one, other) < 1e-5


def test_rescaling_before_training() -> None:
    """Section 3 of demucs-2019: weights are divided by the root of (their deviation / reference)."""
    kwargs: dict[str, Any] = {"sources": STEMS, "channels": 16, "depth": 2}
    states = {}
    for rescale in (0, 0.1, 0.4):
        torch.manual_seed(0)
        states[rescale] = DemucsNetwork(
            DemucsConfig.from_kwargs({**kwargs, "rescale": rescale}, version=1)
        ).state_dict()
    for name, value in states[0].items():
        for rescale in (0.1, 0.4):
            if name.startswith("lstm"):
                expected = value
            else:
                weight = states[0][name.replace("bias", "weight")]
                expected = value / (weight.std() / rescale) ** 0.5
            torch.testing.assert_close(states[rescale][name], expected)
    first = states[0.1]["encoder.0.0.weight"].std().item(), states[0]["encoder.0.0.weight"].std().item()
    last = states[0.1]["decoder.0.0.weight"].std().item(), states[0]["decoder.0.0.weight"].std().item()
    assert first[0] / last[0] == pytest.approx((first[1] / last[1]) ** 0.5)


def test_resampling_keeps_constants_and_tones() -> None:
    up, down = (torch.from_numpy(resampling_kernels(old=old, new=new)).float() for old, new in ((1, 2), (2, 1)))
    for kernels in (up, down):
        torch.testing.assert_close(kernels.sum(dim=1), torch.ones(len(kernels)))
    network = DemucsNetwork(DemucsConfig(("a",), depth=1, dconv_mode=0, norm_starts=1))
    assert network.up is not None
    assert network.down is not None
    tone = np.sin(0.3 * np.pi * np.arange(2000))
    doubled = network.up(torch.from_numpy(tone.astype(np.float32))[None, None])
    expected = np.sin(0.15 * np.pi * np.arange(4000))
    np.testing.assert_allclose(doubled.numpy()[0, 0, 200:-200], expected[200:-200], atol=1e-3)
    np.testing.assert_allclose(network.down(doubled).numpy()[0, 0, 200:-200], tone[200:-200], atol=1e-3)
    assert network.down(doubled[..., 1:]).shape[-1] == 1999


def original(kind: str) -> Any:
    """Upstream's class: that of 4.1 for version 3, of 2.0.3 for version 2, of the first release for version 1."""
    module = "demucs.demucs" if kind == "demucs3" else "demucs.model"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(module, reason=f"{module} is not installed", exc_type=ImportError)
        found = importlib.import_module(module).Demucs
    if ("upsample" in inspect.signature(found).parameters) != (kind == "demucs1") and kind != "demucs3":
        pytest.skip(f"the demucs that is installed has no networks of version {kind[-1]}")
    return found


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("kind", ["demucs1", "demucs2", "demucs3"])
def test_same_numbers_as_the_original_classes(kind: str) -> None:
    """The same weights before training for a seed, and the same stems."""
    make = original(kind)
    for seed in range(60):
        kwargs = drawn(kind, seed)
        config = DemucsConfig.from_kwargs(kwargs, version=int(kind[-1]))
        torch.manual_seed(seed)
        theirs = make(**kwargs).eval()
        torch.manual_seed(seed)
        ours = DemucsNetwork(config).eval()
        names = from_v2_names(config) if config.version < 3 else {name: name for name in parameter_shapes(config)}
        state = {names[name]: value for name, value in theirs.state_dict().items()}
        for name, value in ours.state_dict().items():
            torch.testing.assert_close(value, state[name], rtol=1e-6, atol=0, equal_nan=True)
        ours = random_network(config, seed)
        # Their own method takes some names of version 3 for those of version 2.
        torch.nn.Module.load_state_dict(theirs, {old: ours.state_dict()[new] for old, new in names.items()})
        n = 200 + 17 * seed
        window = valid_length(config, n)
        if not config.upsample:
            assert window == theirs.valid_length(n), kwargs
        mix = torch.from_numpy(random_mix(config, n if config.version == 3 else window, seed))
        with torch.no_grad():
            error = relative_error(ours(mix).numpy(), theirs(mix).numpy())
        assert error < 1e-5, (kwargs, error)
