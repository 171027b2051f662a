"""Thousands of damaged torch files: each is read, or refused with a ModelError, and nothing else ever happens.

Bytes of whole files are damaged; pickles within files that are otherwise right, by bytes and by instructions; and the
fields of archives. A short run is part of every test run; the long one is marked slow.
"""

import argparse
import dataclasses
import io
import pickletools
import random
import re
import time
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mutations import mutated
from torch_writer import Member, whole, zip_archive
from unbraid.errors import ModelError
from unbraid.weights.convert.torch_file import Record, read_torch_file

FORMATS = [(new, protocol) for new in (True, False) for protocol in (2, 4)]

# Instructions to put where they do not belong.
STRANGE = [code.code.encode("latin-1") for code in pickletools.opcodes]
STRANGE += [b"h\x00", b"h\x05", b"q\x00", b"r\xff\xff\xff\xff", b"cos\nsystem\n", b"X\x00\x00\x00\x00", b"\xff"]
NUMBERS = [whole(n) for n in (0, 1, 2, 3, 4, 5, 8, 100, -1, 1 << 20, 10**11, 1 << 31, 1 << 62, 1 << 63, 1 << 64)]


@dataclasses.dataclass(frozen=True)
class Seed:
    """A good file: of an archive the members, the pickle first; of the old format what surrounds the pickle."""

    data: bytes
    pickle: bytes
    members: tuple[Member, ...] = ()
    before: bytes = b""
    after: bytes = b""

    def with_pickle(self, pickle: bytes) -> bytes:
        if self.members:
            return zip_archive([dataclasses.replace(self.members[0], data=pickle), *self.members[1:]])
        return self.before + pickle + self.after


def values() -> list[object]:
    tensors = {name: torch.ones(3, dtype=getattr(torch, name)) for name in ("float16", "int64", "bool", "uint16")}
    package = {"klass": argparse.Namespace, "args": (), "kwargs": {"segment": Fraction(39, 5), "sources": ["a", "b"]}}
    options = argparse.Namespace(path=Path("a"), score=np.float64(0.5), raw=b"\x00\xff", none=None, on=True)
    base = torch.arange(12.0)
    return [
        nn.LSTM(1, 2).state_dict(),
        {**package, "state": tensors, "training_args": {}},
        [options, OrderedDict(a=base[:4].view(2, 2).T, b=base[6:], c=torch.tensor(1.0), d=torch.zeros(0, 3))],
        list(nn.Linear(1, 1).parameters()),
    ]


def saved(value: object, new: bool, protocol: int) -> Seed:
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    data = buffer.getvalue()
    if new:
        with zipfile.ZipFile(buffer) as archive:
            members = tuple(Member(name, archive.read(name)) for name in archive.namelist())
        return Seed(data, members[0].data, members)
    ends = []
    stream = io.BytesIO(data)
    for _ in range(4):
        assert list(pickletools.genops(stream))
        ends.append(stream.tell())
    return Seed(data, data[ends[2] : ends[3]], (), data[: ends[2]], data[ends[3] :])


def instructions(pickle: bytes) -> list[bytes]:
    starts = [at for _, _, at in pickletools.genops(pickle) if at is not None]
    return [pickle[start:end] for start, end in zip(starts, [*starts[1:], len(pickle)], strict=True)]


def reassembled(seed: Seed, pool: Sequence[bytes], rng: random.Random) -> bytes:
    """Delete, repeat, exchange, replace and insert instructions of the pickle."""
    parts = instructions(seed.pickle)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        place, other = rng.randrange(1, len(parts)), rng.randrange(1, len(parts))
        numbers = [index for index, part in enumerate(parts) if part[:1] in (b"K", b"M", b"J", b"\x8a")]
        how = rng.randrange(8)
        if how == 0:
            del parts[place : place + rng.choice((1, 1, 2, 5))]
        elif how == 1:
            parts[place:place] = parts[other : other + rng.choice((1, 4, 16))] * rng.choice((1, 1, 2, 50))
        elif how == 2:
            parts[place], parts[other] = parts[other], parts[place]
        elif how == 3:
            parts[place] = mutated(parts[place], pool, rng)
        elif how <= 5:
            parts[place : place + how - 4] = [rng.choice(pool)]
        elif numbers:
            parts[rng.choice(numbers)] = rng.choice(NUMBERS)
        if len(parts) < 2:
            break
    return seed.with_pickle(b"".join(parts))


def forged(seed: Seed, rng: random.Random) -> bytes:
    """Forge a field of a member of an archive, or the bytes of a storage."""
    if not seed.members:
        return seed.before + seed.pickle + mutated(seed.after, [seed.data], rng)
    members = list(seed.members)
    index = rng.randrange(len(members))
    member = members[index]
    number = rng.choice((0, 1, 4, 64, len(member.data) + 1, 1 << 31, (1 << 32) - 1, rng.randrange(len(seed.data))))
    changes: list[dict[str, object]] = [{name: number} for name in ("size", "packed", "start", "crc")]
    changes += [{"method": 8}, {"flags": number & 0xFFFF}, {"data": mutated(member.data, [seed.data], rng)}]
    changes += [{"name": rng.choice(members).name}, {"local_name": b"x"}, {"extra": bytes(number & 63)}]
    members[index] = dataclasses.replace(member, **rng.choice(changes))  # type: ignore[arg-type]
    if rng.random() < 0.2:
        rng.shuffle(members)
    return zip_archive(members)


def fuzzed(seeds: Sequence[Seed], rng: random.Random) -> bytes:
    seed = rng.choice(seeds)
    where = rng.random()
    if where < 0.35:
        return mutated(seed.data, [other.data for other in seeds], rng)
    if where < 0.55:
        return seed.with_pickle(mutated(seed.pickle, [other.pickle for other in seeds], rng))
    if where < 0.9:
        return reassembled(seed, [*STRANGE, *instructions(rng.choice(seeds).pickle)], rng)
    return forged(seed, rng)


def touch(value: object) -> None:
    """Use every number of a result, as a converter would."""
    if isinstance(value, np.ndarray):
        assert not value.flags.writeable
        assert len(value.tobytes()) == value.nbytes
    elif isinstance(value, Record):
        touch(value.state)
    elif isinstance(value, dict):
        touch(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            touch(item)


@pytest.mark.parametrize("n", [2000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused(n: int, tmp_path: Path) -> None:
    rng = random.Random(n)
    torch.manual_seed(n)
    seeds = [saved(value, new, protocol) for value in values() for new, protocol in FORMATS]
    path = tmp_path / "model.th"
    seen: Counter[str] = Counter()
    slowest = 0.0
    for number in range(n):
        data = fuzzed(seeds, rng)
        path.write_bytes(data)
        start = time.process_time()
        try:
            touch(read_torch_file(path))
            seen["read"] += 1
        except ModelError as error:
            message = str(error)
            assert str(path) in message and message.isprintable() and len(message) < 1000, message
            # Names and numbers apart, which of the many reasons it was.
            seen[re.sub(r"[\d'].*", "", message.removeprefix(f"cannot read '{path}': "))] += 1
        except Exception as error:
            kept = Path(f"{tmp_path}-input-{number}")
            kept.write_bytes(data)
            raise AssertionError(f"input {number}, kept as '{kept}', raised {type(error).__name__}: {error}") from error
        slowest = max(slowest, time.process_time() - start)
    assert slowest < 5
    # The damage reaches every part: neither all is refused at the door, nor is all harmless.
    assert seen["read"] > n // 50 and len(seen) > 40, seen
