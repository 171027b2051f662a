import numpy as np
import pytest
import torch

from unbraid.dsp.stft import frames_to_samples, hann, istft, pad, squares_covering, stft

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


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize(
    ("n_fft", "hop", "n_samples"),
    [(4096, 1024, 20_001), (64, 16, 999), (64, 8, 64), (20, 5, 57), (64, 32, 999), (64, 24, 500)],
)
def test_centred_transform_and_inverse_are_those_of_torch(
    n_fft: int, hop: int, n_samples: int, normalised: bool
) -> None:
    samples, n_frames = noise(n_samples), 1 + n_samples // hop
    n_total = frames_to_samples(n_frames, n_fft, hop)
    padded = pad(samples, n_before=n_fft // 2, n_total=n_total)
    spec = stft(padded, n_fft=n_fft, hop=hop, normalised=normalised)
    window = torch.hann_window(n_fft)
    options = {"n_fft": n_fft, "hop_length": hop, "window": window, "normalized": normalised}
    theirs = torch.stft(torch.from_numpy(samples), return_complex=True, **options)
    assert np.abs(spec - theirs.numpy()).max() < 3e-7 * np.abs(theirs.numpy()).max() * np.log2(n_fft)
    # Not the transform of anything: each inverse has its own way to make one of it.
    spec = spec * noise(n_frames, 1)
    back = istft(spec, hop=hop, normalised=normalised) / (squares_covering(n_frames, n_fft=n_fft, hop=hop) + 1e-30)
    theirs = torch.istft(torch.from_numpy(spec), length=n_samples, **options).numpy()
    assert np.abs(back[:, n_fft // 2 :][:, :n_samples] - theirs).max() < 1e-5


def test_samples_are_covered_as_the_frames_windows_add_up() -> None:
    covering = squares_covering(10, n_fft=16, hop=4)
    assert covering.shape == (52,)
    assert covering[12:40] == pytest.approx(1)  # by four frames each
    window = np.sin(np.pi * np.arange(16) / 16) ** 2
    assert covering[:4] == pytest.approx(window[:4] ** 2 / 1.5)
    assert covering[-4:] == pytest.approx(window[-4:] ** 2 / 1.5)


@pytest.mark.parametrize(
    ("n_before", "n_total", "expected"),
    [
        (0, 5, [1, 2, 3, 4, 5]),
        (2, 9, [3, 2, 1, 2, 3, 4, 5, 4, 3]),
        (4, 13, [5, 4, 3, 2, 1, 2, 3, 4, 5, 4, 3, 2, 1]),
        # What Demucs (4.1, hdemucs.pad1d) does where there is too little: zeros behind, then zeros in front.
        (6, 15, [0, 0, 5, 4, 3, 2, 1, 2, 3, 4, 5, 0, 0, 0, 5]),
        (1, 12, [2, 1, 2, 3, 4, 5, 0, 0, 0, 5, 4, 3]),
        (6, 12, [5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 0]),
        (5, 10, [4, 3, 2, 1, 0, 1, 2, 3, 4, 5]),
    ],
)
def test_padding_mirrors_the_signal(n_before: int, n_total: int, expected: list[float]) -> None:
    samples = np.array([[1, 2, 3, 4, 5], [-1, -2, -3, -4, -5]], np.float32)
    before = samples.copy()
    padded = pad(samples, n_before=n_before, n_total=n_total)
    assert padded.dtype == np.float32
    assert np.array_equal(padded, np.outer([1, -1], expected))
    assert np.array_equal(samples, before)


def test_padding_with_zeros() -> None:
    samples = np.array([[1, 2]], np.float32)
    assert pad(samples, n_before=3, n_total=7, reflect=False).tolist() == [[0, 0, 0, 1, 2, 0, 0]]
