"""A batch of files: what is done for each, what is said about it, and the exit code of all."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unbraid.cli.render import Display
from unbraid.errors import AudioError, CancelledError, UnbraidError, UsageError
from unbraid.separation.output import Output, existing_outputs, output_paths
from unbraid.separation.plan import Options
from unbraid.separation.separator import Separator

__all__ = ["Batch", "run"]

# In folders, only files with these names are taken; a file named on the command line may be called anything.
_AUDIO_SUFFIXES = frozenset(
    ".wav .wave .w64 .rf64 .aif .aiff .aifc .flac .mp3 .m4a .mp4 .m4v .mov .aac .alac .ogg .oga .opus .wma .asf "
    ".mkv .mka .webm .avi .caf .au .mp2 .ac3 .wv .ape .tta".split()
)


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


def run(batch: Batch) -> int:
    """Separate every file; one that fails does not stop the others. Returns the exit code."""
    if not batch.files:
        raise UsageError("no files given; try 'unbraid separate song.mp3'")
    display = Display(batch.show)
    start = time.perf_counter()
    with Separator(batch.model, options=batch.options, **batch.engine) as separator, display:
        if batch.model is None:
            display.say(f"Model {separator.model_name} (choose another with -m; 'unbraid separate --help')")
        if batch.verbose:
            display.say(f"Engine {separator.engine.describe()}, ready in {time.perf_counter() - start:.1f} s")
        stop = threading.Event()
        claims: dict[str, Path] = {}

        def one(job: tuple[Path, UnbraidError | None]) -> bool:
            return not stop.is_set() and _one(*job, batch, separator, display, claims, stop)

        with ThreadPoolExecutor(batch.jobs, "unbraid-file") as pool:
            try:
                done = list(pool.map(one, _inputs(batch)))
            except KeyboardInterrupt:
                stop.set()
                raise
        display.finish(sum(done), len(done))
    return 0 if all(done) else 1


def _one(
    path: Path,
    problem: UnbraidError | None,
    batch: Batch,
    separator: Separator,
    display: Display,
    claims: dict[str, Path],
    stop: threading.Event,
) -> bool:
    """Separate one file and say how it went. Returns whether it went well."""
    start = time.perf_counter()
    try:
        if problem:
            raise problem
        paths = output_paths(path, separator.stems, batch.folder, batch.output)
        _claim(path, paths, claims)
        there = existing_outputs(paths)
        if there and batch.existing == "skip":
            display.skipped(path, batch.folder)
            return True
        if there and batch.existing == "error":
            raise AudioError(f"cannot write '{there[0]}': already there; use --overwrite or --skip-existing")

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
    display.done(report, time.perf_counter() - start)
    return True


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
        if not given.is_dir():
            yield given, None
            continue
        try:
            found = sorted(given.rglob("*") if batch.recursive else given.iterdir())
        except OSError as error:
            yield given, AudioError(f"cannot read the folder '{given}': {error.strerror}")
            continue
        songs = [path for path in found if path.suffix.lower() in _AUDIO_SUFFIXES and path.is_file()]
        if not songs:
            hint = "" if batch.recursive else "; --recursive looks into its folders too"
            yield given, AudioError(f"no audio files in the folder '{given}'{hint}")
        yield from ((path, None) for path in songs)
