"""An evaluation as a person sees it: systems opened, tracks scored side by side, tables and reports written."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbraid.cli.downloads import DownloadDisplay
from unbraid.cli.render import Screen, columns, one_line, print_line
from unbraid.cli.threads import in_threads
from unbraid.datasets.tracks import SUBSETS, Dataset, Track, load_dataset
from unbraid.errors import CancelledError, EngineError, UnbraidError, UsageError
from unbraid.evaluation.aggregate import frame_value
from unbraid.evaluation.arrays import open_arrays
from unbraid.evaluation.compare import compare, comparison_rows
from unbraid.evaluation.evaluate import Done, Scoring, evaluate_track
from unbraid.evaluation.oracles import ORACLES
from unbraid.evaluation.records import read_scores, system_folder
from unbraid.evaluation.report import Table, write_report
from unbraid.evaluation.results import BSS_METRICS, TrackScores
from unbraid.evaluation.summary import MEASURED_HERE, Summaries, ranking, summary_table, write_csv
from unbraid.evaluation.systems import System, folder_system, model_system, oracle_system
from unbraid.memory import keep_memory
from unbraid.separation.plan import Options
from unbraid.separation.separator import Separator

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

__all__ = ["Run", "run", "say_comparison"]

_N_PUBLISHED = 50  # tracks in MUSDB18's test set


@dataclass(frozen=True)
class Run:
    """What the command line asked for; see `unbraid.cli.evaluate`."""

    root: Path
    kind: str | None
    data_root: Path | None
    subset: str | None
    models: tuple[str, ...]
    stems_dirs: tuple[str, ...]
    options: Options
    engine: dict[str, Any]
    folder: Path
    scoring: Scoring
    device: str
    report: bool
    jobs: int
    quiet: bool
    verbose: bool


def run(given: Run) -> int:
    """Score every system on every track; one that fails does not stop the others. Returns the exit code."""
    if given.report and find_spec("plotly") is None:
        raise EngineError("the report needs plotly: pip install 'unbraid[evaluate]', or leave it out with --no-report")
    keep_memory()
    dataset = _dataset(given)
    arrays = open_arrays(given.device, max(1, (os.cpu_count() or 1) // given.jobs))
    if os.path.lexists(given.folder) and not given.folder.is_dir():
        raise UnbraidError(f"cannot write into {str(given.folder)!r}: it is no folder; choose another one by -o")
    with ExitStack() as stack:
        systems = _systems(given, dataset, stack)
        _make_folder(given.folder)
        display = stack.enter_context(_Display(given, len(dataset.tracks) * len(systems)))
        display.say(
            f"{dataset.kind} in {dataset.root}: {_count(len(dataset.tracks), 'track')}"
            + (f" of {dataset.tracks[0].subset}" if given.subset != "all" and dataset.tracks[0].subset else "")
        )
        stop = threading.Event()

        def one(track: Track) -> list[Done]:
            def on_progress(stage: str, part: float) -> None:
                if stop.is_set():
                    raise CancelledError("interrupted")
                display.progress(track, stage, part)

            done = []
            if not stop.is_set():
                for found in evaluate_track(
                    *(track, systems, given.folder),
                    dataset=dataset.kind,
                    scoring=given.scoring,
                    arrays=arrays,
                    on_progress=on_progress,
                ):
                    done.append(found)
                    display.done(track, found)
            display.forget(track)
            return done

        try:
            by_track = in_threads(one, dataset.tracks, given.jobs, name="unbraid-track", stop=stop)
        except KeyboardInterrupt as interrupt:
            raise CancelledError(
                "interrupted; what was scored is kept, and the same command goes on from there"
            ) from interrupt
        done = [found for one_track in by_track for found in one_track]
        n_before = sum(not found.is_new for found in done)
        if n_before:
            display.say(f"{n_before} of {len(done)} scored before")
    _finish(given, dataset, systems, [found.scores for found in done if found.scores])
    n_failed = sum(found.error is not None for found in done)
    if n_failed:
        print(f"unbraid: {n_failed} of {len(done)} could not be scored", file=sys.stderr)
    return 1 if n_failed else 0


def _dataset(given: Run) -> Dataset:
    """The tracks: those of the test set where nothing else is asked for and there is one."""
    if given.subset not in (None, "all", *SUBSETS):
        raise UsageError(f"--subset must be {', '.join(SUBSETS)} or all, got {given.subset!r}")
    subset = None if given.subset == "all" else given.subset
    dataset = load_dataset(given.root, subset=subset, kind=given.kind, data_root=given.data_root)
    tests = tuple(track for track in dataset.tracks if track.subset == "test")
    return replace(dataset, tracks=tests) if given.subset is None and tests else dataset


def _make_folder(folder: Path) -> None:
    """Make the output folder, which must be one that can be written into."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UnbraidError(f"cannot make the folder {str(folder)!r}: {reason}; choose another one by -o") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UnbraidError(f"cannot write into {str(folder)!r}: it is read-only; choose another folder by -o")


def _systems(given: Run, dataset: Dataset, stack: ExitStack) -> list[System]:
    """What is to be scored, opened."""
    systems = []
    models: Sequence[str | None] = given.models or (() if given.stems_dirs else (None,))
    for name in models:
        if name in ORACLES:
            systems.append(oracle_system(name))
            continue
        if name is not None and name.startswith("oracle:"):
            raise UsageError(f"no oracle {name!r}; there are {', '.join(ORACLES)}")
        with DownloadDisplay(quiet=given.quiet) as downloads:
            separator = Separator(name, options=given.options, on_fetch=downloads.show, **given.engine)
        stack.enter_context(separator)
        systems.append(model_system(separator, _model_name(name or separator.model_name)))
    for text in given.stems_dirs:
        name, _, place = text.rpartition("=") if not Path(text).is_dir() else ("", "", text)
        folder = Path(place)
        if not folder.is_dir():
            raise UsageError(f"cannot score the stems in {place!r}: there is no such folder")
        systems.append(folder_system(folder, name or folder.resolve().name, dataset.tracks))
    names = [system.name for system in systems]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"two systems are called {twice!r}; leave one out, or name stems: --stems-dir NAME=FOLDER")
    return systems


def _model_name(given: str) -> str:
    """A model's name; of a folder or a JSON file, its own name without the way to it."""
    path = Path(given)
    return path.resolve().name if path.is_dir() else path.stem if path.is_file() else given


def _finish(given: Run, dataset: Dataset, systems: Sequence[System], scores: Sequence[TrackScores]) -> None:
    """Write the table and the report, print the summary."""
    if not scores:
        return
    order = {system.name: place for place, system in enumerate(systems)}
    tracks = sorted(scores, key=lambda found: (order[found.system], found.subset, found.track))
    why_alone = _why_alone(given, dataset, tracks)
    remarks = _remarks(dataset, tracks) if why_alone is None else []
    summaries = Summaries.of(tracks)
    write_csv(given.folder / "scores.csv", tracks)
    written = [str(given.folder / "scores.csv")]
    if given.report:
        rankings = [ranking(summaries, score) for score in BSS_METRICS if why_alone is None]
        write_report(
            given.folder / "report.html",
            [replace(found, settings=_settings_to_show(found)) for found in tracks],
            title=f"Separation of {dataset.root.resolve().name}",
            tables=[summary_table(summaries), *(table for table in rankings if table)],
            notes=[f"{dataset.kind}, {_count(len(dataset.tracks), 'track')}", *remarks],
        )
        written.append(str(given.folder / "report.html"))
    if given.quiet:
        return
    print_line("")
    _print_table(summary_table(summaries, intervals=False), right=slice(2, None))
    places = ranking(summaries, "SDR") if why_alone is None else None
    print_line("")
    if places is not None:
        _print_table(_with_footnotes(places), right=slice(1, -1))
        for remark in remarks:
            print_line(f"{remark}.")
    else:
        print_line(f"No published scores beside these: {why_alone or 'none is of these stems'}.")
    print_line("")
    print_line(f"Written: {', '.join(written)}, and the scores of each track beside them.")


def _settings_to_show(scores: TrackScores) -> dict[str, str]:
    """Without those that only tell whether a track's files are still the same."""
    return {
        key: value
        for key, value in scores.settings.items()
        if key != "track" and not key.startswith("system's file of ")
    }


def _why_alone(given: Run, dataset: Dataset, tracks: Sequence[TrackScores]) -> str | None:
    """Why these scores cannot stand beside published ones; None where they can."""
    if not dataset.kind.startswith("MUSDB18") or {found.subset for found in tracks} != {"test"}:
        return "they are of MUSDB18's test set"
    if given.scoring != replace(Scoring(), strict=given.scoring.strict):
        return "they are by BSSEval v4, with windows of 1 s"
    return None


def _remarks(dataset: Dataset, tracks: Sequence[TrackScores]) -> list[str]:
    """What to know of the comparison with published scores."""
    n_tracks = len({found.track for found in tracks})
    if n_tracks == _N_PUBLISHED:
        return []
    return [
        f"Published scores are of all {_N_PUBLISHED} tracks of MUSDB18's test set, those measured here of {n_tracks}"
    ]


def _print_table(table: Table, right: slice) -> None:
    """Print a table and its caption."""
    numbers = range(len(table.headers))[right]
    for line in columns([table.headers, *table.rows], right=numbers):
        print_line(line)
    for line in table.caption.split("\n"):
        print_line(line)


def _with_footnotes(table: Table, *, longest: int = 50) -> Table:
    """The table with numbers in place of its sources, and names cut short, so that it fits into a terminal."""
    sources = list(dict.fromkeys(row[-1] for row in table.rows if row[-1] != MEASURED_HERE))
    rows = [
        [
            row[0] if len(row[0]) <= longest else f"{row[0][: longest - 1]}…",
            *row[1:-1],
            f"[{1 + sources.index(row[-1])}]" if row[-1] in sources else "",
        ]
        for row in table.rows
    ]
    notes = [f"[{number}] {source}" for number, source in enumerate(sources, 1)]
    return Table([*table.headers[:-1], ""], rows, "\n".join([table.caption, *notes]))


def say_comparison(first: Path, second: Path, metric: str) -> None:
    """Print how two systems compare."""
    comparison = compare(_scores_of_one(first), _scores_of_one(second), metric=metric)
    table = [row[:-1] for row in comparison_rows(comparison)]
    print_line(f"{comparison.first} against {comparison.second}, {metric}")
    print_line("")
    for line in columns(table, right=range(1, len(table[0]))):
        print_line(line)
    print_line("")
    for row in comparison_rows(comparison)[1:]:
        print_line(f"{row[0]}: {row[-1]}")
    for name, tracks in ((comparison.first, comparison.only_first), (comparison.second, comparison.only_second)):
        if tracks:
            print_line(f"Only {name} has {_count(len(tracks), 'track')}, left out: {', '.join(tracks)}")
    for note in comparison.notes:
        print_line(f"Note: {note}")


def _scores_of_one(folder: Path) -> list[TrackScores]:
    """The scores in a folder, which must be of one system."""
    place = folder if folder.is_dir() else system_folder(folder.parent, folder.name)
    if not place.is_dir():
        raise UsageError(f"cannot compare the scores in {str(folder)!r}: there is no such folder")
    scores = read_scores(place)
    systems = list(dict.fromkeys(found.system for found in scores))
    if len(systems) > 1:
        raise UsageError(
            f"{str(folder)!r} holds the scores of {', '.join(systems)}; choose the folder of one of them in it"
        )
    return scores


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


class _Display(Screen):
    """What is said while it runs."""

    def __init__(self, given: Run, n_all: int) -> None:
        super().__init__(show_bars=not given.quiet)
        self._given = given
        self._n_all = n_all
        self._n_done = 0

    def say(self, text: str) -> None:
        """Print a line, unless quiet."""
        if not self._given.quiet:
            self._print(text, sys.stdout)

    def progress(self, track: Track, stage: str, part: float) -> None:
        """Move a track's bar."""
        if self._bars is None:
            return
        with self._lock:
            self._task_of_all(self._bars)
            key = (track.subset, track.name)
            if key not in self._tasks:
                self._tasks[key] = self._bars.add_task(one_line(track.name), total=1.0, stage=stage, speed="")
            self._bars.update(self._tasks[key], completed=part, stage=stage)

    def done(self, track: Track, done: Done) -> None:
        """A system was scored on a track, or was not."""
        with self._lock:
            self._n_done += 1
            if self._bars:
                speed = f"{self._n_done} of {self._n_all}"
                self._bars.update(self._task_of_all(self._bars), completed=self._n_done, speed=speed)
        if done.error is not None:
            self._print(f"unbraid: {track.name}, {done.system}: {done.error}", sys.stderr)
            return
        assert done.scores is not None
        if not done.is_new:
            if self._given.verbose:
                self.say(f"[{self._n_done}/{self._n_all}] {track.name}, {done.system}: scored before")
            return
        self.say(f"[{self._n_done}/{self._n_all}] {track.name}, {done.system}: {_in_short(done.scores)}")
        for notice in done.scores.notices:
            self.say(f"  note: {notice}")

    def forget(self, track: Track) -> None:
        """A track is through."""
        self._forget((track.subset, track.name))

    def _task_of_all(self, bars: Bars) -> Any:
        """The bar of the whole run, which is the first."""
        if "all" not in self._tasks:
            self._tasks["all"] = bars.add_task("all", total=self._n_all, stage="", speed="")
        return self._tasks["all"]


def _in_short(scores: TrackScores) -> str:
    """A track's SDR by stem: the median over windows, or, where there is no BSSEval, that of the whole track."""
    stems = scores.stems.items()
    if not any(found.frames for _, found in stems):
        return "uSDR " + ", ".join(f"{stem} {found.whole['uSDR']:.2f}" for stem, found in stems)
    medians = {stem: frame_value(found.frames["SDR"]) if found.frames else math.nan for stem, found in stems}
    return "SDR " + ", ".join(f"{stem} " + ("–" if math.isnan(sdr) else f"{sdr:.2f}") for stem, sdr in medians.items())
