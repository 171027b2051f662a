"""The networks of the Spleeter family as ONNX graphs without weights, built from the configuration alone.

Why they are not exported from the torch module: docs/decisions/001-graphs-are-built-from-the-configuration.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unbraid.datatypes import Network
from unbraid.errors import ModelError
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.models.spleeter.nodes import INPUT, OUTPUT, GraphNodes
from unbraid.models.spleeter.shared_unet_graph import describe_shared_unet
from unbraid.models.spleeter.unet_graph import describe_unets

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build_graph", "network", "parameter_shapes"]

GRAPH_VERSION = 2  # part of every fingerprint: raised whenever `build_graph` builds something else than before
OPSET = 17
IR_VERSION = 8  # what every ONNX Runtime since 1.13 reads


def build_graph(config: SpleeterConfig) -> bytes:
    """Build a network's graph.

    returns : a serialised ONNX model with input "magnitude" [shape=(1, channel, n_frames, n_bins)], then one input for
        each parameter under the name that it has in the torch module, and output "stems"
        [shape=(1, stem, channel, n_frames, n_bins)]
    """
    from onnx import TensorProto, helper

    graph = _describe(config)
    shape = (1, config.n_channels, config.n_frames, config.n_bins)
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)]
    inputs += [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in graph.parameters.items()]
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, (1, len(config.stems), *shape[1:]))
    model = helper.make_model(
        helper.make_graph(graph.nodes, "spleeter", inputs, [output], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="unbraid",
    )
    return bytes(model.SerializeToString())


def parameter_shapes(config: SpleeterConfig) -> dict[str, tuple[int, ...]]:
    """Tell which parameters a network has, by name, in the order of the graph's inputs."""
    return _describe(config).parameters


def network(config: SpleeterConfig, state: Callable[[], Mapping[str, NDArray[Any]]], fingerprint: str) -> Network:
    """Make a network that any engine can run.

    state : reads the parameters by name, float32 or float16; called only when an engine wants them
    fingerprint : hex digest of the configuration and of whatever `state` reads
    """

    def weights() -> Mapping[str, NDArray[Any]]:
        return _checked(state(), parameter_shapes(config))

    def module() -> nn.Module:
        import torch

        from unbraid.models.spleeter.network import make_module

        made = make_module(config)
        parameters = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in weights().items()}
        made.load_state_dict(made.state_dict() | parameters)
        return made.eval()

    return Network(
        fingerprint=hashlib.sha256(f"{GRAPH_VERSION} {fingerprint}".encode()).hexdigest(),
        input_shapes=((1, config.n_channels, config.n_frames, config.n_bins),),
        graph=lambda: build_graph(config),
        weights=weights,
        module=module,
    )


def _checked(state: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, NDArray[Any]]:
    """Those parameters that a network has, or ModelError where they do not fit it."""
    for name, shape in shapes.items():
        if name not in state:
            raise ModelError(f"the weights do not fit the model's configuration: '{name}' is missing")
        if tuple(state[name].shape) != shape:
            raise ModelError(
                f"the weights do not fit the model's configuration: '{name}' must be {shape}, got {state[name].shape}"
            )
        if not np.isfinite(state[name]).all():
            raise ModelError(f"the weights are damaged: '{name}' is not finite")
    # torch counts batches beside its statistics; anything else belongs to another network.
    unknown = sorted(name for name in state if name not in shapes and not name.endswith(".num_batches_tracked"))
    if unknown:
        raise ModelError(f"the weights do not fit the model's configuration, which has no '{unknown[0]}'")
    return {name: state[name] for name in shapes}


def _describe(config: SpleeterConfig) -> GraphNodes:
    graph = GraphNodes()
    if config.shared_unet is not None:
        describe_shared_unet(graph, config, config.shared_unet)
    else:
        describe_unets(graph, config)
    return graph
