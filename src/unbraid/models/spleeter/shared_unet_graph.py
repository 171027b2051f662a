"""Unbraid's own shared U-Net as nodes of an ONNX graph: the arithmetic of `shared_unet.SharedUNet`.

Inside, maps are (feature, row, column), rows being folded bins and columns folded frames, as that module has them; the
input and the output are turned, since the pipeline's arrays are (…, frame, bin).
"""

from __future__ import annotations

from unbraid.models.spleeter.config import SharedUNetConfig, SpleeterConfig
from unbraid.models.spleeter.nodes import INPUT, OUTPUT, GraphNodes

__all__ = ["describe_shared_unet"]

BATCH_NORM_EPS = 1e-5  # torch's default


def describe_shared_unet(graph: GraphNodes, config: SpleeterConfig, shared: SharedUNetConfig) -> None:
    """Add the network, and the masks that it makes."""
    widths, n_rows = shared.widths, shared.n_rows
    x = _folded_features(graph, config, shared)
    x = _convolution_unit(graph, "stem.", x, shared.n_channels * shared.n_folded, widths[0])
    skips: list[str] = []
    for level, width in enumerate(widths):
        for block in range(shared.n_blocks):
            x = _block(graph, f"encoders.{level}.{block}.", x, width, n_rows >> level, shared.tdf_divisor)
        if level < len(widths) - 1:
            skips.append(x)
            x = graph.convolution(f"downs.{level}.", x, (widths[level + 1], width, 2, 2), strides=[2, 2])
    for level in reversed(range(len(widths) - 1)):
        x = graph.transposed(f"ups.{level}.", x, (widths[level + 1], widths[level], 2, 2), strides=[2, 2])
        x = graph.add("Add", x, skips.pop())
        x = _block(graph, f"decoders.{level}.", x, widths[level], n_rows >> level, shared.tdf_divisor)
    n_outputs = shared.n_stems * shared.n_channels
    x = graph.convolution("head.", x, (n_outputs * shared.n_folded, widths[0], 1, 1))
    x = graph.reshape(x, n_outputs, shared.fold_bins, shared.fold_frames, n_rows, -1)
    x = graph.add("Transpose", x, perm=[0, 4, 2, 3, 1])
    logits = graph.reshape(x, 1, shared.n_stems, shared.n_channels, config.n_frames, config.n_bins)
    mix = graph.reshape(INPUT, 1, 1, shared.n_channels, config.n_frames, config.n_bins)
    graph.add("Mul", graph.add("Softmax", logits, axis=1), mix, name=OUTPUT)


def _folded_features(graph: GraphNodes, config: SpleeterConfig, shared: SharedUNetConfig) -> str:
    """The logarithm of the magnitudes, scaled a bin, with neighbouring bins and frames as channels."""
    offset = graph.scalar(shared.log_offset)
    x = graph.add("Log", graph.add("Add", INPUT, offset))
    for op, name in (("Mul", "bin_scale"), ("Add", "bin_offset")):
        x = graph.add(op, x, graph.reshape(graph.parameter(name, config.n_bins, 1), config.n_bins))
    n_columns = config.n_frames // shared.fold_frames
    x = graph.reshape(x, shared.n_channels, n_columns, shared.fold_frames, shared.n_rows, shared.fold_bins)
    x = graph.add("Transpose", x, perm=[0, 4, 2, 3, 1])
    return graph.reshape(x, 1, shared.n_channels * shared.n_folded, shared.n_rows, n_columns)


def _convolution_unit(graph: GraphNodes, prefix: str, x: str, n_in: int, n_out: int) -> str:
    x = graph.convolution(f"{prefix}conv.", x, (n_out, n_in, 3, 3), bias=False, pads=[1, 1, 1, 1])
    return graph.add("Relu", graph.norm(f"{prefix}norm.", x, n_out, epsilon=BATCH_NORM_EPS))


def _block(graph: GraphNodes, prefix: str, x: str, width: int, n_rows: int, divisor: int) -> str:
    """A convolution unit, and two dense layers along the rows, which add to their input."""
    x = _convolution_unit(graph, f"{prefix}conv.", x, width, width)
    prefix = f"{prefix}frequency."
    n_inner = n_rows // divisor
    inner = graph.add("MatMul", graph.parameter(f"{prefix}squeeze", n_inner, n_rows), x)
    inner = graph.add("Relu", graph.norm(f"{prefix}norm.", inner, width, epsilon=BATCH_NORM_EPS))
    return graph.add("Add", x, graph.add("MatMul", graph.parameter(f"{prefix}expand", n_rows, n_inner), inner))
