"""The tensors of the Demucs families, beside what the original programs have.

The reference (packages of small random networks) is not part of this repository: see CONTRIBUTING.md. The comparison
with the classes themselves runs where the package `demucs` is installed: 4.1 for the families of v3 and v4, 2.0.3 for
v2 (the class of v1 is the same one, but for `upsample`).
"""

import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from demucs_networks import PUBLISHED, STEMS, n_parameters, random_kwargs
from unbraid.errors import ModelError
from unbraid.models.demucs.config import DemucsConfig
from unbraid.models.demucs.state import from_v2_names
from unbraid.models.families import family
from unbraid.models.hdemucs.config import HDemucsConfig
from unbraid.models.htdemucs.config import HTDemucsConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHARED = Path(os.environ.get("UNBRAID_SHARED", Path(__file__).parents[4] / "shared"))
GOLDEN = SHARED / "golden" / "demucs"
CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "demucs1": lambda kwargs: DemucsConfig.from_kwargs(kwargs, version=1),
    "demucs2": lambda kwargs: DemucsConfig.from_kwargs(kwargs, version=2),
    "demucs3": DemucsConfig.from_kwargs,
    "hdemucs": HDemucsConfig.from_kwargs,
    "htdemucs": HTDemucsConfig.from_kwargs,
}
CLASSES = {"demucs3": "Demucs", "hdemucs": "HDemucs", "htdemucs": "HTDemucs"}
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference outputs in '{GOLDEN}'")

# Parameters and tensors as the original classes have them; bytes of one number in the published file, and of the
# whole file (weights/catalog.toml names it).
SIZES = {
    "demucs_v1": (265_679_496, 66, 4, None),
    "demucs": (265_679_496, 66, 4, None),
    "demucs48_hq": (149_462_504, 66, 4, 597_870_849),
    "demucs v3": (133_753_064, 284, 2, None),
    "mdx, time": (88_984_040, 252, 2, 178_048_329),
    "mdx, amplitude": (83_633_984, 395, 2, 167_334_095),
    "mdx, bands": (83_910_360, 499, 2, 167_918_783),
    "hdemucs_mmi": (83_637_832, 395, 2, 167_407_275),
    "htdemucs": (41_984_456, 533, 2, 84_141_911),
    "htdemucs_6s": (27_414_996, 525, 2, 54_996_327),
}


def upstream_shapes(config: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Our shapes by upstream's names, in order."""
    shapes = family(type(config).__name__.removesuffix("Config").lower()).shapes(config)
    if isinstance(config, DemucsConfig) and config.version < 3:
        return [(theirs, shapes[ours]) for theirs, ours in from_v2_names(config).items()]
    return list(shapes.items())


def drawn(name: str, seed: int) -> dict[str, Any]:
    """Arguments of a network that can be built."""
    rng = np.random.default_rng(seed)
    while True:
        kwargs = random_kwargs(name, rng)
        try:
            CONFIGS[name](kwargs)
        except ModelError:
            continue
        return kwargs


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name: str) -> None:
    n_expected, n_tensors, n_bytes, file_size = SIZES[name]
    kind, kwargs = PUBLISHED[name]
    shapes = dict(upstream_shapes(CONFIGS[kind](kwargs)))
    assert n_parameters(shapes) == n_expected
    assert len(shapes) == n_tensors
    if file_size is not None:  # a zip archive with the tensors, padded to 64 bytes, their names twice, and some text
        assert 0 < file_size - n_bytes * n_expected < 400 * n_tensors


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_in_toml_and_back(name: str) -> None:
    kind, kwargs = PUBLISHED[name]
    comes_back(CONFIGS[kind](kwargs))


@pytest.mark.parametrize("kind", CONFIGS)
def test_random_networks_in_toml_and_back(kind: str) -> None:
    for seed in range(20):
        comes_back(CONFIGS[kind](drawn(kind, seed)))


def comes_back(config: Any) -> None:
    plain = config.to_plain()
    assert type(config).from_plain(tomllib.loads(tomli_w.dumps(plain))) == config
    assert type(config).from_plain(json.loads(json.dumps(plain))) == config
    with pytest.raises(ModelError, match="unknown key 'stem'; the nearest known one is 'stems'"):
        type(config).from_plain({**plain, "stem": 1})


@needs_golden
@pytest.mark.parametrize("name", ["demucs3", "hdemucs", "hdemucs_wiener", "htdemucs", "htdemucs_6s", "bag_a", "bag_b"])
def test_packages_of_the_original(name: str) -> None:
    torch = pytest.importorskip("torch")
    stubs = {f"demucs.{kind.rstrip('3')}.{name}": type(kind, (), {}) for kind, name in CLASSES.items()}
    with torch.serialization.safe_globals([*((stub, path) for path, stub in stubs.items()), Fraction]):
        package = torch.load(GOLDEN / f"{name}.th", weights_only=True)
    config = CONFIGS[package["klass"].__name__](package["kwargs"])
    assert upstream_shapes(config) == [(key, tuple(tensor.shape)) for key, tensor in package["state"].items()]


@needs_golden
@pytest.mark.parametrize(("name", "kind"), [("demucs_v1", "demucs1"), ("demucs_v2", "demucs2")])
def test_states_of_the_first_two_releases(name: str, kind: str) -> None:
    torch = pytest.importorskip("torch")
    kwargs = json.loads((GOLDEN / f"{name}.json").read_text())["kwargs"]
    state = torch.load(GOLDEN / f"{name}.th", weights_only=True)
    assert upstream_shapes(CONFIGS[kind](kwargs)) == [(key, tuple(tensor.shape)) for key, tensor in state.items()]


@needs_golden
@pytest.mark.parametrize("name", ["htdemucs", "htdemucs_6s"])
def test_safetensors_of_the_original(name: str) -> None:
    data = (GOLDEN / f"{name}.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    kwargs = json.loads(header.pop("__metadata__")["kwargs"])
    kwargs["segment"] = Fraction(kwargs["segment"]["numerator"], kwargs["segment"]["denominator"])
    shapes = dict(upstream_shapes(HTDemucsConfig.from_kwargs(kwargs)))
    assert shapes == {key: tuple(entry["shape"]) for key, entry in header.items()}


def test_names_of_version_2() -> None:
    names = from_v2_names(DemucsConfig.from_kwargs({"sources": STEMS, "depth": 2}, version=2))
    assert list(names)[:4] == ["encoder.0.0.weight", "encoder.0.0.bias", "encoder.0.2.weight", "encoder.0.2.bias"]
    assert {theirs: ours for theirs, ours in names.items() if theirs != ours} == {
        f"{branch}.{i}.2.{kind}": f"{branch}.{i}.3.{kind}"
        for branch in ("encoder", "decoder")
        for i in range(2)
        for kind in ("weight", "bias")
    }
    plain = DemucsConfig.from_kwargs({"sources": STEMS, "rewrite": False}, version=2)
    assert all(theirs == ours for theirs, ours in from_v2_names(plain).items())


def test_ours_of_version_2_are_those_of_version_3() -> None:
    kwargs = {"sources": STEMS, "channels": 8, "lstm_layers": 2}
    v3 = {"dconv_mode": 0, "gelu": False, "norm_starts": 6, "context": 1}
    shapes = family("demucs").shapes
    assert shapes(DemucsConfig.from_kwargs(kwargs, version=2)) == shapes(DemucsConfig.from_kwargs({**kwargs, **v3}))


def test_networks_of_version_3_have_no_names_of_version_2() -> None:
    with pytest.raises(ModelError, match="only networks without normalisation and residual branches have names of"):
        from_v2_names(DemucsConfig(tuple(STEMS)))


HOSTILE: list[Any] = [None, True, -1, 0, 10**30, 10**5000, 1e300, float("nan"), float("inf"), "x" * 10**5, b"x", [], {}]
HOSTILE += [[[1]], [10**5000], ["a", 1], Fraction(10**5000, 7), Fraction(-1, 7), np.zeros((3, 3)), object(), "\n"]


@pytest.mark.parametrize("kind", CONFIGS)
def test_whatever_an_argument_is_it_is_used_or_refused_in_one_line(kind: str) -> None:
    loop: list[Any] = []
    loop.append(loop)
    names = {name for seed in range(5) for name in drawn(kind, seed)} | {"sources", "no such", 3}
    for name in names:
        for value in (*HOSTILE, loop):
            refused_or_used(CONFIGS[kind], {"sources": STEMS, name: value})


@pytest.mark.parametrize("config", [DemucsConfig, HDemucsConfig, HTDemucsConfig])
def test_whatever_a_key_is_it_is_used_or_refused_in_one_line(config: Any) -> None:
    plain = config(tuple(STEMS)).to_plain()
    for name in (*plain, "hidden_channels_time", "no such"):
        for value in HOSTILE:
            refused_or_used(config.from_plain, {**plain, name: value})
    for name in plain.get("transformer", {}):
        for value in HOSTILE:
            refused_or_used(config.from_plain, {**plain, "transformer": {name: value}})


def refused_or_used(read: Callable[[dict[Any, Any]], Any], content: dict[Any, Any]) -> None:
    try:
        shapes = upstream_shapes(read(content))
    except ModelError as error:
        assert len(str(error)) < 300
        assert "\n" not in str(error)
    else:
        assert len(shapes) < 100_000


def original_shapes(original: Any, kwargs: dict[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of what upstream's class has, on torch's device without memory."""
    import torch

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = original(**{**kwargs, "rescale": 0})  # only values depend on it, and there are none
    # What is stored is all parameters, in the order in which DiffQ goes through them.
    assert [name for name, _ in network.named_parameters()] == list(network.state_dict())
    return [(name, tuple(tensor.shape)) for name, tensor in network.state_dict().items()]


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("kind", ["demucs2", *CLASSES])
def test_the_original_classes(kind: str) -> None:
    pytest.importorskip("torch")
    module = "demucs.model" if kind == "demucs2" else f"demucs.{kind.rstrip('3')}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(module, reason=f"{module} is not installed", exc_type=ImportError)
        original = getattr(importlib.import_module(module), CLASSES.get(kind, "Demucs"))
    published = [kwargs for published_kind, kwargs in PUBLISHED.values() if published_kind == kind]
    for kwargs in (*published, *(drawn(kind, seed) for seed in range(50))):
        assert upstream_shapes(CONFIGS[kind](kwargs)) == original_shapes(original, kwargs), kwargs
