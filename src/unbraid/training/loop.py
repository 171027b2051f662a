"""The training loop, for every network and recipe: examples in, the best weights out.

What a step draws depends on the recipe's seed and the step's number alone, so a training that was stopped, or killed,
goes on exactly where its last checkpoint was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from unbraid.datatypes import FloatArray
from unbraid.errors import UnbraidError
from unbraid.training.averages import candidates, make_averages
from unbraid.training.data import Span
from unbraid.training.losses import LossConfig, spectral_losses, stem_losses, weigh
from unbraid.training.networks import Trainable
from unbraid.training.optimizers import Muon, is_kernel
from unbraid.training.recipe import OptimizerConfig, Recipe, ScheduleConfig
from unbraid.training.state import Progress, TrainingState, Weights, copied
from unbraid.training.tensors import freeze, set_batch_norm
from unbraid.training.validation import mean_score, validation_scores

__all__ = ["Limits", "Progress", "Watcher", "fit"]

# Steps in a row whose loss is no number, after which there is no hope.
_LOST_STEPS = 20


@dataclass(frozen=True)
class Limits:
    """When to stop before the recipe's last step, after so many steps or seconds; and how often to save."""

    steps: int | None = None
    seconds: float | None = None
    save_every_s: float = 300.0


class Watcher:
    """Whoever wants to know; all methods may be left as they are."""

    def on_preparation(self, n_done: int, n_all: int, name: str) -> None:
        """A song was decoded, or was there; so many of all are done."""

    def on_step(self, progress: Progress, losses: Mapping[str, float], rate: float, examples_s: float) -> None:
        """After a step: the loss of each stem, the learning rate, and seconds of music that it saw."""

    def on_validation(self, progress: Progress, scores: Mapping[str, float], name: str, is_kept: bool) -> None:
        """After an epoch: SDR in dB by stem of its best weights, which they are, and whether they are kept."""

    def on_notice(self, text: str) -> None:
        """Something the user should know."""

    def should_stop(self) -> bool:
        """Whether the user wants it to end after this step."""
        return False


class _Learner(nn.Module):
    """From a batch to the loss of each stem: what is wrapped for several processes.

    spectrograms : batches are magnitudes of stems and mix, instead of the stems' samples
    """

    def __init__(self, trainable: Trainable, loss: LossConfig, *, spectrograms: bool) -> None:
        super().__init__()
        self.trainable = trainable
        self.loss = loss
        self.spectrograms = spectrograms

    def forward(self, batch: Tensor) -> Tensor:
        """Losses [shape=(stem,)] of a batch [shape=(batch, stem, channel, time)]; one more row is the rest of the mix.

        Spectrograms [shape=(batch, stem + 1, channel, frame, bin)] have the mix in their last row.
        """
        if self.spectrograms:
            return stem_losses(self.trainable.network(batch[:, -1]), batch[:, :-1], self.loss)
        mix, stems = batch.sum(dim=1), batch[:, : len(self.trainable.stems)]
        if self.loss.on_spectra:
            return spectral_losses(*self.trainable.errors(mix, stems), self.loss)
        if self.loss.on_magnitudes:
            return stem_losses(*self.trainable.magnitudes(mix, stems), self.loss)
        return stem_losses(self.trainable.separate(mix), stems, self.loss)


def fit(
    trainable: Trainable,
    recipe: Recipe,
    batches: Callable[[int], Iterator[FloatArray]],
    validation: Sequence[Span],
    *,
    fabric: Fabric,
    checkpoint: Path,
    limits: Limits = Limits(),
    watcher: Watcher | None = None,
    n_samples: int,
    spectrograms: bool = False,
) -> tuple[Progress, bool]:
    """Train, and leave the best weights in `trainable`.

    Parameters
    ----------
    trainable : Trainable
        Changed in place.
    recipe : Recipe
        How.
    batches : callable
        From a step's number to the batches from there on [shape=(batch, stem, channel, n_samples), float32].
    validation : sequence of Span
        What decides which weights are best.
    checkpoint : Path
        Where to go on from, if it is there, and what is written.
    n_samples : int
        Samples of an example.
    fabric : Fabric
        Devices, processes and precision; launched.
    limits : Limits
        Of this call; the next one goes on.
    watcher : Watcher, optional
        Is told how it goes, and may stop it.
    spectrograms : bool
        Whether batches are magnitudes of stems and mix [shape=(batch, stem + 1, channel, frame, bin)].

    Returns
    -------
    Progress, bool
        And whether it came to its end, or to a limit, before the user stopped it.

    Raises
    ------
    ModelError : the checkpoint is of another recipe
    UnbraidError : the loss is no number any more, the memory does not suffice, or a checkpoint cannot be written
    """
    watcher, schedule = watcher or Watcher(), recipe.schedule
    freeze(trainable, recipe.network.freeze)
    set_batch_norm(trainable, recipe.network.batch_norm)
    raw = _optimizer(trainable, recipe.optimizer)
    averages = make_averages(trainable.network, recipe.average.steps, recipe.average.epochs)
    state = TrainingState(trainable, recipe, raw, averages, Progress(), checkpoint)
    if checkpoint.exists():
        state.restore()
    progress = state.progress
    learner, optimizer = fabric.setup(_Learner(trainable, recipe.loss, spectrograms=spectrograms), raw)
    state.move(fabric.device)
    example_s = n_samples / trainable.config.sample_rate
    begun, saved = time.monotonic() - progress.elapsed_s, time.monotonic()
    n_lost, stopped = 0, False

    def validate(choices: Iterable[tuple[str, Weights]]) -> tuple[str, dict[str, float], Weights]:
        """The best of several weights, with their scores; the network keeps its own."""
        found, own = [], copied(trainable.network.state_dict())
        for name, weights in choices:
            trainable.network.load_state_dict(weights)
            scores = validation_scores(trainable, validation, n_samples, recipe.data.batch_size, fabric)
            found.append((name, scores, weights))
            trainable.network.load_state_dict(own)
        return max(found, key=lambda one: mean_score(one[1]))

    with _memory_is_enough(recipe, example_s):
        if validation and not progress.first:
            name, progress.first, weights = validate([("before training", trainable.network.state_dict())])
            state.take(name, progress.first, weights)  # a model that tuning only harms is kept as it is
            watcher.on_validation(progress, progress.first, name, False)
        upcoming = batches(progress.step)
        while not _is_over(progress, schedule, limits) and not stopped:
            learner.train()
            torch.manual_seed(_step_seed(recipe.seed, progress.step, fabric.global_rank))  # of dropout
            rate = recipe.optimizer.learning_rate * _rate(progress, schedule, limits)
            for group in raw.param_groups:
                group["lr"] = rate
            own = float(watcher.should_stop()), time.monotonic() - begun
            (*losses, asked, elapsed_s), is_lost = _learn(
                learner, optimizer, next(upcoming), recipe, trainable.stems, fabric, own
            )
            n_lost = n_lost + 1 if is_lost else 0
            _speak_of_lost(progress.step, n_lost, watcher)
            stopped, progress.elapsed_s = asked > 0, elapsed_s
            progress.step += 1
            state.average(per_epoch=False)
            music_s = fabric.world_size * recipe.data.batch_size * example_s
            watcher.on_step(progress, dict(zip(trainable.stems, losses, strict=True)), rate, music_s)
            is_over, ends_epoch = _is_over(progress, schedule, limits), progress.step % schedule.epoch_steps == 0
            if ends_epoch:
                progress.epoch += 1
                state.average(per_epoch=True)
            if validation and (ends_epoch or is_over):
                name, scores, weights = validate(candidates(trainable.network, averages))
                watcher.on_validation(progress, scores, name, state.note(name, scores, weights))
            is_time = fabric.broadcast(time.monotonic() - saved > limits.save_every_s)
            if ends_epoch or is_over or stopped or is_time:
                saved = time.monotonic()
                if fabric.is_global_zero:
                    state.save()
    if validation:
        trainable.network.load_state_dict(state.best)
    return progress, not stopped or _is_over(progress, schedule, limits)


def _learn(
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: FloatArray,
    recipe: Recipe,
    stems: Sequence[str],
    fabric: Fabric,
    own: Sequence[float],
) -> tuple[list[float], bool]:
    """Do a step. Returns the losses of the stems and `own`, of all processes the mean, and whether they are no numbers.

    In that case the weights stay as they were.
    """
    losses = learner(fabric.to_device(torch.from_numpy(batch)))
    # One exchange between the processes, for all that they must agree on.
    given = torch.tensor([*losses.detach().float(), *own], device=losses.device)
    common = cast(Tensor, fabric.all_reduce(given, reduce_op="mean")).cpu()
    is_lost = not bool(torch.isfinite(common).all())
    if not is_lost:
        fabric.backward(weigh(losses, recipe.loss, stems))
        if longest := recipe.optimizer.clip_norm:
            fabric.clip_gradients(learner, optimizer, max_norm=longest, error_if_nonfinite=False)
        optimizer.step()
    optimizer.zero_grad()
    return common.tolist(), is_lost


def _optimizer(trainable: Trainable, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Make the optimiser; biases, normalisations and scales do not decay."""
    learning = [parameter for parameter in trainable.network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in learning if is_kernel(one)], "weight_decay": config.weight_decay},
        {"params": [one for one in learning if not is_kernel(one)], "weight_decay": 0.0},
    ]
    kinds: dict[str, Callable[..., torch.optim.Optimizer]]
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "muon": Muon}
    return kinds[config.kind](
        [group for group in groups if group["params"]], lr=config.learning_rate, betas=config.betas
    )


def _is_over(progress: Progress, schedule: ScheduleConfig, limits: Limits) -> bool:
    """Whether the training is at its end, or at a limit."""
    last_step = schedule.max_steps if limits.steps is None else min(limits.steps, schedule.max_steps)
    return progress.step >= last_step or (limits.seconds is not None and progress.elapsed_s >= limits.seconds)


def _rate(progress: Progress, schedule: ScheduleConfig, limits: Limits) -> float:
    """Learning rate as a share of the highest."""
    rate = min(1.0, (progress.step + 1) / schedule.warm_up_steps) if schedule.warm_up_steps else 1.0
    if schedule.kind == "cosine":  # over the steps, or over the time where that is limited
        by_steps = progress.step / schedule.max_steps
        done = min(1.0, by_steps if limits.seconds is None else max(by_steps, progress.elapsed_s / limits.seconds))
        rate *= 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * done))
    if schedule.kind == "step":
        rate *= schedule.factor ** (progress.step // schedule.epoch_steps // schedule.patience)
    return rate * progress.rate_factor


def _step_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.default_rng([seed, step, rank]).integers(2**62))


def _speak_of_lost(step: int, n_lost: int, watcher: Watcher) -> None:
    """Speak of a loss that is no number, and give up in the end."""
    if n_lost == 1:
        watcher.on_notice(f"the loss of step {step} is no number; this step is left out")
    if n_lost == _LOST_STEPS:
        raise UnbraidError(
            f"the loss is no number in {n_lost} steps in a row, up to step {step}: lower optimizer.learning_rate, set "
            "optimizer.clip_norm=5, or use precision=32-true; the last checkpoint is from before"
        )


@contextmanager
def _memory_is_enough(recipe: Recipe, seconds: float) -> Iterator[None]:
    """Translate what PyTorch raises where memory does not suffice."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        known = isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text
        if not known:
            raise
        raise UnbraidError(
            f"out of memory with {recipe.data.batch_size} examples of {seconds:.1f} s: lower data.batch_size (--set "
            f"data.batch_size={max(1, recipe.data.batch_size // 2)}), data.segment_s, or use --set precision=bf16-mixed"
        ) from error
