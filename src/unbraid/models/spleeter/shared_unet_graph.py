"""Unbraid's own shared U-Net as nodes of an ONNX graph: the arithmetic of `shared_unet.SharedUNet`.

Rows are folded bins and columns folded frames. That module has its maps as (feature, row, column); here they are
(feature, column, row), with the kernels turned to match, as the pipeline's arrays are (…, frame, bin): to fold and to
unfold then moves data by short ways, which is three times as fast.
"""

from __future__ import annotations

from unbraid.models.onnx_graph import GraphNodes
from unbraid.models.spleeter.config import SharedUNetConfig, SpleeterConfig
from unbraid.models.spleeter.nodes import INPUT, convolution, share, transposed

__all__ = ["describe_shared_unet"]


def describe_shared_unet(graph: GraphNodes, config: SpleeterConfig, shared: SharedUNetConfig) -> None:
    """Add the network, and the masks that it makes."""
    widths, n_rows = shared.widths, shared.n_rows
    x = _folded_features(graph, config, shared)
    x = _convolution(graph, "stem.", x, shared.n_channels * shared.n_folded, widths[0])
    skips: list[str] = []
    for level, width in enumerate(widths):
        for block in range(shared.n_blocks):
            x = _block(graph, f"encoders.{level}.{block}.", x, width, n_rows >> level, shared.tdf_divisor)
        if level < len(widths) - 1:
            skips.append(x)
            x = convolution(graph, f"downs.{level}.", x, (widths[level + 1], width, 2, 2), strides=[2, 2], turned=True)
    for level in reversed(range(len(widths) - 1)):
        x = transposed(graph, f"ups.{level}.", x, (widths[level + 1], widths[level], 2, 2), strides=[2, 2], turned=True)
        x = graph.add("Add", x, skips.pop())
        x = _block(graph, f"decoders.{level}.", x, widths[level], n_rows >> level, shared.tdf_divisor)
    n_outputs = shared.n_stems * shared.n_channels
    x = convolution(graph, "head.", x, (n_outputs * shared.n_folded, widths[0], 1, 1))
    x = graph.reshape(_features_last(graph, x), -1, n_rows, n_outputs, shared.fold_bins, shared.fold_frames)
    x = graph.add("Transpose", x, perm=[2, 0, 4, 1, 3])
    logits = graph.reshape(x, 1, shared.n_stems, shared.n_channels, config.n_frames, config.n_bins)
    mix = graph.reshape(INPUT, 1, 1, shared.n_channels, config.n_frames, config.n_bins)
    share(graph, graph.split(logits, shared.n_stems), mix)


def _folded_features(graph: GraphNodes, config: SpleeterConfig, shared: SharedUNetConfig) -> str:
    """The logarithm of the magnitudes, scaled a bin, with neighbouring bins and frames as channels."""
    offset = graph.scalar(shared.log_offset)
    x = graph.add("Log", graph.add("Add", INPUT, offset))
    for op, name in (("Mul", "bin_scale"), ("Add", "bin_offset")):
        x = graph.add(op, x, graph.parameter(name, config.n_bins))
    n_columns = config.n_frames // shared.fold_frames
    x = graph.reshape(x, shared.n_channels, n_columns, shared.fold_frames, shared.n_rows, shared.fold_bins)
    x = graph.add("Transpose", x, perm=[1, 3, 0, 4, 2])
    return _features_first(graph, graph.reshape(x, 1, n_columns, shared.n_rows, shared.n_channels * shared.n_folded))


def _convolution(graph: GraphNodes, prefix: str, x: str, n_in: int, n_out: int) -> str:
    return convolution(graph, prefix, x, (n_out, n_in, 3, 3), turned=True, pads=[1, 1, 1, 1])


def _block(graph: GraphNodes, prefix: str, x: str, width: int, n_rows: int, divisor: int) -> str:
    """A convolution, and two dense layers along the rows; each adds to its input."""
    more = graph.add("Relu", _convolution(graph, f"{prefix}conv.", x, width, width))
    x = graph.add("Add", x, graph.add("Mul", more, graph.parameter(f"{prefix}gain", width, 1, 1)))
    prefix = f"{prefix}frequency."
    n_inner = n_rows // divisor
    # The changes of shape keep OpenVINO from moving the arrays about for its matrix products.
    inner = graph.reshape(_features_last(graph, x), -1, n_rows, width)
    inner = graph.add("MatMul", graph.parameter(f"{prefix}squeeze", n_inner, n_rows), inner)
    for op, name in (("Mul", "scale"), ("Add", "offset")):  # of features, which are last here
        inner = graph.add(op, inner, graph.reshape(graph.parameter(f"{prefix}{name}", width, 1, 1), width))
    inner = graph.add("Relu", inner)
    inner = graph.add("MatMul", graph.parameter(f"{prefix}expand", n_rows, n_inner), inner)
    return graph.add("Add", x, _features_first(graph, graph.reshape(inner, 1, -1, n_rows, width)))


def _features_last(graph: GraphNodes, x: str) -> str:
    """(1, feature, column, row) to (1, column, row, feature): how engines lay convolutions out, so nothing moves."""
    return graph.add("Transpose", x, perm=[0, 2, 3, 1])


def _features_first(graph: GraphNodes, x: str) -> str:
    """(1, column, row, feature) to (1, feature, column, row)."""
    return graph.add("Transpose", x, perm=[0, 3, 1, 2])
