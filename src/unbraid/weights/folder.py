"""Model folders: where they are, how one is written, and how it is checked."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from unbraid.errors import ModelError, UsageError
from unbraid.weights.convert.network import check_tensors
from unbraid.weights.model_file import DESCRIPTION, WEIGHTS, ModelFile, format_model_file, read_model_file
from unbraid.weights.places import models_folder
from unbraid.weights.tensors import read_tensors, write_tensors

__all__ = ["CARD", "check_weights", "installed_folder", "installed_models", "sha256_of", "verify_model", "write_model"]

CARD = "card.md"


def write_model(folder: Path, model: ModelFile, tensors: Mapping[str, NDArray[Any]], *, card: str = "") -> ModelFile:
    """Write a model folder, which appears whole; one that is already there is replaced.

    model : its description; size and hash of the weights are filled in here
    tensors : what weights.safetensors will hold, converted tensor by tensor while it is written
    card : text of its card, in Markdown

    returns : the description as it was written
    Raises ModelError where the tensors are not those of the model's networks, or nothing can be written there.
    """
    check_tensors(tensors, model.tensor_shapes(), str(folder))
    _check_replaceable(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _check_space(folder.parent, sum(tensor.nbytes for tensor in tensors.values()))
        temporary.mkdir()
        sha256 = write_tensors(temporary / WEIGHTS, tensors)
        model = replace(model, weights_size=(temporary / WEIGHTS).stat().st_size, weights_sha256=sha256)
        (temporary / DESCRIPTION).write_text(format_model_file(model), encoding="utf-8", newline="\n")
        read_model_file(temporary)  # before it is installed, that it will be readable
        if card:
            (temporary / CARD).write_text(card, encoding="utf-8", newline="\n")
        _put_in_place(temporary, folder)
    except (OSError, ModelError) as error:
        reason = error.__cause__ if isinstance(error, ModelError) else error
        if not isinstance(reason, OSError):
            raise
        raise ModelError(
            f"cannot write the model folder '{folder}': {reason.strerror or reason}; "
            "free some space, or choose another place (UNBRAID_HOME)"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return model


def installed_folder(name: str) -> Path:
    """Where the model of that name is, or would be; UsageError for what cannot be a name."""
    if not re.fullmatch(r"\w[\w.+-]*(:[\w.+-]+)?", name, re.ASCII) or len(name) > 100:
        raise UsageError(f"a model's name is made of letters, digits, '.', '_', '+', '-', 100 at most; got '{name}'")
    return models_folder() / name.replace(":", "-")


def installed_models() -> dict[str, Path]:
    """Folders of the installed models by name, sorted; a damaged one goes by its folder's name."""
    found = {}
    for path in models_folder().glob(f"[!.]*/{DESCRIPTION}"):
        try:
            found[read_model_file(path.parent).name] = path.parent
        except ModelError:
            found[path.parent.name] = path.parent
    return dict(sorted(found.items()))


def check_weights(folder: Path, model: ModelFile) -> Path:
    """Return the path of a model's weights, if they are there and have the size that the description says."""
    path = folder / WEIGHTS
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ModelError(
            f"cannot read the weights '{path}': {error.strerror or error}; fetch or import the model again"
        ) from error
    if size != model.weights_size:
        raise ModelError(
            f"the weights '{path}' are damaged: {size} bytes, expected {model.weights_size}; "
            "fetch or import the model again"
        )
    return path


def verify_model(folder: Path, *, on_bytes: Callable[[int], None] | None = None) -> ModelFile:
    """Read everything of a model folder and compare it with what its description says.

    on_bytes : called with the number of bytes just read
    Raises ModelError for whatever is not as it must be.
    """
    model = read_model_file(folder)
    path = check_weights(folder, model)
    found = sha256_of(path, on_bytes=on_bytes)
    if found != model.weights_sha256:
        raise ModelError(
            f"the weights '{path}' are damaged: SHA-256 {found}, expected {model.weights_sha256}; "
            "fetch or import the model again"
        )
    check_tensors(read_tensors(path), model.tensor_shapes(), str(path))
    return model


def sha256_of(path: Path, *, on_bytes: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file as hex digits; ModelError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                if on_bytes:
                    on_bytes(len(chunk))
    except OSError as error:
        raise ModelError(f"cannot read '{path}': {error.strerror or error}") from error
    return digest.hexdigest()


def _check_replaceable(folder: Path) -> None:
    """Nothing but a model is ever replaced."""
    if folder.is_dir():
        others = sorted(path.name for path in folder.iterdir() if path.name not in (WEIGHTS, DESCRIPTION, CARD))
        if others:
            raise ModelError(f"cannot write the model folder '{folder}': it holds '{others[0]}'; choose another folder")
    elif folder.exists() or folder.is_symlink():
        raise ModelError(f"cannot write the model folder '{folder}': there is a file of that name")


def _check_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ModelError(
            f"cannot write the model: {size / 1e6:.0f} MB are needed in '{folder}' and {free / 1e6:.0f} MB are free; "
            "free some space, or choose another place (UNBRAID_HOME)"
        )


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Rename; a folder cannot replace another in one step, so an old one steps aside first."""
    if not folder.exists():
        temporary.rename(folder)
        return
    old = temporary.with_suffix(".old")
    folder.rename(old)
    try:
        temporary.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
