"""A batch of files: what is done for each, what is said about it, and the exit code of all."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unbraid.cli.downloads import DownloadDisplay
from unbraid.cli.render import Display
from unbraid.cli.threads import in_threads
from unbraid.datatypes import AUDIO_SUFFIXES
from unbraid.errors import AudioError, CancelledError, UnbraidError, UsageError
from unbraid.memory import keep_memory
from unbraid.separation.output import Output, existing_outputs, output_paths
from unbraid.separation.plan import Options
from unbraid.separation.separator import Separator, check_part

__all__ = ["Batch", "run"]


@dataclass(frozen=True)
class Batch:
    """What the command line asked for; see `unbraid.cli.separate`."""

    files: list[Path]
    folder: Path
    model: str | None
    options: Options
    output: Output
    engine: dict[str, Any]
    offset_s: float
    duration_s: float | None
    existing: str  # "error", "overwrite" or "skip"
    recursive: bool
    strict: bool
    jobs: int
    show: str  # "all", "errors" or "json"
    verbose: bool


@dataclass(frozen=True)
class Job:
    """A file to separate: where its stems go, or why that cannot be."""

    path: Path
    stems: dict[str, Path]
    problem: UnbraidError | None


def run(batch: Batch) -> int:
    """Separate every file; one that fails does not stop the others. Returns the exit code."""
    if not batch.files:
        raise UsageError("no files given; try 'unbraid separate song.mp3'")
    check_part(batch.offset_s, batch.duration_s)
    keep_memory()
    display = Display(batch.show)
    start = time.perf_counter()
    with DownloadDisplay(quiet=batch.show == "errors") as downloads:
        ready = Separator(batch.model, options=batch.options, on_fetch=downloads.show, **batch.engine)
    with ready as separator, display:
        if batch.model is None:
            display.say(
                f"Model {separator.model_name} (choose another with -m; 'unbraid models list' shows better ones)"
            )
        if batch.verbose:
            display.say(f"Engine {separator.engine.describe()}, ready in {time.perf_counter() - start:.1f} s")
        stop = threading.Event()

        def one(job: Job) -> bool:
            return not stop.is_set() and _one(job, batch, separator, display, stop)

        done = in_threads(one, _jobs(batch, separator.stems), batch.jobs, name="unbraid-file", stop=stop)
        display.finish(sum(done), len(done))
    return 0 if all(done) else 1


def _one(job: Job, batch: Batch, separator: Separator, display: Display, stop: threading.Event) -> bool:
    """Separate one file and say how it went. Returns whether it went well."""
    start = time.perf_counter()
    path = job.path
    try:
        if job.problem:
            raise job.problem
        if _is_done(job.stems, batch.existing):
            display.skipped(path, batch.folder)
            return True

        def on_progress(progress: Any) -> None:
            if stop.is_set():
                raise CancelledError("interrupted")
            display.progress(progress)

        report = separator.separate_to_file(
            path,
            batch.folder,
            output=batch.output,
            offset_s=batch.offset_s,
            duration_s=batch.duration_s,
            strict=batch.strict,
            on_progress=on_progress,
        )
    except CancelledError:
        return False
    except UnbraidError as error:
        display.failed(path, error)
        return False
    except BrokenPipeError:  # nobody reads what we say any more
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        display.failed(path, AudioError(f"cannot separate '{path}': {reason}; please report this, with --verbose"))
        if batch.verbose:
            traceback.print_exc()
        return False
    display.done(report, time.perf_counter() - start)
    return True


def _is_done(paths: dict[str, Path], existing: str) -> bool:
    """Whether a song's stems are there and shall stay; AudioError where they are in the way."""
    there = existing_outputs(paths) if existing != "overwrite" else []
    if existing == "skip" and len(there) == len(paths):
        return True
    if there:
        some = "" if existing == "error" else ", but not all of this song's stems are"
        other = " or --skip-existing" if existing == "error" else " or another -o"
        raise AudioError(f"cannot write '{there[0]}': already there{some}; use --overwrite{other}")
    return False


def _jobs(batch: Batch, stems: tuple[str, ...]) -> Iterator[Job]:
    """Each file once, with the places of its stems or with what is wrong with it."""
    seen: set[str] = set()
    claims: dict[str, Path] = {}
    for path, problem in _inputs(batch):
        name = os.path.normcase(os.path.abspath(path))
        if name in seen:
            continue
        seen.add(name)
        paths: dict[str, Path] = {}
        if problem is None:
            try:
                paths = output_paths(path, stems, batch.folder, batch.output)
                _claim(path, paths, claims)
            except UnbraidError as error:
                problem = error
        yield Job(path, paths, problem)


def _claim(path: Path, paths: dict[str, Path], claims: dict[str, Path]) -> None:
    """Refuse a file whose stems would replace those of another file of the batch."""
    for target in paths.values():
        owner = claims.setdefault(os.path.normcase(os.path.abspath(target)), path)
        if owner is not path:
            raise AudioError(
                f"cannot separate '{path}': its stems would replace those of '{owner}'; "
                "put {foldername} into --filename_format or run it with another -o"
            )


def _inputs(batch: Batch) -> Iterator[tuple[Path, UnbraidError | None]]:
    """The files, those of folders in order; with an error in place of what is not there."""
    for given in batch.files:
        if not os.path.isdir(given):
            yield given, None
            continue
        found = list(_found(given, batch.recursive))
        yield from found
        if not found:
            hint = "" if batch.recursive else "; --recursive looks into its folders too"
            yield given, AudioError(f"no audio files in the folder '{given}'{hint}")


def _found(folder: Path, recursive: bool) -> Iterator[tuple[Path, UnbraidError | None]]:
    """The audio files of a folder, and the folders that cannot be read; each once, also where links lead in circles."""
    problems: list[OSError] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, onerror=problems.append, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = sorted(folders) if recursive and real not in seen else []
        paths = [Path(place, name) for name in sorted(names)] if real not in seen else []
        seen.add(real)
        yield from ((path, None) for path in paths if path.suffix.lower() in AUDIO_SUFFIXES and os.path.isfile(path))
    for problem in problems:
        closed = Path(problem.filename)
        yield closed, AudioError(f"cannot read the folder '{closed}': {problem.strerror}")
