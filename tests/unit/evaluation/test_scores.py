from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from unbraid.datatypes import FloatArray
from unbraid.errors import UsageError
from unbraid.evaluation.scores import SCORES, ScoreSums, usdr

STEMS = ("vocals", "drums", "bass", "other")
Scores = dict[str, dict[str, float]]
# What the formulas give for an infinite error.
INFINITE = {("uSDR", np.inf), ("uSDRi", np.inf), ("L1", np.inf)}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def noise(rng: np.random.Generator, *shape: int) -> FloatArray:
    return rng.standard_normal(shape).astype(np.float32)


def score(references: FloatArray, estimates: FloatArray, mix: FloatArray, *edges: int) -> Scores:
    """Scores of a track fed in blocks that end at `edges`."""
    sums = ScoreSums(STEMS[: len(references)], len(mix))
    for start, stop in pairwise((0, *edges, mix.shape[-1])):
        sums.add(references[..., start:stop], estimates[..., start:stop], mix[..., start:stop])
    return sums.scores()


def decibels(signal: NDArray[np.float64], error: NDArray[np.float64]) -> float:
    return float(10 * np.log10(np.sum(signal**2) / np.sum(error**2)))


def projection(vector: NDArray[np.float64], *onto: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of a vector on the span of others, by an orthonormal basis."""
    basis, _ = np.linalg.qr(np.stack(onto, axis=1))
    projected: NDArray[np.float64] = basis @ (basis.T @ vector)
    return projected


def bleeding(rng: np.random.Generator, n_stems: int = 4, n_channels: int = 2, n: int = 3000) -> tuple[FloatArray, ...]:
    """Correlated stems of different levels, estimates with some of each in them, and a mix not quite their sum."""
    stems = (
        noise(rng, n_stems, n_channels, n)
        * np.float32(0.1)
        * np.arange(1, n_stems + 1, dtype=np.float32)[:, None, None]
    )
    stems += np.float32(0.05) * noise(rng, n_channels, n)
    leaks = np.eye(n_stems) * 0.9 + rng.uniform(-0.2, 0.2, (n_stems, n_stems))
    estimates = np.einsum("jk,kct->jct", leaks, stems).astype(np.float32) + np.float32(0.02) * noise(rng, *stems.shape)
    return stems, estimates, stems.sum(axis=0) + np.float32(0.01) * noise(rng, n_channels, n)


@pytest.mark.parametrize(("n_stems", "n_channels"), [(1, 2), (2, 1), (4, 2)])
def test_scores_agree_with_their_definitions(rng: np.random.Generator, n_stems: int, n_channels: int) -> None:
    stems, estimates, mix = bleeding(rng, n_stems, n_channels)
    s, y = stems.astype(float).reshape(n_stems, -1), estimates.astype(float).reshape(n_stems, -1)
    x = mix.astype(float).ravel()
    for j, found in enumerate(score(stems, estimates, mix).values()):
        own, span = projection(y[j], s[j]), projection(y[j], *s)
        mix_own = projection(x, s[j])
        gains = np.linalg.lstsq(s.T, y[j], rcond=None)[0]
        others = [k for k in range(n_stems) if k != j]
        expected = {
            "uSDR": 10 * math.log10((np.sum(s[j] ** 2) + 1e-7) / (np.sum((s[j] - y[j]) ** 2) + 1e-7)),
            "uSDRi": decibels(s[j], s[j] - y[j]) - decibels(s[j], s[j] - x),
            "SI-SDR": decibels(own, own - y[j]),
            "SI-SDRi": decibels(own, own - y[j]) - decibels(mix_own, mix_own - x),
            "simple SAR": decibels(span, y[j] - span),
            "L1": float(np.mean(np.abs(s[j] - y[j]))),
        }
        if others:
            expected["simple SIR"] = decibels(own, span - own)
            expected["bleed"] = decibels(gains[others] @ s[others], gains[j] * s[j])
            for k in others:
                expected[f"bleed:{STEMS[k]}"] = decibels(gains[k] * s[k], gains[j] * s[j])
        else:
            assert found.pop("simple SIR") == math.inf
            assert found.pop("bleed") == -math.inf
        assert found == pytest.approx(expected, abs=1e-6)
        assert [name.partition(":")[0] for name in found if name in SCORES or ":" in name] == [
            *(name for name in SCORES if name in found),
            *("bleed" for _ in others),
        ]


def test_si_sdr_is_the_simple_sdr_of_demucs(rng: np.random.Generator) -> None:
    """Equation 2 of the Demucs paper (2019), step by step: the parts as defined, interference and artefacts added."""
    stems, estimates, mix = bleeding(rng)
    s = stems.astype(float).reshape(4, -1)
    for j, found in enumerate(score(stems, estimates, mix).values()):
        estimate = estimates[j].astype(float).ravel()
        target = projection(estimate, s[j])
        interference = projection(estimate, *s) - target
        artefacts = estimate - projection(estimate, *s)
        assert found["SI-SDR"] == pytest.approx(decibels(target, interference + artefacts), abs=1e-9)


@pytest.mark.parametrize("edges", [(1,), (1000, 1001, 1001, 17000), tuple(range(0, 40000, 999))])
def test_scores_do_not_depend_on_the_blocks(rng: np.random.Generator, edges: tuple[int, ...]) -> None:
    stems, estimates, mix = bleeding(rng, n=40000)
    kept = stems.copy(), estimates.copy(), mix.copy()
    whole = score(stems, estimates, mix)
    for stem, found in score(stems, estimates, mix, *edges).items():
        assert found == pytest.approx(whole[stem], abs=1e-9)
    for array, before in zip((stems, estimates, mix), kept, strict=True):
        np.testing.assert_array_equal(array, before)


def test_a_gain_is_an_error_to_usdr_and_none_to_si_sdr(rng: np.random.Generator) -> None:
    stems = noise(rng, 2, 2, 5000)
    found = score(stems, np.float32(0.5) * stems, stems.sum(axis=0))["vocals"]
    assert found["uSDR"] == pytest.approx(20 * math.log10(2), abs=1e-6)
    assert found["SI-SDR"] == math.inf
    assert found["simple SIR"] == found["simple SAR"] == math.inf
    assert found["bleed:drums"] < -250


def test_scores_far_above_100_db_are_right(rng: np.random.Generator) -> None:
    """Of single precision's own errors: a stem of 1 in amplitude and errors of 2^-23, which is 138.5 dB."""
    reference = np.ones((1, 2, 4096), np.float32)
    estimate = reference + np.where(np.arange(4096) % 2, 1, -1).astype(np.float32) * np.float32(2**-23)
    (found,) = score(reference, estimate, reference[0]).values()
    level = 20 * math.log10(2**23)
    assert found["SI-SDR"] == pytest.approx(level, abs=1e-9)
    assert found["simple SAR"] == pytest.approx(level, abs=1e-9)
    error = 8192 * 2.0**-46  # 1.2e-10, which is little beside δ
    assert found["uSDR"] == pytest.approx(10 * math.log10((8192 + 1e-7) / (error + 1e-7)), abs=1e-9)


def test_an_exact_estimate_has_infinite_scores(rng: np.random.Generator) -> None:
    stems = noise(rng, 3, 2, 1000)
    found = score(stems, stems, stems.sum(axis=0))["drums"]
    assert found["uSDR"] == pytest.approx(10 * math.log10(np.sum(stems[1].astype(float) ** 2) / 1e-7 + 1), abs=1e-9)
    assert found["SI-SDR"] == found["simple SIR"] == found["simple SAR"] == math.inf
    assert found["L1"] == 0
    assert found["bleed"] == found["bleed:vocals"] == -math.inf


def test_the_mix_as_the_estimate_improves_nothing(rng: np.random.Generator) -> None:
    stems = noise(rng, 2, 2, 1000)
    mix = stems.sum(axis=0)
    for found in score(stems, np.stack([mix, mix]), mix).values():
        assert found["uSDRi"] == 0
        assert found["SI-SDRi"] == pytest.approx(0, abs=1e-9)
        assert found["bleed"] == pytest.approx(0, abs=0.3)  # stems of one level, each as loud as the other in the mix


def test_a_silent_stem_has_no_ratios(rng: np.random.Generator) -> None:
    stems = noise(rng, 3, 2, 1000)
    stems[1] = 0
    estimates = stems + np.float32(0.1) * noise(rng, 3, 2, 1000)
    found = score(stems, estimates, stems.sum(axis=0))
    energy = np.sum(estimates[1].astype(float) ** 2)
    drums = found["drums"]
    assert drums.pop("uSDR") == pytest.approx(10 * math.log10(1e-7 / (energy + 1e-7)), abs=1e-9)
    assert drums.pop("L1") == pytest.approx(np.mean(np.abs(estimates[1].astype(float))), abs=1e-12)
    assert all(math.isnan(value) for value in drums.values())
    assert set(drums) == {*SCORES, "bleed:vocals", "bleed:bass"} - {"uSDR", "L1"}
    vocals = found["vocals"]
    assert math.isnan(vocals.pop("bleed:drums"))
    assert all(math.isfinite(value) for value in vocals.values())
    assert vocals["bleed"] == pytest.approx(vocals["bleed:bass"], abs=1e-9)


def test_a_silent_estimate_is_as_wrong_as_the_stem_is_loud(rng: np.random.Generator) -> None:
    stems = noise(rng, 2, 2, 1000)
    found = score(stems, np.zeros_like(stems), stems.sum(axis=0))["vocals"]
    assert found["uSDR"] == 0
    assert found["SI-SDR"] == found["SI-SDRi"] == -math.inf
    assert all(math.isnan(found[name]) for name in ("simple SIR", "simple SAR", "bleed", "bleed:drums"))


def test_stems_that_are_the_same_share_the_estimate(rng: np.random.Generator) -> None:
    stems = noise(rng, 3, 2, 4000)
    stems[2] = stems[1]
    estimates = stems + np.float32(0.01) * noise(rng, 3, 2, 4000)
    found = score(stems, estimates, stems.sum(axis=0))
    assert found["drums"]["bleed:bass"] == pytest.approx(0, abs=1e-3)
    assert found["drums"]["simple SAR"] == pytest.approx(40, abs=0.2)
    assert found["vocals"]["bleed"] < -50
    assert found["vocals"]["bleed:drums"] == pytest.approx(found["vocals"]["bleed:bass"], abs=1e-3)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_samples_that_are_no_numbers_have_no_scores(rng: np.random.Generator, wrong: float) -> None:
    stems = noise(rng, 2, 2, 1000)
    estimates = stems + np.float32(0.1) * noise(rng, 2, 2, 1000)
    mix = stems.sum(axis=0)
    estimates[0, 0, 5] = wrong
    found = score(stems, estimates, mix)
    assert all(math.isnan(value) for name, value in found["vocals"].items() if (name, wrong) not in INFINITE)
    assert all(math.isfinite(value) for value in found["drums"].values())
    stems[0, 0, 5] = wrong
    assert math.isnan(score(stems, estimates, mix)["drums"]["simple SIR"])


def test_nothing_to_score_is_no_error() -> None:
    nothing = np.zeros((2, 2, 0), np.float32)
    for found in score(nothing, nothing, nothing[0]).values():
        assert found.pop("uSDR") == 0
        assert all(math.isnan(value) for value in found.values())


def test_sums_reject_shapes_that_do_not_fit() -> None:
    sums = ScoreSums(STEMS, 2)
    stems, mix = np.zeros((4, 2, 10), np.float32), np.zeros((2, 10), np.float32)
    for references, estimates, whole in (
        (stems[:3], stems, mix),
        (stems, stems[..., 1:], mix),
        (stems, stems, mix[:1]),
        (stems[:, :1], stems[:, :1], mix[:1]),
    ):
        with pytest.raises(UsageError, match="do not fit 4 stems of 2 channels"):
            sums.add(references, estimates, whole)


def test_usdr_of_a_known_error_to_signal_ratio(rng: np.random.Generator) -> None:
    reference = noise(rng, 2, 44100)
    error = noise(rng, 2, 44100)
    error *= np.float32(np.sqrt(np.sum(reference**2) / np.sum(error**2) / 10.0))
    assert usdr(reference, reference + error) == pytest.approx(10.0, abs=1e-3)


def test_usdr_counts_all_channels_and_no_common_gain() -> None:
    reference = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)
    estimate = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert usdr(reference, estimate) == pytest.approx(10 * math.log10(5), abs=1e-6)


def test_usdr_of_silence_and_of_exact_estimates_is_finite() -> None:
    silence, ones = np.zeros((1, 10), np.float32), np.ones((1, 10), np.float32)
    assert usdr(ones, ones) == pytest.approx(80, abs=1e-6)
    assert usdr(silence, ones) == pytest.approx(-80, abs=1e-6)
    assert usdr(silence, silence) == 0


def test_usdr_is_the_one_of_the_sums(rng: np.random.Generator) -> None:
    stems, estimates, mix = bleeding(rng, n=50000)
    for j, found in enumerate(score(stems, estimates, mix).values()):
        assert usdr(stems[j], estimates[j]) == pytest.approx(found["uSDR"], abs=1e-9)


def test_usdr_rejects_different_shapes() -> None:
    with pytest.raises(UsageError, match="one shape"):
        usdr(np.zeros((2, 10), np.float32), np.zeros((1, 10), np.float32))
