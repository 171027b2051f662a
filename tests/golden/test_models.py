"""Files of the original programs, imported and fetched by the command: every bit, and the sound.

The files are not part of this repository: see CONTRIBUTING.md. Tolerances: see test_spleeter.py.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from commands import Outcome
from hub import answer
from model_hub import World, new_world, packed, sha256
from song_makers import write_wav
from unbraid.audio.read import read_audio
from unbraid.weights.convert.tensorflow import latest_checkpoint, read_checkpoint
from unbraid.weights.model_file import read_model_file

SHARED = Path(os.environ.get("UNBRAID_SHARED", Path(__file__).parents[3] / "shared"))
SPLEETER = SHARED / "golden" / "spleeter"
DEMUCS = SHARED / "golden" / "demucs"
FILTERS = (4, 8, 8, 16, 16, 24)
CLASSES = ("demucs.demucs.Demucs", "demucs.hdemucs.HDemucs", "demucs.htdemucs.HTDemucs")
Tensors = Mapping[str, np.ndarray]

pytestmark = pytest.mark.skipif(not SPLEETER.is_dir(), reason=f"no files of the originals in '{SHARED / 'golden'}'")


@pytest.fixture
def world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[World]:
    """The hub has the originals' checkpoints, in the official archives' form."""
    archives = {n: packed(SPLEETER / "checkpoints" / f"{n}stems") for n in (2, 4, 5)}
    with new_world(tmp_path, capsys, archives=archives, filters=FILTERS, n_frames=512) as world:
        yield world


def done(outcome: Outcome) -> str:
    assert (outcome.code, outcome.err) == (0, "")
    return outcome.out


def check_weights(world: World, name: str, expected: Tensors) -> None:
    """The weights of an installed model are these, to the bit, and as they must be for its configuration."""
    done(world.run("models", "verify", name))
    found = safetensors.numpy.load_file(world.home / "models" / name.replace(":", "-") / "weights.safetensors")
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert (key, found[key].dtype, found[key].shape) == (key, tensor.dtype, tensor.shape)
        assert found[key].tobytes() == np.ascontiguousarray(tensor).tobytes(), key


def spleeter_tensors(folder: Path, n_stems: int) -> Tensors:
    """What a checkpoint holds, by our names and in our order of axes; layers are numbered through all stems there."""
    tensors = read_checkpoint(latest_checkpoint(folder))
    expected = {}

    def layer(kind: str, index: int) -> str:
        return f"{kind}_{index}" if index else kind

    def add(name: str, source: str) -> None:
        # (height, width, in, out) becomes (out, in, height, width); transposed, in and out are exchanged in both.
        expected[f"{name}.weight"] = tensors[f"{source}/kernel"].transpose(3, 2, 0, 1)
        expected[f"{name}.bias"] = tensors[f"{source}/bias"]

    def add_norm(name: str, index: int) -> None:
        source = layer("batch_normalization", index)
        theirs = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
        expected.update({f"{name}.norm.{ours}": tensors[f"{source}/{part}"] for ours, part in theirs.items()})

    for k in range(n_stems):
        for i in range(6):
            encoder, decoder = f"stems.{k}.encoder.{i}", f"stems.{k}.decoder.{i}"
            add(f"{encoder}.conv", layer("conv2d", 7 * k + i))
            if i < 5:
                add_norm(encoder, 12 * k + i)
            add(f"{decoder}.conv", layer("conv2d_transpose", 6 * k + i))
            add_norm(decoder, 12 * k + 6 + i)
        add(f"stems.{k}.mask", layer("conv2d", 7 * k + 6))
    return expected


def torch_tensors(path: Path) -> Tensors:
    """What torch reads in a package or a bare state, by our names; empty classes stand for those of Demucs."""
    torch = pytest.importorskip("torch")
    stubs = [(type(name.rpartition(".")[2], (), {}), name) for name in CLASSES]
    with torch.serialization.safe_globals([*stubs, Fraction]):
        content = torch.load(path, weights_only=True)
    is_package = "state" in content
    state = {name: tensor.numpy() for name, tensor in (content["state"] if is_package else content).items()}
    if is_package or path.suffix == ".pth":
        return state
    # The first two releases have no place for normalisation in a layer, so that what follows it comes earlier.
    return {re.sub(r"^((?:en|de)coder\.\d+)\.2\.", r"\1.3.", name): tensor for name, tensor in state.items()}


def package_tensors(path: Path) -> Tensors:
    return safetensors.numpy.load_file(path) if path.suffix == ".safetensors" else torch_tensors(path)


def umx_tensors() -> Tensors:
    return {
        f"{stem}.{name}": tensor
        for stem in ("vocals", "drums", "bass", "other")
        for name, tensor in torch_tensors(DEMUCS / f"umx_{stem}.pth").items()
    }


PACKAGES = (
    "bag_a",
    "bag_b",
    "demucs3",
    "demucs_v1",
    "demucs_v2",
    "hdemucs",
    "hdemucs_wiener",
    "htdemucs",
    "htdemucs_6s",
)
FILES = [*(f"{name}.th" for name in PACKAGES), "htdemucs.safetensors", "htdemucs_6s.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_every_package_keeps_every_bit(file: str, world: World) -> None:
    done(world.run("models", "import", DEMUCS / file, "--name", "mine"))
    check_weights(world, "mine", package_tensors(DEMUCS / file))


@pytest.mark.slow
def test_one_stem_of_open_unmix_keeps_every_bit(world: World) -> None:
    for stem in ("vocals", "drums", "bass", "other"):
        done(world.run("models", "import", DEMUCS / f"umx_{stem}.pth"))
        tensors = {f"{stem}.{name}": one for name, one in torch_tensors(DEMUCS / f"umx_{stem}.pth").items()}
        check_weights(world, f"umx_{stem}", tensors)


def test_the_whole_folder_of_packages_at_once(world: World) -> None:
    out = done(world.run("models", "import", DEMUCS))
    assert out.count(": installed in ") == 12
    for file in FILES:
        name = file if file.startswith("htdemucs") else file.removesuffix(".th")  # there in two forms
        check_weights(world, name, package_tensors(DEMUCS / file))
    check_weights(world, "umx-imported", umx_tensors())


def test_a_bag_becomes_one_model(world: World, tmp_path: Path) -> None:
    bag = json.loads((DEMUCS / "bag.json").read_text())
    for name in bag["models"]:
        (tmp_path / f"{name}-0a1b2c3d.th").write_bytes((DEMUCS / f"{name}.th").read_bytes())
    (tmp_path / "my_bag.yaml").write_text(f"models: {bag['models']}\nweights: {bag['weights']}\nsegment: 7.5\n")
    assert done(world.run("models", "import", tmp_path)).startswith("my_bag: installed in ")
    members = {name: torch_tensors(DEMUCS / f"{name}.th") for name in bag["models"]}
    check_weights(world, "my_bag", {f"{name}.{key}": one for name in members for key, one in members[name].items()})
    model = read_model_file(world.home / "models" / "my_bag")
    assert [list(part.stem_weights or ()) for part in model.networks] == bag["weights"]
    assert model.segment_s == 7.5


@pytest.mark.slow
@pytest.mark.parametrize("n_stems", [2, 4, 5])
def test_every_checkpoint_keeps_every_bit(n_stems: int, world: World) -> None:
    folder = SPLEETER / "checkpoints" / f"{n_stems}stems"
    expected = spleeter_tensors(folder, n_stems)
    done(world.run("models", "import", folder, "--config", SPLEETER / f"{n_stems}stems.json", "--name", "mine"))
    check_weights(world, "mine", expected)
    done(world.run("models", "fetch", f"spleeter:{n_stems}stems", "-q"))
    check_weights(world, f"spleeter:{n_stems}stems", expected)


def test_the_whole_folder_of_checkpoints_at_once(world: World) -> None:
    done(world.run("models", "import", SPLEETER / "checkpoints"))
    for n_stems in (2, 4, 5):
        check_weights(world, f"{n_stems}stems", spleeter_tensors(SPLEETER / "checkpoints" / f"{n_stems}stems", n_stems))


def check_sound(world: World, model: str, golden: str, folder: Path) -> None:
    """What the command makes of the mixture is what the original made of it."""
    mixture = write_wav(folder / "mixture.wav", np.load(SPLEETER / "mixture.npy").T)
    options = ["--high-band", "model", "--bit-depth", "float", *(["--mwf"] if golden.endswith("mwf") else [])]
    done(world.run("separate", "-m", model, mixture, "-o", folder / "out", "-q", *options, UNBRAID_OFFLINE="1"))
    windows = json.loads((SPLEETER / "golden.json").read_text())["windows"]
    reference = np.load(SPLEETER / f"{golden}.npz")
    stems = {path.stem: read_audio(path).samples for path in (folder / "out" / "mixture").iterdir()}
    assert stems.keys() == {name.partition("/")[0] for name in reference}
    error = energy = 0.0
    for stem, samples in stems.items():
        for i, (start, end) in enumerate(windows):
            expected = reference[f"{stem}/{i}"].T
            error += float(np.sum((samples[:, start:end] - expected) ** 2, dtype=float))
            energy += float(np.sum(expected.astype(float) ** 2))
        rms = np.sqrt(np.mean(samples.astype(float) ** 2, axis=1))
        assert rms == pytest.approx(reference[f"{stem}/rms"], rel=1e-3)
    assert (error / energy) ** 0.5 <= 1e-4


QUICK = ("2stems-16kHz",)
SLOW = ("2stems", "4stems", "5stems", "2stems-average", "2stems-mwf", "4stems-mwf")
VARIANTS = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@pytest.mark.parametrize("golden", VARIANTS)
def test_what_is_imported_sounds_like_the_original(golden: str, world: World, tmp_path: Path) -> None:
    checkpoint = SPLEETER / "checkpoints" / golden.partition("-")[0]
    done(world.run("models", "import", checkpoint, "--config", SPLEETER / f"{golden}.json", "--name", "mine"))
    check_sound(world, "mine", golden, tmp_path)


@pytest.mark.parametrize(
    ("model", "golden"),
    [
        ("spleeter:4stems", "4stems"),
        *(
            pytest.param(f"spleeter:{name.removesuffix('-mwf')}", name, marks=pytest.mark.slow)
            for name in ("2stems", "2stems-16kHz", "5stems", "2stems-mwf", "4stems-mwf")
        ),
    ],
)
def test_what_is_fetched_sounds_like_the_original(model: str, golden: str, world: World, tmp_path: Path) -> None:
    done(world.run("models", "fetch", model, "-q"))
    check_sound(world, model, golden, tmp_path)


def publish(world: World, name: str, files: list[Path], facts: list[dict[str, object]]) -> None:
    """Have the hub, and the catalogue, give a model these files."""

    def change(content: dict[str, Any]) -> None:
        content["models"][name]["files"] = [
            {"addresses": [f"{world.hub.url}/{path.name}"], "sha256": sha256(path.read_bytes()), **fact}
            for path, fact in zip(files, facts, strict=True)
        ]

    world.change_catalog(change)
    world.hub.files |= {f"/{path.name}": path.read_bytes() for path in files}


def test_a_model_of_several_files(world: World, tmp_path: Path) -> None:
    """One that cannot be had: nothing is installed, the others are kept, and only that one is fetched next time."""
    stems = ("vocals", "drums", "bass", "other")
    files = [DEMUCS / f"umx_{stem}.pth" for stem in stems]
    publish(world, "umx", files, [{"target": stem} for stem in stems])
    world.hub.script("/umx_bass.pth", answer(404))
    failed = world.run("models", "fetch", "umx", "-q")
    assert (failed.code, len(failed.lines)) == (3, 1)
    assert "umx_bass.pth" in failed.err
    assert not any((world.home / "models").iterdir())
    out = done(world.run("models", "fetch", "umx", "-q"))
    assert [request.target for request in world.hub.requests] == [
        *("/umx_vocals.pth", "/umx_drums.pth", "/umx_bass.pth", "/umx_bass.pth", "/umx_other.pth")
    ]
    check_weights(world, "umx", umx_tensors())
    assert out == ""
    assert {name.partition("/")[0] for name in world.left()} == {"models"}
    done(world.run("models", "remove", "umx"))
    for path in files:  # as a user has them
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / f"my {path.name}").write_bytes(path.read_bytes())
    assert done(world.run("models", "import", tmp_path / "files")).startswith("umx: installed in ")
    check_weights(world, "umx", umx_tensors())


def test_a_published_bag(world: World) -> None:
    bag = json.loads((DEMUCS / "bag.json").read_text())
    files = [DEMUCS / f"{name}.th" for name in bag["models"]]
    facts = [{"network": name, "stem_weights": row} for name, row in zip(bag["models"], bag["weights"], strict=True)]
    publish(world, "mdx", files, [fact | {"family": "hdemucs"} for fact in facts])
    done(world.run("models", "fetch", "mdx", "-q"))
    members = {name: torch_tensors(DEMUCS / f"{name}.th") for name in bag["models"]}
    check_weights(world, "mdx", {f"{name}.{key}": one for name in members for key, one in members[name].items()})
    model = read_model_file(world.home / "models" / "mdx")
    assert [list(part.stem_weights or ()) for part in model.networks] == bag["weights"]
    assert model.segment_s == 44
    assert model.licence == "research only"
