"""How many samples a file's own header promises, where FFmpeg does not say it exactly.

FFmpeg shortens the duration of a cut-off WAV to what is there, estimates that of an MP3 without a Xing header, rounds
MP4 edit lists to the movie's clock (often milliseconds) and ignores padding at the end of MP4 audio. What is missing
or too much can only be told by the headers themselves.

References: RIFF/RF64 (EBU Tech 3306), Sony Wave64, ISO/IEC 14496-12 §8.6 (stts, elst), the LAME tag, RFC 3533 (Ogg).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

__all__ = ["has_mp3_frame_count", "mp3_header", "mp4_samples", "ogg_is_cut_off", "wav_samples"]

_UNKNOWN_SIZES = (0, 0x7FFFFFFF, 0x7FFFF000, 0x80000000)
_W64_DATA = b"data" + bytes.fromhex("f3acd3118cd100c04f8edb8a")
_W64_FMT = b"fmt " + bytes.fromhex("f3acd3118cd100c04f8edb8a")


def wav_samples(file: BinaryIO) -> int | None:
    """Samples per channel that a WAV, RF64 or Wave64 header promises; None where it was written without knowing."""
    file.seek(0)
    head = file.read(40)
    if head[:4] == b"riff":
        sizes = {name: (size, body) for name, size, body in _w64_chunks(file)}
        fmt, data = sizes.get(_W64_FMT), sizes.get(_W64_DATA)
        n_bytes = data[0] if data else 0
    else:
        chunks = {name: (size, body) for name, size, body in _riff_chunks(file)}
        fmt, data = chunks.get(b"fmt "), chunks.get(b"data")
        n_bytes = data[0] if data else 0
        if head[:4] == b"RF64" and b"ds64" in chunks and n_bytes == 0xFFFFFFFF:
            n_bytes = struct.unpack("<Q", chunks[b"ds64"][1][8:16])[0]
        elif n_bytes in _UNKNOWN_SIZES or n_bytes >= 0xFFFFFF00:
            return None
    if fmt is None or len(fmt[1]) < 16:
        return None
    tag, _, _, _, frame_bytes, bits = struct.unpack("<HHIIHH", fmt[1][:16])
    if tag == 0xFFFE and len(fmt[1]) >= 26:
        tag = struct.unpack("<H", fmt[1][24:26])[0]
    if tag not in (1, 3, 6, 7) or frame_bytes == 0 or bits == 0:
        return None  # compressed: bytes do not tell
    return int(n_bytes // frame_bytes) or None


def _riff_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, bytes]]:
    """Name, promised size and first 64 bytes of each chunk, up to the data."""
    at = 12
    while True:
        file.seek(at)
        head = file.read(8 + 64)
        if len(head) < 8:
            return
        name, size = head[:4], struct.unpack("<I", head[4:8])[0]
        yield name, size, head[8 : 8 + size]
        if name == b"data":
            return
        at += 8 + size + size % 2


def _w64_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, bytes]]:
    """The same of Wave64: longer names and sizes, which count their own 24 bytes; all starts at multiples of 8."""
    at = 40
    while True:
        file.seek(at)
        head = file.read(24 + 64)
        if len(head) < 24:
            return
        name, size = head[:16], struct.unpack("<Q", head[16:24])[0] - 24
        if size < 0:
            return
        yield name, size, head[24 : 24 + size]
        if name == _W64_DATA:
            return
        at += 24 + size + -size % 8


def has_mp3_frame_count(file: BinaryIO) -> bool:
    """Whether an MP3 says how many frames it has (a Xing, Info or VBRI header in its first frame)."""
    frame, tag = mp3_header(file)
    file.seek(tag)
    head = file.read(8)
    if head[:4] in (b"Xing", b"Info"):
        return bool(head[7] & 1)
    file.seek(frame + 36)
    return file.read(4) == b"VBRI"


def mp3_header(file: BinaryIO) -> tuple[int, int]:
    """Where an MP3's first frame starts, and where its Xing or Info header does if it has one."""
    at = 0
    file.seek(0)
    while (head := file.read(10))[:3] == b"ID3" and len(head) == 10:
        size = (head[6] & 127) << 21 | (head[7] & 127) << 14 | (head[8] & 127) << 7 | head[9] & 127
        at += 10 + size + (10 if head[5] & 16 else 0)
        file.seek(at)
    file.seek(at)
    data = file.read(1 << 14)
    for i in range(len(data) - 4):
        if data[i] == 0xFF and data[i + 1] & 0xE6 == 0xE2:
            mpeg1, mono = data[i + 1] & 0x18 == 0x18, data[i + 3] >> 6 == 3
            side_bytes = (17 if mono else 32) if mpeg1 else (9 if mono else 17)
            return at + i, at + i + 4 + side_bytes
    return at, at


def ogg_is_cut_off(file: BinaryIO) -> bool:
    """Whether the last Ogg page is incomplete."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 2 * 65_307))  # a page has at most 65307 bytes
    data = file.read()
    at = data.rfind(b"OggS")
    if at < 0:
        return True
    page = data[at:]
    return len(page) < 27 or len(page) < 27 + page[26] or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])


def mp4_samples(file: BinaryIO, track_id: int, sample_rate: int) -> int | None:
    """Samples per channel that an MP4/MOV track plays: its samples' durations, cut to its edit list; None if not said.

    The edit list is on the movie's clock. Where it agrees with the durations within a tick of that clock, it is only
    a rounded copy of them; where it is shorter, it cuts off the encoder's padding.
    """
    try:
        return _mp4_samples(file, track_id, sample_rate)
    except (struct.error, KeyError, IndexError, ZeroDivisionError):
        return None


def _mp4_samples(file: BinaryIO, track_id: int, sample_rate: int) -> int | None:
    size = file.seek(0, 2)
    moov = next((box for box in _boxes(file, 0, size) if box[0] == b"moov"), None)
    if moov is None:
        return None
    movie_clock = 0
    for name, start, end in _boxes(file, moov[1], moov[2]):
        if name == b"mvhd":
            movie_clock = _clock(_body(file, start, end))
        if name != b"trak":
            continue
        boxes = _track_boxes(file, start, end)
        header = boxes[b"tkhd"]
        if struct.unpack_from(">I", header, 20 if header[0] else 12)[0] != track_id:
            continue
        clock = _clock(boxes[b"mdhd"])
        stts = boxes[b"stts"]
        entries = struct.iter_unpack(">II", stts[8 : 8 + 8 * struct.unpack_from(">I", stts, 4)[0]])
        n_units: int = sum(count * duration for count, duration in entries)
        if n_units == 0:
            return None  # fragmented: the lengths are elsewhere
        edits = [edit for edit in _edits(boxes.get(b"elst", b"")) if edit[1] >= 0]
        if not edits:
            return round(Fraction(n_units * sample_rate, clock))
        if len(edits) > 1:
            return None
        length, media_start = edits[0]
        available = Fraction((n_units - media_start) * sample_rate, clock)
        played = Fraction(length * sample_rate, movie_clock)
        if length == 0 or abs(available - played) <= Fraction(sample_rate, movie_clock):
            return round(available)
        return round(min(available, played))
    return None


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the body of each box between two places."""
    while start + 8 <= end:
        file.seek(start)
        size, name = struct.unpack(">I4s", file.read(8))
        body = start + 8
        if size == 1:
            size, body = struct.unpack(">Q", file.read(8))[0], start + 16
        stop = end if size == 0 else start + size
        if stop < body or stop > end:
            return
        yield name, body, stop
        start = stop


def _track_boxes(file: BinaryIO, start: int, end: int) -> dict[bytes, bytes]:
    """The bodies of a track's boxes that tell times."""
    found: dict[bytes, bytes] = {}
    for name, inner, stop in _boxes(file, start, end):
        if name in (b"edts", b"mdia", b"minf", b"stbl"):
            found |= _track_boxes(file, inner, stop)
        elif name in (b"tkhd", b"mdhd", b"stts", b"elst"):
            found[name] = _body(file, inner, stop)
    return found


def _body(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def _clock(header: bytes) -> int:
    """Ticks per second of a movie or media header."""
    return int(struct.unpack_from(">I", header, 20 if header[0] else 12)[0])


def _edits(body: bytes) -> list[tuple[int, int]]:
    """Length (movie clock) and start in the media (its clock; −1: a pause) of each edit."""
    if not body:
        return []
    n_edits = struct.unpack_from(">I", body, 4)[0]
    entry = struct.Struct(">QqI" if body[0] else ">IiI")
    return [entry.unpack_from(body, 8 + i * entry.size)[:2] for i in range(n_edits)]
