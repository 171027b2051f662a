"""Running a training from the command line: what is said and shown while it goes on."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from unbraid.cli.render import Screen, clock, columns, one_line, print_line
from unbraid.errors import CancelledError, UsageError
from unbraid.memory import keep_memory
from unbraid.training.data import Material
from unbraid.training.log import StepLog
from unbraid.training.loop import Limits, Watcher
from unbraid.training.networks import Trainable
from unbraid.training.recipe import Recipe, change_recipe, load_recipe, published_recipes
from unbraid.training.run import Job
from unbraid.training.run import run as run_job
from unbraid.training.spleeter_recipe import SpleeterJson, read_spleeter_json, spleeter_recipe
from unbraid.training.state import Progress

__all__ = ["Run", "list_recipes", "run"]

# Between two lines where there is no bar.
_SAY_EVERY_S = 30.0


@dataclass(frozen=True)
class Run:
    """What the command line asked for; see `unbraid.cli.train`."""

    data: Path
    recipe: str | None
    params: Path | None
    start: str | None
    stems: str | None
    change: list[str] | None
    kind: str | None
    data_root: Path | None
    list_recipes: bool
    output_path: Path
    minutes: float | None
    steps: int | None
    cache: Path | None
    missing: str
    unreadable: str
    workers: int
    device: str
    devices: int
    no_tensorboard: bool
    quiet: bool


def list_recipes() -> None:
    """Print the published recipes, each with its source."""
    for name in published_recipes():
        print_line(f"{name}: {load_recipe(name).source}")


def run(given: Run) -> int:
    """Train; returns the exit code."""
    spleeter = None if given.params is None else read_spleeter_json(given.params)
    recipe = _recipe(given, spleeter)
    if given.minutes is not None and not given.minutes > 0:
        raise UsageError(f"--minutes must be more than 0, got {given.minutes}")
    limits = Limits(steps=given.steps, seconds=None if given.minutes is None else 60 * given.minutes)
    keep_memory(of_any_size=True)
    job = Job(
        recipe=recipe,
        data=given.data,
        folder=given.output_path,
        kind=given.kind,
        data_root=given.data_root,
        spleeter=spleeter,
        cache=given.cache,
        missing=given.missing,
        unreadable=given.unreadable,
        n_workers=given.workers,
        device=given.device,
        n_devices=given.devices,
        limits=limits,
    )
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces every process
    with ExitStack() as stack:
        stop = stack.enter_context(_Stop())
        display = stack.enter_context(_Display(given, recipe, limits, stop))

        def watch(name: str, trainable: Trainable, material: Material, n_samples: int) -> Watcher:
            display.begin(name, trainable, material, n_samples)
            log = StepLog(given.output_path / name / "steps.csv")
            stack.callback(log.close)
            watchers: list[Watcher] = [display, log]
            if not given.no_tensorboard:
                from unbraid.training.tensorboard import TensorBoard

                clip = material.validation[0] if material.validation else None
                board = TensorBoard(given.output_path / "tensorboard" / name, trainable, clip, n_samples=n_samples)
                stack.callback(board.close)
                watchers.append(board)
            return _All(watchers)

        outcome = run_job(job, watch, display)
    if outcome.model is None:
        if not _is_first():
            raise SystemExit(CancelledError.exit_code)
        raise CancelledError(
            f"interrupted; the training is saved in '{given.output_path}', and the same command goes on from there"
        )
    display.finish(outcome.model)
    return 0


def _recipe(given: Run, spleeter: SpleeterJson | None) -> Recipe:
    """The recipe that was asked for, with its changes."""
    changes = given.change or ()
    if given.params is None or spleeter is None:
        recipe = load_recipe(given.recipe or "small", changes)
    elif given.recipe is not None:
        raise UsageError("-p is a recipe of Spleeter's form; leave out -r")
    else:
        recipe = change_recipe(spleeter_recipe(spleeter.config, given.params.stem), changes)
    if given.start:
        recipe = replace(recipe, network=replace(recipe.network, start=given.start))
    if given.stems:
        names = tuple(name.strip() for name in given.stems.split(",") if name.strip())
        recipe = replace(recipe, data=replace(recipe.data, stems=names))
    return recipe


def _is_first() -> bool:
    """Whether this is the one of several processes that speaks."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK"))


class _Stop:
    """Ctrl-C, and the signal by which clusters end a job: asks the training to stop after its step; twice, at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class _All(Watcher):
    """Several who want to know."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = watchers

    def on_step(self, progress: Progress, losses: Mapping[str, float], rate: float, examples_s: float) -> None:
        for watcher in self._watchers:
            watcher.on_step(progress, losses, rate, examples_s)

    def on_validation(self, progress: Progress, scores: Mapping[str, float], name: str, is_kept: bool) -> None:
        for watcher in self._watchers:
            watcher.on_validation(progress, scores, name, is_kept)

    def on_notice(self, text: str) -> None:
        for watcher in self._watchers:
            watcher.on_notice(text)

    def should_stop(self) -> bool:
        return any(watcher.should_stop() for watcher in self._watchers)


class _Display(Screen, Watcher):
    """What is said while it runs: a bar on a terminal, else a line now and then."""

    def __init__(self, given: Run, recipe: Recipe, limits: Limits, stop: _Stop) -> None:
        quiet = given.quiet or not _is_first()
        super().__init__(show_bars=not quiet)
        self._quiet = quiet
        self._recipe = recipe
        self._limits = limits
        self._stop = stop
        self._said = time.monotonic()
        self._music_s = self._begun = 0.0
        self._first_step = 0
        self._mean_loss = math.nan
        self._before: dict[str, float] = {}
        self._after: dict[str, float] = {}

    def say(self, text: str) -> None:
        """Print a line, unless quiet."""
        if not self._quiet:
            self._print(text, sys.stdout)

    def on_preparation(self, n_done: int, n_all: int, name: str) -> None:
        """A track was decoded, or was there."""
        if self._stop.asked:
            raise CancelledError("interrupted; tracks that were decoded are kept")
        if self._bars is None:
            return
        with self._lock:
            if "data" not in self._tasks:
                self._tasks["data"] = self._bars.add_task("decoding", total=n_all, stage="", speed="")
            self._bars.update(self._tasks["data"], completed=n_done, stage=one_line(name))

    def begin(self, name: str, trainable: Trainable, material: Material, n_samples: int) -> None:
        """A network's training begins."""
        self._forget("data")
        n_parameters = sum(parameter.numel() for parameter in trainable.network.parameters())
        what = f"{name}: " if name else ""
        music = f"{material.training_s / 60:.1f} minutes of music, " if material.training else ""
        self.say(
            f"{what}recipe {self._recipe.name}, {', '.join(trainable.stems)}; {n_parameters / 1e6:.2f} million "
            f"parameters, {music}examples of {n_samples / trainable.config.sample_rate:.1f} s"
        )
        self._begun = 0.0

    def on_step(self, progress: Progress, losses: Mapping[str, float], rate: float, examples_s: float) -> None:
        now = time.monotonic()
        if not self._begun:
            self._begun, self._music_s, self._first_step = now, 0.0, progress.step
            if progress.step > 1:
                self.say(f"going on from step {progress.step - 1}, {clock(progress.elapsed_s)} min")
        self._music_s += examples_s
        loss = sum(losses.values()) / len(losses)
        self._mean_loss = loss if math.isnan(self._mean_loss) else 0.98 * self._mean_loss + 0.02 * loss
        elapsed = max(now - self._begun, 1e-3)
        # A first step tells none.
        speed = f"{self._music_s / elapsed:.1f}×" if progress.step > self._first_step else "–"
        if self._bars is not None:
            self._move(progress, speed)
        elif now - self._said > _SAY_EVERY_S:
            self._said = now
            left = self._left_s(progress, elapsed)
            self.say(
                f"step {progress.step}  loss {self._mean_loss:.4f}  {speed} real time"
                + (f"  {clock(left)} left" if left is not None else "")
            )

    def _move(self, progress: Progress, speed: str) -> None:
        share = self._share(progress)
        assert self._bars is not None
        with self._lock:
            if "training" not in self._tasks:
                self._tasks["training"] = self._bars.add_task("training", total=1.0, stage="", speed="")
            self._bars.update(
                self._tasks["training"],
                completed=share,
                stage=f"step {progress.step}  loss {self._mean_loss:.4f}",
                speed=speed,
            )

    def _share(self, progress: Progress) -> float:
        """How much of the training is done."""
        schedule, limits = self._recipe.schedule, self._limits
        last = min(limits.steps or schedule.max_steps, schedule.max_steps)
        by_time = progress.elapsed_s / limits.seconds if limits.seconds else 0.0
        return min(1.0, max(progress.step / last, by_time))

    def _left_s(self, progress: Progress, elapsed: float) -> float | None:
        share = self._share(progress)
        return progress.elapsed_s * (1 - share) / share if share > 0 else None

    def on_validation(self, progress: Progress, scores: Mapping[str, float], name: str, is_kept: bool) -> None:
        if progress.step == 0:
            self._before = dict(scores)
        if is_kept or progress.step == 0:
            self._after = dict(scores)
        numbers = ", ".join(f"{stem} {_db(score)}" for stem, score in scores.items())
        when = name if progress.step == 0 else f"step {progress.step}"
        kept = "best so far" if self._recipe.validation.keep == "best" else "kept"
        kept = f"  {kept}" + (f" (average, {name})" if name != "now" else "") if is_kept else ""
        self.say(f"validation {when}: SDR {numbers}{kept}")

    def on_notice(self, text: str) -> None:
        if not self._quiet:
            self._print(f"  note: {text}", sys.stdout)

    def should_stop(self) -> bool:
        return self._stop.asked

    def finish(self, folder: Path) -> None:
        """It is done."""
        if self._before and not self._quiet:
            rows = [("SDR in validation", "before", "after")]
            rows += [(stem, _db(score), _db(self._after.get(stem, math.nan))) for stem, score in self._before.items()]
            for line in columns(rows, right=(1, 2)):
                print_line(line)
        if not self._quiet:
            print_line(f"model: {folder}  (unbraid separate -m {folder} song.mp3)")


def _db(score: float) -> str:
    return "–" if math.isnan(score) else f"{score:.2f}"
