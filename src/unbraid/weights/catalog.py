"""The published models that can be fetched, as catalog.toml describes them."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from unbraid.errors import ModelError
from unbraid.weights.fetch import RemoteFile

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["CatalogFile", "Entry", "Score", "catalog", "find"]

_PATH = Path(__file__).with_name("catalog.toml")


@dataclass(frozen=True)
class Score:
    """What somebody measured of a model.

    dataset, metric : on what, and how the number is made
    values : by stem, in dB; none where only the mean is published
    mean : over the stems, in dB
    source : the document and its table
    """

    dataset: str
    metric: str
    values: Mapping[str, float]
    mean: float
    source: str


@dataclass(frozen=True)
class CatalogFile:
    """A file of a model.

    family : of the network in it
    network : its signature, where networks are told apart by one (Demucs); else ""
    target : the stem that it estimates, where each stem has a network of its own (Open-Unmix); else ""
    stem_weights : how much its results count, by stem of the model; None for all alike
    size_about : in bytes, to be shown, where the exact size is unknown
    """

    remote: RemoteFile
    family: str
    network: str = ""
    target: str = ""
    stem_weights: tuple[float, ...] | None = None
    size_about: int | None = None

    @property
    def size(self) -> int | None:
        """Bytes to be shown: exact, or about so, or None."""
        return self.remote.size if self.remote.size is not None else self.size_about


@dataclass(frozen=True)
class Entry:
    """A model of the catalogue.

    name, title, about : what it is asked for by; what it is, in a few words, and in a sentence or two
    family : what most of its networks are
    stems : names of its results, in the network's order
    sample_rate : in Hz
    licence, licence_url, licence_note : of the weights; where that is stated; what else is to be known of it
    training_data, paper, source : what it was trained on, where it is described, where it comes from
    warnings : what a user should know before using it
    segment_s : seconds that the networks see at once, where it is not their own
    variant_of : the model whose files these are, used in another way; else ""
    also_at : address of other files with the same weights, for import by hand; else ""
    config : Spleeter's JSON for a model of that family; else empty
    """

    name: str
    title: str
    about: str
    family: str
    stems: tuple[str, ...]
    sample_rate: int
    licence: str
    licence_url: str
    licence_note: str
    training_data: str
    paper: str
    source: str
    files: tuple[CatalogFile, ...]
    scores: tuple[Score, ...] = ()
    warnings: tuple[str, ...] = ()
    segment_s: float | None = None
    variant_of: str = ""
    also_at: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def families(self) -> frozenset[str]:
        """The families of all of its networks."""
        return frozenset(file.family for file in self.files)

    @property
    def size(self) -> int | None:
        """Bytes of all files, to be shown; None where the size of one is unknown."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def musdb_sdr(self) -> float | None:
        """Published mean SDR on MUSDB18's test set in dB, by museval's medians; None where nobody publishes it."""
        return next((score.mean for score in self.scores if score.dataset.startswith("MUSDB18")), None)

    @property
    def size_is_exact(self) -> bool:
        """Whether `size` is to the byte."""
        return all(file.remote.size is not None for file in self.files)


@cache
def catalog() -> Mapping[str, Entry]:
    """Every published model by its name, in the order of the file."""
    with _PATH.open("rb") as file:
        content = tomllib.load(file)
    return MappingProxyType({name: _entry(name, content) for name in content["models"]})


def find(name: str) -> Entry:
    """The model of that name.

    Raises
    ------
    ModelError : there is none; the nearest name is given
    """
    models = catalog()
    if name not in models:
        near = difflib.get_close_matches(name, models, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "'unbraid models list' shows all of them"
        raise ModelError(f"unknown model '{name}'; {hint}")
    return models[name]


def _entry(name: str, content: dict[str, Any]) -> Entry:
    facts = _facts(content["models"][name], content)
    licence = content["licences"][facts["licence"]]
    facts |= {"licence": licence["name"], "licence_url": licence["url"], "licence_note": licence["note"]}
    facts["warnings"] = (*facts.get("warnings", ()), *([licence["warning"]] if "warning" in licence else ()))
    facts["stems"] = tuple(facts["stems"])
    facts["files"] = tuple(_file(file, facts["family"]) for file in facts["files"])
    facts["scores"] = tuple(_score(score) for score in facts.get("scores", ()))
    return Entry(name, **facts)


def _facts(table: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """What is said of a model, with what its set, or the model that it is a variant of, says."""
    if "variant_of" in table:
        original = _facts(content["models"][table["variant_of"]], content)
        return original | {"scores": []} | table | {"config": original["config"] | table["config"]}
    return {key: value for key, value in (content["sets"][table["set"]] | table).items() if key != "set"}


def _file(table: dict[str, Any], family: str) -> CatalogFile:
    facts = {"family": family} | table
    addresses = tuple(facts.pop("addresses"))
    hashed = {key: facts.pop(key) for key in ("size", "sha256", "sha256_prefix") if key in facts}
    if "stem_weights" in facts:
        facts["stem_weights"] = tuple(facts["stem_weights"])
    return CatalogFile(RemoteFile(addresses[0].rpartition("/")[2], addresses, **hashed), **facts)


def _score(table: dict[str, Any]) -> Score:
    values = table.get("values", {})
    mean = table["mean"] if "mean" in table else sum(values.values()) / len(values)
    return Score(**table | {"values": MappingProxyType(values), "mean": mean})
