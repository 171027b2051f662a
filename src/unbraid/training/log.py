"""A training as a table: steps.csv, a row for each step, which a stopped training goes on with."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from unbraid.errors import UnbraidError
from unbraid.training.loop import Watcher
from unbraid.training.state import Progress

__all__ = ["StepLog"]


class StepLog(Watcher):
    """Writes step, learning rate, and the loss of each stem."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def on_step(self, progress: Progress, losses: Mapping[str, float], rate: float, examples_s: float) -> None:
        """Add a row."""
        try:
            if self._file is None:
                self._file = self._open(progress.step, list(losses))
            csv.writer(self._file).writerow([progress.step, repr(rate), *map(repr, losses.values())])
        except OSError as error:
            raise UnbraidError(f"cannot write '{self._path}': {error.strerror or error}") from error

    def on_validation(self, progress: Progress, scores: Mapping[str, float], name: str, is_kept: bool) -> None:
        """Let readers see what there is."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Finish the file."""
        if self._file is not None:
            with suppress(OSError):  # it is the user's disk that is full: the training itself has said so
                self._file.close()

    def _open(self, step: int, stems: list[str]) -> IO[str]:
        """Begin the table, or keep of an earlier one what comes before this step."""
        rows: list[str] = []
        if step > 1 and self._path.exists():
            rows = self._path.read_text(encoding="utf-8").splitlines()[:step]  # titles, and a row for each step
        file = self._path.open("w", encoding="utf-8", newline="")
        file.writelines(f"{row}\n" for row in rows or [",".join(["step", "rate", *stems])])
        return file
