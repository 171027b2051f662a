"""Writing FLAC, MP3, Opus, AAC in M4A and WMA: PyAV (FFmpeg)."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np
from av.audio.frame import AudioFrame

from unbraid.audio.encoding import Encoding
from unbraid.audio.pcm import IntegerConverter
from unbraid.datatypes import FloatArray

__all__ = ["EncoderSink"]

_CONTAINERS = {"flac": "flac", "mp3": "mp3", "opus": "opus", "m4a": "ipod", "wma": "asf"}
_ENCODERS = {"flac": "flac", "mp3": "libmp3lame", "opus": "libopus", "m4a": "aac", "wma": "wmav2"}
_FORMATS = {"flac": "s16", "mp3": "fltp", "opus": "flt", "m4a": "fltp", "wma": "fltp"}


class EncoderSink:
    """Encodes blocks into an open file; `close` completes it."""

    def __init__(
        self,
        file: BinaryIO,
        *,
        encoding: Encoding,
        sample_rate: int,
        channels: tuple[str, ...],
        tags: Mapping[str, str],
    ) -> None:
        codec = encoding.codec
        options = {"movie_timescale": str(sample_rate)} if codec == "m4a" else {}
        self._container = av.open(file, "w", format=_CONTAINERS[codec], container_options=options)
        self._container.flags |= av.container.Flags.bitexact.value
        self._container.metadata.update(tags)
        self._stream = self._container.add_stream(_ENCODERS[codec], rate=sample_rate)
        context = self._stream.codec_context
        context.options = {"flags": "+bitexact"}
        context.layout = "mono" if len(channels) == 1 else "+".join(channels)
        self._format = "s32" if encoding.bit_depth == 24 else _FORMATS[codec]
        context.format = self._format
        if encoding.bitrate is not None:
            context.bit_rate = encoding.bitrate
        self._layout = context.layout
        self._sample_rate = sample_rate
        self._converter = (
            IntegerConverter(int(encoding.bit_depth), len(channels)) if encoding.bit_depth is not None else None
        )
        self._n = 0

    @property
    def n_clipped(self) -> int:
        """Samples clipped so far."""
        return 0 if self._converter is None else self._converter.n_clipped

    def write(self, block: FloatArray) -> None:
        """Append a block [shape=(channel, time), float32]."""
        frame = AudioFrame.from_ndarray(self._array(block), format=self._format, layout=self._layout)
        frame.sample_rate = self._sample_rate
        frame.pts = self._n
        frame.time_base = Fraction(1, self._sample_rate)
        self._n += block.shape[1]
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Encode what is left and complete the file, which stays open."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def _array(self, block: FloatArray) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        if self._converter is not None:
            integers = self._converter.convert(block)
            if self._format == "s32":
                integers <<= 8
            return integers.reshape(1, -1)
        if self._format == "flt":
            return np.ascontiguousarray(block.T).reshape(1, -1)
        return np.ascontiguousarray(block)
