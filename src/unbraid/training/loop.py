"""The training loop, for every network and recipe: examples in, the best weights out.

What a step draws depends on the recipe's seed and the step's number alone, so a training that was stopped, or killed,
goes on exactly where its last checkpoint was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from unbraid.datatypes import FloatArray
from unbraid.errors import ModelError, UnbraidError
from unbraid.training.averages import Average, candidates, make_averages
from unbraid.training.checkpoint import read_checkpoint, write_checkpoint
from unbraid.training.data import Span
from unbraid.training.losses import LossConfig, stem_losses, weigh
from unbraid.training.networks import Trainable
from unbraid.training.recipe import OptimizerConfig, Recipe, ScheduleConfig, difference, settings
from unbraid.training.tensors import freeze, set_batch_norm
from unbraid.training.validation import mean_score, validation_scores

__all__ = ["Limits", "Progress", "Watcher", "fit"]

State = Mapping[str, Tensor]

# Steps in a row whose loss is no number, after which there is no hope.
_LOST_STEPS = 20
# What may differ between a training and its continuation.
_FREE_KEYS = ("schedule.max_steps", "source", "departures", "name", "validation.n_tracks")


@dataclass
class Progress:
    """Where a training is.

    step, epoch : how many are done
    elapsed_s : seconds spent in training, validation included
    best_score, best_name : mean SDR in dB of the best weights so far, and which they were: now, or an average
    best_scores : SDR in dB by stem of these weights
    stale_epochs : since the best
    rate_factor : of the learning rate, by the "plateau" schedule
    first, history : SDR in dB by stem, before training and after each epoch, of the weights that were best then
    """

    step: int = 0
    epoch: int = 0
    elapsed_s: float = 0.0
    best_score: float = -math.inf
    best_name: str = ""
    best_scores: dict[str, float] = field(default_factory=dict)
    stale_epochs: int = 0
    rate_factor: float = 1.0
    first: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Limits:
    """When to stop before the recipe's last step, after so many steps or seconds; and how often to save."""

    steps: int | None = None
    seconds: float | None = None
    save_every_s: float = 300.0


class Watcher:
    """Whoever wants to know; all methods may be left as they are."""

    def on_step(self, progress: Progress, losses: Mapping[str, float], rate: float, examples_s: float) -> None:
        """After a step: the loss of each stem, the learning rate, and seconds of music that it saw."""

    def on_validation(self, progress: Progress, scores: Mapping[str, float], name: str, is_best: bool) -> None:
        """After an epoch: SDR in dB by stem of its best weights, and which they are."""

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
    learner = _Learner(trainable, recipe.loss, spectrograms=spectrograms)
    averages = make_averages(trainable.network, recipe.average.steps, recipe.average.epochs)
    run = _Run(trainable, recipe, raw, averages, Progress(), checkpoint)
    if checkpoint.exists():
        run.restore()
    progress = run.progress
    wrapped, optimizer = fabric.setup(learner, raw)
    run.move(fabric.device)
    batch_s = fabric.world_size * recipe.data.batch_size * n_samples / trainable.config.sample_rate
    begun, n_lost, stopped = time.monotonic() - progress.elapsed_s, 0, False
    saved = time.monotonic()

    def validate(names: Iterable[tuple[str, State]]) -> tuple[str, dict[str, float], State]:
        """The best of several weights, with their scores; the network keeps its own."""
        found, own = [], _copied(trainable.network.state_dict())
        for name, state in names:
            trainable.network.load_state_dict(state)
            scores = validation_scores(trainable, validation, n_samples, recipe.data.batch_size, fabric)
            found.append((name, scores, state))
            trainable.network.load_state_dict(own)
        return max(found, key=lambda one: mean_score(one[1]))

    with _memory_is_enough(recipe, n_samples / trainable.config.sample_rate):
        if validation and not progress.first:
            name, progress.first, state = validate([("before training", trainable.network.state_dict())])
            run.take(name, progress.first, state)  # a model that tuning only harms is kept as it is
            watcher.on_validation(progress, progress.first, "before training", False)
        upcoming = batches(progress.step)
        while not _is_over(progress, schedule, limits) and not stopped:
            wrapped.train()
            torch.manual_seed(_step_seed(recipe.seed, progress.step, fabric.global_rank))  # of dropout
            rate = recipe.optimizer.learning_rate * _rate(progress, schedule, limits)
            for group in raw.param_groups:
                group["lr"] = rate
            losses = wrapped(fabric.to_device(torch.from_numpy(next(upcoming))))
            # One exchange between the processes, for all that they must agree on.
            own = [*losses.detach().float(), float(watcher.should_stop()), time.monotonic() - begun]
            common = cast(Tensor, fabric.all_reduce(torch.tensor(own, device=losses.device), reduce_op="mean")).cpu()
            *shown, asked, elapsed_s = common.tolist()
            stopped, progress.elapsed_s = asked > 0, elapsed_s
            if torch.isfinite(common).all():
                fabric.backward(weigh(losses, recipe.loss, trainable.stems))
                if longest := recipe.optimizer.clip_norm:
                    fabric.clip_gradients(wrapped, optimizer, max_norm=longest, error_if_nonfinite=False)
                optimizer.step()
                n_lost = 0
            else:
                n_lost += 1
                _speak_of_lost(progress.step, n_lost, watcher)
            optimizer.zero_grad()
            progress.step += 1
            run.average(per_epoch=False)
            watcher.on_step(progress, dict(zip(trainable.stems, shown, strict=True)), rate, batch_s)
            is_over = _is_over(progress, schedule, limits)
            ends_epoch = progress.step % schedule.epoch_steps == 0
            if ends_epoch:
                progress.epoch += 1
                run.average(per_epoch=True)
            if validation and (ends_epoch or is_over):
                name, scores, state = validate(candidates(trainable.network, averages))
                watcher.on_validation(progress, scores, name, run.note(name, scores, state))
            is_time = fabric.broadcast(time.monotonic() - saved > limits.save_every_s)
            if ends_epoch or is_over or stopped or is_time:
                saved = time.monotonic()
                if fabric.is_global_zero:
                    run.save()
    if validation:
        trainable.network.load_state_dict(run.best)
    return progress, not stopped or _is_over(progress, schedule, limits)


@dataclass(eq=False)
class _Run:
    """All that is saved."""

    trainable: Trainable
    recipe: Recipe
    optimizer: torch.optim.Optimizer
    averages: list[Average]
    progress: Progress
    path: Path
    best: State = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.best = _copied(self.trainable.network.state_dict())

    def move(self, device: torch.device) -> None:
        """Bring the averages to where the network is."""
        for average in self.averages:
            average.state = {name: value.to(device) for name, value in average.state.items()}

    def average(self, *, per_epoch: bool) -> None:
        """Update the averages of every step, or of every epoch."""
        for average in self.averages:
            if average.per_epoch == per_epoch:
                average.update(self.trainable.network)

    def take(self, name: str, scores: Mapping[str, float], state: State) -> None:
        """Take weights for the best so far."""
        progress = self.progress
        progress.best_name, progress.best_score, progress.best_scores = name, mean_score(scores), dict(scores)
        self.best = _copied(state)

    def note(self, name: str, scores: Mapping[str, float], state: Mapping[str, Tensor]) -> bool:
        """Take up the scores of an epoch; whether they are the best so far."""
        progress, schedule = self.progress, self.recipe.schedule
        progress.history.append(dict(scores))
        if is_best := mean_score(scores) > progress.best_score:
            self.take(name, scores, state)
            progress.stale_epochs = 0
        else:
            progress.stale_epochs += 1
            if progress.stale_epochs % schedule.patience == 0:
                progress.rate_factor *= schedule.factor if schedule.kind == "plateau" else 1.0
        return is_best

    def save(self) -> None:
        """Write the checkpoint."""
        tensors = {f"network.{name}": value for name, value in self.trainable.network.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for i, average in enumerate(self.averages):
            tensors |= {f"average.{i}.{name}": value for name, value in average.state.items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in moments.items()}
        plain = {
            "progress": asdict(self.progress),
            "recipe": settings(self.recipe),
            "stems": list(self.trainable.stems),
            "updates": [average.n_updates for average in self.averages],
        }
        write_checkpoint(self.path, tensors, plain)

    def restore(self) -> None:
        """Go back to what was saved; ModelError where that is of another training."""
        tensors, plain = read_checkpoint(self.path)
        differences = difference(plain["recipe"], settings(self.recipe), _FREE_KEYS)
        if plain["stems"] != list(self.trainable.stems):
            differences.append(f"stems were {', '.join(plain['stems'])} and are {', '.join(self.trainable.stems)}")
        if differences:
            raise ModelError(
                f"cannot go on from '{self.path}', which is of another training: {'; '.join(differences[:3])}; "
                "train into another folder by -o, or remove it to start anew"
            )
        try:
            self.trainable.network.load_state_dict(_below(tensors, "network."))
            for i, (average, n_updates) in enumerate(zip(self.averages, plain["updates"], strict=True)):
                average.state, average.n_updates = _below(tensors, f"average.{i}."), n_updates
            moments: dict[int, dict[str, Tensor]] = {}
            for name, value in _below(tensors, "optimizer.").items():
                index, _, key = name.partition(".")
                moments.setdefault(int(index), {})[key] = value
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
            self.best = _below(tensors, "best.")
            vars(self.progress).update(plain["progress"])
        except (KeyError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"cannot go on from '{self.path}': its tensors are not those of this network; remove it to start anew"
            ) from error


def _copied(state: State) -> State:
    return {name: value.detach().clone() for name, value in state.items()}


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without the beginning."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _optimizer(trainable: Trainable, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Make the optimiser; what has one axis (biases, normalisations, scales) does not decay."""
    learning = [parameter for parameter in trainable.network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in learning if one.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [one for one in learning if one.ndim <= 1], "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if config.kind == "adamw" else torch.optim.Adam
    return kind([group for group in groups if group["params"]], lr=config.learning_rate, betas=config.betas)


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
