"""How fast a training is: what makes its examples, and its steps.

    python -m bench.training --data FOLDER --recipe htdemucs

prints seconds of music a second, for the loader alone with more and more threads, for the steps alone, and together;
on a GPU, the share of the time that it is busy too.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from unbraid.datasets.tracks import load_dataset
from unbraid.datatypes import FloatArray
from unbraid.training.augment import augment, drawn_samples
from unbraid.training.data import part, spans_of, stems_of
from unbraid.training.examples import Examples, batches
from unbraid.training.loop import Limits, fit
from unbraid.training.networks import example_samples, make_trainable
from unbraid.training.recipe import Recipe, load_recipe
from unbraid.training.run import network_config


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a dataset")
    parser.add_argument("--recipe", default="htdemucs")
    parser.add_argument("--set", action="append", default=[], help="changes of the recipe")
    parser.add_argument("--stems", default="vocals,drums,other")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", default=[0, 1, 2, 4])
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, options.set)
    dataset = load_dataset(options.data)
    stems = stems_of(dataset, options.stems.split(","))
    config = network_config(recipe, stems)
    n_samples = example_samples(recipe.network.family, config, recipe.data.segment_s or None)
    with tempfile.TemporaryDirectory() as folder:
        spans = spans_of(
            *(dataset, Path(folder)),
            stems=stems,
            sample_rate=config.sample_rate,
            n_channels=config.n_channels,
            normalise=recipe.data.normalise,
        )
        material = part(spans, stems, recipe.data.validation_share, recipe.validation, print)
        examples = Examples(material.training)
        batch_s = recipe.data.batch_size * n_samples / config.sample_rate

        def made(n_threads: int, first_step: int = 0) -> Iterator[FloatArray]:
            def transform(batch: FloatArray, rngs: list[np.random.Generator]) -> FloatArray:
                return augment(batch, recipe.augment, rngs, n_samples=n_samples, sample_rate=config.sample_rate)

            return batches(
                examples,
                batch_size=recipe.data.batch_size,
                n_samples=drawn_samples(recipe.augment, n_samples, config.sample_rate),
                seed=0,
                first_step=first_step,
                transform=transform,
                n_workers=n_threads,
            )

        print(
            f"{options.recipe}: batches of {recipe.data.batch_size} examples of {n_samples / config.sample_rate:.1f} s"
        )
        for n_threads in options.threads:
            found = made(n_threads)
            next(found)
            begun = time.perf_counter()
            n = sum(1 for _ in itertools.islice(found, 4 * options.steps))
            print(f"loader, {n_threads} threads: {n * batch_s / (time.perf_counter() - begun):.0f} s of music a second")
            found.close()  # type: ignore[attr-defined]
        _steps(recipe, config, n_samples, Path(folder), made, options.steps, max(options.threads), batch_s)


def _steps(recipe: Recipe, config, n_samples, folder, made, n_steps, n_threads, batch_s) -> None:  # type: ignore[no-untyped-def]
    fabric = Fabric(devices=1, precision=recipe.precision)
    batch = next(made(0))
    for what, source in (
        ("steps alone", lambda step: itertools.repeat(batch)),
        ("together", lambda step: made(n_threads, step)),
    ):
        trainable = make_trainable(recipe.network.family, config, n_samples=n_samples)
        times: list[float] = []
        busy: list[float] = []

        def timed(step: int, source=source, times=times, busy=busy) -> Iterator[FloatArray]:  # type: ignore[no-untyped-def]
            for one in source(step):
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                    busy.append(torch.cuda.utilization())
                times.append(time.perf_counter())
                yield one

        path = folder / f"{what}.safetensors"
        fit(
            trainable,
            recipe,
            timed,
            [],
            fabric=fabric,
            checkpoint=path,
            limits=Limits(steps=n_steps + 3),
            n_samples=n_samples,
        )
        step_s = float(np.median(np.diff(times[2:])))
        used = f", GPU busy {np.mean(busy[3:]):.0f} %" if busy else ""
        print(f"{what} on {fabric.device}: {step_s * 1e3:.0f} ms, {batch_s / step_s:.1f} s of music a second{used}")


if __name__ == "__main__":
    main()
