"""The torch module, beside its layers written out in NumPy, and beside the original class."""

import importlib.util
import sys
import types
from typing import Any

import numpy as np
import pytest

from unbraid.models.openunmix.config import OpenUnmixConfig, TargetConfig
from unbraid.models.openunmix.state import parameter_shapes

torch = pytest.importorskip("torch", reason="torch is not installed")
from unbraid.models.openunmix.network import OpenUnmixNetwork, TargetNetwork  # noqa: E402

Array = np.ndarray[Any, Any]
TARGETS = (
    TargetConfig(hidden_size=6, max_bin=20),
    TargetConfig(hidden_size=8, max_bin=33, n_layers=1),
    TargetConfig(hidden_size=5, max_bin=7, n_layers=2, unidirectional=True),
)


def shake(module: Any, seed: int = 0) -> Any:
    """Vectors that let every one of them matter."""
    torch.manual_seed(seed)
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand_like(value) + 0.5)
        elif value.is_floating_point() and value.ndim == 1:
            value.add_(torch.randn_like(value) * (1.0 if name.endswith("output_mean") else 0.2))
    return module.eval()


def random_magnitudes(n_channels: int, n_frames: int, n_bins: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.gamma(0.5, 4.0, (1, n_channels, n_frames, n_bins)).astype(np.float32)


def relative_error(ours: Array, theirs: Array) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def written_out(target: TargetConfig, state: dict[str, Array], magnitude: Array) -> Array:
    """One stem in float64; magnitude : [shape=(channel, frame, bin)]."""

    def norm(x: Array, name: str) -> Array:
        x = (x - state[f"{name}.running_mean"]) / np.sqrt(state[f"{name}.running_var"] + 1e-5)
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def direction(x: Array, suffix: str) -> Array:
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        w_x, w_h, b_x, b_h = (state[f"lstm.{kind}_{suffix}"] for kind in kinds)
        h = cell = np.zeros(w_h.shape[1])
        out = []
        for step in x:
            i, f, g, o = np.split(w_x @ step + b_x + w_h @ h + b_h, 4)
            cell = cell / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            h = np.tanh(cell) / (1 + np.exp(-o))
            out.append(h)
        return np.array(out)

    n_channels, n_frames, n_bins = magnitude.shape
    spectra = magnitude.astype(float).transpose(1, 0, 2)
    x = (spectra[..., : target.max_bin] + state["input_mean"]) * state["input_scale"]
    x = first = np.tanh(norm(x.reshape(n_frames, -1) @ state["fc1.weight"].T, "bn1"))
    for layer in range(target.n_layers):
        forward = direction(x, f"l{layer}")
        backward = () if target.unidirectional else (direction(x[::-1], f"l{layer}_reverse")[::-1],)
        x = np.concatenate([forward, *backward], axis=1)
    x = np.maximum(norm(np.concatenate([first, x], axis=1) @ state["fc2.weight"].T, "bn2"), 0)
    x = norm(x @ state["fc3.weight"].T, "bn3").reshape(n_frames, n_channels, n_bins)
    return (np.maximum(x * state["output_scale"] + state["output_mean"], 0) * spectra).transpose(1, 0, 2)


@pytest.mark.parametrize("n_channels", [1, 2])
def test_is_its_layers_written_out(n_channels: int) -> None:
    stems = tuple("abc")
    config = OpenUnmixConfig(stems, TARGETS, n_fft=64, hop=16, n_channels=n_channels)
    network = shake(OpenUnmixNetwork(config))
    magnitude = random_magnitudes(n_channels, 9, 33)
    with torch.no_grad():
        ours = network(torch.from_numpy(magnitude)).numpy()
    assert ours.shape == (1, 3, n_channels, 9, 33)
    state = {name: value.numpy().astype(float) for name, value in network.state_dict().items()}
    for i, (stem, target) in enumerate(zip(stems, TARGETS, strict=True)):
        own = {name[2:]: value for name, value in state.items() if name.startswith(f"{stem}.")}
        assert relative_error(ours[0, i], written_out(target, own, magnitude[0])) < 1e-5
        assert (ours[0, i] == 0).any()  # the mask is cut off at 0
        assert (ours[0, i] > magnitude[0]).any()  # and not at 1


def test_names_order_and_shapes_of_the_tensors() -> None:
    stems = ("vocals", "double", "training")  # two of which are attributes of torch's modules
    for n_channels in (1, 2):
        config = OpenUnmixConfig(stems, TARGETS, n_fft=64, hop=16, n_channels=n_channels)
        state = OpenUnmixNetwork(config).state_dict()
        assert [(name, tuple(value.shape)) for name, value in state.items()] == list(parameter_shapes(config).items())


def test_a_batch_is_its_windows_one_by_one() -> None:
    config = OpenUnmixConfig(("a",), TARGETS[:1], n_fft=64, hop=16, n_iterations=0)
    network = shake(OpenUnmixNetwork(config))
    windows = torch.from_numpy(np.concatenate([random_magnitudes(2, 9, 33, seed) for seed in range(3)]))
    with torch.no_grad():
        alone = torch.cat([network(window[None]) for window in windows])
        assert relative_error(network(windows).numpy(), alone.numpy()) < 1e-6


@pytest.mark.slow
@pytest.mark.parity
def test_same_numbers_as_the_original_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights before training for a seed, and the same magnitudes."""
    if importlib.util.find_spec("openunmix") is None:
        pytest.skip("Open-Unmix is not installed: pip install openunmix")
    if importlib.util.find_spec("torchaudio") is None:  # which the networks do not use
        monkeypatch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))
    from openunmix.model import OpenUnmix

    rng = np.random.default_rng(0)
    for seed in range(60):
        n_bins, n_channels = int(rng.integers(2, 200)), int(rng.integers(1, 3))
        target = TargetConfig(
            hidden_size=2 * int(rng.integers(1, 20)),
            max_bin=int(rng.integers(1, n_bins + 1)),
            n_layers=int(rng.integers(1, 4)),
            unidirectional=bool(rng.integers(2)),
        )
        torch.manual_seed(seed)
        theirs = OpenUnmix(
            nb_bins=n_bins,
            nb_channels=n_channels,
            hidden_size=target.hidden_size,
            nb_layers=target.n_layers,
            unidirectional=target.unidirectional,
            max_bin=target.max_bin,
        ).eval()
        torch.manual_seed(seed)
        ours = TargetNetwork(target, n_bins, n_channels).eval()
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name
        theirs.load_state_dict(shake(ours, seed).state_dict())
        magnitude = torch.from_numpy(random_magnitudes(n_channels, 5 + seed, n_bins, seed))
        with torch.no_grad():
            expected = theirs(magnitude.transpose(2, 3)).transpose(2, 3)
            assert relative_error(ours(magnitude).numpy(), expected.numpy()) < 1e-5
