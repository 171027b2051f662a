"""Open-Unmix as an ONNX graph without weights: the arithmetic of `network.OpenUnmixNetwork`.

Normalisations and scales are folded into the dense layers beside them; an engine does this once, when it loads the
weights. Dense layers treat the channels one after the other, so that no spectrogram need be rearranged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import NDArray

from unbraid.datatypes import Network
from unbraid.models.lstm_nodes import lstm
from unbraid.models.onnx_graph import GraphNodes, make_network
from unbraid.models.openunmix.config import OpenUnmixConfig, TargetConfig
from unbraid.models.openunmix.state import parameter_shapes

if TYPE_CHECKING:
    from torch import nn

__all__ = ["describe", "network"]

INPUT: Final = "magnitude"
OUTPUT: Final = "stems"
NORM_EPS: Final = 1e-5  # torch's default
GRAPH_VERSION: Final = 1  # part of every fingerprint: raised whenever `describe` describes something else than before


def describe(config: OpenUnmixConfig, n_samples: int) -> GraphNodes:
    """Describe the networks of all stems for windows of so many samples.

    returns : input "magnitude" [shape=(1, channel, T, F)], output "stems" [shape=(1, stem, channel, T, F)], with
        T = 1 + n_samples // hop frames and F = n_fft / 2 + 1 bins
    """
    (shape,) = _input_shapes(config, n_samples)
    output = (1, len(config.stems), *shape[1:])
    graph = GraphNodes("openunmix", {INPUT: shape}, _parameters(config), {OUTPUT: output})
    spectra = graph.split(INPUT, config.n_channels) if config.n_channels > 1 else [INPUT]
    stems: list[str] = []
    for stem, target in zip(config.stems, config.targets, strict=True):
        stems += _stem(graph, config, target, f"{stem}.", spectra, shape[2])
    graph.add("Reshape", graph.add("Concat", *stems, axis=1), graph.integers(*output), name=OUTPUT)
    return graph


def network(
    config: OpenUnmixConfig, n_samples: int, state: Callable[[], Mapping[str, NDArray[Any]]], fingerprint: str
) -> Network:
    """Make a network that any engine can run.

    n_samples : of the windows whose spectrograms it is given
    state : reads the parameters by name, float32 or float16; called only when an engine wants them
    fingerprint : hex digest of the configuration and of whatever `state` reads
    """

    def make_module() -> nn.Module:
        from unbraid.models.openunmix.network import OpenUnmixNetwork

        return OpenUnmixNetwork(config)

    shapes = _input_shapes(config, n_samples)
    return make_network(
        lambda: describe(config, n_samples),
        make_module,
        lambda: _parameters(config),
        state,
        input_shapes=shapes,
        fingerprint=f"openunmix {GRAPH_VERSION} {shapes} {fingerprint}",
    )


def _parameters(config: OpenUnmixConfig) -> dict[str, tuple[int, ...]]:
    """Tensors that matter: all but torch's counts of batches."""
    return {name: shape for name, shape in parameter_shapes(config).items() if shape}


def _input_shapes(config: OpenUnmixConfig, n_samples: int) -> tuple[tuple[int, ...], ...]:
    return ((1, config.n_channels, 1 + n_samples // config.hop, config.n_bins),)


def _stem(
    graph: GraphNodes, config: OpenUnmixConfig, target: TargetConfig, prefix: str, spectra: list[str], n_frames: int
) -> list[str]:
    """Append the network of a stem.

    spectra : the mix, channel by channel [shape=(1, 1, n_frames, n_bins)]
    returns : the stem, likewise
    """
    hidden, n_channels = target.hidden_size, config.n_channels
    first = graph.add("Tanh", _encoded(graph, target, prefix, spectra))
    y = lstm(
        *(graph, f"{prefix}lstm.", graph.reshape(first, n_frames, 1, hidden), n_frames, 1),
        n_layers=target.n_layers,
        bidirectional=not target.unidirectional,
    )
    x = graph.add("Concat", first, graph.reshape(y, 1, 1, n_frames, hidden), axis=3)
    gain, shift = _norm(graph, f"{prefix}bn2.")
    x = graph.add("Relu", _dense(graph, x, _scaled(graph, f"{prefix}fc2.weight", gain), shift))
    gain, shift = (graph.reshape(value, n_channels, config.n_bins) for value in _norm(graph, f"{prefix}bn3."))
    gain = graph.add("Mul", gain, f"{prefix}output_scale")
    shift = graph.add("Add", graph.add("Mul", shift, f"{prefix}output_scale"), f"{prefix}output_mean")
    weight = _scaled(graph, f"{prefix}fc3.weight", graph.reshape(gain, n_channels * config.n_bins))
    parts = zip(spectra, _parts(graph, weight, n_channels), _parts(graph, shift, n_channels), strict=True)
    return [graph.add("Mul", graph.add("Relu", _dense(graph, x, w, b)), spectrum) for spectrum, w, b in parts]


def _encoded(graph: GraphNodes, target: TargetConfig, prefix: str, spectra: list[str]) -> str:
    """Append the first dense layer between scaled bins and normalisation [shape=(1, 1, n_frames, hidden_size)]."""
    n_channels = len(spectra)
    gain, shift = _norm(graph, f"{prefix}bn1.")
    folded = graph.reshape(f"{prefix}fc1.weight", target.hidden_size, n_channels, target.max_bin)
    weight = graph.add("Mul", folded, f"{prefix}input_scale")
    weight = graph.add("Mul", weight, graph.reshape(gain, target.hidden_size, 1, 1))
    moved = graph.add("ReduceSum", graph.add("Mul", weight, f"{prefix}input_mean"), graph.integers(1, 2), keepdims=0)
    shift = graph.add("Add", shift, moved)
    parts = []
    for spectrum, kernel in zip(spectra, _parts(graph, weight, n_channels, axis=1), strict=True):
        bins = graph.add("Slice", spectrum, *(graph.integers(value) for value in (0, target.max_bin, 3)))
        parts.append(_dense(graph, bins, graph.reshape(kernel, target.hidden_size, target.max_bin)))
    return graph.add("Add", graph.add("Sum", *parts), shift)


def _dense(graph: GraphNodes, x: str, weight: str, bias: str | None = None) -> str:
    """Append a dense layer over the last axis; `weight` [shape=(out, in)]."""
    y = graph.add("MatMul", x, graph.add("Transpose", weight, perm=[1, 0]))
    return graph.add("Add", y, bias) if bias else y


def _scaled(graph: GraphNodes, weight: str, gain: str) -> str:
    """Scale what a dense layer puts out, one factor for each."""
    (n_out, _) = graph.parameters[weight]
    return graph.add("Mul", weight, graph.reshape(gain, n_out, 1))


def _parts(graph: GraphNodes, x: str, n_channels: int, axis: int = 0) -> list[str]:
    return graph.split(x, n_channels, axis=axis) if n_channels > 1 else [x]


def _norm(graph: GraphNodes, prefix: str) -> tuple[str, str]:
    """What a batch normalisation multiplies with and adds, by the statistics that it has learnt."""
    variance = graph.add("Add", f"{prefix}running_var", graph.scalar(NORM_EPS))
    gain = graph.add("Div", f"{prefix}weight", graph.add("Sqrt", variance))
    return gain, graph.add("Sub", f"{prefix}bias", graph.add("Mul", f"{prefix}running_mean", gain))
