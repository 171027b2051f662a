"""The arguments of the networks' classes in all releases of Demucs, in their order.

(demucs 4.1.0, demucs.py, hdemucs.py, htdemucs.py; demucs 2.0.3, model.py; the first release, model.py.)
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["ARGUMENTS", "V1_ARGUMENTS"]

# `demucs.model.Demucs` is the class of v2, but was that of v1 before.
V1_ARGUMENTS: Final = (
    *("sources", "audio_channels", "channels", "depth", "rewrite", "glu", "upsample", "rescale", "kernel_size"),
    *("stride", "growth", "lstm_layers", "context"),
)
_V2: Final = (
    *("sources", "audio_channels", "channels", "depth", "rewrite", "glu", "rescale", "resample", "kernel_size"),
    *("stride", "growth", "lstm_layers", "context", "normalize", "samplerate", "segment_length"),
)
_V3: Final = (
    *("sources", "audio_channels", "channels", "growth", "depth", "rewrite", "lstm_layers", "kernel_size", "stride"),
    *("context", "gelu", "glu", "norm_starts", "norm_groups", "dconv_mode", "dconv_depth", "dconv_comp"),
    *("dconv_attn", "dconv_lstm", "dconv_init", "normalize", "resample", "rescale", "samplerate", "segment"),
)
_SPECTROGRAM: Final = (
    *("sources", "audio_channels", "channels", "channels_time", "growth", "nfft", "wiener_iters", "end_iters"),
    *("wiener_residual", "cac", "depth", "rewrite"),
)
_CONVOLUTIONS: Final = (
    *("multi_freqs", "multi_freqs_depth", "freq_emb", "emb_scale", "emb_smooth", "kernel_size", "time_stride"),
    *("stride", "context", "context_enc", "norm_starts", "norm_groups", "dconv_mode", "dconv_depth", "dconv_comp"),
)
_HYBRID: Final = (
    *(*_SPECTROGRAM, "hybrid", "hybrid_old", *_CONVOLUTIONS),
    *("dconv_attn", "dconv_lstm", "dconv_init", "rescale", "samplerate", "segment"),
)
_TRANSFORMER: Final = (
    *("t_layers", "t_emb", "t_hidden_scale", "t_heads", "t_dropout", "t_max_positions", "t_norm_in"),
    *("t_norm_in_group", "t_group_norm", "t_norm_first", "t_norm_out", "t_max_period", "t_weight_decay", "t_lr"),
    *("t_layer_scale", "t_gelu", "t_weight_pos_embed", "t_sin_random_shift", "t_cape_mean_normalize"),
    *("t_cape_augment", "t_cape_glob_loc_scale", "t_sparse_self_attn", "t_sparse_cross_attn", "t_mask_type"),
    *("t_mask_random_seed", "t_sparse_attn_window", "t_global_window", "t_sparsity", "t_auto_sparsity"),
    "t_cross_first",
)
_HT: Final = (
    *(*_SPECTROGRAM, *_CONVOLUTIONS, "dconv_init", "bottom_channels", *_TRANSFORMER),
    *("rescale", "samplerate", "segment", "use_train_segment"),
)

ARGUMENTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "demucs.htdemucs.HTDemucs": _HT,
        "demucs.hdemucs.HDemucs": _HYBRID,
        "demucs.wdemucs.WDemucs": _HYBRID,  # its name before the release
        "demucs.demucs.Demucs": _V3,
        "demucs.model.Demucs": _V2,
    }
)
