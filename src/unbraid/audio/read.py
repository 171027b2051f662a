"""Files to arrays, block by block; everything is decoded by PyAV (FFmpeg).

Encoder delay and padding are removed wherever the file tells them, so that lengths are those of the audio that was
encoded, to the sample: WAV, RF64, W64, AIFF, CAF, FLAC, ALAC, WavPack, TTA, Ogg Vorbis, Opus (Ogg, WebM), MP3 with a
LAME header, AAC, ALAC and Opus in MP4 (edit list, sample durations or iTunes' own note). These tell nothing, and the
decoded length is the truth: MP3 without a LAME header, MP2, AC-3, raw AAC (ADTS), WMA, and AAC or MP3 in Matroska,
MPEG-TS, FLV and AVI. Opus is always decoded at 48 kHz. Samples of b-bit integers are divided by 2^(b−1).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import TracebackType

import av.error
import numpy as np
from av.audio.frame import AudioFrame

from unbraid.audio.container import OpenFile, declared_samples, describe, open_container, quoted
from unbraid.audio.decode import Damage, Gap, blocks_of, decode_frames
from unbraid.audio.lengths import ogg_is_cut_off
from unbraid.audio.resample import resample
from unbraid.datatypes import Audio, AudioInfo, FloatArray
from unbraid.errors import AudioError

__all__ = ["AudioReader", "open_audio", "read_audio"]

_SLACK = 8192  # samples that may follow the last one: at most a block of Vorbis
_PADDING: dict[str, None] = {"mov": None, "w64": None}  # here all that follows is padding
_LOOSE_S = 0.25  # tolerance of lengths that are only roughly known


class AudioReader:
    """An open audio file; use it as a context manager.

    Parameters
    ----------
    path : Path
    stream : int or None
        Number among the file's audio streams, from 0; None for the one marked as default, else the first.
    strict : bool
        Whether damage (truncated, corrupt) is an error instead of a notice.

    Attributes
    ----------
    info : AudioInfo
        What is known before decoding; `n_samples` is exact or None.
    notices : list of str
        What the user should know of this file; complete when `blocks` has come to its end.
    """

    def __init__(self, path: Path, *, stream: int | None = None, strict: bool = False) -> None:
        self._path = path
        self._stream = stream
        self._strict = strict
        self._damage = Damage()
        self._frames: Iterator[AudioFrame | Gap] | None = None
        self._opened: OpenFile | None = open_container(path, stream)
        try:
            self.info = self._start()
        except BaseException:
            self.close()
            raise
        n_streams = self._opened.n_audio_streams
        nth = self._opened.nth_audio_stream
        chosen_for_user = stream is None and n_streams > 1
        self._first_notices = [f"{n_streams} audio streams: number {nth + 1} was used"] if chosen_for_user else []
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
        """Decode from `offset_s` on, for `duration_s` or to the end; may be called again, and starts anew then.

        Yields
        ------
        block : ndarray [shape=(channel, time), float32]
            About 65536 samples each, at the file's own sample rate, finite; the caller may change it.

        Raises
        ------
        AudioError : nothing lies at `offset_s`; the file cannot be read on; it changes its sample rate or channels;
            it is damaged and `strict` was asked for
        """
        rate = self.info.sample_rate
        skip = round(offset_s * rate)
        left = None if duration_s is None else round(duration_s * rate)
        n_given = 0
        for block in self._all_blocks():
            part = block[:, skip:] if skip else block
            skip = max(0, skip - block.shape[1])
            if left is not None:
                part = part[:, :left]
                left -= part.shape[1]
            if part.shape[1]:
                n_given += part.shape[1]
                yield part
            if left == 0:
                break
        if n_given == 0:
            end_s = self._damage.n_samples / rate
            raise AudioError(f"cannot read {quoted(self._path)} from {offset_s} s on: it is only {end_s:.3f} s long")

    def _all_blocks(self) -> Iterator[FloatArray]:
        """The whole file, then its notices."""
        if self._frames is None:
            self.close()
            self._opened = open_container(self._path, self._stream)
            self._damage = Damage()
            self._frames = decode_frames(self._opened, self._damage)
        frames, self._frames = self._frames, None
        opened, damage = self._opened, self._damage
        assert opened is not None
        self.notices[:] = self._first_notices
        blocks = blocks_of(
            frames,
            sample_rate=self.info.sample_rate,
            n_channels=self.info.n_channels,
            damage=damage,
            limit=self.info.n_samples,
            slack=_PADDING.get(opened.demuxer, _SLACK),
        )
        try:
            yield from blocks
        except AudioError as error:
            raise AudioError(f"cannot read {quoted(self._path)}: {error}; convert it to FLAC or WAV first") from error
        except (OSError, av.error.FFmpegError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise AudioError(f"cannot read on in {quoted(self._path)}: {reason}") from error
        self._finish(opened, damage)

    def _finish(self, opened: OpenFile, damage: Damage) -> None:
        """Turn what was noticed into notices or, if strict, an error."""
        found = _damage_notices(self.info, opened, damage)
        if found and self._strict:
            raise AudioError(f"cannot read all of {quoted(self._path)}: {'; '.join(found)} (strict)")
        self.notices += found
        if damage.n_not_finite:
            self.notices.append(f"{damage.n_not_finite} non-finite samples set to zero")

    def _start(self) -> AudioInfo:
        """Decode the first frame, which tells what the stream really is."""
        assert self._opened is not None
        frames = decode_frames(self._opened, self._damage)
        try:
            first = next(frames, None)
        except (OSError, av.error.FFmpegError) as error:
            raise AudioError(f"cannot read {quoted(self._path)}: it is not audio, or damaged") from error
        if first is None:
            if self._damage.n_errors:
                raise AudioError(f"cannot read {quoted(self._path)}: it is not audio, or damaged")
            raise AudioError(f"cannot read {quoted(self._path)}: it has no samples")
        assert isinstance(first, AudioFrame)
        self._frames = chain([first], frames)
        return describe(self._path, self._opened, first, declared_samples(self._opened, first.sample_rate))


def _damage_notices(info: AudioInfo, opened: OpenFile, damage: Damage) -> list[str]:
    """What is missing or broken, in words."""
    found = []
    rate = info.sample_rate
    n_missing = 0
    if info.n_samples is not None:
        n_missing = info.n_samples - damage.n_samples
        if n_missing > (1152 if opened.demuxer == "mp3" else 0):  # some encoders count their header as a frame
            found.append(f"truncated: the last {n_missing} samples ({n_missing / rate:.3f} s) are missing")
        else:
            n_missing = 0
    elif opened.rough_duration_s is not None:
        missing_s = opened.rough_duration_s - damage.n_samples / rate
        if missing_s > _LOOSE_S:
            n_missing = round(missing_s * rate)
            found.append(f"truncated: about the last {missing_s:.1f} s are missing")
    if not n_missing and opened.demuxer == "ogg" and ogg_is_cut_off(opened.file):
        n_missing = 1
        found.append("truncated: the file ends in the middle; how much is missing is not known")
    if damage.gaps:
        first, n_lost = damage.gaps[0], sum(gap.n_samples for gap in damage.gaps)
        places = "at" if len(damage.gaps) == 1 else f"in {len(damage.gaps)} places, the first at"
        found.append(
            f"damaged {places} {first.start / rate:.3f} s: {n_lost} samples ({n_lost / rate:.3f} s) "
            "are missing and were replaced by silence"
        )
    elif damage.n_errors > (1 if n_missing else 0):
        found.append(f"damaged: {damage.n_errors} packets could not be decoded")
    if damage.n_jumps:
        found.append(f"damaged: {damage.n_jumps} time stamps made no sense and were ignored")
    return found


def open_audio(path: os.PathLike[str] | str, *, stream: int | None = None, strict: bool = False) -> AudioReader:
    """Open an audio file for reading.

    Parameters
    ----------
    path : path
        A local file in any format that FFmpeg knows; of a video, the sound track is read.
    stream : int, optional
        Number among the file's audio streams, from 0; without it the one marked as default, else the first, is read,
        and a notice says so where there are several.
    strict : bool
        Whether damage is an error (raised by `blocks`) instead of a notice.

    Raises
    ------
    AudioError : missing, a directory, unreadable, empty, not audio, no audio stream or not that one, no samples
    """
    return AudioReader(Path(path), stream=stream, strict=strict)


def read_audio(
    path: os.PathLike[str] | str,
    *,
    sample_rate: int | None = None,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    stream: int | None = None,
    strict: bool = False,
) -> Audio:
    """Read a whole file, or a part, into memory; resampled where `sample_rate` (Hz) is given and different.

    stream : as in `open_audio`

    Raises
    ------
    AudioError : as `open_audio` and `AudioReader.blocks`
    """
    with open_audio(path, stream=stream, strict=strict) as reader:
        samples = np.concatenate(list(reader.blocks(offset_s=offset_s, duration_s=duration_s)), axis=1)
        if sample_rate is None or sample_rate == reader.info.sample_rate:
            return Audio(samples, reader.info.sample_rate)
        return Audio(resample(samples, reader.info.sample_rate, sample_rate), sample_rate)
