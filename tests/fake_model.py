"""A model whose network is a line of NumPy, so that the pipeline's results can be computed in another way."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unbraid.datatypes import FloatArray

STEMS = ("vocals", "drums", "bass")


def weights(n_bins: int) -> FloatArray:
    """Share of each stem in each bin [shape=(stem, F)]; any positive numbers do."""
    return np.random.default_rng(5).uniform(0.1, 1.0, (len(STEMS), n_bins)).astype(np.float32)


@dataclass
class BinShares:
    """An engine: every stem is the mix times a fixed weight of each bin. Late segments are quicker than early ones."""

    n_streams: int = 3
    calls: int = 0

    def run(self, inputs: Sequence[FloatArray]) -> tuple[FloatArray, ...]:
        self.calls += 1
        time.sleep(0.02 / self.calls)
        (magnitudes,) = inputs
        return (magnitudes[:, None] * weights(magnitudes.shape[-1])[:, None, None, :],)
