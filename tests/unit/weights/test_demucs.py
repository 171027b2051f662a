"""Files of all releases of Demucs: their tensors bit for bit, their configurations, and what is refused."""

import inspect
import io
import json
import os
import random
import re
import sys
import types
import zlib
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from demucs_networks import HTDEMUCS, SIX_STEMS, STEMS, random_kwargs
from quantized_states import DIFFQ, UNIFORM, Quantizer, quantized_state
from refusals import refusal
from unbraid.errors import ModelError
from unbraid.models.demucs.config import DemucsConfig
from unbraid.models.demucs.state import from_v2_names
from unbraid.models.demucs.state import parameter_shapes as demucs_shapes
from unbraid.models.families import family
from unbraid.models.hdemucs.config import HDemucsConfig
from unbraid.models.htdemucs.config import HTDemucsConfig
from unbraid.weights.convert import demucs_v2
from unbraid.weights.convert.demucs import read_demucs_package, read_demucs_safetensors, read_demucs_state
from unbraid.weights.convert.demucs_arguments import ARGUMENTS, V1_ARGUMENTS
from unbraid.weights.convert.network import ConvertedNetwork
from unbraid.weights.convert.torch_file import Record, Reference, read_torch_file
from unbraid.weights.places import downloads_folder

SHARED = Path(os.environ.get("UNBRAID_SHARED", Path(__file__).parents[4] / "shared"))
GOLDEN = SHARED / "golden" / "demucs"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the golden outputs are not in '{GOLDEN}'")

FOUR, SIX = tuple(STEMS), tuple(SIX_STEMS)
PATH = Path("model.th")
HT, HYBRID, TIME, OLD = (
    Reference(module, name)
    for module, name in (
        ("demucs.htdemucs", "HTDemucs"),
        ("demucs.hdemucs", "HDemucs"),
        ("demucs.demucs", "Demucs"),
        ("demucs.model", "Demucs"),
    )
)

SMALL = {"sources": STEMS, "channels": 4, "depth": 2, "dconv_mode": 0}
SMALL_SHAPES = demucs_shapes(DemucsConfig(FOUR, hidden_channels=4, depth=2, dconv_mode=0))
SMALL_SIZE = 120 * 4 / 2**20  # megabytes: parameters of more than 120 values are quantised


def package(klass: Reference = TIME, state: Any = None, /, **kwargs: Any) -> dict[str, Any]:
    return {"klass": klass, "args": (), "kwargs": kwargs or SMALL, "state": state or small_state(), "training_args": {}}


def small_state(shapes: Mapping[str, tuple[int, ...]] = SMALL_SHAPES, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}


def assert_same_bits(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert found[name].tobytes() == tensor.tobytes(), name


def large(shapes: Mapping[str, tuple[int, ...]], n: int = 120) -> set[str]:
    return {name for name, shape in shapes.items() if np.prod(shape) > n}


# Packages.


@needs_golden
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("demucs3", DemucsConfig(FOUR, hidden_channels=4, segment_samples=441000)),
        ("hdemucs", HDemucsConfig(FOUR, hidden_channels=4, segment_samples=441000)),
        ("hdemucs_wiener", HDemucsConfig(FOUR, hidden_channels=4, segment_samples=441000, complex_as_channels=False)),
        ("bag_a", HDemucsConfig(FOUR, hidden_channels=4, segment_samples=441000)),
        ("bag_b", DemucsConfig(FOUR, hidden_channels=4, segment_samples=441000)),
        ("htdemucs", HTDemucsConfig(FOUR, hidden_channels=8, segment_samples=343980, bottom_channels=48)),
        ("htdemucs_6s", HTDemucsConfig(SIX, hidden_channels=8, segment_samples=343980)),
    ],
)
def test_golden_packages(name: str, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = GOLDEN / f"{name}.th"
    network = read_demucs_package(path)
    assert network.config == config
    assert network.family == type(config).__name__.removesuffix("Config").lower()
    assert network.notices == ()
    if (GOLDEN / f"{name}.json").is_file():
        description = json.loads((GOLDEN / f"{name}.json").read_text())
        kwargs = {key: fraction(value) for key, value in description["kwargs"].items()}
        assert config == type(config).from_kwargs(kwargs)
        assert list(config.stems) == description["stems"]
    assert_same_bits(network.tensors, torch_state(path, monkeypatch))
    assert {tensor.dtype for tensor in network.tensors.values()} == {np.dtype(np.float16)}


def fraction(value: Any) -> Any:
    return Fraction(value["numerator"], value["denominator"]) if isinstance(value, dict) else value


def torch_state(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What torch finds in a package; empty classes stand for those of Demucs."""
    for klass in ARGUMENTS:
        parent, module, name = klass.split(".")
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        monkeypatch.setitem(sys.modules, f"{parent}.{module}", types.ModuleType(f"{parent}.{module}"))
        setattr(sys.modules[f"{parent}.{module}"], name, type(name, (), {}))
    content = torch.load(path, weights_only=False)
    return {name: tensor.numpy() for name, tensor in content["state"].items()}


def test_tensors_keep_type_and_bits() -> None:
    state = small_state()
    state["encoder.0.0.bias"] = np.array([np.nan, -0.0, 1e-45, np.inf], np.float32)
    network = read_demucs_package(PATH, package(TIME, state))
    assert_same_bits(network.tensors, state)
    # Whatever their order in the file.
    shuffled = dict(reversed(state.items()))
    assert_same_bits(read_demucs_package(PATH, package(TIME, shuffled)).tensors, state)


def test_arguments_by_position() -> None:
    by_name = {**HTDEMUCS, "channels": 8, "bottom_channels": 48, "t_layers": 1}
    config = HTDemucsConfig.from_kwargs(by_name)
    content = package(HT, small_state(family("htdemucs").shapes(config)), **by_name)
    assert read_demucs_package(PATH, content).config == config
    names = ARGUMENTS["demucs.htdemucs.HTDemucs"]
    n = names.index("bottom_channels") + 1
    content |= {"args": tuple(by_name.pop(name) for name in names[:n]), "kwargs": by_name}
    assert read_demucs_package(PATH, content).config == config
    content["args"] = list(content["args"])  # as JSON has them
    assert read_demucs_package(PATH, content).config == config


def test_the_name_before_the_release() -> None:
    kwargs = {"sources": STEMS, "channels": 8, "depth": 2}
    shapes = family("hdemucs").shapes(HDemucsConfig.from_kwargs(kwargs))
    content = package(Reference("demucs.wdemucs", "WDemucs"), small_state(shapes), **kwargs)
    assert read_demucs_package(PATH, content).config == HDemucsConfig(FOUR, hidden_channels=8, depth=2)


def test_unknown_arguments_are_left_out_and_told() -> None:
    network = read_demucs_package(PATH, package(TIME, None, **SMALL, special=False, nice=1))
    assert network.config == read_demucs_package(PATH, package()).config
    assert network.notices == ("left out arguments that Demucs does not know: {'nice': 1, 'special': False}",)


@pytest.mark.parametrize(
    ("args", "kwargs", "version"),
    [
        ((), {}, 1),
        ((), {"sources": 4, "lstm_layers": 0}, 1),
        ((4,), {}, 1),
        ((), {"sources": 4, "upsample": True}, 1),
        ((), {"sources": STEMS}, 2),
        ((STEMS, 2), {"resample": False, "samplerate": 22050}, 2),
    ],
)
def test_packages_of_the_first_two_releases(args: tuple[Any, ...], kwargs: dict[str, Any], version: int) -> None:
    kwargs = {**kwargs, "channels": 4, "depth": 2}
    config = DemucsConfig.from_kwargs({**dict(zip(V1_ARGUMENTS, args, strict=False)), **kwargs}, version)
    state = old_state(config)
    network = read_demucs_package(PATH, {**package(OLD, state), "args": args, "kwargs": kwargs})
    assert (network.family, network.config, network.config.version) == ("demucs", config, version)
    assert_renamed(network, state)


@pytest.mark.parity
@pytest.mark.parametrize("klass", [klass for klass in ARGUMENTS if klass != "demucs.model.Demucs"])
def test_arguments_are_those_of_the_classes(klass: str) -> None:
    name, _, short = klass.rpartition(".")
    module = pytest.importorskip(name, reason="needs demucs 4.1.0")
    arguments = inspect.signature(getattr(module, short)).parameters
    assert tuple(arguments) == ARGUMENTS[klass]
    defaults = {name: one.default for name, one in arguments.items() if name != "sources"}
    # Our configurations know them all.
    config = read_config(klass, {"sources": STEMS, **defaults})
    assert config == read_config(klass, {"sources": STEMS})


def read_config(klass: str, kwargs: dict[str, Any]) -> Any:
    kinds: dict[str, Any] = {"HTDemucs": HTDemucsConfig, "Demucs": DemucsConfig}
    return kinds.get(klass.rpartition(".")[2], HDemucsConfig).from_kwargs(kwargs)


# Bare states.


def old_state(config: DemucsConfig, seed: int = 0) -> dict[str, Any]:
    shapes = demucs_shapes(config)
    return small_state({theirs: shapes[ours] for theirs, ours in from_v2_names(config).items()}, seed)


def assert_renamed(network: ConvertedNetwork, state: Mapping[str, Any]) -> None:
    """The third part of a layer of v1 and v2 is the fourth of v3's."""
    renamed = {re.sub(r"^((?:en|de)coder\.\d+)\.2\.", r"\1.3.", name): one for name, one in state.items()}
    assert_same_bits(network.tensors, renamed)


@needs_golden
@pytest.mark.parametrize("version", [1, 2])
def test_golden_states(version: int) -> None:
    path = GOLDEN / f"demucs_v{version}.th"
    network = read_demucs_state(path, read_torch_file(path), version=version)
    kwargs = json.loads(path.with_suffix(".json").read_text())["kwargs"]
    assert network.config == DemucsConfig.from_kwargs(kwargs, version)
    assert (network.config.stems, network.config.version, network.config.hidden_channels) == (FOUR, version, 3)
    assert_renamed(network, {name: tensor.numpy() for name, tensor in torch.load(path, weights_only=True).items()})
    inside = "with" if version == 2 else "without"
    assert network.notices == (
        f"taken as in the published models of Demucs v{version}, since a bare state does not say it: stems "
        f"drums, bass, other, vocals; 44100 Hz; stride 4; {inside} resampling and without normalisation inside",
    )


def test_sizes_are_found_in_the_tensors() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(150):
        version = int(rng.integers(1, 3))
        kwargs = {**random_kwargs(f"demucs{version}", rng), "channels": int(rng.integers(2, 6))}
        if kwargs.get("rewrite") is False:
            kwargs.update(glu=True, context=3)  # then no tensor depends on them
        config = DemucsConfig.from_kwargs(kwargs, version)
        state = old_state(config)
        network = read_demucs_state(PATH, state, version=version)
        untold = {"stride", "rescale", "sample_rate", "segment_samples", "resample", "normalize", "stems", "growth"}
        for name, value in vars(config).items():
            if name not in untold:
                assert getattr(network.config, name) == value, (name, kwargs)
        assert network.config.widths == config.widths
        assert len(network.config.stems) == len(config.stems)
        assert (network.config.stems == FOUR) == (len(config.stems) == 4)
        assert_renamed(network, state)
        seen.add((version, config.upsample, config.rewrite, len(config.stems), config.lstm_layers))
    assert len(seen) > 30


def test_only_the_first_release_interpolates() -> None:
    state = old_state(DemucsConfig.from_kwargs({"channels": 4, "depth": 2, "upsample": True}, 1))
    assert read_demucs_state(PATH, state, version=2).config.version == 1


# Quantised states.


def test_quantised_package() -> None:
    quantizer = Quantizer(DIFFQ, "packed", {"min_size": SMALL_SIZE, "group_size": 4})
    state, meant = quantized_state(quantizer, SMALL_SHAPES, large(SMALL_SHAPES), np.random.default_rng(1))
    network = read_demucs_package(PATH, package(TIME, state))
    assert_same_bits(network.tensors, meant)
    assert network.config.hidden_channels == 4


def compressed(state: dict[str, Any]) -> bytes:
    """As Demucs v2 put states away."""
    file = io.BytesIO()
    torch.save(tensors_of(state), file)
    return zlib.compress(file.getvalue())


def tensors_of(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: tensors_of(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(tensors_of(one) for one in value)
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNBRAID_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("channels", [9, 2])
def test_compressed_state(channels: int, home: Path, tmp_path: Path) -> None:
    config = DemucsConfig.from_kwargs({"sources": STEMS, "channels": channels}, 2)
    shapes = demucs_shapes(config)
    # demucs_quantized: groups of 8, and parameters of more than 1 MB; with 9 channels, that is one of them.
    chosen = large(shapes, 1 << 18)
    assert (len(chosen) > 0) == (channels == 9)
    rng = np.random.default_rng(2)
    state, meant = quick_state(shapes, chosen, rng)
    path = tmp_path / "demucs_quantized.th"
    torch.save({"compressed": compressed(state)}, path)
    network = read_demucs_state(path, read_torch_file(path), scratch=tmp_path / "scratch")
    assert network.config == config
    assert_same_bits(network.tensors, meant)
    assert network.notices[0].startswith("taken as in the published models of Demucs v2")
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["demucs_quantized.th", "scratch"]


def quick_state(shapes: Any, chosen: set[str], rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """As `quantized_state` in version 0.1, all of 8 bits, in whole arrays."""
    state: dict[str, Any] = {"quantized": [], "float16": [], "others": []}
    meant = {}
    for name, shape in shapes.items():
        if name in chosen:
            levels = rng.integers(0, 256, shape, np.uint8)
            state["quantized"].append((levels.reshape(-1, 8), (-0.5, 1.0), np.full((levels.size // 8, 1), 8, np.uint8)))
            meant[name] = (levels.astype(np.float32) * np.float32(1 / 255)) * np.float32(1.5) + np.float32(-0.5)
        else:
            meant[name] = rng.standard_normal(shape, np.float32)
            state["others"].append(meant[name])
    return state, meant


@pytest.mark.parametrize(
    ("quantizer", "training"),
    [
        (Quantizer(DIFFQ, "0.1", {"group_size": 8}), {"diffq": 3e-4, "qat": None, "q_min_size": SMALL_SIZE}),
        (Quantizer(UNIFORM, "0.1", {"bits": 5}), {"diffq": 0, "qat": 5, "q_min_size": SMALL_SIZE}),
    ],
)
def test_compressed_package(quantizer: Quantizer, training: dict[str, Any], home: Path) -> None:
    kwargs = {"sources": STEMS, "channels": 4, "depth": 2}
    shapes = demucs_shapes(DemucsConfig.from_kwargs(kwargs, 2))
    state, meant = quantized_state(quantizer, shapes, large(shapes), np.random.default_rng(3))
    content = package(OLD, {"compressed": compressed(state)}, **kwargs)
    content["training_args"] = Record(Reference("argparse", "Namespace"), (), training)
    assert_same_bits(read_demucs_package(PATH, content).tensors, meant)
    for useless in (None, {}, Record(Reference("argparse", "Namespace"), (), {**training, "diffq": 0, "qat": None})):
        with pytest.raises(ModelError, match=r"'model\.th': its training_args do not tell how it was quantised"):
            read_demucs_package(PATH, {**content, "training_args": useless or {}})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-5], "its compressed state is cut short"),
        (lambda data: data + b"x", "its compressed state is cut short, or something follows it"),
        (lambda data: b"", "its compressed state is cut short"),
        (lambda data: b"x" + data, "its compressed state is damaged"),
        (lambda data: data.decode("latin-1"), "its compressed state must be bytes"),
        (lambda data: zlib.compress(b"PK" * 500), "cannot read"),
        (lambda data: compressed({"a": 1}), "its compressed state is not that of a quantised network"),
        (lambda data: compressed([1]), "its compressed state is not that of a quantised network"),
        (lambda data: compressed({"quantized": [], "float16": [], "others": []}), "is not that of Demucs v2"),
        (lambda data: compressed({"quantized": [], "float16": [], "others": [np.ones(3)]}), "is not that of Demucs v2"),
        (lambda data: compressed({"quantized": [], "float16": [], "others": 1}), "is not that of Demucs v2"),
        (lambda data: compressed({"quantized": [], "float16": [], "others": [np.ones((4, 2, 8))]}), "holds too few"),
    ],
)
def test_damaged_compressed_states(damage: Callable[[bytes], Any], message: str, home: Path) -> None:
    data = compressed(quick_state({"encoder.0.0.weight": (4, 2, 8)}, set(), np.random.default_rng(4))[0])
    with pytest.raises(ModelError, match=message) as caught:
        read_demucs_state(PATH, {"compressed": damage(data)})
    assert "model.th" in str(caught.value)
    assert str(caught.value).isprintable()
    assert list(downloads_folder().iterdir()) == []


def test_a_bomb_of_zeros(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demucs_v2, "_LARGEST_STATE", 1 << 25)
    data = zlib.compress(bytes(1 << 28))
    message = refusal(lambda: read_demucs_state(PATH, {"compressed": data}), PATH)
    assert "its compressed state is larger than 33554432 bytes" in message
    assert list(downloads_folder().iterdir()) == []


def test_no_room_for_a_compressed_state(home: Path) -> None:
    home.write_text("a file where the folder should be")
    with pytest.raises(ModelError, match=r"cannot unpack 'model\.th' in '.*downloads'"):
        read_demucs_state(PATH, {"compressed": zlib.compress(b"x")})


# safetensors.


@needs_golden
@pytest.mark.parametrize("name", ["htdemucs", "htdemucs_6s"])
def test_golden_safetensors(name: str) -> None:
    path = GOLDEN / f"{name}.safetensors"
    network = read_demucs_safetensors(path)
    expected = load_file(path)
    assert_same_bits(network.tensors, {key: expected[key] for key in network.tensors})
    assert network.tensors.keys() == expected.keys()
    assert (network.family, network.config) == ("htdemucs", read_demucs_package(path.with_suffix(".th")).config)


Metadata = dict[str, str]


def small_metadata(**more: str) -> Metadata:
    return {"klass": "demucs.demucs.Demucs", "args": "[]", "kwargs": json.dumps(SMALL), **more}


def saved(folder: Path, metadata: Metadata | None, tensors: Mapping[str, Any] | None = None) -> Path:
    path = folder / "model.safetensors"
    save_file(dict(tensors or small_state()), path, metadata)
    return path


def test_arguments_in_metadata(tmp_path: Path) -> None:
    kwargs = {
        "channels": 4,
        "depth": 2,
        "dconv_mode": 0,
        "segment": {"_type": "fraction", "numerator": 39, "denominator": 5},
    }
    path = saved(tmp_path, small_metadata(args=json.dumps([STEMS]), kwargs=json.dumps(kwargs)))
    network = read_demucs_safetensors(path)
    assert (network.config.stems, network.config.segment_samples) == (FOUR, 343980)
    assert_same_bits(network.tensors, small_state())


def flattened(value: Any, tensors: dict[str, Any], name: str = "state") -> Any:
    """The structure of a nested state, as Demucs 4.1 describes it."""
    if isinstance(value, np.ndarray):
        tensors[name] = value
        return {"_tensor": name}
    if isinstance(value, Reference):
        return {"_class": str(value)}
    if isinstance(value, dict):
        return {"_dict": [[key, flattened(one, tensors, f"{name}.{key}")] for key, one in value.items()]}
    if isinstance(value, list | tuple):
        items = [flattened(one, tensors, f"{name}.{i}") for i, one in enumerate(value)]
        return {f"_{type(value).__name__}": items}
    return value


@pytest.mark.parametrize("quantizer", [Quantizer(DIFFQ, "packed", {"group_size": 4}), Quantizer(UNIFORM, "packed")])
def test_quantised_safetensors(quantizer: Quantizer, tmp_path: Path) -> None:
    quantizer = Quantizer(quantizer.kind, "packed", {**quantizer.options, "min_size": SMALL_SIZE, "exclude": ["*bias"]})
    shapes = SMALL_SHAPES
    state, meant = quantized_state(quantizer, shapes, large(shapes), np.random.default_rng(5))
    tensors: dict[str, Any] = {}
    structure = flattened(state, tensors)
    path = saved(tmp_path, small_metadata(structure=json.dumps(structure)), tensors)
    assert_same_bits(read_demucs_safetensors(path).tensors, meant)
    with pytest.raises(ModelError, match=r"its structure has no tensor 'more'"):
        read_demucs_safetensors(
            saved(
                tmp_path,
                small_metadata(structure=json.dumps(structure)),
                {**tensors, "more": meant["encoder.0.0.bias"]},
            )
        )
    del tensors["state.others.0"]
    with pytest.raises(
        ModelError, match=r"its metadata 'structure' are damaged \(tensor 'state\.others\.0' is missing"
    ):
        read_demucs_safetensors(saved(tmp_path, small_metadata(structure=json.dumps(structure)), tensors))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "its metadata lack 'klass', so Demucs 4.1 did not write it"),
        ({"klass": "x", "args": "[]"}, "its metadata lack 'kwargs'"),
        (small_metadata(klass="os.system"), "its class must be one of .*, got 'os.system'"),
        (small_metadata(args="[1, 2"), "its metadata 'args' are damaged"),
        (small_metadata(args="{}"), "args must be a list"),
        (small_metadata(args="3"), "args must be a list"),
        (small_metadata(kwargs="[]"), "kwargs must be values by name"),
        (small_metadata(kwargs="{}"), "the argument 'sources' is missing"),
        (small_metadata(kwargs='{"sources": NaN}'), "stems"),
        (small_metadata(kwargs='{"sources": {"_class": "os.system"}}'), "the argument 'sources' must be"),
        (small_metadata(kwargs='{"segment": {"_type": "fraction", "numerator": 1, "denominator": 0}}'), "are damaged"),
        (small_metadata(kwargs='{"sources": {"_tensor": "encoder.0.0.bias"}}'), "its metadata 'kwargs' are damaged"),
        (small_metadata(kwargs="[" * 100_000), "its metadata 'kwargs' are damaged"),
        (small_metadata(kwargs="[" * 20 + "]" * 20), "nested deeper than 16"),
        (small_metadata(kwargs='{"sources": [' + "9" * 5000 + "]}"), "model.safetensors"),
        (small_metadata(structure="3"), "its structure has no tensor"),
        (small_metadata(structure='{"_dict": [1]}'), "its metadata 'structure' are damaged"),
        (small_metadata(structure='{"_dict": [["a", 1, 2]]}'), "its metadata 'structure' are damaged"),
        (small_metadata(structure='{"_dict": [[["a"], 1]]}'), "its metadata 'structure' are damaged"),
        (
            small_metadata(structure='{"_list": [{"_tensor": "encoder.0.0.bias"}, {"_tensor": "encoder.0.0.bias"}]}'),
            "its metadata 'structure' are damaged",
        ),
    ],
)
def test_metadata_that_are_refused(metadata: Metadata | None, message: str, tmp_path: Path) -> None:
    path = saved(tmp_path, metadata)
    assert re.search(message, refusal(lambda: read_demucs_safetensors(path), path))


# What is refused.


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in package().items() if key != name}


def with_state(**tensors: Any) -> dict[str, Any]:
    return package(TIME, {**small_state(), **{name.replace("_", "."): tensor for name, tensor in tensors.items()}})


BIAS = np.zeros(4, np.float16)

REFUSED: list[tuple[Any, str]] = [
    (None, "cannot read 'none.th'"),
    ([], "it is no package of Demucs"),
    (without("klass"), "it is no package of Demucs"),
    (without("args"), "it is no package of Demucs"),
    (without("kwargs"), "it is no package of Demucs"),
    (without("state"), "it is no package of Demucs"),
    ({**package(), "klass": "demucs.demucs.Demucs"}, "klass must be a class"),
    (package(Reference("demucs.tasnet", "ConvTasNet")), "its class must be one of .*, got 'demucs.tasnet.ConvTasNet'"),
    (package(Reference("demucs", "demucs.Demucs2")), "its class must be one of"),
    (package(Reference("os", "system")), "its class must be one of .*, got 'os.system'"),
    ({**package(), "args": None}, "args must be a list"),
    ({**package(), "args": (STEMS,)}, "the argument 'sources' is given twice"),
    ({**package(), "args": (1,) * 26}, "args must be a list of 25 at most"),
    ({**package(), "kwargs": None}, "kwargs must be values by name"),
    ({**package(), "kwargs": {1: 2}}, "kwargs must be values by name"),
    (package(TIME, None, **{**SMALL, "channels": 0}), "hidden_channels must be from 1 to 4096, got 0"),
    (package(TIME, None, **{**SMALL, "depth": 10**9}), "depth must be from 1 to 12"),
    (package(TIME, None, **{**SMALL, "sources": None}), "stems must be"),
    (package(TIME, None, **{**SMALL, "growth": "2"}), "growth must be a number"),
    (package(TIME, None, **{**SMALL, "kernel_size": np.ones(3)}), "the argument 'kernel_size' must be"),
    (package(TIME, None, **{**SMALL, "channels": 6}), "'encoder.0.0.weight' must have shape (6, 2, 8), got (4, 2, 8)"),
    (package(TIME, None, **{**SMALL, "depth": 1}), "tensor 'decoder.0.0.weight' must have shape (8, 4, 3)"),
    (package(TIME, None, **{**SMALL, "lstm_layers": 1}), "tensor 'lstm.lstm.weight_ih_l0' is missing"),
    ({**package(), "state": None}, "its state must be tensors by name"),
    ({**package(), "state": {}}, "its state must be tensors by name"),
    ({**package(), "state": {1: BIAS}}, "its state must be tensors by name"),
    (with_state(more_weight=BIAS), "its configuration has no tensor 'more.weight'"),
    (with_state(encoder_0_0_bias=BIAS[:3]), "tensor 'encoder.0.0.bias' must have shape (4,), got (3,)"),
    (with_state(encoder_0_0_bias=BIAS.astype(int)), "'encoder.0.0.bias' is no tensor of floating point"),
    (with_state(encoder_0_0_bias=[0, 0, 0, 0]), "'encoder.0.0.bias' is no tensor of floating point"),
    (with_state(more_weight=None), "'more.weight' is no tensor of floating point"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_packages_that_are_refused(content: Any, message: str) -> None:
    path = Path("none.th") if content is None else PATH
    found = refusal(lambda: read_demucs_package(path, content), path)
    assert re.search(message, found) or message in found


@pytest.mark.parametrize("name", ["encoder.0.0.weight", "decoder.1.0.bias"])
def test_a_missing_tensor_is_named(name: str) -> None:
    state = small_state()
    del state[name]
    with pytest.raises(ModelError, match=rf"cannot use 'model\.th': tensor '{re.escape(name)}' is missing"):
        read_demucs_package(PATH, package(TIME, state))


OLD_STATE = old_state(DemucsConfig.from_kwargs({"sources": STEMS, "channels": 4, "depth": 2}, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.clear(), "its state must be tensors by name"),
        (lambda state: state.pop("encoder.0.0.weight"), "'encoder.0.0.weight' is missing; is it a state of Demucs v1"),
        (lambda state: state.update({"encoder.0.0.weight": 3}), "'encoder.0.0.weight' is missing"),
        (lambda state: state.update({"encoder.0.0.weight": BIAS}), "'encoder.0.0.weight' must have 3 axes"),
        (
            lambda state: state.update({"encoder.0.0.weight": np.ones((0, 2, 8))}),
            "'encoder.0.0.weight' must have 3 axes",
        ),
        (lambda state: state.update({"encoder.0.0.weight": np.ones((4, 3, 8))}), "does not fit 3 channels of audio"),
        (lambda state: state.update({"decoder.1.2.bias": np.ones(2000)}), "'decoder.1.2.bias' does not fit 2 channels"),
        (lambda state: state.update({"decoder.1.2.bias": np.ones(6)}), "tensor 'decoder.1.2.weight' must have shape"),
        (lambda state: state.pop("decoder.1.2.bias"), "tensor 'decoder.1.2.bias' is missing"),
        (lambda state: state.pop("decoder.0.0.weight"), "tensor 'decoder.0.0.weight' is missing"),
        (lambda state: state.update({"decoder.0.0.weight": np.ones((16, 8, 4))}), "context must be an odd number"),
        (lambda state: state.update({"encoder.1.0.bias": np.ones(5)}), "tensor 'encoder.1.0.bias' must have shape"),
        (lambda state: state.update({"encoder.7.0.bias": BIAS}), "its configuration has no tensor 'encoder.7.0.bias'"),
        (
            lambda state: state.update({"encoder.0.3.weight": BIAS}),
            "its configuration has no tensor 'encoder.0.3.weight'",
        ),
        (lambda state: state.pop("lstm.lstm.bias_hh_l1_reverse"), "tensor 'lstm.lstm.bias_hh_l1_reverse' is missing"),
        (lambda state: state.update({"final.weight": BIAS}), "tensor 'final.bias' is missing"),
        (
            lambda state: state.update({f"encoder.{i}.0.weight": np.ones((4, 4, 4)) for i in range(30)}),
            "'decoder.29.2.bias'",
        ),
        (lambda state: state.update(epoch=3), "'epoch' is no tensor of floating point"),
    ],
)
def test_states_that_are_refused(change: Callable[[dict[str, Any]], object], message: str) -> None:
    state = dict(OLD_STATE)
    change(state)
    assert message in refusal(lambda: read_demucs_state(PATH, state), PATH)


@pytest.mark.parametrize("content", [None, [], b"x", {}, {1: BIAS}])
def test_bare_content_that_is_refused(content: Any) -> None:
    assert "its state must be tensors by name" in refusal(lambda: read_demucs_state(PATH, content), PATH)


def test_nothing_but_errors_of_ours_from_random_arguments() -> None:
    rng = random.Random(6)
    values = [
        None,
        True,
        -1,
        0,
        1,
        2,
        3,
        8,
        2**40,
        10**400,
        0.5,
        -1.5,
        float("nan"),
        float("inf"),
        "x",
        "",
        b"x",
        [],
        {},
    ]
    values += [
        STEMS,
        [1, 2],
        ["a", "a"],
        Fraction(1, 3),
        Fraction(-5),
        np.ones(2),
        Reference("a", "b"),
        [[1]],
        (0.5, 2),
    ]
    n_refused = 0
    for _ in range(4000):
        klass = rng.choice([HT, HYBRID, TIME, OLD])
        names = ARGUMENTS[str(klass)]
        kwargs = {name: rng.choice(values) for name in rng.sample(names, rng.randrange(4))}
        args = [rng.choice(values) for _ in range(rng.choice((0, 0, 0, 1, 2, 30)))]
        try:
            read_demucs_package(PATH, {**package(klass, {"a": BIAS}), "args": args, "kwargs": {**SMALL, **kwargs}})
        except ModelError as error:
            n_refused += 1
            assert str(error).isprintable()
            assert len(str(error)) < 500
    assert n_refused == 4000
