"""`unbraid synthesize`: a folder of songs that a training takes."""

from pathlib import Path

import pytest

from commands import run_inside
from unbraid.datasets.tracks import load_dataset


def test_songs_are_made_and_those_that_are_there_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["synthesize", "-o", tmp_path / "songs", "-d", 3, "-j", 1]
    done = run_inside([*arguments, "-n", 1], capsys)
    assert (done.code, done.err) == (0, ""), done.err
    assert "1 song of 0:03" in done.out and "unbraid train -d " in done.out
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "songs").rglob("*.flac")}
    done = run_inside([*arguments, "-n", 3, "--seed", 0], capsys)
    assert done.code == 0 and "3 of 3 songs" in done.out
    assert len(load_dataset(tmp_path / "songs").tracks) == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_quiet_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run_inside(["synthesize", "-o", tmp_path, "-d", 2, "-n", 1, "-j", 1, "-q"], capsys)
    assert (done.code, done.out, done.err) == (0, "", "")


@pytest.mark.parametrize("option", ["--bank", "--voices"])
def test_recordings_that_will_not_do_are_one_line(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run_inside(["synthesize", "-o", tmp_path / "songs", option, tmp_path, "-n", 1, "-j", 1], capsys)
    assert done.code == 3 and len(done.lines) == 1
    assert str(tmp_path) in done.lines[0]
    assert not (tmp_path / "songs").exists()
