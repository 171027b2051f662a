"""An evaluation that is stopped, or given what it cannot use: one clear line, and all the rest is done."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from commands import QUICK, REAL, STEMS, Outcome, Runner, command, environment, quick_engine, run_inside
from song_makers import music

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and modes of POSIX")
RATE = 44100
N = 2 * RATE
SIGNALS = ("mixture", *STEMS)


def write_track(folder: Path, *, seed: int, n: int = N) -> Path:
    """A track of MUSDB18-HQ of one channel, which BSSEval does in no time."""
    folder.mkdir(parents=True)
    stems = {stem: music(n, n_channels=1, seed=10 * seed + nth)[0] / 4 for nth, stem in enumerate(STEMS)}
    for name, samples in {"mixture": sum(stems.values()), **stems}.items():
        write(folder / f"{name}.wav", samples)
    return folder


def write(path: Path, samples: np.ndarray, *, sample_rate: int = RATE) -> None:
    soundfile.write(path, samples, sample_rate, subtype="FLOAT")


def read(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32")[0]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two good tracks, "a" and "c"; tests put a bad one, "b", between them."""
    for seed, name in enumerate("ac"):
        write_track(tmp_path / "data" / "test" / name, seed=seed)
    return tmp_path / "data"


@pytest.fixture
def evaluate(model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    """`evaluate(*arguments)` runs the command in this process, with a line of NumPy as the network."""
    monkeypatch.setattr("unbraid.separation.separator.load_engine", quick_engine)
    return lambda *arguments: run_inside(["evaluate", *arguments], capsys)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_line(outcome: Outcome, code: int, *words: str) -> None:
    """One line, with these words, and nothing else."""
    assert (outcome.code, outcome.out) == (code, ""), outcome
    assert len(outcome.lines) == 1, outcome.err
    assert outcome.lines[0].startswith("unbraid: ")
    for word in words:
        assert word in outcome.lines[0]


# Stopped, and started again.


@pytest.fixture(scope="module")
def long_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tracks."""
    root = tmp_path_factory.mktemp("data") / "musdb18hq"
    for seed in range(3):
        write_track(root / "test" / f"Track {seed}", seed=seed)
    return root


@pytest.fixture(scope="module")
def whole(long_data: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run without interruption leaves."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    outcome = command(arguments(long_data, model_folder, folder), program=QUICK)
    assert (outcome.code, outcome.err) == (0, "")
    return contents(folder)


def arguments(data: Path, model: Path, folder: Path, *more: str) -> list[str]:
    return ["evaluate", "--mus_dir", str(data), "-p", "mix", "-p", str(model), "-o", str(folder), *more]


def start(words: Sequence[str], **variables: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*QUICK, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**variables),
        # A shell starts its background jobs with interrupts ignored, and so this test, if it is run in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_scores(folder: Path, process: subprocess.Popen[bytes], n: int) -> None:
    while len(list(folder.rglob("*.json"))) < n:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def check_goes_on(words: Sequence[str], folder: Path, whole: dict[str, bytes]) -> None:
    """The restarted run does what is missing, and nothing else."""
    there = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")}
    assert 0 < len(there) < 6
    again = command([*words, "-v"], program=QUICK)
    assert (again.code, again.err) == (0, "")
    lines = again.out.splitlines()
    assert len([line for line in lines if line.startswith("[") and line.endswith(": scored before")]) == len(there)
    assert f"{len(there)} of 6 scored before" in lines
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in there.items())
    assert contents(folder) == whole


@posix
def test_killed_and_restarted_it_comes_to_the_same(
    long_data: Path, model_folder: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    assert len(whole) == 2 + 2 * 3
    words = arguments(long_data, model_folder, tmp_path / "out")
    process = start(words, QUICK_RUN_S="0.5")
    wait_for_scores(tmp_path / "out", process, 2)
    process.kill()
    process.communicate()
    check_goes_on(words, tmp_path / "out", whole)


@posix
@pytest.mark.slow
def test_killed_ten_times_it_comes_to_the_same(
    long_data: Path, model_folder: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    words = arguments(long_data, model_folder, tmp_path / "out")
    rng = np.random.default_rng(7)
    for _ in range(10):
        process = start(words)
        time.sleep(rng.uniform(0.5, 4.0))
        process.kill()
        process.communicate()
        for name, content in (contents(tmp_path / "out") if (tmp_path / "out").is_dir() else {}).items():
            assert name.endswith(".part") or content == whole[name] or name in ("scores.csv", "report.html")
    again = command(words, program=QUICK)
    assert (again.code, again.err) == (0, "")
    assert contents(tmp_path / "out") == whole


def test_what_a_killed_run_left_half_written_is_removed(data: Path, evaluate: Runner, tmp_path: Path) -> None:
    options = ("--mus_dir", data, "-p", "mix", "-o", tmp_path / "out", "--bsseval", "none")
    assert evaluate(*options).code == 0
    expected = contents(tmp_path / "out")
    (tmp_path / "out" / "mix" / "test" / "a.json").rename(
        tmp_path / "out" / "mix" / "test" / ".a.json.0123456789ab.part"
    )
    for name in ("scores.csv", "report.html"):
        (tmp_path / "out" / f".{name}.0123456789ab.part").write_text("half")
    assert evaluate(*options).code == 0
    assert contents(tmp_path / "out") == expected


@posix
def test_an_interrupt_says_so_in_one_line(
    long_data: Path, model_folder: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    words = arguments(long_data, model_folder, tmp_path / "out", "--jobs", "2")
    process = start(words, QUICK_RUN_S="0.5")
    wait_for_scores(tmp_path / "out", process, 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.decode() == "unbraid: interrupted; what was scored is kept, and the same command goes on from there\n"
    left = contents(tmp_path / "out")
    assert left == {name: whole[name] for name in left} and "scores.csv" not in left


# Tracks that cannot be used.


def missing(track: Path) -> None:
    (track / "drums.wav").unlink()


def too_short(track: Path) -> None:
    write(track / "bass.wav", read(track / "bass.wav")[: N - RATE // 5])


def truncated(track: Path) -> None:
    path = track / "vocals.wav"
    path.write_bytes(path.read_bytes()[: N * 2])


def no_audio(track: Path) -> None:
    (track / "other.wav").write_text("la la la")


def empty_file(track: Path) -> None:
    (track / "mixture.wav").write_bytes(b"")


def three_channels(track: Path) -> None:
    write(track / "mixture.wav", np.zeros((N, 2), np.float32))
    write(track / "other.wav", np.zeros((N, 3), np.float32))


@dataclass(frozen=True)
class Bad:
    """What is wrong with the track "b", and what is said."""

    spoil: Callable[[Path], None]
    words: tuple[str, ...]


@pytest.mark.parametrize(
    "bad",
    [
        Bad(missing, ("cannot use the track 'b'", "not there", "drums.wav", "unpack MUSDB18-HQ again")),
        Bad(too_short, ("bass.wav' is 1.800 s long", "2.000 s", "they may differ by 0.1 s")),
        Bad(truncated, ("vocals.wav' is 1.000 s long", "2.000 s", "they may differ by 0.1 s")),
        Bad(no_audio, ("cannot read", "other.wav")),
        Bad(empty_file, ("mixture.wav",)),
        Bad(three_channels, ("mixture.wav': it has 2 channels", "other.wav' 3")),
    ],
    ids=lambda bad: bad.spoil.__name__,
)
def test_a_bad_track_is_reported_and_the_others_go_on(bad: Bad, data: Path, evaluate: Runner, tmp_path: Path) -> None:
    bad.spoil(write_track(data / "test" / "b", seed=9))
    outcome = evaluate("--mus_dir", data, "-p", "mix", "-o", tmp_path / "out", "--bsseval", "none", "--no-report")
    assert outcome.code == 1
    first, last = outcome.lines
    assert first.startswith("unbraid: b, mix: ") and last == "unbraid: 1 of 3 could not be scored"
    for word in bad.words:
        assert word in first
    assert set(contents(tmp_path / "out")) == {"scores.csv", "mix/test/a.json", "mix/test/c.json"}
    assert [line[:6] for line in outcome.out.splitlines() if line.startswith("[")] == ["[1/3] ", "[3/3] "]
    quiet = evaluate("--mus_dir", data, "-p", "mix", "-o", tmp_path / "out", "--bsseval", "none", "--no-report", "-q")
    assert (quiet.code, quiet.out, quiet.err) == (1, "", outcome.err)


def test_a_truncated_musdb18_is_reported(evaluate: Runner, tmp_path: Path) -> None:
    from dataset_makers import make_musdb18

    make_musdb18(tmp_path / "data", n_tracks=2, seconds=1.0, subsets=("test",))
    bad, _ = sorted((tmp_path / "data" / "test").iterdir())
    bad.write_bytes(bad.read_bytes()[:50_000])
    outcome = evaluate("--mus_dir", tmp_path / "data", "-p", "mix", "-o", tmp_path / "out", "--bsseval", "none")
    assert outcome.code == 1
    assert "Söng 0, mix: cannot read" in outcome.lines[0] and "Söng 0.stem.mp4" in outcome.lines[0]
    assert "[2/2] Synthetic - Söng 1, mix: uSDR" in outcome.out


def test_where_nothing_could_be_scored_nothing_is_written(data: Path, evaluate: Runner, tmp_path: Path) -> None:
    for name in "ac":
        missing(data / "test" / name)
    outcome = evaluate(
        "--mus_dir", data, "--kind", "musdb18-hq", "-p", "mix", "-p", "oracle:irm1", "-o", tmp_path / "out"
    )
    assert outcome.code == 1 and len(outcome.lines) == 5
    assert outcome.lines[-1] == "unbraid: 4 of 4 could not be scored"
    assert contents(tmp_path / "out") == {}


def test_a_little_too_short_is_padded_and_said(data: Path, evaluate: Runner, tmp_path: Path) -> None:
    write(data / "test" / "a" / "bass.wav", read(data / "test" / "a" / "bass.wav")[:-100])
    outcome = evaluate("--mus_dir", data, "-p", "mix", "-o", tmp_path / "out", "--bsseval", "none")
    assert (outcome.code, outcome.err) == (0, "")
    note = "  note: true bass: 100 samples shorter than the others, padded with silence"
    assert [line for line in outcome.out.splitlines() if "note:" in line] == [note]
    assert "100 samples shorter" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_another_sample_rate_is_resampled_and_said(data: Path, evaluate: Runner, tmp_path: Path) -> None:
    time_s = np.arange(N) / RATE
    tone = 0.5 * np.sin(2 * np.pi * 440 * time_s, dtype=np.float32) * np.hanning(N).astype(np.float32)
    write(data / "test" / "a" / "bass.wav", tone)
    options = ("--mus_dir", data, "-p", "mix", "--bsseval", "none", "--no-report")
    before = evaluate(*options, "-o", tmp_path / "before").out
    time_s = np.arange(2 * 32000) / 32000
    tone = 0.5 * np.sin(2 * np.pi * 440 * time_s, dtype=np.float32) * np.hanning(2 * 32000).astype(np.float32)
    write(data / "test" / "a" / "bass.wav", tone, sample_rate=32000)
    after = evaluate(*options, "-o", tmp_path / "after")
    assert (after.code, after.err) == (0, "")
    assert "  note: true bass: resampled from 32000 to 44100 Hz" in after.out
    assert re.findall(r"a, mix: .*", before) == re.findall(r"a, mix: .*", after.out)  # to 0.01 dB


# Stems on disk that do not fit.


@pytest.fixture
def stems(data: Path, tmp_path: Path) -> Path:
    """Estimates of all tracks: the true stems, with some noise."""
    for track in (data / "test").iterdir():
        (tmp_path / "stems" / track.name).mkdir(parents=True)
        for nth, stem in enumerate(STEMS):
            write(
                tmp_path / "stems" / track.name / f"{stem}.wav",
                read(track / f"{stem}.wav") + music(N, n_channels=1, seed=nth)[0] / 99,
            )
    return tmp_path / "stems"


def test_stems_that_lack_one_of_a_track(data: Path, stems: Path, evaluate: Runner, tmp_path: Path) -> None:
    (stems / "a" / "drums.wav").unlink()
    outcome = evaluate("--mus_dir", data, "--stems-dir", stems, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert outcome.lines == [
        f"unbraid: a, stems: cannot score 'a': no drums of it in {str(stems)!r}",
        "unbraid: 1 of 2 could not be scored",
    ]
    assert "stems/test/c.json" in contents(tmp_path / "out")


def test_stems_that_lack_a_track(data: Path, stems: Path, evaluate: Runner, tmp_path: Path) -> None:
    (stems / "a").rename(stems / "b")
    outcome = evaluate("--mus_dir", data, "--stems-dir", f"theirs={stems}", "-o", tmp_path / "out")
    assert outcome.code == 1
    assert outcome.lines[0] == f"unbraid: a, theirs: cannot score 'a': no stems of it in {str(stems)!r}"
    assert "theirs/test/c.json" in contents(tmp_path / "out")


def test_stems_of_another_length_and_rate(data: Path, stems: Path, evaluate: Runner, tmp_path: Path) -> None:
    for stem in STEMS:
        write(stems / "a" / f"{stem}.wav", read(stems / "a" / f"{stem}.wav")[:-50])
        write(stems / "c" / f"{stem}.wav", read(stems / "c" / f"{stem}.wav")[: N // 2])
    outcome = evaluate("--mus_dir", data, "--stems-dir", stems, "-o", tmp_path / "out", "--bsseval", "none")
    assert outcome.code == 1
    assert "  note: the estimated stems were 50 samples too short, filled up with silence" in outcome.out
    assert "c, stems: the estimated stems are 1.000 s long, but the true ones 2.000 s" in outcome.lines[0]
    for stem in STEMS:
        write(stems / "c" / f"{stem}.wav", np.zeros(2 * 48000 + 96, np.float32), sample_rate=48000)
    longer = evaluate("--mus_dir", data, "--stems-dir", stems, "-o", tmp_path / "out", "--bsseval", "none")
    assert (longer.code, longer.err) == (0, "")
    assert "1 of 2 scored before" in longer.out
    assert "  note: drums: resampled from 48000 to 44100 Hz" in longer.out
    assert "  note: the estimated stems were 88 samples too long, cut off" in longer.out  # 96 · 44.1 / 48


# Usage.


WRONG: tuple[tuple[tuple[str, ...], int, tuple[str, ...]], ...] = (
    (("--kind", "musdb"), 2, ("MUSDB18, MUSDB18-HQ, DSD100, folder", "'musdb'")),
    (("--kind", "DSD100"), 3, ("Mixtures/{Dev,Test}/TRACK/mixture.wav", "https://")),
    (("--subset", "dev"), 2, ("--subset must be train, validation, test or all", "'dev'")),
    (("--subset", "train"), 3, ("'train'", "it has test")),
    (("--bsseval", "v5"), 2, ("--bsseval must be v4, v3 or none, got v5",)),
    (("--window", "0"), 2, ("window and hop must be more than 0 s", "got 0.0")),
    (("--window", "nan"), 2, ("got nan",)),
    (("--window", "inf"), 2, ("got inf",)),
    (("--window", "one"), 2, ("--window", "valid number")),
    (("--hop", "-1"), 2, ("got 1.0 and -1.0",)),
    (("--hop", "inf"), 2, ("got 1.0 and inf",)),
    (("--score-device", "nonsense"), 2, ("'nonsense'",)),
    (("--data-root", "."), 2, ("is for a .csv file",)),
    (("--jobs", "0"), 2, ("--jobs", "'unbraid evaluate -h' lists the options")),
    (("-p", "oracle:irm9"), 2, ("no oracle 'oracle:irm9'", "oracle:irm2")),
    (("-p", "no:such"), 3, ("unknown model 'no:such'", "unbraid models list")),
    (("-p", "mix"), 2, ("two systems are called 'mix'", "leave one out")),
    (("--stems-dir", "nowhere"), 2, ("'nowhere'", "there is no such folder")),
    (("--stems-dir", "x=nowhere"), 2, ("'nowhere'", "there is no such folder")),
    (("--overlap", "1.5"), 2, ("overlap", "1.5")),
    (("--frobnicate",), 2, ("--frobnicate",)),
)


@pytest.mark.parametrize(("given", "code", "words"), WRONG, ids=[" ".join(row[0]) for row in WRONG])
def test_wrong_usage_is_one_line_and_writes_nothing(
    given: Sequence[str],
    code: int,
    words: Sequence[str],
    data: Path,
    model_folder: Path,
    evaluate: Runner,
    tmp_path: Path,
) -> None:
    if given[0] == "--score-device":
        pytest.importorskip("torch", reason="torch is not installed")
    arguments = ("--mus_dir", data, "-p", "mix", "-p", model_folder, "-o", tmp_path / "out", *given)
    check_line(evaluate(*arguments), code, *words)
    assert not (tmp_path / "out").exists()


def test_no_dataset_or_an_empty_one(evaluate: Runner, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    out = ("-p", "mix", "-o", tmp_path / "out")
    check_line(evaluate(*out), 2, "no dataset given; try 'unbraid evaluate --mus_dir MUSDB18")
    where = ("TRACK/STEM.wav", "https://doi.org/10.5281/zenodo.1117372", "zenodo.3338373", "dsd100")
    check_line(evaluate("--mus_dir", tmp_path / "empty", *out), 3, str(tmp_path / "empty"), "no tracks in it", *where)
    check_line(evaluate("--mus_dir", tmp_path / "gone", *out), 3, "there is no such folder or file", *where)
    options = ("--mus_dir", tmp_path / "gone", "--kind", "MUSDB18-HQ", *out)
    check_line(evaluate(*options), 3, "train/TRACK/{mixture,vocals,drums,bass,other}.wav", "zenodo.3338373 (22.7 GB)")
    assert not (tmp_path / "out").exists()


def test_stems_of_no_track_and_names_given_twice(data: Path, stems: Path, evaluate: Runner, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    options = ("--mus_dir", data, "-o", tmp_path / "out")
    example = str(tmp_path / "empty" / "a" / "vocals.wav")
    check_line(evaluate(*options, "--stems-dir", tmp_path / "empty"), 3, "no stems of any track", example)
    twice = ("--stems-dir", stems, "--stems-dir", stems)
    check_line(evaluate(*options, *twice), 2, "two systems are called 'stems'", "--stems-dir NAME=FOLDER")
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_none(data: Path, evaluate: Runner, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    options = ("--mus_dir", data, "-p", "mix")
    check_line(evaluate(*options, "-o", file), 1, f"cannot write into {str(file)!r}", "it is no folder")
    check_line(evaluate(*options, "-o", file / "deeper"), 1, "cannot make the folder", "choose another one by -o")
    assert file.read_text() == "mine"


@posix
def test_an_output_folder_that_is_read_only(data: Path, unprivileged: list[str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o555)
    words = ["evaluate", "--mus_dir", data, "-p", "mix", "-o"]
    program = [*unprivileged, *REAL]
    outcome = command([*words, tmp_path / "out"], program=program)
    check_line(outcome, 1, f"cannot write into {str(tmp_path / 'out')!r}", "it is read-only")
    outcome = command([*words, tmp_path / "out" / "deeper"], program=program)
    check_line(outcome, 1, "cannot make the folder", "Permission denied")


def test_without_plotly_the_report_is_left_out_on_request(
    data: Path, evaluate: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unbraid.cli.evaluation.find_spec", lambda name: None)
    options = ("--mus_dir", data, "-p", "mix", "-o", tmp_path / "out")
    check_line(evaluate(*options), 1, "pip install 'unbraid[evaluate]'", "--no-report")
    assert not (tmp_path / "out").exists()
    assert evaluate(*options, "--no-report").code == 0
    assert "report.html" not in contents(tmp_path / "out")


# Comparisons that cannot be.


def test_comparing_what_is_not_there(data: Path, evaluate: Runner, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = evaluate("--mus_dir", data, "-p", "mix", "-p", "oracle:irm1", "-o", out, "--bsseval", "none", "--no-report")
    assert made.code == 0
    mix, oracle = out / "mix", out / "oracle%3Airm1"
    check_line(evaluate("compare", mix, out / "gone"), 2, str(out / "gone"), "there is no such folder")
    (tmp_path / "empty").mkdir()
    check_line(evaluate("compare", tmp_path / "empty", mix), 1, "no scores (.json)", "'unbraid evaluate' makes them")
    check_line(evaluate("compare", out, mix), 2, f"{str(out)!r} holds the scores of mix, oracle:irm1")
    check_line(evaluate("compare", mix), 2, "Missing argument 'B'", "'unbraid evaluate compare -h'")
    check_line(evaluate("compare"), 2, "Missing argument 'A'")
    check_line(evaluate("compare", mix, oracle), 1, "'mix' has no SDR; there are uSDR")
    check_line(evaluate("compare", mix, oracle, "--metric", "PESQ"), 1, "'mix' has no PESQ; there are uSDR")
    (tmp_path / "empty" / "notes.json").write_text("[]")
    check_line(evaluate("compare", mix, tmp_path / "empty"), 1, "cannot read the scores", "notes.json")


def test_comparing_scores_of_different_music(data: Path, evaluate: Runner, tmp_path: Path) -> None:
    options = ("-p", "mix", "--bsseval", "none", "--no-report")
    assert evaluate("--mus_dir", data, *options, "-o", tmp_path / "one").code == 0
    for name in "ac":
        (data / "test" / name).rename(data / "test" / f"another {name}")
    assert evaluate("--mus_dir", data, *options, "-o", tmp_path / "two").code == 0
    assert evaluate("--mus_dir", data, *options, "-o", tmp_path / "three", "--kind", "folder").code == 0
    one, two, three = (tmp_path / name / "mix" for name in ("one", "two", "three"))
    metric = ("--metric", "uSDR")
    check_line(evaluate("compare", one, two, *metric), 1, "no track has been scored for both")
    check_line(evaluate("compare", two, three, *metric), 1, "different settings of 'dataset'", "MUSDB18-HQ", "folder")
