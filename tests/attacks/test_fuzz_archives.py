"""Damaged archives, safetensors files and TensorFlow checkpoints: read or refused in one line, never anything else."""

from __future__ import annotations

import random
import struct
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from archives import checkpoint_members, gzipped, member, plain_tar, published_tar
from bundle_writer import block, crc32c_masked, varint, write_bundle
from mutations import mutations
from unbraid.errors import ModelError
from unbraid.weights.convert.archive import unpacked
from unbraid.weights.convert.bundle import read_bundle
from unbraid.weights.convert.crc32c import crc32c, masked
from unbraid.weights.convert.tensorflow import latest_checkpoint
from unbraid.weights.tensors import read_metadata, read_tensors, write_tensors

TENSORS = {
    "conv2d/kernel": np.arange(12, dtype=np.float32).reshape(3, 2, 2),
    "conv2d/bias": np.array([1.5, -2], np.float16),
    "empty": np.zeros((0, 4), np.float64),
    "global_step": np.array(123456789012, np.int64),
}
DATA = "model.data-00000-of-00001"
MARK = b"<and>"


@dataclass(frozen=True)
class Target:
    """A parser under test.

    seeds : what is damaged; the first, undamaged, is read without an error
    file : name of the file that is made of it, in a folder with `others`
    finish : makes a file of what was damaged, so that damage gets past compression or checksums
    """

    seeds: list[bytes]
    file: str
    read: Callable[[Path], object]
    finish: Callable[[bytes], bytes] = bytes
    others: dict[str, bytes] = field(default_factory=dict)


def unpack(path: Path) -> None:
    cache = path.parent / "cache"
    cache.mkdir(exist_ok=True)
    try:
        with unpacked(path, cache) as folder:
            assert {file.name for file in folder.iterdir()} == {"checkpoint", "model.index", DATA}
    finally:
        assert not any(cache.iterdir())


def read_everything(path: Path) -> None:
    """Read each byte that the maps reach."""
    try:
        read_metadata(path)
    except ModelError as error:
        check(error)
    for tensor in read_tensors(path).values():
        tensor.tobytes()


def read_checkpoint_of(path: Path) -> None:
    for tensor in read_bundle(path.parent / "model").values():
        tensor.tobytes()


def with_checksums(data: bytes) -> bytes:
    """An index of one block of tensors and a list of blocks, whatever both hold, with checksums that agree.

    data : the two with `MARK` between them; the list may be left out, then it is right
    """
    tensors, _, blocks = data.partition(MARK)
    blocks = blocks or block([(b"z", varint(0) + varint(len(tensors)))])
    index, handles = b"", []
    for part in (tensors, block([]), blocks):
        handles.append(varint(len(index)) + varint(len(part)))
        index += part + b"\0" + struct.pack("<I", masked(crc32c(part + b"\0")))
    return index + (handles[1] + handles[2]).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def with_sums(tar: bytes) -> bytes:
    """A tar whose headers match their checksums, as far as one can be found after the other."""
    data, at = bytearray(tar), 0
    while any(data[at : at + 512]):
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
        try:
            header = tarfile.TarInfo.frombuf(bytes(data[at : at + 512]), "utf-8", "surrogateescape")
        except tarfile.TarError:
            break
        at += 512 + max(0, header.size + -header.size % 512)
    return bytes(data)


def targets(folder: Path) -> dict[str, Target]:
    """Every parser, with small sound files to damage."""
    bundles = []
    for i, names in enumerate((TENSORS, ["global_step"], ["conv2d/bias", "empty"])):
        (folder / str(i)).mkdir()
        write_bundle(folder / str(i) / "model", {name: TENSORS[name] for name in names})
        bundles.append(checkpoint_members(folder / str(i)))
    tars = [plain_tar(bundles[0]), published_tar(bundles[1]), member("./", kind=b"5") + plain_tar(bundles[2])]
    indexes = [bundle["model.index"] for bundle in bundles]
    write_tensors(folder / "all", TENSORS, {"origin": "a test", "n": "1"})
    write_tensors(folder / "one", {"x": TENSORS["conv2d/kernel"]})
    write_tensors(folder / "none", {})
    blocks = []
    for index in indexes:
        # Each of these has one block of tensors, from its beginning to the empty block before the list of blocks.
        tensors = index[: index.index(block([]) + b"\0" + struct.pack("<I", crc32c_masked(block([]) + b"\0"))) - 5]
        blocks += [tensors, tensors + MARK + block([(b"z", varint(0) + varint(len(tensors)))])]
    others = {DATA: bundles[0][DATA]}
    return {
        "tar.gz": Target([gzipped(tar) for tar in tars], "m.tar.gz", unpack),
        "tar": Target(tars, "m.tar.gz", unpack, finish=lambda tar: gzipped(tar, level=1)),
        "tar behind checksums": Target(tars, "m.tar.gz", unpack, finish=lambda tar: gzipped(with_sums(tar), level=1)),
        "safetensors": Target(
            [(folder / name).read_bytes() for name in ("all", "one", "none")], "w.safetensors", read_everything
        ),
        "index": Target(indexes, "model.index", read_checkpoint_of, others=others),
        "index behind checksums": Target(
            blocks, "model.index", read_checkpoint_of, finish=with_checksums, others=others
        ),
        "data": Target([bundles[0][DATA]], DATA, read_checkpoint_of, others={"model.index": indexes[0]}),
        "checkpoint": Target(
            [bundles[0]["checkpoint"], b'model_checkpoint_path: "/home/me/model"'],
            "checkpoint",
            lambda path: latest_checkpoint(path.parent),
            others={"model.index": indexes[0]},
        ),
    }


NAMES = [
    "tar.gz",
    "tar",
    "tar behind checksums",
    "safetensors",
    "index",
    "index behind checksums",
    "data",
    "checkpoint",
]


def check(error: ModelError) -> None:
    """It is one line, and not a long one."""
    assert str(error).isprintable()
    assert len(str(error)) < 2000


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [400, pytest.param(12_500, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused(tmp_path: Path, name: str, n: int) -> None:
    (tmp_path / "seeds").mkdir()
    target = targets(tmp_path / "seeds")[name]
    folder = tmp_path / "folder"
    folder.mkdir()
    for other, content in target.others.items():
        (folder / other).write_bytes(content)
    path = folder / target.file
    path.write_bytes(target.finish(target.seeds[0]))
    target.read(path)
    n_refused = 0
    for i, data in enumerate(mutations(target.seeds, n, random.Random(f"{name} {n}"))):
        path.write_bytes(target.finish(data))
        started = time.process_time()
        try:
            target.read(path)
        except ModelError as error:
            check(error)
            n_refused += 1
        except BaseException as error:
            raise AssertionError(f"input {i}, kept as {path}") from error
        assert time.process_time() - started < 5, f"input {i}, kept as {path}"
    # Damage is seen, but for what nothing depends on: a date, the padding of a tar, a line of another name.
    assert n_refused > n / 2
