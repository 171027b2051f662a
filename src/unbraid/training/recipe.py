"""Recipes: everything that decides what a training does, as a TOML file, checked when it is read.

A recipe is a table for each of the dataclasses below. The published ones lie in `recipes/`; any of them may be copied
and changed, and single values are changed by ``--set section.key=value``.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

from unbraid.errors import UsageError
from unbraid.training.augment import AugmentConfig
from unbraid.training.losses import LossConfig
from unbraid.training.remix import RemixConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "AverageConfig",
    "DataConfig",
    "NetworkConfig",
    "OptimizerConfig",
    "Recipe",
    "ScheduleConfig",
    "ValidationConfig",
    "change_recipe",
    "difference",
    "load_recipe",
    "published_recipes",
    "settings",
]

_FOLDER = Path(__file__).parent / "recipes"
AnySection = TypeVar("AnySection")


@dataclass(frozen=True)
class NetworkConfig:
    """What is trained.

    family : "spleeter", "demucs", "hdemucs", "htdemucs" or "openunmix"
    config : as a model.toml has it, but for the stems
    start : a model to begin with, by name or folder, whose family and config are taken; none for random weights
    rescale : reference deviation for the weights before training (demucs-2019, section 3); 0 for none
    batch_norm : "live", or "frozen", whose statistics do not move
    freeze : patterns of names of parameters that do not learn
    """

    family: str = "spleeter"
    config: Mapping[str, Any] = field(default_factory=dict)
    start: str = ""
    rescale: float = 0.0
    batch_norm: str = "live"
    freeze: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataConfig:
    """What it is trained on.

    stems : in the order of the network's outputs; none for those of the dataset
    segment_s : length of an example in seconds; 0 for the network's own
    batch_size : examples a step and process
    normalise : each track is divided by the deviation of its mix, as the network does with a whole track when it
        separates
    validation_share : of the tracks, or of each where there are few, kept for validation where the dataset has none
    """

    stems: tuple[str, ...] = ()
    segment_s: float = 0.0
    batch_size: int = 4
    normalise: bool = False
    validation_share: float = 0.1


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights move.

    kind : "adam", "adamw", or "muon", which learns in fewer steps, at three times the rate of AdamW
    learning_rate : at its highest
    betas : of the moments
    weight_decay : of kernels, not of biases, normalisations and scales
    clip_norm : longest gradient (L2); 0 for no limit
    """

    kind: str = "adam"
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip_norm: float = 0.0


@dataclass(frozen=True)
class ScheduleConfig:
    """How long, and how the learning rate changes.

    max_steps : of the whole training
    epoch_steps : from one validation to the next
    kind : "constant"; "cosine", down to a hundredth in the end; "step", `factor` times as much every `patience` epochs;
        "plateau", `factor` times as much after `patience` epochs without a better score
    warm_up_steps : of a linear rise at the beginning
    """

    max_steps: int = 100_000
    epoch_steps: int = 1000
    kind: str = "constant"
    warm_up_steps: int = 0
    factor: float = 0.3
    patience: int = 80


@dataclass(frozen=True)
class AverageConfig:
    """Moving averages of the weights; whatever scores best in validation is kept.

    steps, epochs : decays of the averages that are updated every step, and every epoch
    """

    steps: tuple[float, ...] = ()
    epochs: tuple[float, ...] = ()


@dataclass(frozen=True)
class ValidationConfig:
    """What decides which weights are kept: the mean uSDR of the stems.

    seconds : of each track, from its middle; 0 for all
    n_tracks : at most; 0 for all
    keep : "best", of all validations, or "last", where the validation is of another kind of music than what is learnt
    """

    seconds: float = 30.0
    n_tracks: int = 0
    keep: str = "best"


@dataclass(frozen=True)
class Recipe:
    """A training.

    source : paper and section
    departures : where it does otherwise than that, and why
    seed : of weights, examples and augmentations
    precision : "32-true", "16-mixed" or "bf16-mixed"
    per_stem : one network a stem, whose loss knows that stem alone; they are joined to a bag
    """

    name: str = ""
    source: str = ""
    departures: tuple[str, ...] = ()
    seed: int = 0
    precision: str = "32-true"
    per_stem: bool = False
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    remix: RemixConfig = field(default_factory=RemixConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    average: AverageConfig = field(default_factory=AverageConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        for key, value, low in (
            ("seed", self.seed, 0),
            ("data.batch_size", self.data.batch_size, 1),
            ("schedule.max_steps", self.schedule.max_steps, 1),
            ("schedule.epoch_steps", self.schedule.epoch_steps, 1),
            ("schedule.warm_up_steps", self.schedule.warm_up_steps, 0),
            ("optimizer.learning_rate", self.optimizer.learning_rate, 0),
            ("optimizer.clip_norm", self.optimizer.clip_norm, 0),
            ("network.rescale", self.network.rescale, 0),
            ("data.segment_s", self.data.segment_s, 0),
        ):
            if not value >= low:
                raise UsageError(f"{key} must be {low} or more, got {value}")
        if not 0 < self.data.validation_share < 1:
            raise UsageError(f"data.validation_share must be between 0 and 1, got {self.data.validation_share}")
        for decay in (*self.average.steps, *self.average.epochs):
            if not 0 < decay < 1:
                raise UsageError(f"decays of average must be between 0 and 1, got {decay}")
        _check_choice("network.batch_norm", self.network.batch_norm, ("live", "frozen"))
        _check_choice("optimizer.kind", self.optimizer.kind, ("adam", "adamw", "muon"))
        _check_choice("schedule.kind", self.schedule.kind, ("constant", "cosine", "step", "plateau"))
        _check_choice("validation.keep", self.validation.keep, ("best", "last"))
        _check_choice("precision", self.precision, ("32-true", "16-mixed", "bf16-mixed"))


def published_recipes() -> tuple[str, ...]:
    """Names of the recipes that are in the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load_recipe(name: str, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe by its name or the path of its file.

    changes : "section.key=value" each; the value as TOML, or a plain word

    Raises UsageError for an unknown recipe or key, naming the nearest one, and for a value that cannot be.
    """
    path = _FOLDER / f"{name}.toml"
    if not path.is_file():
        path = Path(name)
        if path.suffix != ".toml":
            near = difflib.get_close_matches(name, published_recipes(), n=1, cutoff=0)
            raise UsageError(
                f"no recipe '{name}'; the nearest is '{near[0]}' (all: {', '.join(published_recipes())}; "
                "or a .toml file of your own)"
            )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the recipe '{path}': {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"cannot read the recipe '{path}': not TOML ({error})") from error
    table.setdefault("name", path.stem)
    return _changed(table, changes, name)


def change_recipe(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """Change values of a recipe, as `load_recipe` does."""
    return _changed(asdict(recipe), changes, recipe.name) if changes else recipe


def _changed(table: dict[str, Any], changes: Sequence[str], name: str) -> Recipe:
    for change in changes:
        _change(table, change)
    try:
        return _read(Recipe, table, "")
    except UsageError as error:
        raise UsageError(f"cannot use the recipe '{name}': {error}") from error


def settings(recipe: Recipe) -> dict[str, Any]:
    """Every value by its dotted key, as JSON can hold them."""
    return dict(_flat(asdict(recipe), ""))


def difference(before: Mapping[str, Any], now: Mapping[str, Any], ignore: Sequence[str] = ()) -> list[str]:
    """Say where two `settings` differ, a phrase for each key."""
    keys = sorted({*before, *now} - set(ignore))
    pairs = [(key, before.get(key), now.get(key)) for key in keys]
    return [f"{key} was {_shown(old)} and is {_shown(new)}" for key, old, new in pairs if old != new]


def _shown(value: Any) -> str:
    return "not set" if value in (None, "", []) else str(value)


def _flat(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value


def _change(table: dict[str, Any], change: str) -> None:
    """Put one "section.key=value" into a recipe's table."""
    keys, equals, text = change.partition("=")
    if not equals or not keys.strip():
        raise UsageError(f"--set takes section.key=value, got '{change}'")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except ValueError:
        value = text.strip()
    *sections, key = keys.strip().split(".")
    for section in sections:
        inner = table.setdefault(section, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--set {change}: '{section}' is a value, not a section")
        table = inner
    table[key] = value


def _read(kind: type[AnySection], table: Mapping[str, Any], prefix: str) -> AnySection:
    """Make a dataclass of a table, with every key known and every value of its type."""
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    known = [one.name for one in fields(kind)]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0)[0]
            raise UsageError(f"unknown key '{prefix}{key}'; the nearest known one is '{prefix}{near}'")
        hint = hints[key]
        if is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise UsageError(f"'{prefix}{key}' is a section, got {value!r}")
            values[key] = _read(cast("type[Any]", hint), value, f"{prefix}{key}.")
        else:
            values[key] = _value(hint, value, prefix + key)
    return cast(AnySection, kind(**values))


def _value(hint: Any, value: Any, key: str) -> Any:
    """A value as its field wants it."""
    if hint in (int, float, str, bool):
        if hint is float and type(value) is int:
            return float(value)
        if type(value) is not hint:
            names = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
            raise UsageError(f"'{key}' must be {names[hint]}, got {value!r}")
        return value
    if "Mapping" in str(hint):
        if not isinstance(value, Mapping):
            raise UsageError(f"'{key}' must be a table, got {value!r}")
        return dict(value)
    if not isinstance(value, list | tuple):
        value = [value]  # --set network.freeze=encoder.* is one pattern
    inner = hint.__args__
    kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
    if len(kinds) != len(value):
        raise UsageError(f"'{key}' must be {len(kinds)} values, got {len(value)}")
    return tuple(_value(kind, one, key) for kind, one in zip(kinds, value, strict=True))


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=1, cutoff=0)[0]
        raise UsageError(f"{key} must be one of {', '.join(choices)}, got '{value}'; the nearest is '{near}'")
