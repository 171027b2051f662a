"""What a person sees while models are downloaded: a bar on a terminal, a line for each file elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from unbraid.cli.render import one_line
from unbraid.errors import CancelledError

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from unbraid.weights.fetch import FetchProgress

__all__ = ["DownloadDisplay"]


class DownloadDisplay:
    """Shows downloads on the error stream, so that what is printed for programs stays clean; `show` is its callback."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._began = False
        self._bars: Bars | None = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> DownloadDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()
        if self._began and isinstance(error, KeyboardInterrupt):
            raise CancelledError(
                "interrupted; what was downloaded is kept, and the next try goes on from there"
            ) from error

    def show(self, progress: FetchProgress) -> None:
        """Move a file's bar, which appears when its first bytes do."""
        self._began = True
        if self._quiet:
            return
        if progress.name not in self._tasks:
            self._tasks[progress.name] = self._begin(progress)
        if self._bars:
            self._bars.update(self._tasks[progress.name], completed=progress.done, total=progress.total)

    def _begin(self, progress: FetchProgress) -> Any:
        name = one_line(progress.name)
        if not sys.stderr.isatty():
            size = "" if progress.total is None else f" ({progress.total / 1e6:.1f} MB)"
            print(f"Downloading {name}{size} …", file=sys.stderr, flush=True)
            return None
        if self._bars is None:
            self._bars = _bars()
            self._bars.start()
        return self._bars.add_task(name, total=progress.total)


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
