"""Every recipe can learn: at the size of a toy, it learns one song of 12 seconds by heart.

The song is one whose stems can be had by masks: of most synthetic songs, true ratio masks (of magnitudes) at this
resolution give 10 to 16 dB over the mix, and a network of masks hardly more; of this one 19 with four stems, 21 with
five and 18 with two. (With a change of the generator it is another song, and may need another seed.)
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning_fabric import Fabric

from dataset_makers import make_song
from unbraid.datatypes import FloatArray
from unbraid.evaluation.scores import usdr
from unbraid.training.augment import AugmentConfig
from unbraid.training.data import Span
from unbraid.training.examples import Examples, batches
from unbraid.training.loop import fit
from unbraid.training.networks import example_samples, initialise, make_trainable
from unbraid.training.recipe import Recipe, load_recipe
from unbraid.training.run import network_config
from unbraid.training.validation import separate_span

RATE = 8000
LEAST_DB = 15.0  # of improvement over the mix, by the mean over stems
STFT = ["network.config.sample_rate=8000", "network.config.frame_length=1024", "network.config.frame_step=256"]
SPLEETER = [*STFT, "network.config.T=64", "network.config.F=512", "optimizer.learning_rate=2e-3"]
UNET = "network.config.model.params.conv_n_filters=[16, 32, 32, 64, 64, 64]"
DEMUCS = ["network.config.sample_rate=8000", "data.segment_s=1.0", "network.config.hidden_channels=24",
          "network.config.depth=4", "network.config.norm_starts=4", "optimizer.learning_rate=2e-3"]  # fmt: skip
HYBRID = ["network.config.sample_rate=8000", "network.config.n_fft=1024", "network.config.hidden_channels=16",
          "optimizer.learning_rate=2e-3"]  # fmt: skip
HT = [*HYBRID, "data.segment_s=1.024", "network.config.segment_samples=8192", "network.config.bottom_channels=64",
      "network.config.transformer.n_heads=4", "network.config.transformer.n_layers=3"]  # fmt: skip
SHARED = [*STFT, "network.config.T=64", "network.config.F=512",
          "network.config.model.params.widths=[16, 24, 32, 48, 64]"]  # fmt: skip
RECIPES: dict[str, tuple[int, list[str]]] = {
    "small": (1200, SHARED),
    "unbraid-5stems": (1200, SHARED),
    "unbraid-5stems-tuned": (1200, SHARED),
    "spleeter-2stems": (1200, [*SPLEETER, UNET]),
    "spleeter-4stems": (1200, [*SPLEETER, UNET]),
    "spleeter-5stems": (1200, [*SPLEETER, UNET]),
    "spleeter-musdb": (1200, [*SPLEETER, UNET]),
    "demucs-2019": (1500, DEMUCS),
    "demucs-v2": (1500, DEMUCS),
    "hdemucs": (700, [*HYBRID, "data.segment_s=1.024", "network.config.depth=5"]),
    "htdemucs": (700, HT),
    "sparse-htdemucs": (700, HT),
    "htdemucs-finetune": (700, [*HT, "optimizer.weight_decay=0"]),
    "openunmix": (2500, ["network.config.sample_rate=8000", "network.config.n_fft=1024", "network.config.hop=256",
                        "network.config.n_iterations=0", "data.segment_s=1.5",
                        "network.config.targets=[{hidden_size=128, max_bin=513, n_layers=2}]"]),
}  # fmt: skip


class Track:
    """In place of a decoded one."""

    name, sample_rate = "song", RATE

    def __init__(self, samples: FloatArray) -> None:
        self.samples = samples

    def read(self, start: int, stop: int) -> FloatArray:
        return self.samples[..., start:stop]


def the_song(stems: tuple[str, ...], normalised: bool) -> Span:
    """The stems of a song, the piano's being half of the keyboards, and the accompaniment all but the voice."""
    song: dict[str, FloatArray] = dict(make_song(12.0, seed=9, sample_rate=RATE))
    song["piano"] = np.stack([song["other"][0], np.zeros_like(song["other"][0])])
    if "piano" in stems:
        song["other"] = song["other"] - song["piano"]
    song["accompaniment"] = song["drums"] + song["bass"] + song["other"]
    samples = np.stack([song[stem] for stem in stems])
    if normalised:
        samples /= samples.sum(axis=0).mean(axis=0).std()
    track: Any = Track(samples)
    return Span(track, 0, samples.shape[-1])


def improvement(name: str, folder: Path, n_steps: int, changes: list[str]) -> float:
    """Mean improvement of the stems' SDR over that of the mix, in dB, on the song that was learnt."""
    schedule = [f"schedule.max_steps={n_steps}", f"schedule.epoch_steps={n_steps}", "schedule.kind=cosine"]
    recipe: Recipe = replace(
        load_recipe(name, [*changes, *schedule, "data.batch_size=4", "average.steps=[0.9]", "average.epochs=[]"]),
        augment=AugmentConfig(),
    )
    stems = recipe.data.stems or ("vocals", "drums", "bass", "other")
    config = network_config(recipe, stems)
    n_samples = example_samples(recipe.network.family, config, recipe.data.segment_s or None)
    span = the_song(stems, recipe.data.normalise)
    trainable = make_trainable(recipe.network.family, config, n_samples=n_samples)
    initialise(trainable, seed=0, rescale=recipe.network.rescale or None)
    fit(
        trainable,
        recipe,
        lambda step: batches(Examples([span]), batch_size=4, n_samples=n_samples, seed=0, first_step=step),
        [span],
        fabric=Fabric(accelerator="cpu", devices=1),
        checkpoint=folder / "checkpoint.safetensors",
        n_samples=n_samples,
    )
    truth, estimates = span.read(0, span.n_samples), separate_span(trainable, span, n_samples, 4)
    mix = truth.sum(axis=0)
    return float(np.mean([usdr(s, e) - usdr(s, mix) for s, e in zip(truth, estimates, strict=True)]))


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_learns_a_song_by_heart(name: str, tmp_path: Path) -> None:
    assert improvement(name, tmp_path, *RECIPES[name]) >= LEAST_DB


def test_the_smallest_begins_to(tmp_path: Path) -> None:
    """A taste of the above that every run of the tests can afford."""
    _, changes = RECIPES["small"]
    assert improvement("small", tmp_path, 40, changes) >= 3
