"""`unbraid evaluate` and `unbraid evaluate compare`: what they write, what they print, and every option's effect."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import soundfile

from browser import Browser, open_browser
from commands import QUICK, REAL, STEMS, Outcome, Runner, command, environment, in_terminal, quick_engine, run_inside
from dataset_makers import make_folder, make_musdb18, make_musdb18_hq, make_song
from museval_metrics import museval_bss_eval
from unbraid.audio.read import read_audio
from unbraid.datatypes import FloatArray
from unbraid.evaluation.results import BSS_METRICS

SHARED = Path(os.environ.get("UNBRAID_SHARED", Path(__file__).parents[3] / "shared"))
TRACKS = ("Synthetic - Söng 0", "Synthetic - Söng 1")
SYSTEMS = ("tiny", "oracle:irm2", "mix")


@pytest.fixture(scope="module")
def musdb18_hq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tracks of one channel, which BSSEval does in no time."""
    folder = tmp_path_factory.mktemp("data") / "musdb18hq"
    # In these songs, a Wiener filter changes every score of the tiny network by 0.004 dB or more, not in all.
    for seed, track in zip((3, 15), TRACKS, strict=True):
        # Whole steps of 16 bits: where a synthesiser's stem has nothing at all, BSSEval's equations would be singular.
        song = make_song(2.5, seed=seed).items()
        stems = {stem: np.rint(samples.mean(axis=0) * 2**15) / np.float32(2**15) for stem, samples in song}
        for name, samples in {"mixture": sum(stems.values()), **stems}.items():
            path = folder / "test" / track / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples, 44100, subtype="FLOAT")
    return folder


@pytest.fixture
def evaluate(model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    """`evaluate(*arguments)` runs the command in this process, with a line of NumPy as the network."""
    monkeypatch.setattr("unbraid.separation.separator.load_engine", quick_engine)
    return lambda *arguments: run_inside(["evaluate", *arguments], capsys)


@pytest.fixture(scope="module")
def scored(musdb18_hq: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """What the real command, with a real network, makes of three systems."""
    folder = tmp_path_factory.mktemp("scored") / "out"
    systems = [part for system in (model_folder, *SYSTEMS[1:]) for part in ("-p", system)]
    return folder, command(["evaluate", "--mus_dir", musdb18_hq, *systems, "-o", folder], program=REAL)


def done(outcome: Outcome) -> Outcome:
    assert (outcome.code, outcome.err) == (0, "")
    return outcome


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "scores.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def numbers(folder: Path, score: str, *, over: str = "median of frames") -> dict[tuple[str, str, str], float]:
    """(system, track, stem) → number."""
    return {
        (row["system"], row["track"], row["stem"]): float(row["value"])
        for row in table(folder)
        if (row["score"], row["over"]) == (score, over)
    }


def settings(folder: Path, system: str, track: str = TRACKS[0]) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / system / "test" / f"{track}.json").read_text())["unbraid"]["settings"]
    return found


def of_report(folder: Path) -> Mapping[str, Any]:
    """The data that the report draws."""
    text = (folder / "report.html").read_text("utf-8")
    found: dict[str, Any] = json.loads(re.findall(r'type="application/json" id="data">(.*?)</script>', text)[0])
    return found


def samples_of(folder: Path) -> FloatArray:
    return np.stack([read_audio(folder / f"{stem}.wav").samples for stem in STEMS])


# The two forms of MUSDB18.


def test_both_forms_of_musdb18_get_the_same_scores(
    model_folder: Path, evaluate: Runner, quick: Runner, tmp_path: Path
) -> None:
    roots = [tmp_path / name for name in ("musdb18", "musdb18hq")]
    make_musdb18(roots[0], seconds=2.5, subsets=("test",))
    make_musdb18_hq(roots[1], seconds=2.5, subsets=("test",), decoded_from=roots[0])
    done(quick(*(roots[0] / "test").iterdir(), "-o", tmp_path / "stems"))
    assert [path.name for path in (tmp_path / "stems").iterdir()] == [f"{TRACKS[0]}.stem"]
    folders = [tmp_path / f"scores of {root.name}" for root in roots]
    for root, folder in zip(roots, folders, strict=True):
        systems = ["-p", model_folder, "-p", "oracle:irm2", "-p", "mix", "--stems-dir", tmp_path / "stems"]
        done(evaluate("--mus_dir", root, *systems, "-o", folder))
    first, second = map(contents, folders)
    tracks = {f"{system}/test/{TRACKS[0]}.json" for system in ("tiny", "oracle%3Airm2", "mix", "stems")}
    assert set(first) == set(second) == tracks | {"scores.csv", "report.html"}
    assert first["scores.csv"] == second["scores.csv"]
    assert of_report(folders[0]) == of_report(folders[1])
    for name in tracks:
        one, other = json.loads(first[name]), json.loads(second[name])
        kinds = [found["unbraid"]["settings"].pop("dataset") for found in (one, other)]
        assert kinds == ["MUSDB18", "MUSDB18-HQ"]
        del one["unbraid"]["settings"]["track"], other["unbraid"]["settings"]["track"]  # sizes of files
        assert json.dumps(one) == json.dumps(other)  # as text, since NaN is not itself


def test_scores_of_written_stems_are_those_of_museval_and_of_the_model(
    musdb18_hq: Path, model_folder: Path, evaluate: Runner, quick: Runner, tmp_path: Path
) -> None:
    mixes = [musdb18_hq / "test" / track / "mixture.wav" for track in TRACKS]
    done(quick(*mixes, "-o", tmp_path / "stems", "-f", "{foldername}/{instrument}.{codec}", "--bit-depth", "float"))
    folder = tmp_path / "out"
    done(
        evaluate("--mus_dir", musdb18_hq, "-p", model_folder, "--stems-dir", f"disk={tmp_path / 'stems'}", "-o", folder)
    )
    for score, over in (*((metric, "median of frames") for metric in BSS_METRICS), ("uSDR", "track")):
        found = numbers(folder, score, over=over)
        for track in TRACKS:
            for stem in STEMS:
                assert found["disk", track, stem] == pytest.approx(found["tiny", track, stem], abs=1e-3)
    true, estimated = (samples_of(place / TRACKS[0]) for place in (musdb18_hq / "test", tmp_path / "stems"))
    for nth, stem in enumerate(STEMS):
        error = np.square(true[nth].astype(float) - estimated[nth]).sum()
        usdr = 10 * np.log10(np.square(true[nth].astype(float)).sum() / error)
        assert numbers(folder, "uSDR", over="track")["disk", TRACKS[0], stem] == pytest.approx(usdr, abs=1e-4)
    written = json.loads((folder / "disk" / "test" / f"{TRACKS[0]}.json").read_text())
    frames = {
        target["name"]: np.array([[frame["metrics"][metric] for frame in target["frames"]] for metric in BSS_METRICS])
        for target in written["targets"]
    }
    expected = museval_bss_eval(true.astype(float), estimated.astype(float))
    for nth, stem in enumerate(STEMS):
        assert frames[stem] == pytest.approx(expected[:, nth], abs=1e-3, nan_ok=True)


def test_what_is_there_is_not_done_again(
    musdb18_hq: Path, evaluate: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--mus_dir", musdb18_hq, "-p", "mix", "-o", tmp_path / "out", "--bsseval", "none")
    done(evaluate(*arguments))
    expected = contents(tmp_path / "out")
    read: list[str] = []

    def read_true_stems(track: Any, *others: Any) -> Any:
        read.append(track.name)
        return original(track, *others)

    from unbraid.evaluation.true_stems import read_true_stems as original

    monkeypatch.setattr("unbraid.evaluation.evaluate.read_true_stems", read_true_stems)
    again = done(evaluate(*arguments, "-v"))
    assert read == []
    assert [line for line in again.out.splitlines() if line.endswith("scored before")] == [
        *(f"[{nth}/2] {track}, mix: scored before" for nth, track in enumerate(TRACKS, 1)),
        "2 of 2 scored before",
    ]
    (tmp_path / "out" / "mix" / "test" / f"{TRACKS[1]}.json").write_text("{ damaged")
    partly = done(evaluate(*arguments))
    assert read == [TRACKS[1]]
    assert "1 of 2 scored before" in partly.out and "scored before\n[" not in partly.out
    assert contents(tmp_path / "out") == expected
    done(evaluate(*arguments, "--bsseval", "v4"))  # another question
    assert read == [TRACKS[1], *TRACKS]


# Options.


def test_spleeters_command_line(musdb18_hq: Path, model_folder: Path, evaluate: Runner, tmp_path: Path) -> None:
    """All of Spleeter's names at once: the letters in a process of its own, with a real network."""
    short = ["--mus_dir", musdb18_hq, "-p", model_folder, "-o", tmp_path / "short", "--mwf"]
    outcome = done(command(["evaluate", *short, "--no-report"], program=REAL))
    assert all(c.isprintable() or c == "\n" for c in outcome.out)
    long = ["--mus_dir", musdb18_hq, "--params_filename", model_folder, "--output_path", tmp_path / "long", "--mwf"]
    done(evaluate(*long, "--no-report"))
    expected = {"scores.csv", *(f"tiny/test/{track}.json" for track in TRACKS)}
    assert set(contents(tmp_path / "short")) == set(contents(tmp_path / "long")) == expected


def test_the_wiener_filter_gives_other_scores_in_the_same_folder(
    musdb18_hq: Path, model_folder: Path, evaluate: Runner, tmp_path: Path
) -> None:
    arguments = ("--mus_dir", musdb18_hq, "-m", model_folder, "-o", tmp_path, "--no-report", "--bsseval", "none")
    done(evaluate(*arguments))
    plain = numbers(tmp_path, "uSDR", over="track")
    refined = done(evaluate(*arguments, "--mwf"))
    assert "before" not in refined.out
    assert min(abs(plain[key] - value) for key, value in numbers(tmp_path, "uSDR", over="track").items()) > 1e-3


def test_several_systems_side_by_side(scored: tuple[Path, Outcome]) -> None:
    folder, outcome = scored
    lines = done(outcome).out.splitlines()
    assert re.fullmatch(r"MUSDB18-HQ in .*: 2 tracks of test", lines[0])
    assert [line.split(": SDR vocals ")[0] for line in lines[1:7]] == [
        f"[{nth}/6] {track}, {system}"
        for nth, (track, system) in enumerate(((track, system) for track in TRACKS for system in SYSTEMS), 1)
    ]
    sdr = numbers(folder, "SDR")
    assert set(sdr) == {(system, track, stem) for system in SYSTEMS for track in TRACKS for stem in STEMS}
    for system in SYSTEMS:
        medians = [median(sdr[system, track, stem] for track in TRACKS) for stem in STEMS]
        cells = next(line.split() for line in lines if line.startswith(f"{system} ") and line.split()[1] == "SDR")
        assert cells[2:] == [*(f"{value:.2f}" for value in (*medians, np.mean(medians))), "2"]
    # Beside those of the papers, best first: this oracle is better than the mix by far.
    places = [line.split()[1] for line in lines if line.startswith("▶")]
    assert places.index("oracle:irm2") < places.index("mix") and set(places) == set(SYSTEMS)
    assert any(line.startswith("HT Demucs ") for line in lines)
    assert "Published scores are of all 50 tracks of MUSDB18's test set, those measured here of 2." in outcome.out
    assert (
        lines[-1]
        == f"Written: {folder / 'scores.csv'}, {folder / 'report.html'}, and the scores of each track beside them."
    )


def test_jobs_change_no_byte(musdb18_hq: Path, model_folder: Path, evaluate: Runner, tmp_path: Path) -> None:
    for jobs in ("1", "2"):
        systems = ["-p", model_folder, "-p", "mix"]
        done(evaluate("--mus_dir", musdb18_hq, *systems, "-o", tmp_path / jobs, "--jobs", jobs))
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_quiet_prints_errors_only(musdb18_hq: Path, evaluate: Runner, tmp_path: Path) -> None:
    outcome = done(evaluate("--mus_dir", musdb18_hq, "-p", "mix", "-o", tmp_path / "out", "-q"))
    assert outcome.out == ""
    assert set(contents(tmp_path / "out")) == {
        "scores.csv",
        "report.html",
        *(f"mix/test/{track}.json" for track in TRACKS),
    }


def test_without_bsseval_the_scores_are_of_whole_tracks(musdb18_hq: Path, evaluate: Runner, tmp_path: Path) -> None:
    shown = done(evaluate("--mus_dir", musdb18_hq, "-p", "mix", "-o", tmp_path, "--bsseval", "none")).out
    assert f"{TRACKS[0]}, mix: uSDR vocals " in shown
    assert "No published scores beside these: they are by BSSEval v4, with windows of 1 s." in shown
    assert {row["over"] for row in table(tmp_path)} == {"track"}
    for track in TRACKS:  # of the mix, the others are the error
        true = samples_of(musdb18_hq / "test" / track).astype(float)
        mix = read_audio(musdb18_hq / "test" / track / "mixture.wav").samples
        for stem, signal in zip(STEMS, true, strict=True):
            usdr = 10 * np.log10(np.square(signal).sum() / np.square(mix - signal).sum())
            assert numbers(tmp_path, "uSDR", over="track")["mix", track, stem] == pytest.approx(usdr, abs=1e-4)
            assert numbers(tmp_path, "uSDRi", over="track")["mix", track, stem] == pytest.approx(0, abs=1e-4)


def test_windows_steps_and_version_three(musdb18_hq: Path, evaluate: Runner, tmp_path: Path) -> None:
    arguments = ("--mus_dir", musdb18_hq, "-p", "oracle:ibm2", "--no-report")
    done(evaluate(*arguments, "-o", tmp_path / "half", "--window", "0.5", "--hop", "0.25"))
    content = json.loads((tmp_path / "half" / "oracle%3Aibm2" / "test" / f"{TRACKS[0]}.json").read_text())
    frames = content["targets"][0]["frames"]
    # 1 + (n − window) // hop of museval, with n = 2.5 s or a few samples more
    assert [frame["time"] for frame in frames] == [0.25 * nth for nth in range(9)]
    assert {frame["duration"] for frame in frames} == {0.5}
    shown = done(evaluate(*arguments, "-o", tmp_path / "v3", "--bsseval", "v3")).out
    assert "No published scores" in shown  # they are by version 4
    assert "of each window (version 3)" in settings(tmp_path / "v3", "oracle%3Aibm2")["bsseval"]
    done(evaluate(*arguments, "-o", tmp_path / "v4"))
    assert "of the track (version 4)" in settings(tmp_path / "v4", "oracle%3Aibm2")["bsseval"]
    # More filters explain more of the estimate, and leave less to artefacts; the error as a whole stays as it is.
    three, four = (numbers(tmp_path / version, "SAR", over="mean of frames") for version in ("v3", "v4"))
    assert all(three[key] > four[key] for key in four)
    three, four = (numbers(tmp_path / version, "SDR") for version in ("v3", "v4"))
    assert three == pytest.approx(four, abs=1e-3)


def test_subsets_and_their_default(evaluate: Runner, tmp_path: Path) -> None:
    make_musdb18_hq(tmp_path / "data", seconds=1.0, subsets=("train", "test"))
    arguments = ("--data", tmp_path / "data", "-p", "mix", "--no-report", "--bsseval", "none")
    for subset, expected in ((None, {"test"}), ("train", {"train"}), ("all", {"train", "test"})):
        folder = tmp_path / str(subset)
        shown = done(evaluate(*arguments, "-o", folder, *(["--subset", subset] if subset else []))).out
        assert {row["subset"] for row in table(folder)} == expected
        assert shown.splitlines()[0].endswith(" tracks" if subset == "all" else f": 1 track of {subset or 'test'}")
    assert "No published scores beside these: they are of MUSDB18's test set." in shown


def test_two_stems_are_scored_as_museval_scores_accompaniment(
    musdb18_hq: Path, model_folder: Path, evaluate: Runner, tmp_path: Path
) -> None:
    done(evaluate("--mus_dir", musdb18_hq, "-p", model_folder, "-o", tmp_path, "--two-stems", "vocals"))
    assert {row["stem"] for row in table(tmp_path)} == {"vocals", "no_vocals"}


def test_a_folder_of_tracks_has_no_published_scores(evaluate: Runner, tmp_path: Path) -> None:
    make_folder(tmp_path / "data", seconds=1.0, with_mix=False)
    shown = done(evaluate("--mus-dir", tmp_path / "data", "-p", "oracle:irm1", "-o", tmp_path / "out")).out
    assert shown.startswith(f"folder in {tmp_path / 'data'}: 1 track\n")
    assert "No published scores beside these: they are of MUSDB18's test set." in shown
    assert set(contents(tmp_path / "out")) >= {f"oracle%3Airm1/tracks/{TRACKS[0]}.json"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows such names")
def test_any_name_of_a_track(evaluate: Runner, tmp_path: Path) -> None:
    names = ["日本 – Ñandú ♪", ' "quotes" & <b>%20<b>', "con", "-p", "two\nlines", "x" * 200, os.fsdecode(b"\xff raw")]
    make_musdb18_hq(tmp_path / "data", n_tracks=len(names), seconds=1.0, subsets=("test",))
    for nth, name in enumerate(names):
        (tmp_path / "data" / "test" / f"Synthetic - Söng {nth}").rename(tmp_path / "data" / "test" / name)
    arguments = ("--mus_dir", tmp_path / "data", "-p", "mix", "-o", tmp_path / "out", "--bsseval", "none")
    outcome = done(evaluate(*arguments))
    assert all(c.isprintable() or c == "\n" for c in outcome.out)
    assert len([line for line in outcome.out.splitlines() if line.startswith("[")]) == len(names)
    written = [name.encode("utf-8", "backslashreplace").decode() for name in names]
    assert {row["track"] for row in table(tmp_path / "out")} == set(written)
    assert set(of_report(tmp_path / "out")["tracks"]) == set(written)
    assert "7 of 7 scored before" in done(evaluate(*arguments)).out


# What a terminal shows.


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals of POSIX")
def test_a_terminal_gets_a_bar_that_disappears(musdb18_hq: Path, model_folder: Path, tmp_path: Path) -> None:
    program = [*QUICK, "evaluate", "-m", model_folder, "--mus_dir", musdb18_hq, "-o", tmp_path / "out", "--no-report"]
    # Long enough for the bar to be drawn.
    code, text = in_terminal(program, environment(TERM="xterm", COLUMNS="100", QUICK_RUN_S="0.5"))
    assert code == 0, text
    assert f"{TRACKS[0]} separating" in text
    assert "1 of 2" in text
    assert "\x1b[2K" in text  # the bar's line is erased
    last = text.rsplit("\x1b[2K", 1)[1]
    assert "separating" not in last and "1 of 2" not in last
    assert last.splitlines()[-1].startswith("Written: ")


def test_a_stream_that_lacks_characters_gets_them_spelt_out(musdb18_hq: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", "--mus_dir", musdb18_hq, "-p", "mix", "-o", tmp_path, "--no-report"]
    outcome = subprocess.run(
        [*REAL, *map(str, arguments)],
        capture_output=True,
        env=environment(PYTHONIOENCODING="cp1252"),  # of Windows, where output is not a console's
        timeout=300,
        check=False,
    )
    assert (outcome.returncode, outcome.stderr) == (0, b"")
    text = outcome.stdout.decode("cp1252")
    assert "\\u25b6 mix" in text and "Söng" in text


def test_help_is_read_by_a_newcomer(capsys: pytest.CaptureFixture[str]) -> None:
    whole = done(run_inside(["evaluate", "-h"], capsys)).out
    options = ("--mus_dir", "-p", "-o", "--mwf", "--stems-dir", "--subset", "--bsseval", "--jobs", "--score-device")
    for word in (*options, "oracle:irm1", "report.html", "scores.csv", "goes on where it was stopped"):
        assert word in " ".join(whole.split())
    alone = run_inside(["evaluate"], capsys)
    assert alone.code == 2
    assert (alone.out + alone.err).strip() == whole.strip()
    assert "Holm's correction" in done(run_inside(["evaluate", "compare", "-h"], capsys)).out
    commands = [*done(run_inside(["-h"], capsys)).out.splitlines(), *whole.splitlines()]
    ours = [line for line in commands if re.match(r"  (evaluate|compare) ", line)]
    assert len(ours) == 2 and not any(line.endswith("...") for line in ours)
    assert all(len(line) <= 80 for line in commands)


# Comparing two systems.


def test_two_systems_are_compared(musdb18_hq: Path, evaluate: Runner, tmp_path: Path) -> None:
    make_musdb18_hq(tmp_path / "data", n_tracks=8, seconds=1.0, subsets=("test",))
    systems = ("-p", "oracle:irm2", "-p", "mix")
    out = tmp_path / "out"
    done(evaluate("--mus_dir", tmp_path / "data", *systems, "-o", out, "--no-report", "--bsseval", "none"))
    shown = done(evaluate("compare", out / "oracle%3Airm2", out / "mix", "--metric", "uSDR")).out.splitlines()
    assert shown[0] == "oracle:irm2 against mix, uSDR"
    found = numbers(out, "uSDR", over="track")
    tracks = sorted({track for _, track, _ in found})
    for stem in STEMS:
        gap = median(found["oracle:irm2", track, stem] - found["mix", track, stem] for track in tracks)
        row = next(line.split() for line in shown if line.startswith(f"{stem} "))
        assert row[1] == f"{gap:.2f}" and row[5:] == ["8", "8/0", "0.031"]  # 4 tests of 2 / 2⁸
        assert any(line.startswith(f"{stem}: oracle:irm2 better than mix by {gap:.2f} dB") for line in shown)
    less = done(evaluate("compare", out / "mix", out / "oracle:irm2", "--metric", "L1")).out
    assert "vocals: oracle:irm2 better than mix by " in less


def test_what_only_one_of_them_has_is_said(scored: tuple[Path, Outcome], evaluate: Runner, tmp_path: Path) -> None:
    folder, _ = scored
    for name in ("mix", "tiny"):
        (tmp_path / name / "test").mkdir(parents=True)
    for track in TRACKS:
        (tmp_path / "mix" / "test" / f"{track}.json").write_bytes(
            (folder / "mix" / "test" / f"{track}.json").read_bytes()
        )
    (tmp_path / "tiny" / "one.json").write_bytes((folder / "tiny" / "test" / f"{TRACKS[0]}.json").read_bytes())
    shown = done(evaluate("compare", tmp_path / "mix", tmp_path / "tiny")).out
    assert f"Only mix has 1 track, left out: {TRACKS[1]}" in shown
    assert "no difference that 1 track can show" in shown


def test_musevals_own_files_are_compared(evaluate: Runner) -> None:
    if not (SHARED / "reference" / "sisec18" / "TAK1").is_dir():
        pytest.skip(f"no SiSEC 2018 in {SHARED / 'reference'}")
    folders = [SHARED / "reference" / "sisec18" / name for name in ("TAK1", "STL2")]
    shown = done(evaluate("compare", *folders)).out
    assert shown.startswith("TAK1 against STL2, SDR\n")
    for stem in STEMS:
        assert f"{stem}: TAK1 better than STL2 by " in shown  # as all papers have it, by 1.7 dB and more
    assert "Note: only 'TAK1' has the SDR of 'accompaniment'" in shown


# The report, in a browser.


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def test_the_report_shows_what_the_table_holds(scored: tuple[Path, Outcome], browser: Browser) -> None:
    folder, _ = scored
    page = browser.page()
    page.open(folder / "report.html")
    assert browser.complaints == []
    assert {address.split(":")[0] for address in browser.requests} == {"file"}
    assert page.texts("h1") == ["Separation of musdb18hq"]
    assert page.texts("#boxes h3") == [f"{metric} (dB)" for metric in BSS_METRICS]
    assert page.value("document.querySelectorAll('#boxes .boxlayer path.box').length") == 4 * len(SYSTEMS) * len(STEMS)
    tables: Sequence[Sequence[Sequence[str]]] = page.value(
        "[...document.querySelectorAll('table')].map(table => "
        "[...table.rows].map(row => [...row.cells].map(cell => cell.textContent)))"
    )
    summary = {(row[0], row[1]): row[2:] for row in tables[0][1:]}
    assert list(tables[0][0][2:6]) == list(STEMS)
    for metric in BSS_METRICS:
        found = numbers(folder, metric)
        for system in SYSTEMS:
            shown = [cell.split(" [")[0] for cell in summary[system, metric][:4]]
            medians = [median(found[system, track, stem] for track in TRACKS) for stem in STEMS]
            assert [float(cell) for cell in shown] == pytest.approx(medians, abs=0.00501)
    found = numbers(folder, "uSDR", over="track")
    for system in SYSTEMS:
        means = [np.mean([found[system, track, stem] for track in TRACKS]) for stem in STEMS]
        shown = [cell.split(" [")[0] for cell in summary[system, "uSDR"][:4]]
        assert [float(cell) for cell in shown] == pytest.approx(means, abs=0.00501)
    assert "Published scores are of all 50 tracks" in page.value("document.body.textContent")
