"""The transform beside torch's own STFT, and beside Open-Unmix's separator where that is installed."""

import importlib.util
import sys
import types
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from chunks import by_torch, separate
from unbraid.dsp.wiener_em import wiener_excerpt
from unbraid.errors import UsageError
from unbraid.models.openunmix.config import OpenUnmixConfig, TargetConfig
from unbraid.models.openunmix.transform import OpenUnmixTransform

torch = pytest.importorskip("torch", reason="torch is not installed")

Array = np.ndarray[Any, Any]
STEMS = ("vocals", "drums", "other")
SMALL = OpenUnmixConfig(
    STEMS, (TargetConfig(hidden_size=4, max_bin=20),) * 3, sample_rate=1000, n_fft=64, hop=16, wiener_frames=30
)
CONFIGS = {
    "no EM": replace(SMALL, n_iterations=0),
    "EM": SMALL,
    "EM over all frames": replace(SMALL, wiener_frames=0),
    "EM with residual": replace(SMALL, n_iterations=2, residual=True),
    "residual": replace(SMALL, n_iterations=0, residual=True),
    "softmask": replace(SMALL, n_iterations=1, softmask=True),
    "mono": replace(SMALL, n_channels=1),
    "mono, residual": replace(SMALL, n_channels=1, n_iterations=0, residual=True),
    "half": replace(SMALL, hop=32),
    "no whole number": replace(SMALL, hop=24),
}


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def relative_error(ours: Array, theirs: Array) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def masks(magnitude: Array) -> Array:
    """A network whose stems are known shares of each bin, and together less than the mix."""
    shares = np.random.default_rng(0).random((1, 3, 1, 1, magnitude.shape[-1])).astype(np.float32)
    return magnitude[:, None] * shares / 3


def by_stft_of_torch(config: OpenUnmixConfig, track: Array) -> Array:
    """Stems by torch's centred transforms of the whole track."""
    window = torch.hann_window(config.n_fft)
    options = {"n_fft": config.n_fft, "hop_length": config.hop, "window": window}
    mix = torch.stft(torch.from_numpy(track), return_complex=True, **options).numpy()
    magnitude = np.abs(mix).swapaxes(-1, -2)
    if config.n_channels == 1:
        magnitude = magnitude.mean(axis=0, keepdims=True)
    estimates = masks(magnitude[None])[0].swapaxes(-1, -2)
    n_frames = mix.shape[-1]
    length = config.wiener_frames or n_frames
    filters = {"iterations": config.n_iterations, "softmask": config.softmask, "residual": config.residual}
    excerpts = [slice(start, start + length) for start in range(0, n_frames, length)]
    stems = [wiener_excerpt(mix[..., part], estimates[..., part], **filters) for part in excerpts]
    spec = torch.from_numpy(np.concatenate(stems, axis=-1))
    samples = torch.istft(spec.flatten(0, 1), length=track.shape[-1], **options)
    return samples.reshape(-1, *track.shape).numpy()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("n_track", [33, 1000, 30_000])
def test_a_track_of_up_to_one_chunk_is_transformed_as_a_whole(name: str, n_track: int) -> None:
    config, track = CONFIGS[name], noise(2, n_track)
    before = track.copy()
    ours = separate(OpenUnmixTransform(config), masks, track)
    assert ours.shape == (3 + config.residual, 2, n_track)
    assert relative_error(ours, by_stft_of_torch(config, track)) < 1e-5
    np.testing.assert_array_equal(track, before)


@pytest.mark.parametrize("name", ["no EM", "mono", "half", "no whole number"])
@pytest.mark.parametrize("n_track", [1, 2, 15, 31, 32, 33, 500, 3333, 40_000])
@pytest.mark.parametrize("segment", [None, 700])
def test_what_the_networks_keep_comes_back_whatever_the_length(name: str, n_track: int, segment: int | None) -> None:
    config, track = replace(CONFIGS[name], n_iterations=0), noise(2, n_track)

    def keep(magnitude: Array) -> Array:
        return np.stack([magnitude, 0 * magnitude, 0.5 * magnitude], axis=1)

    if config.n_channels == 1:
        track[1] = -track[0]  # so that the mean of the magnitudes is each
    stems = separate(OpenUnmixTransform(config, chosen_segment=segment), keep, track)
    last = 0 if name in ("no EM", "mono") else 20  # samples at the track's end that may be faded out
    end = max(n_track - last, 0)
    np.testing.assert_allclose(stems[0][:, :end], track[:, :end], atol=1e-5)
    np.testing.assert_allclose(stems[2][:, :end], track[:, :end] / 2, atol=1e-5)
    assert not stems[1].any()
    assert (np.abs(stems[0]) <= np.abs(track) + 1e-5).all()


def test_the_last_samples_do_not_click() -> None:
    """Half a frame's hop leaves the last sample to the edge of one window."""
    config = replace(SMALL, hop=32, n_iterations=0)
    track = noise(2, 32 * 20 + 31)

    def rough(magnitude: Array) -> Array:
        return masks(magnitude) * np.abs(noise(*magnitude.shape))[:, None]

    with np.errstate(all="raise"):
        stems = separate(OpenUnmixTransform(config), rough, track)
    assert np.abs(stems).max() < np.abs(track).max()


def test_results_are_mixes_of_stems() -> None:
    transform = OpenUnmixTransform(replace(SMALL, residual=True), overlap=0.5)
    assert transform.stems == (*STEMS, "residual")
    window = noise(2, 900)
    outputs = (masks(*transform.forward(window)),)
    kept = outputs[0].copy()
    each = transform.inverse(outputs, window, tuple({i: 1.0} for i in range(4)), n=900, index=1)
    some = transform.inverse(outputs, window, ({0: 0.5, 3: 0.25}, {}, {1: -1.0}), n=900, index=1)
    np.testing.assert_allclose(some[0], 0.5 * each[0] + 0.25 * each[3], atol=1e-6)
    assert not some[1].any()
    np.testing.assert_allclose(some[2], -each[1], atol=1e-6)
    np.testing.assert_array_equal(outputs[0], kept)


def test_what_the_pipeline_is_told() -> None:
    transform = OpenUnmixTransform(SMALL)
    assert (transform.sample_rate, transform.n_channels) == (1000, 2)
    assert (transform.segment, transform.stride, transform.lead) == (32_000, 30_000, 0)
    assert OpenUnmixTransform(replace(SMALL, hop=24)).segment == 32_016  # whole hops
    assert transform.window(123) == (0, 123)
    assert not transform.normalises
    assert not transform.sums_to_mix
    assert not transform.wiener


def test_options() -> None:
    transform = OpenUnmixTransform(SMALL)
    chosen = transform.with_options(overlap=0.5, segment_s=2.5, high_band="average")
    assert (chosen.segment, chosen.stride) == (2512, 1256)
    with pytest.raises(UsageError, match=r"overlap must be in \[0, 1\), got 1"):
        transform.with_options(overlap=1)


@pytest.mark.slow
@pytest.mark.parity
def test_is_what_open_unmixs_separator_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("openunmix") is None:
        pytest.skip("Open-Unmix is not installed: pip install openunmix")
    if importlib.util.find_spec("torchaudio") is None:  # which the separator does not use
        monkeypatch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))
    from openunmix.model import OpenUnmix, Separator

    from unbraid.models.openunmix.network import OpenUnmixNetwork

    rng = np.random.default_rng(0)
    for seed in range(60):
        n_fft, n_stems = int(rng.choice([64, 128, 256])), int(rng.integers(2, 4))
        target = TargetConfig(hidden_size=2 * int(rng.integers(1, 6)), max_bin=n_fft // 4, n_layers=1)
        config = OpenUnmixConfig(
            STEMS[:n_stems],
            (target,) * n_stems,
            n_fft=n_fft,
            hop=n_fft // int(rng.choice([2, 4, 4, 8])),
            n_channels=int(rng.integers(1, 3)),
            n_iterations=int(rng.integers(0, 3)),
            softmask=bool(rng.integers(2)),
            residual=bool(rng.integers(2)),
            wiener_frames=int(rng.choice([0, 10, 300])),
        )
        torch.manual_seed(seed)
        ours = OpenUnmixNetwork(config).eval()
        theirs = Separator(
            {
                stem: OpenUnmix(
                    nb_bins=config.n_bins,
                    nb_channels=config.n_channels,
                    hidden_size=target.hidden_size,
                    nb_layers=target.n_layers,
                    max_bin=target.max_bin,
                )
                for stem in config.stems
            },
            niter=config.n_iterations,
            softmask=config.softmask,
            residual=config.residual,
            n_fft=config.n_fft,
            n_hop=config.hop,
            nb_channels=config.n_channels,
            wiener_win_len=config.wiener_frames or None,
        ).eval()
        theirs.target_models.load_state_dict(ours.state_dict())
        track = noise(2, config.hop * int(rng.integers(20, 200)) + int(rng.integers(config.hop // 2)), seed=seed)
        with torch.no_grad():
            # In double precision, as its authors recommend for EM.
            expected = theirs.double()(torch.from_numpy(track)[None].double())[0].numpy()
        stems = separate(OpenUnmixTransform(config), by_torch(ours), track)
        assert relative_error(stems, expected) < 1e-5, config
