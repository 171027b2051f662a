"""Two claims of "Demucs: Deep Extractor for Music Sources" (2019, Table 2), as far as a CPU allows.

    python -m bench.ablation [--steps N] [--seeds N]

trains a small Demucs on synthetic songs as the recipe demucs-2019 does, without weight rescaling, and with the mean
squared error, and prints the SDR of songs that were not trained on, after each part of the training.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from unbraid.datasets.synthesis.library import Order, make_songs
from unbraid.training.loop import Limits, Watcher
from unbraid.training.recipe import load_recipe
from unbraid.training.run import Job, run
from unbraid.training.state import Progress

RATE = 8000
SIZES = (
    *("network.config.sample_rate=8000", "network.config.hidden_channels=16", "network.config.depth=4"),
    *("network.config.norm_starts=4", "data.segment_s=2.0", "data.batch_size=4", "validation.seconds=0"),
)
VARIANTS = {
    "reference": (),
    "no weight rescaling": ("network.rescale=0",),
    "MSE loss": ("loss.kind=mse",),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ablation", description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--songs", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        songs = Path(folder) / "songs"
        n_validated = options.songs // 5
        sizes = {"train": options.songs - n_validated, "validation": n_validated}
        for seed, (part, n_songs) in enumerate(sizes.items()):
            make_songs(Order(songs / part, n_songs, seconds=20.0, seed=seed, sample_rate=RATE, piano=False))
        every = options.steps // 4
        print(f"| variant | seed | before | {' | '.join(f'step {every * k}' for k in range(1, 5))} | loss at the end |")
        print("|---|---|" + "---|" * 6)
        for seed in range(options.seeds):
            for name, changes in VARIANTS.items():
                schedule = (f"schedule.epoch_steps={every}", f"schedule.max_steps={options.steps}", f"seed={seed}")
                recipe = load_recipe("demucs-2019", [*SIZES, *schedule, *changes])
                watcher = _Scores()
                job = Job(
                    recipe,
                    songs,
                    Path(folder) / f"{name}-{seed}",
                    cache=Path(folder) / "cache",
                    limits=Limits(),
                    missing="silent",
                )
                run(job, lambda *_, watcher=watcher: watcher, watcher)
                cells = [f"{score:.2f}" for score in watcher.scores]
                print(f"| {name} | {seed} | {' | '.join(cells)} | {np.mean(watcher.losses[-50:]):.4f} |", flush=True)


class _Scores(Watcher):
    """Mean SDR of each validation, and the loss of each step."""

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.losses: list[float] = []

    def on_validation(self, progress: Progress, scores: Mapping[str, float], name: str, is_best: bool) -> None:
        self.scores.append(float(np.mean(list(scores.values()))))

    def on_step(self, progress: Progress, losses: Mapping[str, float], rate: float, examples_s: float) -> None:
        self.losses.append(float(np.mean(list(losses.values()))))


if __name__ == "__main__":
    main()
