"""The networks of the Spleeter family as ONNX graphs without weights, built from the configuration alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from unbraid.datatypes import Network
from unbraid.models.onnx_graph import GraphNodes, make_network
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.models.spleeter.nodes import INPUT, OUTPUT
from unbraid.models.spleeter.shared_unet_graph import describe_shared_unet
from unbraid.models.spleeter.unet_graph import describe_unets

if TYPE_CHECKING:
    from torch import nn

__all__ = ["describe", "network", "parameter_shapes"]

GRAPH_VERSION = 3  # part of every fingerprint: raised whenever `describe` describes something else than before


def describe(config: SpleeterConfig) -> GraphNodes:
    """Describe a network, whose parameters have the names that they have in the torch module.

    returns : input "magnitude" [shape=(1, channel, n_frames, n_bins)], output "stems"
        [shape=(1, stem, channel, n_frames, n_bins)]
    """
    (shape,) = _input_shapes(config)
    graph = GraphNodes("spleeter", {INPUT: shape}, {}, {OUTPUT: (1, len(config.stems), *shape[1:])})
    if config.shared_unet is not None:
        describe_shared_unet(graph, config, config.shared_unet)
    else:
        describe_unets(graph, config)
    return graph


def parameter_shapes(config: SpleeterConfig) -> dict[str, tuple[int, ...]]:
    """Tell which parameters a network has, by name, in the order of the graph's inputs."""
    return describe(config).parameters


def network(config: SpleeterConfig, state: Callable[[], Mapping[str, NDArray[Any]]], fingerprint: str) -> Network:
    """Make a network that any engine can run.

    state : reads the parameters by name, float32 or float16; called only when an engine wants them
    fingerprint : hex digest of the configuration and of whatever `state` reads
    """

    def make_module() -> nn.Module:
        from unbraid.models.spleeter.network import make_module

        return make_module(config)

    return make_network(
        lambda: describe(config),
        make_module,
        lambda: parameter_shapes(config),
        state,
        input_shapes=_input_shapes(config),
        fingerprint=f"{GRAPH_VERSION} {fingerprint}",
    )


def _input_shapes(config: SpleeterConfig) -> tuple[tuple[int, ...], ...]:
    return ((1, config.n_channels, config.n_frames, config.n_bins),)
