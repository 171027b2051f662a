"""A whole training: from a recipe and a dataset to a model folder.

::

    OUT/cache/                 the decoded dataset, unless another place is named
    OUT/checkpoint.safetensors what a stopped training goes on from (OUT/STEM/… where each stem has a network)
    OUT/steps.csv              the losses of every step (OUT/STEM/…)
    OUT/tensorboard/           curves, pictures and sounds
    OUT/model/                 the result
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from lightning_fabric import Fabric
from numpy.typing import NDArray

from unbraid.datasets.tracks import Dataset, load_dataset
from unbraid.datatypes import FloatArray
from unbraid.errors import ModelError, UnbraidError, UsageError
from unbraid.models.families import family
from unbraid.training.augment import augment, augment_spectrograms, drawn_samples
from unbraid.training.data import Material, part, spans_of, stems_of, validation_parts
from unbraid.training.examples import Drawable, Examples
from unbraid.training.examples import batches as example_batches
from unbraid.training.export import card_of, save_model
from unbraid.training.loop import Limits, Watcher, fit
from unbraid.training.networks import (
    Trainable,
    example_samples,
    initialise,
    make_trainable,
    set_input_statistics,
)
from unbraid.training.recipe import Recipe
from unbraid.training.remix import RemixConfig, Remixes
from unbraid.training.spleeter_data import spleeter_examples
from unbraid.training.spleeter_recipe import SpleeterJson
from unbraid.training.state import Progress
from unbraid.training.tensors import load_arrays, transfer
from unbraid.weights.store import load_model

__all__ = ["CHECKPOINT", "Job", "Outcome", "network_config", "run"]

CHECKPOINT = "checkpoint.safetensors"
_N_MEASURED = 100  # examples, for the input statistics of Open-Unmix


@dataclass(frozen=True)
class Job:
    """What is to be trained, on what, and where.

    recipe : how
    data, kind, data_root : the dataset, as `load_dataset` takes it
    folder : where everything goes
    spleeter : the data of a Spleeter JSON, whose paths are relative to `data`
    cache : where the decoded dataset goes; None for a folder of this training's own
    missing : what to do about a stem's missing file, "error" or "silent"
    unreadable : what to do about a damaged one, "error" or "skip"
    n_workers : threads that make examples
    device, n_devices : "auto", "cpu", "cuda" or "mps", and how many of them
    """

    recipe: Recipe
    data: Path
    folder: Path
    kind: str | None = None
    data_root: Path | None = None
    spleeter: SpleeterJson | None = None
    cache: Path | None = None
    missing: str = "error"
    unreadable: str = "error"
    n_workers: int = 2
    device: str = "auto"
    n_devices: int = 1
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Outcome:
    """What became of it.

    model : its folder; None where the user stopped the training before its end
    progress : by network, which is called by its stem where each has one
    """

    model: Path | None
    progress: Mapping[str, Progress]


@dataclass(frozen=True)
class _Start:
    """The model that a training begins with."""

    family: str
    config: Any
    members: tuple[tuple[tuple[float, ...], Mapping[str, NDArray[Any]]], ...]

    def arrays_for(self, stem: str | None) -> Mapping[str, NDArray[Any]]:
        """Weights for a network of all stems, or of a bag's member that knows one stem best."""
        if stem is None or len(self.members) == 1 or stem not in self.config.stems:
            return self.members[0][1]
        index = self.config.stems.index(stem)
        return max(self.members, key=lambda member: member[0][index])[1]


def run(job: Job, watch: Callable[[str, Trainable, Material, int], Watcher], watcher: Watcher) -> Outcome:
    """Train, and write the model folder.

    Parameters
    ----------
    job : Job
        What to do.
    watch : callable
        From a network's name ("" for one of all stems), itself, the data, and the samples of an example, to who watches
        its training.
    watcher : Watcher
        Is told what is found before, and while, the data is prepared.

    Raises
    ------
    UnbraidError : the data, the recipe, the model to begin with, or the machine will not do
    """
    recipe = job.recipe
    begin = _start(recipe.network.start) if recipe.network.start else None
    if job.spleeter is None:
        dataset = load_dataset(job.data, kind=job.kind, data_root=job.data_root)
    else:
        dataset = load_dataset(job.spleeter.validation_csv, data_root=job.data)
    wanted = recipe.data.stems or (begin.config.stems if begin is not None and _has(dataset, begin) else ())
    stems = stems_of(dataset, wanted)
    config = network_config(recipe, stems, begin)
    name = begin.family if begin is not None else recipe.network.family
    n_samples = example_samples(name, config, recipe.data.segment_s or None)
    _make_folder(job.folder)
    fabric = _fabric(job)
    lock = FileLock(job.folder / ".lock", timeout=0)
    try:
        with lock if fabric.is_global_zero else nullcontext():
            return _run(job, begin, config, stems, n_samples, dataset, fabric, watch, watcher)
    except Timeout as error:
        raise UnbraidError(
            f"another training is at work in '{job.folder}'; wait for its end, or train into another folder by -o"
        ) from error


def _run(
    job: Job,
    begin: _Start | None,
    config: Any,
    stems: tuple[str, ...],
    n_samples: int,
    dataset: Dataset,
    fabric: Fabric,
    watch: Callable[[str, Trainable, Material, int], Watcher],
    watcher: Watcher,
) -> Outcome:
    """Train, once it is clear what."""
    recipe, name = job.recipe, begin.family if begin is not None else job.recipe.network.family
    spans = spans_of(
        dataset,
        job.cache or job.folder / "cache",
        stems=stems,
        sample_rate=config.sample_rate,
        n_channels=config.n_channels,
        normalise=recipe.data.normalise,
        missing=job.missing,
        unreadable=job.unreadable,
        n_workers=job.n_workers,
        on_progress=watcher.on_preparation,
        on_notice=watcher.on_notice,
    )
    examples: Drawable
    if job.spleeter is None:
        material = part(spans, stems, recipe.data.validation_share, recipe.validation, watcher.on_notice)
        whole = recipe.remix == RemixConfig()
        examples = Examples(material.training) if whole else Remixes(material.training, stems, recipe.remix)
    else:
        material = Material((), validation_parts(spans, recipe.validation), stems)
        examples = _chunks(job, job.spleeter, watcher)
    members: dict[str, Trainable] = {}
    progress: dict[str, Progress] = {}
    for stem in stems if recipe.per_stem else (None,):
        trainable = make_trainable(name, config, n_samples=n_samples)
        initialise(trainable, seed=recipe.seed, rescale=recipe.network.rescale or None)
        if begin is not None:
            _begin(trainable, begin, stem, watcher)
        elif name == "openunmix":
            _measure_input(trainable, examples, n_samples, recipe.seed)
        own = recipe if stem is None else replace(recipe, loss=replace(recipe.loss, weights=_only(stem, stems)))
        place = job.folder if stem is None else job.folder / stem
        place.mkdir(exist_ok=True)
        found, is_done = _fit(job, own, trainable, examples, material, n_samples, place, fabric, watch, stem or "")
        members[stem or ""], progress[stem or ""] = trainable, found
        if not is_done:
            return Outcome(None, progress)
    folder = job.folder / "model"
    if fabric.is_global_zero:
        scores = {stem: progress[stem if recipe.per_stem else ""].best_scores.get(stem, math.nan) for stem in stems}
        about = [f"{recipe.source}", *recipe.departures, f"steps: {max(one.step for one in progress.values())}"]
        about += [
            f"weights of {stem or 'all stems'}: {one.best_name}" for stem, one in progress.items() if one.best_name
        ]
        save_model(
            folder,
            members,
            training_data=job.data.name,
            card=card_of(recipe, scores, next(iter(progress.values())).first, [line for line in about if line]),
        )
    fabric.barrier()
    return Outcome(folder, progress)


def _fit(
    job: Job,
    recipe: Recipe,
    trainable: Trainable,
    examples: Drawable,
    material: Material,
    n_samples: int,
    place: Path,
    fabric: Fabric,
    watch: Callable[[str, Trainable, Material, int], Watcher],
    name: str,
) -> tuple[Progress, bool]:
    """Train one network."""
    rate = trainable.config.sample_rate
    spectrograms = job.spleeter is not None
    size = trainable.config.n_frames if spectrograms else drawn_samples(recipe.augment, n_samples, rate)

    def transform(batch: FloatArray, rngs: list[np.random.Generator]) -> FloatArray:
        if spectrograms:
            return augment_spectrograms(batch, recipe.augment, rngs)
        return augment(batch, recipe.augment, rngs, n_samples=n_samples, sample_rate=rate)

    def batches(first_step: int) -> Iterator[FloatArray]:
        return example_batches(
            examples,
            batch_size=recipe.data.batch_size,
            n_samples=size,
            seed=recipe.seed,
            first_step=first_step,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
            transform=transform,
            n_workers=job.n_workers,
        )

    watcher = watch(name, trainable, material, n_samples) if fabric.is_global_zero else Watcher()
    return fit(
        trainable,
        recipe,
        batches,
        material.validation,
        fabric=fabric,
        checkpoint=place / CHECKPOINT,
        limits=job.limits,
        watcher=watcher,
        n_samples=n_samples,
        spectrograms=spectrograms,
    )


def _chunks(job: Job, spleeter: SpleeterJson, watcher: Watcher) -> Drawable:
    """The examples of a Spleeter JSON: spectrograms of chunks of its songs."""
    cache = job.cache or spleeter.training_cache
    if cache is None:
        watcher.on_notice("without a training_cache (or --cache), every example is decoded anew, which is slow")
    return spleeter_examples(
        spleeter.config,
        spleeter.train_csv,
        job.data,
        cache=cache,
        unreadable=job.unreadable,
        n_workers=job.n_workers,
        on_progress=watcher.on_preparation,
        on_notice=watcher.on_notice,
    )


def _fabric(job: Job) -> Fabric:
    """One process, or several: those that torchrun or `fabric run` started, else as many as are wanted."""
    # Set by torchrun alone: WORLD_SIZE is also set by Fabric itself, for the processes that it starts.
    local = os.environ.get("LOCAL_WORLD_SIZE")
    n_devices = job.n_devices if local is None else int(local)
    n_nodes = 1 if local is None else max(1, int(os.environ.get("WORLD_SIZE", local)) // n_devices)
    try:
        fabric = Fabric(
            accelerator=job.device,
            devices=n_devices,
            num_nodes=n_nodes,
            strategy="ddp" if n_devices * n_nodes > 1 else "auto",
            precision=job.recipe.precision,  # type: ignore[arg-type]
        )
        fabric.launch()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UnbraidError(f"cannot train on {n_devices} × {job.device}: {reason}") from error
    return fabric


def _start(name: str) -> _Start:
    """Read the model to begin with."""
    model = load_model(name)
    kinds = {part.described.family for part in model.parts}
    first = model.parts[0].described
    if len(kinds) > 1 or any(part.described.config != first.config for part in model.parts):
        raise ModelError(f"cannot fine-tune '{name}': its networks differ from each other; choose one of them")
    members = tuple((part.stem_weights, part.state()) for part in model.parts)
    return _Start(first.family, first.config, members)


def _has(dataset: Dataset, begin: _Start) -> bool:
    """Whether a dataset has all stems of a model."""
    found = {stem for track in dataset.tracks for stem in track.stems}
    return set(begin.config.stems) <= found


def network_config(recipe: Recipe, stems: tuple[str, ...], begin: _Start | None = None) -> Any:
    """The network's configuration, for these stems."""
    if begin is not None:
        plain = dict(family(begin.family).write(begin.config))
        name = begin.family
    else:
        plain, name = dict(recipe.network.config), recipe.network.family
    if name == "spleeter":
        plain["instrument_list"] = list(stems)
        model = dict(plain.get("model", {}))
        if model.get("type") == "unet.shared_unet":
            model["params"] = {**model.get("params", {}), "n_stems": len(stems), "n_bins": plain.get("F", 1024)}
        plain["model"] = model
    else:
        plain["stems"] = list(stems)
    if name == "openunmix":  # one network a stem, all alike
        targets = plain.get("targets", [{}])
        plain["targets"] = targets if len(targets) == len(stems) else [targets[0]] * len(stems)
    try:
        return family(name).read(plain)
    except ModelError as error:
        raise UsageError(f"cannot use network.config of the recipe '{recipe.name}': {error}") from error


def _begin(trainable: Trainable, begin: _Start, stem: str | None, watcher: Watcher) -> None:
    """Put the weights of another model in, as far as they fit."""
    arrays = begin.arrays_for(stem)
    if begin.config == trainable.config:
        load_arrays(trainable, arrays)
        return
    kept, new = transfer(trainable, arrays, begin.config)
    what = f"{new[0]} and {len(new) - 1} more" if len(new) > 1 else "".join(new)
    watcher.on_notice(f"{len(kept)} tensors are those of the model; new are {len(new)}" + (f": {what}" if new else ""))


def _measure_input(trainable: Trainable, examples: Drawable, n_samples: int, seed: int) -> None:
    """Tell an Open-Unmix network how loud the bins of a mix are; its training script looks at all tracks for that."""
    sums = np.zeros((3, trainable.config.n_bins))
    for number in range(_N_MEASURED):
        rows = examples.draw(np.random.default_rng([seed, number]), n_samples)
        mix = torch.from_numpy(rows.sum(axis=0)[None])
        with torch.no_grad():
            _, magnitudes = trainable.magnitudes(mix, mix[:, None])
        frames = magnitudes.double().flatten(0, -2).numpy()
        sums += np.stack([np.full(len(frames[0]), len(frames)), frames.sum(axis=0), np.square(frames).sum(axis=0)])
    mean = sums[1] / sums[0]
    set_input_statistics(trainable, mean, np.sqrt(np.maximum(sums[2] / sums[0] - np.square(mean), 0)))


def _only(stem: str, stems: tuple[str, ...]) -> dict[str, float]:
    return {one: float(one == stem) for one in stems}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnbraidError(
            f"cannot make the folder '{folder}': {error.strerror or error}; choose another one by -o"
        ) from error
