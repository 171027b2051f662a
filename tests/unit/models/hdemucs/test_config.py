"""Configurations of Hybrid Demucs: upstream's arguments, the layers that they make, what is refused."""

from typing import Any

import pytest

from demucs_networks import STEMS
from unbraid.errors import ModelError
from unbraid.models.hdemucs.config import HDemucsConfig

NAMES = tuple(STEMS)


def test_our_defaults_are_upstreams() -> None:
    assert HDemucsConfig.from_kwargs({"sources": STEMS}) == HDemucsConfig(NAMES)


def test_names() -> None:
    config = HDemucsConfig.from_kwargs(
        {
            **{"sources": STEMS, "audio_channels": 1, "channels": 32, "channels_time": 16, "nfft": 2048, "cac": False},
            **{"wiener_iters": 2, "end_iters": 2, "hybrid_old": True, "multi_freqs": [0.2, 0.5], "segment": 44},
        }
    )
    assert config == HDemucsConfig(
        NAMES,
        n_channels=1,
        hidden_channels=32,
        hidden_channels_time=16,
        n_fft=2048,
        complex_as_channels=False,
        n_wiener_iterations=2,
        n_wiener_iterations_training=2,
        hybrid_old=True,
        multi_freqs=(0.2, 0.5),
        segment_samples=44 * 44100,
    )
    assert config.hop == 512


@pytest.mark.parametrize("nothing", [None, 0, [], False])
def test_what_upstream_takes_for_nothing(nothing: Any) -> None:
    kwargs = {"sources": STEMS, "channels_time": nothing, "multi_freqs": nothing, "freq_emb": nothing}
    config = HDemucsConfig.from_kwargs(kwargs)
    assert (config.hidden_channels_time, config.multi_freqs, config.freq_emb) == (None, (), 0)


def test_the_layers_of_the_published_size() -> None:
    layers = HDemucsConfig(NAMES).layers()
    assert [layer.n_out for layer in layers] == [48, 96, 192, 384, 768, 1536]
    assert [layer.kernel_size for layer in layers] == [8, 8, 8, 8, 8, 4]  # 2048, 512, 128, 32, 8 bins, then one
    assert [layer.stride for layer in layers] == [4, 4, 4, 4, 4, 2]
    assert [layer.merges for layer in layers] == [False, False, False, False, True, False]
    assert [layer.along_time for layer in layers] == [False, False, False, False, False, True]
    assert (layers[0].n_in, layers[0].n_in_time) == (4, 2)
    assert (layers[0].n_decoded, layers[0].n_decoded_time) == (16, 8)
    assert HDemucsConfig(NAMES).n_embedded_bins == 512


def test_branches_merge_at_the_wider_width() -> None:
    for width, time_width in ((16, 48), (48, 16)):
        layers = HDemucsConfig(NAMES, hidden_channels=width, hidden_channels_time=time_width, growth=1).layers()
        assert [layer.n_out for layer in layers] == [width] * 4 + [48, 48]
        assert [layer.n_out_time for layer in layers[:5]] == [time_width] * 4 + [48]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"hybird": True}, "unknown argument 'hybird'; the nearest known one is 'hybrid'"),
        ({"hybrid": False, "hybrid_old": True}, "hybrid_old needs hybrid"),
        ({"wiener_iters": 1}, "n_wiener_iterations_training must be n_wiener_iterations in a hybrid network"),
        ({"nfft": 4098}, "n_fft must be a multiple of 4, got 4098"),
        ({"nfft": 5000}, "stride must divide the bins of every layer, got 4 for 625"),
        ({"multi_freqs": [0.5, 0.2]}, "multi_freqs must rise from 0 to 1, got (0.5, 0.2)"),
        ({"multi_freqs": [0.5, 1]}, "multi_freqs must rise from 0 to 1, got (0.5, 1)"),
        ({"multi_freqs": [i / 100 for i in range(1, 99)]}, "multi_freqs must rise from 0 to 1, got"),
        (
            {"multi_freqs": [0.5], "multi_freqs_depth": 5},
            "multi_freqs_depth must end before the first layer with norm or without frequencies",
        ),
        ({"channels": 50, "norm_starts": 0}, "norm_groups must divide every layer with norm, got 4 for 50 channels"),
        ({"channels": 12, "norm_starts": 6, "dconv_comp": 16}, "dconv_comp must be at most 12"),
        ({"dconv_mode": 4}, "dconv_mode must be from 0 to 3, got 4"),
        ({"depth": 13}, "depth must be from 1 to 12, got 13"),
    ],
)
def test_what_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as error:
        HDemucsConfig.from_kwargs({"sources": STEMS, **kwargs})
    assert str(error.value).startswith(message)
