"""Hostile TensorFlow checkpoints: index, data and the file `checkpoint`; refused in one line that names the file."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundle_writer import Bundle, block, crc32c_masked, nested, numeric, varint, write_bundle
from refusals import MEGABYTE, refusal, refuse_within_limits, tree
from unbraid.weights.convert.crc32c import crc32c, masked
from unbraid.weights.convert.tensorflow import latest_checkpoint, read_checkpoint

Forge = Callable[[Bundle], None]
Pairs = list[tuple[bytes, bytes]]

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
HEADER = numeric(1, 1) + nested(3, numeric(1, 1))
TENSORS = {"a": np.arange(12, dtype=np.float32), "b/c": np.arange(3, dtype=np.int64), "d": np.zeros(0, np.float32)}
ENTRY = numeric(1, 1) + nested(2, nested(2, numeric(1, 0))) + varint(6 << 3 | 5) + struct.pack("<I", crc32c_masked(b""))


def entry(**values: Any) -> Forge:
    """The good bundle, with other values in the entry of 'a'."""

    def forge(bundle: Bundle) -> None:
        for name, value in values.items():
            setattr(bundle.entries[b"a"], name, value)

    return forge


def whole(**values: Any) -> Forge:
    """The good bundle, but for this."""

    def forge(bundle: Bundle) -> None:
        for name, value in values.items():
            setattr(bundle, name, value)

    return forge


def renamed(name: bytes) -> Forge:
    def forge(bundle: Bundle) -> None:
        bundle.entries[name] = bundle.entries.pop(b"a")

    return forge


def same_place(bundle: Bundle) -> None:
    first, second = bundle.entries[b"a"], bundle.entries[b"b/c"]
    second.offset, second.size, second.shape, second.dtype = first.offset, first.size, first.shape, first.dtype
    second.crc = first.crc


FORGED: dict[str, tuple[Forge, str]] = {
    # places in the data file
    "data behind the end": (entry(offset=10**6), "ends at byte 1000048, but the file has 72 bytes"),
    "data 100 GB on": (entry(offset=10**11), "ends at byte"),
    "data before the file": (entry(offset=(1 << 64) - 48), "ends at byte"),
    "data 2^63 on": (entry(offset=1 << 63), "ends at byte"),
    "data one byte on": (entry(offset=25), "ends at byte 73, but the file has 72 bytes|checksum"),
    "data of 100 GB": (entry(shape=(25 * 10**9,), size=10**11), "ends at byte"),
    "the same data twice": (same_place, "'a' and 'b/c' overlap"),
    "a wrong checksum": (entry(crc=0), "'a' does not match its checksum"),
    "a checksum without a mask": (entry(crc=0x12345678), "'a' does not match its checksum"),
    "data in the second file of one": (entry(shard=1), "data file 1 of 1"),
    "data in file 2^31": (entry(shard=1 << 31), "data file 2147483648 of 1"),
    "data in file 2^64 - 1": (entry(shard=(1 << 64) - 1), "data file 18446744073709551615 of 1"),
    # shapes and types
    "a shape too large": (entry(shape=(13,)), "cannot have 48 bytes"),
    "a shape too small": (entry(shape=(11,)), "cannot have 48 bytes"),
    "a negative shape": (entry(shape=((1 << 64) - 12,)), "cannot have 48 bytes"),
    "a shape that wraps to the right size": (entry(shape=(1 << 32, 1 << 32, 12)), "cannot have 48 bytes"),
    "an unknown number": (entry(shape=((1 << 64) - 1, 12)), "cannot have 48 bytes"),
    "nothing, of impossible strides": (
        entry(shape=(1 << 40, 0, 1 << 40), size=0, offset=0, crc=crc32c_masked(b"")),
        "'a' has an impossible shape",
    ),
    "33 dimensions": (entry(shape=(1,) * 32 + (12,)), "no definite shape of at most 32"),
    "50,000 dimensions of 2^60": (entry(shape=(1 << 60,) * 50_000), "no definite shape of at most 32"),
    "two shapes": (entry(extra=nested(2, nested(2, numeric(1, 12)))), "no definite shape"),
    "an unknown rank": (entry(shape=(), extra=nested(2, numeric(3, 1))), "no definite shape"),
    "text": (entry(dtype=7), "not numeric"),
    "complex numbers": (entry(dtype=8), "not numeric"),
    "bfloat16": (entry(dtype=14), "not numeric"),
    "a handle of a resource": (entry(dtype=20), "not numeric"),
    "a variant": (entry(dtype=21), "not numeric"),
    "a type that does not exist": (entry(dtype=1 << 60), "not numeric"),
    "slices": (entry(extra=nested(7, b"")), "slices"),
    # messages
    "a number that is a text": (entry(extra=nested(4, b"0")), "is no number"),
    "a shape that is a number": (entry(extra=numeric(2, 1)), "message in it is damaged"),
    "a text that goes on behind the end": (entry(extra=b"\x12\xff\x7f"), "message in it is damaged"),
    "a text of 2^63 bytes": (entry(extra=b"\x12" + varint(1 << 63)), "message in it is damaged"),
    "a number without an end": (entry(extra=b"\x20" + b"\xff" * 30), "number in it has no end"),
    "a tag without an end": (entry(extra=b"\xff" * 30), "number in it has no end"),
    "a tag and nothing else": (entry(extra=b"\x20"), "number in it has no end"),
    "a group": (entry(extra=b"\x0b\x0c"), "message in it is damaged"),
    "a fixed number cut off": (entry(extra=b"\x35\0\0"), "message in it is damaged"),
    # the header
    "no header": (whole(header=b""), "no header"),
    "no data files": (whole(header=numeric(1, 0)), "0 data files"),
    "10^18 data files": (whole(header=numeric(1, 10**18)), "1000000000000000000 data files"),
    "99,999 data files": (whole(header=numeric(1, 99_999)), r"of-99999': No such file"),
    "big-endian numbers": (whole(header=numeric(1, 1) + numeric(2, 1)), "big-endian"),
    "a header that is damaged": (whole(header=b"\x0a\x7f"), "message in it is damaged"),
    # names
    "a name of two lines": (renamed(b"a\nb"), "is no name of a tensor"),
    "a name that paints": (renamed(b"\x1b[31m"), "is no name of a tensor"),
    "a name that is no text": (renamed(b"\xff\xfe"), "is no name of a tensor"),
    "a name of 60,000 letters": (renamed(b"x" * 60_000), "a name in it has 60000 bytes"),
    # blocks
    "blocks compressed by snappy": (whole(block_kind=1), "compressed"),
    "blocks compressed by zstd": (whole(block_kind=4), "compressed"),
    "a gap between blocks": (whole(padding=b"\0" * 5), "do not join"),
    "1 MB between blocks": (whole(padding=bytes(MEGABYTE)), "larger than 1048576 bytes"),
}


@pytest.mark.parametrize(("forge", "message"), FORGED.values(), ids=FORGED)
def test_a_forged_bundle_is_refused(tmp_path: Path, forge: Forge, message: str) -> None:
    prefix = write_bundle(tmp_path / "model", TENSORS, forge=forge)
    before = tree(tmp_path)
    said = refusal(lambda: read_checkpoint(prefix), prefix)
    assert re.search(message, said), said
    assert tree(tmp_path) == before


def footer(meta: bytes, top: bytes) -> bytes:
    return (meta + top).ljust(40, b"\0") + MAGIC


def index_of(blocks: list[bytes], keys: list[bytes], top: bytes | None = None) -> bytes:
    """An index of blocks that may be anything, `keys` being the last of each."""
    index, handles = b"", []
    for data, key in zip(blocks, keys, strict=True):
        index, handle = put(index, data)
        handles.append((key, handle))
    index, meta = put(index, block([]))
    index, top_handle = put(index, block(handles) if top is None else top)
    return index + footer(meta, top_handle)


def put(index: bytes, data: bytes) -> tuple[bytes, bytes]:
    """The index with a block and its trailer at the end, and the block's handle, by the quick checksum."""
    handle = varint(len(index)) + varint(len(data))
    return index + data + b"\0" + struct.pack("<I", masked(crc32c(data + b"\0"))), handle


def stored(shared: int, key: bytes, value: bytes) -> bytes:
    """One pair of a block, as it claims to share `shared` bytes with the key before."""
    return varint(shared) + varint(len(key)) + varint(len(value)) + key + value


RESTARTS = struct.pack("<II", 0, 1)
FIRST = stored(0, b"", HEADER)
GOOD = block([(b"", HEADER), (b"a", ENTRY)])


def many_keys() -> bytes:
    """Entries of four bytes each, every one with a name of 250 letters."""
    return FIRST + stored(0, b"x" * 249, ENTRY) + stored(249, b"a", b"") * 100_000 + RESTARTS


def long_keys() -> bytes:
    """A name of half a megabyte, which 100,000 others share."""
    return FIRST + stored(0, b"x" * 500_000, b"") + stored(500_000, b"", b"") * 100_000 + RESTARTS


def many_entries() -> bytes:
    """As many empty tensors as fit, all of them sound but the last."""
    sound = b"".join(stored(0, b"%06d" % i, ENTRY) for i in range(10_000))
    return FIRST + sound + stored(0, b"zz", b"") + RESTARTS


def itself() -> bytes:
    """An index whose list of blocks lists itself."""
    top = block([(b"a", varint(0) + varint(20))])
    index, meta = put(b"", block([]))
    top = block([(b"a", varint(len(index)) + varint(len(top)))])
    index, handle = put(index, top)
    return index + footer(meta, handle)


def in_list(*handles: tuple[int, int]) -> bytes:
    """An index with one good block, listed as being elsewhere."""
    pairs = [(b"%06d" % i, varint(offset) + varint(size)) for i, (offset, size) in enumerate(handles)]
    return index_of([GOOD], [b"a"], block(pairs))


def damaged(at: int) -> bytes:
    data = bytearray(index_of([GOOD], [b"a"]))
    data[at] ^= 1
    return bytes(data)


INDEXES: dict[str, tuple[Callable[[], bytes], str]] = {
    "names that share half a megabyte": (lambda: index_of([long_keys()], [b"y"]), "a name in it has 500000 bytes"),
    "100,000 names of 250 letters": (lambda: index_of([many_keys()], [b"y"]), "not in order|not numeric"),
    "10,000 tensors": (lambda: index_of([many_entries()], [b"zz"]), "not numeric"),
    "a name that begins with nothing": (
        lambda: index_of([FIRST + stored(9, b"a", ENTRY) + RESTARTS], [b"a"]),
        "beyond its end",
    ),
    "a name that shares 2^63 bytes": (
        lambda: index_of([FIRST + stored(1 << 63, b"a", ENTRY) + RESTARTS], [b"a"]),
        "beyond its end",
    ),
    "a name of 2^62 bytes": (
        lambda: index_of([FIRST + varint(0) + varint(1 << 62) + varint(0) + RESTARTS], [b"a"]),
        "beyond its end",
    ),
    "a value of 2^62 bytes": (
        lambda: index_of([FIRST + varint(0) + varint(1) + varint(1 << 62) + b"a" + RESTARTS], [b"a"]),
        "beyond its end",
    ),
    "a number without an end": (lambda: index_of([b"\xff" * 60 + RESTARTS], [b"a"]), "number in it has no end"),
    "a name twice": (lambda: index_of([block([(b"", HEADER), (b"a", ENTRY), (b"a", ENTRY)])], [b"a"]), "not in order"),
    "a name twice in two blocks": (lambda: index_of([GOOD, block([(b"a", ENTRY)])], [b"a", b"b"]), "not in order"),
    "two headers": (lambda: index_of([block([(b"", HEADER)]), GOOD], [b"", b"a"]), "not in order"),
    "a header that is no message": (lambda: index_of([block([(b"", b"\xff")])], [b""]), "number in it has no end"),
    "2^32 - 1 restart points": (lambda: index_of([FIRST + b"\xff" * 4], [b"a"]), "restart points do not fit"),
    "a block of three bytes": (lambda: index_of([b"\0" * 3], [b"a"]), "too short"),
    "a list of blocks that lists itself": (itself, "do not join"),
    "no blocks": (lambda: index_of([], []), "no header"),
    "a block twice": (lambda: in_list((0, len(GOOD)), (0, len(GOOD))), "do not join"),
    "a block within a block": (lambda: in_list((0, len(GOOD)), (4, 8)), "do not join"),
    "a block too short": (lambda: in_list((0, len(GOOD) - 1)), "do not join"),
    "a block that ends behind the end": (lambda: in_list((0, 10**6)), "do not join|end at byte"),
    "a block 2^63 on": (lambda: in_list((0, len(GOOD)), (1 << 63, 8)), "do not join"),
    "a block of 2^63 bytes": (lambda: in_list((0, 1 << 63)), "do not join|end at byte"),
    "20,000 blocks": (lambda: in_list(*[(0, len(GOOD))] * 20_000), "do not join"),
    "a place with something behind it": (
        lambda: index_of([GOOD], [b"a"], block([(b"a", varint(0) + varint(len(GOOD)) + b"\0")])),
        "index of its blocks is damaged",
    ),
    "a place without a size": (lambda: index_of([GOOD], [b"a"], block([(b"a", b"\0")])), "number in it has no end"),
    "a list of blocks behind the end": (lambda: GOOD + footer(varint(0) + varint(8), varint(9**9) + varint(8)), "."),
    "a flipped bit in a block": (lambda: damaged(3), "block at byte 0 does not match its checksum"),
    "a flipped bit in a checksum": (lambda: damaged(len(GOOD) + 2), "block at byte 0 does not match its checksum"),
    "a flipped bit in the footer": (lambda: damaged(-10), "footer is damaged"),
    "a flipped bit in the mark at the end": (lambda: damaged(-1), "does not end as an index does"),
    "places without an end": (lambda: b"\xff" * 40 + MAGIC, "number in it has no end"),
    "nothing but an end": (lambda: bytes(40) + MAGIC, "."),
    "nothing": (lambda: b"", "does not end as an index does"),
    "64 MB": (lambda: bytes(64 * MEGABYTE), "larger than 1048576 bytes"),
}


@pytest.mark.parametrize(("build", "message"), INDEXES.values(), ids=INDEXES)
def test_a_hostile_index_is_refused(tmp_path: Path, build: Callable[[], bytes], message: str) -> None:
    path = tmp_path / "model.index"
    path.write_bytes(build())
    (tmp_path / "model.data-00000-of-00001").write_bytes(bytes(100))
    said = refusal(lambda: read_checkpoint(tmp_path / "model"), path, most_bytes=100 * MEGABYTE, most_s=30)
    assert re.search(f"cannot read checkpoint index .*{message}", said), said


def test_hostile_indexes_do_not_fit_into_little_memory(tmp_path: Path) -> None:
    paths = []
    for i, (build, _) in enumerate(INDEXES.values()):
        paths.append(tmp_path / f"{i}.index")
        paths[-1].write_bytes(build())
    refuse_within_limits(
        """
        from unbraid.weights.convert.bundle import read_bundle
        def act(path):
            read_bundle(path.with_suffix(""))
        """,
        paths,
        more_bytes=128 * MEGABYTE,
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_bytes(b""), "but the file has 0 bytes"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "but the file has 71 bytes"),
        (lambda path: path.write_bytes(bytes(72)), "does not match its checksum"),
        (lambda path: path.write_bytes(path.read_bytes()[::-1]), "does not match its checksum"),
        (lambda path: (path.unlink(), path.mkdir()), "."),
    ],
    ids=["absent", "empty", "cut", "zeros", "backwards", "a folder"],
)
def test_other_data_than_the_index_says_are_refused(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    prefix = write_bundle(tmp_path / "model", TENSORS)
    path = tmp_path / "model.data-00000-of-00001"
    spoil(path)
    said = refusal(lambda: read_checkpoint(prefix), path)
    assert re.search(message, said), said


POINTERS: dict[str, bytes] = {
    "nothing": b"",
    "64,000 empty lines": b"\n" * 64_000,
    "64,000 lines with a blank": b" \n" * 32_000,
    "64,000 blanks": b" " * 64_000,
    "blanks before a name that never comes": b"model_checkpoint_path:" + b" \n" * 32_000,
    "100 MB": b"x" * 100 * MEGABYTE,
    "a path above the folder": b'model_checkpoint_path: "../model"',
    "a path above the folder, for Windows": b'model_checkpoint_path: "..\\model"',
    "the folder above": b'model_checkpoint_path: ".."',
    "an absolute path": b'model_checkpoint_path: "/etc/passwd"',
    "a stream of NTFS": b'model_checkpoint_path: "model:x"',
    "a zero byte": b'model_checkpoint_path: "mo\0del"',
    "a colour": b'model_checkpoint_path: "\x1b[31mmodel"',
    "a line of Unicode": 'model_checkpoint_path: "mo\u2028del"'.encode(),
    "no UTF-8": b'model_checkpoint_path: "\xff\xfe"',
    "a name of 60,000 letters": b'model_checkpoint_path: "' + b"x" * 60_000 + b'"',
    "a name of 236 bytes": b'model_checkpoint_path: "' + "ü".encode() * 118 + b'"',
    "a name that is not there": b'model_checkpoint_path: "other"',
}


@pytest.mark.parametrize("content", POINTERS.values(), ids=POINTERS)
def test_a_hostile_checkpoint_file_is_refused(tmp_path: Path, content: bytes) -> None:
    write_bundle(tmp_path / "model", TENSORS)  # which a path above the folder would reach
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "checkpoint").write_bytes(content)
    refusal(lambda: latest_checkpoint(folder), folder, most_s=2)


def test_a_folder_is_no_checkpoint_file(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    refusal(lambda: latest_checkpoint(tmp_path), tmp_path)


def test_the_good_ones_are_accepted(tmp_path: Path) -> None:
    # What every case above differs from in one thing.
    read = read_checkpoint(write_bundle(tmp_path / "model", TENSORS))
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(read[name], tensor)
    (tmp_path / "model.index").write_bytes(index_of([GOOD], [b"a"]))
    assert read_checkpoint(tmp_path / "model")["a"].shape == (0,)
    (tmp_path / "checkpoint").write_bytes(b'model_checkpoint_path: "model"')
    assert latest_checkpoint(tmp_path) == tmp_path / "model"
