"""Models fetched and installed under misfortunes: nothing half-installed, one line each, and the next try completes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from commands import Outcome
from hub import Answer, answer, cut, hang_up, no_ranges, redirect, stall, trickle
from model_hub import World, new_world, packed, sha256, small_archive, small_checkpoint
from song_makers import music, write_wav

MODEL = "spleeter:4stems"
FOLDER = "models/spleeter-4stems"
INSTALLED = {f"{FOLDER}/{name}" for name in ("model.toml", "weights.safetensors", "card.md")}
ARCHIVE = "downloads/4stems.tar.gz"
PART = {f"{ARCHIVE}.part", f"{ARCHIVE}.part.json"}
SIZE = len(small_archive(4))

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and modes of POSIX")


@pytest.fixture
def world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[World]:
    with new_world(tmp_path, capsys) as world:
        yield world


@pytest.fixture
def song(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "song.wav", music(5000), packing="s16")


def check_installed(world: World) -> None:
    """The model is there, whole, is said to be, and nothing is left of its making."""
    assert world.left() - {"downloads/hashes.json"} == INSTALLED
    assert hidden(world) == []
    check_truth(world, {MODEL, "spleeter:4stems-16kHz"})


def check_truth(world: World, names: set[str] | None = None) -> None:
    """`list` and `verify` agree; with `names`, on these."""
    rows = json.loads(world.run("models", "list", "--installed", "--json").out)
    here = {row["name"]: row["state"] for row in rows if row["state"] != "built in"}
    assert set(here.values()) <= {"installed"}
    verified = world.run("models", "verify")
    assert (verified.code, verified.err) == (0, "")
    if names is not None:
        assert set(here) == names
    there = (world.home / FOLDER / "model.toml").is_file()
    assert (MODEL in here) == there == (f"{MODEL}: sound" in verified.out)


def hidden(world: World) -> list[str]:
    """What lies in the folder of models under a temporary name."""
    return [path.name for path in (world.home / "models").glob(".*")]


def refused(outcome: Outcome, *words: str, code: int = 3) -> None:
    assert (outcome.code, len(outcome.lines)) == (code, 1), outcome
    line = outcome.lines[0]
    assert line.startswith("unbraid: ")
    assert line.isprintable()
    for word in words:
        assert word in line


def fetch(world: World, **settings: str) -> Outcome:
    return world.run("models", "fetch", MODEL, "-q", **settings)


def ranges(world: World) -> list[str | None]:
    return [request.headers["Range"] for request in world.hub.asked(world.path())]


# ---------------------------------------------------------------------------- the hub


def test_cut_at_random_bytes_it_goes_on(world: World) -> None:
    places = sorted(int(place) for place in np.random.default_rng(3).integers(1, SIZE, 7))
    sent = [place - before for before, place in zip([0, *places], places, strict=False)]
    world.hub.script(world.path(), *(cut(n_bytes) for n_bytes in sent))
    assert fetch(world).code == 0
    assert ranges(world) == [None, *(f"bytes={place}-" for place in places)]
    check_installed(world)


def test_cut_for_good_the_next_command_goes_on(world: World) -> None:
    place = int(np.random.default_rng(4).integers(1, SIZE))
    world.hub.script(world.path(), cut(place), *[hang_up] * 5)
    refused(fetch(world), "4stems.tar.gz", f"{place} bytes are kept", "try again")
    assert world.left() == PART
    check_truth(world, set())
    assert fetch(world).code == 0
    assert ranges(world)[-1] == f"bytes={place}-"
    check_installed(world)


FAULTS: dict[str, tuple[Sequence[Answer], tuple[str, ...]]] = {
    "404": ([answer(404)], ("404 Not Found",)),
    "500": ([answer(500)] * 5, ("500 Internal Server Error", "5 tries")),
    "truncated": ([no_ranges(1000)] * 5, ("received 1000 bytes", f"expected {SIZE}", "5 tries")),
    "page": ([answer(200, b"<html>log in</html>")], ("19 bytes",)),
    "other bytes": ([answer(200, bytes(SIZE))] * 2, ("SHA-256", sha256(small_archive(4)), sha256(bytes(SIZE)))),
    "circle": ([redirect("/a")], ("redirects more than 10 times",)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_hub_that_fails_is_one_line_and_the_next_try_completes(fault: str, world: World) -> None:
    answers, words = FAULTS[fault]
    if fault == "circle":
        for place, target in (("/a", "/b"), ("/b", "/a")):
            world.hub.script(place, *[redirect(target)] * 9)
    world.hub.script(world.path(), *answers)
    refused(fetch(world), "4stems.tar.gz", *words, "unbraid models import")
    assert world.left() <= PART
    check_truth(world, set())
    assert fetch(world).code == 0
    check_installed(world)


@pytest.mark.parametrize("fault", ["404", "500", "other bytes"])
def test_a_second_address_is_used(fault: str, world: World) -> None:
    world.hub.script(world.path(), *FAULTS[fault][0])
    world.hub.files["/other/4stems.tar.gz"] = small_archive(4)
    world.change_file(addresses=[world.hub.url + world.path(), world.hub.url + "/other/4stems.tar.gz"])
    done = fetch(world)
    assert (done.code, done.err) == (0, "")
    assert len(world.hub.asked("/other/4stems.tar.gz")) == 1
    check_installed(world)


def test_a_hub_that_recovers_and_one_that_is_slow(world: World) -> None:
    world.hub.script(world.path(), answer(500), answer(503, Retry_After="0"), trickle(10_000, 0.05))
    assert fetch(world).code == 0
    assert len(world.hub.requests) == 3
    check_installed(world)


def test_no_hub_at_all(world: World) -> None:
    world.change_file(addresses=["http://127.0.0.1:9/4stems.tar.gz"])
    refused(fetch(world), "4stems.tar.gz", "127.0.0.1:9", "unbraid models import")
    check_truth(world, set())


def test_a_page_in_place_of_a_file_without_a_hash_is_not_kept(world: World) -> None:
    """As a hotel's network answers; nothing that is known of the file tells them apart."""
    world.change_file(sha256=None, size=None)
    world.hub.script(world.path(), answer(200, b"<html>log in</html>"))
    refused(fetch(world), "4stems.tar.gz")
    check_truth(world, set())
    assert fetch(world).code == 0
    check_installed(world)


def test_an_archive_that_is_no_model(world: World) -> None:
    """The very bytes that the catalogue promises, and yet no model."""
    content = small_archive(4)[:-100]
    world.hub.files[world.path()] = content
    world.change_file(sha256=sha256(content), size=len(content))
    for _ in range(2):
        refused(fetch(world), "4stems.tar.gz", "truncated")
        check_truth(world, set())
        assert hidden(world) == []


# ---------------------------------------------------------------------------- processes


def wait_for(path: Path, n_bytes: int) -> None:
    end = time.monotonic() + 60
    while not path.exists() or path.stat().st_size < n_bytes:
        assert time.monotonic() < end, path
        time.sleep(0.005)


def ended(process: subprocess.Popen[str]) -> Outcome:
    out, err = process.communicate(timeout=120)
    return Outcome(process.returncode, out, err)


def until(event: threading.Event, n_bytes: int) -> Answer:
    """A pause after so many bytes of the body, until something happens."""

    def send(handler: Any) -> None:
        body = handler.begin_good()
        handler.wfile.write(body[:n_bytes])
        event.wait(60)
        handler.wfile.write(body[n_bytes:])

    return send


def test_two_processes_at_once_download_once(world: World) -> None:
    go_on = threading.Event()
    world.hub.script(world.path(), until(go_on, 5000))
    first = world.start("models", "fetch", MODEL)
    wait_for(world.home / f"{ARCHIVE}.part", 5000)
    second = world.start("models", "fetch", MODEL)
    for process in (first, second):  # the second one shows how far the first one is
        assert process.stderr is not None
        assert process.stderr.readline() == "Downloading 4stems.tar.gz (0.1 MB) …\n"
    go_on.set()
    for process in (first, second):
        outcome = ended(process)
        assert (outcome.code, outcome.err) == (0, "")
    assert len(world.hub.requests) == 1
    check_installed(world)


def test_two_imports_of_one_name_at_once(world: World, tmp_path: Path) -> None:
    for seed in (7, 8):
        (tmp_path / f"{seed}.tar.gz").write_bytes(small_archive(4, seed=seed))
    processes = [world.start("models", "import", tmp_path / f"{seed}.tar.gz", "--name", "mine") for seed in (7, 8)]
    outcomes = sorted((ended(process) for process in processes), key=lambda outcome: outcome.code)
    assert (outcomes[0].code, outcomes[0].err) == (0, "")
    refused(outcomes[1], "mine", "installed already")
    check_truth(world, {"mine"})


@posix
def test_an_interrupt_keeps_what_came(world: World, song: Path, tmp_path: Path) -> None:
    world.hub.script(world.path(), stall(12_345))
    process = world.start("separate", "-p", MODEL, song)
    wait_for(world.home / f"{ARCHIVE}.part", 12_345)
    process.send_signal(signal.SIGINT)
    outcome = ended(process)
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.lines == [
        "Downloading 4stems.tar.gz (0.1 MB) …",
        "unbraid: interrupted; what was downloaded is kept, and the next try goes on from there",
    ]
    assert world.left() == PART
    assert not (tmp_path / "separated").exists()
    check_truth(world, set())
    assert fetch(world).code == 0
    assert ranges(world) == [None, "bytes=12345-"]
    check_installed(world)


@posix
def test_an_interrupt_ends_the_wait_for_another_process(world: World) -> None:
    (world.home / "locks").mkdir(parents=True)
    with FileLock(world.home / "locks" / "spleeter-4stems.lock"):
        process = world.start("models", "fetch", MODEL)
        time.sleep(1.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        outcome = ended(process)
    assert (outcome.code, outcome.out, len(outcome.lines)) == (130, "", 1)
    assert world.hub.requests == []


def kill_and_complete(world: World, n_kills: int, *, pieces: int, pause_s: float) -> None:
    """Kill at moments of three kinds in turn: anywhere, in the download, in the conversion."""
    rng = np.random.default_rng(12)
    archive, models = world.home / f"{ARCHIVE}.part", world.home / "models"
    for nth in range(n_kills):
        if world.home.exists():
            world.run("models", "remove", MODEL)  # else there would be nothing left to do
        world.hub.script(world.path(), trickle(len(world.files[world.path()]) // pieces, pause_s))
        before = archive.stat().st_size if archive.exists() else 0
        process = world.start("models", "fetch", MODEL)
        kind = nth % 3
        if kind == 1:
            while process.poll() is None and not (archive.exists() and archive.stat().st_size > before):
                time.sleep(0.002)
        elif kind == 2:
            while process.poll() is None and not any(models.glob(".*/*")):
                time.sleep(0.001)
        time.sleep(rng.uniform(0, (1.0, pieces * pause_s, 0.1)[kind]))
        process.kill()
        process.communicate()
        check_truth(world)
    done = world.process("models", "fetch", MODEL)
    assert done.code == 0, done
    check_installed(world)


def test_killed_at_three_moments_it_completes(world: World) -> None:
    kill_and_complete(world, 3, pieces=20, pause_s=0.02)


@pytest.fixture
def large_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[World]:
    """A model of a size at which conversion takes a while."""
    filters = (8, 16, 32, 64, 128, 256)
    large = packed(small_checkpoint(tmp_path / "large", 4, filters=filters))
    with new_world(tmp_path, capsys, archives={4: large}, filters=filters) as world:
        yield world


@pytest.mark.slow
def test_killed_at_sixty_moments_it_completes(large_world: World) -> None:
    kill_and_complete(large_world, 60, pieces=50, pause_s=0.01)


@posix
@pytest.mark.slow
def test_interrupted_at_thirty_moments_it_says_so(large_world: World) -> None:
    world, rng = large_world, np.random.default_rng(13)
    lock = world.home / "locks" / "spleeter-4stems.lock"
    for _ in range(30):
        if world.home.exists():
            world.run("models", "remove", MODEL)
            lock.unlink()
        process = world.start("models", "fetch", MODEL, "-q")
        wait_for(lock, 0)  # by now the command is at work
        time.sleep(rng.uniform(0, 1.0))
        process.send_signal(signal.SIGINT)
        outcome = ended(process)
        if outcome == Outcome(-signal.SIGINT, "", ""):  # the interpreter was shutting down: all had been done
            check_installed(world)
        elif outcome.code:  # else it was too late
            refused(outcome, "interrupted", code=130)
            assert hidden(world) == []
        check_truth(world)
    assert world.process("models", "fetch", MODEL).code == 0
    check_installed(world)


def test_what_a_kill_leaves_is_cleared_away_and_nothing_else(world: World) -> None:
    models = world.home / "models"
    for name in (".spleeter-4stems.123.part", ".spleeter-4stems.scratch", ".spleeter-4stems.x.123.part"):
        (models / name / "deep").mkdir(parents=True)
        (models / name / "weights.safetensors").write_bytes(b"half")
    assert fetch(world).code == 0
    assert hidden(world) == [".spleeter-4stems.x.123.part"]  # of a model 'spleeter-4stems.x'


def test_killed_between_the_renames_of_a_replacement(world: World, tmp_path: Path) -> None:
    """The old model has stepped aside, the new one has not come."""
    for seed in (7, 8):
        (tmp_path / f"{seed}.tar.gz").write_bytes(small_archive(4, seed=seed))
    assert world.run("models", "import", tmp_path / "7.tar.gz", "--name", "mine").code == 0
    folder = world.home / "models" / "mine"
    before = (folder / "weights.safetensors").read_bytes()
    folder.rename(folder.with_name(".mine.4711.old"))
    folder.with_name(".mine.4711.part").mkdir()
    refused(world.run("models", "import", tmp_path / "8.tar.gz", "--name", "mine"), "installed already")
    assert (folder / "weights.safetensors").read_bytes() == before
    assert hidden(world) == []
    assert world.run("models", "import", tmp_path / "8.tar.gz", "--name", "mine", "--replace").code == 0
    assert (folder / "weights.safetensors").read_bytes() != before
    check_truth(world, {"mine"})


# ---------------------------------------------------------------------------- the machine


FULL = {30_000: ("needs 1 MB",), 100_000: ("No space left",), 160_000: ("MB are needed",)}


@pytest.mark.parametrize("room", FULL)
def test_a_full_disk_is_one_line_and_nothing_is_lost(room: int, small_disk: Path, world: World) -> None:
    """Room for less than the archive; for it, but not for what is in it; for that, but not for the weights too."""
    filler = small_disk / "filler"
    filler.write_bytes(bytes(small_disk_free(small_disk) - room))
    home = {"UNBRAID_HOME": str(small_disk / "home")}
    refused(world.run("models", "fetch", "spleeter:2stems", "-q", **home), "UNBRAID_HOME", *FULL[room])
    installed = json.loads(world.run("models", "list", "--installed", "--json", **home).out)
    assert {row["state"] for row in installed} == {"built in"}
    assert list((small_disk / "home" / "models").iterdir()) == []
    n_requests = len(world.hub.requests)
    filler.unlink()
    assert world.run("models", "fetch", "spleeter:2stems", "-q", **home).code == 0
    assert world.run("models", "verify", "spleeter:2stems", **home).code == 0
    assert len(world.hub.requests) == n_requests + (room == 30_000)


def small_disk_free(place: Path) -> int:
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


@posix
def test_a_home_that_may_not_be_written(world: World, unprivileged: list[str], song: Path, tmp_path: Path) -> None:
    """What is installed works; what would have to be fetched is one line."""
    assert fetch(world).code == 0
    folders = [world.home, *(path for path in world.home.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:

        def run(*arguments: object) -> Outcome:
            return world.process(*arguments, before=unprivileged)

        for arguments in (
            ("separate", "-p", MODEL, song, "-o", tmp_path / "out"),
            ("models", "verify"),
            ("models", "fetch", MODEL),
        ):
            outcome = run(*arguments)
            assert (outcome.code, outcome.err) == (0, ""), outcome
        assert len(list((tmp_path / "out" / "song").iterdir())) == 4
        for arguments in (
            ("separate", "-p", "spleeter:2stems", song),
            ("models", "remove", MODEL),
        ):
            refused(run(*arguments), str(world.home), "Permission denied", "UNBRAID_HOME")
    finally:
        for folder in folders:
            folder.chmod(0o700)
    check_installed(world)
    assert len(world.hub.requests) == 1


@posix
def test_a_folder_that_may_not_be_read_does_not_stop_the_others(
    world: World, unprivileged: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / "good.tar.gz").write_bytes(small_archive(4, seed=9))
    (folder / "secret.tar.gz").write_bytes(small_archive(4, seed=9))
    (folder / "secret.tar.gz").chmod(0)
    (folder / "closed").mkdir(mode=0)
    try:
        outcome = world.process("models", "import", folder, before=unprivileged)
        refused(outcome, "secret.tar.gz", "Permission denied")
        refused(world.process("models", "import", folder / "closed", before=unprivileged), "closed")
    finally:
        (folder / "closed").chmod(0o700)
    check_truth(world, {"good"})


@pytest.mark.parametrize("when", [0, 2**33])
def test_locks_of_the_dead_and_wrong_clocks_do_not_matter(when: int, world: World) -> None:
    for place in ("locks/spleeter-4stems.lock", f"{ARCHIVE}.lock"):
        path = world.home / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("99999999")
    world.hub.headers |= {"Date": "Fri, 31 Dec 2199 23:59:59 GMT"}
    world.hub.script(world.path(), cut(1000), *[hang_up] * 5)
    turn_back(world, when)
    assert fetch(world).code == 3
    turn_back(world, when)
    assert fetch(world).code == 0
    turn_back(world, when)
    check_installed(world)


def turn_back(world: World, when: int) -> None:
    """As if the clock had been wrong when the files were written."""
    for path in world.home.rglob("*"):
        os.utime(path, (when, when))
