"""Writing WAV: RIFF, turned into RF64 when it grows beyond 4 GiB."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from unbraid.audio.pcm import IntegerConverter
from unbraid.datatypes import FloatArray

__all__ = ["WavSink"]

_RIFF_LIMIT = 0xFFFFFFFF
_SPEAKERS = (  # in the order of dwChannelMask's bits
    *("FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC"),
    *("SL", "SR", "TC", "TFL", "TFC", "TFR", "TBL", "TBC", "TBR"),
)
_INFO_TAGS = {"title": b"INAM", "artist": b"IART", "album": b"IPRD"}
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


class WavSink:
    """Writes blocks into an open file; `close` completes the header.

    Parameters
    ----------
    file : binary, seekable, at its start
    bit_depth : 16, 24 or "float" (32-bit)
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        bit_depth: int | str,
        sample_rate: int,
        channels: tuple[str, ...],
        tags: Mapping[str, str],
    ) -> None:
        self._file = file
        self._bytes = 4 if bit_depth == "float" else int(bit_depth) // 8
        self._n_channels = len(channels)
        self._converter = None if bit_depth == "float" else IntegerConverter(int(bit_depth), len(channels))
        self._n_bytes = 0
        head = b"WAVE" + _chunk(b"JUNK", bytes(28)) + self._format_chunk(sample_rate, channels)
        if bit_depth == "float":
            head += _chunk(b"fact", bytes(4))
            self._fact_at = 8 + len(head) - 4
        self._head = head + _info_chunk(tags)
        file.write(b"RIFF" + bytes(4) + self._head + b"data" + bytes(4))

    def write(self, block: FloatArray) -> None:
        """Append a block [shape=(channel, time), float32]."""
        if self._converter is None:
            data = np.ascontiguousarray(block.T, dtype="<f4")
        else:
            data = self._converter.convert(block)
            data = _lower_three_bytes(data) if self._bytes == 3 else data.astype("<i2", copy=False)
        self._file.write(data.data)
        self._n_bytes += data.nbytes

    def close(self) -> None:
        """Write the sizes; the file itself stays open."""
        if self._n_bytes % 2:
            self._file.write(b"\0")
        riff_size = len(self._head) + 8 + self._n_bytes + self._n_bytes % 2
        n_samples = self._n_bytes // (self._bytes * self._n_channels)
        file = self._file
        file.seek(0)
        if riff_size <= _RIFF_LIMIT:
            file.write(b"RIFF" + struct.pack("<I", riff_size))
            data_size = self._n_bytes
        else:
            ds64 = struct.pack("<QQQI", riff_size, self._n_bytes, n_samples, 0)
            file.write(b"RF64" + b"\xff" * 4 + b"WAVE" + _chunk(b"ds64", ds64))
            data_size = 0xFFFFFFFF
        if self._converter is None:
            file.seek(self._fact_at)
            file.write(struct.pack("<I", min(n_samples, 0xFFFFFFFF)))
        file.seek(8 + len(self._head) + 4)
        file.write(struct.pack("<I", data_size))
        file.seek(0, 2)

    def _format_chunk(self, sample_rate: int, channels: tuple[str, ...]) -> bytes:
        """Plain for mono and stereo, WAVE_FORMAT_EXTENSIBLE (which names the speakers) for everything else."""
        tag = _PCM if self._converter is not None else _FLOAT
        n = len(channels)
        frame = n * self._bytes
        plain = channels in (("FC",), ("FL", "FR"))
        body = struct.pack(
            "<HHIIHH", tag if plain else _EXTENSIBLE, n, sample_rate, sample_rate * frame, frame, 8 * self._bytes
        )
        if not plain:
            body += struct.pack("<HHIH", 22, 8 * self._bytes, _speaker_mask(channels), tag) + _GUID_TAIL
        elif tag == _FLOAT:
            body += bytes(2)
        return _chunk(b"fmt ", body)


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def _lower_three_bytes(integers: NDArray[np.signedinteger]) -> NDArray[np.uint8]:
    """The lower three bytes of each of 32-bit integers, the lowest first."""
    four = integers.astype("<i4", copy=False).view(np.uint8).reshape(-1, 4)
    three = np.empty((len(four), 3), np.uint8)
    for byte in range(3):
        three[:, byte] = four[:, byte]
    return three


def _info_chunk(tags: Mapping[str, str]) -> bytes:
    """The tags as RIFF INFO, in UTF-8 with a closing zero; empty without tags."""
    body = b"".join(
        _chunk(name, tags[key].encode("utf-8", "replace") + b"\0") for key, name in _INFO_TAGS.items() if tags.get(key)
    )
    return _chunk(b"LIST", b"INFO" + body) if body else b""


def _speaker_mask(channels: tuple[str, ...]) -> int:
    """dwChannelMask; 0 (unspecified) where a speaker has no bit or the order is not that of the bits."""
    if any(name not in _SPEAKERS for name in channels):
        return 0
    bits = [_SPEAKERS.index(name) for name in channels]
    return sum(1 << bit for bit in bits) if bits == sorted(set(bits)) else 0
