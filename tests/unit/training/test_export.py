"""What a training ends in can be written, whatever the tensors of its network are."""

from pathlib import Path

import numpy as np

from unbraid.models.openunmix.config import OpenUnmixConfig, TargetConfig
from unbraid.training.export import save_model
from unbraid.training.networks import make_trainable
from unbraid.weights.model_file import WEIGHTS
from unbraid.weights.tensors import read_tensors


def test_counts_of_batches_are_numbers_without_axes(tmp_path: Path) -> None:
    config = OpenUnmixConfig(("a",), (TargetConfig(8, 17, 1),), sample_rate=8000, n_fft=64, hop=16, n_iterations=0)
    trainable = make_trainable("openunmix", config, n_samples=512)
    save_model(tmp_path / "model", {"": trainable})
    count = read_tensors(tmp_path / "model" / WEIGHTS)["a.bn1.num_batches_tracked"]
    assert count.shape == () and count.dtype == np.int64
