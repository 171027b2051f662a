"""Demucs of the time domain and Open-Unmix as torch modules, beside what the original programs computed.

The reference is not part of this repository: see CONTRIBUTING.md. Tolerance: 1e-4 of the energy over all windows, which
is what float32 sums in another order may differ by, and 1e-3 of the level of each whole channel.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunks import by_torch, separate
from unbraid.models.demucs.lengths import valid_length
from unbraid.models.demucs.transform import DemucsTransform
from unbraid.models.openunmix.transform import OpenUnmixTransform
from unbraid.weights.convert.network import ConvertedNetwork
from unbraid.weights.convert.openunmix import read_openunmix
from unbraid.weights.convert.read import read_network

torch = pytest.importorskip("torch", reason="torch is not installed")
from unbraid.models.demucs.network import DemucsNetwork  # noqa: E402
from unbraid.models.openunmix.network import OpenUnmixNetwork  # noqa: E402

SHARED = Path(os.environ.get("UNBRAID_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = SHARED / "golden" / "demucs"
Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference outputs in '{GOLDEN}'")


@pytest.fixture(scope="module")
def mixture() -> Array:
    return np.ascontiguousarray(np.load(SHARED / "golden" / "spleeter" / "mixture.npy").T)


def facts(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return found


def assert_same(name: str, stems: Array) -> None:
    """Compare windows of the output, and the level of all of it."""
    reference = np.load(GOLDEN / f"{name}.npz")
    windows = [slice(start, end) for start, end in facts(name)["windows"]]
    ours = np.concatenate([stems[..., window] for window in windows], axis=-1)
    expected = np.concatenate([reference[f"w{i}"] for i in range(len(windows))], axis=-1)
    error = float(np.linalg.norm(ours - expected) / np.linalg.norm(expected))
    assert error <= 1e-4
    np.testing.assert_allclose(np.sqrt((stems.astype(float) ** 2).mean(axis=-1)), reference["rms"], rtol=1e-3)


def loaded(module: Any, network: ConvertedNetwork) -> Any:
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in network.tensors.items()}
    module.load_state_dict(tensors)
    return module.eval()


@pytest.mark.parametrize(("name", "version"), [("demucs_v1", 1), ("demucs_v2", 2)])
def test_first_two_releases(name: str, version: int, mixture: Array, tmp_path: Path) -> None:
    """One window with zeros around an excerpt; no normalisation of the track."""
    with read_network(GOLDEN / f"{name}.th", tmp_path, demucs_version=version) as network:
        run = by_torch(loaded(DemucsNetwork(network.config), network))
    n = facts(name)["segment_samples"]
    transform = DemucsTransform(network.config, chosen_segment=n, overlap=0)
    before, length = transform.window(n)
    assert length == valid_length(network.config, n) == facts(name)["valid_length"]
    window = np.pad(mixture[:, :n], ((0, 0), (before, length - n - before)))
    each = tuple({i: 1.0} for i in range(4))
    stems = transform.inverse((run(*transform.forward(window)),), window, each, n=n, index=0)
    assert_same(name, np.pad(stems, ((0, 0), (0, 0), (0, mixture.shape[-1] - n))))


def test_third_release(mixture: Array, tmp_path: Path) -> None:
    with read_network(GOLDEN / "demucs3.th", tmp_path) as network:
        run = by_torch(loaded(DemucsNetwork(network.config), network))
    assert_same("demucs3", separate(DemucsTransform(network.config), run, mixture))


@pytest.mark.parametrize("name", ["umx", "umx_em1", "umx_residual"])
def test_open_unmix(name: str, mixture: Array) -> None:
    told = facts(name)
    network = read_openunmix({stem: GOLDEN / f"umx_{stem}.pth" for stem in told["targets"]})
    config = replace(network.config, n_iterations=told["niter"], residual=told.get("residual", False))
    run = by_torch(loaded(OpenUnmixNetwork(config), network))
    assert_same(name, separate(OpenUnmixTransform(config), run, mixture))
