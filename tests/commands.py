"""Running the command in tests: inside this process, with a network that is a line of NumPy, or as a real one."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from unbraid.datatypes import FloatArray

__all__ = [
    "QUICK",
    "REAL",
    "STEMS",
    "Outcome",
    "Runner",
    "command",
    "environment",
    "in_terminal",
    "quick_engine",
    "run_inside",
]

STEMS = ("vocals", "drums", "bass", "other")
REAL = (sys.executable, "-m", "unbraid")
QUICK = (sys.executable, str(Path(__file__).with_name("quick_unbraid.py")))


@dataclass(frozen=True)
class Outcome:
    """What a run of the command left to see."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Of the error stream."""
        return self.err.split("\n")[:-1]


Runner = Callable[..., Outcome]


class _Shares:
    """An engine that gives each stem a fixed share of each bin: the same on every machine.

    It is instant, or takes $QUICK_RUN_S seconds, for tests that must come in time.
    """

    n_streams = 2
    any_shape = True

    def __init__(self) -> None:
        shares = np.random.default_rng(5).uniform(0.1, 1.0, (len(STEMS), 1, 1, 1024))
        self._shares = shares.astype(np.float32)

    def run(self, inputs: Sequence[FloatArray]) -> tuple[FloatArray, ...]:
        (magnitudes,) = inputs
        time.sleep(float(os.environ.get("QUICK_RUN_S", "0")))
        return (magnitudes[:, None] * self._shares,)

    def describe(self) -> str:
        return "a line of NumPy"

    def close(self) -> None:
        pass


def quick_engine(network: Any, **options: Any) -> _Shares:
    """In place of `load_engine`."""
    return _Shares()


def run_inside(arguments: Sequence[object], capsys: pytest.CaptureFixture[str]) -> Outcome:
    """Run the command in this process."""
    from unbraid.cli import main

    capsys.readouterr()
    before = sys.argv
    sys.argv = ["unbraid", *map(str, arguments)]
    code: object = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = before
    assert isinstance(code, int)
    return Outcome(code, *capsys.readouterr())


def command(
    arguments: Sequence[object], *, program: Sequence[str] = REAL, timeout: float = 300.0, **options: Any
) -> Outcome:
    """Run the command as a process of its own; `env` is added to the environment."""
    options["env"] = environment(**options.pop("env", {}))
    done = subprocess.run(
        [*program, *map(str, arguments)],
        capture_output=True,
        timeout=timeout,
        check=False,
        **options,
    )
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


def environment(**more: str) -> dict[str, str]:
    """Of a command: this one's, and the way to the source."""
    source = str(Path(__file__).parent.parent / "src")
    paths = [source, os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUTF8": "1", **more}


def in_terminal(arguments: Sequence[object], env: dict[str, str], *, stdout: IO[str] | None = None) -> tuple[int, str]:
    """Run a program in a pseudo-terminal of POSIX; its exit code, and what was shown there.

    stdout : where the standard output goes instead
    """
    import pty

    main_end, other_end = pty.openpty()
    process = subprocess.Popen(
        [*map(str, arguments)], stdout=other_end if stdout is None else stdout, stderr=other_end, env=env
    )
    os.close(other_end)
    shown = b""
    while True:
        try:
            part = os.read(main_end, 1 << 16)
        except OSError:  # Linux says so when the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(main_end)
    return process.wait(), shown.decode()
