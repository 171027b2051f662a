"""The families of networks by name: configuration, tensors, transform and graph of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from unbraid.datatypes import Network
from unbraid.errors import ModelError
from unbraid.models.transform import Transform

__all__ = ["FAMILIES", "Family", "State", "family"]

State = Callable[[], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Family:
    """What model folders and the pipeline need to know of a family.

    read : makes its configuration of plain data (numbers, strings, lists), or raises ModelError
    write : the other way round
    shapes : names and shapes of a network's tensors by its configuration
    transform : the arithmetic around its network, by its configuration
    network : its network for windows of so many samples, given the configuration, what reads its weights, and a digest
        of what decides these
    allows_bf16 : whether bfloat16 changes no score of any network of this configuration, as tests/contract/test_bf16.py
        measures; where it does not say so, a model's description may
    """

    read: Callable[[Mapping[str, Any]], Any]
    write: Callable[[Any], dict[str, Any]]
    shapes: Callable[[Any], dict[str, tuple[int, ...]]]
    transform: Callable[[Any], Transform]
    network: Callable[[Any, int, State, str], Network]
    allows_bf16: Callable[[Any], bool] = lambda config: False


def family(name: str) -> Family:
    """Find a family by its name; ModelError where there is none."""
    if name not in FAMILIES:
        raise ModelError(f"unknown family of models '{name}'; known are {', '.join(FAMILIES)}")
    return FAMILIES[name]()


# Everything is imported when it is asked for: converters need no transforms, and nothing needs all families.
def _spleeter() -> Family:
    from unbraid.models.spleeter import config, graph, transform

    def write(one: config.SpleeterConfig) -> dict[str, Any]:
        # Where the checkpoint lay and what trained it say nothing of the network.
        return replace(one, model_dir=None, training={}).to_json()

    def network(one: config.SpleeterConfig, n_samples: int, state: State, fingerprint: str) -> Network:
        return graph.network(one, state, fingerprint)  # whose T already says how long a window is

    read = config.SpleeterConfig.from_json
    return Family(read, write, graph.parameter_shapes, transform.SpleeterTransform, network)


def _demucs() -> Family:
    from unbraid.models.demucs import graph
    from unbraid.models.demucs.config import DemucsConfig
    from unbraid.models.demucs.state import parameter_shapes
    from unbraid.models.demucs.transform import DemucsTransform

    return Family(DemucsConfig.from_plain, DemucsConfig.to_plain, parameter_shapes, DemucsTransform, graph.network)


def _hdemucs() -> Family:
    from unbraid.models.hdemucs import graph
    from unbraid.models.hdemucs.config import HDemucsConfig
    from unbraid.models.hdemucs.state import parameter_shapes
    from unbraid.models.hdemucs.transform import HybridTransform

    return Family(HDemucsConfig.from_plain, HDemucsConfig.to_plain, parameter_shapes, HybridTransform, graph.network)


def _htdemucs() -> Family:
    from unbraid.models.hdemucs.transform import HybridTransform
    from unbraid.models.htdemucs import graph
    from unbraid.models.htdemucs.config import HTDemucsConfig
    from unbraid.models.htdemucs.state import parameter_shapes

    def network(one: HTDemucsConfig, n_samples: int, state: State, fingerprint: str) -> Network:
        return graph.network(one, HybridTransform(one).network_samples(n_samples), state, fingerprint)

    def allows_bf16(one: HTDemucsConfig) -> bool:
        # Hashing decides which positions attend to which, and other roundings decide otherwise.
        return not (one.transformer.sparse_self_attn or one.transformer.sparse_cross_attn)

    read, write = HTDemucsConfig.from_plain, HTDemucsConfig.to_plain
    return Family(read, write, parameter_shapes, HybridTransform, network, allows_bf16)


def _openunmix() -> Family:
    from unbraid.models.openunmix import graph
    from unbraid.models.openunmix.config import OpenUnmixConfig
    from unbraid.models.openunmix.state import parameter_shapes
    from unbraid.models.openunmix.transform import OpenUnmixTransform

    read, write = OpenUnmixConfig.from_plain, OpenUnmixConfig.to_plain
    return Family(read, write, parameter_shapes, OpenUnmixTransform, graph.network)


FAMILIES: Mapping[str, Callable[[], Family]] = {
    "spleeter": _spleeter,
    "demucs": _demucs,
    "hdemucs": _hdemucs,
    "htdemucs": _htdemucs,
    "openunmix": _openunmix,
}
