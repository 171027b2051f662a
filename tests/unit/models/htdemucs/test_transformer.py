"""The Transformer across both branches, beside naive recomputations in NumPy."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unbraid.models.htdemucs.config import TransformerConfig

torch = pytest.importorskip("torch", reason="torch is not installed")
from unbraid.models.htdemucs.transformer import CrossTransformer, positions_1d, positions_2d  # noqa: E402

Array = np.ndarray[Any, Any]
WIDTH, N_BINS, N_FRAMES, N_STEPS = 16, 3, 5, 11
GLOBAL_WINDOW = 4  # of sparse attention: the first positions attend to all, and all to them
GLOBAL: dict[str, Any] = {"mask_type": "global", "global_window": GLOBAL_WINDOW}


def shaken(module: Any) -> Any:
    """The module in double precision with other parameters than it begins with."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.double().eval()


def random_inputs(n_batch: int = 2) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n_batch, WIDTH, N_BINS, N_FRAMES, generator=generator, dtype=torch.float64)
    return x, torch.randn(n_batch, WIDTH, N_STEPS, generator=generator, dtype=torch.float64)


def run(module: Any, *inputs: Any) -> tuple[Any, Any]:
    with torch.inference_mode():
        x, wave = module(*inputs)
    return x, wave


# One example is an array (position, width) here.


def layer_norm(x: Array, state: dict[str, Array], name: str) -> Array:
    y: Array = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    return y * state[f"{name}.weight"] + state[f"{name}.bias"]


def group_norm(x: Array, state: dict[str, Array], name: str, n_groups: int) -> Array:
    y = np.empty_like(x)
    for group in np.split(np.arange(x.shape[1]), n_groups):
        y[:, group] = (x[:, group] - x[:, group].mean()) / np.sqrt(x[:, group].var() + 1e-5)
    return y * state[f"{name}.weight"] + state[f"{name}.bias"]


def attention(x: Array, context: Array, state: dict[str, Array], name: str, n_heads: int) -> Array:
    projected = []
    sparse = f"{name}.q.weight" in state
    for i, given in enumerate((x, context, context)):
        if sparse:
            weight, bias = (state[f"{name}.{'qkv'[i]}.{kind}"] for kind in ("weight", "bias"))
        else:
            rows = slice(i * WIDTH, (i + 1) * WIDTH)
            weight, bias = (state[f"{name}.in_proj_{kind}"][rows] for kind in ("weight", "bias"))
        projected.append(given @ weight.T + bias)
    mask = np.ones((len(x), len(context)), bool)
    if sparse:
        mask[int(GLOBAL_WINDOW * len(x) / len(context)) :, GLOBAL_WINDOW:] = False
    heads = []
    for query, key, value in zip(*(np.split(array, n_heads, axis=1) for array in projected), strict=True):
        weights = mask * np.exp(query @ key.T / math.sqrt(WIDTH / n_heads))
        heads.append(weights / weights.sum(1, keepdims=True) @ value)
    last = f"{name}.{'proj' if sparse else 'out_proj'}"
    y: Array = np.concatenate(heads, axis=1) @ state[f"{last}.weight"].T + state[f"{last}.bias"]
    return y


def layer(x: Array, context: Array | None, state: dict[str, Array], config: TransformerConfig) -> Array:
    def norm(given: Array, name: str) -> Array:
        if config.norm_groups:
            return group_norm(given, state, name, config.norm_groups)
        return layer_norm(given, state, name)

    def attend(given: Array, other: Array | None) -> Array:
        name = "self_attn" if other is None else "cross_attn"
        y = attention(given, given if other is None else other, state, name, config.n_heads)
        return y * state["gamma_1.scale"] if config.layer_scale else y

    def feed(given: Array) -> Array:
        y = given @ state["linear1.weight"].T + state["linear1.bias"]
        y = y * (1 + np.vectorize(math.erf)(y / math.sqrt(2))) / 2 if config.gelu else np.maximum(y, 0)
        y = y @ state["linear2.weight"].T + state["linear2.bias"]
        return y * state["gamma_2.scale"] if config.layer_scale else y

    if not config.norm_first:
        x = norm(x + attend(x, context), "norm1")
        return norm(x + feed(x), "norm2")
    x = x + attend(norm(x, "norm1"), None if context is None else norm(context, "norm2"))
    x = x + feed(norm(x, "norm2" if context is None else "norm3"))
    return group_norm(x, state, "norm_out", config.norm_out_groups) if config.norm_out_groups else x


def sinusoids(n_steps: int, width: int, max_period: float) -> Array:
    """Positions in time: the phase in radians of feature i is the position over max_period ** (i / (width / 2 - 1))."""
    y = np.empty((n_steps, width))
    for t in range(n_steps):
        for i in range(width // 2):
            phase = t / max_period ** (i / (width // 2 - 1))
            y[t, i], y[t, width // 2 + i] = math.cos(phase), math.sin(phase)
    return y


def sinusoids_2d(n_bins: int, n_frames: int, width: int, max_period: float) -> Array:
    """Positions (frame, bin): sine and cosine in turn, first of the frame, then of the bin (A. Vaswani et al.)."""
    half = width // 2
    y = np.empty((n_frames, n_bins, width))
    for frame in range(n_frames):
        for k in range(n_bins):
            for i in range(0, half, 2):
                rate = max_period ** (-i / half)
                y[frame, k, i], y[frame, k, i + 1] = math.sin(frame * rate), math.cos(frame * rate)
                y[frame, k, half + i], y[frame, k, half + i + 1] = math.sin(k * rate), math.cos(k * rate)
    return y.reshape(n_frames * n_bins, width)


def transformer(x: Array, wave: Array, module: Any, config: TransformerConfig) -> tuple[Array, Array]:
    """The whole of it for one example: arrays (position, width), the bins of a frame one after another."""
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    if config.norm_in:
        x, wave = layer_norm(x, state, "norm_in"), layer_norm(wave, state, "norm_in_t")
    elif config.norm_in_groups:
        x = group_norm(x, state, "norm_in", config.norm_in_groups)
        wave = group_norm(wave, state, "norm_in_t", config.norm_in_groups)
    x = x + config.positions_weight * sinusoids_2d(N_BINS, N_FRAMES, WIDTH, config.max_period)
    if config.positions == "scaled":
        positions = 3 * state["position_embeddings.embedding.weight"][:N_STEPS]
    else:
        positions = sinusoids(N_STEPS, WIDTH, config.max_period)
    wave = wave + config.positions_weight * positions
    for i in range(config.n_layers):
        states = [
            {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
            for prefix in (f"layers.{i}.", f"layers_t.{i}.")
        ]
        crosses = i % 2 == (0 if config.cross_first else 1)
        contexts = (wave, x) if crosses else (None, None)
        x, wave = layer(x, contexts[0], states[0], config), layer(wave, contexts[1], states[1], config)
    return x, wave


@pytest.mark.parametrize(
    "config",
    [
        TransformerConfig(n_layers=3),
        TransformerConfig(n_layers=2, n_heads=1, norm_out_groups=0, positions_weight=0.3, max_period=100),
        TransformerConfig(n_layers=3, n_heads=2, cross_first=True, layer_scale=False, hidden_scale=1.5),
        TransformerConfig(n_layers=2, norm_first=False, gelu=False),
        TransformerConfig(n_layers=3, norm_groups=4, norm_in=False, norm_in_groups=2, norm_out_groups=2),
        TransformerConfig(n_layers=2, sparse_self_attn=True, **GLOBAL),
        TransformerConfig(n_layers=3, sparse_cross_attn=True, **GLOBAL),
        TransformerConfig(
            n_layers=2, norm_first=False, norm_groups=1, norm_in=False, positions="scaled", max_positions=20
        ),
    ],
)
def test_written_out_in_numpy(config: TransformerConfig) -> None:
    module = shaken(CrossTransformer(config, WIDTH))
    x, wave = random_inputs()
    found, found_wave = run(module, x, wave)
    assert (found.shape, found_wave.shape) == (x.shape, wave.shape)
    for i in range(2):
        tokens = x[i].permute(2, 1, 0).reshape(-1, WIDTH).numpy()
        expected, expected_wave = transformer(tokens, wave[i].T.numpy(), module, config)
        # Positions are in single precision.
        np.testing.assert_allclose(found[i].permute(2, 1, 0).reshape(-1, WIDTH), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found_wave[i].T, expected_wave, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("width", "max_period"), [(4, 10000), (24, 100), (384, 10000)])
def test_positions(width: int, max_period: float) -> None:
    found = positions_1d(torch.arange(200), width, max_period)
    np.testing.assert_allclose(found, sinusoids(200, width, max_period), atol=2e-5)
    found = positions_2d(width, 8, 50, max_period, torch.device("cpu"))
    np.testing.assert_allclose(found, sinusoids_2d(8, 50, width, max_period), atol=2e-5)


def embedded(module: CrossTransformer, n_batch: int = 1) -> Any:
    """What is added to the waveform's positions."""
    with torch.no_grad():
        return module._wave_positions(n_batch, N_STEPS, WIDTH, torch.device("cpu"))


def test_positions_begin_anywhere_in_training_only() -> None:
    config = TransformerConfig(n_layers=1, sin_random_shift=3)
    module = CrossTransformer(config, WIDTH)
    choices = [positions_1d(shift + torch.arange(N_STEPS), WIDTH, config.max_period) for shift in range(4)]
    torch.manual_seed(0)
    drawn = [embedded(module) for _ in range(60)]
    for choice in choices:
        assert 3 < sum(torch.equal(choice, found) for found in drawn) < 30
    assert all(any(torch.equal(choice, found) for choice in choices) for found in drawn)
    module.eval()
    assert all(torch.equal(choices[0], embedded(module)) for _ in range(10))


@pytest.mark.parametrize("centred", [True, False])
def test_positions_of_cape(centred: bool) -> None:
    config = TransformerConfig(n_layers=1, positions="cape", cape_mean_normalize=centred)
    config = replace(config, cape_glob_loc_scale=(2.0, 0.25, 1.5), max_period=100)
    module = CrossTransformer(config, WIDTH).eval()
    steps = np.arange(N_STEPS) - ((N_STEPS - 1) / 2 if centred else 0)
    rates = 100.0 ** (-np.arange(WIDTH // 2) / (WIDTH // 2 - 1))
    found = embedded(module)
    phases = steps[:, None] * rates
    np.testing.assert_allclose(found, np.concatenate((np.cos(phases), np.sin(phases)), axis=1), atol=1e-5)
    module.train()
    torch.manual_seed(0)
    disturbed = embedded(module, n_batch=2000).numpy().astype(float)
    # The phase of the slowest sinusoid is the position over 100, so it never wraps.
    places = 100 * np.arctan2(disturbed[..., -1], disturbed[..., WIDTH // 2 - 1])
    # Position times scale + shift: a line through the places gives both.
    steps = steps - steps.mean()
    factors = places @ steps / (steps @ steps)
    assert 0.6 < factors.min() < 0.7
    assert 1.45 < factors.max() < 1.61
    assert np.median(factors) == pytest.approx(1, abs=0.05)
    shifts = places.mean(axis=1) / factors - (0 if centred else (N_STEPS - 1) / 2)
    assert shifts.min() == pytest.approx(-2, abs=0.4)
    assert shifts.max() == pytest.approx(2, abs=0.4)
    rest = places / factors[:, None] - steps - (shifts + (0 if centred else (N_STEPS - 1) / 2))[:, None]
    assert 0.2 < np.abs(rest).max() < 0.45  # the local shifts, but for what the line took of them
    module = CrossTransformer(replace(config, cape_augment=False), WIDTH).train()
    torch.testing.assert_close(embedded(module), found)


@pytest.mark.parametrize("options", [{}, {"sparse_self_attn": True, "sparse_cross_attn": True, **GLOBAL}])
def test_dropout_in_training_only(options: dict[str, Any]) -> None:
    module = shaken(CrossTransformer(TransformerConfig(n_layers=2, dropout=0.5, **options), WIDTH))
    without = CrossTransformer(TransformerConfig(n_layers=2, **options), WIDTH).double().eval()
    without.load_state_dict(module.state_dict())
    inputs = random_inputs()
    expected = run(without, *inputs)
    assert all(torch.equal(a, b) for a, b in zip(run(module, *inputs), expected, strict=True))
    module.train()
    assert not any(torch.equal(a, b) for a, b in zip(run(module, *inputs), expected, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(run(module, *inputs), run(module, *inputs), strict=True))


def test_dropout_after_sparse_attention() -> None:
    config = TransformerConfig(n_layers=1, dropout=0.5, sparse_self_attn=True, layer_scale=False, **GLOBAL)
    attention = shaken(CrossTransformer(config, WIDTH)).layers[0].self_attn
    x = torch.randn(1, 400, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.count_nonzero(attention(x, x) == 0) == 0
    torch.manual_seed(0)
    assert float((attention.train()(x, x) == 0).double().mean()) == pytest.approx(0.5, abs=0.03)


def test_attention_begins_as_in_torch() -> None:
    torch.manual_seed(3)
    expected = torch.nn.MultiheadAttention(WIDTH, 4).state_dict()
    torch.manual_seed(3)
    module = CrossTransformer(TransformerConfig(n_layers=2, n_heads=4), WIDTH)
    found = module.layers[0].self_attn.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
