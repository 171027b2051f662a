"""Where models come from: a name, a folder or a Spleeter JSON becomes a `Model` that can be run.

| given                            | meaning                                                                       |
|----------------------------------|-------------------------------------------------------------------------------|
| ``unbraid:2stems``, ``:4stems``, | built in: one network, some of whose stems are added up                       |
| ``unbraid:5stems``               |                                                                               |
| ``spleeter:4stems``, ``umx`` …   | of the catalogue: installed, or fetched and installed now                     |
| another name                     | installed by ``unbraid models import``                                        |
| a folder                         | ``model.toml`` and ``weights.safetensors``, as training leaves them           |
| a ``.json`` file                 | a Spleeter configuration; its ``model_dir`` holds a TensorFlow checkpoint     |
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

from unbraid.datatypes import Network
from unbraid.errors import ModelError
from unbraid.models.families import State, family
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.models.spleeter.transform import SpleeterTransform
from unbraid.models.transform import Transform
from unbraid.weights.catalog import Entry, catalog
from unbraid.weights.fetch import FetchProgress
from unbraid.weights.folder import check_weights, installed_folder, installed_models
from unbraid.weights.model_file import DESCRIPTION, ModelFile, NetworkPart, read_model_file
from unbraid.weights.tensors import read_tensors

__all__ = ["BUILTIN", "BUILTIN_FOLDER", "Model", "Part", "available_models", "default_model", "load_model"]

BUILTIN_FOLDER = Path(__file__).parent.parent / "builtin" / "5stems"
# What each of them adds up of the stems of the one network.
_SUMS: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "unbraid:4stems": {"other": ("piano", "other")},
        "unbraid:2stems": {"accompaniment": ("drums", "bass", "piano", "other")},
        "unbraid:5stems": {},
    }
)
BUILTIN = tuple(_SUMS)

OnProgress = Callable[[FetchProgress], None]


@dataclass(frozen=True, eq=False)
class Part:
    """One network of a model.

    described : what it is
    transform : the arithmetic around it
    state : reads its tensors, as they are stored
    network : itself, for windows of so many samples and a transform that a user's choices may have changed
    """

    described: NetworkPart
    transform: Transform
    state: State
    network: Callable[[Transform, int], Network]

    @property
    def stem_weights(self) -> tuple[float, ...]:
        """How much its results count, by stem."""
        return self.described.stem_weights or (1.0,) * len(self.transform.stems)

    def whole(self) -> Network:
        """The network for whole chunks, as it is without a user's choices."""
        return self.network(self.transform, self.transform.window(self.transform.segment)[1])


@dataclass(frozen=True, eq=False)
class Model:
    """A model that can be run.

    name : as it was asked for
    parts : its networks, whose results are averaged by their weights
    stems : names of its results, and the networks' stems that are added up in each
    described : what its folder says of it; None for a checkpoint of another program
    """

    name: str
    parts: tuple[Part, ...]
    stems: tuple[tuple[str, tuple[int, ...]], ...]
    described: ModelFile | None = None

    @property
    def transform(self) -> Transform:
        """That of the first part; stems, sample rate and channels are those of all."""
        return self.parts[0].transform


def load_model(name: str | os.PathLike[str], *, on_progress: OnProgress | None = None) -> Model:
    """Find a model by its name, folder or file, and fetch it if it is published; its weights are not read yet.

    on_progress : called while it is fetched; what it raises stops that

    Raises
    ------
    ModelError : there is no such model, it cannot be had or run, or its configuration is wrong
    """
    name = os.fspath(name)
    if name in BUILTIN:
        return _builtin(name)
    if name in catalog():
        return _published(name, catalog()[name], on_progress)
    path = Path(name)
    if name in installed_models():
        return _folder(name, installed_models()[name])
    if path.is_dir():
        return _folder(name, path)
    if path.suffix == ".json":
        return _spleeter_json(name, path)
    near = difflib.get_close_matches(name, available_models(), n=1)
    hint = f"did you mean '{near[0]}'?" if near else "'unbraid models list' shows what there is"
    raise ModelError(f"unknown model '{name}'; {hint} (a model folder or a Spleeter .json file would do too)")


def available_models() -> tuple[str, ...]:
    """Every name that `load_model` knows: built in, published, and imported."""
    return tuple(dict.fromkeys((*BUILTIN, *catalog(), *installed_models())))


def default_model() -> str:
    """The model to take where none is named: $UNBRAID_MODEL, else the best that needs no download.

    That is the installed one with the highest published score, or the built-in one where there is none.
    """
    installed = installed_models()
    scores = {name: entry.musdb_sdr for name, entry in catalog().items() if name in installed and entry.musdb_sdr}
    return os.environ.get("UNBRAID_MODEL") or max(scores, key=scores.__getitem__, default=BUILTIN[0])


def _builtin(name: str) -> Model:
    model = _folder(name, BUILTIN_FOLDER)
    own, sums = model.transform.stems, _SUMS[name]
    summed = {part for parts in sums.values() for part in parts}
    named = {**{stem: (stem,) for stem in own if stem not in summed}, **sums}
    stems = tuple((stem, tuple(own.index(part) for part in parts)) for stem, parts in named.items())
    return replace(model, stems=stems)


def _folder(name: str, folder: Path) -> Model:
    if not (folder / DESCRIPTION).is_file():
        raise ModelError(
            f"'{folder}' is not a model folder: it has no {DESCRIPTION}; "
            "'unbraid models import' takes files of other programs"
        )
    described = read_model_file(folder)
    weights = check_weights(folder, described)
    parts = tuple(_described_part(part, weights, described) for part in described.networks)
    return Model(name, parts, _own_stems(parts[0].transform.stems), described)


def _described_part(part: NetworkPart, weights: Path, described: ModelFile) -> Part:
    """A network of a model folder."""

    def state() -> Mapping[str, NDArray[Any]]:
        tensors = read_tensors(weights)
        return {
            name.removeprefix(part.prefix): value for name, value in tensors.items() if name.startswith(part.prefix)
        }

    made = _part(part, [weights], state, allows_bf16=described.allows_bf16)
    if described.segment_s is None:
        return made
    return replace(made, transform=made.transform.with_options(segment_s=described.segment_s))


def _published(name: str, entry: Entry, on_progress: OnProgress | None) -> Model:
    """A model of the catalogue, from where it is on this machine, else from where it is published."""
    base = catalog()[entry.variant_of or name]
    installed = (installed_folder(base.name) / DESCRIPTION).is_file()
    # Spleeter keeps its own in $MODEL_PATH, else in a folder of the working directory.
    given, usual = os.environ.get("MODEL_PATH"), "pretrained_models"
    checkpoint = Path(given or usual) / base.name.partition(":")[2]
    # A download that failed leaves it an empty folder.
    if entry.family == "spleeter" and (given or not installed) and any(checkpoint.glob("*.index")):
        return _checkpoint(name, SpleeterConfig.from_json(entry.config), checkpoint)
    if not installed:
        from unbraid.weights.install import install

        install(base, on_progress=on_progress)
    model = _folder(name, installed_folder(base.name))
    if not entry.variant_of:
        return model
    (part,) = model.parts
    described = replace(part.described, config=SpleeterConfig.from_json(entry.config))
    part = replace(part, described=described, transform=SpleeterTransform(described.config))
    return replace(model, parts=(part,))


def _spleeter_json(name: str, path: Path) -> Model:
    config = SpleeterConfig.from_json(path)
    if config.model_dir is None:
        raise ModelError(f"cannot use model configuration '{path}': model_dir is missing, so there are no weights")
    places = [Path(os.environ["MODEL_PATH"])] if os.environ.get("MODEL_PATH") else []
    folders = list(dict.fromkeys(place / config.model_dir for place in (*places, path.parent, Path())))
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        looked = ", ".join(f"'{folder}'" for folder in folders)
        raise ModelError(
            f"the weights of {name} are not on this machine (looked for {looked}); "
            "set MODEL_PATH to the folder that holds them"
        )
    return _checkpoint(name, config, folder)


def _checkpoint(name: str, config: SpleeterConfig, folder: Path) -> Model:
    from unbraid.weights.convert.tensorflow import latest_checkpoint, read_checkpoint, spleeter_state

    prefix = latest_checkpoint(folder)
    files = sorted(folder.glob(f"{prefix.name}.index")) + sorted(folder.glob(f"{prefix.name}.data-*"))
    part = _part(NetworkPart("spleeter", config), files, lambda: spleeter_state(read_checkpoint(prefix), config.stems))
    return Model(name, (part,), _own_stems(config.stems))


def _part(part: NetworkPart, files: Sequence[Path], state: State, *, allows_bf16: bool = False) -> Part:
    """A network that can be run, whose tensors `state` reads from these files."""
    chosen = family(part.family)

    def network(transform: Transform, n_samples: int) -> Network:
        fingerprint = _fingerprint(chosen.write(transform.config), n_samples, files, part.prefix)
        made = chosen.network(transform.config, n_samples, state, fingerprint)
        return replace(made, allows_bf16=allows_bf16 or chosen.allows_bf16(transform.config))

    return Part(part, chosen.transform(part.config), state, network)


def _own_stems(stems: Sequence[str]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((stem, (i,)) for i, stem in enumerate(stems))


def _fingerprint(config: Mapping[str, Any], n_samples: int, files: Sequence[Path], prefix: str) -> str:
    """Names what a network computes, for the cache of compiled networks.

    Of the weights, path, size and time of change stand for the content: reading 157 MB to hash them would take longer
    than all the rest of a start.
    """
    # What happens around the network does not change it.
    inside = {key: value for key, value in config.items() if key not in ("separation_exponent", "mask_extension")}
    digest = hashlib.sha256(f"{json.dumps(inside, sort_keys=True)} {n_samples} {prefix}".encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file.resolve()} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()
