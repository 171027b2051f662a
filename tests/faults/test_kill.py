"""Killed at any moment, or run twice at once: never a partial file under a final name, and the next run completes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from commands import QUICK, REAL, STEMS, Runner, command, environment
from song_makers import music, write_wav
from unbraid.audio.read import read_audio

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
N_SAMPLES = 44100 * 20


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("song") / "song.wav", music(N_SAMPLES), packing="s16")


def start(program: Sequence[str], *arguments: object, **variables: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*program, "separate", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**variables),
        # A shell starts its background jobs with interrupts ignored, and so this test, if it is run in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def check_complete(path: Path) -> None:
    """Whoever sees the name sees the whole file."""
    assert read_audio(path, strict=True).samples.shape == (2, N_SAMPLES)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def kill_and_complete(program: Sequence[str], n_kills: int, model: Path, song: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    whole = command(["separate", "-m", model, song, "-o", tmp_path / "whole"], program=program)
    lasts_s = time.monotonic() - began
    assert (whole.code, whole.err) == (0, "")
    expected = contents(tmp_path / "whole" / "song")
    assert set(expected) == {f"{stem}.wav" for stem in STEMS}
    folder = tmp_path / "out" / "song"
    # Half of the moments anywhere, half soon after the first file appears: in the midst of writing and renaming.
    rng = np.random.default_rng(11)
    for nth in range(n_kills):
        for path in folder.glob("*.wav"):  # else there would be nothing left to do
            path.unlink()
        process = start(program, "-m", model, song, "-o", tmp_path / "out")
        known = set(folder.glob(".*.part"))
        if nth % 2 == 0:
            time.sleep(rng.uniform(0, lasts_s))
        else:
            while process.poll() is None and set(folder.glob(".*.part")) <= known:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.3 * lasts_s))
        process.kill()
        process.communicate()
        for path in folder.glob("*.wav"):
            check_complete(path)
    done = command(["separate", "-m", model, song, "-o", tmp_path / "out"], program=program)
    if done.code:  # the last kill came between the last file and the end
        assert "already there" in done.err
        assert set(contents(folder)) >= set(expected)
    again = command(["separate", "-m", model, song, "-o", tmp_path / "out", "--skip-existing"], program=program)
    assert (again.code, again.err) == (0, "")
    assert contents(folder) == expected


def test_killed_five_times_completes_with_the_same_bytes(model_folder: Path, song: Path, tmp_path: Path) -> None:
    kill_and_complete(QUICK, 5, model_folder, song, tmp_path)


@pytest.mark.slow
def test_killed_twenty_times_completes_with_the_same_bytes(model_folder: Path, song: Path, tmp_path: Path) -> None:
    kill_and_complete(REAL, 20, model_folder, song, tmp_path)


def test_killed_between_two_renames_completes(quick: Runner, song: Path, tmp_path: Path) -> None:
    """The moment that is hardest to hit: some stems have their names, others do not."""
    arguments = (song, "-o", tmp_path, "-d", "1")
    assert quick(*arguments).code == 0
    folder = tmp_path / "song"
    expected = contents(folder)
    for stem in STEMS[2:]:
        (folder / f"{stem}.wav").rename(folder / f".{stem}.wav.00112233aabb.part")
    done = quick(*arguments)
    assert (done.code, done.err) == (0, "")
    assert contents(folder) == expected


def wait_for_files(folder: Path, process: subprocess.Popen[bytes]) -> None:
    while not (folder.is_dir() and any(folder.iterdir())):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_an_interrupt_leaves_nothing_and_says_so(model_folder: Path, tmp_path: Path) -> None:
    long_song = write_wav(tmp_path / "song.wav", music(N_SAMPLES * 4), packing="s16")
    # 80 s of music in 14: this process may be kept waiting in between, but not for so long.
    process = start(QUICK, "-m", model_folder, long_song, "-o", tmp_path / "out", QUICK_RUN_S="4")
    wait_for_files(tmp_path / "out" / "song", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.decode() == "unbraid: interrupted; no incomplete file was left\n"
    assert out == b""
    assert contents(tmp_path / "out" / "song") == {}


def test_two_runs_at_once_give_complete_files(model_folder: Path, quick: Runner, song: Path, tmp_path: Path) -> None:
    arguments = ("-m", model_folder, song, "-o", tmp_path / "out", "-d", "5")
    processes = [start(QUICK, *arguments, "--overwrite") for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert (process.returncode, err) == (0, b""), out
    assert quick(song, "-o", tmp_path / "alone", "-d", "5").code == 0
    assert contents(tmp_path / "out" / "song") == contents(tmp_path / "alone" / "song")


def test_a_file_that_another_run_writes_is_left_alone(tmp_path: Path) -> None:
    from unbraid.audio.encoding import Encoding
    from unbraid.audio.write import AudioWriter, leftovers

    target = tmp_path / "a.wav"
    stale = tmp_path / ".a.wav.0123456789ab.part"
    stale.write_bytes(b"what a killed run left")
    with AudioWriter(target, encoding=Encoding(), sample_rate=8000, channels=("FC",)) as writer:
        assert not stale.exists()
        (busy,) = tmp_path.iterdir()
        assert leftovers(target) == []
        writer.write(np.zeros((1, 10), np.float32))
        assert busy.exists()
    assert os.listdir(tmp_path) == ["a.wav"]
