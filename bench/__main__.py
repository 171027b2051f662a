"""Measure what is not measured yet, and write docs/performance.md.

::

    python -m bench --song SONG.mp3 --spleeter SPLEETER_ENV --demucs DEMUCS_ENV

makes what is missing (an environment with the base install of this repository, songs, random checkpoints of the
official shapes), measures ours beside Spleeter and Demucs, and writes the report. Each measurement is kept in the
results folder; it is taken again when named by ``--again`` (``--again all``); sections of the report that this folder
knows nothing about stay. ``--spleeter`` and ``--demucs`` are the folders of environments made by::

    python3.11 -m venv SPLEETER_ENV && SPLEETER_ENV/bin/pip install spleeter==2.4.2
    python3.11 -m venv DEMUCS_ENV && DEMUCS_ENV/bin/pip install torch==2.13.0 demucs==4.1.0 numpy==2.4.6

Spleeter also needs the ``ffmpeg`` program; without it only ours is measured. Without Demucs, nothing that stands beside
it is: it writes the random networks, too. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import beside_demucs, install_size, machine, rtf, separate, stages, startup, wiener
from bench.measure import Setting, log
from bench.report import write_report

REPOSITORY = Path(__file__).resolve().parent.parent
STEPS: dict[str, Callable[[Setting], dict[str, Any]]] = {
    "install": install_size.measure,
    "machine": machine.measure,
    "startup": startup.measure,
    "separate": separate.measure,
    "stages": stages.measure,
    "wiener": wiener.measure,
    "memory": separate.measure_memory,
    "builtin": separate.measure_builtin,
    "demucs": beside_demucs.measure,
    "two-stems": beside_demucs.measure_two_stems,
    "rtf": rtf.measure,
    "demucs-memory": beside_demucs.measure_memory,
}
NEED_DEMUCS = ("demucs", "two-stems", "rtf", "demucs-memory")
COMMANDS = [
    "python3.11 -m venv SPLEETER_ENV && SPLEETER_ENV/bin/pip install spleeter==2.4.2",
    "python3.11 -m venv DEMUCS_ENV && DEMUCS_ENV/bin/pip install torch==2.13.0 demucs==4.1.0 numpy==2.4.6",
    "python -m bench --song SONG.mp3 --spleeter SPLEETER_ENV --demucs DEMUCS_ENV --again all",
    "",
    "# what it runs, in turns:",
    "MODEL_PATH=MODELS SPLEETER_ENV/bin/spleeter separate -p spleeter:4stems -o OUT song_210s.mp3",
    "MODEL_PATH=MODELS UNBRAID_HOME=HOME unbraid separate -p spleeter:4stems -o OUT song_210s.mp3",
    "",
    "# and beside Demucs, after `DEMUCS_ENV/bin/python bench/peer_demucs.py PACKAGES` and",
    "# `UNBRAID_HOME=HOME unbraid models import PACKAGES/single PACKAGES/bag`:",
    "DEMUCS_ENV/bin/demucs -n bench_htdemucs --repo PACKAGES/single -d cpu --shifts 0 -o OUT song_60s.mp3",
    "UNBRAID_HOME=HOME unbraid separate -m bench_htdemucs --precision f32 -o OUT song_60s.mp3",
    "UNBRAID_HOME=HOME unbraid separate -m bench_ft --two-stems vocals -o OUT song_60s.mp3",
]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--song", type=Path, required=True, help="an mp3 of real music; it is looped to all lengths")
    parser.add_argument("--spleeter", type=Path, help="environment with Spleeter 2.4.2")
    parser.add_argument("--demucs", type=Path, help="environment with demucs 4.1.0")
    parser.add_argument("--models", type=Path, help="folder of random checkpoints (made in the results folder)")
    parser.add_argument("--python", type=Path, help="interpreter with unbraid, instead of a new environment")
    parser.add_argument("--results", type=Path, default=REPOSITORY / ".run" / "bench", help="default: .run/bench")
    parser.add_argument("--docs", type=Path, default=REPOSITORY / "docs", help="where the report goes; default: docs")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS), help="these measurements only")
    parser.add_argument("--again", nargs="+", choices=[*STEPS, "all"], default=[], help="even if measured already")
    return parser.parse_args()


def main() -> int:
    """Take the measurements; 1 if one failed, after the others were taken."""
    arguments = _arguments()
    results = arguments.results.resolve()
    results.mkdir(parents=True, exist_ok=True)
    (results / ".gitignore").write_text("*\n")
    setting = Setting(
        repository=REPOSITORY,
        results=results,
        # Not resolved: the interpreter of an environment is a link out of it.
        python=(arguments.python or results / "environment" / "bin" / "python").absolute(),
        spleeter=arguments.spleeter.absolute() if arguments.spleeter else None,
        demucs=arguments.demucs.absolute() if arguments.demucs else None,
        models=(arguments.models or results / "models").resolve(),
        song=arguments.song.resolve(),
        rounds=arguments.rounds,
    )
    failed = 0
    for name in arguments.only:
        file = results / f"{name}.json"
        if file.exists() and name not in arguments.again and "all" not in arguments.again:
            log(f"{name}: measured already")
            continue
        if name == "install" and arguments.python:
            continue
        if name in NEED_DEMUCS and not setting.demucs:
            log(f"{name}: not measured without --demucs")
            continue
        start = time.perf_counter()
        try:
            found = STEPS[name](setting)
        except (RuntimeError, OSError, AssertionError, ImportError) as error:
            failed += 1
            print(f"{name} failed: {error}", file=sys.stderr, flush=True)
            continue
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(found, indent=1))
        partial.replace(file)
        log(f"{name}: done in {time.perf_counter() - start:.0f} s")
    log(f"report: {write_report(results, arguments.docs, COMMANDS)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
