"""Where models come from: a name, a folder or a Spleeter JSON becomes a `Model` that can be run.

| given                            | meaning                                                                       |
|----------------------------------|-------------------------------------------------------------------------------|
| ``unbraid:4stems``, ``:2stems``  | built in                                                                      |
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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from unbraid.datatypes import Network
from unbraid.errors import ModelError
from unbraid.models.families import RUNNABLE
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.models.spleeter.graph import network
from unbraid.models.spleeter.transform import SpleeterTransform
from unbraid.weights.catalog import Entry, catalog
from unbraid.weights.fetch import FetchProgress
from unbraid.weights.folder import check_weights, installed_folder, installed_models
from unbraid.weights.model_file import DESCRIPTION, ModelFile, read_model_file
from unbraid.weights.tensors import read_tensors

__all__ = ["BUILTIN", "BUILTIN_FOLDER", "Model", "available_models", "default_model", "load_model", "network_of"]

BUILTIN = ("unbraid:4stems", "unbraid:2stems")
# What is taken where no model is named: the first of these that is installed, else the first that is built in.
_PREFERRED = ("spleeter:4stems",)
BUILTIN_FOLDER = Path(__file__).parent.parent / "builtin" / "4stems"

State = Callable[[], Mapping[str, NDArray[Any]]]
OnProgress = Callable[[FetchProgress], None]


@dataclass(frozen=True, eq=False)
class Model:
    """A model that can be run.

    name : as it was asked for
    transform : the arithmetic around its network
    state : reads its weights, by the names that the network gives them
    files : where the weights are
    stems : names of its results, and the network's stems that are added up in each
    described : what its folder says of it; None for a checkpoint of another program
    """

    name: str
    transform: SpleeterTransform
    state: State
    files: tuple[Path, ...]
    stems: tuple[tuple[str, tuple[int, ...]], ...]
    described: ModelFile | None = None

    @property
    def allows_bf16(self) -> bool:
        """Whether its card says that bfloat16 is accurate enough; see docs/decisions/004."""
        return self.described is not None and self.described.allows_bf16


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
    """The model to take where none is named: $UNBRAID_MODEL, else the best that needs no download."""
    installed = installed_models()
    return os.environ.get("UNBRAID_MODEL") or next((name for name in _PREFERRED if name in installed), BUILTIN[0])


def network_of(model: Model, transform: SpleeterTransform) -> Network:
    """The model's network for segments as long as this transform's; its weights are read when an engine asks."""
    made = network(transform.config, model.state, _fingerprint(transform.config, model.files))
    return replace(made, allows_bf16=model.allows_bf16)


def _builtin(name: str) -> Model:
    model = _folder(name, BUILTIN_FOLDER)
    if name == "unbraid:4stems":
        return model
    vocals = model.transform.stems.index("vocals")
    rest = tuple(i for i in range(len(model.transform.stems)) if i != vocals)
    return replace(model, stems=(("vocals", (vocals,)), ("accompaniment", rest)))


def _folder(name: str, folder: Path) -> Model:
    if not (folder / DESCRIPTION).is_file():
        raise ModelError(
            f"'{folder}' is not a model folder: it has no {DESCRIPTION}; "
            "'unbraid models import' takes files of other programs"
        )
    described = read_model_file(folder)
    weights = check_weights(folder, described)
    _check_runs(name, {part.family for part in described.networks})
    (part,) = described.networks
    return replace(_model(name, part.config, [weights], lambda: read_tensors(weights)), described=described)


def _check_runs(name: str, families: Iterable[str]) -> None:
    later = sorted(set(families) - RUNNABLE)
    if later:
        raise ModelError(
            f"cannot separate with '{name}': this version of Unbraid does not run the networks of {later[0]} yet; "
            "'unbraid models list' shows which models it runs"
        )


def _published(name: str, entry: Entry, on_progress: OnProgress | None) -> Model:
    """A model of the catalogue, from where it is on this machine, else from where it is published."""
    _check_runs(name, entry.families)
    base = catalog()[entry.variant_of or name]
    config = SpleeterConfig.from_json(entry.config)
    installed = (installed_folder(base.name) / DESCRIPTION).is_file()
    # Spleeter keeps its own in $MODEL_PATH, else in a folder of the working directory.
    given, usual = os.environ.get("MODEL_PATH"), "pretrained_models"
    checkpoint = Path(given or usual) / base.name.partition(":")[2]
    # A download that failed leaves it an empty folder.
    if (given or not installed) and any(checkpoint.glob("*.index")):
        return _checkpoint(name, config, checkpoint)
    if not installed:
        from unbraid.weights.install import install

        install(base, on_progress=on_progress)
    model = _folder(name, installed_folder(base.name))
    return replace(model, transform=SpleeterTransform(config))


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
    return _model(name, config, files, lambda: spleeter_state(read_checkpoint(prefix), config.stems))


def _model(name: str, config: SpleeterConfig, files: Iterable[Path], state: State) -> Model:
    stems = tuple((stem, (i,)) for i, stem in enumerate(config.stems))
    return Model(name, SpleeterTransform(config), state, tuple(files), stems)


def _fingerprint(config: SpleeterConfig, files: Iterable[Path]) -> str:
    """Names what a network computes, for the cache of compiled networks.

    Of the weights, path, size and time of change stand for the content: reading 157 MB to hash them would take longer
    than all the rest of a start.
    """
    # What happens around the network does not change it.
    config = replace(config, separation_exponent=1, mask_extension="zeros", model_dir=None, training={})
    digest = hashlib.sha256(json.dumps(config.to_json(), sort_keys=True).encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file.resolve()} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()
