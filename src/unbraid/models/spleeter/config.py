"""What a Spleeter JSON says about separation, checked once and turned into our names."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from unbraid.errors import ModelError

__all__ = ["ACTIVATIONS", "MASK_EXTENSIONS", "NETWORK_TYPES", "SharedUNetConfig", "SpleeterConfig"]

NETWORK_TYPES: Final = ("unet.unet", "unet.softmax_unet", "unet.shared_unet")
ACTIVATIONS: Final = ("LeakyReLU", "ReLU", "ELU")
MASK_EXTENSIONS: Final = ("zeros", "average")
N_LAYERS: Final = 6  # encoder layers, each of which halves both axes
STRIDE: Final = 2**N_LAYERS  # so T and F are multiples of this

# Spleeter's key -> our field.
_KEYS: Final = MappingProxyType(
    {
        "instrument_list": "stems",
        "mix_name": "mix_name",
        "model_dir": "model_dir",
        "sample_rate": "sample_rate",
        "frame_length": "n_fft",
        "frame_step": "hop",
        "T": "n_frames",
        "F": "n_bins",
        "n_channels": "n_channels",
        "separation_exponent": "separation_exponent",
        "mask_extension": "mask_extension",
    }
)
# Keys that only Spleeter's training reads: kept aside in `training`, without a check.
_TRAINING_KEYS: Final = (
    "train_csv",
    "validation_csv",
    "learning_rate",
    "batch_size",
    "training_cache",
    "validation_cache",
    "train_max_steps",
    "throttle_secs",
    "random_seed",
    "save_checkpoints_steps",
    "save_summary_steps",
    "n_chunks_per_song",
    "chunk_duration",
    "loss_type",
    "optimizer",
)
_PARAMS: Final = ("conv_activation", "deconv_activation", "conv_n_filters")


@dataclass(frozen=True)
class SharedUNetConfig:
    """Hyperparameters of `SharedUNet`.

    n_stems, n_channels : stems masked, audio channels of the mix
    n_bins : first bins of the spectrogram that the network sees (F)
    fold_bins, fold_frames : bins and frames folded into one position of the finest grid
    widths : feature channels of each level, finest first; the grid halves in both directions from level to level
    n_blocks : residual blocks per level on the way down (on the way up there is one)
    tdf_divisor : the dense layers along frequency pass through 1/tdf_divisor of the grid's rows
    log_offset : added to magnitudes before the logarithm, in units of Spleeter's unnormalised STFT
    """

    n_stems: int = 4
    n_channels: int = 2
    n_bins: int = 1024
    fold_bins: int = 4
    fold_frames: int = 2
    widths: tuple[int, ...] = (48, 96, 128, 160, 192)
    n_blocks: int = 1
    tdf_divisor: int = 4
    log_offset: float = 0.01

    def __post_init__(self) -> None:
        """Check that every grid is whole."""
        object.__setattr__(self, "widths", _as_tuple("widths", self.widths))
        for name in ("n_stems", "n_channels", "n_bins", "fold_bins", "fold_frames", "n_blocks", "tdf_divisor"):
            _check_count(name, getattr(self, name))
        for width in self.widths:
            _check_count("widths", width)
        if isinstance(self.log_offset, bool) or not isinstance(self.log_offset, int | float) or self.log_offset <= 0:
            raise ModelError(f"log_offset must be a positive number, got {self.log_offset!r}")
        step = self.fold_bins * 2 ** (len(self.widths) - 1) * self.tdf_divisor
        if not self.widths or self.n_bins % step:
            raise ModelError(f"n_bins must be a multiple of {step} for this network, got {self.n_bins}")

    @property
    def n_rows(self) -> int:
        """Rows of the finest grid."""
        return self.n_bins // self.fold_bins

    @property
    def n_folded(self) -> int:
        """Values of one audio channel at one position of the finest grid."""
        return self.fold_bins * self.fold_frames

    @property
    def frame_multiple(self) -> int:
        """The number of frames given must be a multiple of this."""
        return self.fold_frames * int(2 ** (len(self.widths) - 1))


@dataclass(frozen=True)
class SpleeterConfig:
    """A network of the Spleeter family and the spectrogram it works on.

    stems : names of the stems in the order of the network's outputs
    mix_name, model_dir : as in Spleeter's JSON; `model_dir` is where its checkpoint lies
    sample_rate : in Hz, of the audio that the network was trained on
    n_fft, hop : STFT window and step in samples ("frame_length", "frame_step"); the window is a periodic Hann
    n_frames, n_bins : size of one block for the network ("T", "F"), both multiples of 64; the bins from `n_bins` up to
        `n_fft // 2` never reach the network
    n_channels : always 2
    separation_exponent : of the ratio masks
    mask_extension : the masks above `n_bins`: "zeros", or the "average" over the bins below
    network : one of `NETWORK_TYPES`
    conv_activation, deconv_activation : of encoder and decoder, one of `ACTIVATIONS`
    conv_n_filters : channels of the six encoder layers
    shared_unet : hyperparameters of "unet.shared_unet", for which the three above mean nothing; else None
    training : keys of the JSON that matter only to training, as they were found

    Raises
    ------
    ModelError : a value that no such network can have
    """

    stems: tuple[str, ...]
    mix_name: str = "mix"
    model_dir: str | None = None
    sample_rate: int = 44100
    n_fft: int = 4096
    hop: int = 1024
    n_frames: int = 512
    n_bins: int = 1024
    n_channels: int = 2
    separation_exponent: float = 2
    mask_extension: str = "zeros"
    network: str = "unet.unet"
    conv_activation: str = "LeakyReLU"
    deconv_activation: str = "ReLU"
    conv_n_filters: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    shared_unet: SharedUNetConfig | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_stems(self.stems)
        for name in ("sample_rate", "n_fft", "hop", "n_frames", "n_bins", "n_channels"):
            _check_count(name, getattr(self, name))
        if self.n_fft % self.hop or self.n_fft < 4 * self.hop:
            raise ModelError(f"hop must divide n_fft at least 4 times, got hop {self.hop} and n_fft {self.n_fft}")
        for name in ("n_frames", "n_bins"):
            if getattr(self, name) % STRIDE:
                raise ModelError(f"{_label(name)} must be a multiple of {STRIDE}, got {getattr(self, name)}")
        if self.n_bins > self.n_fft // 2:
            raise ModelError(f"{_label('n_bins')} must be at most n_fft / 2 = {self.n_fft // 2}, got {self.n_bins}")
        if self.n_channels != 2:
            raise ModelError(f"n_channels must be 2, got {self.n_channels}")
        exponent = self.separation_exponent
        if isinstance(exponent, bool) or not isinstance(exponent, int | float) or not 0 < exponent < math.inf:
            raise ModelError(f"separation_exponent must be a positive number, got {exponent!r}")
        _check_choice("mask_extension", self.mask_extension, MASK_EXTENSIONS)
        _check_network(self.network)
        _check_choice("conv_activation", self.conv_activation, ACTIVATIONS)
        _check_choice("deconv_activation", self.deconv_activation, ACTIVATIONS)
        if len(self.conv_n_filters) != N_LAYERS:
            raise ModelError(f"conv_n_filters must be {N_LAYERS} numbers, got {len(self.conv_n_filters)}")
        for n_filters in self.conv_n_filters:
            _check_count("conv_n_filters", n_filters)
        self._check_shared()

    def _check_shared(self) -> None:
        shared = self.shared_unet
        if (shared is not None) != (self.network == "unet.shared_unet"):
            raise ModelError(f"shared_unet belongs to the model type 'unet.shared_unet' alone, got {self.network!r}")
        if shared is None:
            return
        for name, value in (("n_stems", len(self.stems)), ("n_channels", self.n_channels), ("n_bins", self.n_bins)):
            if getattr(shared, name) != value:
                raise ModelError(f"model.params.{name} must be {value} like the rest, got {getattr(shared, name)}")
        if self.n_frames % shared.frame_multiple:
            raise ModelError(f"n_frames (T) must be a multiple of {shared.frame_multiple}, got {self.n_frames}")

    @classmethod
    def from_json(cls, source: Mapping[str, Any] | str | Path) -> SpleeterConfig:
        """Read a Spleeter JSON.

        source : the path of a JSON file, or its content as a mapping

        Raises
        ------
        ModelError : unreadable, not JSON, an unknown key (the nearest known one is named) or an impossible value
        """
        if isinstance(source, Mapping):
            return cls(**_fields(source))
        try:
            content = json.loads(Path(source).read_text(encoding="utf-8"))
        except OSError as error:
            raise ModelError(f"cannot read model configuration '{source}': {error.strerror}") from error
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError both
            raise ModelError(f"cannot read model configuration '{source}': not JSON ({error})") from error
        if not isinstance(content, Mapping):
            raise ModelError(f"cannot read model configuration '{source}': not a JSON object")
        try:
            return cls(**_fields(content))
        except ModelError as error:
            raise ModelError(f"cannot use model configuration '{source}': {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Turn back into Spleeter's keys, as plain numbers, strings and lists."""
        content: dict[str, Any] = {key: getattr(self, name) for key, name in _KEYS.items()}
        content["instrument_list"] = list(self.stems)
        if self.model_dir is None:
            del content["model_dir"]
        if self.shared_unet is None:
            params = {name: getattr(self, name) for name in _PARAMS}
            params["conv_n_filters"] = list(self.conv_n_filters)
        else:
            params = asdict(self.shared_unet) | {"widths": list(self.shared_unet.widths)}
        content["model"] = {"type": self.network, "params": params}
        return {**content, **self.training}


def _fields(content: Mapping[str, Any]) -> dict[str, Any]:
    """Sort the content of a JSON into fields of `SpleeterConfig`."""
    _check_known("key", content, (*_KEYS, "model", *_TRAINING_KEYS))
    if "instrument_list" not in content:
        raise ModelError("instrument_list is missing")
    fields = {name: content[key] for key, name in _KEYS.items() if key in content}
    fields["stems"] = _as_tuple("instrument_list", content["instrument_list"])
    fields["training"] = {key: content[key] for key in _TRAINING_KEYS if key in content}
    model = _as_mapping("model", content.get("model"))
    _check_known("key of model", model, ("type", "params"))
    fields["network"] = model.get("type", NETWORK_TYPES[0])
    _check_network(fields["network"])
    params = _as_mapping("model.params", model.get("params"))
    if fields["network"] == "unet.shared_unet":
        _check_known("key of model.params", params, tuple(entry.name for entry in dataclass_fields(SharedUNetConfig)))
        fields["shared_unet"] = SharedUNetConfig(**params)
        return fields
    _check_known("key of model.params", params, _PARAMS)
    fields.update({name: params[name] for name in _PARAMS if params.get(name) is not None})
    if "conv_n_filters" in fields:
        fields["conv_n_filters"] = _as_tuple("conv_n_filters", fields["conv_n_filters"])
    return fields


def _as_mapping(name: str, value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ModelError(f"{name} must be an object, got {value!r}")
    return value


def _as_tuple(name: str, value: object) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ModelError(f"{name} must be a list, got {value!r}")
    return tuple(value)


def _label(name: str) -> str:
    """Our name and Spleeter's, where they differ, so that the reader of either finds it."""
    spleeter = next((key for key, ours in _KEYS.items() if ours == name), name)
    return name if spleeter == name else f"{name} ({spleeter})"


def _check_known(what: str, content: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in content:
        if key not in known:
            by_lower = {name.lower(): name for name in known}
            near = difflib.get_close_matches(str(key).lower(), by_lower, n=1, cutoff=0)
            raise ModelError(f"unknown {what} '{key}'; the nearest known one is '{by_lower[near[0]]}'")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelError(f"{_label(name)} must be a positive whole number, got {value!r}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ModelError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _check_network(network: object) -> None:
    if network == "blstm.blstm":
        raise ModelError(
            "model type 'blstm.blstm' is not supported; only U-Net models are: " + ", ".join(NETWORK_TYPES)
        )
    _check_choice("model type", network, NETWORK_TYPES)


def _check_stems(stems: tuple[str, ...]) -> None:
    if not stems or not all(isinstance(stem, str) and stem for stem in stems):
        raise ModelError(f"stems (instrument_list) must be one name or more, got {list(stems)!r}")
    if len(set(stems)) < len(stems):
        raise ModelError(f"stems (instrument_list) must differ from each other, got {', '.join(stems)}")
