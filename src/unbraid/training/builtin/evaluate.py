"""Score a model on what was kept out of its training.

``python -m unbraid.training.builtin.evaluate --model DIR --cache DIR``.

Prints one table per held-out song or part of a song, and one of them all, in Markdown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from unbraid.datatypes import FloatArray
from unbraid.errors import UnbraidError
from unbraid.evaluation.oracles import OracleShare, oracle_shares
from unbraid.separation.separator import Separator
from unbraid.training.builtin.data import held_out_window
from unbraid.training.builtin.prepare import STEMS

__all__ = ["held_out_parts", "markdown_table"]

SAMPLE_RATE = 44100


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m unbraid.training.builtin.evaluate", description="Score a model.")
    parser.add_argument("--model", required=True, help="model folder or name")
    parser.add_argument("--cache", type=Path, required=True, help="the cache folder of the training run")
    parser.add_argument("--hold-out", action="append", default=[], metavar="SONG", help="whole song kept out")
    parser.add_argument(
        "--seconds", type=float, default=None, help="score only so much of a whole song, from 1/4 of it"
    )
    options = parser.parse_args()
    try:
        parts = held_out_parts(options.cache, tuple(options.hold_out), options.seconds)
        with Separator(options.model) as separator:
            estimates = {title: _separate(separator, references) for title, references in parts.items()}
        for title, references in parts.items():
            _say(title, oracle_shares(references, estimates[title]))
        _say("all of these, one after another", oracle_shares(_joined(parts), _joined(estimates)))
    except UnbraidError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _separate(separator: Separator, references: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Separate the sum of the references."""
    mix = np.stack(list(references.values())).sum(axis=0)
    return separator.separate(mix, sample_rate=SAMPLE_RATE)


def _joined(parts: Mapping[str, Mapping[str, FloatArray]]) -> dict[str, FloatArray]:
    """The stems of all parts, end to end."""
    return {stem: np.concatenate([part[stem] for part in parts.values()], axis=1) for stem in STEMS}


def _say(title: str, scores: Mapping[str, OracleShare]) -> None:
    sys.stdout.write(f"**{title}**\n\n{markdown_table(scores)}\n")
    sys.stdout.flush()


def held_out_parts(
    cache: Path, hold_out: tuple[str, ...], seconds: float | None = None
) -> dict[str, dict[str, FloatArray]]:
    """Read what training left out: whole songs (or `seconds` of them), and the window of each other song.

    Returns
    -------
    dict of str to dict of str to ndarray [shape=(2, time), float32]
        Title of the part to its true stems; silent ones are zeros.
    """
    parts: dict[str, dict[str, FloatArray]] = {}
    for folder in sorted((cache / "songs").iterdir(), key=lambda path: (path.name not in hold_out, path.name)):
        stems = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
        n_samples = next(iter(stems.values())).shape[1]
        start, stop = 0, n_samples
        if folder.name not in hold_out:
            start, stop = held_out_window(stems, sample_rate=SAMPLE_RATE, window_s=30.0)
        elif seconds is not None:
            start = n_samples // 4
            stop = start + int(seconds * SAMPLE_RATE)
        silence = np.zeros((2, stop - start), np.float32)
        title = f"{folder.name}, {start / SAMPLE_RATE:.0f}-{stop / SAMPLE_RATE:.0f} s"
        parts[title] = {
            stem: stems[stem][:, start:stop].astype(np.float32) if stem in stems else silence for stem in STEMS
        }
    return parts


def markdown_table(scores: Mapping[str, OracleShare]) -> str:
    """The scores of one part as a Markdown table, with their mean."""
    lines = ["| stem | mix | model | IRM2 oracle | share |", "|---|---|---|---|---|"]
    for stem, score in scores.items():
        lines.append(f"| {stem} | {score.mix_sdr:.2f} | {score.sdr:.2f} | {score.oracle_sdr:.2f} | {score.share:.2f} |")
    mean = np.mean([score.share for score in scores.values()])
    sdr = np.mean([score.sdr for score in scores.values()])
    lines.append(f"| **mean** | | {sdr:.2f} | | **{mean:.2f}** |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
