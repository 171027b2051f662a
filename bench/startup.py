"""How long a start takes: ``import unbraid``, ``unbraid --help``, and what of it is whose import."""

from __future__ import annotations

import re
from typing import Any

from bench.measure import Setting, log, median, run

__all__ = ["measure"]

N_RUNS = 11
N_SLOWEST = 12
_IMPORT = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|( *)(\S+)")


def _milliseconds(command: list[str], setting: Setting) -> float:
    run(command, cwd=setting.results)  # not counted: reads from disk, writes .pyc
    return median(run(command, cwd=setting.results).wall_s for _ in range(N_RUNS)) * 1e3


def measure(setting: Setting) -> dict[str, Any]:
    """Medians of new processes, and the imports that cost most."""
    python = str(setting.python)
    commands = {
        "python -c pass": [python, "-c", "pass"],
        "import unbraid": [python, "-c", "import unbraid"],
        "import unbraid; Separator": [python, "-c", "from unbraid import Separator"],
        "unbraid --help": [*setting.unbraid, "--help"],
        "unbraid separate --help": [*setting.unbraid, "separate", "--help"],
    }
    if setting.spleeter:
        commands["spleeter --help"] = [str(setting.spleeter / "bin" / "spleeter"), "--help"]
    found: dict[str, Any] = {"ms": {}, "n_runs": N_RUNS}
    for name, command in commands.items():
        found["ms"][name] = _milliseconds(command, setting)
        log(f"{name}: {found['ms'][name]:.0f} ms")
    code = "import sys; sys.argv = ['unbraid', '--help']; from unbraid.cli import main; main()"
    lines = run([python, "-X", "importtime", "-c", code], cwd=setting.results).output
    imports = [(int(own), int(total), name) for own, total, _, name in _IMPORT.findall(lines)]
    imports.sort(key=lambda item: -item[1])
    found["imports_of_help_ms"] = {name: total / 1e3 for _, total, name in imports[:N_SLOWEST]}
    return found
