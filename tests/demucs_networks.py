"""Arguments of upstream's Demucs classes: those of the published networks, and random ones."""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import Any

import numpy as np

STEMS = ["drums", "bass", "other", "vocals"]
SIX_STEMS = [*STEMS, "guitar", "piano"]

# What the pickled package of htdemucs holds, as two public projects that pin its hash write it down.
HTDEMUCS: dict[str, Any] = {
    **{"sources": STEMS, "audio_channels": 2, "samplerate": 44100, "segment": Fraction(39, 5), "channels": 48},
    **{"channels_time": None, "growth": 2, "nfft": 4096, "wiener_iters": 0, "end_iters": 0, "wiener_residual": False},
    **{"cac": True, "depth": 4, "rewrite": True, "multi_freqs": [], "multi_freqs_depth": 3, "freq_emb": 0.2},
    **{"emb_scale": 10, "emb_smooth": True, "kernel_size": 8, "stride": 4, "time_stride": 2, "context": 1},
    **{"context_enc": 0, "norm_starts": 4, "norm_groups": 4, "dconv_mode": 3, "dconv_depth": 2, "dconv_comp": 8},
    **{"dconv_init": 0.001, "bottom_channels": 512, "t_layers": 5, "t_hidden_scale": 4.0, "t_heads": 8},
    **{"t_dropout": 0.02, "t_layer_scale": True, "t_gelu": True, "t_emb": "sin", "t_max_positions": 10000},
    **{"t_max_period": 10000.0, "t_weight_pos_embed": 1.0, "t_cape_mean_normalize": True, "t_cape_augment": True},
    **{"t_cape_glob_loc_scale": [5000.0, 1.0, 1.4], "t_sin_random_shift": 0, "t_norm_in": True},
    **{"t_norm_in_group": False, "t_group_norm": False, "t_norm_first": True, "t_norm_out": True},
    **{"t_weight_decay": 0.0, "t_lr": None, "t_sparse_self_attn": False, "t_sparse_cross_attn": False},
    **{"t_mask_type": "diag", "t_mask_random_seed": 42, "t_sparse_attn_window": 400, "t_global_window": 100},
    **{"t_sparsity": 0.95, "t_auto_sparsity": False, "t_cross_first": False, "rescale": 0.1},
}

# By family, and version of the time-domain class. Track A of MDX 2021 as docs/mdx.md and the files' sizes have it.
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "demucs_v1": ("demucs1", {"sources": 4}),
    "demucs": ("demucs2", {"sources": STEMS}),
    "demucs48_hq": ("demucs2", {"sources": STEMS, "channels": 48}),
    "demucs v3": ("demucs3", {"sources": STEMS}),
    "demucs v3, as v2": ("demucs3", {"sources": STEMS, "dconv_mode": 0, "gelu": False, "lstm_layers": 2}),
    "mdx, time": ("demucs3", {"sources": STEMS, "rewrite": False, "segment": 44}),
    "hdemucs": ("hdemucs", {"sources": STEMS}),
    "hdemucs_mmi": ("hdemucs", {"sources": STEMS, "dconv_init": 1e-3, "multi_freqs": [], "segment": 44}),
    "mdx, amplitude": ("hdemucs", {"sources": STEMS, "cac": False, "hybrid_old": True, "segment": 44}),
    "mdx, bands": ("hdemucs", {"sources": STEMS, "multi_freqs": [0.2, 0.5], "multi_freqs_depth": 2, "segment": 44}),
    "htdemucs, defaults": ("htdemucs", {"sources": STEMS}),
    "htdemucs": ("htdemucs", HTDEMUCS),
    "htdemucs_6s": ("htdemucs", {**HTDEMUCS, "sources": SIX_STEMS, "bottom_channels": 0}),
    "htdemucs, sparse": (
        "htdemucs",
        {
            **HTDEMUCS,
            **{"t_layers": 7, "t_auto_sparsity": True, "t_sparse_self_attn": True, "t_sparse_cross_attn": True},
            **{"t_sparsity": 0.9, "segment": Fraction(61, 5)},
        },
    ),
}


def n_parameters(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(prod(shape) for shape in shapes.values())


def random_kwargs(family: str, rng: np.random.Generator) -> dict[str, Any]:
    """Arguments of a small network; not every draw is one that can be built."""

    def one(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    kwargs = {
        **{"sources": SIX_STEMS[: one(1, 2, 4, 6)], "audio_channels": one(1, 2), "channels": one(8, 12, 16, 24)},
        **{
            "depth": one(1, 2, 3, 4, 5, 6),
            "rewrite": one(True, True, False),
            "kernel_size": one(4, 8),
            "growth": one(1, 2),
        },
        **{"stride": one(2, 4), "context": one(0, 1, 2), "rescale": one(0.1, 0, None), "samplerate": one(16000, 44100)},
    }
    if family in ("demucs1", "demucs2"):
        kwargs.update(glu=one(True, False), lstm_layers=one(0, 1, 2), growth=one(1, 1.5, 2.0))
        kwargs["context"] = 2 * kwargs["context"] + 1
        if family == "demucs1":
            del kwargs["samplerate"]
            return {**kwargs, "sources": 4, "upsample": one(True, False)}
        return {**kwargs, "resample": one(True, False), "normalize": one(True, False), "segment_length": 44100}
    kwargs.update(
        segment=one(10, 7.8, Fraction(39, 5)),
        dconv_mode=one(0, 1, 2, 3),
        dconv_depth=one(-2, 1, 2, 3),
        dconv_comp=one(1, 2, 2.5),
        dconv_init=one(1e-3, 1e-4),
        norm_starts=one(0, 2, 4, 6),
        norm_groups=one(1, 2, 4),
    )
    if family in ("demucs3", "hdemucs"):
        kwargs.update(dconv_attn=one(0, 2, 4, 6), dconv_lstm=one(0, 2, 4, 6), growth=one(1, 1.5, 2, 2.0))
    if family == "demucs3":
        return {
            **kwargs,
            **{"glu": one(True, False), "gelu": one(True, False), "lstm_layers": one(0, 1, 2)},
            **{"resample": one(True, False), "normalize": one(True, False)},
        }
    kwargs.update(
        channels_time=one(None, None, 8, 32),
        nfft=one(512, 2048, 4096),
        cac=one(True, False),
        multi_freqs=one(None, [], [0.5], [0.2, 0.5]),
        multi_freqs_depth=one(1, 2, 3),
        freq_emb=one(0.2, 0.2, 0, None),
        emb_smooth=one(True, False),
        time_stride=one(2, 4),
        context_enc=one(0, 1),
        wiener_residual=one(True, False),
    )
    if family == "hdemucs":
        return {**kwargs, "hybrid": one(True, True, False), "hybrid_old": one(True, False, False)}
    return {
        **kwargs,
        **{"bottom_channels": one(0, 48, 64), "t_layers": one(0, 1, 2, 5), "t_heads": one(1, 2, 4)},
        **{"t_hidden_scale": one(1, 2.5, 4.0), "t_emb": one("sin", "cape", "scaled"), "t_max_positions": one(50, 100)},
        **{"t_norm_in": one(True, False), "t_norm_in_group": one(True, False, 2), "t_group_norm": one(False, True, 4)},
        **{"t_norm_first": one(True, False), "t_norm_out": one(True, False, 1, 2, 3), "t_gelu": one(True, False)},
        **{"t_layer_scale": one(True, False), "t_cross_first": one(True, False), "t_lr": one(None, 1e-4)},
        **{"t_sparse_self_attn": one(True, False), "t_sparse_cross_attn": one(True, False)},
        **{"t_auto_sparsity": one(True, False), "t_mask_type": one("diag", "diag_jmask_random", "global")},
        **{"use_train_segment": one(True, False)},
    }
