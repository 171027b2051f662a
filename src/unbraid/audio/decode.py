"""From an open container to blocks of floats, with a record of everything that was damaged on the way.

Time is kept: where packets are lost, silence of their length takes their place as far as the container's time stamps
tell it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame

from unbraid.audio.container import OpenFile
from unbraid.audio.pcm import extremes
from unbraid.datatypes import FloatArray
from unbraid.errors import AudioError

__all__ = ["Damage", "Gap", "blocks_of", "decode_frames"]

_BLOCK = 1 << 16
_LONGEST_GAP_S = 60.0  # a longer jump of the clock is a broken time stamp, not lost audio

# numpy type and the power of two that full scale is, for each of FFmpeg's packed sample formats
_FORMATS: dict[str, tuple[np.dtype[Any], int]] = {
    "u8": (np.dtype(np.uint8), 7),
    "s16": (np.dtype(np.int16), 15),
    "s32": (np.dtype(np.int32), 31),
    "s64": (np.dtype(np.int64), 63),
    "flt": (np.dtype(np.float32), 0),
    "dbl": (np.dtype(np.float64), 0),
}


@dataclass(frozen=True)
class Gap:
    """Samples that are missing in mid-stream: how many, and where."""

    start: int
    n_samples: int


@dataclass
class Damage:
    """What was wrong with a stream, filled while it is decoded.

    gaps : what was replaced by silence
    n_errors : packets that could not be decoded
    n_jumps : time stamps that made no sense
    n_not_finite : NaN and infinite samples, which were set to zero
    n_samples : samples per channel given out so far
    """

    gaps: list[Gap] = field(default_factory=list)
    n_errors: int = 0
    n_jumps: int = 0
    n_not_finite: int = 0
    n_samples: int = 0


def decode_frames(opened: OpenFile, damage: Damage) -> Iterator[AudioFrame | Gap]:
    """Decode the stream: its frames and, between them, what is missing."""
    n_samples = 0
    # Time stamps within a page of Vorbis are guessed, and can be wrong by half a block (8192 samples at most).
    least_jump = 4096 if opened.stream.codec_context.name == "vorbis" else 2
    tick_s = float(opened.stream.time_base or 0.0)
    end: float | None = None  # of the last frame, on the container's clock, in samples
    for frame in _frames(opened, damage):
        n, rate, pts = frame.samples, frame.sample_rate, frame.pts
        if pts is not None:
            clock = pts * tick_s * rate
            jump = 0.0 if end is None else clock - end
            if jump > _LONGEST_GAP_S * rate:
                damage.n_jumps += 1
            elif jump >= max(n // 2, rate // 100, least_jump):
                gap = Gap(n_samples, round(jump))
                damage.gaps.append(gap)
                n_samples += gap.n_samples
                yield gap
            end = clock
        yield frame
        n_samples += n
        if end is not None:
            end += n


def _frames(opened: OpenFile, damage: Damage) -> Iterator[AudioFrame]:
    decoder = opened.stream.codec_context
    if not decoder.is_open and decoder.codec.lossless and not decoder.codec.lossy:
        # A lossless frame whose checksum is wrong is noise at full volume: lose it instead.
        decoder.options = {"err_detect": "crccheck+explode"}
    swallow = decoder.name == "vorbis"
    if swallow:
        # FFmpeg cuts too little or too much off the end of a stream of one page: `blocks_of` does it, by the stream's
        # length, and here the first packet is left out, which only prepares the second.
        decoder.flags2 |= int(av.codec.context.Flags2.skip_manual)
    packets = opened.container.demux(opened.stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.InvalidDataError:
            damage.n_errors += 1  # nothing more can be found in the file
            return
        if packet is None:
            return
        try:
            frames = decoder.decode(packet)
        except (av.error.InvalidDataError, av.error.PatchWelcomeError):
            damage.n_errors += 1
            continue
        except av.error.EOFError:
            return
        if swallow:
            swallow = False
            continue
        for frame in frames:
            if frame.samples:
                yield frame


def blocks_of(
    frames: Iterator[AudioFrame | Gap],
    *,
    sample_rate: int,
    n_channels: int,
    damage: Damage,
    limit: int | None = None,
    slack: int | None = None,
) -> Iterator[FloatArray]:
    """Gather frames into blocks.

    frames : as from `decode_frames`
    limit : samples per channel to give out at most
    slack : how many samples beyond the limit are padding; if there are more, the limit was wrong and all are given out

    Yields
    ------
    block : ndarray [shape=(channel, time), float32], about 65536 samples, finite

    Raises
    ------
    AudioError : sample rate or number of channels change in mid-stream
    """
    kept: list[FloatArray] = []  # what lies beyond the limit
    n_kept = 0
    for block in _gathered(frames, sample_rate, n_channels):
        n_wanted = block.shape[1]
        if limit is not None:
            n_wanted = min(n_wanted, max(0, limit - damage.n_samples))
            if slack is not None and n_wanted < block.shape[1]:
                kept.append(block[:, n_wanted:])
                n_kept += block.shape[1] - n_wanted
                if n_kept > slack:
                    limit = None
        if n_wanted:
            yield _finished(block[:, :n_wanted], damage)
        if limit is None:
            for late in kept:
                yield _finished(late, damage)
            kept = []


def _gathered(frames: Iterator[AudioFrame | Gap], sample_rate: int, n_channels: int) -> Iterator[FloatArray]:
    """Blocks of many frames: FFmpeg's queue is several times quicker than an array operation for each frame."""
    queue, n = av.AudioFifo(), 0
    for frame in frames:
        if isinstance(frame, Gap):
            if n:
                yield _floats(queue, n_channels)
                n = 0
            for start in range(0, frame.n_samples, _BLOCK):
                yield np.zeros((n_channels, min(_BLOCK, frame.n_samples - start)), np.float32)
            continue
        if frame.sample_rate != sample_rate:
            raise AudioError(f"its sample rate changes from {sample_rate} to {frame.sample_rate} Hz in mid-stream")
        if frame.layout.nb_channels != n_channels:
            raise AudioError(f"it changes from {n_channels} to {frame.layout.nb_channels} channels in mid-stream")
        frame.pts = None  # gaps are dealt with already
        try:
            queue.write(frame)
        except ValueError:  # another sample format
            if n:
                yield _floats(queue, n_channels)
            queue, n = av.AudioFifo(), 0
            queue.write(frame)
        n += frame.samples
        if n >= _BLOCK:
            yield _floats(queue, n_channels)
            n = 0
    if n:
        yield _floats(queue, n_channels)


def _floats(queue: av.AudioFifo, n_channels: int) -> FloatArray:
    """All that the queue holds [shape=(channel, time), float32], full scale ±1."""
    frame = queue.read()
    assert frame is not None
    n, name = frame.samples, frame.format.name
    dtype, power = _FORMATS[name.removesuffix("p")]
    out = np.empty((n_channels, n), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # float64 beyond float32 becomes infinite, and is noticed later
        if frame.format.is_planar and n_channels < 8:
            for channel, plane in zip(out, frame.planes, strict=False):
                channel[...] = np.frombuffer(memoryview(plane), dtype, n)
        else:
            data = _interleaved(frame) if frame.format.is_planar else memoryview(frame.planes[0])
            out[...] = np.frombuffer(data, dtype, n * n_channels).reshape(n, n_channels).T
    if power:
        if name.startswith("u8"):
            out -= 128
        out *= np.float32(2.0**-power)
    return out


def _interleaved(frame: AudioFrame) -> bytes:
    """A planar frame's samples, interleaved: PyAV finds no end of the list of planes if there are eight or more."""
    resampler = av.AudioResampler(
        format=frame.format.name.removesuffix("p"), layout=frame.layout, rate=frame.sample_rate
    )
    return b"".join(bytes(part.planes[0]) for part in resampler.resample(frame))


def _finished(block: FloatArray, damage: Damage) -> FloatArray:
    """Count the samples and set NaN and ±inf to zero, in place."""
    damage.n_samples += block.shape[1]
    if not all(map(math.isfinite, extremes(block))):
        bad = ~np.isfinite(block)
        block[bad] = 0.0
        damage.n_not_finite += int(np.count_nonzero(bad))
    return block
