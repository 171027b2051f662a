from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import signal

from dataset_makers import make_song
from unbraid.datatypes import FloatArray
from unbraid.errors import UsageError
from unbraid.evaluation.oracles import ORACLES, TrueBlock, oracle_blocks
from unbraid.evaluation.scores import usdr

MASKS = ORACLES[1:-1]
EPSILON = float(np.finfo(np.float64).eps)
Spectra = NDArray[np.complex128]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.fixture(scope="module")
def song() -> FloatArray:
    # Of this song, one stem lies well to the side: 12 dB by masks, 19 by its direction.
    return np.stack(list(make_song(6.0, seed=1).values()))


def separate(name: str, stems: FloatArray, mix: FloatArray | None = None, *, edges: tuple[int, ...] = ()) -> FloatArray:
    """Estimates of a whole track, fed in blocks that end at `edges`."""
    mix = stems.sum(axis=0) if mix is None else mix
    blocks = [(stems[..., a:b], mix[:, a:b]) for a, b in pairwise((0, *edges, mix.shape[-1]))]
    estimates = list(oracle_blocks(name, lambda: blocks))
    assert all(block.dtype == np.float32 for block in estimates)
    return np.concatenate(estimates, axis=-1)


def naive(name: str, stems: FloatArray, mix: FloatArray) -> NDArray[np.float64]:
    """The same in double precision by the transforms of SciPy, the whole track at once, as published."""
    n_samples = mix.shape[-1]
    n_padded = max(n_samples, 2048)  # SciPy shortens its window for short signals
    padding = [(0, 0), (0, n_padded - n_samples)]

    def spectra(samples: FloatArray) -> Spectra:
        found: Spectra = signal.stft(np.pad(samples.astype(float), padding), nperseg=2048)[-1]
        return found

    x, y = spectra(mix), np.stack([spectra(stem) for stem in stems])
    if name == "oracle:mwf":
        estimates = naive_wiener(x, y)
    else:
        alpha = int(name[-1])
        powers = np.abs(y) ** alpha
        if "irm" in name:
            masks = powers / (EPSILON + powers.sum(axis=0))
        else:
            masks = powers / (EPSILON + np.abs(x) ** alpha) > 0.5
        estimates = masks * x
    return np.stack([signal.istft(one)[1][:, :n_samples] for one in estimates])


def naive_wiener(x: Spectra, y: Spectra) -> Spectra:
    """Estimates [shape=(stem, channel, freq, frame)] by the equations of the module, with general inverses."""
    n_channels = len(x)
    identity = np.eye(n_channels)
    models = []
    for stem in y:
        outer = np.einsum("aft,bft->ftab", stem, stem.conj())
        power = np.mean(np.abs(stem) ** 2, axis=0)
        r = np.mean(outer / (EPSILON + power)[..., None, None], axis=1)
        trace = np.trace(r, axis1=1, axis2=2).real[:, None, None]
        r = np.divide(r * n_channels, trace, out=np.tile(identity, (len(r), 1, 1)).astype(complex), where=trace > 0)
        r = r + 1e-10 * identity
        v = np.einsum("fab,ftba->ft", np.linalg.inv(r), outer).real / n_channels
        models.append(v[..., None, None] * r[:, None])
    gains = np.stack(models) @ np.linalg.inv(sum(models) + EPSILON * identity)
    estimates: Spectra = np.einsum("jftab,bft->jaft", gains, x)
    return estimates


@pytest.mark.parametrize("name", ORACLES[1:])
@pytest.mark.parametrize("shape", [(4, 2, 50000), (1, 2, 5000), (2, 1, 9000), (6, 2, 2500), (3, 3, 2048), (2, 2, 1)])
def test_oracles_agree_with_a_naive_computation(
    rng: np.random.Generator, name: str, shape: tuple[int, int, int]
) -> None:
    stems = rng.standard_normal(shape).astype(np.float32) * np.float32(0.2)
    stems[:, -1] += np.float32(0.7) * stems[:, 0]  # each stem has a place between the channels
    mix = stems.sum(axis=0) + rng.standard_normal(shape[1:]).astype(np.float32) * np.float32(0.01)
    found, expected = separate(name, stems, mix), naive(name, stems, mix)
    error = np.abs(found - expected)
    if "ibm" in name:
        # A bin on the edge of the threshold falls to one side or the other by rounding.
        assert np.mean(error > 1e-4) < 0.02
        assert np.sum(error**2) < 1e-5 * np.sum(expected**2)
    else:
        assert error.max() < 2e-5


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("edges", [(1,), (3000, 3000, 3001, 70000), tuple(range(0, 150000, 4999))])
def test_estimates_do_not_depend_on_the_blocks(name: str, edges: tuple[int, ...], song: FloatArray) -> None:
    stems = song[..., :150000]
    mix = stems.sum(axis=0)
    kept = stems.copy(), mix.copy()
    whole = separate(name, stems, mix)
    assert whole.shape == stems.shape
    np.testing.assert_array_equal(separate(name, stems, mix, edges=edges), whole)
    np.testing.assert_array_equal(stems, kept[0])
    np.testing.assert_array_equal(mix, kept[1])


@pytest.mark.parametrize("name", ["oracle:irm1", "oracle:irm2", "oracle:mwf"])
@pytest.mark.parametrize("n_samples", [1, 1023, 30000, 150000])
def test_estimates_of_soft_oracles_add_up_to_the_mix(rng: np.random.Generator, name: str, n_samples: int) -> None:
    stems = rng.standard_normal((4, 2, n_samples)).astype(np.float32)
    mix = stems.sum(axis=0)
    np.testing.assert_allclose(separate(name, stems, mix).sum(axis=0), mix, atol=3e-5)


def tone(frequency_hz: float, gain: float) -> FloatArray:
    wave = gain * np.sin(2 * np.pi * frequency_hz * np.arange(44100) / 44100)
    return np.stack([wave, wave]).astype(np.float32)


@pytest.mark.parametrize("name", ["oracle:ibm1", "oracle:ibm2"])
def test_binary_masks_give_a_bin_to_all_or_none(name: str) -> None:
    inner = np.s_[:, 4096:-4096]
    # Opposite in phase, each louder than what is left of both: both get the mix.
    overlapping = np.stack([tone(1000, 0.5), tone(1000, -0.4)])
    mix = overlapping.sum(axis=0)
    for estimate in separate(name, overlapping):
        np.testing.assert_allclose(estimate[inner], mix[inner], atol=1e-4)
    # Three alike: each has a third of the mix in amplitude, a ninth in power, and gets nothing.
    left_out = np.stack([tone(1000, 0.2)] * 3)
    np.testing.assert_allclose(separate(name, left_out)[(..., *inner)], 0, atol=1e-4)


def test_thresholds_of_binary_masks_are_half_the_amplitude_and_half_the_power() -> None:
    """In phase at 0.6 of the mix: above half in amplitude, 0.36 < 1/2 in power."""
    stems = np.stack([tone(1000, 0.3), tone(1000, 0.2)])
    mix = stems.sum(axis=0)
    inner = np.s_[:, 4096:-4096]
    np.testing.assert_allclose(separate("oracle:ibm1", stems)[0][inner], mix[inner], atol=1e-4)
    np.testing.assert_allclose(separate("oracle:ibm2", stems)[0][inner], 0, atol=1e-4)


@pytest.mark.parametrize("name", ORACLES[1:])
def test_distant_tones_are_separated_almost_exactly(name: str) -> None:
    stems = np.stack([tone(200, 0.5), tone(5000, 0.5)])
    estimates = separate(name, stems)
    inner = np.s_[:, 4096:-4096]
    for stem, estimate in zip(stems, estimates, strict=True):
        assert usdr(stem[inner], estimate[inner]) > 40


def test_the_wiener_filter_separates_by_direction(rng: np.random.Generator) -> None:
    """Two noises from two directions: masks get a few dB, two equations for two unknowns all of them."""
    directions = np.array([[1.0, 0.2], [0.3, 0.9]], np.float32)
    stems = directions[:, :, None] * rng.standard_normal((2, 1, 60000)).astype(np.float32)
    estimates, masked = separate("oracle:mwf", stems), separate("oracle:irm2", stems)
    for j in range(2):
        assert usdr(stems[j], estimates[j]) > 60
        assert usdr(stems[j], masked[j]) < 15


def test_every_oracle_separates_a_song(song: FloatArray) -> None:
    mix = song.sum(axis=0)
    scores = {
        name: np.array([usdr(*pair) for pair in zip(song, separate(name, song), strict=True)]) for name in ORACLES
    }
    np.testing.assert_array_equal(scores["mix"], [usdr(stem, mix) for stem in song])
    for name in ORACLES[1:]:
        assert (scores[name] > scores["mix"] + 5).all(), name
    # The square is the Wiener filter of each bin; binary masks can do no better than ratios of power.
    assert (scores["oracle:irm2"] > scores["oracle:irm1"]).all()
    assert (scores["oracle:irm2"] > scores["oracle:ibm2"]).all()
    # Directions help where stems have them, and cost little where not.
    assert (scores["oracle:mwf"] > scores["oracle:irm2"] - 1).all()
    assert scores["oracle:mwf"].mean() > scores["oracle:irm2"].mean()


@pytest.mark.parametrize("name", ORACLES[1:])
def test_silent_stems_get_nothing_of_a_song(name: str, song: FloatArray) -> None:
    stems = song[..., :100000].copy()
    stems[1] = 0
    estimates = separate(name, stems)
    assert np.abs(estimates[1]).max() < 1e-6  # ratio masks give ε to every stem
    assert (np.abs(estimates[[0, 2, 3]]).max(axis=(1, 2)) > 0.01).all()
    silence = np.zeros((3, 2, 5000), np.float32)
    np.testing.assert_array_equal(separate(name, silence), silence)


def test_the_mix_is_the_estimate_of_every_stem(rng: np.random.Generator) -> None:
    stems, mix = rng.standard_normal((3, 2, 100)).astype(np.float32), rng.standard_normal((2, 100)).astype(np.float32)
    np.testing.assert_array_equal(separate("mix", stems, mix, edges=(30,)), [mix] * 3)


@pytest.mark.parametrize(("n_fft", "hop"), [(4096, 1024), (512, 256), (768, 256)])
def test_other_frames_reconstruct_the_mix_too(rng: np.random.Generator, n_fft: int, hop: int) -> None:
    stems = rng.standard_normal((2, 2, 20000)).astype(np.float32)
    blocks = oracle_blocks("oracle:irm1", lambda: [(stems, stems.sum(axis=0))], n_fft=n_fft, hop=hop)
    np.testing.assert_allclose(np.concatenate(list(blocks), axis=-1).sum(axis=0), stems.sum(axis=0), atol=2e-5)


def test_no_blocks_give_none() -> None:
    for name in ORACLES:
        assert list(oracle_blocks(name, lambda: [])) == []


def test_nonsense_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match=r"no oracle 'oracle:irm3'; there are mix, oracle:irm1"):
        oracle_blocks("oracle:irm3", lambda: [])
    for n_fft, hop in ((2048, 1000), (1024, 1024)):
        with pytest.raises(UsageError, match="n_fft must be a multiple of hop"):
            oracle_blocks("oracle:irm1", lambda: [], n_fft=n_fft, hop=hop)


def peak_bytes(name: str, seconds: int) -> int:
    """Greatest memory while an oracle separates generated noise of four stems."""

    def read() -> Iterator[TrueBlock]:
        rng = np.random.default_rng(0)
        for _ in range(seconds):
            stems = rng.standard_normal((4, 2, 44100), np.float32)
            yield stems, stems.sum(axis=0)

    tracemalloc.start()
    try:
        n_samples = sum(block.shape[-1] for block in oracle_blocks(name, read))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n_samples == seconds * 44100
    return peak


@pytest.mark.parametrize("name", ["oracle:irm2", "oracle:mwf"])
def test_memory_does_not_grow_with_the_track(name: str) -> None:
    short, longer = peak_bytes(name, 6), peak_bytes(name, 24)
    assert longer < 1.1 * short
    assert longer < 150e6


@pytest.mark.slow
@pytest.mark.parametrize("name", ORACLES)
def test_ten_minutes_take_no_more_memory(name: str) -> None:
    assert peak_bytes(name, 600) < 150e6
