"""The layers that the Demucs families share, beside naive recomputations in NumPy."""

from typing import Any

import numpy as np
import pytest

from unbraid.models.demucs.config import N_DECAYS, N_HEADS
from unbraid.models.demucs.state import branch_shapes

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402

from unbraid.models.layers import (  # noqa: E402
    BLSTM,
    DConv,
    LayerScale,
    LocalAttention,
    ScaledEmbedding,
    rescale_weights,
)

Array = np.ndarray[Any, Any]


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in double precision with other weights than it begins with."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return module.double().eval()


def arrays(module: nn.Module) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def output(module: nn.Module, x: Array) -> Array:
    with torch.no_grad():
        y: Array = module(torch.from_numpy(x)).numpy()
    return y


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def lstm_direction(steps: list[Array], state: dict[str, Array], suffix: str) -> list[Array]:
    """One direction of one layer, one step after another."""
    n_hidden = state[f"lstm.weight_hh_{suffix}"].shape[1]
    hidden, cell, outputs = np.zeros(n_hidden), np.zeros(n_hidden), []
    for x in steps:
        gates = state[f"lstm.weight_ih_{suffix}"] @ x + state[f"lstm.bias_ih_{suffix}"]
        gates += state[f"lstm.weight_hh_{suffix}"] @ hidden + state[f"lstm.bias_hh_{suffix}"]
        enter, forget, new, out = np.split(gates, 4)
        cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(new)
        hidden = sigmoid(out) * np.tanh(cell)
        outputs.append(hidden)
    return outputs


def lstm(steps: list[Array], state: dict[str, Array], n_layers: int) -> list[Array]:
    for layer in range(n_layers):
        forward = lstm_direction(steps, state, f"l{layer}")
        backward = lstm_direction(steps[::-1], state, f"l{layer}_reverse")[::-1]
        steps = [np.concatenate(pair) for pair in zip(forward, backward, strict=True)]
    return [state["linear.weight"] @ step + state["linear.bias"] for step in steps]


@pytest.mark.parametrize(("n_layers", "max_steps", "skip"), [(1, None, False), (2, None, True), (2, 40, True)])
def test_lstm_over_the_whole_input(n_layers: int, max_steps: int | None, skip: bool) -> None:
    module = shaken(BLSTM(3, n_layers, max_steps=max_steps, skip=skip))
    x = np.random.default_rng(1).normal(size=(2, 3, 40))
    for given, found in zip(x, output(module, x), strict=True):
        expected = np.stack(lstm(list(given.T), arrays(module), n_layers), axis=1)
        np.testing.assert_allclose(found, expected + given if skip else expected, atol=1e-12)


@pytest.mark.parametrize("n_steps", [9, 11, 12, 13, 16, 17, 23, 24])
def test_lstm_over_windows(n_steps: int) -> None:
    length = 8
    module = shaken(BLSTM(2, 2, max_steps=length))
    x = np.random.default_rng(2).normal(size=(2, 2, n_steps))
    for given, found in zip(x, output(module, x), strict=True):
        padded = np.pad(given, ((0, 0), (0, 2 * length)))
        for t in range(n_steps):
            # The window around whose centre the step lies; nothing comes before the first.
            start = max(0, (t - length // 4) // (length // 2)) * (length // 2)
            window = lstm(list(padded[:, start : start + length].T), arrays(module), 2)
            np.testing.assert_allclose(found[:, t], window[t - start], atol=1e-12)


@pytest.mark.parametrize("n_steps", [1, 2, 30])
def test_local_attention(n_steps: int) -> None:
    width = 8
    module = shaken(LocalAttention(width))
    x = np.random.default_rng(3).normal(size=(2, width, n_steps))
    state = arrays(module)

    def conv(name: str, given: Array) -> Array:
        y: Array = state[f"{name}.weight"][:, :, 0] @ given + state[f"{name}.bias"][:, None]
        return y

    for given, found in zip(x, output(module, x), strict=True):
        query, key, content = (conv(name, given).reshape(N_HEADS, -1, n_steps) for name in ("query", "key", "content"))
        decay = sigmoid(conv("query_decay", given).reshape(N_HEADS, N_DECAYS, n_steps)) / 2
        result = np.zeros_like(content)
        for head in range(N_HEADS):
            for s in range(n_steps):
                scores = np.empty(n_steps)
                for t in range(n_steps):
                    penalty = sum((f + 1) * decay[head, f, s] for f in range(N_DECAYS)) * abs(s - t) / N_DECAYS**0.5
                    scores[t] = query[head, :, s] @ key[head, :, t] / (width / N_HEADS) ** 0.5 - penalty
                scores[s] = -100
                weights = np.exp(scores - scores.max())
                result[head, :, s] = content[head] @ (weights / weights.sum())
        np.testing.assert_allclose(found, given + conv("proj", result.reshape(width, -1)), atol=1e-12)


def test_local_attention_begins_alike_everywhere() -> None:
    torch.manual_seed(0)
    module = LocalAttention(64)
    assert (module.query_decay.bias == -2).all()
    assert module.query_decay.weight.abs().max() <= 0.01 / 64**0.5
    assert module.query.weight.abs().max() > 0.9 / 64**0.5


@pytest.mark.parametrize("dilate", [True, False])
def test_residual_branch(dilate: bool) -> None:
    width, n_steps = 6, 17
    module = shaken(DConv(width, depth=3, dilate=dilate, compression=2.5, init=0.1, attention=False, with_lstm=False))
    state = arrays(module)
    x = np.random.default_rng(4).normal(size=(2, width, n_steps))
    expected = x
    for i in range(3):
        weight, bias = state[f"layers.{i}.0.weight"], state[f"layers.{i}.0.bias"]
        assert weight.shape == (2, width, 3)
        dilation = 2**i if dilate else 1
        padded = np.pad(expected, ((0, 0), (0, 0), (dilation, dilation)))
        y = sum(weight[:, :, k] @ padded[..., k * dilation : k * dilation + n_steps] for k in range(3)) + bias[:, None]
        y = normed(y, state[f"layers.{i}.1.weight"], state[f"layers.{i}.1.bias"])
        y = y * (1 + torch.erf(torch.from_numpy(y) / 2**0.5).numpy()) / 2
        y = state[f"layers.{i}.3.weight"][:, :, 0] @ y + state[f"layers.{i}.3.bias"][:, None]
        y = normed(y, state[f"layers.{i}.4.weight"], state[f"layers.{i}.4.bias"])
        y = y[:, :width] * sigmoid(y[:, width:])
        expected = expected + state[f"layers.{i}.6.scale"][:, None] * y
    np.testing.assert_allclose(output(module, x), expected, atol=1e-12)


def normed(x: Array, weight: Array, bias: Array) -> Array:
    """Normalisation of each example over all its channels and steps."""
    mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    y: Array = (x - mean) / np.sqrt(variance + 1e-5) * weight[:, None] + bias[:, None]
    return y


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("with_lstm", [True, False])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_names_of_a_residual_branch(attention: bool, with_lstm: bool, depth: int) -> None:
    kinds = {"attention": attention, "with_lstm": with_lstm}
    module = DConv(24, depth=depth, dilate=True, compression=2, init=1e-3, **kinds)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    expected = branch_shapes(24, depth=depth, compression=2, **kinds)
    assert list(shapes.items()) == list(expected.items())


def test_a_residual_branch_begins_as_nearly_nothing() -> None:
    torch.manual_seed(0)
    module = DConv(24, depth=2, dilate=True, compression=2, init=1e-4, attention=True, with_lstm=True)
    x = torch.randn(2, 24, 300)
    with torch.no_grad():
        change = (module(x) - x).abs().max()
    assert 1e-5 < change < 3e-3


def test_layer_scale() -> None:
    x = torch.arange(24.0).view(2, 3, 4)
    module = LayerScale(3, 0.5)
    assert torch.equal(module(x), x / 2)
    with torch.no_grad():
        module.scale.copy_(torch.tensor([1.0, 10.0, 100.0]))
    assert torch.equal(module(x)[:, 1], 10 * x[:, 1])
    last = LayerScale(4, 0.5, channels_last=True)
    with torch.no_grad():
        last.scale.copy_(torch.tensor([1.0, 10.0, 100.0, 1000.0]))
    assert torch.equal(last(x)[..., 2], 100 * x[..., 2])


@pytest.mark.parametrize("smooth", [True, False])
def test_scaled_embedding(smooth: bool) -> None:
    torch.manual_seed(0)
    module = ScaledEmbedding(512, 64, std=2, factor=10, smooth=smooth)
    vectors = module(512).detach()
    assert torch.equal(vectors, 10 * module.embedding.weight)
    assert torch.equal(module(5), vectors[:5])
    assert vectors.std() == pytest.approx(2, rel=0.1)
    assert vectors[-1].std() == pytest.approx(2, rel=0.3)  # and no larger at the end
    neighbours = (vectors[1:] * vectors[:-1]).mean() / (vectors**2).mean()
    assert neighbours == pytest.approx(1 if smooth else 0, abs=0.1)


@pytest.mark.parametrize("reference", [0.1, 0.02])
def test_rescaled_weights(reference: float) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        *(nn.Conv1d(4, 8, 3), nn.ConvTranspose1d(8, 4, 3), nn.Conv2d(4, 8, 3), nn.ConvTranspose2d(8, 4, 3)),
        *(nn.Conv1d(4, 8, 3, bias=False), nn.Linear(4, 8), nn.GroupNorm(1, 8), nn.LSTM(4, 8)),
    )
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    rescale_weights(module, reference)
    for name, tensor in module.state_dict().items():
        position, kind = name.split(".")
        if int(position) > 4:
            assert torch.equal(tensor, before[name])
            continue
        deviation = before[f"{position}.weight"].std()
        torch.testing.assert_close(tensor, before[name] * (reference / deviation) ** 0.5)
        if kind == "weight":
            assert tensor.std() == pytest.approx((reference * deviation.item()) ** 0.5, rel=1e-5)
