"""Makes the tensors of Spleeter's checkpoints, small ones or as large as the published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

FILTERS = (2, 3, 4, 5, 6, 7)
OFFICIAL_FILTERS = (16, 32, 64, 128, 256, 512)

Tensors = dict[str, np.ndarray[Any, Any]]


def spleeter_tensors(n_stems: int, *, n_channels: int = 2, filters: Sequence[int] = FILTERS) -> Tensors:
    """A checkpoint as field notes on Spleeter describe it, every value different."""
    rng = np.random.default_rng(n_stems)
    tensors: Tensors = {"global_step": np.array(7, np.int64)}

    def add(name: str, index: int, shapes: dict[str, tuple[int, ...]]) -> None:
        for part, shape in shapes.items():
            tensors[f"{name}_{index}/{part}" if index else f"{name}/{part}"] = rng.standard_normal(shape, np.float32)

    def norm(index: int, n: int) -> None:
        add("batch_normalization", index, dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), (n,)))

    for k in range(n_stems):
        n_in = n_channels
        for i, n in enumerate(filters):
            add("conv2d", 7 * k + i, {"kernel": (5, 5, n_in, n), "bias": (n,)})
            norm(12 * k + i, n)
            n_in = n
        seen = [filters[-1], *(2 * n for n in filters[-2::-1])]
        for i, (n_in, n) in enumerate(zip(seen, [*filters[-2::-1], 1], strict=True)):
            add("conv2d_transpose", 6 * k + i, {"kernel": (5, 5, n, n_in), "bias": (n,)})
            norm(12 * k + 6 + i, n)
        add("conv2d", 7 * k + 6, {"kernel": (4, 4, 1, n_channels), "bias": (n_channels,)})
    return tensors
