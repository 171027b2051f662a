"""Lengths beside those that the original programs state, and what the networks themselves give."""

import numpy as np
import pytest

from demucs_networks import STEMS, random_kwargs
from unbraid.errors import ModelError
from unbraid.models.demucs.config import DemucsConfig
from unbraid.models.demucs.lengths import output_length, valid_length


def random_config(rng: np.random.Generator) -> DemucsConfig:
    """Any version; kernels and strides beyond the usual ones, too."""
    while True:
        version = int(rng.integers(1, 4))
        kwargs = random_kwargs(f"demucs{version}", rng)
        kwargs.update(kernel_size=int(rng.integers(1, 10)), stride=int(rng.integers(1, 7)))
        try:
            return DemucsConfig.from_kwargs(kwargs, version=version)
        except ModelError:
            continue


def test_lengths_of_the_original_programs() -> None:
    v1, v2 = (DemucsConfig.from_kwargs({"sources": STEMS}, version=version) for version in (1, 2))
    assert valid_length(v1, 6 * 44100) == 275796
    assert valid_length(v2, 10 * 44100) == 447146
    assert valid_length(DemucsConfig(tuple(STEMS)), 39 * 44100) == 1721002


def test_a_valid_window_is_long_enough_for_what_is_wanted_and_longer_ones_give_more() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        config, n = random_config(rng), int(rng.integers(1, 3000))
        window = valid_length(config, n)
        given = output_length(config, window)
        assert window >= n, config
        assert given >= n, config
        assert given <= window, config
        assert output_length(config, window + config.stride) >= given, config


def test_version_3_gives_all_that_it_is_given() -> None:
    assert output_length(DemucsConfig(tuple(STEMS)), 12345) == 12345


def test_too_short() -> None:
    config = DemucsConfig.from_kwargs({"sources": STEMS}, version=2)
    message = f"1000 samples are too short for this network; .* it needs {valid_length(config, 1)}"
    with pytest.raises(ModelError, match=message):
        output_length(config, 1000)
