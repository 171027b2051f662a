"""Spleeter's JSON of a training as a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unbraid.errors import UsageError
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.training.losses import LossConfig
from unbraid.training.recipe import (
    DataConfig,
    NetworkConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    ValidationConfig,
    load_recipe,
)

__all__ = ["SpleeterJson", "read_spleeter_json", "spleeter_recipe"]

_LOSSES = {"L1_mask": "magnitude_l1", "weighted_L1_mask": "magnitude_l1_weighted"}
_DEPARTURES = (
    "chunks are drawn independently of each other, not shuffled and gone through",
    "validation is the SDR of the middle 12 s of the songs of validation_csv, and decides which weights are kept",
    "batch normalisation is live; --set network.batch_norm=frozen for Spleeter's, whose statistics never move",
)


@dataclass(frozen=True)
class SpleeterJson:
    """What Spleeter's JSON of a training says of its data.

    train_csv, validation_csv : the tables
    training_cache : where spectrograms of chunks are kept in 8 bits; None for no cache: they are exact, and slow
    """

    config: SpleeterConfig
    train_csv: Path
    validation_csv: Path
    training_cache: Path | None


def read_spleeter_json(path: Path) -> SpleeterJson:
    """Read a JSON and find its tables: relative to the working directory, as Spleeter has it, else beside the JSON.

    Raises ModelError for an unusable JSON, UsageError for a table that is not there.
    """
    config = SpleeterConfig.from_json(path)
    named = config.training.get("training_cache")
    return SpleeterJson(
        config,
        _table_of(config, "train_csv", path),
        _table_of(config, "validation_csv", path),
        Path(named) if isinstance(named, str) and named else None,
    )


def spleeter_recipe(config: SpleeterConfig, name: str) -> Recipe:
    """Turn the keys that Spleeter's training reads into a recipe; those absent are as in `spleeter-2stems`.

    Raises UsageError for a loss or an optimiser that there is not, or a number that cannot be.
    """
    base, given = load_recipe("spleeter-2stems"), config.training
    if (loss := given.get("loss_type", "L1_mask")) not in _LOSSES:
        raise UsageError(f"loss_type must be one of {', '.join(_LOSSES)}, got {loss!r}")
    if (optimizer := given.get("optimizer", "Adam")) != "Adam":
        raise UsageError(f"optimizer must be Adam, got {optimizer!r}")
    network: Mapping[str, Any] = replace(config, training={}, model_dir=None).to_json()
    epoch_steps = _count(given, "save_checkpoints_steps", base.schedule.epoch_steps)
    return Recipe(
        name=name,
        source=base.source,
        departures=_DEPARTURES,
        seed=_count(given, "random_seed", 0, least=0),
        network=NetworkConfig(family="spleeter", config=network),
        data=DataConfig(stems=config.stems, batch_size=_count(given, "batch_size", base.data.batch_size)),
        loss=LossConfig(kind=_LOSSES[loss]),
        optimizer=OptimizerConfig(learning_rate=_rate(given, base.optimizer.learning_rate)),
        schedule=ScheduleConfig(
            max_steps=_count(given, "train_max_steps", base.schedule.max_steps), epoch_steps=epoch_steps
        ),
        validation=ValidationConfig(seconds=12.0),
    )


def _table_of(config: SpleeterConfig, key: str, json_path: Path) -> Path:
    name = config.training.get(key)
    if not isinstance(name, str) or not name:
        raise UsageError(f"cannot train by '{json_path}': it has no {key}")
    places = [Path(name), json_path.parent / name, json_path.parent / Path(name).name]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UsageError(f"cannot train by '{json_path}': there is no '{name}', its {key}, here or beside it")
    return found


def _count(given: Mapping[str, Any], key: str, default: int, *, least: int = 1) -> int:
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < least:
        raise UsageError(f"{key} must be a whole number of {least} or more, got {value!r}")
    return int(value)


def _rate(given: Mapping[str, Any], default: float) -> float:
    value = given.get("learning_rate", default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise UsageError(f"learning_rate must be a number of 0 or more, got {value!r}")
    return float(value)
