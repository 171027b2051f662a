"""What a training ends in: a model folder that `separate` uses at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from unbraid.engines.select import load_engine
from unbraid.errors import ModelError
from unbraid.training.networks import Trainable
from unbraid.training.recipe import Recipe
from unbraid.training.tensors import state_arrays
from unbraid.weights.folder import write_model
from unbraid.weights.model_file import ModelFile, NetworkPart
from unbraid.weights.store import load_model

__all__ = ["card_of", "check_model", "save_model"]

# Between PyTorch and the engine, of the largest output: float32 in another order of summation.
_TOLERANCE = 1e-3


def save_model(
    folder: Path,
    members: Mapping[str, Trainable],
    *,
    training_data: str = "",
    segment_s: float | None = None,
    card: str = "",
) -> None:
    """Write a model folder of one network, or of one for each stem, which are joined to a bag.

    members : name of the network, which is its stem in a bag, to the network
    segment_s : seconds that the network sees at once when it separates, where it is not its own
    """
    first = next(iter(members.values()))
    is_bag = len(members) > 1
    parts, tensors = [], {}
    for name, trainable in members.items():
        weights = tuple(float(stem == name) for stem in trainable.stems) if is_bag else None
        parts.append(NetworkPart(trainable.family, trainable.config, name if is_bag else "", weights))
        arrays = state_arrays(trainable)
        tensors.update({parts[-1].prefix + key: np.asarray(value, order="C") for key, value in arrays.items()})
    model = ModelFile(
        name=folder.name,
        stems=tuple(first.stems),
        sample_rate=first.config.sample_rate,
        networks=tuple(parts),
        weights_size=0,
        weights_sha256="",
        segment_s=segment_s,
        training_data=training_data,
    )
    write_model(folder, model, tensors, card=card)
    check_model(folder, list(members.values()))


def check_model(folder: Path, members: Sequence[Trainable]) -> None:
    """Run a model folder's graphs beside the torch modules; ModelError where they differ by more than rounding."""
    rng = np.random.default_rng(0)
    for part, trainable in zip(load_model(folder).parts, members, strict=True):
        transform = part.transform
        _, n_samples = transform.window(transform.segment)
        window = rng.normal(0, 0.1, (transform.n_channels, n_samples)).astype(np.float32)
        inputs = transform.forward(window)
        engine = load_engine(part.whole(), engine="auto", device="cpu", precision="f32")
        try:
            found = engine.run(inputs)
        finally:
            engine.close()
        network = trainable.network
        was_training, device = network.training, next(network.parameters()).device
        with torch.inference_mode():
            outputs = network.eval()(*(torch.from_numpy(array).to(device) for array in inputs))
        network.train(was_training)
        for one, other in zip(found, outputs if isinstance(outputs, tuple) else (outputs,), strict=True):
            expected = other.float().cpu().numpy()
            error = float(np.abs(one - expected).max() / (np.abs(expected).max() + 1e-12))
            if not error <= _TOLERANCE:
                raise ModelError(
                    f"the model in '{folder}' gives other numbers than its training did (error {error:.1e}): "
                    "please report this, with the recipe"
                )


def card_of(recipe: Recipe, scores: Mapping[str, float], before: Mapping[str, float], about: Sequence[str]) -> str:
    """The model's card, in Markdown: how it was made, and how good it was in validation."""
    rows = [f"| {stem} | {_db(before.get(stem, math.nan))} | {_db(score)} |" for stem, score in scores.items()]
    table = ["| stem | before | after |", "|---|---|---|", *rows] if rows else ["It was not validated."]
    return "\n".join(
        [
            f"# A model trained by the recipe {recipe.name}",
            "",
            *(f"* {line}" for line in about),
            "",
            "SDR in validation, in dB:",
            "",
            *table,
            "",
        ]
    )


def _db(score: float) -> str:
    return "–" if math.isnan(score) else f"{score:.2f}"
