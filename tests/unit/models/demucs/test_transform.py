"""Windows and fading chunks, with functions for networks whose stems are known."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from chunks import separate
from unbraid.errors import UsageError
from unbraid.models.demucs.config import DemucsConfig
from unbraid.models.demucs.lengths import output_length, valid_length
from unbraid.models.demucs.transform import DemucsTransform

Array = np.ndarray[Any, Any]
STEMS = ("drums", "bass", "vocals")
OLD: dict[str, Any] = {"gelu": False, "dconv_mode": 0, "norm_starts": 3, "normalize": False}
SMALL: dict[str, Any] = {"stems": STEMS, "hidden_channels": 8, "depth": 3, "segment_samples": 1000}
CONFIGS = {
    1: DemucsConfig(**SMALL, version=1, **OLD, resample=False, context=1),
    2: DemucsConfig(**SMALL, version=2, **OLD, resample=True, context=1),
    3: DemucsConfig(**SMALL, version=3),
}


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def louder(config: DemucsConfig) -> Callable[..., Array]:
    """A network that gives as many samples as the real one: stem k is k + 1 times the centre of the mix."""

    def run(mix: Array) -> Array:
        assert mix.shape[-1] == valid_length(config, mix.shape[-1]) or config.version < 3
        m = output_length(config, mix.shape[-1])
        start = (mix.shape[-1] - m) // 2
        return np.stack([mix[..., start : start + m] * (k + 1) for k in range(len(config.stems))], axis=1)

    return run


@pytest.mark.parametrize("version", CONFIGS)
@pytest.mark.parametrize("n_track", [2, 700, 1000, 1001, 3456])
@pytest.mark.parametrize(
    ("overlap", "power", "segment"), [(0.25, 1, None), (0, 1, None), (0.6, 2.5, 777), (0.25, 1, 40)]
)
def test_chunks_fade_into_each_other_without_a_trace(
    version: int, n_track: int, overlap: float, power: float, segment: int | None
) -> None:
    config = CONFIGS[version]
    transform = DemucsTransform(config, overlap=overlap, transition_power=power, chosen_segment=segment)
    track = noise(2, n_track) * 0.1 + 0.3
    stems = separate(transform, louder(config), track)
    mean = track.mean(axis=0).mean()
    expected = [(track - mean) * (k + 1) + mean for k in range(3)]
    np.testing.assert_allclose(stems, expected, atol=2e-6)


def test_a_chunk_fades_as_demucs_fades_it() -> None:
    """Triangles to a power over the chunks, and the sum of what is added divided by the sum of the weights."""
    config, n_track, segment, stride = CONFIGS[3], 2500, 1000, 700
    transform = DemucsTransform(config, overlap=0.3, transition_power=2.0)
    assert (transform.segment, transform.stride) == (segment, stride)
    triangle = np.concatenate([np.arange(1, 501), np.arange(500, 0, -1)]) ** 2.0
    starts = range(0, n_track, stride)
    outputs = [noise(1, 3, 2, valid_length(config, min(segment, n_track - start)), seed=start) for start in starts]
    total, weights, ours = np.zeros((3, 2, n_track)), np.zeros(n_track), np.zeros((3, 2, n_track))
    for index, (start, stems) in enumerate(zip(starts, outputs, strict=True)):
        n = min(segment, n_track - start)
        before, length = transform.window(n)
        total[..., start : start + n] += stems[0, :, :, before : before + n] * triangle[:n]
        weights[start : start + n] += triangle[:n]
        window = np.zeros((2, length), np.float32)
        each = ({0: 1.0}, {1: 1.0}, {2: 1.0})
        ours[..., start : start + n] += transform.inverse((stems,), window, each, n=n, index=index)
    np.testing.assert_allclose(ours, total / weights, atol=1e-5)


def test_results_are_mixes_of_stems_and_nothing_else_changes() -> None:
    transform = DemucsTransform(CONFIGS[2], overlap=0.5)
    before, length = transform.window(900)
    window = noise(2, length)
    outputs = (noise(1, 3, 2, output_length(CONFIGS[2], length)),)
    kept = window.copy(), outputs[0].copy()
    (inputs,) = transform.forward(window)
    assert inputs.shape == (1, 2, length)
    each = transform.inverse(outputs, window, ({0: 1.0}, {1: 1.0}, {2: 1.0}), n=900, index=1)
    some = transform.inverse(outputs, window, ({0: 0.5, 2: 0.25}, {}, {1: -1.0}), n=900, index=1)
    np.testing.assert_allclose(some[0], 0.5 * each[0] + 0.25 * each[2], atol=1e-6)
    assert not some[1].any()
    np.testing.assert_array_equal(some[2], -each[1])
    some[:] = 0
    np.testing.assert_array_equal(window, kept[0])
    np.testing.assert_array_equal(outputs[0], kept[1])
    assert length > before + 900


def test_what_the_pipeline_is_told() -> None:
    transform = DemucsTransform(DemucsConfig(STEMS, n_channels=1, sample_rate=16000, segment_samples=160_000))
    assert transform.stems == STEMS
    assert (transform.sample_rate, transform.n_channels) == (16000, 1)
    assert (transform.segment, transform.stride, transform.lead) == (160_000, 120_000, 0)
    assert transform.normalises
    assert not transform.sums_to_mix
    assert not transform.wiener


def test_options() -> None:
    transform = DemucsTransform(CONFIGS[3])
    assert transform.with_options() == transform
    chosen = transform.with_options(overlap=0.5, segment_s=0.5, high_band="average")
    assert (chosen.segment, chosen.stride) == (22050, 11025)
    assert chosen.with_options() == chosen
    assert transform.with_options(segment_s=1e-9).segment == 1
    assert transform.with_options(overlap=0.9999).stride == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap": 1.0}, r"overlap must be in \[0, 1\), got 1.0"),
        ({"overlap": -0.1}, r"overlap must be in \[0, 1\), got -0.1"),
        ({"overlap": float("nan")}, r"overlap must be in \[0, 1\), got nan"),
        ({"segment_s": 0.0}, r"segment must be in \(0, 600\] seconds for this model, got 0.0"),
        ({"segment_s": 601.0}, r"segment must be in \(0, 600\] seconds for this model, got 601.0"),
        ({"wiener": True}, "the Wiener filter over a whole track is an option of Spleeter models"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DemucsTransform(CONFIGS[3]).with_options(**options)


def test_a_power_that_makes_no_sense() -> None:
    with pytest.raises(UsageError, match=r"transition power must be in \[1, 100\], got 0.5"):
        DemucsTransform(CONFIGS[3], transition_power=0.5)
