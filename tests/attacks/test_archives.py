"""Hostile tar.gz archives: refused in one line, nothing written outside the temporary folder, nothing left."""

from __future__ import annotations

import bz2
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from archives import APPLE_DOUBLE, MEMBERS, gzipped, member, plain_tar, published_tar
from refusals import MEGABYTE, refusal, refuse_within_limits, tree
from unbraid.weights.convert.archive import unpacked

GOOD = {
    "checkpoint": b'model_checkpoint_path: "model"\n',
    "model.index": b"index " * 100,
    "model.meta": b"graph",
    "model.data-00000-of-00001": bytes(range(256)) * 20,
}
TAR = plain_tar(GOOD)
END = bytes(1024)
ABSOLUTE = Path("/tmp/unbraid-test-victim")
Build = Callable[[], bytes]


def with_member(raw: bytes) -> Build:
    """The good members, after another one."""
    return lambda: gzipped(raw + TAR)


def renamed(old: str, raw: bytes) -> Build:
    """The good members, one of them replaced."""
    return lambda: gzipped(b"".join(raw if n == old else member(n, c) for n, c in GOOD.items()) + END)


def link(name: str, target: str, kind: bytes) -> bytes:
    return member(name, kind=kind, linkname=target)


def pax(keyword: str, value: str, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """An extended header for whatever member follows."""
    text = f" {keyword}={value}\n"
    size = len(text) + len(str(len(text) + 3))
    return member("PaxHeader/x", f"{size}{text}".encode(), kind=kind)


def claiming(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header without the content that it claims; sizes of 8 GB and more are written in base 256."""
    return member(name, kind=kind, size=size)


def raw_name(name: bytes) -> bytes:
    """A header whose name is any bytes, with a checksum that agrees."""
    block = bytearray(member("checkpoint"))
    block[:100] = name.ljust(100, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def in_prefix(prefix: bytes, name: str) -> bytes:
    """A header of POSIX's ustar, which keeps the first part of a long path elsewhere."""
    header = tarfile.TarInfo(name)
    block = bytearray(header.tobuf(tarfile.USTAR_FORMAT))
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def without(name: str) -> Build:
    return lambda: gzipped(plain_tar({n: c for n, c in GOOD.items() if n != name}))


def damaged(change: Callable[[bytearray], object]) -> Build:
    """A good archive, changed after it was compressed."""

    def build() -> bytes:
        data = bytearray(gzipped(TAR))
        change(data)
        return bytes(data)

    return build


def endless_name() -> bytes:
    """A gzip header whose file name has 32 MB and no end."""
    return b"\x1f\x8b\x08\x08" + bytes(6) + b"a" * (32 * MEGABYTE)


NO_MEMBER = "which no archive of a model does"
TOO_EARLY = "truncated|ends within|Error -[35]"
CASES: dict[str, tuple[Build, str]] = {
    # names
    "a name above the folder": (with_member(member("../victim", b"x")), NO_MEMBER),
    "a name above the folder, deep": (with_member(member("a/b/../../../victim", b"x")), NO_MEMBER),
    "a member's name above the folder": (renamed("model.index", member("../model.index", b"x")), NO_MEMBER),
    "a member's name after ./..": (renamed("checkpoint", member("./../checkpoint", b"x")), NO_MEMBER),
    "an absolute name": (with_member(member(str(ABSOLUTE), b"x")), NO_MEMBER),
    "an absolute member": (renamed("checkpoint", member("/checkpoint", b"x")), NO_MEMBER),
    "a name with backslashes": (with_member(member("..\\victim", b"x")), NO_MEMBER),
    "a name with a drive": (with_member(member("C:\\victim", b"x")), NO_MEMBER),
    "a device of Windows": (with_member(member("CON", b"x")), NO_MEMBER),
    "a member in a folder": (renamed("checkpoint", member("model/checkpoint", b"x")), NO_MEMBER),
    "a member after ././": (renamed("checkpoint", member("././checkpoint", b"x")), NO_MEMBER),
    "a member in capitals": (renamed("checkpoint", member("CHECKPOINT", b"x")), NO_MEMBER),
    "a second shard": (with_member(member("model.data-00001-of-00002", b"x")), NO_MEMBER),
    "a file that no model has": (with_member(member("setup.py", b"x")), NO_MEMBER),
    "a companion of nothing": (with_member(member("._setup.py", APPLE_DOUBLE)), NO_MEMBER),
    "an empty name": (with_member(raw_name(b"")), NO_MEMBER),
    "a name of several lines": (with_member(raw_name(b"check\npoint\x1b[31m")), NO_MEMBER),
    "a name that is no text": (with_member(raw_name(b"\xff\xfe\x80point")), NO_MEMBER),
    "a name that goes on in the prefix": (with_member(in_prefix(b"../..", "checkpoint")), NO_MEMBER),
    # kinds
    "a link to another file": (renamed("model.index", link("model.index", "/etc/passwd", b"2")), NO_MEMBER),
    "a link to write through": (with_member(link("checkpoint", "../victim", b"2")), NO_MEMBER),
    "a hard link": (renamed("model.index", link("model.index", "../victim", b"1")), NO_MEMBER),
    "a character device": (renamed("checkpoint", member("checkpoint", kind=b"3", devmajor=1)), NO_MEMBER),
    "a block device": (renamed("checkpoint", member("checkpoint", kind=b"4", devmajor=8)), NO_MEMBER),
    "a pipe": (renamed("checkpoint", member("checkpoint", kind=b"6")), NO_MEMBER),
    "a folder": (with_member(member("model", kind=b"5")), NO_MEMBER),
    "a folder with a member's name": (renamed("checkpoint", member("checkpoint", kind=b"5")), NO_MEMBER),
    "the folder above": (with_member(member("..", kind=b"5")), NO_MEMBER),
    "the folder itself, with content": (with_member(member("./", b"x" * 10, kind=b"5")), NO_MEMBER),
    "a contiguous file": (renamed("checkpoint", member("checkpoint", b"x", kind=b"7")), NO_MEMBER),
    "a sparse file": (renamed("checkpoint", member("checkpoint", b"x", kind=b"S")), NO_MEMBER),
    "a kind that does not exist": (renamed("checkpoint", member("checkpoint", b"x", kind=b"Z")), NO_MEMBER),
    "a volume's label": (with_member(member("label", kind=b"V")), NO_MEMBER),
    # headers that speak for other headers
    "a long name": (with_member(member("././@LongLink", b"../victim\0", kind=b"L")), NO_MEMBER),
    "a long link": (with_member(member("././@LongLink", b"../victim\0", kind=b"K")), NO_MEMBER),
    "another name by pax": (with_member(pax("path", "../victim")), "extended header"),
    "another name by pax for all": (with_member(pax("path", "../victim", b"g")), "extended header"),
    "another size by pax": (with_member(pax("size", "99999999999")), "extended header"),
    "another link by pax": (with_member(pax("linkpath", "/etc/passwd")), "extended header"),
    "a sparse file by pax": (with_member(pax("GNU.sparse.realsize", "99999999999")), "extended header"),
    "another alphabet by pax": (with_member(pax("hdrcharset", "BINARY")), "extended header"),
    # what is there twice, or not at all
    "a member twice": (with_member(member("checkpoint", b"first")), "'checkpoint' twice"),
    "a member twice by another name": (with_member(member("./checkpoint", b"first")), "'checkpoint' twice"),
    "a companion twice": (with_member(member("._checkpoint") + member("./._checkpoint")), "twice"),
    "no checkpoint": (without("checkpoint"), "no 'checkpoint'"),
    "no index": (without("model.index"), r"no 'model\.index'"),
    "no graph": (without("model.meta"), r"no 'model\.meta'"),
    "no data": (without("model.data-00000-of-00001"), r"no 'model\.data-00000-of-00001'"),
    "nothing at all": (lambda: gzipped(END), "no 'checkpoint'"),
    # sizes
    "8 GB of data": (renamed(MEMBERS[3], claiming(MEMBERS[3], 8 * 1024**3 - 1)), "claims 8589934591 bytes"),
    "100 GB of data": (renamed(MEMBERS[3], claiming(MEMBERS[3], 10**11)), "claims 100000000000 bytes"),
    "2^62 bytes of data": (renamed(MEMBERS[3], claiming(MEMBERS[3], 1 << 62)), "claims 46116860184"),
    "less than nothing": (renamed(MEMBERS[3], claiming(MEMBERS[3], -512)), "claims -512 bytes"),
    "data that are not there": (renamed(MEMBERS[3], claiming(MEMBERS[3], 1 << 29)), "ends within a member"),
    "a checkpoint of 1 GB": (renamed("checkpoint", claiming("checkpoint", 1 << 30)), "claims 1073741824 bytes"),
    "an index of 64 MB": (renamed("model.index", member("model.index", bytes(64 * MEGABYTE))), "claims 67108864"),
    "a companion of 8 GB": (with_member(claiming("._checkpoint", 1 << 33)), "claims 8589934592 bytes"),
    "an extended header of 8 GB": (with_member(claiming("x", 1 << 33, b"x")), "claims 8589934592 bytes"),
    "an extended header of less than nothing": (with_member(claiming("x", -1024, b"x")), "claims -1024 bytes"),
    "extended headers without end": (with_member(pax("comment", "x" * 60000) * 2000), "beside its members"),
    "folders without end": (with_member(member("./", kind=b"5") * 200_000), "beside its members"),
    "64 MB of zeros at the end": (lambda: gzipped(TAR + bytes(64 * MEGABYTE)), "follows its last member"),
    # damage
    "a header that does not match its checksum": (renamed("checkpoint", b"x" * 512), "bad checksum|invalid header"),
    "text instead of a tar": (lambda: gzipped(b"hello\n" * 1000), "invalid header|bad checksum"),
    "a tar without an end": (lambda: gzipped(TAR[: -len(END)]), "ends within a member"),
    "a tar cut within a header": (lambda: gzipped(TAR[:700]), "ends within a member"),
    "a tar cut within a member": (lambda: gzipped(TAR[:2000]), "ends within a member"),
    "another archive behind the end": (lambda: gzipped(TAR + TAR), "follows its last member"),
    "a file of nothing": (lambda: b"", "truncated"),
    "a header of gzip alone": (lambda: gzipped(TAR)[:10], "truncated"),
    "half": (damaged(lambda data: data.__delitem__(slice(len(data) // 2, None))), TOO_EARLY),
    "all but the last byte": (damaged(lambda data: data.__delitem__(-1)), "truncated"),
    "no checksum": (damaged(lambda data: data.__delitem__(slice(-8, None))), "truncated"),
    "another checksum": (damaged(lambda data: data.__setitem__(-8, data[-8] ^ 1)), "incorrect data check"),
    "another length": (damaged(lambda data: data.__setitem__(-1, data[-1] ^ 1)), "incorrect length check"),
    "a flipped bit": (damaged(lambda data: data.__setitem__(60, data[60] ^ 8)), "."),
    "two gzip files in a row": (lambda: gzipped(TAR[:1024]) + gzipped(TAR[1024:]), "ends within a member"),
    "a second gzip file": (lambda: gzipped(TAR) * 2, "follows its end"),
    "a byte behind the end": (lambda: gzipped(TAR) + b"\0", "follows its end"),
    "a name of gzip without end": (endless_name, "truncated"),
    "a plain tar": (lambda: TAR, "incorrect header check"),
    "bzip2": (lambda: bz2.compress(TAR), "incorrect header check"),
    "xz": (lambda: lzma.compress(TAR), "incorrect header check"),
    "zlib": (lambda: zlib.compress(TAR), "incorrect header check"),
}


@pytest.mark.parametrize(("build", "message"), CASES.values(), ids=CASES)
def test_a_hostile_archive_is_refused(tmp_path: Path, build: Build, message: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    folder = tmp_path / "cache"
    folder.mkdir()
    path = tmp_path / "4stems.tar.gz"
    path.write_bytes(build())
    before = tree(tmp_path)

    def unpack() -> None:
        with unpacked(path, folder):
            raise AssertionError("it was accepted")

    said = refusal(unpack, path)
    assert re.search(message, said), said
    assert tree(tmp_path) == before
    assert not ABSOLUTE.exists()


def test_bombs_do_not_fit_into_little_memory(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    bombs = ["data that are not there", "extended headers without end", "64 MB of zeros at the end"]
    paths = []
    for name in (*bombs, "a name of gzip without end", "2^62 bytes of data", "an extended header of 8 GB"):
        paths.append(tmp_path / f"{name}.tar.gz")
        paths[-1].write_bytes(CASES[name][0]())
    refuse_within_limits(
        """
        from unbraid.weights.convert.archive import unpacked
        def act(path):
            with unpacked(path, path.parent / "cache"):
                pass
        """,
        paths,
        more_bytes=16 * MEGABYTE,
    )
    assert not any((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("absent", ["archive", "folder"])
def test_what_is_not_there_is_named(tmp_path: Path, absent: str) -> None:
    path, folder = tmp_path / "4stems.tar.gz", tmp_path / "cache"
    path.write_bytes(gzipped(TAR)) if absent == "folder" else folder.mkdir()

    def unpack() -> None:
        with unpacked(path, folder):
            raise AssertionError("it was accepted")

    said = refusal(unpack, path)
    assert "No such file or directory" in said
    assert tree(tmp_path) == ({path: gzipped(TAR)} if absent == "folder" else {folder: None})


def test_a_folder_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "4stems.tar.gz"
    path.mkdir()

    def unpack() -> None:
        with unpacked(path, tmp_path):
            raise AssertionError("it was accepted")

    refusal(unpack, path)
    assert tree(tmp_path) == {path: None}


def test_good_archives_are_accepted(tmp_path: Path) -> None:
    # What every case above differs from in one thing.
    path = tmp_path / "4stems.tar.gz"
    for packed in (TAR, published_tar(GOOD)):
        path.write_bytes(gzipped(packed))
        with unpacked(path, tmp_path) as folder:
            assert {name.name: content for name, content in tree(folder).items()} == {
                name: content for name, content in GOOD.items() if name != "model.meta"
            }
    assert tree(tmp_path).keys() == {path}
