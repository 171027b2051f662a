"""The loop: it learns, it goes on exactly where it was, keeps the best weights, and says what is wrong."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from dataset_makers import make_song
from unbraid.datatypes import FloatArray
from unbraid.errors import ModelError, UnbraidError
from unbraid.evaluation.scores import usdr
from unbraid.models.demucs.config import DemucsConfig
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.training.averages import Average
from unbraid.training.checkpoint import read_checkpoint
from unbraid.training.data import Span
from unbraid.training.loop import Limits, Watcher, fit
from unbraid.training.networks import Trainable, initialise, make_trainable
from unbraid.training.recipe import (
    AverageConfig,
    LossConfig,
    NetworkConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    ValidationConfig,
)
from unbraid.training.state import Progress
from unbraid.training.validation import separate_span, validation_scores

RATE = 8000
N_SAMPLES = 4096
STEMS = ("vocals", "drums")
CONFIG = DemucsConfig(
    stems=STEMS,
    sample_rate=RATE,
    hidden_channels=8,
    depth=2,
    lstm_layers=1,
    norm_starts=9,
    dconv_mode=0,
    resample=False,
)
UNLIMITED = Limits()
RECIPE = Recipe(
    name="test",
    optimizer=OptimizerConfig(learning_rate=3e-3, clip_norm=5.0),
    schedule=ScheduleConfig(max_steps=12, epoch_steps=4),
    average=AverageConfig(steps=(0.9,), epochs=(0.5,)),
)


@dataclass(frozen=True)
class Track:
    """In place of a decoded one."""

    samples: FloatArray
    name: str = "song"
    sample_rate: int = RATE

    def read(self, start: int, stop: int) -> FloatArray:
        return self.samples[..., start:stop]


@pytest.fixture(scope="module")
def span() -> Span:
    song = make_song(4.0, seed=3, sample_rate=RATE)
    track: Any = Track(np.stack([song[stem] for stem in STEMS]))
    return Span(track, 0, track.samples.shape[-1])


def batches_of(span: Span, n_samples: int = N_SAMPLES) -> Callable[[int], Iterator[FloatArray]]:
    def batches(first_step: int) -> Iterator[FloatArray]:
        step = first_step
        while True:
            starts = np.random.default_rng([0, step]).integers(0, span.n_samples - n_samples, 2)
            yield np.stack([span.read(int(start), int(start) + n_samples) for start in starts])
            step += 1

    return batches


def new(config: Any = CONFIG, family: str = "demucs", n_samples: int = N_SAMPLES) -> Trainable:
    trainable = make_trainable(family, config, n_samples=n_samples)
    initialise(trainable, seed=1, rescale=0.1 if family == "demucs" else None)
    return trainable


def train(
    folder: Path,
    span: Span,
    recipe: Recipe = RECIPE,
    *,
    limits: Limits = UNLIMITED,
    watcher: Watcher | None = None,
    batches: Callable[[int], Iterator[FloatArray]] | None = None,
) -> tuple[Trainable, Progress, bool]:
    folder.mkdir(exist_ok=True)
    trainable = new()
    progress, is_done = fit(
        trainable,
        recipe,
        batches or batches_of(span),
        [span],
        fabric=Fabric(accelerator="cpu", devices=1),
        checkpoint=folder / "checkpoint.safetensors",
        limits=limits,
        watcher=watcher,
        n_samples=N_SAMPLES,
    )
    return trainable, progress, is_done


def everything(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    tensors, plain = read_checkpoint(folder / "checkpoint.safetensors")
    plain["progress"].pop("elapsed_s")
    return tensors, plain


class Losses(Watcher):
    """Keeps what it hears."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.notices: list[str] = []
        self.scores: list[tuple[str, bool]] = []
        self.stop_at = stop_at

    def on_step(self, progress: Progress, losses: Mapping[str, float], rate: float, examples_s: float) -> None:
        self.losses.append(sum(losses.values()))
        self.rates.append(rate)
        assert examples_s == RECIPE.data.batch_size * N_SAMPLES / RATE

    def on_validation(self, progress: Progress, scores: Mapping[str, float], name: str, is_kept: bool) -> None:
        self.scores.append((name, is_kept))

    def on_notice(self, text: str) -> None:
        self.notices.append(text)

    def should_stop(self) -> bool:
        return len(self.losses) + 1 == self.stop_at


def test_it_learns(span: Span, tmp_path: Path) -> None:
    heard = Losses()
    recipe = replace(RECIPE, schedule=ScheduleConfig(max_steps=60, epoch_steps=20))
    trainable, progress, is_done = train(tmp_path, span, recipe, watcher=heard)
    assert is_done
    assert progress.step == len(heard.losses) == 60
    assert np.mean(heard.losses[-10:]) < 0.9 * np.mean(heard.losses[:10])
    assert progress.best_score > sum(progress.first.values()) / 2
    assert heard.scores[0] == ("before training", False)
    # What is left in the network is what scored best.
    fabric = Fabric(accelerator="cpu", devices=1)
    assert validation_scores(trainable, [span], N_SAMPLES, 2, fabric) == progress.best_scores


def test_the_last_weights_are_kept_where_the_recipe_says_so(span: Span, tmp_path: Path) -> None:
    harm = replace(RECIPE, optimizer=replace(RECIPE.optimizer, learning_rate=3.0))  # far too much
    best, last = harm, replace(harm, validation=ValidationConfig(keep="last"))
    (_, kept, _), (trainable, progress, _) = train(tmp_path / "best", span, best), train(tmp_path / "last", span, last)
    assert kept.best_name == "before training" and kept.best_scores == kept.first == progress.first
    assert progress.best_name != "before training" and progress.best_score < np.mean(list(progress.first.values()))
    fabric = Fabric(accelerator="cpu", devices=1)
    assert validation_scores(trainable, [span], N_SAMPLES, 2, fabric) == progress.best_scores


@pytest.mark.parametrize("stops", [(5,), (4, 9), (1, 2, 3)])
def test_a_stopped_training_goes_on_to_the_bit(span: Span, tmp_path: Path, stops: tuple[int, ...]) -> None:
    whole, parts = Losses(), Losses()
    trainable, _, _ = train(tmp_path / "whole", span, watcher=whole)
    for stop in stops:
        watcher = Losses(stop_at=stop - len(parts.losses))
        _, progress, is_done = train(tmp_path / "parts", span, watcher=watcher)
        assert (progress.step, is_done) == (stop, False)
        parts.losses += watcher.losses
    last = Losses()
    again, _, is_done = train(tmp_path / "parts", span, watcher=last)
    assert is_done
    assert parts.losses + last.losses == whole.losses
    (tensors, plain), (expected, expected_plain) = everything(tmp_path / "parts"), everything(tmp_path / "whole")
    assert plain == expected_plain
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), trainable.parameters(), strict=True))


def test_a_finished_training_is_left_as_it_is(span: Span, tmp_path: Path) -> None:
    train(tmp_path, span)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    _, progress, is_done = train(tmp_path, span)
    assert (progress.step, is_done) == (12, True)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_checkpoint_of_another_training_is_refused(span: Span, tmp_path: Path) -> None:
    train(tmp_path, span, limits=Limits(steps=2))
    other = replace(RECIPE, optimizer=replace(RECIPE.optimizer, learning_rate=1e-4), seed=4)
    with pytest.raises(ModelError, match=r"optimizer\.learning_rate was 0\.003 and is 0\.0001; seed was 0 and is 4"):
        train(tmp_path, span, other)
    longer = replace(RECIPE, schedule=replace(RECIPE.schedule, max_steps=14))
    assert train(tmp_path, span, longer)[1].step == 14


def test_a_damaged_checkpoint_is_refused(span: Span, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match="not a checkpoint of a training"):
        train(tmp_path, span)


def test_a_disk_that_is_full_keeps_the_checkpoint_before(
    span: Span, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, span, limits=Limits(steps=4))
    before = (tmp_path / "checkpoint.safetensors").read_bytes()

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unbraid.training.checkpoint.save_file", full)
    with pytest.raises(UnbraidError, match=r"No space left on device; it needs \d+ MB; the one before is kept"):
        train(tmp_path, span, limits=Limits(steps=8))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_loss_that_is_no_number_is_left_out_and_then_given_up(span: Span, tmp_path: Path) -> None:
    def some(first_step: int) -> Iterator[FloatArray]:
        for step, batch in enumerate(batches_of(span)(first_step), first_step):
            yield batch * np.float32(np.nan) if step == 3 else batch

    heard = Losses()
    trainable, _, _ = train(tmp_path / "a", span, watcher=heard, batches=some)
    assert heard.notices == ["the loss of step 3 is no number; this step is left out"]
    assert all(torch.isfinite(parameter).all() for parameter in trainable.parameters())
    recipe = replace(RECIPE, schedule=ScheduleConfig(max_steps=40, epoch_steps=40))

    def none(first_step: int) -> Iterator[FloatArray]:
        return (batch * np.float32(np.nan) for batch in batches_of(span)(first_step))

    with pytest.raises(UnbraidError, match="no number in 20 steps in a row, up to step 19: lower optimizer"):
        train(tmp_path / "b", span, recipe, batches=none)


def test_out_of_memory_says_what_to_lower(span: Span, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, mix: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("unbraid.training.networks._DemucsTrainable.separate", full)
    with pytest.raises(UnbraidError, match=r"out of memory with 4 examples of 0\.5 s: lower data\.batch_size"):
        train(tmp_path, span)


def test_time_is_a_limit_and_the_same_command_goes_on(span: Span, tmp_path: Path) -> None:
    recipe = replace(RECIPE, schedule=ScheduleConfig(max_steps=100_000, epoch_steps=100_000))
    _, progress, is_done = train(tmp_path, span, recipe, limits=Limits(seconds=1.0))
    assert is_done
    assert 0 < progress.step < 100_000
    _, later, _ = train(tmp_path, span, recipe, limits=Limits(seconds=progress.elapsed_s + 1.0))
    assert later.step > progress.step


def test_schedules(span: Span, tmp_path: Path) -> None:
    def rates(folder: str, **schedule: Any) -> list[float]:
        heard = Losses()
        recipe = replace(RECIPE, schedule=replace(ScheduleConfig(max_steps=8, epoch_steps=2), **schedule))
        train(tmp_path / folder, span, recipe, watcher=heard)
        return [rate / 3e-3 for rate in heard.rates]

    assert rates("constant", warm_up_steps=4) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1])
    cosine = [0.01 + 0.99 * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]
    assert rates("cosine", kind="cosine") == pytest.approx(cosine)
    assert rates("step", kind="step", factor=0.5, patience=2) == pytest.approx([1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5])


def test_frozen_parameters_do_not_move(span: Span, tmp_path: Path) -> None:
    recipe = replace(RECIPE, network=NetworkConfig(freeze=("encoder.*",)))
    trainable, _, _ = train(tmp_path, span, recipe)
    for (name, now), before in zip(trainable.network.named_parameters(), new().network.parameters(), strict=True):
        assert torch.equal(now, before) == name.startswith("encoder."), name


def test_stem_weights_choose_what_is_learnt(span: Span, tmp_path: Path) -> None:
    loss = LossConfig(kind="l1", weights={"vocals": 1.0, "drums": 0.0})
    recipe = replace(RECIPE, loss=loss, schedule=ScheduleConfig(max_steps=60, epoch_steps=60))
    _, progress, _ = train(tmp_path, span, recipe)
    assert progress.best_scores["vocals"] > progress.first["vocals"]


def test_averages_follow_their_rule() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(0.0)
    average = Average(module, 0.5, per_epoch=False)
    expected = 0.0
    for i in range(12):
        with torch.no_grad():
            module.weight.fill_(float(i + 1))
        average.update(module)
        decay = min(0.5, (1 + i) / (10 + i))
        expected = decay * expected + (1 - decay) * (i + 1)
        assert average.state["weight"].item() == pytest.approx(expected, rel=1e-6)


def test_validation_is_the_usdr_of_what_the_network_gives(span: Span) -> None:
    trainable = new().eval()
    estimates = separate_span(trainable, span, N_SAMPLES, 3)
    by_hand = np.zeros_like(estimates)
    for start in range(0, span.n_samples, N_SAMPLES):
        mix = torch.from_numpy(span.read(start, start + N_SAMPLES).sum(axis=0, keepdims=True)[0][None])
        with torch.no_grad():
            part = trainable.separate(mix)[0].numpy()
        by_hand[..., start : start + N_SAMPLES] = part[..., : span.n_samples - start]
    np.testing.assert_allclose(estimates, by_hand, atol=1e-6)
    scores = validation_scores(trainable, [span], N_SAMPLES, 3, Fabric(accelerator="cpu", devices=1))
    truth = span.read(0, span.n_samples)
    for i, stem in enumerate(STEMS):
        assert scores[stem] == pytest.approx(usdr(truth[i], by_hand[i]), abs=1e-4)


def test_windows_of_spleeter_are_put_together_as_the_pipeline_does(span: Span) -> None:
    """With masks that are one half for both stems, each estimate is half the mix, from the first sample to the last."""
    config = SpleeterConfig(
        stems=STEMS, sample_rate=RATE, n_fft=256, hop=64, n_frames=64, n_bins=128, conv_n_filters=(2,) * 6,
        mask_extension="average", separation_exponent=1,
    )  # fmt: skip
    n_samples = 63 * 64 + 256
    trainable = new(config, "spleeter", n_samples)
    with torch.no_grad():
        for parameter in trainable.network.parameters():
            parameter.zero_()
    estimates = separate_span(trainable, span, n_samples, 3)
    mix = span.read(0, span.n_samples).sum(axis=0)
    np.testing.assert_allclose(estimates, np.stack([mix, mix]) / 2, atol=1e-5)


def test_a_span_is_silent_outside() -> None:
    track: Any = Track(np.arange(1, 11, dtype=np.float32).reshape(1, 1, 10))
    span = Span(track, 2, 8, gain=2.0)
    assert span.read(-2, 3)[0, 0].tolist() == [0, 0, 6, 8, 10]
    assert span.read(4, 9)[0, 0].tolist() == [14, 16, 0, 0, 0]
    assert span.read(7, 9)[0, 0].tolist() == [0, 0]
    assert span.read(-3, -1)[0, 0].tolist() == [0, 0]
    assert span.read(-1, 7)[0, 0].tolist() == [0, 6, 8, 10, 12, 14, 16, 0]
