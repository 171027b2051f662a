"""Run a command and see what it took: time on the wall, time on the processors, peak memory. POSIX only."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Setting", "Took", "folder_megabytes", "log", "median", "numbers", "run"]

_PEAK_UNIT = 1 if os.uname().sysname == "Darwin" else 1024  # of ru_maxrss, in bytes


@dataclass(frozen=True)
class Setting:
    """Where everything is.

    repository : the root of this repository
    results : folder for measurements, songs and environments
    python : interpreter of an environment that holds unbraid
    spleeter : folder of an environment that holds Spleeter 2.4.2, None to measure ours alone
    demucs : folder of an environment that holds demucs 4.1.0, None to measure nothing of Demucs
    models : folder of Spleeter checkpoints of the official shapes, as peer_checkpoint.py writes them
    song : an mp3 file, looped to the lengths needed
    rounds : how often ours and theirs take turns
    """

    repository: Path
    results: Path
    python: Path
    spleeter: Path | None
    demucs: Path | None
    models: Path
    song: Path
    rounds: int

    @property
    def unbraid(self) -> list[str]:
        """Our command: the installed script where there is one."""
        script = self.python.parent / "unbraid"
        return [str(script)] if script.exists() else [str(self.python), "-m", "unbraid"]


@dataclass(frozen=True)
class Took:
    """What a command took: seconds on the wall, seconds on all processors, peak of resident memory in MB (10⁶ bytes).

    The peak is that of the largest process where a command starts others.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    output: str


def run(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Took:
    """Run a command to its end; its output is kept, and shown if it fails.

    Raises
    ------
    RuntimeError : it failed
    """
    words = [str(word) for word in command]
    start = time.perf_counter()
    process = subprocess.Popen(
        words,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    with process.stdout:
        output = process.stdout.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode} from {' '.join(words)}\n{output[-4000:]}")
    return Took(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _PEAK_UNIT / 1e6, output)


def numbers(took: Took) -> dict[str, float]:
    """What is kept of a command."""
    return {key: value for key, value in asdict(took).items() if key != "output"}


def median(values: Iterable[float]) -> float:
    """Median, of nothing NaN."""
    collected = list(values)
    return statistics.median(collected) if collected else float("nan")


def folder_megabytes(folder: Path) -> float:
    """Size of all files below a folder in MB (10⁶ bytes), each hard link once."""
    seen: dict[tuple[int, int], int] = {}
    for root, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(root, name))
            seen[status.st_dev, status.st_ino] = status.st_size
    return sum(seen.values()) / 1e6


def log(text: str) -> None:
    """Say what is being done, at once."""
    print(text, flush=True)
