"""Audio and video files for tests, good ones and broken ones, written without Unbraid's own writers."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame

from unbraid.datatypes import FloatArray

__all__ = ["CODECS", "encode", "music", "video", "write_wav"]

# extension -> (container, encoder, sample format)
CODECS = {
    "mp3": ("mp3", "libmp3lame", "s16p"),
    "m4a": ("ipod", "aac", "fltp"),
    "opus": ("opus", "libopus", "flt"),
    "wma": ("asf", "wmav2", "fltp"),
    "flac": ("flac", "flac", "s16"),
    "alac": ("ipod", "alac", "s16p"),
    "mka": ("matroska", "flac", "s16"),
}
_PACKED = {"u8": (1, "<u1"), "s16": (1, "<i2"), "s32": (1, "<i4"), "f32": (3, "<f4"), "f64": (3, "<f8")}


def music(n_samples: int, *, n_channels: int = 2, sample_rate: int = 44100, seed: int = 3) -> FloatArray:
    """Tones and noise that differ from channel to channel [shape=(channel, time)], peak below 0.6."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(n_samples) / sample_rate
    tones = [0.3 * np.sin(2 * np.pi * (220 + 110 * channel) * time_s) for channel in range(n_channels)]
    return (np.stack(tones) + rng.uniform(-0.2, 0.2, (n_channels, n_samples))).astype(np.float32)


def write_wav(
    path: Path, samples: FloatArray, *, sample_rate: int = 44100, packing: str = "f32", data_bytes: int | None = None
) -> Path:
    """A plain WAV; `data_bytes` is what its header claims, if not the truth."""
    tag, dtype = _PACKED[packing]
    with np.errstate(all="ignore"):
        if tag == 3:
            data = samples.T.astype(dtype)
        else:
            scale = 2.0 ** (8 * np.dtype(dtype).itemsize - 1)
            data = (np.round(samples.T * (scale - 1)) + (scale if packing == "u8" else 0)).astype(dtype)
    raw = data.tobytes()
    n_channels, width = len(samples), data.dtype.itemsize
    fmt = struct.pack(
        "<HHIIHH", tag, n_channels, sample_rate, sample_rate * n_channels * width, n_channels * width, 8 * width
    )
    size = len(raw) if data_bytes is None else data_bytes
    riff = min(36 + size, 0xFFFFFFFF)
    path.write_bytes(
        struct.pack("<4sI4s4sI", b"RIFF", riff, b"WAVE", b"fmt ", 16) + fmt + struct.pack("<4sI", b"data", size) + raw
    )
    return path


def encode(
    path: Path,
    samples: FloatArray,
    *,
    sample_rate: int = 44100,
    codec: str | None = None,
    n_streams: int = 1,
    tags: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode with the codec of the file's extension, or another.

    n_streams : so many audio streams; the second is the first at half the level, and so on
    """
    codec = codec or path.suffix[1:]
    if codec in ("ogg", "aiff"):
        subtype = "VORBIS" if codec == "ogg" else "PCM_16"
        soundfile.write(path, samples.T, sample_rate, format=codec.upper(), subtype=subtype)
        return path
    container_name, encoder, sample_format = CODECS[codec]
    with av.open(path, "w", format=container_name, options=options or {}) as container:
        container.metadata.update(tags or {})
        layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(samples)]
        streams = []
        for _ in range(n_streams):
            stream = container.add_stream(encoder, rate=sample_rate, layout=layout, format=sample_format)
            if codec == "wma":
                stream.codec_context.bit_rate = 128_000
            stream.codec_context.open()
            streams.append(stream)
        for start in range(0, samples.shape[1], 1024):
            for nth, stream in enumerate(streams):
                part = samples[:, start : start + 1024] / 2**nth
                container.mux(stream.encode(_frame(part, sample_format, layout, sample_rate, start)))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


def video(path: Path, samples: FloatArray | None, *, sample_rate: int = 44100) -> Path:
    """A second of moving pictures, with sound or without."""
    with av.open(path, "w") as container:
        pictures = container.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
        sound = None
        if samples is not None:
            sound = container.add_stream("aac", rate=sample_rate, layout="stereo", format="fltp")
        for nth in range(10):
            picture = VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * nth, np.uint8), format="rgb24")
            container.mux(pictures.encode(picture))
        container.mux(pictures.encode(None))
        if sound is not None and samples is not None:
            for start in range(0, samples.shape[1], 1024):
                part = samples[:, start : start + 1024]
                container.mux(sound.encode(_frame(part, "fltp", "stereo", sample_rate, start)))
            container.mux(sound.encode(None))
    return path


def _frame(part: FloatArray, sample_format: str, layout: str, sample_rate: int, start: int) -> AudioFrame:
    data = part if sample_format.startswith("flt") else np.round(part * 32767).astype(np.int16)
    planes = data if sample_format.endswith("p") else data.T.reshape(1, -1)
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(planes), format=sample_format, layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, start, Fraction(1, sample_rate)
    return frame
