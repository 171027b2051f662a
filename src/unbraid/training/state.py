"""Where a training is: all that a checkpoint holds, and which weights are the best so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from unbraid.errors import ModelError
from unbraid.training.averages import Average
from unbraid.training.checkpoint import read_checkpoint, write_checkpoint
from unbraid.training.networks import Trainable
from unbraid.training.recipe import Recipe, difference, settings
from unbraid.training.validation import mean_score

__all__ = ["Progress", "TrainingState", "Weights", "copied"]

Weights = Mapping[str, Tensor]

# What may differ between a training and its continuation.
_FREE_KEYS = ("schedule.max_steps", "source", "departures", "name", "validation.n_tracks")


@dataclass
class Progress:
    """Where a training is.

    step, epoch : how many are done
    elapsed_s : seconds spent in training, validation included
    best_score, best_name : mean SDR in dB of the best weights so far, and which they were: now, or an average
    best_scores : SDR in dB by stem of these weights
    stale_epochs : since the best
    rate_factor : of the learning rate, by the "plateau" schedule
    first : SDR in dB by stem, before training
    """

    step: int = 0
    epoch: int = 0
    elapsed_s: float = 0.0
    best_score: float = -math.inf
    best_name: str = ""
    best_scores: dict[str, float] = field(default_factory=dict)
    stale_epochs: int = 0
    rate_factor: float = 1.0
    first: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class TrainingState:
    """All of a training that a checkpoint holds.

    path : of the checkpoint
    best : the weights that scored best so far
    """

    trainable: Trainable
    recipe: Recipe
    optimizer: torch.optim.Optimizer
    averages: list[Average]
    progress: Progress
    path: Path
    best: Weights = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.best = copied(self.trainable.network.state_dict())

    def move(self, device: torch.device) -> None:
        """Bring the averages to where the network is."""
        for average in self.averages:
            average.state = {name: value.to(device) for name, value in average.state.items()}

    def average(self, *, per_epoch: bool) -> None:
        """Update the averages of every step, or of every epoch."""
        for average in self.averages:
            if average.per_epoch == per_epoch:
                average.update(self.trainable.network)

    def take(self, name: str, scores: Mapping[str, float], state: Weights) -> None:
        """Take weights for the best so far."""
        progress = self.progress
        progress.best_name, progress.best_score, progress.best_scores = name, mean_score(scores), dict(scores)
        self.best = copied(state)

    def note(self, name: str, scores: Mapping[str, float], state: Mapping[str, Tensor]) -> bool:
        """Take up the scores of an epoch; whether its weights are kept: the best so far, or the last ones."""
        progress, schedule = self.progress, self.recipe.schedule
        if is_kept := self.recipe.validation.keep == "last" or mean_score(scores) > progress.best_score:
            self.take(name, scores, state)
            progress.stale_epochs = 0
        else:
            progress.stale_epochs += 1
            if progress.stale_epochs % schedule.patience == 0:
                progress.rate_factor *= schedule.factor if schedule.kind == "plateau" else 1.0
        return is_kept

    def save(self) -> None:
        """Write the checkpoint."""
        tensors = {f"network.{name}": value for name, value in self.trainable.network.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for i, average in enumerate(self.averages):
            tensors |= {f"average.{i}.{name}": value for name, value in average.state.items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in moments.items()}
        plain = {
            "progress": asdict(self.progress),
            "recipe": settings(self.recipe),
            "stems": list(self.trainable.stems),
            "updates": [average.n_updates for average in self.averages],
        }
        write_checkpoint(self.path, tensors, plain)

    def restore(self) -> None:
        """Go back to what was saved; ModelError where that is of another training."""
        tensors, plain = read_checkpoint(self.path)
        differences = difference(plain["recipe"], settings(self.recipe), _FREE_KEYS)
        if plain["stems"] != list(self.trainable.stems):
            differences.append(f"stems were {', '.join(plain['stems'])} and are {', '.join(self.trainable.stems)}")
        if differences:
            raise ModelError(
                f"cannot go on from '{self.path}', which is of another training: {'; '.join(differences[:3])}; "
                "train into another folder by -o, or remove it to start anew"
            )
        try:
            self.trainable.network.load_state_dict(_below(tensors, "network."))
            for i, (average, n_updates) in enumerate(zip(self.averages, plain["updates"], strict=True)):
                average.state, average.n_updates = _below(tensors, f"average.{i}."), n_updates
            moments: dict[int, dict[str, Tensor]] = {}
            for name, value in _below(tensors, "optimizer.").items():
                index, _, key = name.partition(".")
                moments.setdefault(int(index), {})[key] = value
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
            self.best = _below(tensors, "best.")
            vars(self.progress).update(plain["progress"])
        except (KeyError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"cannot go on from '{self.path}': its tensors are not those of this network; remove it to start anew"
            ) from error


def copied(state: Weights) -> Weights:
    """The same, in memory of its own."""
    return {name: value.detach().clone() for name, value in state.items()}


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without the beginning."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
