"""Where models come from: a name, a folder or a Spleeter JSON becomes a `Model` that can be run.

| given                            | meaning                                                                       |
|----------------------------------|-------------------------------------------------------------------------------|
| ``unbraid:4stems``, ``:2stems``  | built in                                                                      |
| a folder                         | ``config.json`` and ``weights.safetensors``, as training leaves them          |
| a ``.json`` file                 | a Spleeter configuration; its ``model_dir`` holds a TensorFlow checkpoint     |
| ``spleeter:4stems`` …            | Spleeter's own models, where ``$MODEL_PATH`` holds their checkpoints          |
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
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.models.spleeter.graph import network
from unbraid.models.spleeter.transform import SpleeterTransform
from unbraid.weights.model_file import DESCRIPTION, read_model_file

__all__ = ["DEFAULT_MODEL", "Model", "available_models", "load_model", "network_of"]

DEFAULT_MODEL = "unbraid:4stems"
_BUILTIN = Path(__file__).parent.parent / "builtin"
State = Callable[[], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True, eq=False)
class Model:
    """A model that can be run.

    name : as it was asked for
    transform : the arithmetic around its network
    state : reads its weights, by the names that the network gives them
    files : where the weights are
    stems : names of its results, and the network's stems that are added up in each
    allows_bf16 : whether its card says that bfloat16 is accurate enough; see docs/decisions/004
    """

    name: str
    transform: SpleeterTransform
    state: State
    files: tuple[Path, ...]
    stems: tuple[tuple[str, tuple[int, ...]], ...]
    allows_bf16: bool = False


def load_model(name: str | os.PathLike[str]) -> Model:
    """Find a model by its name, folder or file; its weights are not read yet.

    Raises
    ------
    ModelError : there is no such model, or its configuration is wrong
    """
    name = os.fspath(name)
    if name in available_models():
        family, stems = name.split(":")
        return _builtin(name) if family == "unbraid" else _spleeter(name, stems)
    path = Path(name)
    if path.is_dir():
        return _folder(name, path)
    if path.suffix == ".json":
        return _spleeter_json(name, path)
    near = difflib.get_close_matches(name, available_models(), n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise ModelError(
        f"unknown model '{name}'{hint} (a model is one of {', '.join(available_models())}, a model folder, "
        "or a Spleeter .json file)"
    )


def available_models() -> tuple[str, ...]:
    """Every name that `load_model` knows; those of Spleeter need its weights on this machine."""
    official = [f"spleeter:{n}stems{band}" for n in (2, 4, 5) for band in ("", "-16kHz")]
    return ("unbraid:4stems", "unbraid:2stems", *official)


def network_of(model: Model, transform: SpleeterTransform) -> Network:
    """The model's network for segments as long as this transform's; its weights are read when an engine asks."""
    made = network(transform.config, model.state, _fingerprint(transform.config, model.files))
    return replace(made, allows_bf16=model.allows_bf16)


def _builtin(name: str) -> Model:
    model = _folder(name, _BUILTIN / "4stems")
    if name == "unbraid:4stems":
        return model
    vocals = model.transform.stems.index("vocals")
    rest = tuple(i for i in range(len(model.transform.stems)) if i != vocals)
    return replace(model, stems=(("vocals", (vocals,)), ("accompaniment", rest)))


def _folder(name: str, folder: Path) -> Model:
    if not (folder / DESCRIPTION).is_file():
        raise ModelError(f"'{folder}' is not a model folder: it has no {DESCRIPTION}")
    described = read_model_file(folder)
    weights = folder / "weights.safetensors"
    config = described.networks[0].config
    return _model(name, config, [weights], lambda: _read_safetensors(weights))


def _spleeter_json(name: str, path: Path) -> Model:
    config = SpleeterConfig.from_json(path)
    if config.model_dir is None:
        raise ModelError(f"cannot use model configuration '{path}': model_dir is missing, so there are no weights")
    places = [Path(os.environ["MODEL_PATH"])] if os.environ.get("MODEL_PATH") else []
    candidates = [place / config.model_dir for place in (*places, path.parent, Path())]
    return _checkpoint(name, config, candidates)


def _spleeter(name: str, stems: str) -> Model:
    """Spleeter's own models, by the configurations that it ships."""
    n_stems = int(stems[0])
    names = {
        2: ("vocals", "accompaniment"),
        4: ("vocals", "drums", "bass", "other"),
        5: ("vocals", "piano", "drums", "bass", "other"),
    }[n_stems]
    conv_activation, deconv_activation = ("LeakyReLU", "ReLU") if n_stems == 2 else ("ELU", "ELU")
    config = SpleeterConfig(
        stems=names,
        model_dir=f"{n_stems}stems",
        n_bins=1536 if stems.endswith("-16kHz") else 1024,
        network="unet.softmax_unet" if n_stems == 5 else "unet.unet",
        conv_activation=conv_activation,
        deconv_activation=deconv_activation,
    )
    # Spleeter's own rule: $MODEL_PATH, else a folder of the working directory.
    return _checkpoint(name, config, [Path(os.environ.get("MODEL_PATH") or "pretrained_models") / f"{n_stems}stems"])


def _checkpoint(name: str, config: SpleeterConfig, candidates: Iterable[Path]) -> Model:
    from unbraid.weights.convert.tensorflow import latest_checkpoint, read_checkpoint, spleeter_state

    folders = list(dict.fromkeys(candidates))
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        looked = ", ".join(f"'{folder}'" for folder in folders)
        raise ModelError(
            f"the weights of {name} are not on this machine (looked for {looked}); download Spleeter's archive, "
            "unpack it there, or set MODEL_PATH to the folder that holds it"
        )
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


def _read_safetensors(path: Path) -> Mapping[str, NDArray[Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        # Tensor by tensor from the mapped file: reading it as a whole would have everything in memory twice.
        with safe_open(path, "np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a mapping
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the weights '{path}': {error}") from error
