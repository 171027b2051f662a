"""HT Demucs as an ONNX graph without weights, built from the configuration alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from unbraid.datatypes import Network
from unbraid.models.hdemucs.unet_graph import Maps, describe_unet, input_shapes
from unbraid.models.htdemucs.config import HTDemucsConfig
from unbraid.models.htdemucs.state import parameter_shapes
from unbraid.models.htdemucs.transformer_graph import describe_transformer
from unbraid.models.onnx_graph import GraphNodes, make_network

if TYPE_CHECKING:
    from torch import nn

__all__ = ["describe", "network"]

GRAPH_VERSION = 1  # part of every fingerprint: raised whenever `describe` describes something else than before


def describe(config: HTDemucsConfig, n_samples: int) -> GraphNodes:
    """Describe a network for windows of so many samples: inputs and outputs are those of `HybridUNet.forward`."""

    def bottom(graph: GraphNodes, x: Maps, wave: Maps) -> tuple[Maps, Maps]:
        return describe_transformer(graph, config, x, wave) if config.transformer.n_layers else (x, wave)

    return describe_unet(
        "htdemucs",
        config,
        parameter_shapes(config),
        n_samples,
        bottom,
        hybrid=True,
        attention_starts=config.depth,
        lstm_starts=config.depth,
    )


def network(
    config: HTDemucsConfig, n_samples: int, state: Callable[[], Mapping[str, NDArray[Any]]], fingerprint: str
) -> Network:
    """Make a network that any engine can run.

    n_samples : of the windows that it is given
    state : reads the parameters by name, float32 or float16; called only when an engine wants them
    fingerprint : hex digest of the configuration and of whatever `state` reads
    """

    def make_module() -> nn.Module:
        from unbraid.models.htdemucs.network import HTDemucsNetwork

        return HTDemucsNetwork(config)

    return make_network(
        lambda: describe(config, n_samples),
        make_module,
        lambda: parameter_shapes(config),
        state,
        input_shapes=input_shapes(config, n_samples, hybrid=True),
        fingerprint=f"htdemucs {GRAPH_VERSION} {n_samples} {fingerprint}",
    )
