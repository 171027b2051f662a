"""The values that travel between the parts: frozen, small, and without behaviour of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

__all__ = ["AUDIO_SUFFIXES", "Audio", "AudioInfo", "ComplexArray", "FloatArray", "Network", "Progress", "WriteReport"]

FloatArray: TypeAlias = NDArray[np.float32]
ComplexArray: TypeAlias = NDArray[np.complex64]

# In folders, files with these names are taken for audio; a file that is named itself may be called anything.
# fmt: off
AUDIO_SUFFIXES = frozenset({
    ".wav", ".wave", ".w64", ".rf64", ".aif", ".aiff", ".aifc", ".flac", ".mp3", ".m4a", ".mp4", ".m4v", ".mov", ".aac",
    ".alac", ".ogg", ".oga", ".opus", ".wma", ".asf", ".mkv", ".mka", ".webm", ".avi", ".caf", ".au", ".mp2", ".ac3",
    ".wv", ".ape", ".tta",
})
# fmt: on


@dataclass(frozen=True, eq=False)
class Audio:
    """A piece of audio in memory.

    samples : ndarray [shape=(channel, time), float32], full scale is ±1
    sample_rate : int, in Hz
    """

    samples: FloatArray
    sample_rate: int


@dataclass(frozen=True)
class AudioInfo:
    """What is known of an audio file before it is decoded.

    n_samples : samples per channel, or None where the container does not say exactly
    channels : speaker of each channel in order, in FFmpeg's names ("FL", "FR", "FC", "LFE", …); ("FC",) is mono
    bit_depth : 8, 16, 24 or 32 for integers, "float" for floating point; of a lossless format only (lossy: 16)
    tags : "title", "artist", "album", … as found
    """

    path: Path
    codec: str
    sample_rate: int
    channels: tuple[str, ...]
    n_samples: int | None
    bit_depth: int | str
    lossy: bool
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_channels(self) -> int:
        """How many channels there are."""
        return len(self.channels)


@dataclass(frozen=True)
class WriteReport:
    """What was written to one file: samples per channel, and how many samples (of all channels) were clipped."""

    path: Path
    n_samples: int
    n_clipped: int


@dataclass(frozen=True)
class Progress:
    """How far a separation is: seconds of audio done, of `total_s` (None while the length is unknown)."""

    path: Path | None
    stage: str
    done_s: float
    total_s: float | None


@dataclass(frozen=True, eq=False)
class Network:
    """A network as engines need it: a function from real arrays to real arrays, in three forms made on demand.

    fingerprint : hex digest of everything that decides the result (weights, configuration); names cached compilations
    input_shapes, output_names : static shapes of the inputs; names of the outputs in order
    graph : bytes of an ONNX model whose parameters (names = keys of `weights()`) are graph inputs after the real inputs
    weights : the parameters as float32 (or float16) arrays
    module : the same network as a torch module in eval mode, with these weights loaded
    allows_bf16 : whether the model's card says that bfloat16 is accurate enough
    """

    fingerprint: str
    input_shapes: tuple[tuple[int, ...], ...]
    graph: Callable[[], bytes]
    weights: Callable[[], Mapping[str, NDArray[Any]]]
    module: Callable[[], nn.Module]
    allows_bf16: bool = False
