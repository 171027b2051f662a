from collections.abc import Iterator

import numpy as np
import pytest
from scipy.fft import irfft, rfft

from fake_model import STEMS, weights
from unbraid.separation.pipeline import Source, stream_stems
from unbraid.separation.plan import Options, make_plan

RATE, N_FFT, HOP = 44100, 4096, 1024


def music(n_samples: int, n_channels: int = 2, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(n_samples) / RATE
    tones = sum(a * np.sin(2 * np.pi * f * t + a) for f, a in ((110, 0.2), (1500, 0.1), (9000, 0.05), (15000, 0.04)))
    return (tones + 0.05 * rng.standard_normal((n_channels, n_samples))).astype(np.float32)


def source_of(samples: np.ndarray, *, rate: int = RATE, block: int = 10007, channels=("FL", "FR")) -> Source:
    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, samples.shape[-1], block):
            yield samples[:, start : start + block]

    return Source(rate, channels, blocks)


def separate(samples, model, engine, *, source=None, **options) -> np.ndarray:
    before = samples.copy()
    plan = make_plan(model, Options(**options))
    out = np.concatenate(list(stream_stems(source or source_of(samples), plan, [engine], n_workers=3)), axis=-1)
    assert np.array_equal(samples, before)
    return out


def expected_stems(samples: np.ndarray, extension: str) -> np.ndarray:
    """The whole track at once, in double precision, by the definition: the masks are constant over time."""
    shares = weights(1024).astype(float) ** 2
    masks = np.zeros((len(STEMS), N_FFT // 2 + 1))
    masks[:, :1024] = shares / shares.sum(axis=0)
    if extension == "average":
        masks[:, 1024:] = masks[:, :1024].mean(axis=1, keepdims=True)
    n = samples.shape[-1]
    padded = np.pad(samples.astype(float), ((0, 0), (N_FFT, 2 * N_FFT)))
    window = np.sin(np.pi * np.arange(N_FFT) / N_FFT) ** 2
    out = np.zeros((len(STEMS), *padded.shape))
    for start in range(0, padded.shape[-1] - N_FFT + 1, HOP):
        spec = rfft(padded[:, start : start + N_FFT] * window)
        out[..., start : start + N_FFT] += irfft(masks[:, None] * spec, N_FFT) * window * 2 / 3
    return out[..., N_FFT : N_FFT + n]


@pytest.mark.parametrize("high_band", ["average", "zeros", "model"])
def test_streaming_equals_the_whole_track_at_once(model, engine, high_band: str) -> None:
    samples = music(3 * 64 * HOP + 777)
    stems = separate(samples, model, engine, high_band=high_band)
    expected = expected_stems(samples, "average" if high_band == "average" else "zeros")
    assert np.linalg.norm(stems - expected) / np.linalg.norm(expected) < 2e-6


@pytest.mark.parametrize("n_samples", [1, 2, 1023, 4096, 61440, 61441, 65536, 100_000])
def test_length_and_sum_are_those_of_the_mix(model, engine, n_samples: int) -> None:
    samples = music(n_samples)
    stems = separate(samples, model, engine)
    assert stems.shape == (3, 2, n_samples)
    assert np.abs(stems.sum(axis=0) - samples).max() < 1e-6  # −120 dBFS


@pytest.mark.parametrize("rate", [8000, 22050, 48000, 96000, 192000])
def test_other_sample_rates_keep_length_sum_and_alignment(model, engine, rate: int) -> None:
    samples = music(rate * 3 + 1)
    stems = separate(samples, model, engine, source=source_of(samples, rate=rate))
    assert stems.shape == (3, 2, samples.shape[-1])
    assert np.abs(stems.sum(axis=0) - samples).max() < 1e-6
    # The computed stems must not be shifted against the mix: the correlation peaks at lag 0.
    middle = slice(rate, 2 * rate)
    spectrum = rfft(stems[0, 0, middle]) * np.conj(rfft(samples[0, middle]))
    assert int(np.argmax(irfft(spectrum))) == 0


def test_output_rate_sets_the_length(model, engine) -> None:
    samples = music(RATE * 2 + 5)
    plan = make_plan(model, Options())
    out = np.concatenate(
        list(stream_stems(source_of(samples), plan, [engine], n_workers=3, output_rate=48000)), axis=-1
    )
    assert out.shape[-1] == round((RATE * 2 + 5) * 48000 / 44100)


@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.9])
def test_overlap_changes_nothing_where_the_masks_agree(model, engine, overlap: float) -> None:
    samples = music(2 * 64 * HOP + 99)
    plain = separate(samples, model, engine, high_band="zeros")
    crossfaded = separate(samples, model, engine, high_band="zeros", overlap=overlap)
    assert np.abs(crossfaded - plain).max() < 2e-6


def test_shifted_runs_are_moved_back_before_they_are_averaged(model, engine) -> None:
    samples = music(64 * HOP + 99)
    shifted = separate(samples, model, engine, high_band="zeros", shifts=3)
    offsets = make_plan(model, Options(shifts=3)).members[0].offsets
    assert len(set(offsets)) == 3 and max(offsets) <= RATE // 2
    delayed = [np.pad(samples, ((0, 0), (offset, 0))) for offset in offsets]
    passes = [separate(one, model, engine, high_band="zeros")[..., -samples.shape[-1] :] for one in delayed]
    assert np.abs(shifted - np.mean(passes, axis=0)).max() < 1e-6
    again = separate(samples, model, engine, high_band="zeros", shifts=3, seed=1)
    assert not np.array_equal(shifted, again)
    assert np.array_equal(shifted, separate(samples, model, engine, high_band="zeros", shifts=3))


def test_mono_in_mono_out(model, engine) -> None:
    samples = music(50_000, n_channels=1)
    stems = separate(samples, model, engine, source=source_of(samples, channels=("FC",)))
    assert stems.shape == (3, 1, 50_000)
    both = separate(np.repeat(samples, 2, axis=0), model, engine)
    assert np.abs(stems[:, 0] - both.mean(axis=1)).max() < 1e-6


def test_surround_is_separated_by_pairs(model, engine) -> None:
    channels = ("FL", "FR", "FC", "LFE", "BL", "BR")
    samples = music(50_000, n_channels=6)
    stems = separate(samples, model, engine, source=source_of(samples, channels=channels))
    assert stems.shape == (3, 6, 50_000)
    back = separate(samples[4:], model, engine)
    assert np.array_equal(stems[:, 4:], back)
    centre = separate(samples[2:3], model, engine, source=source_of(samples[2:3], channels=("FC",)))
    assert np.array_equal(stems[:, 2:3], centre)


def test_wanted_stems_only(model, engine) -> None:
    samples = music(80_000)
    everything = separate(samples, model, engine)
    some = separate(samples, model, engine, stems=("bass", "vocals"))
    assert np.abs(some - everything[[2, 0]]).max() < 1e-6
    two = separate(samples, model, engine, two_stems="drums")
    assert np.abs(two[0] - everything[1]).max() < 1e-6
    assert np.abs(two[1] - everything[[0, 2]].sum(axis=0)).max() < 1e-6


def test_silence_stays_silent(model, engine) -> None:
    assert not separate(np.zeros((2, 70_000), np.float32), model, engine).any()
    assert not separate(np.zeros((2, 70_000), np.float32), model, engine, wiener=True).any()


def test_wiener_on_the_stream_equals_the_filter_on_the_whole(model, engine) -> None:
    from unbraid.dsp.stft import istft, stft
    from unbraid.dsp.wiener import wiener

    samples = music(2 * 64 * HOP + 99)
    n = samples.shape[-1]
    stems = separate(samples, model, engine, wiener=True, high_band="zeros")
    padded = np.pad(samples, ((0, 0), (N_FFT, 3 * 64 * HOP)))
    spec = stft(padded, n_fft=N_FFT, hop=HOP)
    estimates = np.abs(spec[:, :1024]) * weights(1024)[:, None, :, None]
    expected = np.stack([istft(one, hop=HOP) for one in wiener(spec, estimates)])[..., N_FFT : N_FFT + n]
    assert np.linalg.norm(stems - expected) / np.linalg.norm(expected) < 1e-5


def test_a_failing_source_stops_the_pipeline(model, engine) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield music(200_000)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        list(stream_stems(Source(RATE, ("FL", "FR"), broken), make_plan(model, Options()), [engine]))
