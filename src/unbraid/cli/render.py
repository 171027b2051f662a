"""What a person sees while a batch runs: a bar on a terminal, plain lines elsewhere, JSON where asked."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Collection, Hashable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from unbraid.errors import UnbraidError

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from unbraid.datatypes import Progress
    from unbraid.separation.separator import FileReport

__all__ = ["Display", "Screen", "clock", "columns", "one_line", "print_line"]

AnyScreen = TypeVar("AnyScreen", bound="Screen")


def one_line(text: str) -> str:
    """The text with control characters spelt out and undecodable ones replaced, so that a line stays a line."""
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)
    return printable.encode("utf-8", "backslashreplace").decode("utf-8")


def print_line(text: str, stream: TextIO | None = None) -> None:
    """Print a line, by default on standard output, also where the encoding lacks some of its characters."""
    stream = stream or sys.stdout
    encoding = stream.encoding or "utf-8"
    print(one_line(text).encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def clock(seconds: float) -> str:
    """Minutes and seconds, e.g. 3:30."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def columns(rows: Sequence[Sequence[str]], *, right: Collection[int]) -> list[str]:
    """The rows as lines, in columns two spaces apart; those in `right` are flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


class Screen:
    """Lines and, on a terminal, bars that disappear in the end; safe to use from several threads.

    show_bars : whether bars are wanted
    """

    def __init__(self, show_bars: bool) -> None:
        self._show_bars = show_bars
        self._lock = threading.Lock()
        self._bars: Bars | None = None
        self._tasks: dict[Hashable, Any] = {}

    def __enter__(self: AnyScreen) -> AnyScreen:
        if self._show_bars and sys.stderr.isatty():
            self._bars = _bars()
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def _forget(self, key: Hashable) -> None:
        """Take a bar away."""
        with self._lock:
            task = self._tasks.pop(key, None)
            if task is not None and self._bars:
                self._bars.remove_task(task)

    def _print(self, text: str, stream: TextIO) -> None:
        with self._lock:
            if self._bars and stream.isatty():
                self._bars.console.print(one_line(text), markup=False, highlight=False, soft_wrap=True)
            else:
                print_line(text, stream)


class Display(Screen):
    """Speaks for a batch.

    show : "all", "errors" or "json"
    """

    def __init__(self, show: str) -> None:
        super().__init__(show_bars=show == "all")
        self._show = show
        self._started: dict[Path, float] = {}

    def say(self, text: str) -> None:
        """Print a line, unless quiet."""
        if self._show == "all":
            self._print(text, sys.stdout)

    def progress(self, progress: Progress) -> None:
        """Move a file's bar."""
        path = progress.path
        if self._bars is None or path is None:
            return
        with self._lock:
            task = self._tasks.get(path)
            if task is None:
                self._started[path] = time.perf_counter()
                name = one_line(path.name)
                task = self._tasks[path] = self._bars.add_task(name, total=progress.total_s, stage="", speed="")
            elapsed = time.perf_counter() - self._started[path]
            speed = f"{progress.done_s / elapsed:.0f}×" if elapsed > 0.2 else ""
            self._bars.update(
                task, completed=progress.done_s, total=progress.total_s, stage=progress.stage, speed=speed
            )

    def done(self, report: FileReport, elapsed: float) -> None:
        """A file was separated."""
        self._forget(report.source)
        if self._show == "json":
            self._print(_done_json(report, elapsed), sys.stdout)
            return
        speed = report.seconds / max(elapsed, 1e-9)
        self.say(
            f"{report.source} → {_places(report)}  ({clock(report.seconds)} in {elapsed:.1f} s, {speed:.0f}× real time)"
        )
        for notice in report.notices:
            self.say(f"  note: {notice}")

    def skipped(self, path: Path, folder: Path) -> None:
        """A file's stems were already there."""
        if self._show == "json":
            self._print(json.dumps({"file": str(path), "ok": True, "skipped": True}), sys.stdout)
        self.say(f"{path}: skipped, its stems are already in '{folder}'")

    def failed(self, path: Path, error: UnbraidError) -> None:
        """A file could not be separated."""
        self._forget(path)
        if self._show == "json":
            self._print(json.dumps({"file": str(path), "ok": False, "error": one_line(str(error))}), sys.stdout)
        self._print(f"unbraid: {error}", sys.stderr)

    def finish(self, n_good: int, n_all: int) -> None:
        """The batch is over."""
        if n_all > 1:
            failed = f", {n_all - n_good} failed" if n_good < n_all else ""
            self.say(f"{n_good} of {n_all} files separated{failed}")


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[stage]}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _places(report: FileReport) -> str:
    """Where the stems are, in one breath: folder/{vocals,drums}.wav if they lie together."""
    paths = [one.path for one in report.stems.values()]
    folder, suffix = paths[0].parent, paths[0].suffix
    if len(paths) > 1 and all(path.parent == folder and path.suffix == suffix for path in paths):
        return os.path.join(folder, "{" + ",".join(path.stem for path in paths) + "}" + suffix)
    return ", ".join(str(path) for path in paths)


def _done_json(report: FileReport, elapsed: float) -> str:
    stems = {
        stem: {"path": str(one.path), "samples": one.n_samples, "clipped": one.n_clipped}
        for stem, one in report.stems.items()
    }
    content = {
        "file": str(report.source),
        "ok": True,
        "seconds": round(report.seconds, 6),
        "elapsed": round(elapsed, 3),
        "stems": stems,
        "notices": list(report.notices),
    }
    return json.dumps(content)
