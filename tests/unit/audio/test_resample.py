import numpy as np
import pytest

from unbraid.audio.resample import StreamResampler, resample, resampled_length

PAIRS = [(44100, 48000), (48000, 44100), (192000, 44100), (8000, 44100), (44100, 16000), (44056, 44100), (44100, 11025)]


@pytest.mark.parametrize(("from_hz", "to_hz"), PAIRS)
@pytest.mark.parametrize("n_samples", [1, 2, 1000, 30011])
def test_length_is_the_rounded_ratio(from_hz: int, to_hz: int, n_samples: int) -> None:
    expected = max(1, int(np.floor(n_samples * to_hz / from_hz + 0.5)))
    assert resampled_length(n_samples, from_hz, to_hz) == expected
    assert resample(np.ones((2, n_samples), np.float32), from_hz, to_hz).shape == (2, expected)


def test_nothing_stays_nothing() -> None:
    assert resampled_length(0, 44100, 48000) == 0


@pytest.mark.parametrize(("from_hz", "to_hz"), PAIRS)
def test_a_tone_keeps_its_time_and_level(from_hz: int, to_hz: int) -> None:
    def tone(rate: int, n: int) -> np.ndarray:
        phase = 2 * np.pi * 997 * np.arange(n) / rate
        return np.stack([np.sin(phase), 0.5 * np.cos(phase)])

    resampled = resample(tone(from_hz, from_hz).astype(np.float32), from_hz, to_hz)
    inner = slice(to_hz // 10, -to_hz // 10)
    assert np.abs(resampled - tone(to_hz, to_hz))[:, inner].max() < 2e-6


@pytest.mark.parametrize(("from_hz", "to_hz"), PAIRS[:4])
@pytest.mark.parametrize("piece", [1, 100, 4097])
def test_blocks_leave_no_seam(from_hz: int, to_hz: int, piece: int) -> None:
    samples = np.random.default_rng(0).standard_normal((3, 5000)).astype(np.float32)
    stream = StreamResampler(from_hz, to_hz, 3)
    parts = [stream.push(samples[:, i : i + piece]) for i in range(0, 5000, piece)]
    whole = np.concatenate([*parts, stream.flush()], axis=1)
    assert np.array_equal(whole, resample(samples, from_hz, to_hz))


def test_equal_rates_change_nothing() -> None:
    samples = np.random.default_rng(0).standard_normal((2, 100)).astype(np.float32)
    stream = StreamResampler(44100, 44100, 2)
    assert np.array_equal(np.concatenate([stream.push(samples), stream.flush()], axis=1), samples)
    copy = resample(samples, 44100, 44100)
    assert np.array_equal(copy, samples) and not np.shares_memory(copy, samples)
