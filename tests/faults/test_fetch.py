"""Downloads killed, interrupted, run twice at once or without room: never half a file, and the next one ends well."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from commands import environment
from hub import Hub, chunked, cut, stall, trickle, unset_network_variables
from unbraid.errors import ModelError
from unbraid.weights import download
from unbraid.weights.fetch import RemoteFile, fetch

CONTENT = np.random.default_rng(9).bytes(600_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "/a.bin"
PROGRAM = (sys.executable, str(Path(__file__).parents[1] / "quick_fetch.py"))
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals, limits and modes of POSIX")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    unset_network_variables(monkeypatch)
    monkeypatch.setattr(download, "_BACKOFF_S", 0.01)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub({PATH: CONTENT}) as hub:
        yield hub


def start(hub: Hub, folder: Path, *, before: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Fetch in another process."""
    options = {}
    if sys.platform != "win32":
        # A shell starts its background jobs with interrupts ignored, and so this test, if it is run in one.
        options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        [*before, *PROGRAM, hub.url + PATH, str(folder), SHA256],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        **options,
    )


def wait_for_requests(hub: Hub, n_requests: int, process: subprocess.Popen[str]) -> None:
    while len(hub.requests) < n_requests:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def wait_for_bytes(path: Path, n_bytes: int, process: subprocess.Popen[str]) -> None:
    while not path.exists() or path.stat().st_size < n_bytes:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def check_done(process: subprocess.Popen[str], folder: Path) -> str:
    """It ends well; gives the address that it says."""
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    check_files(folder)
    return out.removeprefix("begins\n")


def check_files(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} - {"a.bin.lock"} == {"a.bin"}
    assert (folder / "a.bin").read_bytes() == CONTENT


def remote(hub: Hub, size: int | None = len(CONTENT)) -> RemoteFile:
    return RemoteFile("a.bin", (hub.url + PATH,), size, SHA256, None)


def test_two_processes_at_once_download_once(hub: Hub, tmp_path: Path) -> None:
    hub.script(PATH, trickle(6000, 0.015))
    first = start(hub, tmp_path)
    wait_for_requests(hub, 1, first)
    others = [start(hub, tmp_path) for _ in range(2)]
    assert check_done(first, tmp_path) == hub.url + PATH
    assert [check_done(process, tmp_path) for process in others] == ["None", "None"]
    assert len(hub.requests) == 1


def test_when_the_first_is_killed_the_second_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.script(PATH, stall(1000))
    first = start(hub, tmp_path)
    wait_for_bytes(tmp_path / "a.bin.part", 1000, first)
    second = start(hub, tmp_path)
    time.sleep(0.6)  # by now it waits; were it slower, it would find less to do
    assert len(hub.requests) == 1
    first.kill()
    first.communicate()
    check_done(second, tmp_path)
    assert hub.requests[1].headers["Range"] == "bytes=1000-"


def test_killed_at_any_moment_it_goes_on_and_completes(hub: Hub, tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    part = tmp_path / "a.bin.part"
    for nth in range(6):
        hub.script(PATH, trickle(3000, 0.004))
        before = part.stat().st_size if part.exists() else 0
        process = start(hub, tmp_path)
        if nth % 3:  # in the midst of the download, else anywhere
            wait_for_bytes(part, before + 1, process)
        time.sleep(rng.uniform(0, 0.1 if nth % 3 else 0.5))
        process.kill()
        process.communicate()
        if (tmp_path / "a.bin").exists():  # it was too quick
            check_files(tmp_path)
            break
    check_done(start(hub, tmp_path), tmp_path)
    starts = [int((request.headers["Range"] or "bytes=0-")[6:-1]) for request in hub.requests]
    assert starts == sorted(starts)
    assert starts[-1] > 0 or len(starts) < 3


@posix
def test_an_interrupt_leaves_what_came(hub: Hub, tmp_path: Path) -> None:
    hub.script(PATH, stall(12_345))
    process = start(hub, tmp_path)
    wait_for_bytes(tmp_path / "a.bin.part", 12_345, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (130, "begins\n", "")
    assert {path.name for path in tmp_path.iterdir()} == {"a.bin.lock", "a.bin.part", "a.bin.part.json"}
    check_done(start(hub, tmp_path), tmp_path)
    assert hub.requests[1].headers["Range"] == "bytes=12345-"


@posix
def test_an_interrupt_ends_the_wait_for_another_process(hub: Hub, tmp_path: Path) -> None:
    with FileLock(tmp_path / "a.bin.lock"):
        process = start(hub, tmp_path)
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        assert (process.returncode, out, err) == (130, "", "")
    assert hub.requests == []


def test_a_lock_that_a_dead_process_left_is_no_hindrance(hub: Hub, tmp_path: Path) -> None:
    lock = tmp_path / "a.bin.lock"
    lock.write_text("99999999")
    for when in (0, 2**33):  # and if the clock was wrong, it was
        os.utime(lock, (when, when))
        (tmp_path / "a.bin").unlink(missing_ok=True)
        fetch(remote(hub), tmp_path)
        check_files(tmp_path)


@pytest.mark.parametrize("when", [0, 2**33])
@pytest.mark.parametrize("date", ["Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 2199 23:59:59 GMT", "yesterday"])
def test_wrong_clocks_do_not_matter(when: int, date: str, hub: Hub, tmp_path: Path) -> None:
    """Neither those of the files nor the server's."""
    hub.headers |= {"Date": date, "Last-Modified": date, "ETag": ""}
    hub.script(PATH, cut(1000), stall(5000))

    def stop(progress: object) -> None:
        if len(hub.requests) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(remote(hub), tmp_path, on_progress=stop)
    for path in tmp_path.iterdir():
        os.utime(path, (when, when))
    assert fetch(remote(hub), tmp_path).sha256 == SHA256
    check_files(tmp_path)
    assert hub.requests[1].headers["If-Range"] == date
    assert hub.requests[2].headers["Range"] != "bytes=0-"
    os.utime(tmp_path / "a.bin", (when, when))
    assert fetch(remote(hub), tmp_path).address is None


def check_no_room(hub: Hub, file: RemoteFile, folder: Path, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        fetch(file, folder)
    line = str(caught.value)
    assert line.isprintable()
    for word in ("a.bin", "UNBRAID_HOME", *words):
        assert word in line
    assert {path.name for path in folder.iterdir()} == {"a.bin.lock"}


def test_a_full_disk_is_one_line_and_room_again(small_disk: Path, hub: Hub) -> None:
    check_no_room(hub, remote(hub), small_disk, "it needs 1 MB", "0 MB left")
    hub.script(PATH, chunked())  # nobody can know
    check_no_room(hub, remote(hub, size=None), small_disk, "No space left on device")
    hub.files[PATH] = CONTENT[:100_000]
    small = RemoteFile("a.bin", (hub.url + PATH,), None, hashlib.sha256(CONTENT[:100_000]).hexdigest(), None)
    assert fetch(small, small_disk).size == 100_000


@posix
def test_a_file_that_may_not_grow_is_one_line(hub: Hub, tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # Python ignores the signal that goes with it
    try:
        check_no_room(hub, remote(hub), tmp_path, "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_folder_that_may_not_be_written_is_one_line(hub: Hub, unprivileged: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    folder.chmod(0o500)
    try:
        for place in (folder, folder / "downloads"):
            process = start(hub, place, before=unprivileged)
            out, err = process.communicate(timeout=60)
            assert (process.returncode, out, err.count("\n")) == (1, "begins\n", 1)
            for word in ("cannot write", str(folder), "Permission denied", "UNBRAID_HOME"):
                assert word in err
            folder.chmod(0o400)  # the second may not even be looked for
        folder.chmod(0o700)
        assert list(folder.iterdir()) == []
        (folder / "a.bin").write_bytes(CONTENT)
        folder.chmod(0o500)
        assert check_done(start(hub, folder, before=unprivileged), folder) == "None"
    finally:
        folder.chmod(0o700)
    assert hub.requests == []


def test_a_file_in_place_of_the_folder_is_one_line(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ModelError, match="UNBRAID_HOME"):
            fetch(remote(hub), folder)
    assert (tmp_path / "file").read_bytes() == b"mine"
