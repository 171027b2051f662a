"""Names and shapes of the tensors of a Demucs network, computed without torch.

Names are those of upstream's class of version 3, whatever the version of the network. All tensors are parameters:
there are no buffers.
"""

from __future__ import annotations

from unbraid.errors import ModelError
from unbraid.models.demucs.config import N_DECAYS, N_HEADS, DemucsConfig
from unbraid.models.shapes import Shapes, conv, conv_transposed, linear, lstm, nested, norm, numbered

__all__ = ["branch_shapes", "from_v2_names", "parameter_shapes"]


def parameter_shapes(config: DemucsConfig) -> Shapes:
    """Tell which tensors a network has, by name, in the order in which torch registers them."""
    widths = config.widths
    wide = 2 if config.glu else 1  # GLU halves its channels
    ins = (config.n_channels, *widths)
    outs = (len(config.stems) * config.n_channels, *widths)
    if config.upsample:
        outs = (config.hidden_channels, *widths)
    outer = conv if config.upsample else conv_transposed
    encoder: list[Shapes] = []
    decoder: list[Shapes] = []
    for i, width in enumerate(widths):
        normed = i >= config.norm_starts
        branch = branch_shapes(
            width,
            depth=config.dconv_depth,
            compression=config.dconv_comp,
            attention=i >= config.dconv_attn,
            with_lstm=i >= config.dconv_lstm,
        )
        encode = [conv(ins[i], width, config.kernel_size), *_norm(width, normed)]
        if config.dconv_mode & 1:
            encode.append(branch)
        decode = []
        if config.rewrite:
            encode += [conv(width, wide * width, 1), *_norm(wide * width, normed)]
            decode += [conv(width, wide * width, 2 * config.context + 1), *_norm(wide * width, normed)]
        if config.dconv_mode & 2:
            decode.append(branch)
        decode.append(outer(width, outs[i], config.kernel_size))
        if i:
            decode += _norm(outs[i], normed)
        encoder.append(numbered(encode))
        decoder.insert(0, numbered(decode))
    parts = {"encoder": numbered(encoder), "decoder": numbered(decoder)}
    if config.upsample:
        parts["final"] = conv(config.hidden_channels + config.n_channels, len(config.stems) * config.n_channels, 1)
    if config.lstm_layers:
        parts["lstm"] = _lstm(widths[-1], config.lstm_layers)
    return nested(parts)


def from_v2_names(config: DemucsConfig) -> dict[str, str]:
    """Map the names that a network has in upstream's first two releases to ours, in the order of `parameter_shapes`.

    They have no place for normalisation in a layer, so that its further convolution comes third instead of fourth
    (and in the decoder, the transposed one that follows it).

    Raises
    ------
    ModelError : a network that those releases cannot build
    """
    if config.dconv_mode or config.norm_starts < config.depth:
        raise ModelError("only networks without normalisation and residual branches have names of Demucs v2")
    names = {}
    for name in parameter_shapes(config):
        branch, *position = name.split(".")
        if branch in ("encoder", "decoder") and position[1] == "3":
            position[1] = "2"
        names[".".join((branch, *position))] = name
    return names


def branch_shapes(width: int, *, depth: int, compression: float, attention: bool, with_lstm: bool) -> Shapes:
    """Tell which tensors the residual branch ("DConv") of a layer has.

    width : channels of the layer
    depth, compression : convolutions, and how many times fewer channels they have
    attention, with_lstm : what the branch has besides
    """
    hidden = int(width / compression)
    parts = [conv(width, hidden, 3), norm(hidden), {}]
    if with_lstm:
        parts.append(_lstm(hidden, 2))
    if attention:
        kinds = ("content", "query", "key")
        shapes = {kind: conv(hidden, hidden, 1) for kind in kinds}
        parts.append(
            nested({**shapes, "query_decay": conv(hidden, N_HEADS * N_DECAYS, 1), "proj": conv(hidden, hidden, 1)})
        )
    parts += [conv(hidden, 2 * width, 1), norm(2 * width), {}, {"scale": (width,)}]
    return nested({"layers": numbered([numbered(parts)] * depth)})


def _norm(width: int, normed: bool) -> list[Shapes]:
    """What follows a convolution: a normalisation, if any, and an activation."""
    return [norm(width) if normed else {}, {}]


def _lstm(width: int, n_layers: int) -> Shapes:
    return nested({"lstm": lstm(width, width, n_layers), "linear": linear(2 * width, width)})
