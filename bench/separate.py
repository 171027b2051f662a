"""The whole command beside Spleeter's: a new process each time, from an mp3 file to WAV files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.machine import has_bf16
from bench.measure import Setting, Took, log, median, numbers, run

__all__ = ["MODELS", "SONG_S", "make_checkpoints", "make_songs", "measure", "measure_builtin", "measure_memory"]

MODELS = ("4stems", "2stems")
SONG_S = 210
MEMORY_S = (30, SONG_S, 600, 3600)


def make_songs(setting: Setting, lengths_s: Sequence[int] = MEMORY_S) -> dict[int, Path]:
    """Make the songs of all lengths, where they are not there yet."""
    folder = setting.results / "songs"
    run([setting.python, "-m", "bench.songs", setting.song, folder, *map(str, lengths_s)], cwd=setting.repository)
    return {seconds: folder / f"song_{seconds}s.mp3" for seconds in lengths_s}


def make_checkpoints(setting: Setting) -> None:
    """Make random checkpoints of the official shapes, where they are not there yet."""
    missing = [model for model in MODELS if not (setting.models / f"{model}.json").exists()]
    if missing and setting.spleeter:
        log(f"writing random checkpoints of the official shapes to {setting.models}")
        script = setting.repository / "bench" / "peer_checkpoint.py"
        run([setting.spleeter / "bin" / "python", script, setting.models, *missing])


def run_ours(setting: Setting, model: str, song: Path, home: Path, *options: str, out: str = "ours") -> Took:
    """Run our command into an empty folder, with the compiled-model cache below `home`."""
    target = setting.results / "out" / out
    shutil.rmtree(target, ignore_errors=True)
    command: list[str | Path] = [*setting.unbraid, "separate", "-p", model, "-o", target, *options, song]
    return run(command, env={"MODEL_PATH": str(setting.models), "UNBRAID_HOME": str(home)})


def run_theirs(setting: Setting, model: str, song: Path) -> Took:
    """Run Spleeter's command."""
    assert setting.spleeter is not None
    target = setting.results / "out" / "theirs"
    shutil.rmtree(target, ignore_errors=True)
    command: list[str | Path] = [
        setting.spleeter / "bin" / "spleeter",
        "separate",
        "-p",
        f"spleeter:{model}",
        "-o",
        target,
        song,
    ]
    return run(command, env={"MODEL_PATH": str(setting.models)})


def measure(setting: Setting) -> dict[str, Any]:
    """Alternate theirs, ours with an empty cache and ours with a filled one; medians of ratios round by round."""
    songs = make_songs(setting)
    make_checkpoints(setting)
    found: dict[str, Any] = {"song_s": SONG_S, "rounds": setting.rounds, "models": {}}
    for model in MODELS:
        found["models"][model] = _measure_model(setting, model, songs)
    return found


def _measure_model(setting: Setting, model: str, songs: dict[int, Path]) -> dict[str, Any]:
    home, empty = setting.results / "home", setting.results / "home-empty"
    # Not counted: reads the programs from disk, and fills our cache of compiled models.
    run_ours(setting, f"spleeter:{model}", songs[30], home)
    if setting.spleeter:
        run_theirs(setting, model, songs[30])
    runs: dict[str, list[Took]] = {}
    for number in range(setting.rounds):
        log(f"{model}: round {number + 1} of {setting.rounds}")
        if setting.spleeter:
            runs.setdefault("theirs", []).append(run_theirs(setting, model, songs[SONG_S]))
        shutil.rmtree(empty, ignore_errors=True)
        runs.setdefault("cold", []).append(run_ours(setting, f"spleeter:{model}", songs[SONG_S], empty))
        runs.setdefault("warm", []).append(run_ours(setting, f"spleeter:{model}", songs[SONG_S], home))
        if has_bf16():
            runs.setdefault("warm f32", []).append(
                run_ours(setting, f"spleeter:{model}", songs[SONG_S], home, "--precision", "f32")
            )
        log(
            "  " + ", ".join(f"{kind} {took[-1].wall_s:.2f} s {took[-1].peak_mb:.0f} MB" for kind, took in runs.items())
        )
    result: dict[str, Any] = {"runs": {kind: [numbers(t) for t in took] for kind, took in runs.items()}}
    if setting.spleeter:
        result["ratio"] = {
            kind: {
                what: median(getattr(a, what) / getattr(b, what) for a, b in zip(runs["theirs"], took, strict=True))
                for what in ("wall_s", "cpu_s", "peak_mb")
            }
            for kind, took in runs.items()
            if kind != "theirs"
        }
        run_ours(
            setting,
            f"spleeter:{model}",
            songs[SONG_S],
            home,
            "--precision",
            "f32",
            "--high-band",
            "model",
            out="compared",
        )
        result["difference"] = _difference(setting, songs[SONG_S].stem)
    return result


def _difference(setting: Setting, name: str) -> dict[str, Any]:
    """How far our 16-bit samples are from Spleeter's, for each stem."""
    folders = [setting.results / "out" / who / name for who in ("theirs", "compared")]
    output = run([setting.python, "-m", "bench.difference", *folders], cwd=setting.repository).output
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def measure_memory(setting: Setting) -> dict[str, Any]:
    """Peak memory and time of our command for songs of growing length."""
    songs = make_songs(setting)
    make_checkpoints(setting)
    home = setting.results / "home"
    found: dict[str, Any] = {}
    for model in MODELS:
        run_ours(setting, f"spleeter:{model}", songs[30], home)
        lengths = MEMORY_S if model == "4stems" else MEMORY_S[-1:]
        for seconds in lengths:
            took = run_ours(setting, f"spleeter:{model}", songs[seconds], home)
            log(f"{model}, {seconds} s: {took.wall_s:.2f} s, {took.peak_mb:.0f} MB")
            found.setdefault(model, {})[str(seconds)] = numbers(took)
    shutil.rmtree(setting.results / "out", ignore_errors=True)
    return found


def measure_builtin(setting: Setting) -> dict[str, Any]:
    """Time and peak memory of the built-in model for songs of growing length; of short ones the median."""
    songs = make_songs(setting)
    home = setting.results / "home"
    found: dict[str, Any] = {}
    for precision in ("f32", "bf16") if has_bf16() else ("f32",):
        options = ("--precision", precision)
        run_ours(setting, "unbraid:4stems", songs[30], home, *options)
        for seconds in MEMORY_S:
            rounds = setting.rounds if seconds <= 600 else 1
            took = [run_ours(setting, "unbraid:4stems", songs[seconds], home, *options) for _ in range(rounds)]
            log(f"built in, {precision}, {seconds} s: " + ", ".join(f"{one.wall_s:.2f} s" for one in took))
            found.setdefault(precision, {})[str(seconds)] = [numbers(one) for one in took]
    shutil.rmtree(setting.results / "out", ignore_errors=True)
    return found
