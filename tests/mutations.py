"""Damaged copies of real files, for the fuzz tests of every parser: seeded, so a failure can be made again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

__all__ = ["mutated", "mutations"]

# Sizes, offsets and counts at which parsers go wrong.
_BOUNDS = [0, 1, 2, 7, 8, 63, 64, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32]
_BOUNDS += [10**11, 2**53, 2**63 - 1, 2**63, 2**64 - 1]


def mutations(seeds: Sequence[bytes], n: int, rng: random.Random) -> Iterator[bytes]:
    """Yield `n` damaged copies of files drawn from `seeds`."""
    for _ in range(n):
        yield mutated(rng.choice(seeds), seeds, rng)


def mutated(data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """Return `data` with one to four damages, some of them taken from the other `seeds`."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        rng.choice(_DAMAGES)(changed, seeds, rng)
    return bytes(changed)


def _place(data: bytearray, rng: random.Random) -> int:
    # Headers and directories lie at the ends of a file, and most of its middle is numbers that nothing interprets.
    where = rng.random()
    edge = min(len(data), 512)
    if where < 0.3:
        return rng.randrange(edge + 1)
    if where < 0.6:
        return len(data) - rng.randrange(edge + 1)
    return rng.randrange(len(data) + 1)


def _flip_bits(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[min(_place(data, rng), len(data) - 1)] ^= 1 << rng.randrange(8)


def _set_bytes(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    place = _place(data, rng)
    n = min(rng.choice((1, 1, 2, 4, 16)), len(data) - place)
    data[place : place + n] = rng.choice((rng.randbytes(n), bytes(n), b"\xff" * n))


def _set_integer(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice(_BOUNDS) + rng.choice((0, 0, -1, 1))
    place = _place(data, rng)
    written = (value % 256**size).to_bytes(size, rng.choice(("little", "little", "little", "big")))
    data[place : place + size] = written


def _nudge_integer(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    size = rng.choice((1, 2, 4, 8))
    place = _place(data, rng)
    value = int.from_bytes(data[place : place + size], "little") + rng.choice((-64, -8, -1, 1, 8, 64))
    data[place : place + size] = (value % 256**size).to_bytes(size, "little")


def _set_text(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    word = rng.choice((b"-1", b"0", b"1e999", b"NaN", b"99999999999", b"null", b"{", b"[" * 64, b'"', b"../", b"\n"))
    place = _place(data, rng)
    data[place : place + rng.choice((0, 1, len(word)))] = word


def _truncate(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _delete(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    place = _place(data, rng)
    del data[place : place + rng.choice((1, 1, 2, 4, 8, 64, 1024))]


def _insert(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    place = _place(data, rng)
    data[place:place] = rng.randbytes(rng.choice((1, 1, 2, 4, 8, 64)))


def _repeat(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    start, place = _place(data, rng), _place(data, rng)
    piece = data[start : start + rng.choice((1, 4, 16, 128, 1024))]
    data[place:place] = piece * rng.choice((1, 1, 2, 16))


def _splice(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    other = bytearray(rng.choice(seeds))
    data[_place(data, rng) :] = other[_place(other, rng) :]


def _transplant(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    other = bytearray(rng.choice(seeds))
    size = rng.choice((4, 16, 64, 512))
    source, place = _place(other, rng), _place(data, rng)
    piece = other[source : source + size]
    data[place : place + len(piece)] = piece


_DAMAGES: list[Callable[[bytearray, Sequence[bytes], random.Random], None]] = [
    _flip_bits,
    _set_bytes,
    _set_integer,
    _nudge_integer,
    _set_text,
    _truncate,
    _delete,
    _insert,
    _repeat,
    _splice,
    _transplant,
]
