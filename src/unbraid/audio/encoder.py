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
from unbraid.audio.lengths import mp3_header
from unbraid.audio.patient import PatientFile
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
        self._file, self._is_mp3 = file, codec == "mp3"
        self._patient = PatientFile(file)
        self._container = av.open(self._patient, "w", format=_CONTAINERS[codec], container_options=options)
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
        self._patient.check()

    def close(self) -> None:
        """Encode what is left and complete the file, which stays open."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._patient.check()
        if self._is_mp3:
            _set_mp3_length(self._file, self._n, 1152 if self._sample_rate >= 32000 else 576)

    def _array(self, block: FloatArray) -> NDArray[Any]:
        if self._converter is not None:
            integers = self._converter.convert(block)
            if self._format == "s32":
                integers <<= 8
            return integers.reshape(1, -1)
        return np.ascontiguousarray(block.T).reshape(1, -1)


def _set_mp3_length(file: BinaryIO, n_samples: int, frame_samples: int) -> None:
    """Correct the padding in the LAME tag: FFmpeg writes at most one frame of it, but LAME often adds more."""
    frame, tag = mp3_header(file)
    file.seek(frame)
    head = bytearray(file.read(tag - frame + 156))
    lame = tag - frame + 120
    n_frames = int.from_bytes(head[lame - 112 : lame - 108], "big")
    delay = int.from_bytes(head[lame + 21 : lame + 24], "big") >> 12
    padding = n_frames * frame_samples - delay - n_samples
    assert bytes(head[lame - 120 : lame - 116]) in (b"Info", b"Xing") and 0 <= padding < 4096
    head[lame + 21 : lame + 24] = (delay << 12 | padding).to_bytes(3, "big")
    head[lame + 34 : lame + 36] = _crc16(head[: lame + 34]).to_bytes(2, "big")
    file.seek(frame)
    file.write(head)


def _crc16(data: bytes | bytearray) -> int:
    """The LAME tag's checksum of what comes before it: CRC-16 with the polynomial 0x8005, lowest bit first."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


def _layout(codec: str, channels: tuple[str, ...]) -> AudioLayout:
    """FFmpeg's layout of these speakers."""
    if codec == "opus" and "BL" not in channels:
        channels = tuple({"SL": "BL", "SR": "BR"}.get(name, name) for name in channels)
    try:
        return AudioLayout("+".join(channels))
    except ValueError as error:
        raise UsageError(f"{codec} has no place for the speakers {' '.join(channels)}: choose wav") from error
