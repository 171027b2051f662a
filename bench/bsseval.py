"""Our BSSEval version 4 beside museval's, on a song of four stereo stems, window and hop of a second.

::

    python -m bench.bsseval [--seconds S] [--rounds N]

makes a song (16 bits) and estimates of its stems, scores them with both in turns, each time in a process of its own,
and prints a table. The environment must hold museval (`pip install museval==0.4.1`); only its metrics are loaded, since
the rest of it looks for the ffmpeg program. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import Took, log, median, run

PROGRAMS = ("unbraid", "museval")
METRICS = ("SDR", "ISR", "SIR", "SAR")
RATE = 44100
HIGH_DB = 100.0  # above it, museval's numbers are those of rounding errors
_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def _make(file: Path, seconds: float) -> None:
    """References and estimates that leak, are filtered and noisy [shape=(stem, channel, time)], as 16-bit numbers."""
    from scipy.signal import oaconvolve

    from unbraid.datasets.synthesis.song import Studio

    rng = np.random.default_rng(0)
    song = Studio(RATE).song(seconds, np.random.default_rng(12), style="pop")
    references = np.stack([song[stem] for stem in ("vocals", "drums", "bass", "other")]).astype(np.float64)
    leaks = np.eye(len(references)) + rng.uniform(0, 0.15, (len(references),) * 2)
    taps = rng.standard_normal((len(references), 1, 200)) * np.exp(-np.arange(200) / 20) * 0.1
    taps[..., 0] = 1
    estimates = oaconvolve(np.einsum("jk,kct->jct", leaks, references), taps, axes=-1)[..., : references.shape[-1]]
    estimates += 2e-3 * rng.standard_normal(references.shape)
    np.save(file, np.clip(np.round(32767 * np.stack([references, estimates])), -32767, 32767).astype(np.int16))


def _museval(references: Any, estimates: Any) -> Any:
    """SDR, ISR, SIR and SAR [shape=(4, stem, frame)]."""
    package = importlib.util.find_spec("museval")
    if package is None or not package.submodule_search_locations:
        raise RuntimeError("museval is not installed: pip install museval==0.4.1")
    spec = importlib.util.spec_from_file_location(
        "museval_metrics", Path(package.submodule_search_locations[0]) / "metrics.py"
    )
    assert spec is not None and spec.loader is not None
    metrics = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(metrics)
    start = time.perf_counter()
    *scores, _ = metrics.bss_eval(references.swapaxes(1, 2), estimates.swapaxes(1, 2), window=RATE, hop=RATE)
    return np.stack(scores), time.perf_counter() - start


def _unbraid(references: Any, estimates: Any) -> Any:
    """The same of ours."""
    from unbraid.evaluation.bsseval import bss_eval

    start = time.perf_counter()
    scores = bss_eval(references, estimates, window=RATE, hop=RATE)
    return np.stack([scores.sdr, scores.isr, scores.sir, scores.sar]), time.perf_counter() - start


def _score(program: str, file: Path) -> None:
    """Score in this process; scores go beside the song, what it took is printed as JSON."""
    references, estimates = np.load(file) / 32768
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT / 1e6
    scores, taken = {"unbraid": _unbraid, "museval": _museval}[program](references, estimates)
    np.save(file.with_suffix(f".{program}.npy"), scores)
    print(json.dumps({"computation_s": taken, "song_mb": before}))


def _deviations(ours: Any, theirs: Any) -> dict[str, float]:
    """The largest in dB for each metric, where not both are above `HIGH_DB`."""
    if not np.array_equal(np.isnan(ours), np.isnan(theirs)):
        raise RuntimeError("the two leave out different windows")
    compared = ~np.isnan(ours) & ((ours < HIGH_DB) | (theirs < HIGH_DB))
    return {
        metric: float(np.max(np.abs(ours[i] - theirs[i]), where=compared[i], initial=0))
        for i, metric in enumerate(METRICS)
    }


def _line(took: Took, found: dict[str, Any]) -> str:
    return (
        f"{took.wall_s:7.2f} s in all, {found['computation_s']:7.2f} s of computation,"
        f" {took.cpu_s:7.1f} s of processors, {took.peak_mb:6.0f} MB (the song: {found['song_mb']:.0f} MB)"
    )


def main() -> None:
    """Measure both in turns and print a table; with --one, one in this process."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.bsseval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="length of the song; default: 60")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--one", nargs=2, metavar=("PROGRAM", "FILE"), help="only this, in this process, as JSON")
    parser.add_argument("--make", type=Path, metavar="FILE", help="only make the song")
    arguments = parser.parse_args()
    if arguments.one:
        _score(arguments.one[0], Path(arguments.one[1]))
        return
    if arguments.make:
        _make(arguments.make, arguments.seconds)
        return
    at = Path(__file__).parent.parent
    whole: list[float] = []
    alone: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "song.npy"
        # Elsewhere, for on Linux a process's peak of memory is never below that of the one that started it.
        run([sys.executable, "-m", "bench.bsseval", "--seconds", str(arguments.seconds), "--make", file], cwd=at)
        for nth in range(arguments.rounds):
            took, found = {}, {}
            for program in PROGRAMS:
                took[program] = run([sys.executable, "-m", "bench.bsseval", "--one", program, file], cwd=at)
                found[program] = json.loads(took[program].output.splitlines()[-1])
                log(f"round {nth + 1} | {program} | {_line(took[program], found[program])}")
            whole.append(took["museval"].wall_s / took["unbraid"].wall_s)
            alone.append(found["museval"]["computation_s"] / found["unbraid"]["computation_s"])
            log(f"round {nth + 1} | {whole[-1]:.2f} times as fast in all, {alone[-1]:.2f} times in computation")
        ours, theirs = (np.load(file.with_suffix(f".{program}.npy")) for program in PROGRAMS)
    log(f"median of {arguments.rounds}: {median(whole):.2f} times as fast in all, {median(alone):.2f} in computation")
    worst = ", ".join(f"{metric} {value:.1e} dB" for metric, value in _deviations(ours, theirs).items())
    log(f"largest deviations in {ours[0].size} scores of each metric: {worst}")


if __name__ == "__main__":
    main()
