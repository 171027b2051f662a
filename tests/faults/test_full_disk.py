"""Outputs that cannot be written, by real faults of the system: no room, no right, a limit."""

import sys
import tempfile
from pathlib import Path

import pytest

from commands import QUICK, Outcome, Runner, command
from song_makers import music, write_wav

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits and mounts of POSIX")
CODECS = ("wav", "flac", "ogg", "mp3", "opus", "m4a", "wma")


def check(outcome: Outcome, reason: str, folder: Path) -> None:
    assert outcome.code == 1
    assert len(outcome.lines) == 1, outcome.err
    assert outcome.lines[0].startswith("unbraid: cannot ")
    assert reason in outcome.lines[0]
    assert not any(path.is_file() for path in folder.rglob("*"))


@pytest.mark.parametrize("codec", CODECS)
def test_a_file_that_may_not_grow_is_one_line(codec: str, quick: Runner, tmp_path: Path) -> None:
    """RLIMIT_FSIZE gives "File too large" in the middle of writing, as a full disk does."""
    import resource

    song = write_wav(tmp_path / "song.wav", music(100_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # Python ignores the signal that goes with it
    try:
        outcome = quick(song, "-o", tmp_path / "out", "-c", codec)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    check(outcome, "File too large", tmp_path / "out")


def test_a_full_disk_is_one_line_and_room_again(small_disk: Path, quick: Runner, tmp_path: Path) -> None:
    song = write_wav(tmp_path / "song.wav", music(150_000))
    short = write_wav(tmp_path / "short.wav", music(500))
    outcome = quick(song, short, "-o", small_disk)
    assert outcome.code == 1
    assert len(outcome.lines) == 1
    assert "No space left on device" in outcome.lines[0]
    files = [path for path in small_disk.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} == {"short"}
    assert len(files) == 4


def test_what_may_not_be_read_or_written_is_one_line_each(
    model_folder: Path, unprivileged: list[str], tmp_path: Path
) -> None:
    secret = write_wav(tmp_path / "secret.wav", music(500))
    closed, good = tmp_path / "closed", write_wav(tmp_path / "good.wav", music(500))
    closed.mkdir()
    locked = tmp_path / "out" / "locked"
    locked.mkdir(parents=True)
    other = write_wav(tmp_path / "locked.wav", music(500))
    secret.chmod(0)
    closed.chmod(0)
    locked.chmod(0o500)
    program = [*unprivileged, *QUICK]
    outcome = command(
        ["separate", "-m", model_folder, secret, closed, other, good, "-o", tmp_path / "out"], program=program
    )
    for path in (secret, closed, locked):
        path.chmod(0o700)
    assert outcome.code == 1
    assert len(outcome.lines) == 3, outcome.err
    for line, name in zip(outcome.lines, ("secret.wav", "closed", "locked"), strict=True):
        assert line.startswith("unbraid: cannot ")
        assert name in line
        assert "Permission denied" in line
    assert len(list((tmp_path / "out" / "good").iterdir())) == 4
    assert list(locked.iterdir()) == []


@pytest.mark.parametrize("output", ["file", "file/below", "/proc/nowhere", "/dev/full/x"])
def test_an_output_folder_that_cannot_be_is_one_line(output: str, quick: Runner, tmp_path: Path) -> None:
    if output.startswith("/") and not Path(output).parents[-2].is_dir():
        pytest.skip(f"no {output} here")
    song = write_wav(tmp_path / "song.wav", music(500))
    (tmp_path / "file").write_bytes(b"mine")
    outcome = quick(song, "-o", tmp_path / output)
    assert outcome.code == 1
    assert len(outcome.lines) == 1
    assert "cannot make the folder" in outcome.lines[0]
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_no_room_for_temporary_files_is_one_line(
    small_disk: Path, quick: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    song = write_wav(tmp_path / "song.wav", music(150_000))
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    outcome = quick(song, "-o", tmp_path / "out", "--clip", "rescale")
    check(outcome, "No space left on device", tmp_path / "out")
    assert "rescale" in outcome.lines[0]
