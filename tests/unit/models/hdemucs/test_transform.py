"""The transform beside torch's own STFT with the arguments that Demucs gives it, and beside Demucs where it is."""

import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from unbraid.dsp.segments import OverlapAdd, WindowCutter
from unbraid.dsp.wiener_em import wiener_excerpt
from unbraid.errors import UsageError
from unbraid.models.hdemucs.config import HDemucsConfig
from unbraid.models.hdemucs.transform import HybridTransform, mixed
from unbraid.models.htdemucs.config import HTDemucsConfig

STEMS = ("drums", "bass", "vocals")
EACH = tuple({i: 1.0} for i in range(len(STEMS)))
SMALL: dict[str, Any] = {"stems": STEMS, "n_fft": 64, "hidden_channels": 8, "depth": 2, "segment_samples": 1000}
MAGNITUDES = {"complex_as_channels": False}
VARIANTS = {
    "published": HDemucsConfig(**SMALL),
    "late": HDemucsConfig(**SMALL, hybrid_old=True),
    "spectrogram alone": HDemucsConfig(**SMALL, hybrid=False),
    "transformer": HTDemucsConfig(**SMALL),
    "transformer of any length": HTDemucsConfig(**SMALL, use_train_segment=False),
    "mono": HDemucsConfig(**SMALL, n_channels=1),
    "magnitudes": HDemucsConfig(**SMALL, **MAGNITUDES),
    "late magnitudes": HDemucsConfig(**SMALL, **MAGNITUDES, hybrid_old=True),
    "masks": HDemucsConfig(**SMALL, **MAGNITUDES, n_wiener_iterations=-1, n_wiener_iterations_training=-1),
}
EM = {"n_wiener_iterations": 2, "n_wiener_iterations_training": 2}
FILTERS = {
    "EM": HDemucsConfig(**SMALL, **MAGNITUDES, **EM),
    "EM with residual": HDemucsConfig(**SMALL, **MAGNITUDES, **EM, wiener_residual=True),
    "start of EM with residual": HDemucsConfig(**SMALL, **MAGNITUDES, wiener_residual=True),
}
# Shorter than the padding, which is 24 to 39 samples, or one more; odd ones, multiples of the hop and one beside.
LENGTHS = [1, 2, 15, 16, 17, 24, 25, 37, 38, 40, 41, 100, 160, 161, 175, 176, 999, 1000]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def network_inputs(window: np.ndarray, config: HDemucsConfig | HTDemucsConfig) -> np.ndarray:
    """The complex spectrogram [shape=(channel, F, T)] by torch, with Demucs' paddings and cuts."""
    hop, n_fft, x = config.hop, config.n_fft, torch.from_numpy(window)
    n_hops = -(-x.shape[-1] // hop)
    if is_hybrid(config):
        before, after = 3 * hop // 2, 3 * hop // 2 + n_hops * hop - x.shape[-1]
        if is_late(config):
            x = functional.pad(x, (before, after))
        else:
            n_missing = max(before, after) + 1 - x.shape[-1]
            for _ in range(n_missing):  # as many zeros as are needed for mirroring, rather behind than in front
                in_front = after == 0
                x = functional.pad(x, (1, 0) if in_front else (0, 1))
                before, after = before - in_front, after - (not in_front)
            x = functional.pad(x[None], (before, after), "reflect")[0]
    spec = torch.stft(
        x, n_fft, hop, window=torch.hann_window(n_fft), normalized=True, pad_mode="reflect", return_complex=True
    )[:, :-1]
    return (spec[..., 2 : 2 + n_hops] if is_hybrid(config) else spec).numpy()


def samples_of(spec: np.ndarray, n: int, config: HDemucsConfig | HTDemucsConfig) -> np.ndarray:
    """The first `n` samples [shape=(channel, n)] of a stem's complex spectrogram by torch, as Demucs inverts it."""
    hop, n_fft = config.hop, config.n_fft
    z = functional.pad(torch.from_numpy(spec), (0, 0, 0, 1))
    n_padding, length = 3 * hop // 2, n
    if is_hybrid(config):
        z = functional.pad(z, (2, 2))
        length = -(-n // hop) * hop + (0 if is_late(config) else 2 * n_padding)
    x = torch.istft(z, n_fft, hop, window=torch.hann_window(n_fft), normalized=True, length=length).numpy()
    return x[:, :n] if is_late(config) or not is_hybrid(config) else x[:, n_padding : n_padding + n]


def is_hybrid(config: HDemucsConfig | HTDemucsConfig) -> bool:
    return getattr(config, "hybrid", True)


def is_late(config: HDemucsConfig | HTDemucsConfig) -> bool:
    return getattr(config, "hybrid_old", False)


def as_channels(spec: np.ndarray) -> np.ndarray:
    """(channel, F, T) complex as (2 channel, F, T) real: real and imaginary parts of each channel in turn."""
    return np.stack([spec.real, spec.imag], axis=1).reshape(-1, *spec.shape[1:])


def random_outputs(transform: HybridTransform, n_network: int) -> tuple[np.ndarray, ...]:
    """What a network could give."""
    config, n_stems = transform.config, len(transform.stems)
    n_parts = config.n_channels * (2 if config.complex_as_channels else 1)
    spectra = noise(1, n_stems, n_parts, config.n_fft // 2, transform.n_frames(n_network), seed=1)
    if not config.complex_as_channels:
        spectra = np.abs(spectra)
    waves = noise(1, n_stems, config.n_channels, n_network, seed=2)
    return (spectra, waves) if is_hybrid(config) else (spectra,)


def stems_of(outputs: tuple[np.ndarray, ...], window: np.ndarray, config: HDemucsConfig) -> np.ndarray:
    """The network's stems over the whole window [shape=(stem, channel, time)], by torch."""
    stems = []
    for i, spectrum in enumerate(outputs[0][0]):
        if config.complex_as_channels:
            spec = spectrum[0::2] + 1j * spectrum[1::2]
        else:
            mix = network_inputs(window, config)
            unit = mix / (1e-8 + abs(mix)) if config.n_wiener_iterations else np.exp(1j * np.angle(mix))
            spec = (unit * spectrum).astype(np.complex64)
        stem = samples_of(spec, window.shape[-1], config)
        stems.append(stem + outputs[1][0, i] if len(outputs) > 1 else stem)
    return np.array(stems)


def alone(config: HDemucsConfig | HTDemucsConfig) -> HybridTransform:
    return HybridTransform(config, overlap=0.0)


# Those for the spectrogram alone mirror no more than there is.
@pytest.mark.parametrize(
    ("name", "n"), [(v, n) for v in VARIANTS for n in LENGTHS if n > 32 or v != "spectrogram alone"]
)
def test_inputs_are_those_of_torch(name: str, n: int) -> None:
    config = VARIANTS[name]
    window = noise(config.n_channels, n)
    inputs = HybridTransform(config).forward(window)
    filled = window
    if name == "transformer":
        filled = np.pad(window, ((0, 0), (0, 1000 - n)))
    expected = network_inputs(filled, config)
    expected = as_channels(expected) if config.complex_as_channels else abs(expected)
    assert inputs[0].dtype == np.float32 and inputs[0].flags.c_contiguous
    assert inputs[0].shape == (1, *expected.shape)
    assert np.abs(inputs[0][0] - expected).max() < 2e-6
    assert len(inputs) == (2 if is_hybrid(config) else 1)
    if is_hybrid(config):
        assert np.array_equal(inputs[1], filled[None])


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("n", LENGTHS)
def test_stems_are_those_of_torch(name: str, n: int) -> None:
    transform = alone(VARIANTS[name])
    if not transform.config.complex_as_channels and n < 50:
        n += 50  # mirrored from next to nothing, bins may be 0 and phases accidental
    before, n_window = transform.window(n)
    n_network = transform.network_samples(n_window)
    window = noise(transform.n_channels, n_window)
    outputs = random_outputs(transform, n_network)
    kept = [array.copy() for array in (window, *outputs)]
    stems = transform.inverse(outputs, window, EACH, n=n, index=0)
    expected = stems_of(outputs, np.pad(window, ((0, 0), (0, n_network - n_window))), transform.config)
    assert stems.dtype == np.float32
    assert stems.shape == (len(STEMS), transform.n_channels, n)
    assert np.abs(stems - expected[..., before : before + n]).max() < 2e-5
    assert all(np.array_equal(array, copy) for array, copy in zip((window, *outputs), kept, strict=True))


def test_inputs_and_stems_of_a_network_of_the_published_size() -> None:
    transform = alone(HTDemucsConfig(stems=("one",), segment_samples=343_980))
    window = noise(2, 343_980)
    spectrum, mix = transform.forward(window)
    expected = network_inputs(window, transform.config)
    assert spectrum.shape == (1, 4, 2048, 336)
    assert mix.shape == (1, 2, 343_980)
    assert np.abs(spectrum[0] - as_channels(expected)).max() < 5e-6
    outputs = (spectrum[None], np.zeros((1, 1, 2, 343_980), np.float32))
    back = transform.inverse(outputs, window, ({0: 1.0},), n=343_980, index=0)[0]
    assert np.abs(back - samples_of(expected, 343_980, transform.config)).max() < 1e-5


def whole_track(samples: np.ndarray, transform: HybridTransform, gains: np.ndarray) -> np.ndarray:
    """Stems of a track as Demucs' apply_model has them, with torch, of a network that multiplies by `gains`.

    gains : (stem, 2), of the spectrogram and of the wave
    """
    config, n_samples, segment = transform.config, samples.shape[-1], transform.segment
    triangle = np.concatenate([np.arange(1, segment // 2 + 1), np.arange(segment - segment // 2, 0, -1)])
    weights = (triangle / triangle.max()) ** transform.transition_power
    out, total = np.zeros((len(gains), *samples.shape)), np.zeros(n_samples)
    margin = 2 * config.segment_samples
    padded = np.pad(samples, ((0, 0), (margin, margin)))
    for start in range(0, n_samples, transform.stride):
        n = min(segment, n_samples - start)
        is_centred = isinstance(config, HTDemucsConfig) and config.use_train_segment
        before, length = ((segment - n) // 2, segment) if is_centred else (0, n)
        window = padded[:, margin + start - before :][:, :length]
        if is_centred:
            window = np.pad(window, ((0, 0), (0, config.segment_samples - length)))
        stem = samples_of(network_inputs(window, config), window.shape[-1], config)
        chunk = gains[:, :1, None] * stem + gains[:, 1:, None] * window
        out[..., start : start + n] += weights[:n] * chunk[..., before : before + n]
        total[start : start + n] += weights[:n]
    return out / total


@pytest.mark.parametrize("name", ["published", "late", "transformer", "transformer of any length", "mono"])
@pytest.mark.parametrize(("overlap", "power"), [(0.25, 1.0), (0.25, 2.0), (0.0, 1.0), (0.7, 1.0), (0.8, 3.0)])
def test_chunks_add_up_to_what_demucs_makes_of_a_whole_track(name: str, overlap: float, power: float) -> None:
    transform = HybridTransform(VARIANTS[name], overlap=overlap, transition_power=power)
    gains = np.array([[0.5, 1.0], [-1.0, 0.0], [0.0, 2.0]], np.float32)
    for n_samples in (30, 1001, 2222):
        samples = noise(transform.n_channels, n_samples)
        cutter = WindowCutter(
            len(samples), segment=transform.segment, stride=transform.stride, lead=0, window=transform.window
        )
        adder = OverlapAdd((3, len(samples)), segment=transform.segment, stride=transform.stride)
        finished = []
        for index, n, window in [*cutter.push(samples), *cutter.flush()]:
            spectrum, mix = transform.forward(window)
            outputs = gains[:, :1, None, None] * spectrum[0], gains[:, 1:, None] * mix[0]
            finished.append(
                adder.add(transform.inverse([one[None] for one in outputs], window, EACH, n=n, index=index))
            )
        expected = whole_track(samples, transform, gains)
        assert np.abs(np.concatenate(finished, axis=-1) - expected).max() < 1e-5


def test_results_are_weighted_sums_of_the_stems() -> None:
    transform = HybridTransform(VARIANTS["published"])
    window = noise(2, 1000)
    outputs = random_outputs(transform, 1000)
    options: dict[str, Any] = {"n": 1000, "index": 3}
    stems = transform.inverse(outputs, window, EACH, **options)
    mixes = ({1: 1.0}, {0: 0.5, 2: -2.0}, {}, {2: 0.25})
    results = transform.inverse(outputs, window, mixes, **options)
    assert np.array_equal(results[0], stems[1])
    assert np.abs(results[1] - (0.5 * stems[0] - 2 * stems[2])).max() < 1e-5
    assert not results[2].any()
    assert np.abs(results[3] - 0.25 * stems[2]).max() < 1e-6


def test_mixed_leaves_the_stems_alone() -> None:
    stems = noise(3, 2, 5)
    before = stems.copy()
    assert np.shares_memory(mixed(stems, {2: 1.0}), stems)
    total = mixed(stems, {2: 1.0, 0: 1.0})
    assert np.array_equal(total, stems[2] + stems[0])
    assert mixed(stems, {}) is None
    assert np.array_equal(stems, before)


@pytest.mark.parametrize("name", FILTERS)
def test_em_takes_every_300_frames_together(name: str) -> None:
    config = replace(FILTERS[name], segment_samples=12_000)
    transform, n = alone(config), 16 * 700 - 3
    window = noise(2, n)
    outputs = random_outputs(transform, n)
    mix = network_inputs(window, config)
    options: dict[str, Any] = {"iterations": config.n_wiener_iterations, "residual": config.wiener_residual}
    parts = [wiener_excerpt(mix[..., i : i + 300], outputs[0][0, ..., i : i + 300], **options) for i in (0, 300, 600)]
    expected = [samples_of(stem, n, config) for stem in np.concatenate(parts, axis=-1)[:3]] + outputs[1][0]
    stems = transform.inverse(outputs, window, EACH, n=n, index=0)
    assert np.abs(stems - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parity
@pytest.mark.parametrize("name", [*VARIANTS, *FILTERS])
def test_same_numbers_as_demucs(name: str) -> None:
    hdemucs = original("demucs.hdemucs")
    config = {**VARIANTS, **FILTERS}[name]
    kwargs: dict[str, Any] = {
        "sources": list(STEMS),
        "audio_channels": config.n_channels,
        "nfft": config.n_fft,
        "channels": config.hidden_channels,
        "depth": config.depth,
        "cac": config.complex_as_channels,
        "wiener_iters": config.n_wiener_iterations,
        "end_iters": config.n_wiener_iterations,
        "wiener_residual": config.wiener_residual,
        "segment": Fraction(1000, 44100),
    }
    if isinstance(config, HTDemucsConfig):
        theirs = original("demucs.htdemucs").HTDemucs(**kwargs, use_train_segment=config.use_train_segment, t_layers=0)
    else:
        theirs = hdemucs.HDemucs(**kwargs, hybrid=config.hybrid, hybrid_old=config.hybrid_old)
    transform = alone(config)
    for n in LENGTHS if config.complex_as_channels else [100, 161, 1000]:
        if not is_hybrid(config) and n <= config.n_fft // 2:
            continue  # which they cannot
        before, n_window = transform.window(n)
        window = noise(config.n_channels, n_window)
        n_network = transform.network_samples(n_window)
        x = functional.pad(torch.from_numpy(window)[None], (0, n_network - n_window))
        spec = theirs._spec(x)
        outputs = random_outputs(transform, n_network)
        spectrum = transform.forward(window)[0]
        assert np.abs(spectrum - theirs._magnitude(spec).numpy()).max() < 2e-6
        with torch.no_grad():
            expected = theirs.eval()._ispec(theirs._mask(spec, torch.from_numpy(outputs[0])), n_network).numpy()[0]
        if len(outputs) > 1:
            expected += outputs[1][0]
        stems = transform.inverse(outputs, window, EACH, n=n, index=0)
        error = np.abs(stems - expected[..., before : before + n]).max()
        assert error < (1e-3 if config.n_wiener_iterations > 0 else 2e-5) * np.abs(expected).max(), (n, error)


def original(module: str) -> Any:
    """A module of the original program, or a skip."""
    with warnings.catch_warnings():  # of what it imports
        warnings.simplefilter("ignore")
        return pytest.importorskip(module, reason="demucs is not installed", exc_type=ImportError)


def test_chunks_windows_and_options() -> None:
    published = HTDemucsConfig(stems=STEMS, segment_samples=343_980)
    transform = HybridTransform(published)
    assert (transform.segment, transform.stride, transform.lead) == (343_980, 257_985, 0)
    assert transform.stems == STEMS
    assert (transform.sample_rate, transform.n_channels) == (44_100, 2)
    assert transform.normalises
    assert not transform.sums_to_mix
    assert not transform.wiener
    assert transform.window(343_980) == (0, 343_980)
    assert transform.window(1001) == (171_489, 343_980)
    assert transform.n_frames(343_980) == 336
    shorter = transform.with_options(segment_s=5.0, overlap=0.1)
    assert (shorter.segment, shorter.stride) == (220_500, 198_450)
    assert shorter.window(1000) == (109_750, 220_500)
    assert shorter.network_samples(220_500) == 343_980
    assert shorter.with_options() == shorter
    any_length = HybridTransform(replace(published, use_train_segment=False))
    assert any_length.window(1001) == (0, 1001)
    assert any_length.with_options(segment_s=5.0).window(1000) == (109_750, 220_500)
    assert any_length.network_samples(1000) == 1000
    hdemucs = HybridTransform(HDemucsConfig(stems=STEMS)).with_options(segment_s=90.0)
    assert hdemucs.segment == 90 * 44_100
    assert hdemucs.window(1001) == (0, 1001)
    assert hdemucs.window(hdemucs.segment) == (0, hdemucs.segment)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: t.with_options(overlap=1.0), r"overlap must be in \[0, 1\), got 1.0"),
        (lambda t: t.with_options(overlap=-0.1), r"overlap must be in \[0, 1\), got -0.1"),
        (lambda t: t.with_options(overlap=float("nan")), "overlap must be in"),
        (lambda t: t.with_options(segment_s=7.9), r"segment must be in \(0, 7.8\] seconds for this model, got 7.9"),
        (lambda t: t.with_options(segment_s=0.0), r"segment must be in \(0, 7.8\]"),
        (lambda t: t.with_options(segment_s=float("nan")), "segment must be in"),
        (lambda t: t.with_options(wiener=True), "Wiener filter .* is an option of Spleeter models"),
        (lambda t: replace(t, transition_power=0.5), r"transition power must be in \[1, 100\], got 0.5"),
        (lambda t: HybridTransform(HDemucsConfig(stems=STEMS)).with_options(segment_s=601.0), r"in \(0, 600\] seconds"),
    ],
)
def test_options_are_checked(make: Callable[[HybridTransform], object], message: str) -> None:
    transform = HybridTransform(HTDemucsConfig(stems=STEMS, segment_samples=343_980))
    with pytest.raises(UsageError, match=message):
        make(transform)


def test_little_more_memory_is_taken_than_is_given_out() -> None:
    transform = HybridTransform(HTDemucsConfig(stems=STEMS, segment_samples=343_980))
    window = noise(2, 343_980)
    outputs = random_outputs(transform, 343_980)
    transform.inverse(outputs, window, EACH, n=343_980, index=0)  # the weights are kept
    tracemalloc.start()
    inputs = transform.forward(window)
    peak_forward = tracemalloc.get_traced_memory()[1]
    n_inputs = inputs[0].nbytes
    del inputs
    tracemalloc.reset_peak()
    stems = transform.inverse(outputs, window, EACH, n=343_980, index=0)
    peak_inverse = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_forward < n_inputs + 8e6  # the padded window, and 32 frames in some forms
    assert peak_inverse < stems.nbytes + 8e6
