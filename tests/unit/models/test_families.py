"""What is known of a family without running it."""

from dataclasses import replace

import pytest

from unbraid.errors import ModelError
from unbraid.models.families import FAMILIES, family
from unbraid.models.htdemucs.config import HTDemucsConfig, TransformerConfig
from unbraid.models.spleeter.config import SpleeterConfig


def test_an_unknown_family_names_those_that_are_known() -> None:
    with pytest.raises(ModelError, match=f"unknown family of models 'tasnet'; known are {', '.join(FAMILIES)}"):
        family("tasnet")


def test_bfloat16_is_for_networks_whose_scores_do_not_change() -> None:
    dense = HTDemucsConfig(("a", "b"))
    assert family("htdemucs").allows_bf16(dense)
    for sparse in ({"sparse_self_attn": True}, {"sparse_cross_attn": True}):
        assert not family("htdemucs").allows_bf16(replace(dense, transformer=TransformerConfig(**sparse)))
    assert not family("spleeter").allows_bf16(SpleeterConfig(("a", "b")))
