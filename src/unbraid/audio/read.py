"""Files to arrays, block by block; everything is decoded by PyAV (FFmpeg).

Encoder delay and padding are removed, so lengths are those of the audio that was encoded, to the sample.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from unbraid.audio.container import OpenFile, channel_names, open_container, quoted
from unbraid.audio.resample import resample
from unbraid.datatypes import Audio, AudioInfo, FloatArray
from unbraid.errors import AudioError

__all__ = ["AudioReader", "open_audio", "read_audio"]

_BLOCK = 1 << 16


class AudioReader:
    """An open audio file; use it as a context manager.

    Parameters
    ----------
    path : the file
    strict : whether damage (truncated, corrupt) is an error instead of a notice

    Attributes
    ----------
    info : what is known before decoding
    notices : what the user should know of this file; complete when `blocks` has come to its end
    """

    def __init__(self, path: Path, *, strict: bool) -> None:
        self._path = path
        self._strict = strict
        self._opened: OpenFile | None = open_container(path)
        self._frames: Iterator[AudioFrame] | None = None
        try:
            self.info = self._peek()
        except BaseException:
            self.close()
            raise
        n_streams = self._opened.n_audio_streams
        self._first_notices = [f"{n_streams} audio streams: one was used"] if n_streams > 1 else []
        self.notices: list[str] = list(self._first_notices)

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; may be called again."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def blocks(self, *, offset_s: float = 0.0, duration_s: float | None = None) -> Iterator[FloatArray]:
        """Decode from `offset_s` on, for `duration_s` or to the end; may be called again.

        Yields
        ------
        block : ndarray [shape=(channel, time), float32], up to 65536 samples, at the file's own sample rate
        """
        rate = self.info.sample_rate
        skip = round(offset_s * rate)
        left = None if duration_s is None else round(duration_s * rate)
        for block in self._all_blocks():
            if skip >= block.shape[1]:
                skip -= block.shape[1]
                continue
            block = block[:, skip:]
            skip = 0
            if left is not None:
                block = block[:, :left]
                left -= block.shape[1]
            if block.shape[1]:
                yield block
            if left == 0:
                return

    def _all_blocks(self) -> Iterator[FloatArray]:
        frames, self._frames = self._frames, None
        if frames is None:
            self.close()
            self._opened = open_container(self._path)
            frames = self._decode()
        parts: list[FloatArray] = []
        n = 0
        for frame in frames:
            parts.append(_samples(frame))
            n += frame.samples
            if n >= _BLOCK:
                yield np.concatenate(parts, axis=1)
                parts, n = [], 0
        if parts:
            yield np.concatenate(parts, axis=1)

    def _decode(self) -> Iterator[AudioFrame]:
        assert self._opened is not None
        decoder = self._opened.stream.codec_context
        for packet in self._opened.container.demux(self._opened.stream):
            try:
                yield from decoder.decode(packet)
            except av.error.InvalidDataError:
                continue

    def _peek(self) -> AudioInfo:
        assert self._opened is not None
        frames = self._decode()
        first = next((frame for frame in frames if frame.samples), None)
        if first is None:
            raise AudioError(f"cannot read {quoted(self._path)}: it has no samples")
        self._frames = _chain(first, frames)
        stream = self._opened.stream
        bits: dict[str, int | str] = {"u8": 8, "s16": 16, "s32": 24, "flt": "float", "dbl": "float"}
        lossy = not (stream.codec_context.name.startswith("pcm") or stream.codec_context.name in {"flac", "alac"})
        return AudioInfo(
            path=self._path,
            codec=stream.codec_context.name,
            sample_rate=first.sample_rate,
            channels=channel_names([channel.name for channel in first.layout.channels]),
            n_samples=None,
            bit_depth=16 if lossy else bits[first.format.name.removesuffix("p")],
            lossy=lossy,
            tags={key.lower(): value for key, value in self._opened.container.metadata.items()},
        )


def open_audio(path: os.PathLike[str] | str, *, strict: bool = False) -> AudioReader:
    """Open an audio file for reading.

    Raises
    ------
    AudioError : missing, a directory, unreadable, empty, not audio, no audio stream, no samples
    """
    return AudioReader(Path(path), strict=strict)


def read_audio(
    path: os.PathLike[str] | str,
    *,
    sample_rate: int | None = None,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    strict: bool = False,
) -> Audio:
    """Read a whole file, or a part, into memory; resampled where `sample_rate` (Hz) is given and different."""
    with open_audio(path, strict=strict) as reader:
        blocks = list(reader.blocks(offset_s=offset_s, duration_s=duration_s))
        if not blocks:
            raise AudioError(f"cannot read {quoted(path)}: nothing at {offset_s} s")
        samples = np.concatenate(blocks, axis=1)
        rate = sample_rate or reader.info.sample_rate
        return Audio(resample(samples, reader.info.sample_rate, rate), rate)


def _chain(first: AudioFrame, rest: Iterator[AudioFrame]) -> Iterator[AudioFrame]:
    yield first
    yield from rest


_SCALE = {"u8": 2.0**-7, "s16": 2.0**-15, "s32": 2.0**-31}


def _samples(frame: AudioFrame) -> FloatArray:
    array: NDArray[np.generic] = frame.to_ndarray()
    name = frame.format.name
    if not frame.format.is_planar:
        array = array.reshape(-1, frame.layout.nb_channels).T
        name += "p"
    name = name.removesuffix("p")
    if name not in _SCALE:
        return array.astype(np.float32)
    offset = 128 if name == "u8" else 0
    return (array.astype(np.float32) - offset) * np.float32(_SCALE[name])
