"""Writing Ogg Vorbis: libsndfile (PyAV's wheels have no libvorbis), then a fixed serial number in every page."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
import soundfile

from unbraid.datatypes import FloatArray

__all__ = ["OggSink"]

# Nominal bits/s of libvorbis' qualities 0, 0.1 … 1.0 at 44.1 kHz stereo.
_NOMINAL = (64_000, 80_000, 96_000, 112_000, 128_000, 160_000, 192_000, 224_000, 256_000, 320_000, 500_000)
_PIECE = 4096


class OggSink:
    """Encodes blocks into an open file; `close` completes it."""

    def __init__(
        self, file: BinaryIO, *, bitrate: int, sample_rate: int, channels: tuple[str, ...], tags: Mapping[str, str]
    ) -> None:
        self._file = file
        quality = float(np.interp(bitrate * 2 / max(len(channels), 1), _NOMINAL, np.linspace(0.0, 1.0, len(_NOMINAL))))
        self._sound = soundfile.SoundFile(
            file, "w", sample_rate, len(channels), format="OGG", subtype="VORBIS", compression_level=1.0 - quality
        )
        for key, value in tags.items():
            setattr(self._sound, key, value)

    @property
    def n_clipped(self) -> int:
        """Vorbis holds floats: nothing is clipped here."""
        return 0

    def write(self, block: FloatArray) -> None:
        """Append a block [shape=(channel, time), float32]."""
        data = np.ascontiguousarray(block.T)
        for start in range(0, len(data), _PIECE):
            self._sound.write(data[start : start + _PIECE])

    def close(self) -> None:
        """Complete the file, which stays open."""
        self._sound.close()
