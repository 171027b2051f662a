"""Names and shapes of the tensors of an HT Demucs network, computed without torch.

Names are upstream's. All tensors are parameters: there are no buffers.
"""

from __future__ import annotations

from unbraid.models.hdemucs.state import unet_parts
from unbraid.models.htdemucs.config import HTDemucsConfig, TransformerConfig
from unbraid.models.shapes import Shapes, conv, linear, nested, norm, numbered

__all__ = ["parameter_shapes"]


def parameter_shapes(config: HTDemucsConfig) -> Shapes:
    """Tell which tensors a network has, by name, in the order in which torch registers them."""
    parts = unet_parts(config, hybrid=True, attention_starts=config.depth, lstm_starts=config.depth)
    if config.bottom_channels:
        width = config.layers()[-1].n_out
        up, down = conv(width, config.bottom_channels, 1), conv(config.bottom_channels, width, 1)
        parts |= {"channel_upsampler": up, "channel_downsampler": down}
        parts |= {"channel_upsampler_t": up, "channel_downsampler_t": down}
    if config.transformer.n_layers:
        parts["crosstransformer"] = _transformer(config.transformer, config.transformer_width)
    return nested(parts)


def _transformer(config: TransformerConfig, width: int) -> Shapes:
    parts: dict[str, Shapes] = {}
    if config.positions == "scaled":
        parts["position_embeddings"] = {"embedding.weight": (config.max_positions, width)}
    if config.norm_in or config.norm_in_groups:
        parts |= {"norm_in": norm(width), "norm_in_t": norm(width)}
    # Odd layers attend to the other branch, or even ones if the first does.
    layers = numbered(_layer(config, width, (i % 2 == 1) != config.cross_first) for i in range(config.n_layers))
    return nested({**parts, "layers": layers, "layers_t": layers})


def _layer(config: TransformerConfig, width: int, crosses: bool) -> Shapes:
    """Tell which tensors one layer has, with attention to its own branch or to the other."""
    hidden = int(width * config.hidden_scale)
    sparse = config.sparse_cross_attn if crosses else config.sparse_self_attn
    parts = {
        "cross_attn" if crosses else "self_attn": _attention(width, sparse),
        "linear1": linear(width, hidden),
        "linear2": linear(hidden, width),
        "norm1": norm(width),
        "norm2": norm(width),
    }
    if crosses:
        parts["norm3"] = norm(width)
    if config.norm_first and config.norm_out_groups:
        parts["norm_out"] = norm(width)
    if config.layer_scale:
        parts |= {"gamma_1": {"scale": (width,)}, "gamma_2": {"scale": (width,)}}
    return nested(parts)


def _attention(width: int, sparse: bool) -> Shapes:
    if sparse:
        return nested({name: linear(width, width) for name in ("q", "k", "v", "proj")})
    # torch.nn.MultiheadAttention has one matrix for query, key and value.
    projections = {f"in_proj_{name}": (3 * shape[0], *shape[1:]) for name, shape in linear(width, width).items()}
    return {**projections, **nested({"out_proj": linear(width, width)})}
