"""Configurations of HT Demucs: upstream's arguments, what they mean to the Transformer, what is refused."""

from dataclasses import fields, replace
from typing import Any

import pytest

from demucs_networks import HTDEMUCS, STEMS
from unbraid.errors import ModelError
from unbraid.models.htdemucs.config import HTDemucsConfig, TransformerConfig

NAMES = tuple(STEMS)


def test_our_defaults_are_upstreams() -> None:
    assert HTDemucsConfig.from_kwargs({"sources": STEMS}) == HTDemucsConfig(NAMES)


def test_the_published_network() -> None:
    config = HTDemucsConfig.from_kwargs(HTDEMUCS)
    assert config == HTDemucsConfig(
        NAMES,
        segment_samples=343980,
        dconv_mode=3,
        bottom_channels=512,
        transformer=TransformerConfig(dropout=0.02, sparse_attn_window=400),
    )
    assert config.transformer_width == 512
    assert replace(config, bottom_channels=0).transformer_width == 384


def test_every_field_of_the_transformer_has_an_argument() -> None:
    values = {
        **{"t_layers": 3, "t_heads": 2, "t_hidden_scale": 2.5, "t_emb": "cape", "t_max_positions": 7},
        **{"t_max_period": 99.0, "t_weight_pos_embed": 0.5, "t_sin_random_shift": 4, "t_cape_mean_normalize": False},
        **{"t_cape_augment": False, "t_cape_glob_loc_scale": [1.0, 2.0, 3.0], "t_norm_in": False, "t_norm_in_group": 4},
        **{"t_group_norm": 2, "t_norm_first": False, "t_norm_out": 3, "t_layer_scale": False, "t_gelu": False},
        **{"t_cross_first": True, "t_dropout": 0.5, "t_weight_decay": 0.1, "t_lr": 1e-4, "t_sparse_self_attn": True},
        **{"t_sparse_cross_attn": True, "t_auto_sparsity": True, "t_sparsity": 0.9, "t_mask_type": "diag_random"},
        **{"t_mask_random_seed": 1, "t_sparse_attn_window": 5, "t_global_window": 6},
    }
    transformer = HTDemucsConfig.from_kwargs({"sources": STEMS, **values}).transformer
    default = TransformerConfig()
    assert [
        field.name for field in fields(default) if getattr(transformer, field.name) == getattr(default, field.name)
    ] == []
    given = [tuple(value) if isinstance(value, list) else value for value in values.values()]
    assert sorted(map(str, given)) == sorted(str(getattr(transformer, field.name)) for field in fields(transformer))


@pytest.mark.parametrize(("norm_out", "n_groups"), [(True, 1), (False, 0), (1, 1), (3, 3), (0, 0), (2, 0), (4, 0)])
def test_upstream_has_no_output_norm_of_an_even_number_of_groups(norm_out: Any, n_groups: int) -> None:
    config = HTDemucsConfig.from_kwargs({"sources": STEMS, "t_norm_out": norm_out})
    assert config.transformer.norm_out_groups == n_groups


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"t_layer": 5}, "unknown argument 't_layer'; the nearest known one is 't_layers'"),
        ({"dconv_attn": 4}, "unknown argument 'dconv_attn'"),
        ({"end_iters": 1}, "end_iters must be wiener_iters"),
        ({"t_emb": "learnt"}, "positions must be one of sin, cape, scaled, got 'learnt'"),
        ({"t_mask_type": "diag_random_"}, "mask_type must be of diag, jmask, random, global, got 'diag_random_'"),
        ({"t_cape_glob_loc_scale": [1.0]}, "cape_glob_loc_scale must be 3 numbers, got (1.0,)"),
        ({"t_heads": 7}, "n_heads must divide the Transformer's width, got 7 for 384"),
        ({"bottom_channels": 510, "t_heads": 2}, "the Transformer's width must be a multiple of 4, got 510"),
        ({"t_group_norm": 5}, "norm_groups must divide the Transformer's width, got 5 for 384"),
        ({"t_norm_out": 5}, "norm_out_groups must divide the Transformer's width, got 5 for 384"),
        ({"t_norm_in": False, "t_norm_in_group": 5}, "norm_in_groups must divide the Transformer's width, got 5"),
        ({"depth": 6}, "depth must leave frequencies for the Transformer, got 6"),
        ({"channels_time": 24}, "hidden_channels_time must be hidden_channels, got 24"),
        ({"channels_time": 96, "depth": 5}, "hidden_channels_time must be hidden_channels, got 96"),
        ({"t_layers": 129}, "n_layers must be from 0 to 128, got 129"),
        ({"t_norm_first": 1}, "norm_first must be true or false, got 1"),
    ],
)
def test_what_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as error:
        HTDemucsConfig.from_kwargs({"sources": STEMS, **kwargs})
    assert str(error.value).startswith(message)


def test_groups_that_are_not_in_use_need_not_divide() -> None:
    kwargs = {"sources": STEMS, "t_norm_in_group": 5, "t_norm_first": False, "t_norm_out": 5}
    assert HTDemucsConfig.from_kwargs(kwargs).transformer.norm_in_groups == 5


def test_without_a_transformer_depth_and_widths_are_free() -> None:
    config = HTDemucsConfig.from_kwargs({"sources": STEMS, "t_layers": 0, "depth": 6, "channels_time": 24})
    assert config.transformer.n_layers == 0
