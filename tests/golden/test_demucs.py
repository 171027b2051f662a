"""The whole way from samples to stems, beside what demucs 4.1.0 and Open-Unmix 1.3.0 computed with the same weights.

The reference is not part of this repository: see CONTRIBUTING.md. Tolerance: 1e-4 of the energy over all windows in
float32, as for Spleeter; 2e-2 is what we would want of bfloat16.
"""

import json
import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unbraid import Options, Separator
from unbraid.models.families import RUNNABLE
from unbraid.weights.convert.network import ConvertedNetwork
from unbraid.weights.convert.openunmix import read_openunmix
from unbraid.weights.convert.read import read_network
from unbraid.weights.install import Part, write_parts

SHARED = Path(os.environ.get("UNBRAID_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = SHARED / "golden" / "demucs"
DEMUCS = ["htdemucs", "htdemucs_6s", "hdemucs", "hdemucs_wiener", "demucs3", "bag"]
OPEN_UNMIX = ["umx", "umx_em1", "umx_residual"]
ENGINES = ["openvino", "onnxruntime", "torch"]

FAMILIES = {"demucs", "hdemucs", "htdemucs", "openunmix"}

pytestmark = [
    pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference outputs in '{GOLDEN}'"),
    pytest.mark.skipif(not FAMILIES <= RUNNABLE, reason="this version does not run all of these families yet"),
]


def about(name: str) -> dict:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def open_unmix(name: str) -> ConvertedNetwork:
    facts = about(name)
    network = read_openunmix({target: GOLDEN / f"umx_{target}.pth" for target in facts["targets"]})
    config = replace(network.config, n_iterations=facts["niter"], residual=facts.get("residual", False))
    return replace(network, config=config)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """One of the reference's models as a model folder."""
    folder, name = tmp_path_factory.mktemp("model"), request.param
    members = about(name).get("models", [name])
    weights = about(name).get("weights", [None])
    with ExitStack() as stack:
        if name in OPEN_UNMIX:
            networks = [open_unmix(name)]
        else:
            networks = [stack.enter_context(read_network(GOLDEN / f"{member}.th", folder)) for member in members]
        parts = [
            Part(network, member, weight and tuple(weight))
            for network, member, weight in zip(networks, members, weights, strict=True)
        ]
        write_parts(folder / name, name, parts, [])
    return folder / name


def errors(name: str, stems: dict[str, np.ndarray]) -> tuple[float, float]:
    """Error over all windows of all stems, and the largest deviation of an RMS of a whole output."""
    reference = np.load(GOLDEN / f"{name}.npz")
    found = np.stack(list(stems.values())).astype(float)
    windows = about(name)["windows"]
    expected = [reference[f"w{i}"].astype(float) for i in range(len(windows))]
    pieces = [found[..., start:end] for start, end in windows]
    error = sum(float(np.sum((a - b) ** 2)) for a, b in zip(pieces, expected, strict=True))
    energy = sum(float(np.sum(b**2)) for b in expected)
    rms = np.sqrt(np.mean(found**2, axis=-1))
    return (error / energy) ** 0.5, float(np.abs(rms / reference["rms"] - 1).max())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model", [*DEMUCS, *OPEN_UNMIX], indirect=True)
def test_same_numbers_as_the_original(model: Path, engine: str) -> None:
    if engine != "openvino":
        pytest.importorskip(engine)
    mixture = np.load(SHARED / "golden" / "spleeter" / "mixture.npy").T
    with Separator(model, options=Options(), engine=engine, precision="f32", cache=False) as separator:
        stems = separator.separate(mixture, sample_rate=44100)
    error, rms_error = errors(model.name, stems)
    assert error < 1e-4
    assert rms_error < 1e-3
