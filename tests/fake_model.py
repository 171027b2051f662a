"""Models for tests: one whose network is a line of NumPy, and a real one, small and random."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unbraid.datatypes import FloatArray
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.models.spleeter.graph import parameter_shapes
from unbraid.weights.folder import write_model
from unbraid.weights.model_file import ModelFile, NetworkPart

STEMS = ("vocals", "drums", "bass")


def weights(n_bins: int) -> FloatArray:
    """Share of each stem in each bin [shape=(stem, F)]; any positive numbers do."""
    return np.random.default_rng(5).uniform(0.1, 1.0, (len(STEMS), n_bins)).astype(np.float32)


@dataclass
class BinShares:
    """An engine: every stem is the mix times a fixed weight of each bin. Late segments are quicker than early ones."""

    n_streams: int = 3
    calls: int = 0

    def run(self, inputs: Sequence[FloatArray], n_samples: int = 0) -> tuple[FloatArray, ...]:
        self.calls += 1
        time.sleep(0.02 / self.calls)
        (magnitudes,) = inputs
        return (magnitudes[:, None] * weights(magnitudes.shape[-1])[:, None, None, :],)


def write_model_folder(folder: Path, *, stems: Sequence[str] = ("vocals", "drums", "bass", "other")) -> Path:
    """A real U-Net of the family, but small and random, as a model folder that the command can be given."""
    config = SpleeterConfig(stems=tuple(stems), n_frames=64, n_bins=1024, conv_n_filters=(4, 4, 8, 8, 8, 8))
    rng = np.random.default_rng(1)
    state = {
        name: rng.uniform(0.5, 1.5, shape).astype(np.float32)
        if name.endswith("running_var")
        else rng.normal(0, (2 / max(1, int(np.prod(shape[1:])))) ** 0.5, shape).astype(np.float32)
        for name, shape in parameter_shapes(config).items()
    }
    network = NetworkPart("spleeter", config)
    write_model(folder, ModelFile("tiny", config.stems, config.sample_rate, (network,), 0, ""), state)
    return folder
