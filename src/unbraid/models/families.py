"""The families of networks by name: how each reads its configuration, and which tensors that gives its networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from unbraid.errors import ModelError

__all__ = ["FAMILIES", "RUNNABLE", "Family", "family"]

# Those that this version can separate with.
RUNNABLE = frozenset({"spleeter"})


@dataclass(frozen=True)
class Family:
    """What model folders need to know of a family.

    read : makes its configuration of plain data (numbers, strings, lists), or raises ModelError
    write : the other way round
    shapes : names and shapes of a network's tensors by its configuration
    """

    read: Callable[[Mapping[str, Any]], Any]
    write: Callable[[Any], dict[str, Any]]
    shapes: Callable[[Any], dict[str, tuple[int, ...]]]


def family(name: str) -> Family:
    """Find a family by its name; ModelError where there is none."""
    if name not in FAMILIES:
        raise ModelError(f"unknown family of models '{name}'; known are {', '.join(FAMILIES)}")
    return FAMILIES[name]()


# Each is imported when it is asked for.
def _spleeter() -> Family:
    from unbraid.models.spleeter.config import SpleeterConfig
    from unbraid.models.spleeter.graph import parameter_shapes

    def write(config: SpleeterConfig) -> dict[str, Any]:
        # Where the checkpoint lay and what trained it say nothing of the network.
        return replace(config, model_dir=None, training={}).to_json()

    return Family(SpleeterConfig.from_json, write, parameter_shapes)


def _demucs() -> Family:
    from unbraid.models.demucs.config import DemucsConfig
    from unbraid.models.demucs.state import parameter_shapes

    return Family(DemucsConfig.from_plain, DemucsConfig.to_plain, parameter_shapes)


def _hdemucs() -> Family:
    from unbraid.models.hdemucs.config import HDemucsConfig
    from unbraid.models.hdemucs.state import parameter_shapes

    return Family(HDemucsConfig.from_plain, HDemucsConfig.to_plain, parameter_shapes)


def _htdemucs() -> Family:
    from unbraid.models.htdemucs.config import HTDemucsConfig
    from unbraid.models.htdemucs.state import parameter_shapes

    return Family(HTDemucsConfig.from_plain, HTDemucsConfig.to_plain, parameter_shapes)


def _openunmix() -> Family:
    from unbraid.models.openunmix.config import OpenUnmixConfig
    from unbraid.models.openunmix.state import parameter_shapes

    return Family(OpenUnmixConfig.from_plain, OpenUnmixConfig.to_plain, parameter_shapes)


FAMILIES: Mapping[str, Callable[[], Family]] = {
    "spleeter": _spleeter,
    "demucs": _demucs,
    "hdemucs": _hdemucs,
    "htdemucs": _htdemucs,
    "openunmix": _openunmix,
}
