"""Resampling by two as nodes of an ONNX graph: what `resampling_kernels` describes, block by block.

A filter from one channel to one or two leaves most of a vector unit idle. So a block of samples becomes as many
channels, for which the taps are rearranged: the same sums, and some zeros.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from unbraid.models.demucs.resampling import resampling_kernels
from unbraid.models.onnx_graph import GraphNodes

__all__ = ["doubled", "halved"]

BLOCK: Final = 16  # samples, at the lower of the two rates


def doubled(graph: GraphNodes, x: str, n_channels: int, n: int) -> str:
    """Append what gives twice the sample rate.

    x : [shape=(1, n_channels, 1, n)]
    returns : [shape=(1, n_channels, 1, 2 · n)]
    """
    return _resampled(graph, x, n_channels, n, 2 * n, old=1, new=2)


def halved(graph: GraphNodes, x: str, n_channels: int, n: int) -> str:
    """Append what gives half the sample rate.

    x : [shape=(1, n_channels, 1, n)]
    returns : [shape=(1, n_channels, 1, n // 2)]
    """
    return _resampled(graph, x, n_channels, n, n // 2, old=2, new=1)


def _resampled(graph: GraphNodes, x: str, n_channels: int, n: int, n_out: int, *, old: int, new: int) -> str:
    size_in, size_out = BLOCK * old, BLOCK * new
    kernel, lead = _block_kernel(old, new)
    n_blocks = -(-n_out // size_out)
    n_padded = (n_blocks + kernel.shape[2] - 1) * size_in
    # Beyond its ends the signal stays what it last was.
    pads = graph.integers(0, 0, 0, lead * size_in, 0, 0, 0, n_padded - lead * size_in - n)
    blocks = graph.reshape(graph.add("Pad", x, pads, mode="edge"), n_channels, -1, size_in)
    channels = graph.reshape(graph.add("Transpose", blocks, perm=[0, 2, 1]), n_channels, size_in, 1, -1)
    y = graph.add("Conv", channels, graph.constant(kernel[:, :, None]))
    y = graph.add("Transpose", graph.reshape(y, n_channels, size_out, -1), perm=[0, 2, 1])
    y = graph.reshape(y, 1, n_channels, 1, n_blocks * size_out)
    if n_blocks * size_out == n_out:
        return y
    return graph.add("Slice", y, graph.integers(0), graph.integers(n_out), graph.integers(3))


def _block_kernel(old: int, new: int) -> tuple[NDArray[np.float32], int]:
    """Arrange the taps for blocks: output `r` of block b is a sum over samples `q` of blocks b − lead … b + lead.

    returns : [shape=(BLOCK · new, BLOCK · old, 2 · lead + 1)], and `lead`
    """
    kernels = resampling_kernels(old=old, new=new)
    reach = (kernels.shape[1] - old) // 2
    size = BLOCK * old
    lead = -(-(reach + old) // size)
    r, q, m = np.ogrid[: BLOCK * new, :size, : 2 * lead + 1]
    tap = (m - lead) * size + q - r // new * old + reach
    within = (tap >= 0) & (tap < kernels.shape[1])
    return np.where(within, kernels[r % new, np.where(within, tap, 0)], 0).astype(np.float32), lead
