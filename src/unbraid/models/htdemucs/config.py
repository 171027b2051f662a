"""What an HT Demucs network is, checked when built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from unbraid.errors import ModelError
from unbraid.models.demucs.kwargs import fields_from_kwargs
from unbraid.models.hdemucs.config import UNET_ARGUMENTS, UNET_RANGES, UNetConfig
from unbraid.models.plain import check_fields, read_plain, shown, write_plain

__all__ = ["MASKS", "POSITIONS", "HTDemucsConfig", "TransformerConfig"]

POSITIONS: Final = ("sin", "cape", "scaled")
MASKS: Final = ("diag", "jmask", "random", "global")

# Upstream's argument -> our field of the Transformer.
_TRANSFORMER_KEYS: Final = MappingProxyType(
    {
        "t_layers": "n_layers",
        "t_heads": "n_heads",
        "t_hidden_scale": "hidden_scale",
        "t_emb": "positions",
        "t_max_positions": "max_positions",
        "t_max_period": "max_period",
        "t_weight_pos_embed": "positions_weight",
        "t_sin_random_shift": "sin_random_shift",
        "t_cape_mean_normalize": "cape_mean_normalize",
        "t_cape_augment": "cape_augment",
        "t_cape_glob_loc_scale": "cape_glob_loc_scale",
        "t_norm_in": "norm_in",
        "t_norm_in_group": "norm_in_groups",
        "t_group_norm": "norm_groups",
        "t_norm_first": "norm_first",
        "t_norm_out": "norm_out_groups",
        "t_layer_scale": "layer_scale",
        "t_gelu": "gelu",
        "t_cross_first": "cross_first",
        "t_dropout": "dropout",
        "t_weight_decay": "weight_decay",
        "t_lr": "lr",
        "t_sparse_self_attn": "sparse_self_attn",
        "t_sparse_cross_attn": "sparse_cross_attn",
        "t_auto_sparsity": "auto_sparsity",
        "t_sparsity": "sparsity",
        "t_mask_type": "mask_type",
        "t_mask_random_seed": "mask_random_seed",
        "t_sparse_attn_window": "sparse_attn_window",
        "t_global_window": "global_window",
    }
)
_TRANSFORMER_RANGES: Final = MappingProxyType(
    {
        "n_layers": (0, 128),
        "n_heads": (1, 1024),
        "hidden_scale": (1e-3, 64),
        "max_positions": (1, 1_000_000),
        "max_period": (1, 1e9),
        "positions_weight": (0, 1e3),
        "sin_random_shift": (0, 1_000_000),
        "norm_in_groups": (0, 4096),
        "norm_groups": (0, 4096),
        "norm_out_groups": (0, 4096),
        "dropout": (0, 1),
        "weight_decay": (0, 1e3),
        "lr": (0, 1e3),
        "sparsity": (0, 1),
        "mask_random_seed": (0, 2**63),
        "sparse_attn_window": (0, 1_000_000),
        "global_window": (0, 1_000_000),
    }
)
_RANGES: Final = MappingProxyType({**UNET_RANGES, "bottom_channels": (0, 2**16)})


@dataclass(frozen=True)
class TransformerConfig:
    """The Transformer across both branches.

    n_layers : of each branch, in turn with self-attention and with attention to the other branch; 0 for no Transformer
    n_heads, hidden_scale : heads of the attention; features of the feed-forward part over those outside it
    positions : embedding of the waveform's positions, one of `POSITIONS`; the spectrogram's is sinusoidal in 2-D
    max_positions : number of learnt positions ("scaled" only)
    max_period : of the sinusoids, in positions
    positions_weight : factor on both embeddings
    sin_random_shift : the waveform's positions begin at a random number from 0 to this ("sin" only)
    cape_mean_normalize : count positions from their mean ("cape" only)
    cape_augment, cape_glob_loc_scale : disturb positions in training by at most these global and local shifts and this
        factor ("cape" only)
    norm_in : layer normalisation before the first layer
    norm_in_groups : groups of a group normalisation in its place, where `norm_in` is off; 0 for none
    norm_groups : groups of a group normalisation instead of the layer normalisations inside the layers; 0 for these
    norm_first : normalise before attention and feed-forward part instead of after
    norm_out_groups : groups of a group normalisation after every layer, with `norm_first` alone; 0 for none
    layer_scale : learnt factors on what attention and feed-forward part add
    gelu : GELU instead of ReLU
    cross_first : the first layer attends to the other branch
    dropout, weight_decay, lr : of the Transformer in training; lr None for that of the rest of the network
    sparse_self_attn, sparse_cross_attn : attention of each kind is sparse
    auto_sparsity : to positions that fall into like buckets (locality-sensitive hashing), leaving out a fraction of
        `sparsity`; otherwise by masks
    mask_type : names of `MASKS`, joined by "_"
    sparsity, mask_random_seed : of hashing and of the "random" mask
    sparse_attn_window, global_window : half width of the "diag" mask, width of the "global" one, in positions

    Raises
    ------
    ModelError : a value that no such network can have
    """

    n_layers: int = 5
    n_heads: int = 8
    hidden_scale: float = 4
    positions: str = "sin"
    max_positions: int = 10000
    max_period: float = 10000
    positions_weight: float = 1
    sin_random_shift: int = 0
    cape_mean_normalize: bool = True
    cape_augment: bool = True
    cape_glob_loc_scale: tuple[float, ...] = (5000, 1, 1.4)
    norm_in: bool = True
    norm_in_groups: int = 0
    norm_groups: int = 0
    norm_first: bool = True
    norm_out_groups: int = 1
    layer_scale: bool = True
    gelu: bool = True
    cross_first: bool = False
    dropout: float = 0
    weight_decay: float = 0
    lr: float | None = None
    sparse_self_attn: bool = False
    sparse_cross_attn: bool = False
    auto_sparsity: bool = False
    sparsity: float = 0.95
    mask_type: str = "diag"
    mask_random_seed: int = 42
    sparse_attn_window: int = 500
    global_window: int = 100

    def __post_init__(self) -> None:
        check_fields(self, _TRANSFORMER_RANGES)
        if self.positions not in POSITIONS:
            raise ModelError(f"positions must be one of {', '.join(POSITIONS)}, got {shown(self.positions)}")
        for mask in self.mask_type.split("_"):
            if mask not in MASKS:
                raise ModelError(f"mask_type must be of {', '.join(MASKS)}, got {shown(self.mask_type)}")
        if len(self.cape_glob_loc_scale) != 3:
            raise ModelError(f"cape_glob_loc_scale must be 3 numbers, got {shown(self.cape_glob_loc_scale)}")

    def check_width(self, width: int) -> None:
        """Raise ModelError unless this number of features suits the heads, the positions and the groups."""
        if width % self.n_heads:
            raise ModelError(f"n_heads must divide the Transformer's width, got {self.n_heads} for {width}")
        if width % 4:  # sine and cosine, for frequency and for time
            raise ModelError(f"the Transformer's width must be a multiple of 4, got {width}")
        in_use = {"norm_in_groups": not self.norm_in, "norm_groups": True, "norm_out_groups": self.norm_first}
        for name, used in in_use.items():
            n_groups = getattr(self, name)
            if used and n_groups and width % n_groups:
                raise ModelError(f"{name} must divide the Transformer's width, got {n_groups} for {width}")


@dataclass(frozen=True)
class HTDemucsConfig(UNetConfig):
    """An HT Demucs network: the fields of `UNetConfig`, and these.

    bottom_channels : width of the Transformer, with a convolution before and after it; 0 for that of the last layer
    transformer : the Transformer
    use_train_segment : a shorter excerpt is padded to `segment_samples`, the length in training

    Raises
    ------
    ModelError : a value that no such network can have
    """

    segment_samples: int = 10 * 44100
    depth: int = 4
    multi_freqs_depth: int = 3
    dconv_comp: float = 8
    dconv_init: float = 1e-3
    bottom_channels: int = 0
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    use_train_segment: bool = True

    def __post_init__(self) -> None:
        self.check_unet(_RANGES, hybrid=True, attention_starts=self.depth)
        last = self.layers()[-1]
        time_width = self.hidden_channels_time or self.hidden_channels
        # A narrower waveform's branch grows as wide as the other where they merge; a wider one widens the other.
        matched = last.n_out == last.n_out_time and time_width <= self.hidden_channels
        if (self.transformer.n_layers or self.bottom_channels) and not matched:
            raise ModelError(f"hidden_channels_time must be hidden_channels, got {time_width}")
        if self.transformer.n_layers:
            if last.along_time:
                raise ModelError(f"depth must leave frequencies for the Transformer, got {self.depth}")
            self.transformer.check_width(self.transformer_width)

    @property
    def transformer_width(self) -> int:
        """Features of each position inside the Transformer."""
        return self.bottom_channels or self.layers()[-1].n_out

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> HTDemucsConfig:
        """Read the arguments that upstream's HTDemucs was built with; those absent have that class's defaults.

        kwargs : as packages hold them; numbers may be fractions

        Raises
        ------
        ModelError : an unknown argument (the nearest known one is named) or an impossible value
        """
        known = (*UNET_ARGUMENTS, "bottom_channels", "use_train_segment", *_TRANSFORMER_KEYS)
        fields = fields_from_kwargs(kwargs, known)
        if fields.pop("n_wiener_iterations_training", 0) != fields.get("n_wiener_iterations", 0):
            raise ModelError("end_iters must be wiener_iters")
        parts = {name: fields.pop(key) for key, name in _TRANSFORMER_KEYS.items() if key in fields}
        return cls(transformer=TransformerConfig(**_with_groups(parts)), **fields)

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> HTDemucsConfig:
        """Read what `to_plain` writes; ModelError for an unknown key or an impossible value."""
        return read_plain(cls, content)

    def to_plain(self) -> dict[str, Any]:
        """Turn into plain numbers, strings, lists and one table by our names."""
        return write_plain(self)


def _with_groups(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Turn what upstream takes as whether and as how many into how many."""
    groups = {name: int(parts[name]) for name in parts if name.endswith("_groups") and isinstance(parts[name], bool)}
    parts = {**parts, **groups}
    # Upstream tests `norm_first & norm_out`, bit by bit, so even numbers of groups give no norm.
    if isinstance(out := parts.get("norm_out_groups"), int) and out % 2 == 0:
        parts["norm_out_groups"] = 0
    return parts
