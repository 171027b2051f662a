import base64
import hashlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import numpy as np
import pytest

from commands import environment
from hub import (
    Answer,
    Hub,
    answer,
    chunked,
    cut,
    garbage,
    good,
    hang_up,
    make_certificate,
    misplaced,
    no_ranges,
    packed,
    redirect,
    stall,
    trickle,
    unset_network_variables,
    until_close,
    unused_port,
)
from unbraid.errors import CancelledError, ModelError
from unbraid.weights import download as download_module
from unbraid.weights.fetch import Fetched, FetchProgress, RemoteFile, fetch

CONTENT = np.random.default_rng(7).bytes(300_000)
OTHER = np.random.default_rng(8).bytes(300_000)
PATH = "/models/a.bin"
OFFICIAL = "https://github.com/deezer/spleeter/releases/download/v1.4.0/"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def one_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of httpx's authorities; to load them all takes longer than most of these tests."""
    import certifi

    path = tmp_path_factory.mktemp("authority") / "first.pem"
    end = "-----END CERTIFICATE-----\n"
    path.write_text(Path(certifi.where()).read_text("utf-8").partition(end)[0] + end, "utf-8")
    return path


@pytest.fixture(autouse=True)
def short_waits(one_authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unset_network_variables(monkeypatch)
    monkeypatch.setenv("SSL_CERT_FILE", str(one_authority))
    monkeypatch.setattr(download_module, "_BACKOFF_S", 0.001)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub({PATH: CONTENT}) as hub:
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home" / "downloads"


def remote(
    *addresses: str, size: int | None = len(CONTENT), sha: str | None = sha256(CONTENT), prefix: str | None = None
) -> RemoteFile:
    return RemoteFile("a.bin", addresses, size, sha, prefix)


def files(folder: Path) -> set[str]:
    """What lies in the folder, but for locks."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"} if folder.is_dir() else set()


def check(fetched: Fetched, folder: Path, content: bytes = CONTENT) -> None:
    assert fetched.path == folder / "a.bin"
    assert fetched.path.read_bytes() == content
    assert (fetched.sha256, fetched.size) == (sha256(content), len(content))
    assert files(folder) - {"hashes.json"} == {"a.bin"}


def failure(file: RemoteFile, folder: Path, *words: str) -> str:
    """Fetching fails with one line that has these words."""
    with pytest.raises(ModelError) as caught:
        fetch(file, folder)
    line = str(caught.value)
    assert line.isprintable()
    for word in words:
        assert word in line
    return line


def stop_after(n_bytes: int) -> Callable[[FetchProgress], None]:
    def stop(progress: FetchProgress) -> None:
        if progress.done >= n_bytes:
            raise CancelledError("enough")

    return stop


def ranges(hub: Hub) -> list[str | None]:
    return [request.headers["Range"] for request in hub.requests]


def test_a_file_comes_whole_and_only_once(hub: Hub, folder: Path) -> None:
    seen: list[FetchProgress] = []
    file = remote(hub.url + PATH)
    first = fetch(file, folder, on_progress=seen.append)
    check(first, folder)
    assert (first.address, first.pinned) == (hub.url + PATH, True)
    assert seen[0] == FetchProgress("a.bin", 0, len(CONTENT))
    assert seen[-1] == FetchProgress("a.bin", len(CONTENT), len(CONTENT))
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    (request,) = hub.requests
    assert request.headers["Accept-Encoding"] == "identity"
    second = fetch(file, folder)
    assert second == Fetched(first.path, first.sha256, first.size, None, True)
    assert len(hub.requests) == 1


def test_a_second_use_takes_no_network_and_no_right_to_write(hub: Hub, folder: Path) -> None:
    file = remote(f"http://127.0.0.1:{unused_port()}{PATH}")
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(CONTENT)
    check(fetch(file, folder), folder)
    assert {path.name for path in folder.iterdir()} == {"a.bin"}  # not even a lock


PASSING: list[tuple[str, list[Answer], list[str | None]]] = [
    ("500", [answer(500)], [None]),
    ("502, 503 and 504", [answer(502), answer(503, b"busy"), answer(504)], [None] * 3),
    ("408", [answer(408)], [None]),
    ("429", [answer(429, Retry_After="0")], [None]),
    ("end without an answer", [hang_up], [None]),
    ("no HTTP", [garbage], [None]),
    ("broken off at once", [cut(0)], [None]),
    ("broken off", [cut(1)], ["bytes=1-"]),
    ("broken off before the last byte", [cut(len(CONTENT) - 1)], [f"bytes={len(CONTENT) - 1}-"]),
    ("broken off twice", [cut(100_000), cut(50_000)], ["bytes=100000-", "bytes=150000-"]),
    ("without a length", [chunked()], []),
    ("until the end of the connection", [until_close()], []),
    ("cut, and nobody can tell", [until_close(1234)], ["bytes=1234-"]),
    ("no ranges", [cut(2000), no_ranges()], ["bytes=2000-"]),
    ("no ranges, and broken off", [cut(2000), no_ranges(1000)], ["bytes=2000-", "bytes=1000-"]),
    ("another place", [cut(2000), misplaced("bytes 0-99/300000")], ["bytes=2000-", None]),
    ("no place", [cut(2000), misplaced(None)], ["bytes=2000-", None]),
    ("a senseless place", [cut(2000), misplaced("bytes -1-x/*")], ["bytes=2000-", None]),
    ("parts unasked", [misplaced("bytes 7-106/300000")], [None]),
    ("no such range", [cut(2000), answer(416)], ["bytes=2000-", None]),
    ("an answer of an error with a body", [cut(10), answer(500, OTHER)], ["bytes=10-", "bytes=10-"]),
    ("redirect", [redirect("/elsewhere/a.bin")], [None]),
    ("redirect when going on", [cut(500), redirect("/elsewhere/a.bin")], ["bytes=500-"] * 2),
]


@pytest.mark.parametrize(("answers", "asked"), [row[1:] for row in PASSING], ids=[row[0] for row in PASSING])
def test_a_misfortune_passes(answers: list[Answer], asked: list[str | None], hub: Hub, folder: Path) -> None:
    hub.files["/elsewhere/a.bin"] = CONTENT
    hub.script(PATH, *answers)
    check(fetch(remote(hub.url + PATH), folder), folder)
    assert ranges(hub) == [None, *asked]


@pytest.mark.parametrize(
    ("one", "asked"),
    [(stall(0), [None]), (stall(1000), ["bytes=1000-"]), (trickle(10_000, 0.03), [])],
    ids=["silence before the body", "silence in the body", "slowly"],
)
def test_silence_is_not_waited_for_but_slowness_is(
    one: Answer, asked: list[str | None], hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "_SILENCE_S", 0.7)
    hub.script(PATH, one)
    check(fetch(remote(hub.url + PATH), folder), folder)
    assert ranges(hub) == [None, *asked]


def test_redirects_are_followed_to_other_hosts_without_the_password(hub: Hub, folder: Path) -> None:
    with Hub({"/b.bin": CONTENT}) as other:
        hub.script(PATH, redirect("2", 301))
        hub.script("/models/2", redirect("../3?x=y", 308))
        hub.script("/3", redirect(other.url + "/1", 307))
        other.script("/1", redirect("/b.bin", 303))
        fetched = fetch(remote(with_user(hub.url) + PATH), folder)
        check(fetched, folder)
        assert fetched.address == hub.url + PATH
        credentials = "Basic " + base64.b64encode(b"kim:s3cret").decode()
        assert [request.headers["Authorization"] for request in hub.requests] == [credentials] * 3
        assert [request.headers["Authorization"] for request in other.requests] == [None] * 2


def with_user(url: str) -> str:
    return url.replace("://", "://kim:s3cret@")


REFUSED: list[tuple[str, Answer, int, str]] = [
    ("404", answer(404, b"<html>"), 1, "404 Not Found"),
    ("403", answer(403), 1, "403 Forbidden"),
    ("410", answer(410), 1, "410 Gone"),
    ("204", answer(204), 1, "204 No Content"),
    ("304", answer(304), 1, "304 Not Modified"),
    ("status 799", answer(799), 1, "status 799"),
    ("500 for ever", answer(500), 5, "500 Internal Server Error (5 tries)"),
    ("no answer for ever", hang_up, 5, "(5 tries)"),
    ("broken off at once for ever", cut(0), 5, "(5 tries)"),
    ("wait a day", answer(429, Retry_After="86400"), 1, "429 Too Many Requests, and asks to be left alone for 86400 s"),
    ("another length", answer(200, b"sorry, not today"), 1, "it has 16 bytes in place of 300000"),
    ("another total", misplaced("bytes 0-99/300001"), 1, "it has 300001 bytes in place of 300000"),
    ("longer than promised", chunked(b"!"), 1, "more than the 300000 bytes"),
    ("packed", packed, 1, "packed (gzip)"),
    ("redirect to itself", redirect(PATH), 11, "redirects more than 10 times"),
    ("redirect to another protocol", redirect("ftp://127.0.0.1/a.bin"), 1, "ftp://"),
    ("redirect to nowhere", redirect("http://[::bad/"), 5, "Invalid URL"),
    ("wrong bytes", answer(200, OTHER), 2, f"its SHA-256 must be {sha256(CONTENT)} but is {sha256(OTHER)}"),
]


@pytest.mark.parametrize(("one", "n_requests", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_refusal_is_one_line_and_the_next_address_is_tried(
    one: Answer, n_requests: int, words: str, hub: Hub, folder: Path
) -> None:
    hub.files["/good"] = CONTENT
    hub.script(PATH, *[one] * n_requests * 2)
    bad = hub.url + PATH
    line = failure(remote(bad), folder, "cannot fetch 'a.bin': ", bad, words, "UNBRAID_MIRROR", "unbraid models import")
    assert "\n" not in line
    assert len(hub.asked(PATH)) == n_requests
    assert files(folder) == set()
    fetched = fetch(remote(bad, hub.url + "/good"), folder)
    check(fetched, folder)
    assert fetched.address == hub.url + "/good"
    assert len(hub.asked(PATH)) == 2 * n_requests


def test_a_port_where_nobody_listens_is_one_line(folder: Path) -> None:
    address = f"http://127.0.0.1:{unused_port()}/a.bin"
    failure(remote(address), folder, address, "onnection refused", "(5 tries)")


def test_a_port_where_nobody_answers_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "_CONNECT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"https://127.0.0.1:{silent.getsockname()[1]}/a.bin"
        failure(remote(address), folder, address, "no connection within 0.1 s (5 tries)")


@pytest.mark.parametrize("address", ["gopher://127.0.0.1/a", "http://[bad/a", "a.bin", "http://127.0.0.1:99999/a", ""])
def test_a_senseless_address_is_one_line(address: str, folder: Path) -> None:
    failure(remote(address), folder, "cannot fetch 'a.bin'")


def test_a_file_without_addresses_is_one_line(folder: Path) -> None:
    failure(remote(), folder, "no address of it is known")


def test_no_broken_line_stops_what_makes_progress(hub: Hub, folder: Path) -> None:
    hub.script(PATH, *[cut(20_000)] * 14)
    check(fetch(remote(hub.url + PATH), folder), folder)
    assert ranges(hub) == [None, *(f"bytes={n}-" for n in range(20_000, 300_000, 20_000))]


def test_waits_grow_and_vary_and_servers_have_a_say(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(download_module, "_BACKOFF_S", 0.5)
    monkeypatch.setattr(download_module, "_pause", lambda wait_s, report: waits.append(wait_s))
    # By the server's clock, which is far from ours.
    then = datetime(1999, 12, 31, 23, 59, 30, tzinfo=timezone.utc)
    hub.headers["Date"] = format_datetime(then, usegmt=True)
    later = format_datetime(then + timedelta(seconds=42), usegmt=True)
    hub.script(PATH, answer(503), answer(503), answer(503), answer(503, Retry_After="7"), cut(1000))
    hub.script(PATH, answer(503, Retry_After=later), answer(503, Retry_After="tomorrow"), good)
    check(fetch(remote(hub.url + PATH), folder), folder)
    for wait_s, n in zip(waits[:3], range(3), strict=True):
        assert 0.5 * 0.5 * 2**n <= wait_s <= 1.5 * 0.5 * 2**n
    assert waits[3] == 7
    assert 0.25 <= waits[4] <= 0.75  # bytes came, so it begins anew
    assert waits[5] == 42
    assert waits[6] < 5
    assert len(waits) == 7


@pytest.mark.parametrize("seed", range(5))
def test_a_stopped_download_goes_on_where_it_was(seed: int, hub: Hub, folder: Path) -> None:
    rng = np.random.default_rng(seed)
    stop = int(rng.integers(1, len(CONTENT)))
    file = remote(hub.url + PATH)
    with pytest.raises(CancelledError):
        fetch(file, folder, on_progress=stop_after(stop))
    assert files(folder) == {"a.bin.part", "a.bin.part.json"}
    there = (folder / "a.bin.part").stat().st_size
    assert there >= stop
    check(fetch(file, folder), folder)
    assert ranges(hub) == [None, f"bytes={there}-" if there < len(CONTENT) else None][: len(hub.requests)]


def leave_part(folder: Path, content: bytes, address: str = "", version: str = "") -> None:
    """What an earlier run may have left."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.bin.part").write_bytes(content)
    if address:
        note = {"address": address, "version": version}
        (folder / "a.bin.part.json").write_text(json.dumps(note))


def tag(content: bytes) -> str:
    return f'"{sha256(content)[:16]}"'


@pytest.mark.parametrize("sha", [sha256(CONTENT), None])
def test_a_file_that_changed_meanwhile_is_fetched_anew(sha: str | None, hub: Hub, folder: Path) -> None:
    leave_part(folder, OTHER[:1000], hub.url + PATH, tag(OTHER))
    check(fetch(remote(hub.url + PATH, sha=sha), folder), folder)
    (request,) = hub.requests
    assert (request.headers["Range"], request.headers["If-Range"]) == ("bytes=1000-", tag(OTHER))


def test_a_server_that_overlooks_the_change_is_not_believed(hub: Hub, folder: Path) -> None:
    leave_part(folder, OTHER[:1000], hub.url + PATH, tag(OTHER))
    rest = answer(206, CONTENT[1000:], ETag=tag(CONTENT), Content_Range="bytes 1000-299999/300000")
    hub.script(PATH, rest)
    check(fetch(remote(hub.url + PATH, sha=None), folder), folder)
    assert ranges(hub) == ["bytes=1000-", None]


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ({"ETag": '"1"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}, '"1"'),
        ({"ETag": 'W/"1"', "Last-Modified": "Wed, 21 Oct 2099 07:28:00 GMT"}, "Wed, 21 Oct 2099 07:28:00 GMT"),
        ({"ETag": 'W/"1"'}, None),
        ({"ETag": ""}, None),
    ],
)
def test_what_a_server_calls_the_version_decides(
    headers: dict[str, str], asked: str | None, hub: Hub, folder: Path
) -> None:
    hub.headers |= headers
    hub.script(PATH, cut(1000), good, cut(1000))
    check(fetch(remote(hub.url + PATH), folder), folder)
    # The hash is going to tell, so the rest is enough even of a file without versions.
    assert (hub.requests[1].headers["Range"], hub.requests[1].headers["If-Range"]) == ("bytes=1000-", asked)
    (folder / "a.bin").unlink()
    check(fetch(remote(hub.url + PATH, sha=None), folder), folder)
    assert hub.requests[3].headers["Range"] == ("bytes=1000-" if asked else None)


def test_another_address_goes_on_with_the_part(hub: Hub, folder: Path) -> None:
    hub.files["/mirror"] = CONTENT
    hub.script("/mirror", cut(1000), *[answer(500)] * 5)
    check(fetch(remote(hub.url + "/mirror", hub.url + PATH), folder), folder)
    assert [request.headers["Range"] for request in hub.asked(PATH)] == ["bytes=1000-"]


def test_bytes_that_do_not_belong_together_are_fetched_anew(hub: Hub, folder: Path) -> None:
    leave_part(folder, OTHER[:1000], hub.url + PATH, tag(CONTENT))
    check(fetch(remote(hub.url + PATH), folder), folder)
    assert ranges(hub) == ["bytes=1000-", None]


def test_a_part_that_is_complete_needs_no_bytes(hub: Hub, folder: Path) -> None:
    leave_part(folder, CONTENT)
    check(fetch(remote(hub.url + PATH), folder), folder)
    assert hub.requests == []
    (folder / "a.bin").unlink()
    leave_part(folder, CONTENT, hub.url + PATH, tag(CONTENT))
    check(fetch(remote(hub.url + PATH, size=None), folder), folder)
    assert ranges(hub) == ["bytes=300000-"]  # answered by 416


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_part_that_is_too_long_is_thrown_away(size: int | None, hub: Hub, folder: Path) -> None:
    leave_part(folder, CONTENT + b"!", hub.url + PATH, tag(CONTENT))
    check(fetch(remote(hub.url + PATH, size=size), folder), folder)
    assert ranges(hub)[-1] is None


@pytest.mark.parametrize("note", ["", "{", "[]", '{"address": 1}', "\x00"])
def test_a_damaged_note_is_as_good_as_none(note: str, hub: Hub, folder: Path) -> None:
    leave_part(folder, OTHER[:1000])
    (folder / "a.bin.part.json").write_text(note)
    check(fetch(remote(hub.url + PATH, sha=None), folder), folder)
    assert ranges(hub) == [None]


def test_a_prefix_is_checked_and_the_whole_hash_recorded(hub: Hub, folder: Path) -> None:
    file = remote(hub.url + PATH, sha=None, prefix=sha256(CONTENT)[:8].upper())
    fetched = fetch(file, folder)
    check(fetched, folder)
    assert fetched.pinned
    assert json.loads((folder / "hashes.json").read_text()) == {"a.bin": sha256(CONTENT)}
    hub.files[PATH] = OTHER
    (folder / "a.bin").write_bytes(OTHER)
    failure(file, folder, f"must begin with {sha256(CONTENT)[:8]}", sha256(OTHER))
    assert fetch(remote(hub.url + PATH, sha=sha256(OTHER)), folder).pinned  # a full hash needs no record


def test_a_file_that_nobody_vouches_for_must_stay_as_it_was_first(hub: Hub, folder: Path) -> None:
    file = remote(hub.url + PATH, size=None, sha=None)
    assert not fetch(file, folder).pinned
    assert json.loads((folder / "hashes.json").read_text()) == {"a.bin": sha256(CONTENT)}
    assert fetch(file, folder).pinned
    (folder / "a.bin").unlink()
    hub.files[PATH] = OTHER
    failure(file, folder, sha256(CONTENT), sha256(OTHER), "hashes.json")
    assert files(folder) == {"hashes.json"}
    (folder / "hashes.json").unlink()
    assert not fetch(file, folder).pinned


def test_records_of_other_files_are_kept(hub: Hub, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "hashes.json").write_text(json.dumps({"b.bin": "0" * 64}))
    fetch(remote(hub.url + PATH, sha=None), folder)
    assert json.loads((folder / "hashes.json").read_text()) == {"a.bin": sha256(CONTENT), "b.bin": "0" * 64}


def test_a_file_put_there_by_hand_is_recorded(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(CONTENT)
    fetched = fetch(remote("http://127.0.0.1:1/a.bin", sha=None), folder)
    assert (fetched.pinned, fetched.address) == (False, None)
    assert json.loads((folder / "hashes.json").read_text()) == {"a.bin": sha256(CONTENT)}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a.bin": 1}', '{"a.bin": "abc"}', "[" * 100_000])
def test_damaged_records_are_one_line(text: str, hub: Hub, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "hashes.json").write_text(text)
    failure(remote(hub.url + PATH, sha=None), folder, "hashes.json", "remove the file")
    assert hub.requests == []


@pytest.mark.parametrize("damage", [b"", CONTENT[:-1], CONTENT[:-1] + b"!", OTHER])
def test_a_damaged_file_is_replaced(damage: bytes, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(damage)
    monkeypatch.setenv("UNBRAID_OFFLINE", "1")
    failure(remote(hub.url + PATH), folder, "no good copy", "UNBRAID_OFFLINE", hub.url + PATH, "unbraid models import")
    assert (folder / "a.bin").read_bytes() == damage
    monkeypatch.delenv("UNBRAID_OFFLINE")
    check(fetch(remote(hub.url + PATH), folder), folder)


def test_a_folder_in_the_way_is_one_line(hub: Hub, folder: Path) -> None:
    (folder / "a.bin").mkdir(parents=True)
    failure(remote(hub.url + PATH), folder, "a.bin", "move it away")
    assert hub.requests == []


@pytest.mark.parametrize("value", ["1", "yes", "true"])
def test_offline_means_no_connection(value: str, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = remote(with_user(hub.url) + PATH)
    monkeypatch.setenv("UNBRAID_OFFLINE", value)
    assert "s3cret" not in failure(file, folder, "UNBRAID_OFFLINE", hub.url + PATH)
    assert hub.requests == []
    assert not folder.exists()
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(CONTENT)
    check(fetch(file, folder), folder)


@pytest.mark.parametrize("value", ["", "0"])
def test_not_offline(value: str, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNBRAID_OFFLINE", value)
    check(fetch(remote(hub.url + PATH), folder), folder)


def test_the_mirror_comes_first_and_is_not_the_last(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub({"/some/where/a.bin": CONTENT}) as mirror:
        monkeypatch.setenv("UNBRAID_MIRROR", with_user(mirror.url) + "/some/where/")
        file = remote(hub.url + PATH)
        assert fetch(file, folder).address == mirror.url + "/some/where/a.bin"
        assert hub.requests == []
        (folder / "a.bin").unlink()
        mirror.files = {}
        assert fetch(file, folder).address == hub.url + PATH
        (folder / "a.bin").unlink()
        hub.files = {}
        line = failure(
            file, folder, f"UNBRAID_MIRROR={mirror.url}/some/where", f"{hub.url}{PATH}: 404", "/where/a.bin: 404"
        )
        assert "s3cret" not in line


@pytest.mark.parametrize("value", ["ftp://a/b", "a.b/c", "/home/kim", "https://", "file:///x", "http://\nx@ "])
def test_a_senseless_mirror_is_one_line(value: str, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNBRAID_MIRROR", value)
    hub.files = {}
    failure(remote(hub.url + PATH), folder, "UNBRAID_MIRROR")


def spleeter(name: str = "4stems.tar.gz") -> RemoteFile:
    return RemoteFile("a.bin", (OFFICIAL + name,), len(CONTENT), sha256(CONTENT), None)


def test_another_host_has_the_same_files(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/deezer/spleeter/releases/download/v1.4.0/4stems.tar.gz"
    hub.files[path] = CONTENT
    monkeypatch.setenv("GITHUB_HOST", hub.url + "/")
    monkeypatch.setenv("GITHUB_REPOSITORY", "deezer/spleeter")
    monkeypatch.setenv("GITHUB_RELEASE", "")
    check(fetch(spleeter(), folder), folder)
    assert [request.target for request in hub.requests] == [path]
    (folder / "a.bin").unlink()
    hub.files[path] = OTHER
    failure(spleeter(), folder, f"GITHUB_HOST={hub.url}", sha256(CONTENT), sha256(OTHER))
    check(fetch(remote(hub.url + PATH), folder), folder)  # not a file of Spleeter's


def fork(hub: Hub, patch: pytest.MonkeyPatch, checksums: bytes, content: bytes = OTHER) -> None:
    base = "/kim/fork/releases/download/v2/"
    hub.files |= {f"{base}4stems.tar.gz": content, f"{base}checksum.json": checksums}
    patch.setenv("GITHUB_HOST", hub.url)
    patch.setenv("GITHUB_REPOSITORY", "kim/fork")
    patch.setenv("GITHUB_RELEASE", "v2")


def test_another_release_has_its_own_hashes(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(CONTENT)  # the official file, which is not what is asked for
    fork(hub, monkeypatch, json.dumps({"2stems": "0" * 64, "4stems": sha256(OTHER).upper()}).encode())
    monkeypatch.setenv("UNBRAID_MIRROR", "http://127.0.0.1:1/")  # has the official files
    fetched = fetch(spleeter(), folder)
    check(fetched, folder, OTHER)
    assert fetched.pinned
    assert fetched.address == f"{hub.url}/kim/fork/releases/download/v2/4stems.tar.gz"
    monkeypatch.setenv("UNBRAID_OFFLINE", "1")
    assert fetch(spleeter(), folder).sha256 == sha256(OTHER)
    monkeypatch.delenv("GITHUB_REPOSITORY")
    monkeypatch.delenv("GITHUB_RELEASE")
    failure(spleeter(), folder, "UNBRAID_OFFLINE")  # and now the official one is


def test_a_file_of_another_release_is_not_fetched_twice(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork(hub, monkeypatch, json.dumps({"4stems": sha256(OTHER)}).encode())
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(OTHER)
    check(fetch(spleeter(), folder), folder, OTHER)
    assert [request.target for request in hub.requests] == ["/kim/fork/releases/download/v2/checksum.json"]
    check(fetch(spleeter(), folder), folder, OTHER)
    assert len(hub.requests) == 1


@pytest.mark.parametrize(
    ("checksums", "words"),
    [
        (b"{}", "no SHA-256 of '4stems'"),
        (b"[]", "no SHA-256 of '4stems'"),
        (b"<html>", "no SHA-256 of '4stems'"),
        (b'{"4stems": 7}', "no SHA-256 of '4stems'"),
        (b'{"4stems": "abc"}', "no SHA-256 of '4stems'"),
        (b"[" * 200_000, "no SHA-256 of '4stems'"),
        (b" " * 2_000_000, "more than is believable"),
    ],
)
def test_another_release_without_hashes_is_one_line(
    checksums: bytes, words: str, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork(hub, monkeypatch, checksums)
    failure(spleeter(), folder, words, "GITHUB_REPOSITORY=kim/fork", "GITHUB_RELEASE=v2", "checksum.json")
    assert files(folder) == set()


def test_the_repository_of_a_workflow_is_explained(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_HOST", hub.url)
    monkeypatch.setenv("GITHUB_REPOSITORY", "band/songs")
    failure(spleeter(), folder, "GITHUB_REPOSITORY=band/songs", "404", "GitHub Actions")


def test_another_release_that_breaks_its_word_is_one_line(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork(hub, monkeypatch, json.dumps({"4stems": sha256(CONTENT)}).encode())
    failure(spleeter(), folder, sha256(CONTENT), sha256(OTHER), "GITHUB_REPOSITORY")
    assert files(folder) == set()


def test_a_proxy_is_asked(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", hub.url.removeprefix("http://"))
    check(fetch(remote(f"http://models.invalid{PATH}"), folder), folder)
    assert [request.target for request in hub.requests] == [f"http://models.invalid{PATH}"]


def test_a_proxy_for_all_is_asked_but_for_exceptions(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub({PATH: CONTENT}) as proxy:
        monkeypatch.setenv("ALL_PROXY", with_user(proxy.url))
        check(fetch(remote(f"http://models.invalid{PATH}"), folder), folder)
        assert proxy.requests[0].headers["Proxy-Authorization"].startswith("Basic ")
        monkeypatch.setenv("NO_PROXY", "other.invalid,127.0.0.1")
        (folder / "a.bin").unlink()
        check(fetch(remote(hub.url + PATH), folder), folder)
        assert (len(proxy.requests), len(hub.requests)) == (1, 1)
        proxy.script(PATH, answer(407))
        (folder / "a.bin").unlink()
        assert "s3cret" not in failure(remote(f"http://models.invalid{PATH}"), folder, "407 Proxy Authentication")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("socks5://kim:s3cret@127.0.0.1:1", "httpx[socks]"),
        ("gopher://kim:s3cret@127.0.0.1:1", "HTTPS_PROXY"),
        ("http://kim:s3cret@127.0.0.1:port", "HTTPS_PROXY"),
    ],
)
def test_a_senseless_proxy_is_one_line_without_its_password(
    value: str, words: str, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    assert "s3cret" not in failure(remote(hub.url + PATH), folder, words)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def secure(certificate: Path) -> Iterator[Hub]:
    with Hub({PATH: CONTENT}, certificate=certificate) as hub:
        yield hub


def test_a_certificate_of_ones_own(
    secure: Hub, certificate: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = remote(secure.url + PATH)
    failure(file, folder, "certificate is not trusted", "SSL_CERT_FILE")
    monkeypatch.delenv("SSL_CERT_FILE")
    failure(file, folder, "certificate is not trusted", "SSL_CERT_FILE")
    assert secure.requests == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    secure.script(PATH, cut(1000))
    check(fetch(file, folder), folder)


def test_a_folder_of_certificates(
    secure: Hub, certificate: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [shutil.which("openssl") or "", "x509", "-hash", "-noout", "-in", str(certificate)]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / "trusted").mkdir()
    shutil.copy(certificate, tmp_path / "trusted" / f"{name}.0")
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "trusted"))
    check(fetch(remote(secure.url + PATH), folder), folder)


def test_certificates_that_cannot_be_read_are_one_line(
    secure: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").write_bytes(b"")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "empty"))
    failure(remote(secure.url + PATH), folder, "SSL_CERT_FILE")


def test_a_redirect_may_gain_encryption_but_not_lose_it(
    secure: Hub, certificate: Path, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    secure.script(PATH, redirect(with_user(hub.url) + PATH))
    line = failure(remote(secure.url + PATH), folder, f"redirects to {hub.url}{PATH}, which is not encrypted")
    assert "s3cret" not in line
    assert hub.requests == []
    hub.script(PATH, redirect(secure.url + PATH))
    check(fetch(remote(hub.url + PATH), folder), folder)


def test_a_proxy_passes_encrypted_connections(
    secure: Hub, certificate: Path, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("HTTPS_PROXY", hub.url)
    address = secure.url.replace("127.0.0.1", "localhost")
    check(fetch(remote(address + PATH), folder), folder)
    assert [(request.method, request.target) for request in hub.requests] == [
        ("CONNECT", address.removeprefix("https://"))
    ]
    (folder / "a.bin").unlink()
    hub.script(address.removeprefix("https://"), *[answer(403)] * 5)
    failure(remote(address + PATH), folder, "403 Forbidden")


def test_room_is_looked_at_first(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")._replace(free=250_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    failure(remote(hub.url + PATH), folder, "it needs 1 MB", "has 0 MB left", "UNBRAID_HOME", "a.bin")
    assert files(folder) == set()
    leave_part(folder, CONTENT[:49_999], hub.url + PATH, tag(CONTENT))
    failure(remote(hub.url + PATH, size=None), folder, "UNBRAID_HOME")
    leave_part(folder, CONTENT[:50_000], hub.url + PATH, tag(CONTENT))  # and now the rest just fits
    check(fetch(remote(hub.url + PATH, size=None), folder), folder)


def test_no_file_is_endless(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.script(PATH, answer(200, Content_Length=str(3 << 30)))
    failure(remote(hub.url + PATH, size=None), folder, "it has 3221225472 bytes, more than is believable")
    monkeypatch.setattr(download_module, "LARGEST", 200_000)
    hub.script(PATH, chunked())
    failure(remote(hub.url + PATH, size=None), folder, "more than the 200000 bytes")
    assert files(folder) == set()


def test_whoever_waits_is_told_and_may_stop(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process works on the same file, and between two tries."""
    from filelock import FileLock

    leave_part(folder, CONTENT[:1000])
    with FileLock(folder / "a.bin.lock"), pytest.raises(CancelledError):
        fetch(remote(hub.url + PATH), folder, on_progress=stop_after(1000))
    assert hub.requests == []
    hub.script(PATH, answer(503, Retry_After="50"))
    with pytest.raises(CancelledError):
        fetch(remote(hub.url + PATH), folder, on_progress=stop_after(1000))
    assert len(hub.requests) == 1
    check(fetch(remote(hub.url + PATH), folder), folder)


def test_an_error_of_a_callback_is_its_own(hub: Hub, folder: Path) -> None:
    def fail(progress: FetchProgress) -> None:
        raise BrokenPipeError("my own")

    with pytest.raises(BrokenPipeError, match="my own"):
        fetch(remote(hub.url + PATH), folder, on_progress=fail)
    assert len(hub.requests) == 1


def test_importing_loads_no_network() -> None:
    code = "import sys, unbraid.weights.fetch; sys.exit('httpx' in sys.modules or 'filelock' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], env=environment(), check=False).returncode == 0
