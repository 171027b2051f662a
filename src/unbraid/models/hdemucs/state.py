"""Names and shapes of the tensors of a Hybrid Demucs network, computed without torch.

Names are upstream's. All tensors are parameters: there are no buffers.
"""

from __future__ import annotations

from unbraid.models.demucs.state import branch_shapes
from unbraid.models.hdemucs.config import HDemucsConfig, UNetConfig, UNetLayer
from unbraid.models.shapes import Shapes, conv, conv_transposed, nested, norm, numbered

__all__ = ["parameter_shapes", "unet_parts"]


def parameter_shapes(config: HDemucsConfig) -> Shapes:
    """Tell which tensors a network has, by name, in the order in which torch registers them."""
    return nested(
        unet_parts(config, hybrid=config.hybrid, attention_starts=config.dconv_attn, lstm_starts=config.dconv_lstm)
    )


def unet_parts(config: UNetConfig, *, hybrid: bool, attention_starts: int, lstm_starts: int) -> dict[str, Shapes]:
    """Tell which tensors the encoders and decoders of both branches have.

    hybrid : there is a branch for the waveform
    attention_starts, lstm_starts : first layer whose residual branches have attention, and an LSTM

    returns : tensors by name, by the name of the part in the network
    """
    encoder: list[Shapes] = []
    decoder: list[Shapes] = []
    time_encoder: list[Shapes] = []
    time_decoder: list[Shapes] = []
    for i, layer in enumerate(config.layers()):
        extras = {"attention": i >= attention_starts, "with_lstm": i >= lstm_starts}
        encode, decode = _layer_shapes(config, layer, branch=_branch(config, layer.n_out, **extras))
        encoder.append(encode)
        decoder.insert(0, decode)
        if hybrid and not layer.along_time:
            encode, decode = _time_layer_shapes(config, layer, branch=_branch(config, layer.n_out_time, **extras))
            time_encoder.append(encode)
            time_decoder.insert(0, decode)
    parts = {"encoder": numbered(encoder), "decoder": numbered(decoder)}
    if hybrid:
        parts |= {"tencoder": numbered(time_encoder), "tdecoder": numbered(time_decoder)}
    if config.freq_emb:
        parts["freq_emb"] = {"embedding.weight": (config.n_embedded_bins, config.layers()[0].n_out)}
    return parts


def _layer_shapes(config: UNetConfig, layer: UNetLayer, branch: Shapes) -> tuple[Shapes, Shapes]:
    """Tell which tensors a layer of the spectrogram's encoder has, and the one of its decoder."""
    kernel: tuple[int, ...] = (layer.kernel_size,)
    inner: tuple[int, ...] = (2 * config.context + 1,)
    inner_enc: tuple[int, ...] = (2 * config.context_enc + 1,)
    if not layer.along_time:  # along frequency and time
        kernel = (layer.kernel_size, 1)
        inner = (1 if layer.n_bands else inner[0], inner[0])  # a band must not see its neighbours
        inner_enc = inner_enc * 2
    encode = _encode(config, layer.n_in, layer.n_out, kernel, inner_enc, layer.normed, branch)
    decode = _decode(config, layer.n_out, layer.n_decoded, kernel, inner, layer.normed, branch)
    if layer.n_bands:
        return nested({"layers": numbered([encode] * layer.n_bands)}), nested(
            {"layers": numbered([decode] * layer.n_bands)}
        )
    return encode, decode


def _time_layer_shapes(config: UNetConfig, layer: UNetLayer, branch: Shapes) -> tuple[Shapes, Shapes]:
    """Tell which tensors a layer of the waveform's encoder has, and the one of its decoder."""
    n_in, n_out, n_decoded = layer.n_in_time, layer.n_out_time, layer.n_decoded_time
    kernel = (config.kernel_size,)
    if layer.merges:
        merged = {"conv_tr": conv_transposed(n_out, n_decoded, *kernel)}
        if layer.normed:
            merged["norm2"] = norm(n_decoded)
        return nested({"conv": conv(n_in, n_out, *kernel)}), nested(merged)
    return (
        _encode(config, n_in, n_out, kernel, (2 * config.context_enc + 1,), layer.normed, branch),
        _decode(config, n_out, n_decoded, kernel, (2 * config.context + 1,), layer.normed, branch),
    )


def _encode(
    config: UNetConfig,
    n_in: int,
    n_out: int,
    kernel: tuple[int, ...],
    inner: tuple[int, ...],
    normed: bool,
    branch: Shapes,
) -> Shapes:
    parts = {"conv": conv(n_in, n_out, *kernel)}
    if normed:
        parts["norm1"] = norm(n_out)
    if config.rewrite:
        parts["rewrite"] = conv(n_out, 2 * n_out, *inner)
        if normed:
            parts["norm2"] = norm(2 * n_out)
    if config.dconv_mode & 1:
        parts["dconv"] = branch
    return nested(parts)


def _decode(
    config: UNetConfig,
    n_in: int,
    n_out: int,
    kernel: tuple[int, ...],
    inner: tuple[int, ...],
    normed: bool,
    branch: Shapes,
) -> Shapes:
    parts = {"conv_tr": conv_transposed(n_in, n_out, *kernel)}
    if normed:
        parts["norm2"] = norm(n_out)
    if config.rewrite:
        parts["rewrite"] = conv(n_in, 2 * n_in, *inner)
        if normed:
            parts["norm1"] = norm(2 * n_in)
    if config.dconv_mode & 2:
        parts["dconv"] = branch
    return nested(parts)


def _branch(config: UNetConfig, width: int, *, attention: bool, with_lstm: bool) -> Shapes:
    return branch_shapes(
        width, depth=config.dconv_depth, compression=config.dconv_comp, attention=attention, with_lstm=with_lstm
    )
