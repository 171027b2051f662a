"""Hybrid Demucs as an ONNX graph without weights, built from the configuration alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from unbraid.datatypes import Network
from unbraid.models.hdemucs.config import HDemucsConfig
from unbraid.models.hdemucs.state import parameter_shapes
from unbraid.models.hdemucs.unet_graph import describe_unet, input_shapes
from unbraid.models.onnx_graph import GraphNodes, make_network

if TYPE_CHECKING:
    from torch import nn

__all__ = ["describe", "network"]

GRAPH_VERSION = 1  # part of every fingerprint: raised whenever `describe` describes something else than before


def describe(config: HDemucsConfig, n_samples: int) -> GraphNodes:
    """Describe a network for windows of so many samples: inputs and outputs are those of `HybridUNet.forward`."""
    return describe_unet(
        "hdemucs",
        config,
        parameter_shapes(config),
        n_samples,
        None,
        hybrid=config.hybrid,
        attention_starts=config.dconv_attn,
        lstm_starts=config.dconv_lstm,
    )


def network(
    config: HDemucsConfig, n_samples: int, state: Callable[[], Mapping[str, NDArray[Any]]], fingerprint: str
) -> Network:
    """Make a network that any engine can run.

    n_samples : of the windows that it is given
    state : reads the parameters by name, float32 or float16; called only when an engine wants them
    fingerprint : hex digest of the configuration and of whatever `state` reads
    """

    def make_module() -> nn.Module:
        from unbraid.models.hdemucs.network import HDemucsNetwork

        return HDemucsNetwork(config)

    return make_network(
        lambda: describe(config, n_samples),
        make_module,
        lambda: parameter_shapes(config),
        state,
        input_shapes=input_shapes(config, n_samples, hybrid=config.hybrid),
        fingerprint=f"hdemucs {GRAPH_VERSION} {n_samples} {fingerprint}",
    )
