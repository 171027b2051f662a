"""Exported models: run by the programs they are for, and compared with the torch module."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from safetensors import safe_open

from hybrid_networks import UNET
from unbraid.datatypes import FloatArray
from unbraid.errors import ModelError, UsageError
from unbraid.models.hdemucs.config import HDemucsConfig
from unbraid.models.openunmix.config import OpenUnmixConfig, TargetConfig
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.models.spleeter.graph import parameter_shapes
from unbraid.weights import export
from unbraid.weights.export import EXPORT_FORMATS, export_model
from unbraid.weights.folder import write_model
from unbraid.weights.model_file import WEIGHTS, ModelFile, NetworkPart
from unbraid.weights.store import load_model

# Relative error that summing float32 in another order may make.
TOLERANCE = 1e-5


def write_spleeter(folder: Path, network: str = "unet.unet", n_stems: int = 2, dtype: Any = np.float32) -> str:
    """A small random network with estimates that are far smaller than the mix."""
    stems = tuple("abcde"[:n_stems])
    config = SpleeterConfig(stems=stems, network=network, n_frames=64, n_bins=64, conv_n_filters=(4, 4, 8, 8, 8, 8))
    rng = np.random.default_rng(3)
    state = {}
    for name, shape in parameter_shapes(config).items():
        if name.endswith("running_var"):
            state[name] = rng.uniform(0.5, 1.5, shape).astype(dtype)
        else:
            state[name] = rng.normal(0, (1 / max(1, int(np.prod(shape[1:])))) ** 0.5, shape).astype(dtype)
        if name.endswith("mask.bias"):
            state[name] -= 9
    write_model(folder, ModelFile("tiny", stems, 44100, (NetworkPart("spleeter", config),), 0, ""), state)
    return str(folder)


def write_bag(folder: Path) -> str:
    """Networks of two families, one of which has tensors that it does not need to run."""
    unmix = OpenUnmixConfig(("a", "b"), (TargetConfig(hidden_size=4, max_bin=9),) * 2, n_fft=16, hop=4)
    hybrid = HDemucsConfig(("a", "b"), **UNET, depth=4, segment_samples=1000)
    parts = (NetworkPart("openunmix", unmix, "one", (1, 0)), NetworkPart("hdemucs", hybrid, "two", (1, 2)))
    model = ModelFile("bag", unmix.stems, 44100, parts, 0, "", licence="CC0")
    rng = np.random.default_rng(4)
    write_model(folder, model, {n: rng.uniform(0.1, 0.3, s).astype("f4") for n, s in model.tensor_shapes().items()})
    return str(folder)


@pytest.fixture(scope="module")
def models(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "built in": "unbraid:4stems",
        "sigmoid": write_spleeter(folder / "sigmoid"),
        "softmax": write_spleeter(folder / "softmax", "unet.softmax_unet", 3),
        "float16": write_spleeter(folder / "float16", dtype=np.float16),
        "bag": write_bag(folder / "bag"),
    }


@pytest.fixture
def tiny(models: dict[str, str]) -> str:
    return models["sigmoid"]


@pytest.fixture(params=["built in", "sigmoid", "softmax", "float16"])
def model(models: dict[str, str], request: pytest.FixtureRequest) -> str:
    return models[request.param]


def config_of(model: str) -> SpleeterConfig:
    return load_model(model).transform.config


def magnitudes(model: str) -> FloatArray:
    config = config_of(model)
    shape = (1, config.n_channels, config.n_frames, config.n_bins)
    return np.random.default_rng(8).exponential(10, shape).astype(np.float32)


def expected(model: str) -> FloatArray:
    """What the torch module computes."""
    loaded = load_model(model)
    with torch.inference_mode():
        stems: FloatArray = loaded.parts[0].whole().module()(torch.from_numpy(magnitudes(model))).numpy()
    return stems


def relative_error(found: FloatArray, reference: FloatArray) -> float:
    assert found.shape == reference.shape
    return float(np.linalg.norm((found - reference).ravel()) / np.linalg.norm(reference.ravel()))


def run_onnx(path: Path, model: str) -> FloatArray:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["magnitude"]
    (stems,) = session.run(["stems"], {"magnitude": magnitudes(model)})
    return stems


def run_openvino(path: Path, model: str) -> FloatArray:
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert [value.any_name for value in compiled.inputs] == ["magnitude"]
    stems: FloatArray = compiled({"magnitude": magnitudes(model)})["stems"]
    return stems


def onnx_metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}


def openvino_metadata(path: Path) -> dict[str, str]:
    model = openvino.Core().read_model(path)
    return dict(model.get_rt_info("unbraid").value)


def safetensors_metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        return dict(file.metadata())


METADATA = {"onnx": onnx_metadata, "openvino": openvino_metadata, "safetensors": safetensors_metadata}


def test_onnx_runtime_computes_the_same(model: str, tmp_path: Path) -> None:
    (path,) = export_model(model, tmp_path / "model", format="onnx")
    assert path == tmp_path / "model.onnx"
    assert list(tmp_path.iterdir()) == [path]
    found, reference = run_onnx(path, model), expected(model)
    assert relative_error(found, reference) <= TOLERANCE
    # Masks are ratios of estimates, so small ones must be as exact as large ones.
    np.testing.assert_allclose(found, reference, rtol=1e-4, atol=1e-30)


def test_openvino_computes_the_same(model: str, tmp_path: Path) -> None:
    paths = export_model(model, tmp_path / "model.xml", format="openvino")
    assert paths == (tmp_path / "model.xml", tmp_path / "model.bin")
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert relative_error(run_openvino(paths[0], model), expected(model)) <= TOLERANCE


def test_onnx_is_valid_and_holds_the_weights_as_float32(model: str, tmp_path: Path) -> None:
    (path,) = export_model(model, tmp_path / "model", format="onnx")
    graph = onnx.load(path).graph
    onnx.checker.check_model(path, full_check=True)
    weights = load_model(model).parts[0].whole().weights()
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for name, shape in parameter_shapes(config_of(model)).items():
        assert found[name].dtype == np.float32
        assert found[name].shape == shape
        np.testing.assert_array_equal(found[name], weights[name])


def test_safetensors_holds_the_very_weights(model: str, tmp_path: Path) -> None:
    (path,) = export_model(model, tmp_path / "model", format="safetensors")
    assert path == tmp_path / "model.safetensors"
    weights = load_model(model).parts[0].whole().weights()
    with safe_open(path, "np") as file:
        assert set(file.keys()) == set(weights)
        for name, value in weights.items():
            found = file.get_tensor(name)
            assert (found.dtype, found.tobytes()) == (value.dtype, value.tobytes())


@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_metadata_says_what_surrounds_the_network(format: str, home: Path, tmp_path: Path) -> None:
    path, *_ = export_model("unbraid:2stems", tmp_path / "model", format=format)
    metadata = METADATA[format](path)
    assert json.loads(metadata["stems"]) == ["vocals", "drums", "bass", "piano", "other"]
    assert json.loads(metadata["groups"]) == {"vocals": [0], "accompaniment": [1, 2, 3, 4]}
    numbers = {"sample_rate": "44100", "n_fft": "4096", "hop": "1024", "n_frames": "512", "n_bins": "1024"}
    words = {"licence": "MIT", "name": "unbraid:2stems", "mask_extension": "average"}
    assert {key: metadata[key] for key in (*numbers, *words)} == numbers | words
    (network,) = json.loads(metadata["networks"])
    assert network["family"] == "spleeter"
    assert SpleeterConfig.from_json(network["config"]) == config_of("unbraid:2stems")


def test_metadata_says_no_more_than_is_known(tiny: str, tmp_path: Path) -> None:
    (path,) = export_model(tiny + "/", tmp_path / "model", format="onnx")
    metadata = onnx_metadata(path)
    assert metadata["name"] == "sigmoid"
    assert not {"licence", "groups"} & set(metadata)
    assert str(Path(tiny).parent) not in str(metadata)


@pytest.mark.parametrize("format", ["onnx", "safetensors"])
def test_the_same_model_gives_the_same_bytes(format: str, tiny: str, tmp_path: Path) -> None:
    first, second = (export_model(tiny, tmp_path / name, format=format)[0] for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_weights_too_large_for_one_file_lie_beside_it(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_LARGEST_PROTO", 1000)
    paths = export_model(tiny, tmp_path / "model", format="onnx")
    assert paths == (tmp_path / "model.onnx", tmp_path / "model.onnx.data")
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    large = [value.nbytes for value in load_model(tiny).parts[0].whole().weights().values() if value.nbytes >= 1024]
    assert paths[1].stat().st_size >= sum(large) > 0
    assert relative_error(run_onnx(paths[0], tiny), expected(tiny)) <= TOLERANCE
    paths = export_model(tiny, tmp_path / "model", format="openvino")
    assert relative_error(run_openvino(paths[0], tiny), expected(tiny)) <= TOLERANCE


@pytest.mark.parametrize(
    ("format", "names"),
    [("onnx", ["model.onnx"]), ("openvino", ["model.xml", "model.bin"]), ("safetensors", ["model.safetensors"])],
)
def test_nothing_is_overwritten_unless_asked(format: str, names: list[str], tiny: str, tmp_path: Path) -> None:
    for name in names:
        for other in tmp_path.iterdir():
            other.unlink()
        (tmp_path / name).write_bytes(b"precious")
        with pytest.raises(UsageError, match=f"{name}': already there; use --overwrite"):
            export_model(tiny, tmp_path / "model", format=format)
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"precious"]
    paths = export_model(tiny, tmp_path / "model", format=format, overwrite=True)
    assert sorted(path.name for path in paths) == sorted(names)
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert all(path.read_bytes() != b"precious" for path in paths)


def test_an_unknown_format_names_the_nearest(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown format 'onxx'; did you mean 'onnx'\? \(onnx, openvino, safetensors"):
        export_model(tiny, tmp_path / "model", format="onxx")


def test_an_unknown_model_is_an_error(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unknown model 'unbraid:4stem'; did you mean 'unbraid:4stems'"):
        export_model("unbraid:4stem", tmp_path / "model", format="onnx")


@pytest.mark.parametrize(
    ("given", "made"), [("a.onnx", "a.onnx"), ("a.v2", "a.v2.onnx"), ("sub/folder/a", "sub/folder/a.onnx")]
)
def test_the_suffix_is_added_and_folders_are_made(given: str, made: str, tiny: str, tmp_path: Path) -> None:
    assert export_model(tiny, tmp_path / given, format="onnx") == (tmp_path / made,)
    assert (tmp_path / made).is_file()


@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_a_place_that_cannot_be_written_is_one_clear_line(format: str, tiny: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelError, match=r"cannot write '.*model\.") as raised:
        export_model(tiny, tmp_path / "file" / "model", format=format)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_damaged_weights_leave_nothing_behind(format: str, tmp_path: Path) -> None:
    model = write_spleeter(tmp_path / "model")
    weights = tmp_path / "model" / WEIGHTS
    weights.write_bytes(b"\xff" * weights.stat().st_size)
    with pytest.raises(ModelError, match=rf"cannot read weights '.*{WEIGHTS}'"):
        export_model(model, tmp_path / "out" / "model", format=format)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_program_is_one_clear_line(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ModelError, match=r"cannot export to '.*model\.xml': .*openvino"):
        export_model(tiny, tmp_path / "model", format="openvino")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_bag_has_a_graph_of_each_network(format: str, models: dict[str, str], tmp_path: Path) -> None:
    paths = export_model(models["bag"], tmp_path / "model", format=format)
    suffixes = {"onnx": [".onnx"], "openvino": [".xml", ".bin"]}[format]
    assert paths == tuple(tmp_path / f"model-{name}{suffix}" for name in ("one", "two") for suffix in suffixes)
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    core, rng = openvino.Core(), np.random.default_rng(9)
    for part, path in zip(load_model(models["bag"]).parts, paths[:: len(suffixes)], strict=True):
        network = part.whole()
        inputs = [rng.uniform(0, 1, shape).astype(np.float32) for shape in network.input_shapes]
        compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        with torch.inference_mode():
            outputs = network.module()(*map(torch.from_numpy, inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        for found, reference in zip(compiled(inputs).values(), outputs, strict=True):
            assert relative_error(found, reference.numpy()) <= TOLERANCE
        networks = json.loads(METADATA[format](path)["networks"])
        assert [(one["family"], one["stem_weights"]) for one in networks] == [
            ("openunmix", [1, 0]),
            ("hdemucs", [1, 2]),
        ]
    with pytest.raises(UsageError, match=f"model-one{suffixes[0]}': already there"):
        export_model(models["bag"], tmp_path / "model", format=format)


def test_a_bag_has_all_its_weights_in_one_file(models: dict[str, str], tmp_path: Path) -> None:
    (path,) = export_model(models["bag"], tmp_path / "model", format="safetensors")
    metadata = safetensors_metadata(path)
    assert {key: metadata[key] for key in ("name", "licence", "sample_rate", "stems")} == {
        "name": "bag",
        "licence": "CC0",
        "sample_rate": "44100",
        "stems": '["a", "b"]',
    }
    network, _ = json.loads(metadata["networks"])
    config = OpenUnmixConfig.from_plain(network["config"])
    assert (network["family"], network["name"], config.targets[0].hidden_size) == ("openunmix", "one", 4)
    with safe_open(path, "np") as file, safe_open(Path(models["bag"]) / WEIGHTS, "np") as original:
        assert set(file.keys()) == set(original.keys())
        for name in file.keys():  # noqa: SIM118 -- not a mapping
            assert file.get_tensor(name).tobytes() == original.get_tensor(name).tobytes()
