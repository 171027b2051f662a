"""Checkpoints: safetensors, written whole, with everything that a training needs to go on exactly where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unbraid.errors import ModelError, UnbraidError

__all__ = ["read_checkpoint", "write_checkpoint"]

_KEY = "unbraid.training"


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """Write a checkpoint, which takes the place of the one before it when it is complete.

    tensors : any devices; names must be unique
    plain : what JSON can hold

    Raises UnbraidError where it cannot be written; the one before is still there then.
    """
    temporary = path.with_name(path.name + ".part")
    # Tensors may share memory (averages that were never updated do not, tied weights do); safetensors refuses that.
    kept = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    try:
        save_file(kept, temporary, metadata={_KEY: json.dumps(plain)})
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        size = sum(value.nbytes for value in kept.values()) / 1e6
        reason = getattr(error, "strerror", None) or error
        before = "; the one before is kept" if path.exists() else ""
        raise UnbraidError(
            f"cannot write the checkpoint '{path}': {reason}; it needs {size:.0f} MB{before}: free some space, and "
            "the same command goes on from there"
        ) from error


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_checkpoint` wrote; ModelError for anything else."""
    try:
        with safe_open(path, framework="pt") as file:
            plain = json.loads((file.metadata() or {})[_KEY])
            # Copied out of the memory map: the file is replaced while they are in use.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (KeyError, OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"cannot go on from '{path}': not a checkpoint of a training, or a damaged one; remove it to start anew"
        ) from error
    return tensors, plain
