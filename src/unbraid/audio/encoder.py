"""Writing FLAC, MP3, Opus, AAC in M4A and WMA: PyAV (FFmpeg)."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, BinaryIO, cast

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from unbraid.audio.encoding import Encoding
from unbraid.audio.pcm import IntegerConverter
from unbraid.datatypes import FloatArray
from unbraid.errors import UsageError

__all__ = ["EncoderSink"]

_CONTAINERS = {"flac": "flac", "mp3": "mp3", "opus": "opus", "m4a": "ipod", "wma": "asf"}
_ENCODERS = {"flac": "flac", "mp3": "libmp3lame", "opus": "libopus", "m4a": "aac", "wma": "wmav2"}
_FORMATS = {"mp3": "fltp", "opus": "flt", "m4a": "fltp", "wma": "fltp"}


class EncoderSink:
    """Encodes blocks into an open file; `close` completes it.

    Delay and length are written where the format has a place for them, so that players give back exactly what came
    in. WMA has none: a frame of silence goes in front, which decoders swallow, and the end is filled up with silence
    to a whole frame.

    Raises
    ------
    UsageError : the codec has no place for these speakers
    """

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
        # Edit lists are on the movie's clock: it has to tick as fast as the samples.
        options = {"movie_timescale": str(sample_rate)} if codec == "m4a" else {}
        self._file = _Patient(file)
        self._container = av.open(self._file, "w", format=_CONTAINERS[codec], container_options=options)
        # No dates, versions or random numbers.
        self._container.flags |= cast(int, av.container.Flags.bitexact.value)
        self._container.metadata.update(tags)
        self._stream = cast(AudioStream, self._container.add_stream(_ENCODERS[codec], rate=sample_rate))
        context = self._stream.codec_context
        context.options = {"flags": "+bitexact"}
        context.layout = _layout(codec, channels)
        # Interleaved always: PyAV finds no end of the list of planes when there are eight or more.
        self._format = {None: "flt", 16: "s16", 24: "s32"}[cast("int | None", encoding.bit_depth)]
        context.format = _FORMATS[codec] if encoding.bit_depth is None else self._format
        if encoding.bitrate is not None:
            context.bit_rate = encoding.bitrate
        self._layout = context.layout
        self._sample_rate = sample_rate
        self._converter = (
            IntegerConverter(int(encoding.bit_depth), len(channels)) if encoding.bit_depth is not None else None
        )
        self._n = 0
        try:
            context.open()
        except av.error.FFmpegError as error:
            speakers = " ".join(channels)
            raise UsageError(
                f"{codec} cannot hold {speakers} at {sample_rate} Hz and {encoding.bitrate} bits per second: "
                "choose another bitrate, or wav"
            ) from error
        if codec == "wma":
            self.write(np.zeros((len(channels), context.frame_size), np.float32))

    def write(self, block: FloatArray) -> None:
        """Append a block [shape=(channel, time), float32]."""
        frame = AudioFrame.from_ndarray(self._array(block), format=self._format, layout=self._layout)
        frame.sample_rate = self._sample_rate
        frame.pts = self._n
        frame.time_base = Fraction(1, self._sample_rate)
        self._n += block.shape[1]
        self._container.mux(self._stream.encode(frame))
        self._file.check()

    def close(self) -> None:
        """Encode what is left and complete the file, which stays open."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._file.check()

    def _array(self, block: FloatArray) -> NDArray[Any]:
        if self._converter is not None:
            integers = self._converter.convert(block)
            if self._format == "s32":
                integers <<= 8
            return integers.reshape(1, -1)
        return np.ascontiguousarray(block.T).reshape(1, -1)


class _Patient:
    """A file that takes everything and tells later, by `check`, what went wrong first.

    PyAV prints all errors of a file but one: a full disk would be twenty lines.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            if self._error is None:
                self._file.write(data)
        except OSError as error:
            self._error = error
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            if self._error is None:
                return self._file.seek(offset, whence)
        except OSError as error:
            self._error = error
        return offset

    def tell(self) -> int:
        return 0 if self._error else self._file.tell()

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self._error is not None:
            raise self._error


def _layout(codec: str, channels: tuple[str, ...]) -> AudioLayout:
    """FFmpeg's layout of these speakers."""
    if codec == "opus" and "BL" not in channels:
        channels = tuple({"SL": "BL", "SR": "BR"}.get(name, name) for name in channels)
    try:
        return AudioLayout("+".join(channels))
    except ValueError as error:
        raise UsageError(f"{codec} has no place for the speakers {' '.join(channels)}: choose wav") from error
