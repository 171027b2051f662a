"""Configurations of Open-Unmix: what they refuse, and that plain data brings them back."""

from dataclasses import replace
from typing import Any

import pytest

from unbraid.errors import ModelError
from unbraid.models.openunmix.config import OpenUnmixConfig, TargetConfig

STEMS = ("vocals", "drums", "bass", "other")
UMXHQ = OpenUnmixConfig(STEMS, (TargetConfig(),) * 4)
UMXSE = OpenUnmixConfig(
    ("speech", "noise"),
    (TargetConfig(hidden_size=256, max_bin=513),) * 2,
    sample_rate=16000,
    n_fft=1024,
    hop=512,
    n_channels=1,
)
MIXED = OpenUnmixConfig(
    ("a", "b"),
    (TargetConfig(hidden_size=7, max_bin=100, n_layers=1, unidirectional=True), TargetConfig(hidden_size=8)),
    n_iterations=3,
    softmask=True,
    residual=True,
    wiener_frames=0,
)


def test_the_default_sees_bins_up_to_16_khz() -> None:
    config = UMXHQ
    assert config.n_bins == 2049
    last = config.targets[0].max_bin - 1
    assert last * config.sample_rate / config.n_fft <= 16000 < (last + 1) * config.sample_rate / config.n_fft


@pytest.mark.parametrize("config", [UMXHQ, UMXSE, MIXED])
def test_plain_data_and_back(config: OpenUnmixConfig) -> None:
    plain = config.to_plain()
    assert_plain(plain)
    assert OpenUnmixConfig.from_plain(plain) == config


def assert_plain(value: object) -> None:
    """What TOML can hold, and no more."""
    if isinstance(value, dict):
        for key, item in value.items():
            assert type(key) is str
            assert_plain(item)
    elif isinstance(value, list):
        for item in value:
            assert_plain(item)
    else:
        assert type(value) in (str, int, float, bool)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (UMXHQ, {"stems": ()}, "stems must be one name or more"),
        (UMXHQ, {"stems": ("a", "b", "c.d", "e")}, "without a dot, got 'c.d'"),
        (UMXHQ, {"stems": ("a", "b", "", "e")}, "stems must be one name or more"),
        (UMXHQ, {"stems": ("a", "b", "b", "e")}, "stems must differ"),
        (UMXHQ, {"stems": ("a", "b", "c", "residual"), "residual": True}, "'residual'"),
        (UMXHQ, {"stems": ("a", "b", "c")}, "targets must be one for each of 3 stems, got 4"),
        (UMXHQ, {"sample_rate": 44100.0}, "sample_rate must be a whole number"),
        (UMXHQ, {"n_fft": True}, "n_fft must be a whole number"),
        (UMXHQ, {"n_fft": 4097}, "n_fft must be even, got 4097"),
        (UMXHQ, {"hop": 2049}, "hop must be at most n_fft / 2 = 2048, got 2049"),
        (UMXHQ, {"hop": 0}, "hop must be from 1 to 131072, got 0"),
        (UMXHQ, {"n_channels": 3}, "n_channels must be from 1 to 2, got 3"),
        (UMXHQ, {"n_fft": 2048, "hop": 512}, "max_bin must be at most n_fft / 2 [+] 1 = 1025, got 1487"),
        (UMXHQ, {"n_iterations": -1}, "n_iterations must be from 0 to 1000, got -1"),
        (UMXHQ, {"wiener_frames": 0.5}, "wiener_frames must be a whole number"),
        (UMXHQ, {"softmask": 1}, "softmask must be true or false, got 1"),
        (UMXHQ, {"residual": "rest"}, "residual must be true or false, got 'rest'"),
        (UMXHQ, {"stems": ("vocals",), "targets": (TargetConfig(),)}, "n_iterations must be 0 for a single stem"),
        (TargetConfig(), {"hidden_size": 511}, "hidden_size must be even, got 511"),
        (TargetConfig(), {"hidden_size": 0}, "hidden_size must be from 1 to 16384, got 0"),
        (TargetConfig(), {"max_bin": None}, "max_bin must be a whole number"),
        (TargetConfig(), {"n_layers": 10**12}, "n_layers must be from 1 to 64"),
        (TargetConfig(), {"unidirectional": 0}, "unidirectional must be true or false, got 0"),
    ],
)
def test_impossible_values_are_errors(config: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        replace(config, **changes)


def test_a_single_stem_may_have_a_residual_to_refine() -> None:
    config = OpenUnmixConfig(("vocals",), (TargetConfig(),), residual=True)
    assert config.n_iterations == 1
    assert replace(config, residual=False, n_iterations=0).stems == ("vocals",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_iteration": 1}, "n_iteration"),
        ({"stems": "vocals"}, "stems"),
        ({"targets": [{"hidden_sise": 3}] * 4}, "hidden_sise"),
        ({"targets": [3] * 4}, "targets"),
        ({"targets": {}}, "targets"),
        ({"hop": "1024"}, "hop"),
    ],
)
def test_plain_data_of_another_form_is_an_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        OpenUnmixConfig.from_plain({**UMXHQ.to_plain(), **change})


@pytest.mark.parametrize("key", ["stems", "targets"])
def test_missing_keys_are_errors(key: str) -> None:
    plain = UMXHQ.to_plain()
    del plain[key]
    with pytest.raises(ModelError, match=key):
        OpenUnmixConfig.from_plain(plain)
