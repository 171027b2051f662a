"""Opening an audio file with PyAV (FFmpeg): the container, its audio stream, and what they say.

Only the given file is ever read: FFmpeg gets an open file object, may use no protocol of its own, and only formats
that hold audio (no playlists, no text, no pictures).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer

from unbraid.audio.layout import default_channels
from unbraid.errors import AudioError

__all__ = ["FORMATS", "OpenFile", "open_container", "quoted"]

# Demuxers that can hold audio in one file of their own.
FORMATS = (
    "3dostr,aa,aac,ac3,adx,aea,aiff,amr,ape,apm,asf,asf_o,ast,au,avi,bonk,caf,codec2,dsf,dts,dtshd,dv,ea,eac3,flac,flv,"
    "g722,g723_1,gsm,gxf,hca,iamf,iff,ircam,kux,laf,live_flv,loas,lmlm4,matroska,webm,mlp,mmf,mov,mp4,m4a,3gp,3g2,mj2,"
    "mp3,mpc,mpc8,mpeg,mpegts,mxf,nistsphere,nut,nuv,ogg,oma,paf,qcp,qoa,rka,rm,rso,sbc,sds,shn,smjpeg,sox,spdif,svag,"
    "swf,tak,truehd,tta,vag,voc,vqf,w64,wav,wavarc,wsd,wtv,wv,xa,xwma"
)

_BUFFER_BYTES = 1 << 18


def quoted(path: os.PathLike[str] | str) -> str:
    """A path for a message: in quotes, on one line, whatever characters its name has."""
    return repr(os.fspath(path))


@dataclass
class OpenFile:
    """A file, FFmpeg's view of it, and the audio stream that is used."""

    file: BinaryIO
    container: InputContainer
    stream: AudioStream
    n_audio_streams: int

    def close(self) -> None:
        """Close both; may be called again."""
        self.container.close()
        self.file.close()


def open_container(path: Path) -> OpenFile:
    """Open `path` and choose its audio stream: the one marked as default, else the first.

    Raises
    ------
    AudioError : missing, a directory, unreadable, empty, not audio, without an audio stream or without its decoder
    """
    file = _open_file(path)
    try:
        container = av.open(
            file,
            "r",
            container_options={"format_whitelist": FORMATS, "protocol_whitelist": "none"},
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
    opened = OpenFile(file, container, streams[0], len(streams)) if streams else None
    if opened is None:
        container.close()
        file.close()
        raise AudioError(f"cannot read {quoted(path)}: it has no audio stream")
    defaults = [stream for stream in streams if int(stream.disposition) & 1]
    opened.stream = defaults[0] if defaults else streams[0]
    if opened.stream.codec_context is None:
        opened.close()
        raise AudioError(f"cannot read {quoted(path)}: there is no decoder for its audio; convert it to FLAC or WAV")
    return opened


def _open_file(path: Path) -> BinaryIO:
    """Open for reading, without a buffer of our own (FFmpeg has one)."""
    try:
        if path.is_dir():
            raise AudioError(f"cannot read {quoted(path)}: it is a directory")
        file = open(path, "rb", buffering=0)  # noqa: SIM115: closed by OpenFile
    except OSError as error:
        raise AudioError(f"cannot read {quoted(path)}: {error.strerror or error}") from error
    if os.fstat(file.fileno()).st_size == 0:
        file.close()
        raise AudioError(f"cannot read {quoted(path)}: the file is empty")
    return file


def channel_names(names: list[str]) -> tuple[str, ...]:
    """Speaker names from FFmpeg's, or the default ones where the stream names none (or names one twice)."""
    known = [name for name in names if name and name != "NONE"]
    if len(known) == len(names) and len(set(names)) == len(names):
        return tuple(names)
    return default_channels(len(names))
