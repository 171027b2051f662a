"""Save and resume a training run: one safetensors file, replaced whole, with the plain numbers in its metadata."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unbraid.errors import ModelError
from unbraid.training.builtin.loop import Training

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(training: Training, path: Path) -> None:
    """Write everything that a run needs to go on exactly where it was."""
    tensors: dict[str, Tensor] = {}
    tensors |= {f"network.{name}": value for name, value in training.network.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in training.average.state_dict().items()}
    for index, moments in training.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    plain = {
        "step": training.step,
        "elapsed_s": training.elapsed_s,
        "seed": training.seed,
    }
    temporary = path.with_name(path.name + ".part")
    contiguous = {name: value.detach().contiguous() for name, value in tensors.items()}
    save_file(contiguous, temporary, metadata={"training": json.dumps(plain)})
    temporary.replace(path)


def load_checkpoint(training: Training, path: Path) -> None:
    """Put a saved run back into `training`, which must have been made with the same configuration.

    Raises
    ------
    ModelError
        If the file is not a checkpoint of such a run.
    """
    try:
        with safe_open(path, framework="pt") as file:
            plain = json.loads((file.metadata() or {})["training"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        training.network.load_state_dict(_below(tensors, "network."))
        training.average.load_state_dict(_below(tensors, "average."))
    except (KeyError, RuntimeError, OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"cannot resume from '{path}': not a checkpoint of this network; remove it to start anew"
        ) from error
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in _below(tensors, "optimizer.").items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = value
    groups = training.optimizer.state_dict()["param_groups"]
    training.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    training.step, training.elapsed_s = plain["step"], plain["elapsed_s"]
    training.seed = plain["seed"]


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without the beginning."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
