"""Writing Ogg Vorbis: libsndfile (PyAV's wheels have no libvorbis), then a fixed serial number in every page.

libsndfile draws a stream's serial number at random; it is in the header of every page, under the page's checksum.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
import soundfile

from unbraid.audio.patient import PatientFile
from unbraid.datatypes import FloatArray

__all__ = ["OggSink"]

# Nominal bits/s of libvorbis' qualities 0, 0.1 … 1.0 for two channels at 44.1 kHz.
_NOMINAL = (64_000, 80_000, 96_000, 112_000, 128_000, 160_000, 192_000, 224_000, 256_000, 320_000, 500_000)
# Samples given to libsndfile at a time: the result depends on it, and must not depend on the size of our blocks.
_PIECE = 4096
_SERIAL = 1
_PAGE = struct.Struct("<4sBBqIIIB")  # pattern, version, flags, position, serial, number, checksum, number of segments
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
# Vorbis' own order of three and more channels (Vorbis I, §4.3.9), as places in FFmpeg's and WAV's.
_VORBIS_ORDER = {
    3: (0, 2, 1),
    5: (0, 2, 1, 3, 4),
    6: (0, 2, 1, 4, 5, 3),
    7: (0, 2, 1, 5, 6, 4, 3),
    8: (0, 2, 1, 6, 7, 4, 5, 3),
}


class OggSink:
    """Encodes blocks into an open file; `close` completes it.

    The bitrate chooses Vorbis' quality, by its nominal bitrate for as many channels; the file's own varies around it.
    """

    def __init__(
        self, file: BinaryIO, *, bitrate: int, sample_rate: int, channels: tuple[str, ...], tags: Mapping[str, str]
    ) -> None:
        self._file = file
        self._patient = PatientFile(file)
        self._rest = np.zeros((0, len(channels)), np.float32)
        self._order = _VORBIS_ORDER.get(len(channels))
        quality = float(np.interp(bitrate * 2 / len(channels), _NOMINAL, np.linspace(0.0, 1.0, len(_NOMINAL))))
        self._sound = soundfile.SoundFile(
            self._patient,
            "w",
            sample_rate,
            len(channels),
            format="OGG",
            subtype="VORBIS",
            compression_level=1 - quality,
        )
        for key, value in tags.items():
            setattr(self._sound, key, value)

    def write(self, block: FloatArray) -> None:
        """Append a block [shape=(channel, time), float32]."""
        if self._order is not None:
            block = block[list(self._order)]
        data = np.concatenate([self._rest, block.T])
        n_whole = len(data) - len(data) % _PIECE
        for start in range(0, n_whole, _PIECE):
            self._sound.write(data[start : start + _PIECE])
            self._patient.check()
        self._rest = data[n_whole:]

    def close(self) -> None:
        """Complete the file, which stays open."""
        if len(self._rest):
            self._sound.write(self._rest)
        self._sound.close()
        self._patient.check()
        _set_serial(self._file, _SERIAL)


def _set_serial(file: BinaryIO, serial: int) -> None:
    """Give all pages of an Ogg file this serial number, and the checksums that go with it."""
    file.seek(0)
    while header := file.read(_PAGE.size):
        pattern, version, flags, position, _, number, _, n_segments = _PAGE.unpack(header)
        assert pattern == b"OggS", "libsndfile wrote no Ogg page"
        lengths = file.read(n_segments)
        body = lengths + file.read(sum(lengths))
        start = file.tell() - len(header) - len(body)
        fields = (pattern, version, flags, position, serial, number)
        checksum = _ogg_crc(_PAGE.pack(*fields, 0, n_segments) + body)
        file.seek(start)
        file.write(_PAGE.pack(*fields, checksum, n_segments))
        file.seek(start + len(header) + len(body))


def _ogg_crc(data: bytes) -> int:
    """Ogg's CRC-32: zlib's polynomial, but with the bits of every byte and of the result in the opposite order.

    zlib starts from and ends with inverted bits; Ogg does neither, hence the two exclusive ors.
    """
    crc = zlib.crc32(data.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
