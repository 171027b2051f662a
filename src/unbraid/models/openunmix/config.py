"""What an Open-Unmix model is: the sizes of its networks, the spectrogram they see, and the filter after them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from unbraid.errors import ModelError
from unbraid.models.plain import check_fields, check_stems, read_plain, write_plain

__all__ = ["OpenUnmixConfig", "TargetConfig"]

# Far beyond any model there is.
_TARGET_RANGES: Final = MappingProxyType({"hidden_size": (1, 1 << 14), "max_bin": (1, 1 << 17), "n_layers": (1, 64)})
_RANGES: Final = MappingProxyType(
    {
        "sample_rate": (1, 1 << 20),
        "n_fft": (2, 1 << 18),
        "hop": (1, 1 << 17),
        "n_channels": (1, 2),
        "n_iterations": (0, 1000),
        "wiener_frames": (0, 1 << 30),
    }
)


@dataclass(frozen=True)
class TargetConfig:
    """The network of one stem.

    hidden_size : features between all its layers; even, unless `unidirectional`
    max_bin : the first bins of the spectrogram, which alone it sees (it estimates all of them); the default ends at
        16 kHz for 44.1 kHz and n_fft 4096
    n_layers : of the LSTM
    unidirectional : the LSTM reads forward only, with `hidden_size` features instead of half as many each way

    Raises
    ------
    ModelError : a value that no such network can have
    """

    hidden_size: int = 512
    max_bin: int = 1487
    n_layers: int = 3
    unidirectional: bool = False

    def __post_init__(self) -> None:
        check_fields(self, _TARGET_RANGES)
        if self.hidden_size % 2 and not self.unidirectional:
            raise ModelError(f"hidden_size must be even, got {self.hidden_size}")


@dataclass(frozen=True)
class OpenUnmixConfig:
    """An Open-Unmix model: one network for each stem, and what is done with their estimates.

    stems : names of the stems that have a network
    targets : the network of each
    sample_rate : in Hz, of the audio that the networks were trained on
    n_fft, hop : STFT window and step in samples; periodic Hann, centred frames, reflected ends
    n_channels : of the spectrogram that the networks see; 1 is the mean magnitude over the audio's channels
    n_iterations : EM steps of the multichannel Wiener filter that refines the estimates; with none, an estimate is
        used with the phase of the mix
    softmask : start from each estimate's share of their sum, times the mix, instead of the estimate itself
    residual : what the estimates leave of the mix is one more stem, "residual", from before the filter on
    wiener_frames : frames that the filter takes together, each such excerpt for itself; 0 is the whole track

    Raises
    ------
    ModelError : a value that no such model can have
    """

    stems: tuple[str, ...]
    targets: tuple[TargetConfig, ...]
    sample_rate: int = 44100
    n_fft: int = 4096
    hop: int = 1024
    n_channels: int = 2
    n_iterations: int = 1
    softmask: bool = False
    residual: bool = False
    wiener_frames: int = 300

    def __post_init__(self) -> None:
        check_fields(self, _RANGES)
        self._check_stems()
        if self.n_fft % 2:
            raise ModelError(f"n_fft must be even, got {self.n_fft}")
        if self.hop > self.n_fft // 2:  # the windows would not add up to anything invertible
            raise ModelError(f"hop must be at most n_fft / 2 = {self.n_fft // 2}, got {self.hop}")
        for target in self.targets:
            if target.max_bin > self.n_bins:
                raise ModelError(f"max_bin must be at most n_fft / 2 + 1 = {self.n_bins}, got {target.max_bin}")
        if self.n_iterations and len(self.stems) + self.residual < 2:
            raise ModelError("n_iterations must be 0 for a single stem without residual: there is nothing to refine")

    def _check_stems(self) -> None:
        check_stems(self.stems)
        for stem in self.stems:
            if "." in stem:  # which separates the stem from the rest of a tensor's name
                raise ModelError(f"stems must be names without a dot, got '{stem}'")
        if self.residual and "residual" in self.stems:
            raise ModelError("stems must not contain 'residual' where residual adds a stem of that name")
        if len(self.targets) != len(self.stems):
            raise ModelError(f"targets must be one for each of {len(self.stems)} stems, got {len(self.targets)}")

    @property
    def n_bins(self) -> int:
        """Bins of the spectrogram, n_fft / 2 + 1."""
        return self.n_fft // 2 + 1

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> OpenUnmixConfig:
        """Read what `to_plain` wrote; ModelError for an unknown or missing key, or an impossible value."""
        return read_plain(cls, content)

    def to_plain(self) -> dict[str, Any]:
        """Turn into numbers, strings, lists and tables."""
        return write_plain(self)
