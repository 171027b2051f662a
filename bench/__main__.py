"""Measure what is not measured yet, and write docs/performance.md.

::

    python -m bench --song SONG.mp3 --spleeter SPLEETER_ENV

makes what is missing (an environment with the base install of this repository, songs, random checkpoints of the
official shapes), measures ours beside Spleeter, and writes the report. Each measurement is kept in the results folder;
it is taken again when named by ``--again`` (``--again all``). ``--spleeter`` is the folder of an environment made by::

    python3.11 -m venv SPLEETER_ENV && SPLEETER_ENV/bin/pip install spleeter==2.4.2

which also needs the ``ffmpeg`` program; without it only ours is measured. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import install_size, machine, separate, stages, startup, wiener
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
}
COMMANDS = [
    "python3.11 -m venv SPLEETER_ENV && SPLEETER_ENV/bin/pip install spleeter==2.4.2",
    "python -m bench --song SONG.mp3 --spleeter SPLEETER_ENV --again all",
    "",
    "# what it runs, in turns:",
    "MODEL_PATH=MODELS SPLEETER_ENV/bin/spleeter separate -p spleeter:4stems -o OUT song_210s.mp3",
    "MODEL_PATH=MODELS UNBRAID_HOME=HOME unbraid separate -p spleeter:4stems -o OUT song_210s.mp3",
]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--song", type=Path, required=True, help="an mp3 of real music; it is looped to all lengths")
    parser.add_argument("--spleeter", type=Path, help="environment with Spleeter 2.4.2")
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
