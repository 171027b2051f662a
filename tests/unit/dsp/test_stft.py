import numpy as np
import pytest

from unbraid.dsp.stft import exact_div, frames_to_samples, hann, istft, stft

N_FFT, HOP = 4096, 1024


def noise(n_samples: int, n_channels: int = 2) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n_channels, n_samples)).astype(np.float32)


def test_stft_equals_a_sum_written_out() -> None:
    n_fft, hop = 16, 4
    samples = noise(40)
    spec = stft(samples, n_fft=n_fft, hop=hop)
    assert spec.shape == (2, 9, 7)
    window = np.sin(np.pi * np.arange(n_fft) / n_fft) ** 2
    for channel in range(2):
        for frame in range(7):
            piece = samples[channel, frame * hop : frame * hop + n_fft] * window
            for k in range(9):
                expected = np.sum(piece * np.exp(-2j * np.pi * k * np.arange(n_fft) / n_fft))
                assert abs(spec[channel, k, frame] - expected) < 1e-5


def test_tone_appears_at_its_bin_with_half_the_windows_sum() -> None:
    k, amplitude = 100, 0.5
    samples = (amplitude * np.cos(2 * np.pi * k * np.arange(N_FFT) / N_FFT)).astype(np.float32)[None]
    spec = np.abs(stft(samples, n_fft=N_FFT, hop=HOP))[0, :, 0]
    assert spec.argmax() == k
    assert spec[k] == pytest.approx(amplitude * N_FFT / 4, rel=1e-5)


def test_inverse_returns_the_samples_that_all_frames_cover() -> None:
    samples = noise(frames_to_samples(40, N_FFT, HOP))
    back = istft(stft(samples, n_fft=N_FFT, hop=HOP), hop=HOP)
    assert back.shape == samples.shape
    inside = slice(N_FFT - HOP, -(N_FFT - HOP))
    assert np.abs(back[:, inside] - samples[:, inside]).max() < 3e-6  # a few float32 roundings of ±4


def test_inverse_at_other_overlap_keeps_the_level() -> None:
    samples = noise(frames_to_samples(40, 1024, 128))
    back = istft(stft(samples, n_fft=1024, hop=128), hop=128)
    assert np.abs(back - samples)[:, 1024:-1024].max() < 3e-6


def test_segments_add_up_to_the_transform_of_the_whole() -> None:
    n_frames, n_segments = 8, 3
    samples = noise(frames_to_samples(n_frames * n_segments, N_FFT, HOP))
    whole = stft(samples, n_fft=N_FFT, hop=HOP)
    mask = np.random.default_rng(1).random(whole.shape).astype(np.float32)
    expected = istft(whole * mask, hop=HOP)
    total = np.zeros_like(expected)
    for i in range(n_segments):
        start, frames = i * n_frames * HOP, slice(i * n_frames, (i + 1) * n_frames)
        piece = samples[:, start : start + frames_to_samples(n_frames, N_FFT, HOP)]
        spec = stft(piece, n_fft=N_FFT, hop=HOP)
        assert np.array_equal(spec, whole[..., frames])
        total[:, start : start + piece.shape[1]] += istft(spec * mask[..., frames], hop=HOP)
    assert np.abs(total - expected).max() < 1e-6


def test_channels_do_not_touch_each_other_and_input_is_unchanged() -> None:
    samples = noise(3 * N_FFT)
    before = samples.copy()
    both = stft(samples, n_fft=N_FFT, hop=HOP)
    for channel in range(2):
        assert np.array_equal(both[channel], stft(samples[channel : channel + 1], n_fft=N_FFT, hop=HOP)[0])
    assert np.array_equal(samples, before)


def test_hann_is_periodic_and_cannot_be_changed() -> None:
    window = hann(8)
    assert np.allclose(window[1:], window[1:][::-1])
    assert window[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        window[0] = 1


def test_exact_div() -> None:
    assert exact_div(12, 4) == 3
    with pytest.raises(ValueError, match="not a multiple"):
        exact_div(13, 4)
