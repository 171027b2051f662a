"""Arrays to files: a temporary file beside the target, renamed when it is complete.

WAV is written by `wav`, Ogg Vorbis by `ogg` (libsndfile), everything else by `encoder` (PyAV).
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

import av.error
import numpy as np

from unbraid.audio.container import quoted
from unbraid.audio.encoding import CODECS, Encoding
from unbraid.audio.layout import default_channels
from unbraid.audio.pcm import count_beyond_full_scale, extremes
from unbraid.datatypes import Audio, FloatArray, WriteReport
from unbraid.errors import AudioError, UsageError

try:
    import fcntl
except ImportError:  # Windows, which does not let go of a file that is open anyway
    fcntl = None  # type: ignore[assignment]

__all__ = ["AudioWriter", "leftovers", "write_audio"]


class _Sink(Protocol):
    """What writes one format: blocks into an open file, completed by `close`."""

    def write(self, block: FloatArray) -> None: ...

    def close(self) -> None: ...


class AudioWriter:
    """Writes one file, block by block; use it as a context manager.

    Everything goes to `.NAME.<random>.part` in the target's folder. When the `with` block ends well, the file is
    completed and renamed over the target (which is replaced, if it exists); on any exception the temporary file is
    removed and the target stays as it was. To give several files their names only when all are complete, call
    `finish` on all, then `commit`, inside the `with` block.

    Parameters
    ----------
    path : the final name
    encoding : codec and quality
    sample_rate : Hz; must be one that the codec can carry, see `Encoding.nearest_sample_rate`
    channels : speaker of each channel, as in `AudioInfo.channels`
    tags : "title", "artist" and "album" are written, others are left out
    clamp : limit floating-point output to ±1, too; integers and lossy codecs are always limited

    Attributes
    ----------
    report : WriteReport, after the end of the `with` block

    Raises
    ------
    UsageError : the codec cannot carry this sample rate or this many channels
    AudioError : the file cannot be written (folder missing or read-only, disk full, …)
    """

    report: WriteReport

    def __init__(
        self,
        path: os.PathLike[str] | str,
        *,
        encoding: Encoding,
        sample_rate: int,
        channels: tuple[str, ...],
        tags: Mapping[str, str] | None = None,
        clamp: bool = False,
    ) -> None:
        self._path = Path(path)
        _check(encoding, sample_rate, channels)
        self._encoding = encoding
        self._sample_rate = sample_rate
        self._channels = channels
        self._tags = {
            key: value for key, value in (tags or {}).items() if key in ("title", "artist", "album") and value
        }
        self._clamp = clamp or encoding.bit_depth != "float"
        self._n_samples = 0
        self._n_clipped = 0
        self._temporary: Path | None = None
        self._file: BinaryIO | None = None
        self._sink: _Sink | None = None

    def __enter__(self) -> AudioWriter:
        try:
            if self._path.is_dir():
                raise AudioError(f"cannot write {quoted(self._path)}: it is a directory")
            self._open()
        except BaseException as error:
            self._discard()
            self._translate(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.finish()
                self.commit()
        finally:
            self._discard()

    def write(self, block: FloatArray) -> None:
        """Append a block.

        block : ndarray [shape=(channel, time), float32]; not changed

        Raises
        ------
        AudioError : the disk is full, or a sample is not finite
        """
        assert self._sink is not None, "write inside the with block"
        if block.ndim != 2 or block.shape[0] != len(self._channels):
            raise UsageError(f"a block must have shape ({len(self._channels)}, time), got {block.shape}")
        if block.shape[1] == 0:
            return
        low, high = extremes(block)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise AudioError(f"cannot write {quoted(self._path)}: there are samples that are not finite numbers")
        if self._clamp and (low < -1.0 or high > 1.0):
            self._n_clipped += count_beyond_full_scale(block)
            block = np.clip(block, np.float32(-1), np.float32(1))
        try:
            self._sink.write(block)
        except (OSError, av.error.FFmpegError) as error:
            self._translate(error)
            raise
        self._n_samples += block.shape[1]

    def finish(self) -> None:
        """Complete the temporary file, so that only `commit` is left to do; may be called again.

        Raises
        ------
        AudioError : the disk is full
        """
        if self._file is None or self._file.closed:
            return
        assert self._sink is not None
        try:
            self._sink.close()
            self._file.close()
        except (OSError, av.error.FFmpegError) as error:
            self._translate(error)
            raise
        self.report = WriteReport(self._path, self._n_samples, self._n_clipped)

    def commit(self) -> None:
        """Give the finished file its final name; may be called again.

        Raises
        ------
        AudioError : the target is a directory, or the folder does not allow it
        """
        if self._temporary is None:
            return
        try:
            os.replace(self._temporary, self._path)
        except OSError as error:
            self._translate(error)
            raise
        self._temporary = None

    def _open(self) -> None:
        for path in leftovers(self._path):
            with suppress(OSError):  # another run was quicker
                path.unlink()
        self._temporary = self._path.with_name(f"{_temporary_prefix(self._path)}{secrets.token_hex(6)}.part")
        self._file = open(self._temporary, "x+b", buffering=1 << 18)  # noqa: SIM115
        _lock(self._file)
        self._sink = _make_sink(self._file, self._encoding, self._sample_rate, self._channels, self._tags)

    def _discard(self) -> None:
        """Remove the temporary file, whatever state it is in."""
        if self._file is not None:
            with suppress(OSError):  # what could not be flushed is thrown away anyway
                self._file.close()
        if self._temporary is not None:
            with suppress(FileNotFoundError):
                self._temporary.unlink()
            self._temporary = None

    def _translate(self, error: BaseException) -> None:
        """Raise an AudioError in place of an error of the system or of FFmpeg."""
        if isinstance(error, (OSError, av.error.FFmpegError)) and not isinstance(error, AudioError):
            reason = getattr(error, "strerror", None) or str(error)
            raise AudioError(f"cannot write {quoted(self._path)}: {reason}") from error


def leftovers(path: Path) -> list[Path]:
    """Temporary files of `path` that nobody writes any more: an interrupted run left them behind."""
    prefix = _temporary_prefix(path)
    try:
        found = sorted(one for one in path.parent.iterdir() if one.name.startswith(prefix) and one.suffix == ".part")
    except OSError:  # no such folder, or not ours to read
        return []
    return [one for one in found if not _is_being_written(one)]


def _temporary_prefix(path: Path) -> str:
    """How the names of temporary files begin."""
    # A name of 255 bytes, the most that file systems allow, leaves no room for the random part.
    return f".{os.fsdecode(os.fsencode(path.name)[:200])}."


def _lock(file: BinaryIO) -> bool:
    """Mark a file as being written until it is closed. Returns whether nobody else has done so."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # locked, or a file system without locks
        return False
    return True


def _is_being_written(path: Path) -> bool:
    try:
        with path.open("r+b") as file:
            return not _lock(file)
    except OSError:
        return True


def write_audio(
    path: os.PathLike[str] | str,
    audio: Audio,
    *,
    encoding: Encoding | None = None,
    channels: tuple[str, ...] | None = None,
    tags: Mapping[str, str] | None = None,
    clamp: bool = False,
) -> WriteReport:
    """Write a whole piece of audio; see `AudioWriter`. Without `encoding`: 16-bit wav."""
    names = channels or default_channels(audio.samples.shape[0])
    writer = AudioWriter(
        path,
        encoding=encoding or Encoding(),
        sample_rate=audio.sample_rate,
        channels=names,
        tags=tags,
        clamp=clamp,
    )
    with writer:
        for start in range(0, audio.samples.shape[1], 1 << 16):
            writer.write(audio.samples[:, start : start + (1 << 16)])
    return writer.report


def _check(encoding: Encoding, sample_rate: int, channels: tuple[str, ...]) -> None:
    limits = CODECS[encoding.codec]
    if len(channels) > limits.max_channels:
        raise UsageError(
            f"{encoding.codec} holds at most {limits.max_channels} channels, got {len(channels)}: choose wav"
            + (" or flac" if len(channels) <= CODECS["flac"].max_channels else "")
        )
    if limits.layouts is not None and channels not in limits.layouts:
        raise UsageError(f"{encoding.codec} has no place for the speakers {' '.join(channels)}: choose wav or flac")
    if encoding.nearest_sample_rate(sample_rate) != sample_rate:
        raise UsageError(f"{encoding.codec} cannot carry {sample_rate} Hz: resample to a rate it has, or choose wav")


def _make_sink(
    file: BinaryIO, encoding: Encoding, sample_rate: int, channels: tuple[str, ...], tags: Mapping[str, str]
) -> _Sink:
    if encoding.codec == "wav":
        from unbraid.audio.wav import WavSink

        assert encoding.bit_depth is not None
        return WavSink(file, bit_depth=encoding.bit_depth, sample_rate=sample_rate, channels=channels, tags=tags)
    if encoding.codec == "ogg":
        from unbraid.audio.ogg import OggSink

        assert encoding.bitrate is not None
        return OggSink(file, bitrate=encoding.bitrate, sample_rate=sample_rate, channels=channels, tags=tags)
    from unbraid.audio.encoder import EncoderSink

    return EncoderSink(file, encoding=encoding, sample_rate=sample_rate, channels=channels, tags=tags)
