"""HT Demucs of the published size, the whole command beside Demucs 4.1's: a new process each time, mp3 in, WAV out."""

from __future__ import annotations

import json
import shutil
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import machine
from bench.machine import has_bf16
from bench.measure import Setting, Took, log, median, numbers, run
from bench.peer_demucs import BAG, SAMPLE_RATE, STEMS
from bench.separate import make_songs

__all__ = ["SINGLE", "make_models", "measure", "measure_memory", "measure_two_stems", "model_folder", "packages"]

SINGLE = "bench_htdemucs"
SONG_S = 60
SHORT_S = 20  # of runs that are not counted, and of the comparison of stems
MEMORY_S = (SONG_S, 600, 3600)
# What both do by default, but for theirs: a random shift of the song.
THEIR_OPTIONS = ("--shifts", "0", "--overlap", "0.25")
OUR_OPTIONS = ("--overlap", "0.25")
F32, BF16 = ("--precision", "f32"), ("--precision", "bf16")
LONGEST_PADDING_S = 0.1  # that a decoder leaves at an mp3's ends


def packages(setting: Setting) -> Path:
    """The folder of packages in Demucs's own form."""
    return setting.results / "demucs" / "packages"


def _home(setting: Setting) -> Path:
    return setting.results / "demucs" / "home"


def model_folder(setting: Setting, name: str) -> Path:
    """The same network as `unbraid models import` installed it."""
    return _home(setting) / "models" / name


def make_models(setting: Setting) -> None:
    """Draw networks of the published sizes and import them, where they are not there yet."""
    assert setting.demucs is not None
    if not (packages(setting) / "bag" / f"{BAG}.yaml").exists():
        log(f"writing random networks of the published sizes to {packages(setting)}")
        script = setting.repository / "bench" / "peer_demucs.py"
        run([setting.demucs / "bin" / "python", script, packages(setting)])
    for folder, name in (("single", SINGLE), ("bag", BAG)):
        if not model_folder(setting, name).exists():
            command = [*setting.unbraid, "models", "import", packages(setting) / folder]
            run(command, env={"UNBRAID_HOME": str(_home(setting))})


def run_ours(setting: Setting, name: str, song: Path, *options: str, home: Path | None = None) -> Took:
    """Run our command into an empty folder; compiled networks are kept below `home`."""
    target = setting.results / "out" / "ours"
    shutil.rmtree(target, ignore_errors=True)
    folder = model_folder(setting, name)
    command: list[str | Path] = [*setting.unbraid, "separate", "-m", folder, "-o", target, *OUR_OPTIONS, *options, song]
    return run(command, env={"UNBRAID_HOME": str(home or _home(setting))})


def run_theirs(setting: Setting, name: str, song: Path, *options: str) -> Took:
    """Run Demucs's command into an empty folder."""
    assert setting.demucs is not None
    target = setting.results / "out" / "theirs"
    shutil.rmtree(target, ignore_errors=True)
    repo = packages(setting) / ("bag" if name == BAG else "single")
    command: list[str | Path] = [setting.demucs / "bin" / "demucs", "-n", name, "--repo", repo, "-d", "cpu"]
    return run([*command, "-o", target, *THEIR_OPTIONS, *options, song])


def _folders(setting: Setting, name: str, song: Path) -> tuple[Path, Path]:
    """Where the two programs write the stems of a song."""
    out = setting.results / "out"
    return out / "theirs" / name / song.stem, out / "ours" / song.stem


def _check_alike(folder: Path, stems: list[str], seconds: float) -> None:
    """RuntimeError unless a folder holds these stems as stereo WAV of 16 bits, of the whole song."""
    files = sorted(path.name for path in folder.iterdir())
    if files != sorted(f"{stem}.wav" for stem in stems):
        raise RuntimeError(f"'{folder}' holds {', '.join(files)}")
    for name in files:
        with wave.open(str(folder / name)) as file:
            form = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            surplus_s = file.getnframes() / SAMPLE_RATE - seconds
        if form != (2, 2, SAMPLE_RATE) or abs(surplus_s) > LONGEST_PADDING_S:
            raise RuntimeError(f"'{folder / name}' has channels, bytes and rate {form}, {surplus_s:+.2f} s of length")


def measure(setting: Setting) -> dict[str, Any]:
    """Alternate theirs and ours: as by default with nothing cached, in f32, in bf16; medians of the rounds' ratios."""
    found: dict[str, Any] = {"machine": machine.measure(setting), "song_s": SONG_S, "rounds": setting.rounds}
    songs = make_songs(setting, (SHORT_S, SONG_S))
    make_models(setting)
    song, empty = songs[SONG_S], setting.results / "demucs" / "home-empty"
    theirs, ours = _folders(setting, SINGLE, song)

    def first() -> Took:
        shutil.rmtree(empty, ignore_errors=True)
        return run_ours(setting, SINGLE, song, home=empty)

    kinds: dict[str, Callable[[], Took]] = {
        "theirs": lambda: run_theirs(setting, SINGLE, song),
        "cold": first,
        "warm f32": lambda: run_ours(setting, SINGLE, song, *F32),
        "theirs -j": lambda: run_theirs(setting, SINGLE, song, "-j", "2"),
    }
    if has_bf16():
        kinds["warm bf16"] = lambda: run_ours(setting, SINGLE, song, *BF16)
    # The comparison of stems goes first: it reads the programs from disk, and fills our cache of compiled networks.
    found["difference"] = _compare(setting)
    runs: dict[str, list[Took]] = {}
    for number in range(setting.rounds):
        log(f"HT Demucs: round {number + 1} of {setting.rounds}")
        for kind, call in kinds.items():
            runs.setdefault(kind, []).append(call())
            _check_alike(theirs if kind.startswith("theirs") else ours, STEMS, SONG_S)
            log(f"  {kind} {runs[kind][-1].wall_s:.2f} s {runs[kind][-1].peak_mb:.0f} MB")
    found["runs"] = {kind: [numbers(took) for took in all_took] for kind, all_took in runs.items()}
    found["ratio"] = {kind: _ratio(runs["theirs"], took) for kind, took in runs.items() if kind != "theirs"}
    return found


def _ratio(theirs: list[Took], ours: list[Took]) -> dict[str, float]:
    """Median over rounds of theirs through ours."""
    pairs = list(zip(theirs, ours, strict=True))
    return {what: median(getattr(a, what) / getattr(b, what) for a, b in pairs) for what in ("wall_s", "peak_mb")}


def _compare(setting: Setting) -> dict[str, Any]:
    """How far our stems are from theirs, by precision; both of a WAV, and as floats, which neither rounds."""
    songs = setting.results / "songs"
    run([setting.python, "-m", "bench.songs", setting.song, songs, str(SHORT_S), "--wav"], cwd=setting.repository)
    song = songs / f"song_{SHORT_S}s.wav"
    run_theirs(setting, SINGLE, song, "--float32", "--clip-mode", "none")
    found = {}
    for precision in (F32, BF16) if has_bf16() else (F32,):
        run_ours(setting, SINGLE, song, "--float32", *precision)
        command = [setting.python, "-m", "bench.difference", *_folders(setting, SINGLE, song)]
        found[precision[-1]] = json.loads(run(command, cwd=setting.repository).output.splitlines()[-1])
    return found


def measure_memory(setting: Setting) -> dict[str, Any]:
    """Peak memory and time of our command for songs of growing length, at the precision that is chosen by default."""
    found: dict[str, Any] = {"machine": machine.measure(setting), "runs": {}}
    songs = make_songs(setting, (SHORT_S, *MEMORY_S))
    make_models(setting)
    run_ours(setting, SINGLE, songs[SHORT_S])
    for seconds in MEMORY_S:
        took = run_ours(setting, SINGLE, songs[seconds])
        log(f"HT Demucs, {seconds} s: {took.wall_s:.2f} s, {took.peak_mb:.0f} MB")
        found["runs"][str(seconds)] = numbers(took)
    shutil.rmtree(setting.results / "out", ignore_errors=True)
    return found


def measure_two_stems(setting: Setting) -> dict[str, Any]:
    """All stems of a bag of four networks against one and the rest; theirs once, for it takes minutes."""
    found: dict[str, Any] = {"machine": machine.measure(setting), "song_s": SONG_S, "rounds": setting.rounds}
    songs = make_songs(setting, (SHORT_S, SONG_S))
    make_models(setting)
    song, two = songs[SONG_S], ("--two-stems", "vocals")
    _, ours = _folders(setting, BAG, song)
    run_ours(setting, BAG, songs[SHORT_S])
    runs: dict[str, list[Took]] = {}
    for number in range(setting.rounds):
        log(f"bag of four: round {number + 1} of {setting.rounds}")
        for kind, options, stems in (("all", (), STEMS), ("two", two, ["vocals", "no_vocals"])):
            runs.setdefault(kind, []).append(run_ours(setting, BAG, song, *options))
            _check_alike(ours, stems, SONG_S)
            log(f"  {kind} {runs[kind][-1].wall_s:.2f} s {runs[kind][-1].peak_mb:.0f} MB")
    found["ratio"] = _ratio(runs["all"], runs["two"])
    for kind, options in (("theirs all", ()), ("theirs two", two)):
        runs[kind] = [run_theirs(setting, BAG, song, *options)]
        log(f"  {kind} {runs[kind][-1].wall_s:.2f} s {runs[kind][-1].peak_mb:.0f} MB")
    found["runs"] = {kind: [numbers(took) for took in all_took] for kind, all_took in runs.items()}
    shutil.rmtree(setting.results / "out", ignore_errors=True)
    return found
