"""The U-Nets over spectrogram and waveform as nodes of an ONNX graph: the arithmetic of `network.HybridUNet`.

Arrays are (1, channel, bin, frame), and (1, channel, 1, time) for the waveform and past the layer that leaves one bin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from unbraid.errors import ModelError
from unbraid.models.demucs_nodes import (
    conv,
    conv_transposed,
    dconv,
    gated_conv,
    gelu,
    glu,
    group_norm,
    slices,
    standardised,
)
from unbraid.models.hdemucs.bands import decoder_bands, encoder_bands
from unbraid.models.hdemucs.config import UNetConfig, UNetLayer
from unbraid.models.onnx_graph import GraphNodes
from unbraid.models.shapes import Shapes

__all__ = ["Bottom", "Maps", "describe_unet", "input_shapes"]

SPECTRUM: Final = "spectrum"
MIX: Final = "mix"
SPECTRA: Final = "spectra"
WAVES: Final = "waves"
_SILENCE: Final = 1e-5  # added to the standard deviation that the input is divided by


@dataclass(frozen=True)
class Maps:
    """An array of the graph: its name, and its shape (1, n_channels, n_rows, n_steps)."""

    name: str
    n_channels: int
    n_rows: int
    n_steps: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Its shape."""
        return (1, self.n_channels, self.n_rows, self.n_steps)


# From what the encoders give (spectrogram, waveform) to what the decoders get besides the skips; None for nothing.
Bottom: TypeAlias = Callable[[GraphNodes, Maps, Maps], tuple[Maps | None, Maps | None]]


@dataclass(frozen=True)
class _Layer:
    """A layer of one branch: see `network._Spec`.

    encoder, decoder : prefixes of the parameters
    """

    encoder: str
    decoder: str
    n_out: int
    n_decoded: int
    kernel_size: int
    stride: int
    padding: int
    over_bins: bool
    normed: bool
    bare: bool
    banded: bool
    outermost: bool
    attention: bool
    with_lstm: bool


def input_shapes(config: UNetConfig, n_samples: int, *, hybrid: bool) -> tuple[tuple[int, ...], ...]:
    """Shapes of a network's inputs, spectrogram and, for a hybrid one, mix."""
    n_frames = -(-n_samples // config.hop) if hybrid else 1 + n_samples // config.hop
    spectrum = (1, config.layers()[0].n_in, config.n_fft // 2, n_frames)
    return (spectrum, (1, config.n_channels, n_samples)) if hybrid else (spectrum,)


def describe_unet(
    name: str,
    config: UNetConfig,
    parameters: Shapes,
    n_samples: int,
    bottom: Bottom | None,
    *,
    hybrid: bool,
    attention_starts: int,
    lstm_starts: int,
) -> GraphNodes:
    """Describe a network: inputs "spectrum" and "mix", outputs "spectra" and "waves", as `HybridUNet.forward` has them.

    bottom : what leads from the encoders to the decoders besides the skips; None for nothing
    """
    inputs = dict(zip((SPECTRUM, MIX), input_shapes(config, n_samples, hybrid=hybrid), strict=False))
    n_stems = len(config.stems)
    outputs = {
        output: (1, n_stems, *shape[1:]) for output, shape in zip((SPECTRA, WAVES), inputs.values(), strict=False)
    }
    graph = GraphNodes(name, inputs, parameters, outputs)
    spectral, temporal = _layers(config, hybrid, attention_starts, lstm_starts)
    normalised, *scale = standardised(graph, SPECTRUM, inputs[SPECTRUM], _SILENCE)
    x = Maps(normalised, *inputs[SPECTRUM][1:])
    wave = None
    if hybrid:
        normalised, *wave_scale = standardised(graph, MIX, inputs[MIX], _SILENCE)
        wave = Maps(graph.reshape(normalised, 1, config.n_channels, 1, n_samples), config.n_channels, 1, n_samples)
    x, wave = _run(graph, config, spectral, temporal, x, wave, bottom)
    _stems(graph, x, SPECTRA, scale)
    if wave is not None:
        _stems(graph, wave, WAVES, wave_scale)
    return graph


def _layers(
    config: UNetConfig, hybrid: bool, attention_starts: int, lstm_starts: int
) -> tuple[list[_Layer], list[_Layer]]:
    """Layers of the spectrogram's and of the waveform's branch, outermost first."""
    layers = config.layers()
    n_temporal = sum(not layer.along_time for layer in layers)
    spectral: list[_Layer] = []
    temporal: list[_Layer] = []
    for i, layer in enumerate(layers):
        made = _Layer(
            encoder=f"encoder.{i}.",
            decoder=f"decoder.{len(layers) - 1 - i}.",
            n_out=layer.n_out,
            n_decoded=layer.n_decoded,
            kernel_size=layer.kernel_size,
            stride=layer.stride,
            padding=0 if layer.merges else layer.kernel_size // 4,
            over_bins=not layer.along_time,
            normed=layer.normed,
            bare=False,
            banded=layer.n_bands > 0,
            outermost=i == 0,
            attention=i >= attention_starts,
            with_lstm=i >= lstm_starts,
        )
        spectral.append(made)
        if hybrid and made.over_bins:
            temporal.append(_temporal(config, layer, made, n_temporal - 1 - i))
    return spectral, temporal


def _temporal(config: UNetConfig, layer: UNetLayer, beside: _Layer, decoder: int) -> _Layer:
    """Describe a layer of the waveform's branch by the spectrogram's beside it."""
    return replace(
        beside,
        encoder=f"t{beside.encoder}",
        decoder=f"tdecoder.{decoder}.",
        n_out=layer.n_out_time,
        n_decoded=layer.n_decoded_time,
        kernel_size=config.kernel_size,
        stride=config.stride,
        padding=config.kernel_size // 4,
        over_bins=False,
        bare=layer.merges,
        banded=False,
    )


def _run(
    graph: GraphNodes,
    config: UNetConfig,
    spectral: list[_Layer],
    temporal: list[_Layer],
    x: Maps,
    wave: Maps | None,
    bottom: Bottom | None,
) -> tuple[Maps, Maps | None]:
    """Encode and decode both branches."""
    skips: list[Maps] = []
    inputs: list[Maps] = []
    time_skips: list[Maps] = []
    time_inputs: list[Maps] = []
    for i, layer in enumerate(spectral):
        injected = None
        if wave is not None and i < len(temporal):
            time_inputs.append(wave)
            wave = _encode(graph, config, temporal[i], wave)
            if temporal[i].bare:
                injected = wave
            else:
                time_skips.append(wave)
        inputs.append(x)
        x = _encode(graph, config, layer, x, injected)
        if i == 0 and config.freq_emb:
            x = _embedded(graph, config, x)
        skips.append(x)
    y: Maps | None = None
    y_wave: Maps | None = None
    if bottom is not None and wave is not None:
        y, y_wave = bottom(graph, x, wave)
    decoded: Maps | None = y
    wave = y_wave
    for i, layer in reversed(list(enumerate(spectral))):
        decoded, inner = _decode(graph, config, layer, _joined(graph, decoded, skips.pop()), inputs.pop())
        if i < len(temporal):
            skip = inner if temporal[i].bare else _joined(graph, wave, time_skips.pop())
            wave, _ = _decode(graph, config, temporal[i], skip, time_inputs.pop())
    assert decoded is not None
    return decoded, wave


def _encode(graph: GraphNodes, config: UNetConfig, layer: _Layer, x: Maps, injected: Maps | None = None) -> Maps:
    """Append a layer of an encoder.

    injected : [shape=(1, n_out, 1, n_steps)], added to what the outer convolution gives
    """
    padding = layer.padding
    if not layer.banded:
        return _encode_band(graph, config, layer, layer.encoder, x, (padding, padding), injected)
    parts = []
    bands = encoder_bands(x.n_rows, config.multi_freqs, layer.kernel_size, layer.stride)
    for i, band in enumerate(bands):
        rows = slices(graph, x.name, band.start, band.stop, axis=2)
        part = Maps(rows, x.n_channels, band.stop - band.start, x.n_steps)
        pads = (band.n_below, band.n_above)
        parts.append(_encode_band(graph, config, layer, f"{layer.encoder}layers.{i}.", part, pads, None))
    name = graph.add("Concat", *(part.name for part in parts), axis=2)
    return Maps(name, layer.n_out, sum(part.n_rows for part in parts), x.n_steps)


def _encode_band(
    graph: GraphNodes,
    config: UNetConfig,
    layer: _Layer,
    prefix: str,
    x: Maps,
    pads: tuple[int, int],
    injected: Maps | None,
) -> Maps:
    """Append a layer of an encoder over all bins or some.

    pads : zeros before and after, along the axis of the outer convolution
    """
    low, high = pads
    if layer.over_bins:
        n_rows, n_steps = (x.n_rows + low + high - layer.kernel_size) // layer.stride + 1, x.n_steps
        y = conv(graph, f"{prefix}conv.", x.name, strides=[layer.stride, 1], pads=[low, 0, high, 0])
    else:
        high += -x.n_steps % layer.stride
        n_rows, n_steps = 1, (x.n_steps + low + high - layer.kernel_size) // layer.stride + 1
        y = conv(graph, f"{prefix}conv.", x.name, strides=[1, layer.stride], pads=[0, low, 0, high])
    maps = Maps(y, layer.n_out, n_rows, n_steps)
    if layer.bare:
        return maps
    if injected is not None:
        if injected.n_steps != n_steps:
            raise ModelError(
                f"n_fft / 4 must be the product of the strides up to where the branches meet, "
                f"got {injected.n_steps} steps of the waveform for {n_steps} frames"
            )
        y = graph.add("Add", y, injected.name)
    y = gelu(graph, _normed(graph, config, layer, f"{prefix}norm1.", y, maps.shape))
    if config.dconv_mode & 1:
        y = _branch(graph, config, layer, prefix, replace(maps, name=y))
    return _rewritten(graph, config, layer, prefix, replace(maps, name=y), "norm2.", (config.context_enc,) * 2)


def _decode(graph: GraphNodes, config: UNetConfig, layer: _Layer, x: Maps, like: Maps) -> tuple[Maps, Maps]:
    """Append a layer of a decoder.

    like : what the layer of the encoder took

    returns : what it gives, and what its transposed convolution took (`x` where there are bands)
    """
    if layer.banded:
        return _decode_bands(graph, config, layer, x, like), x
    inner = _decode_inner(graph, config, layer, layer.decoder, x)
    size, wanted = (x.n_rows, like.n_rows) if layer.over_bins else (x.n_steps, like.n_steps)
    n_full = (size - 1) * layer.stride + layer.kernel_size
    low, high = layer.padding, n_full - layer.padding - wanted
    if high < 0 or (layer.over_bins and high != low):
        raise _misfit(layer)
    if layer.normed:  # what is cut off counts in the norm
        y = _transposed(graph, layer, layer.decoder, inner.name, 0, 0)
        shape = (1, layer.n_decoded, n_full, x.n_steps) if layer.over_bins else (1, layer.n_decoded, 1, n_full)
        y = group_norm(graph, f"{layer.decoder}norm2.", y, shape, config.norm_groups)
        y = slices(graph, y, low, low + wanted, axis=2 if layer.over_bins else 3)
    else:
        y = _transposed(graph, layer, layer.decoder, inner.name, low, high)
    return Maps(y if layer.outermost else gelu(graph, y), layer.n_decoded, like.n_rows, like.n_steps), inner


def _decode_bands(graph: GraphNodes, config: UNetConfig, layer: _Layer, x: Maps, like: Maps) -> Maps:
    """Append a layer of a decoder for each band; neighbours overlap by one stride, in which they are added."""
    stride = layer.stride
    parts: list[str] = []
    n_last = n_total = 0
    for i, band in enumerate(decoder_bands(x.n_rows, config.multi_freqs)):
        prefix = f"{layer.decoder}layers.{i}."
        rows = slices(graph, x.name, band.start, band.stop, axis=2)
        n_rows = band.stop - band.start
        inner = _decode_inner(graph, config, layer, prefix, replace(x, name=rows, n_rows=n_rows))
        part = _transposed(graph, layer, prefix, inner.name, 0, 0)
        n_full = (n_rows - 1) * stride + layer.kernel_size
        if parts:
            bias = graph.reshape(f"{prefix}conv_tr.bias", 1, layer.n_decoded, 1, 1)
            start = graph.add("Sub", slices(graph, part, 0, stride, axis=2), bias)
            end = slices(graph, parts[-1], n_last - stride, n_last, axis=2)
            parts[-1:] = [slices(graph, parts[-1], 0, n_last - stride, axis=2), graph.add("Add", end, start)]
            part = slices(graph, part, stride, n_full, axis=2)
            n_full -= stride
        parts.append(part)
        n_last = n_full
        n_total += n_full
    low, high = stride // 2, (stride + 1) // 2
    if n_total - low - high != like.n_rows:
        raise _misfit(layer)
    y = slices(graph, graph.add("Concat", *parts, axis=2), low, n_total - high, axis=2)
    return Maps(y if layer.outermost else gelu(graph, y), layer.n_decoded, like.n_rows, like.n_steps)


def _decode_inner(graph: GraphNodes, config: UNetConfig, layer: _Layer, prefix: str, x: Maps) -> Maps:
    """Append what comes before the transposed convolution."""
    if layer.bare:
        return x
    context = (0 if layer.banded else config.context, config.context)
    y = _rewritten(graph, config, layer, prefix, x, "norm1.", context)
    return replace(y, name=_branch(graph, config, layer, prefix, y)) if config.dconv_mode & 2 else y


def _rewritten(
    graph: GraphNodes, config: UNetConfig, layer: _Layer, prefix: str, x: Maps, norm: str, context: tuple[int, int]
) -> Maps:
    """Append the further convolution, which sees so many bins and steps on either side, if there is one."""
    if not config.rewrite:
        return x
    rows, steps = context if layer.over_bins else (0, context[1])
    pads = [rows, steps, rows, steps]
    if not layer.normed:
        return replace(x, name=gated_conv(graph, f"{prefix}rewrite.", x.name, pads=pads))
    y = conv(graph, f"{prefix}rewrite.", x.name, pads=pads)
    y = group_norm(graph, f"{prefix}{norm}", y, (1, 2 * x.n_channels, *x.shape[2:]), config.norm_groups)
    return replace(x, name=glu(graph, y))


def _branch(graph: GraphNodes, config: UNetConfig, layer: _Layer, prefix: str, x: Maps) -> str:
    return dconv(
        graph,
        f"{prefix}dconv.",
        x.name,
        x.n_rows,
        x.n_steps,
        depth=config.dconv_depth,
        dilate=config.dconv_dilate,
        attention=layer.attention,
        with_lstm=layer.with_lstm,
    )


def _normed(graph: GraphNodes, config: UNetConfig, layer: _Layer, prefix: str, x: str, shape: tuple[int, ...]) -> str:
    return group_norm(graph, prefix, x, shape, config.norm_groups) if layer.normed else x


def _transposed(graph: GraphNodes, layer: _Layer, prefix: str, x: str, low: int, high: int) -> str:
    """Append the transposed convolution, without so much of its ends."""
    strides, pads = (
        ([layer.stride, 1], [low, 0, high, 0]) if layer.over_bins else ([1, layer.stride], [0, low, 0, high])
    )
    return conv_transposed(graph, f"{prefix}conv_tr.", x, strides=strides, pads=pads)


def _embedded(graph: GraphNodes, config: UNetConfig, x: Maps) -> Maps:
    """Append the frequency embedding."""
    turned = graph.add("Transpose", "freq_emb.embedding.weight", perm=[1, 0])
    scaled = graph.add("Mul", turned, graph.scalar(config.freq_emb * config.emb_scale))
    return replace(x, name=graph.add("Add", x.name, graph.reshape(scaled, 1, x.n_channels, x.n_rows, 1)))


def _joined(graph: GraphNodes, x: Maps | None, skip: Maps) -> Maps:
    return skip if x is None else replace(skip, name=graph.add("Add", x.name, skip.name))


def _stems(graph: GraphNodes, x: Maps, output: str, scale: list[str]) -> None:
    """Append an output: the stems apart, with the mean and standard deviation of the mix."""
    mean, deviation = (graph.reshape(value, 1, 1, 1, 1) for value in scale)
    y = graph.add("Add", graph.add("Mul", x.name, deviation), mean)
    graph.add("Reshape", y, graph.integers(*graph.outputs[output]), name=output)


def _misfit(layer: _Layer) -> ModelError:
    return ModelError(
        f"kernel_size must suit stride, got {layer.kernel_size} for {layer.stride}: the decoder does not give what "
        "the encoder took"
    )
