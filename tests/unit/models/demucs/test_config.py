"""Configurations of Demucs in the time domain: upstream's arguments, defaults of each release, what is refused."""

from fractions import Fraction
from typing import Any

import pytest

from demucs_networks import STEMS
from unbraid.errors import ModelError
from unbraid.models.demucs.config import DemucsConfig

NAMES = tuple(STEMS)


def test_our_defaults_are_those_of_version_3() -> None:
    assert DemucsConfig.from_kwargs({"sources": STEMS}) == DemucsConfig(NAMES)


def test_version_1_knows_only_how_many() -> None:
    config = DemucsConfig.from_kwargs({"sources": 4, "channels": 48}, version=1)
    assert config.stems == NAMES
    assert (config.hidden_channels, config.lstm_layers, config.context, config.segment_samples) == (48, 2, 1, 441000)
    assert not (config.gelu or config.resample or config.normalize or config.dconv_mode)
    assert DemucsConfig.from_kwargs({}, version=1).stems == NAMES
    assert DemucsConfig.from_kwargs({"sources": ["a", "b"]}, version=1).stems == ("a", "b")
    with pytest.raises(ModelError, match=r"^sources must be 4 in Demucs v1, or their names; got 5$"):
        DemucsConfig.from_kwargs({"sources": 5}, version=1)


def test_version_2() -> None:
    config = DemucsConfig.from_kwargs({"sources": STEMS, "segment_length": 8820, "samplerate": 22050}, version=2)
    assert (config.hidden_channels, config.lstm_layers, config.context) == (64, 2, 1)
    assert (config.segment_samples, config.sample_rate) == (8820, 22050)
    assert config.resample
    assert not (config.gelu or config.normalize or config.dconv_mode or config.upsample)
    assert config.norm_starts == config.depth


def test_context_counts_one_side() -> None:
    for kernel_size, context in ((1, 0), (3, 1), (5, 2)):
        config = DemucsConfig.from_kwargs({"sources": STEMS, "context": kernel_size}, version=2)
        assert config.context == context
    assert DemucsConfig.from_kwargs({"sources": STEMS, "context": 2}).context == 2
    with pytest.raises(ModelError, match="context must be an odd number in Demucs v1 and v2, got 2"):
        DemucsConfig.from_kwargs({"sources": STEMS, "context": 2}, version=2)


@pytest.mark.parametrize(
    ("segment", "sample_rate", "samples"),
    [
        (Fraction(39, 5), 44100, 343980),
        (7.8, 44100, int(7.8 * 44100)),
        (10, 44100, 441000),
        (Fraction(44), 44100, 1940400),
        (Fraction(1, 3), 16000, 5333),  # upstream cuts, too
        (8.8, 22050, int(8.8 * 22050)),
    ],
)
def test_segments_are_whole_samples(segment: Any, sample_rate: int, samples: int) -> None:
    config = DemucsConfig.from_kwargs({"sources": STEMS, "segment": segment, "samplerate": sample_rate})
    assert config.segment_samples == samples
    assert type(config.segment_samples) is int


def test_a_negative_depth_means_no_dilation() -> None:
    config = DemucsConfig.from_kwargs({"sources": STEMS, "dconv_depth": -3})
    assert (config.dconv_depth, config.dconv_dilate) == (3, False)


@pytest.mark.parametrize("nothing", [0, None, False])
def test_no_rescaling(nothing: Any) -> None:
    assert DemucsConfig.from_kwargs({"sources": STEMS, "rescale": nothing}).rescale == 0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "the argument 'sources' is missing"),
        ({"sources": STEMS, "dconv_deph": 2}, "unknown argument 'dconv_deph'; the nearest known one is 'dconv_depth'"),
        ({"sources": STEMS, "nfft": 4096}, "unknown argument 'nfft'"),
        ({"sources": STEMS, "upsample": False}, "unknown argument 'upsample'"),
        ({"sources": 4}, "stems must be one name or more, got 4"),
        ({"sources": STEMS, "segment": 0}, "segment must be from 0 to 3600 seconds, got 0"),
        ({"sources": STEMS, "segment": "10"}, "segment must be from 0 to 3600 seconds, got '10'"),
        ({"sources": STEMS, "samplerate": 44100.5}, "sample_rate must be a whole number"),
        ({"sources": STEMS, "segment": 1, "samplerate": "x"}, "samplerate must be a positive whole number, got 'x'"),
        ({"sources": STEMS, "channels": {}}, "the argument 'channels' must be a number, a text or a list of these"),
        ({"sources": STEMS, "growth": Fraction(10**400, 3)}, "the argument 'growth' is too large"),
        ({"sources": STEMS, "growth": 8}, "growth and depth must leave every layer from 1 to 65536 channels, got"),
        ({"sources": STEMS, "growth": 0.1}, "growth and depth must leave every layer from 1 to 65536 channels, got 0"),
        ({"sources": STEMS, "channels": 12, "growth": 1}, "dconv_comp must leave a multiple of 4 channels, got 4 of"),
        ({"sources": STEMS, "channels": 2, "growth": 1}, "dconv_comp must be at most 2, a layer's channels; got 4"),
        (
            {"sources": STEMS, "channels": 6, "norm_starts": 0, "norm_groups": 4},
            "norm_groups must divide every layer with norm, got 4 for 6 channels",
        ),
    ],
)
def test_what_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as error:
        DemucsConfig.from_kwargs(kwargs)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 2}, "gelu, norm_starts < depth and dconv_mode need version 3, got 2"),
        ({"version": 4}, "version must be from 1 to 3, got 4"),
        ({"upsample": True}, "upsample needs version 1, got 3"),
        (
            {"version": 1, "gelu": False, "dconv_mode": 0, "norm_starts": 6},
            "normalize and resample need version 2 or 3",
        ),
    ],
)
def test_versions_have_their_limits(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as error:
        DemucsConfig(NAMES, **fields)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("width", [1, 3, 64])
def test_widths_are_cut_layer_by_layer(width: int) -> None:
    config = DemucsConfig(NAMES, hidden_channels=width, growth=1.5, depth=4, dconv_mode=0, norm_starts=4)
    expected = [width]
    for _ in range(3):
        expected.append(expected[-1] * 3 // 2)
    assert config.widths == tuple(expected)
