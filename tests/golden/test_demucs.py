"""The whole way from samples to stems, beside what demucs 4.1.0 and Open-Unmix 1.3.0 computed with the same weights.

The reference is not part of this repository: see CONTRIBUTING.md. Tolerance: a relative error of 1e-4 over all windows
in float32, which is what sums in another order may make, and of 2e-2 in bfloat16; 1e-3 and 2e-2 of the level of a whole
output.
"""

import json
import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from processor import has_bf16
from unbraid import Options, Separator
from unbraid.engines.select import load_engine
from unbraid.models.families import family
from unbraid.weights.convert.network import ConvertedNetwork
from unbraid.weights.convert.openunmix import read_openunmix
from unbraid.weights.convert.read import read_network
from unbraid.weights.install import Part, write_parts

SHARED = Path(os.environ.get("UNBRAID_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = SHARED / "golden" / "demucs"
DEMUCS = ["htdemucs", "htdemucs_6s", "hdemucs", "hdemucs_wiener", "demucs3", "bag"]
OPEN_UNMIX = ["umx", "umx_em1", "umx_residual"]
# Excerpts that the networks were run on, without all that is done with a track. The package of each, and its release.
EXCERPTS = {"demucs_v1": ("demucs_v1", 1), "demucs_v2": ("demucs_v2", 2), "htdemucs_forward": ("htdemucs", 3)}
NO_BF16 = "this processor has no bfloat16, and to emulate it takes long"
F32 = [("openvino", "f32"), ("onnxruntime", "f32"), ("torch", "f32")]
WAYS = [*F32, pytest.param("openvino", "bf16", marks=pytest.mark.skipif(not has_bf16(), reason=NO_BF16))]
TOLERANCE = {"f32": 1e-4, "bf16": 2e-2}
LEVEL_TOLERANCE = {"f32": 1e-3, "bf16": 2e-2}

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference outputs in '{GOLDEN}'")


def about(name: str) -> dict:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def open_unmix(name: str) -> ConvertedNetwork:
    facts = about(name)
    network = read_openunmix({target: GOLDEN / f"umx_{target}.pth" for target in facts["targets"]})
    config = replace(network.config, n_iterations=facts["niter"], residual=facts.get("residual", False))
    return replace(network, config=config)


@pytest.fixture(scope="module")
def mixture() -> np.ndarray:
    return np.ascontiguousarray(np.load(SHARED / "golden" / "spleeter" / "mixture.npy").T)


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


def check(name: str, found: np.ndarray, precision: str) -> None:
    """Compare all windows of all stems, and the RMS of each whole output."""
    reference, windows = np.load(GOLDEN / f"{name}.npz"), about(name)["windows"]
    ours = np.concatenate([found[..., start:end] for start, end in windows], axis=-1)
    theirs = np.concatenate([reference[f"w{i}"] for i in range(len(windows))], axis=-1)
    assert np.linalg.norm(ours - theirs) <= TOLERANCE[precision] * np.linalg.norm(theirs)
    rms = np.sqrt(np.mean(np.square(found, dtype=np.float64), axis=-1))
    np.testing.assert_allclose(rms, reference["rms"], rtol=LEVEL_TOLERANCE[precision])


@pytest.mark.parametrize(("engine", "precision"), WAYS)
@pytest.mark.parametrize("model", [*DEMUCS, *OPEN_UNMIX], indirect=True)
def test_a_track(model: Path, engine: str, precision: str, mixture: np.ndarray) -> None:
    pytest.importorskip(engine)
    with Separator(model, options=Options(), engine=engine, precision=precision, cache=False) as separator:
        stems = separator.separate(mixture, sample_rate=44100)
    check(model.name, np.stack(list(stems.values())), precision)


@pytest.mark.parametrize(("engine", "precision"), WAYS)
@pytest.mark.parametrize("name", EXCERPTS)
def test_an_excerpt(name: str, engine: str, precision: str, mixture: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip(engine)
    package, version = EXCERPTS[name]
    n = about(name).get("segment_samples", 343980)
    with read_network(GOLDEN / f"{package}.th", tmp_path, demucs_version=version) as converted:
        parts = family(converted.family)
        transform = replace(parts.transform(converted.config), chosen_segment=n, overlap=0)
        before, length = transform.window(n)
        assert length == about(name).get("valid_length", n)
        network = parts.network(converted.config, length, lambda: converted.tensors, "")
        loaded = load_engine(network, engine=engine, precision=precision)
    window = np.pad(mixture[:, :n], ((0, 0), (before, length - n - before)))
    each = tuple({i: 1.0} for i in range(len(transform.stems)))
    stems = transform.inverse(loaded.run(transform.forward(window)), window, each, n=n, index=0)
    loaded.close()
    check(name, np.pad(stems, ((0, 0), (0, 0), (0, mixture.shape[-1] - n))), precision)
