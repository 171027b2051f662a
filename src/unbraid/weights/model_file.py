"""`model.toml`: what a model folder says about its weights. docs/models/format.md describes every key."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unbraid.errors import ModelError
from unbraid.models.families import family

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "DESCRIPTION",
    "WEIGHTS",
    "ModelFile",
    "NetworkPart",
    "Origin",
    "format_model_file",
    "network_data",
    "parse_model",
    "read_model_file",
]

DESCRIPTION = "model.toml"
WEIGHTS = "weights.safetensors"
FORMAT = 1
# Raised whenever a converter writes something else than before for the same file.
CONVERTER = 1

# A configuration has a few hundred bytes a network.
_LARGEST = 1 << 20
_KEYS = {
    "format": int,
    "name": str,
    "stems": list,
    "sample_rate": int,
    "segment_s": float,
    "licence": str,
    "training_data": str,
    "allows_bf16": bool,
    "converter": int,
    "weights": dict,
    "networks": list,
    "origin": list,
}
_REQUIRED = ("format", "name", "stems", "sample_rate", "weights", "networks")


@dataclass(frozen=True)
class NetworkPart:
    """One network of a model.

    family, config : what it is
    name : of several networks, each has a name, and NAME. goes before its tensors' names
    stem_weights : how much its results count, by stem of the model; None for all alike
    """

    family: str
    config: Any
    name: str = ""
    stem_weights: tuple[float, ...] | None = None

    @property
    def prefix(self) -> str:
        """What its tensors' names begin with."""
        return f"{self.name}." if self.name else ""


@dataclass(frozen=True)
class Origin:
    """A file that the weights were converted from: its name, SHA-256, size in bytes, and address if it was fetched."""

    file: str
    sha256: str
    size: int
    address: str = ""


@dataclass(frozen=True)
class ModelFile:
    """The content of a model.toml.

    stems : names of the results, in order
    sample_rate : in Hz
    networks : one or more, whose results are averaged by their `stem_weights`
    weights_size, weights_sha256 : of weights.safetensors, in bytes and as hex digits
    segment_s : seconds that the networks see at once, where it is not their own
    converter : version of what converted the origin; 0 where nothing was
    """

    name: str
    stems: tuple[str, ...]
    sample_rate: int
    networks: tuple[NetworkPart, ...]
    weights_size: int
    weights_sha256: str
    segment_s: float | None = None
    licence: str = ""
    training_data: str = ""
    allows_bf16: bool = False
    converter: int = 0
    origin: tuple[Origin, ...] = ()

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that weights.safetensors must hold, by name."""
        return {
            part.prefix + name: shape
            for part in self.networks
            for name, shape in family(part.family).shapes(part.config).items()
        }


def read_model_file(folder: Path) -> ModelFile:
    """Read and check the description of a model folder; ModelError says what is wrong with it."""
    path = folder / DESCRIPTION
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise ModelError(f"it is larger than {_LARGEST} bytes")
        return parse_model(tomllib.loads(text.decode("utf-8")))
    except OSError as error:
        raise ModelError(f"cannot read model description '{path}': {error.strerror or error}") from error
    # UnicodeDecodeError and TOMLDecodeError are both ValueErrors; nested too deep is a RecursionError.
    except (ValueError, RecursionError) as error:
        raise ModelError(f"cannot read model description '{path}': not TOML ({error})") from error
    except ModelError as error:
        raise ModelError(f"cannot use model description '{path}': {error}") from error


def format_model_file(content: ModelFile) -> str:
    """Write a description as TOML; `read_model_file` reads the same back."""
    import tomli_w

    optional = {
        "segment_s": content.segment_s,
        "licence": content.licence or None,
        "training_data": content.training_data or None,
        "allows_bf16": content.allows_bf16 or None,
        "converter": content.converter or None,
    }
    data: dict[str, Any] = {
        "format": FORMAT,
        "name": content.name,
        "stems": list(content.stems),
        "sample_rate": content.sample_rate,
        **{key: value for key, value in optional.items() if value is not None},
        "weights": {"size": content.weights_size, "sha256": content.weights_sha256},
        "networks": [network_data(part) for part in content.networks],
    }
    if content.origin:
        data["origin"] = [{key: value for key, value in vars(origin).items() if value} for origin in content.origin]
    return "# A model of Unbraid; its docs/models/format.md describes this file.\n" + tomli_w.dumps(data)


def network_data(part: NetworkPart) -> dict[str, Any]:
    """A network as plain data, as `parse_model` takes it."""
    data: dict[str, Any] = {"family": part.family}
    if part.name:
        data["name"] = part.name
    if part.stem_weights is not None:
        data["stem_weights"] = list(part.stem_weights)
    return {**data, "config": family(part.family).write(part.config)}


def parse_model(data: Mapping[str, Any]) -> ModelFile:
    """Check a description as plain data; ModelError says what is wrong with it."""
    if data.get("format") != FORMAT:
        raise ModelError(f"format must be {FORMAT}, got {data.get('format')!r}; a newer Unbraid may read it")
    _check_keys("", data, _KEYS, _REQUIRED)
    stems = _stems(data["stems"])
    _check_keys("weights.", data["weights"], {"size": int, "sha256": str}, ("size", "sha256"))
    if not re.fullmatch(r"[0-9a-f]{64}", data["weights"]["sha256"]):
        raise ModelError(f"weights.sha256 must be 64 hex digits, got '{data['weights']['sha256']}'")
    if not data["networks"]:
        raise ModelError("networks must be one or more")
    networks = tuple(_network(part, stems, len(data["networks"])) for part in data["networks"])
    if len({part.name for part in networks}) < len(networks):
        raise ModelError("networks must have different names")
    for i, stem in enumerate(stems):
        if not any(part.stem_weights is None or part.stem_weights[i] for part in networks):
            raise ModelError(f"networks.stem_weights must be more than 0 for '{stem}' in one network at least")
    for part in networks:
        if part.config.sample_rate != data["sample_rate"]:
            raise ModelError(f"sample_rate must be that of its networks, {part.config.sample_rate} Hz")
    return ModelFile(
        name=data["name"],
        stems=stems,
        sample_rate=data["sample_rate"],
        networks=networks,
        weights_size=data["weights"]["size"],
        weights_sha256=data["weights"]["sha256"],
        segment_s=data.get("segment_s"),
        licence=data.get("licence", ""),
        training_data=data.get("training_data", ""),
        allows_bf16=data.get("allows_bf16", False),
        converter=data.get("converter", 0),
        origin=tuple(_origin(origin) for origin in data.get("origin", [])),
    )


def _network(data: Mapping[str, Any], stems: tuple[str, ...], n_networks: int) -> NetworkPart:
    known = {"family": str, "name": str, "stem_weights": list, "config": dict}
    _check_keys("networks.", data, known, ("family", "config", *(("name",) if n_networks > 1 else ())))
    config = family(data["family"]).read(data["config"])
    if tuple(config.stems) != stems:
        raise ModelError(f"stems must be those of its networks, {', '.join(config.stems)}; got {', '.join(stems)}")
    weights = data.get("stem_weights")
    if weights is not None and (
        len(weights) != len(stems) or not all(type(weight) in (int, float) and weight >= 0 for weight in weights)
    ):
        raise ModelError(f"networks.stem_weights must be {len(stems)} numbers of 0 or more, got {weights}")
    return NetworkPart(
        family=data["family"],
        config=config,
        name=data.get("name", ""),
        stem_weights=None if weights is None else tuple(float(weight) for weight in weights),
    )


def _origin(data: Mapping[str, Any]) -> Origin:
    _check_keys("origin.", data, {"file": str, "sha256": str, "size": int, "address": str}, ("file", "sha256", "size"))
    return Origin(**data)


def _stems(stems: list[Any]) -> tuple[str, ...]:
    if not stems or not all(isinstance(stem, str) and stem for stem in stems) or len(set(stems)) < len(stems):
        raise ModelError(f"stems must be one or more different names, got {stems!r}")
    return tuple(stems)


def _check_keys(where: str, data: Any, known: Mapping[str, type], required: tuple[str, ...]) -> None:
    if not isinstance(data, Mapping):
        raise ModelError(f"{where.rstrip('.')} must be a table, got {data!r}")
    for key, value in data.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)
            raise ModelError(f"unknown key '{where}{key}'; the nearest known one is '{where}{near[0]}'")
        expected = known[key]
        if type(value) is not expected and not (expected is float and type(value) is int):
            raise ModelError(f"{where}{key} must be a {expected.__name__}, got {value!r}")
    for key in required:
        if key not in data:
            raise ModelError(f"{where}{key} is missing")
