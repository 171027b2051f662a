"""Opening an audio file with PyAV (FFmpeg): the container, its audio stream, and what they say.

Only the given file is ever read: FFmpeg gets an open file object, may use no protocol of its own, and only formats
that hold audio (no playlists, no text, no pictures).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import av
import av.error
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from unbraid.audio.layout import default_channels
from unbraid.audio.lengths import has_mp3_frame_count, mp4_samples, wav_samples
from unbraid.datatypes import AudioInfo
from unbraid.errors import AudioError

__all__ = ["OpenFile", "declared_samples", "describe", "open_container", "quoted"]

T = TypeVar("T")
_DEFAULT = 1  # AV_DISPOSITION_DEFAULT
_EXACT = {"aiff", "au", "flac", "tta", "wv", "ape", "tak", "dsf", "voc"}  # FFmpeg's duration is the header's

# Demuxers that can hold audio in one file of their own.
_FORMATS = (
    "3dostr,aa,aac,ac3,adx,aea,aiff,amr,ape,apm,asf,asf_o,ast,au,avi,bonk,caf,codec2,dsf,dts,dtshd,dv,ea,eac3,flac,flv,"
    "g722,g723_1,gsm,gxf,hca,iamf,iff,ircam,kux,laf,live_flv,loas,lmlm4,matroska,webm,mlp,mmf,mov,mp4,m4a,3gp,3g2,mj2,"
    "mp3,mpc,mpc8,mpeg,mpegts,mxf,nistsphere,nut,nuv,ogg,oma,paf,qcp,qoa,rka,rm,rso,sbc,sds,shn,smjpeg,sox,spdif,svag,"
    "swf,tak,truehd,tta,vag,voc,vqf,w64,wav,wavarc,wsd,wtv,wv,xa,xwma"
)

_BUFFER_BYTES = 1 << 18


def quoted(path: os.PathLike[str] | str) -> str:
    """A path for a message: in quotes, on one line, whatever characters its name has."""
    return repr(os.fspath(path))


@dataclass(frozen=True)
class OpenFile:
    """A file, FFmpeg's view of it, and which of its audio streams is used."""

    file: BinaryIO
    container: InputContainer
    stream: AudioStream
    n_audio_streams: int
    nth_audio_stream: int

    @property
    def demuxer(self) -> str:
        """FFmpeg's name of the format, its first one: "mov" for all of MP4's kin."""
        return self.container.format.name.split(",")[0]

    @property
    def rough_duration_s(self) -> float | None:
        """The container's own length, where it is of this stream alone and not an estimate."""
        if self.demuxer in ("asf", "matroska", "avi") and len(self.container.streams) == 1 and self.container.duration:
            return self.container.duration / 1e6
        return None

    def close(self) -> None:
        """Close both; may be called again."""
        self.container.close()
        self.file.close()


def open_container(path: Path, stream: int | None = None) -> OpenFile:
    """Open `path` and choose its audio stream: the one with that number, else the one marked as default, or the first.

    stream : number among the audio streams, from 0; None for the default

    Raises
    ------
    AudioError : missing, a directory, unreadable, empty, not audio, without an audio stream, that one or its decoder
    """
    opened = _open(path, stream, {})
    if opened.demuxer == "mov" and opened.stream.codec_context.name in ("aac", "opus"):
        rate, track_id = opened.stream.codec_context.sample_rate, opened.stream.id
        if _aside(opened, lambda file: mp4_samples(file, track_id, rate)) is not None:
            # FFmpeg drops the last packet if a rounded edit list ends before it: leave the list to our own length.
            opened.close()
            opened = _open(path, stream, {"advanced_editlist": "0"})
    return opened


def _open(path: Path, stream: int | None, options: dict[str, str]) -> OpenFile:
    file = _open_file(path)
    try:
        container = av.open(
            file,
            "r",
            container_options={"format_whitelist": _FORMATS, "protocol_whitelist": "none", **options},
            metadata_errors="replace",
            buffer_size=_BUFFER_BYTES,
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        file.close()
        if isinstance(error, av.error.FFmpegError):
            raise AudioError(f"cannot read {quoted(path)}: it is not audio, or damaged") from error
        raise AudioError(f"cannot read {quoted(path)}: {error}") from error
    except BaseException:
        file.close()
        raise
    streams = container.streams.audio
    nth = stream
    if nth is None:
        nth = next((i for i, found in enumerate(streams) if int(found.disposition) & _DEFAULT), 0)
    problem = None
    if not streams:
        problem = "it has no audio stream"
    elif not 0 <= nth < len(streams):
        some = "1 audio stream" if len(streams) == 1 else f"{len(streams)} audio streams"
        problem = f"it has {some}, number {nth} (from 0) was asked for"
    elif streams[nth].codec_context is None:
        problem = "there is no decoder for its audio; convert it to FLAC or WAV"
    if problem is not None:
        container.close()
        file.close()
        raise AudioError(f"cannot read {quoted(path)}: {problem}")
    return OpenFile(file, container, streams[nth], len(streams), nth)


def declared_samples(opened: OpenFile, sample_rate: int) -> int | None:
    """Samples per channel that the file promises; None where it does not say it exactly."""
    stream, demuxer = opened.stream, opened.demuxer
    duration = stream.duration
    promised = round(duration * stream.time_base * sample_rate) if duration and stream.time_base else None
    if demuxer in ("wav", "w64"):
        return _aside(opened, wav_samples)
    if demuxer == "mov":
        # Of several streams, the note does not say which one it is about.
        noted = _itunes_samples(opened.container.metadata) if opened.n_audio_streams == 1 else None
        return noted or _aside(opened, lambda file: mp4_samples(file, stream.id, sample_rate))
    if demuxer == "mp3":
        return promised if _aside(opened, has_mp3_frame_count) else None
    if demuxer == "ogg":
        return _ogg_samples(opened, promised)
    if demuxer == "caf":
        return stream.frames if stream.codec_context.name.startswith("pcm") else None
    return promised if demuxer in _EXACT else None


def describe(path: Path, opened: OpenFile, first: AudioFrame, n_samples: int | None) -> AudioInfo:
    """What is known once the first frame is there."""
    decoder = opened.stream.codec_context
    lossy = decoder.codec.lossy and not (decoder.codec.lossless and not first.format.name.startswith("flt"))
    tags = {**opened.container.metadata, **opened.stream.metadata}
    return AudioInfo(
        path=path,
        codec=decoder.name,
        sample_rate=first.sample_rate,
        channels=channel_names([channel.name for channel in first.layout.channels]),
        n_samples=n_samples,
        bit_depth=16 if lossy else _bit_depth(decoder.name, decoder.extradata, first.format.name),
        lossy=lossy,
        tags={key.lower(): value for key, value in tags.items()},
    )


def _aside(opened: OpenFile, look: Callable[[BinaryIO], T]) -> T:
    """Look at the file without disturbing FFmpeg's place in it."""
    place = opened.file.tell()
    try:
        return look(opened.file)
    finally:
        opened.file.seek(place)


def _itunes_samples(metadata: Mapping[str, str]) -> int | None:
    """The length in iTunes' note of delay, padding and length (three of its hexadecimal numbers)."""
    fields = metadata.get("iTunSMPB", "").split()
    try:
        return int(fields[3], 16) or None
    except (IndexError, ValueError):
        return None


def _ogg_samples(opened: OpenFile, promised: int | None) -> int | None:
    """The last page's position; of Opus it counts the samples to skip at the start."""
    if promised is None or opened.stream.codec_context.name not in ("vorbis", "opus", "libopus", "flac"):
        return None
    header = opened.stream.codec_context.extradata or b""
    if header[:8] == b"OpusHead":
        promised -= int.from_bytes(header[10:12], "little")
    return promised if promised > 0 else None


def _bit_depth(codec: str, header: bytes | None, sample_format: str) -> int | str:
    """Bits of a lossless codec's samples, rounded up to 8, 16, 24 or 32; "float" for floating point."""
    if sample_format.startswith(("flt", "dbl")):
        return "float"
    bits = {"u8": 8, "s16": 16, "s32": 24, "s64": 32}[sample_format.removesuffix("p")]
    if match := re.search(r"^pcm_[su](\d+)", codec):
        bits = int(match[1])
    elif codec == "flac" and header and len(header) >= 34:
        bits = ((header[12] & 1) << 4 | header[13] >> 4) + 1
    elif codec == "alac" and header and len(header) >= 36:
        bits = header[17]
    return next((depth for depth in (8, 16, 24) if bits <= depth), 32)


def _open_file(path: Path) -> BinaryIO:
    """Open for reading, without a buffer of our own (FFmpeg has one)."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise AudioError(f"cannot read {quoted(path)}: it is a directory")
        if not stat.S_ISREG(status.st_mode):
            raise AudioError(f"cannot read {quoted(path)}: it is not a regular file; save the audio to a file first")
        if status.st_size == 0:
            raise AudioError(f"cannot read {quoted(path)}: the file is empty")
        return open(path, "rb", buffering=0)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioError(f"cannot read {quoted(path)}: {reason}") from error


def channel_names(names: list[str]) -> tuple[str, ...]:
    """Speaker names from FFmpeg's, or the default ones where the stream names none (or names one twice)."""
    known = [name for name in names if name and name != "NONE"]
    if len(known) == len(names) and len(set(names)) == len(names):
        return tuple(names)
    return default_channels(len(names))
