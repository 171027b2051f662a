"""Train a built-in model: ``python -m unbraid.training.builtin --data DIR --out DIR --minutes 100``.

On Linux with glibc, training on a CPU is up to twice as fast when the allocator keeps its memory: set
``MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456``.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from pathlib import Path

import torch

from unbraid.errors import UnbraidError
from unbraid.models.spleeter.config import SharedUNetConfig
from unbraid.training.builtin.checkpoint import load_checkpoint, save_checkpoint
from unbraid.training.builtin.data import RemixConfig, draw_example, load_library
from unbraid.training.builtin.export import save_model
from unbraid.training.builtin.loop import LoopConfig, Training, start, train
from unbraid.training.builtin.prepare import prepare

SAMPLE_RATE = 44100
MODEL = SharedUNetConfig(widths=(32, 64, 128, 192, 256))


def main() -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args()
    try:
        _run(options)
    except UnbraidError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m unbraid.training.builtin", description="Train a small model for 4 stems."
    )
    parser.add_argument("--data", type=Path, required=True, help="holds songs/, bank/ and voice/")
    parser.add_argument("--out", type=Path, required=True, help="cache, checkpoint and model are written here")
    parser.add_argument("--minutes", type=float, default=100.0, help="training time (without preparation)")
    parser.add_argument("--hold-out", action="append", default=[], metavar="SONG", help="never train on this song")
    parser.add_argument("--songs", type=int, default=44, help="minutes of synthetic songs")
    parser.add_argument("--batch", type=int, default=6, help="examples a step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of the network")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-minutes", type=float, default=4.0, help="time between checkpoints")
    return parser


def _run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    cache, checkpoint = options.out / "cache", options.out / "checkpoint.safetensors"
    prepare(
        options.data,
        cache,
        sample_rate=SAMPLE_RATE,
        seed=options.seed,
        n_songs=options.songs,
        song_s=60.0,
        n_workers=options.threads,
    )
    library = load_library(cache, sample_rate=SAMPLE_RATE, hold_out=tuple(options.hold_out))
    for name, (begin, end) in library.windows.items():
        _say(f"held out of {name}: {begin / SAMPLE_RATE:.0f}-{end / SAMPLE_RATE:.0f} s")
    config = LoopConfig(batch_size=options.batch)
    draw = functools.partial(draw_example, library, RemixConfig(config.n_samples))
    training = start(MODEL, config, options.seed)
    if checkpoint.exists():
        load_checkpoint(training, checkpoint)
        _say(f"going on from step {training.step}, {training.elapsed_s / 60:.1f} min")
    saved, said, losses = time.monotonic(), time.monotonic(), list[float]()
    total_s = 60 * options.minutes
    for loss in train(training, config, lambda rng: draw(rng), lambda run: run.elapsed_s / total_s):
        losses.append(loss)
        if time.monotonic() - said > 20:
            said = _progress(training, losses, total_s, said)
            losses.clear()
        if time.monotonic() - saved > 60 * options.save_minutes:
            _save(training, options.out, checkpoint)
            saved = time.monotonic()
    _save(training, options.out, checkpoint)


def _save(training: Training, out: Path, checkpoint: Path) -> None:
    save_checkpoint(training, checkpoint)
    save_model(training.average, out / "model")


def _progress(training: Training, losses: list[float], total_s: float, since: float) -> float:
    now = time.monotonic()
    left_min = max(0.0, total_s - training.elapsed_s) / 60
    _say(
        f"step {training.step}  loss {sum(losses) / len(losses):.4f}  "
        f"{len(losses) / (now - since):.2f} steps/s  {left_min:.1f} min left"
    )
    return now


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
