"""Where the time of a separation goes: the phases of a process, and the stages of the pipeline by thread time.

The functions of each stage are wrapped from here, so that the package needs no hooks. The worker runs in an
environment with the base install: ``python -m bench.stages MODEL SONG OUT RESULT``.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.measure import Setting, log, median, run
from bench.separate import MODELS, SONG_S, make_checkpoints, make_songs

__all__ = ["measure"]

N_WARM = 3
# What is timed, where it is looked up when it is called. Time is given to the innermost stage that is running.
STAGES = {
    "decode": ("unbraid.audio.read:AudioReader.blocks",),
    "STFT and magnitude": ("unbraid.models.spleeter.transform:SpleeterTransform.forward",),
    "network": ("engine:run",),
    "masks": ("unbraid.models.spleeter.transform:SpleeterTransform.inverse",),
    "inverse STFT": ("unbraid.models.spleeter.transform:istft",),
    "queues, overlap-add": (
        "unbraid.separation.pipeline:SegmentCutter.push",
        "unbraid.separation.pipeline:SampleQueue.push",
        "unbraid.separation.pipeline:SampleQueue.pop",
        "unbraid.separation.pipeline:OverlapAdd.add",
        "unbraid.separation.pipeline:_complete",
    ),
    "write": ("unbraid.audio.write:AudioWriter.write", "unbraid.audio.write:AudioWriter.__exit__"),
}


class _Stopwatch:
    """Seconds of each stage, summed over threads, without those of the stages inside it.

    wall_s : by the clock, with the time that a thread waited for a processor
    cpu_s : in which the thread itself ran; what OpenVINO does in threads of its own is not in it
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._local = threading.local()
        self.wall_s: dict[str, float] = {}
        self.cpu_s: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def _timed(self, stage: str, call: Callable[[], Any]) -> Any:
        inside: list[list[float]] = getattr(self._local, "inside", None) or []
        self._local.inside = inside
        inside.append([0.0, 0.0])
        start, cpu = time.perf_counter(), time.thread_time()
        try:
            return call()
        finally:
            taken = (time.perf_counter() - start, time.thread_time() - cpu)
            within = inside.pop()
            if inside:
                inside[-1] = [sum(pair) for pair in zip(inside[-1], taken, strict=True)]
            with self._lock:
                self.wall_s[stage] = self.wall_s.get(stage, 0.0) + taken[0] - within[0]
                self.cpu_s[stage] = self.cpu_s.get(stage, 0.0) + taken[1] - within[1]
                self.calls[stage] = self.calls.get(stage, 0) + 1

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        """Put a timed function in place of `owner.name`."""
        original = getattr(owner, name)

        def each(items: Iterator[Any]) -> Iterator[Any]:
            end = object()
            while (item := self._timed(stage, lambda: next(items, end))) is not end:
                yield item

        @functools.wraps(original)
        def timed(*args: Any, **options: Any) -> Any:
            result = self._timed(stage, lambda: original(*args, **options))
            return each(result) if hasattr(result, "__next__") else result

        setattr(owner, name, timed)


def _wrap_all(watch: _Stopwatch, engine: object) -> list[str]:
    """Wrap every stage; the names that were not found."""
    missing = []
    for stage, names in STAGES.items():
        for name in names:
            module, path = name.split(":")
            try:
                owner: Any = type(engine) if module == "engine" else importlib.import_module(module)
                *classes, last = path.split(".")
                for part in classes:
                    owner = getattr(owner, part)
                watch.wrap(owner, last, stage)
            except (ImportError, AttributeError):
                missing.append(name)
    return missing


def work(model: str, song: str, out: str) -> dict[str, Any]:
    """Separate in this process: once fresh, some times warm, from memory to memory, and once with stopwatches."""
    begun = float(os.environ.get("BENCH_BEGUN", time.time()))
    times = [("interpreter", time.time() - begun, time.process_time())]

    def phase(name: str, call: Callable[[], Any]) -> Any:
        start, cpu = time.perf_counter(), time.process_time()
        result = call()
        times.append((name, time.perf_counter() - start, time.process_time() - cpu))
        return result

    unbraid = phase("imports", lambda: importlib.import_module("unbraid.separation.separator"))
    separator = phase("load the model", lambda: unbraid.Separator(model))
    report = phase("separate the first song", lambda: separator.separate_to_file(song, out))
    to_file, in_memory = [], []
    for _ in range(N_WARM):
        start, cpu = time.perf_counter(), time.process_time()
        separator.separate_to_file(song, out)
        to_file.append((time.perf_counter() - start, time.process_time() - cpu))
    audio = importlib.import_module("unbraid.audio.read").read_audio(song)
    for _ in range(N_WARM):
        start = time.perf_counter()
        separator.separate(audio.samples, sample_rate=audio.sample_rate)
        in_memory.append(time.perf_counter() - start)
    watch = _Stopwatch()
    missing = _wrap_all(watch, separator.engine)
    start, cpu = time.perf_counter(), time.process_time()
    separator.separate_to_file(song, out)
    return {
        "phases_s": {name: wall for name, wall, _ in times},
        "phases_cpu_s": {name: cpu for name, _, cpu in times},
        "song_s": report.seconds,
        "to_file_s": [wall for wall, _ in to_file],
        "to_file_cpu_s": [taken for _, taken in to_file],
        "in_memory_s": in_memory,
        "watched_wall_s": time.perf_counter() - start,
        "watched_cpu_s": time.process_time() - cpu,
        "stages_s": watch.wall_s,
        "stages_cpu_s": watch.cpu_s,
        "calls": watch.calls,
        "engine": separator.engine.describe(),
        "not_found": missing,
    }


def measure(setting: Setting) -> dict[str, Any]:
    """Real-time factors within a process, and the table of stages, for each model."""
    song = make_songs(setting)[SONG_S]
    make_checkpoints(setting)
    found: dict[str, Any] = {}
    for model in MODELS:
        result = setting.results / f"stages-{model}.part"
        env = {
            "MODEL_PATH": str(setting.models),
            "UNBRAID_HOME": str(setting.results / "home"),
            "BENCH_BEGUN": repr(time.time()),
        }
        out = setting.results / "out" / "stages"
        command: list[str | Path] = [setting.python, "-m", "bench.stages", f"spleeter:{model}", song, out, result]
        run(command, env=env, cwd=setting.repository)
        found[model] = json.loads(result.read_text())
        result.unlink()
        numbers = found[model]
        log(
            f"{model}: file to files {numbers['song_s'] / median(numbers['to_file_s']):.0f} ×, "
            f"memory to memory {numbers['song_s'] / median(numbers['in_memory_s']):.0f} × real time"
        )
    return found


if __name__ == "__main__":
    Path(sys.argv[4]).write_text(json.dumps(work(*sys.argv[1:4])))
