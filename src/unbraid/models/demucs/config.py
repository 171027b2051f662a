"""What a Demucs network of the time domain is, in the forms of its three releases, checked when built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from unbraid.errors import ModelError
from unbraid.models.demucs.kwargs import fields_from_kwargs
from unbraid.models.plain import check_fields, check_stems, read_plain, shown, write_plain

__all__ = [
    "LONGEST_LSTM",
    "N_DECAYS",
    "N_HEADS",
    "SELF_SCORE",
    "STD_FLOOR",
    "DemucsConfig",
    "check_branch",
    "check_groups",
    "check_width",
]

N_HEADS: Final = 4  # of the attention inside a residual branch
N_DECAYS: Final = 4  # penalties of each of its heads on distance
SELF_SCORE: Final = -100.0  # score of a step with itself: it attends to itself only where there is no other
LONGEST_LSTM: Final = 200  # steps that an LSTM inside a residual branch sees at once
STD_FLOOR: Final = 1e-5  # added to the mix's standard deviation before dividing by it

_WIDEST: Final = 2**16
# The first release knew only a number of sources; this is what its command wrote.
_V1_STEMS: Final = ("drums", "bass", "other", "vocals")
# Arguments of the class of each release.
_ARGUMENTS: Final = (
    *("sources", "audio_channels", "channels", "growth", "depth", "rewrite", "lstm_layers"),
    *("kernel_size", "stride", "context", "glu", "rescale"),
)
_ARGUMENTS_BY_VERSION: Final = MappingProxyType(
    {
        1: (*_ARGUMENTS, "upsample"),
        2: (*_ARGUMENTS, "resample", "normalize", "samplerate", "segment_length"),
        3: (
            *(*_ARGUMENTS, "resample", "normalize", "samplerate", "segment", "gelu", "norm_starts", "norm_groups"),
            *("dconv_mode", "dconv_depth", "dconv_comp", "dconv_attn", "dconv_lstm", "dconv_init"),
        ),
    }
)
_RANGES: Final = MappingProxyType(
    {
        "version": (1, 3),
        "n_channels": (1, 64),
        "sample_rate": (1, 1_000_000),
        "segment_samples": (1, 2**31),
        "hidden_channels": (1, 4096),
        "growth": (0, 16),
        "depth": (1, 12),
        "lstm_layers": (0, 16),
        "kernel_size": (1, 1024),
        "stride": (1, 1024),
        "context": (0, 1024),
        "norm_starts": (0, 2**31),
        "norm_groups": (1, 4096),
        "dconv_mode": (0, 3),
        "dconv_depth": (0, 16),
        "dconv_comp": (1, 4096),
        "dconv_attn": (0, 2**31),
        "dconv_lstm": (0, 2**31),
        "dconv_init": (0, 1e3),
        "rescale": (0, 1e3),
    }
)


@dataclass(frozen=True)
class DemucsConfig:
    """A Demucs network of the time domain.

    stems : names of the stems in the order of the network's outputs
    version : the release whose arithmetic it follows. 1 and 2 use the decoder's convolutions without padding, so that
        every layer loses samples and the mix must be padded to a valid length by the caller; 3 pads inside.
        2 divides the mix by 1 + 1e-5 even where it does not normalise it
    n_channels : of the audio
    sample_rate : in Hz
    segment_samples : length of the excerpts it is given when a whole track is separated
    hidden_channels : of the outermost layer ("channels" upstream); each further layer has `growth` times as many
    growth, depth : of the encoder; the decoder mirrors it
    rewrite : a further convolution and activation in every layer
    lstm_layers : of the bidirectional LSTM between encoder and decoder; 0 for none
    kernel_size, stride : of the outer convolution of each layer
    context : steps on either side that the decoder's further convolution sees (upstream's first two releases give its
        whole kernel, 2 * context + 1)
    gelu : GELU instead of ReLU after the outer convolutions. The residual branches always have GELU
    glu : GLU (with twice the channels before it) instead of ReLU after the further convolutions
    upsample : linear interpolation and convolutions in the decoder instead of transposed convolutions; version 1 only
    norm_starts, norm_groups : first layer with group normalisation, and its groups
    dconv_mode : residual branches in 0 neither, 1 the encoder, 2 the decoder, 3 both
    dconv_depth, dconv_dilate : convolutions in each branch, and whether their dilation doubles from one to the next
    dconv_comp : a branch has 1 / dconv_comp of its layer's channels
    dconv_attn, dconv_lstm : first layer whose branches have attention, and an LSTM
    dconv_init : scale of the branches before training
    normalize : the mix to mean 0 and standard deviation 1, and the stems back
    resample : double the sample rate inside
    rescale : reference standard deviation for the weights before training (demucs-2019, section 3); 0 for no rescaling

    Raises
    ------
    ModelError : a value that no such network can have
    """

    stems: tuple[str, ...]
    version: int = 3
    n_channels: int = 2
    sample_rate: int = 44100
    segment_samples: int = 40 * 44100
    hidden_channels: int = 64
    growth: float = 2
    depth: int = 6
    rewrite: bool = True
    lstm_layers: int = 0
    kernel_size: int = 8
    stride: int = 4
    context: int = 1
    gelu: bool = True
    glu: bool = True
    upsample: bool = False
    norm_starts: int = 4
    norm_groups: int = 4
    dconv_mode: int = 1
    dconv_depth: int = 2
    dconv_dilate: bool = True
    dconv_comp: float = 4
    dconv_attn: int = 4
    dconv_lstm: int = 4
    dconv_init: float = 1e-4
    normalize: bool = True
    resample: bool = True
    rescale: float = 0.1

    def __post_init__(self) -> None:
        check_stems(self.stems)
        check_fields(self, _RANGES)
        self._check_version()
        widths = self.widths
        for i, width in enumerate(widths):
            check_width(width)
            if i >= self.norm_starts:
                check_groups(self.norm_groups, width, *widths[max(i - 1, 0) : i])
            if self.dconv_mode and self.dconv_depth:
                check_branch(width, self.dconv_comp, attention=i >= self.dconv_attn)

    def _check_version(self) -> None:
        if self.version < 3 and (self.gelu or self.dconv_mode or self.norm_starts < self.depth):
            raise ModelError(f"gelu, norm_starts < depth and dconv_mode need version 3, got {self.version}")
        if self.version == 1 and (self.normalize or self.resample):
            raise ModelError("normalize and resample need version 2 or 3, got 1")
        if self.version > 1 and self.upsample:
            raise ModelError(f"upsample needs version 1, got {self.version}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Hidden channels of each layer, outermost first."""
        widths = [self.hidden_channels]
        while len(widths) < self.depth:
            widths.append(int(self.growth * widths[-1]))
        return tuple(widths)

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any], version: int = 3) -> DemucsConfig:
        """Read the arguments that upstream's class was built with; those absent have that class's defaults.

        kwargs : as packages hold them; numbers may be fractions
        version : 1 for the class of the first release, 2 for `demucs.model.Demucs`, 3 for `demucs.demucs.Demucs`

        Raises
        ------
        ModelError : an unknown argument (the nearest known one is named) or an impossible value
        """
        if version == 1:
            kwargs = {"sources": len(_V1_STEMS), **kwargs}
        fields = fields_from_kwargs(kwargs, _ARGUMENTS_BY_VERSION[version])
        if version < 3:
            fields = {**_old_defaults(version, fields), **fields}
            fields["context"] = _one_sided(fields["context"])
        if version == 1 and isinstance(fields["stems"], int):
            if fields["stems"] != len(_V1_STEMS):
                raise ModelError(f"sources must be 4 in Demucs v1, or their names; got {shown(fields['stems'])}")
            fields["stems"] = _V1_STEMS
        return cls(version=version, **fields)

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> DemucsConfig:
        """Read what `to_plain` writes; ModelError for an unknown key or an impossible value."""
        return read_plain(cls, content)

    def to_plain(self) -> dict[str, Any]:
        """Turn into plain numbers, strings and lists by our names."""
        return write_plain(self)


def check_width(width: int) -> None:
    """Raise ModelError for a layer without channels, or with more than any network has."""
    if not 1 <= width <= _WIDEST:
        raise ModelError(f"growth and depth must leave every layer from 1 to {_WIDEST} channels, got {width}")


def check_groups(n_groups: int, *widths: int) -> None:
    """Raise ModelError unless group normalisation can split each of these numbers of channels."""
    for width in widths:
        if width % n_groups:
            raise ModelError(f"norm_groups must divide every layer with norm, got {n_groups} for {width} channels")


def check_branch(width: int, compression: float, attention: bool) -> None:
    """Raise ModelError unless a layer's channels can be compressed so far for its residual branch."""
    hidden = int(width / compression)
    if hidden < 1:
        raise ModelError(f"dconv_comp must be at most {width}, a layer's channels; got {compression:g}")
    if attention and hidden % N_HEADS:
        raise ModelError(f"dconv_comp must leave a multiple of {N_HEADS} channels, got {compression:g} of {width}")


def _old_defaults(version: int, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What the classes of the first two releases do where they are not told, or cannot be told, otherwise."""
    return {
        "segment_samples": (10 if version == 1 else 40) * 44100,
        "lstm_layers": 2,
        "context": 3,
        "gelu": False,
        "norm_starts": fields.get("depth", DemucsConfig.depth),
        "dconv_mode": 0,
        "normalize": False,
        "resample": version == 2,
    }


def _one_sided(kernel_size: object) -> int:
    if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
        raise ModelError(f"context must be an odd number in Demucs v1 and v2, got {shown(kernel_size)}")
    return kernel_size // 2
