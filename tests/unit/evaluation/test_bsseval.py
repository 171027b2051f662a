"""BSSEval beside its definition, and what must hold by theory; beside museval: test_bsseval_museval.py."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from direct_bsseval import direct_bss_eval
from unbraid.datatypes import FloatArray
from unbraid.errors import EngineError, UsageError
from unbraid.evaluation import bsseval
from unbraid.evaluation.arrays import open_arrays
from unbraid.evaluation.bsseval import BSSScores, Signals, bss_eval, bss_eval_signals
from unbraid.evaluation.results import ScoreArray

SRC = Path(bsseval.__file__).parents[2]
# What tells numbers from numbers of the same sums in another order.
ROUNDING_DB = 1e-9


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def stacked(scores: BSSScores) -> ScoreArray:
    """All metrics [shape=(4, stem, frame)]."""
    return np.stack([scores.sdr, scores.isr, scores.sir, scores.sar])


def decibels(signal: FloatArray, error: FloatArray) -> float:
    return float(10 * np.log10(np.sum(signal**2) / np.sum(error**2)))


def filtered(stems: ScoreArray, taps: ScoreArray) -> ScoreArray:
    """All channels filtered with the same taps, cut to the stems' length."""
    return np.apply_along_axis(np.convolve, -1, stems, taps)[..., : stems.shape[-1]]


def scene(rng: np.random.Generator, n_stems: int = 3, n_channels: int = 2, n: int = 9000) -> tuple[ScoreArray, ...]:
    """References, and estimates that leak, are filtered and noisy."""
    references = rng.standard_normal((n_stems, n_channels, n)) * rng.uniform(0.1, 1, (n_stems, 1, 1))
    leaks = np.eye(n_stems) + rng.uniform(-0.2, 0.2, (n_stems, n_stems))
    estimates = filtered(np.einsum("jk,kct->jct", leaks, references), np.array([0.9, 0.2, 0, -0.1]))
    return references, estimates + 0.05 * rng.standard_normal(references.shape)


def of_arrays(references: FloatArray, estimates: FloatArray) -> Signals:
    def read(start: int, stop: int) -> tuple[FloatArray, FloatArray]:
        return references[..., start:stop], estimates[..., start:stop]

    return Signals(*references.shape, read, n_estimates=len(estimates))


@pytest.mark.parametrize("framewise", [False, True])
@pytest.mark.parametrize("device", ["numpy", "cpu"])
@pytest.mark.parametrize(
    ("n_stems", "n_channels", "n_taps", "n", "window", "hop"),
    [
        (1, 1, 4, 200, None, None),
        (1, 2, 4, 300, 100, 50),
        (2, 2, 4, 600, 150, 70),
        (3, 2, 4, 501, 250, 250),
        (2, 1, 1, 400, 99, 33),
        (3, 2, 1, 300, None, None),
        pytest.param(2, 2, 32, 900, 300, 300, marks=pytest.mark.slow),
        pytest.param(4, 1, 32, 700, None, None, marks=pytest.mark.slow),
        (2, 3, 5, 257, 128, 1000),
        (2, 1, 7, 50, 100, 100),
        (1, 1, 8, 3, None, None),
        (1, 1, 32, 20, 15, 5),
        (1, 2, 8, 17, 17, 1),
    ],
)
def test_scores_are_those_of_the_definition(
    n_stems: int,
    n_channels: int,
    n_taps: int,
    n: int,
    window: int | None,
    hop: int | None,
    device: str,
    framewise: bool,
) -> None:
    if device == "cpu":
        pytest.importorskip("torch")
    references, estimates = scene(np.random.default_rng(n), n_stems, n_channels, n)
    if window and n > 2 * window:
        references[-1, :, window : 2 * window] = 0
    options = {"window": window, "hop": hop, "framewise": framewise, "n_taps": n_taps}
    found = stacked(bss_eval(references, estimates, device=device, **options))
    expected = direct_bss_eval(references, estimates, **options)
    if n_stems == 1:  # there is nothing that could interfere
        np.testing.assert_array_equal(np.isposinf(found[2]), ~np.isnan(found[0]))
        np.testing.assert_array_equal(np.isposinf(expected[2]), ~np.isnan(found[0]))
        found, expected = np.delete(found, 2, axis=0), np.delete(expected, 2, axis=0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
    assert np.isfinite(found).any()


def test_a_gain_changes_neither_sir_nor_sar(rng: np.random.Generator) -> None:
    references, estimates = scene(rng)
    gains = np.array([0.01, 2, -30])[:, None, None]
    plain = stacked(bss_eval(references, estimates, window=3000, hop=3000))
    scaled = stacked(bss_eval(references, gains * estimates, window=3000, hop=3000))
    np.testing.assert_allclose(scaled[2:], plain[2:], atol=ROUNDING_DB)
    assert (np.abs(scaled[:2] - plain[:2]) > 1).all()


@pytest.mark.parametrize("gain", [0.5, 0.99, 1.5, -1.0])
def test_sdr_and_isr_of_a_gain_are_its_distance_from_one(rng: np.random.Generator, gain: float) -> None:
    references = rng.standard_normal((2, 2, 6000))
    found = bss_eval(references, gain * references, window=2000, hop=1000)
    expected = np.full((2, 5), -20 * math.log10(abs(1 - gain)))
    np.testing.assert_allclose(found.sdr, expected, atol=ROUNDING_DB)
    np.testing.assert_allclose(found.isr, expected, atol=1e-6)
    assert found.sir.min() > 150
    assert found.sar.min() > 150


def test_sdr_of_added_noise_is_the_ratio_of_energies(rng: np.random.Generator) -> None:
    references = rng.standard_normal((2, 2, 6000))
    ratios_db = np.array([[3.0, 20, 60], [-10, 0, 45]])
    noise = rng.standard_normal(references.shape).reshape(2, 2, 3, 2000)
    signal_energy = np.sum(references.reshape(noise.shape) ** 2, axis=(1, 3))
    noise *= np.sqrt(signal_energy / np.sum(noise**2, axis=(1, 3)) / 10 ** (ratios_db / 10))[:, None, :, None]
    found = bss_eval(references, references + noise.reshape(references.shape), window=2000, hop=2000, n_taps=16)
    np.testing.assert_allclose(found.sdr, ratios_db, atol=ROUNDING_DB)


@pytest.mark.parametrize("n_channels", [1, 2])
def test_a_filtered_reference_has_no_artefacts(rng: np.random.Generator, n_channels: int) -> None:
    references = rng.standard_normal((2, n_channels, 20000))
    references[..., -511:] = 0  # so that the filters' tails are not cut off
    taps = rng.standard_normal(512) * np.exp(-np.arange(512) / 100)
    estimates = filtered(references, taps)
    found = bss_eval(references, estimates, window=None, hop=None)
    assert found.sar.min() > 80
    assert found.sir.min() > 80
    for j in range(2):
        assert found.isr[j, 0] == pytest.approx(decibels(references[j], estimates[j] - references[j]), abs=1e-6)
        assert found.sdr[j, 0] == pytest.approx(found.isr[j, 0], abs=1e-6)
    # One tap more than there are.
    late = bss_eval(references, np.roll(references, 512, axis=-1), window=None, hop=None)
    assert late.sar.max() < 0
    assert bss_eval(references, np.roll(references, 511, axis=-1), window=None, hop=None).sar.min() > 80


@pytest.mark.parametrize("ratio_db", [30.0, 3.0, -15.0])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_sir_is_the_ratio_to_a_leaking_stem(rng: np.random.Generator, n_channels: int, ratio_db: float) -> None:
    """The stems sound one after the other, so that they are orthogonal in all delays, as stems never quite are."""
    references = np.zeros((2, n_channels, 12000))
    references[0, :, :5000] = rng.standard_normal((n_channels, 5000))
    references[1, :, 6000:11000] = rng.standard_normal((n_channels, 5000))
    leak = filtered(references[1], rng.standard_normal(300))
    leak *= np.sqrt(np.sum(references[0] ** 2) / np.sum(leak**2) / 10 ** (ratio_db / 10))
    found = bss_eval(references, references + np.stack([leak, 0 * leak]), window=None, hop=None)
    assert found.sir[0, 0] == pytest.approx(ratio_db, abs=1e-6)
    assert found.sdr[0, 0] == pytest.approx(ratio_db, abs=1e-6)
    assert found.isr[0, 0] > 150
    assert found.sar[0, 0] > 150


def test_permuted_stems_have_permuted_scores(rng: np.random.Generator) -> None:
    references, estimates = scene(rng, n_stems=4)
    plain = stacked(bss_eval(references, estimates, window=4000, hop=2500))
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        permuted = stacked(bss_eval(references[order], estimates[order], window=4000, hop=2500))
        np.testing.assert_allclose(permuted, plain[:, order], atol=ROUNDING_DB)
    swapped = stacked(bss_eval(references[:, ::-1], estimates[:, ::-1], window=4000, hop=2500))
    np.testing.assert_allclose(swapped, plain, atol=ROUNDING_DB)


def test_stems_without_an_estimate_only_interfere(rng: np.random.Generator) -> None:
    references, estimates = scene(rng, n_stems=4)
    references[3, :, 3000:6000] = 0
    for framewise in (False, True):
        options = {"window": 3000, "hop": 3000, "framewise": framewise, "n_taps": 64}
        some = bss_eval_signals(of_arrays(references, estimates[:2]), arrays=open_arrays(), **options)
        every = stacked(bss_eval(references, estimates, **options))
        np.testing.assert_allclose(stacked(some), every[:, :2], atol=ROUNDING_DB)
        np.testing.assert_array_equal(np.isnan(some.sdr), [[False, True, False]] * 2)


@pytest.mark.parametrize("framewise", [False, True])
@pytest.mark.parametrize(
    ("n_fft", "n_blocks", "n_samples"),
    [(1 << 10, 16, 1), (1 << 11, 1, 44100), (1 << 12, 3, 9000), (1 << 17, 16, 1 << 20)],
)
def test_sizes_of_pieces_do_not_matter(
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    n_fft: int,
    n_blocks: int,
    n_samples: int,
    framewise: bool,
) -> None:
    references, estimates = scene(rng, n=40000)
    references[0, :, 9000:18500] = 0
    options = {"window": 8000, "hop": 5000, "framewise": framewise, "n_taps": 128}
    plain = stacked(bss_eval(references, estimates, **options))
    monkeypatch.setattr(bsseval, "_N_FFT", n_fft)
    monkeypatch.setattr(bsseval, "_BLOCKS_AT_ONCE", n_blocks)
    monkeypatch.setattr(bsseval, "_SAMPLES_AT_ONCE", n_samples)
    np.testing.assert_allclose(stacked(bss_eval(references, estimates, **options)), plain, atol=ROUNDING_DB)
    np.testing.assert_array_equal(np.isnan(plain[0]).any(axis=0), [frame == 2 for frame in range(7)])


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_runs_and_threads_give_the_same_bits(rng: np.random.Generator, n_threads: int) -> None:
    references, estimates = scene(rng, n=20000)
    options = {"window": 8000, "hop": 5000}
    first = stacked(bss_eval(references, estimates, **options))
    again = bss_eval_signals(of_arrays(references, estimates), arrays=open_arrays("numpy", n_threads), **options)
    np.testing.assert_array_equal(stacked(again), first)


def test_pytorch_gives_the_same_numbers(rng: np.random.Generator) -> None:
    pytest.importorskip("torch")
    references, estimates = scene(rng, n=50000)
    references[0, :, 15000:31000] = 0
    for framewise in (False, True):
        options = {"window": 15000, "hop": 10000, "framewise": framewise}
        found = stacked(bss_eval(references, estimates, device="cpu", **options))
        np.testing.assert_allclose(found, stacked(bss_eval(references, estimates, **options)), atol=1e-6)


def test_filters_longer_than_a_piece(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    references, estimates = scene(rng, n_stems=1, n_channels=1, n=5000)
    plain = stacked(bss_eval(references, estimates, window=None, hop=None, n_taps=300))
    monkeypatch.setattr(bsseval, "_N_FFT", 256)
    found = stacked(bss_eval(references, estimates, window=None, hop=None, n_taps=300))
    np.testing.assert_allclose(found, plain, atol=ROUNDING_DB)


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64, np.dtype(">f4"), np.longdouble])
def test_numbers_of_any_kind_score_as_what_they_are(rng: np.random.Generator, dtype: np.typing.DTypeLike) -> None:
    references, estimates = (np.round(1000 * stems) for stems in scene(rng))
    plain = stacked(bss_eval(references, estimates, window=4000, hop=4000))
    typed = references.astype(dtype), estimates.astype(dtype)
    np.testing.assert_array_equal(stacked(bss_eval(*typed, window=4000, hop=4000)), plain)


def test_arguments_are_left_alone(rng: np.random.Generator) -> None:
    references, estimates = scene(rng)
    kept = references.copy(), estimates.copy()
    plain = stacked(bss_eval(references, estimates, window=4000, hop=4000))
    bss_eval(references, estimates, window=4000, hop=4000, framewise=True)
    np.testing.assert_array_equal(references, kept[0])
    np.testing.assert_array_equal(estimates, kept[1])
    references.flags.writeable = estimates.flags.writeable = False
    np.testing.assert_array_equal(stacked(bss_eval(references, estimates, window=4000, hop=4000)), plain)
    # Views with time first in memory, as files have it.
    turned = (np.ascontiguousarray(stems.T).T for stems in kept)
    np.testing.assert_array_equal(stacked(bss_eval(*turned, window=4000, hop=4000)), plain)


def anti_phase(stems: ScoreArray, part: slice) -> None:
    stems[1, 1, part] = -stems[1, 0, part]


def silence(stems: ScoreArray, part: slice) -> None:
    stems[1, :, part] = 0


@pytest.mark.parametrize("framewise", [False, True])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("silenced", [anti_phase, silence])
def test_a_silent_stem_leaves_its_windows_without_scores(
    rng: np.random.Generator, silenced: Callable[[ScoreArray, slice], None], which: int, framewise: bool
) -> None:
    both = scene(rng, n=12000)
    silenced(both[which], slice(2999, 9001))
    found = stacked(bss_eval(*both, window=3000, hop=3000, framewise=framewise))
    np.testing.assert_array_equal(np.isnan(found), np.broadcast_to([False, True, True, False], found.shape))
    # One sample more is sound.
    both[which][1, 0, 6000] += 1e-3
    found = stacked(bss_eval(*both, window=3000, hop=3000, framewise=framewise))
    np.testing.assert_array_equal(np.isnan(found), np.broadcast_to([False, True, False, False], found.shape))


def test_signals_with_a_stem_that_is_silent_throughout_have_no_scores(rng: np.random.Generator) -> None:
    references, estimates = scene(rng)
    references[1] = 0
    for framewise in (False, True):
        found = bss_eval_signals(
            of_arrays(references, estimates), window=4000, hop=4000, framewise=framewise, arrays=open_arrays()
        )
        assert np.isnan(stacked(found)).all()
        assert stacked(found).shape == (4, 3, 2)


@pytest.mark.parametrize(
    ("references", "estimates", "options", "message"),
    [
        ((2, 2, 100), (2, 2, 99), {}, "must have one shape (stem, channel, time), got (2, 2, 100) and (2, 2, 99)"),
        ((2, 100), (2, 100), {}, "must have one shape (stem, channel, time), got (2, 100) and (2, 100)"),
        ((2, 2, 0), (2, 2, 0), {}, "must have one shape (stem, channel, time), got (2, 2, 0) and (2, 2, 0)"),
        ((0, 2, 9), (0, 2, 9), {}, "must have one shape"),
        ((1, 2, 9), (1, 2, 9), {"window": 0}, "window and hop must be at least 1 sample, got 0 and 44100"),
        ((1, 2, 9), (1, 2, 9), {"window": 5, "hop": -1}, "window and hop must be at least 1 sample, got 5 and -1"),
        ((1, 2, 9), (1, 2, 9), {"n_taps": 0}, "n_taps must be at least 1, got 0"),
        ((1, 2, 9), (1, 2, 9), {"device": "nonsense"}, "device 'nonsense' cannot be used for BSSEval: "),
    ],
)
def test_wrong_arguments_are_refused(
    references: tuple[int, ...], estimates: tuple[int, ...], options: dict[str, object], message: str
) -> None:
    if "device" in options:
        pytest.importorskip("torch")
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        bss_eval(np.ones(references), np.ones(estimates), **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["reference", "estimate"])
@pytest.mark.parametrize("silenced", [anti_phase, silence])
def test_silent_stems_are_named(
    rng: np.random.Generator, silenced: Callable[[ScoreArray, slice], None], what: str
) -> None:
    both = scene(rng)
    silenced(both[what == "estimate"], slice(None))
    with pytest.raises(UsageError, match=f"^{what} number 1 is silent; leave that stem out$"):
        bss_eval(*both)


@pytest.mark.parametrize("framewise", [False, True])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(rng: np.random.Generator, value: float, which: int, framewise: bool) -> None:
    both = scene(rng)
    both[which][2, 1, 6000] = value
    with pytest.raises(UsageError, match=r"^references and estimates must be finite, got NaN or infinity$"):
        bss_eval(*both, window=4500, hop=4500, framewise=framewise)


def test_pytorch_that_is_not_there_is_asked_for(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EngineError, match=re.escape("device 'cpu' needs PyTorch: pip install 'unbraid[torch]'")):
        bss_eval(*scene(rng), device="cpu")
    assert np.isfinite(bss_eval(*scene(rng)).sdr).all()


class Stopped(Exception):
    pass


@pytest.mark.parametrize("framewise", [False, True])
def test_progress_goes_to_one_and_can_stop_the_work(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, framewise: bool
) -> None:
    monkeypatch.setattr(bsseval, "_N_FFT", 1 << 11)
    monkeypatch.setattr(bsseval, "_BLOCKS_AT_ONCE", 2)
    monkeypatch.setattr(bsseval, "_SAMPLES_AT_ONCE", 8000)
    signals = of_arrays(*scene(rng, n=40000))
    parts: list[float] = []
    options = {"window": 4000, "hop": 4000, "framewise": framewise, "n_taps": 64, "arrays": open_arrays()}
    bss_eval_signals(signals, on_progress=parts.append, **options)
    assert len(parts) >= 10
    assert parts == sorted(parts)
    assert 0 < parts[0] <= 0.1
    assert parts[-1] == 1

    def stop(part: float) -> None:
        stopped_at.append(part)
        if part > 0.6:
            raise Stopped

    stopped_at: list[float] = []
    with pytest.raises(Stopped):
        bss_eval_signals(signals, on_progress=stop, **options)
    assert stopped_at == [part for part in parts if part <= stopped_at[-1]]
    assert stopped_at[-2] <= 0.6 < stopped_at[-1]


def test_signals_are_read_in_pieces_within_their_length(rng: np.random.Generator) -> None:
    references, estimates = scene(rng, n_stems=2, n_channels=1, n=900_000)
    asked: list[tuple[int, int]] = []

    def read(start: int, stop: int) -> tuple[FloatArray, FloatArray]:
        asked.append((start, stop))
        return references[..., start:stop], estimates[..., start:stop]

    bss_eval_signals(Signals(2, 1, 900_000, read), window=44100, hop=44100, arrays=open_arrays())
    assert all(0 <= start < stop <= 900_000 for start, stop in asked)
    assert max(stop - start for start, stop in asked) < 300_000
    first_pass = [piece for piece in asked if piece not in [(k * 44100, (k + 1) * 44100) for k in range(20)]]
    assert sum(stop - start for start, stop in first_pass) < 1.01 * 900_000  # it overlaps by the filters' length
    assert len(asked) - len(first_pass) == 20


LONG_TRACK = """
import re
from pathlib import Path

import numpy as np
from unbraid.evaluation.arrays import open_arrays
from unbraid.evaluation.bsseval import Signals, bss_eval_signals

RATE = 44100
noise = np.random.default_rng(0).standard_normal((2, 20 * RATE + 997)).astype(np.float32)

def peak_kb():
    # Not what getrusage says: that is never below the memory of the process that started this one.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

before = peak_kb()

def piece(offset, start, stop):
    return np.take(noise, np.arange(start + offset, stop + offset), axis=1, mode="wrap")

def read(start, stop):
    references = np.stack([piece(200003 * stem, start, stop) for stem in range(4)])
    return references, references + np.float32(0.1) * references[::-1]

scores = bss_eval_signals(Signals(4, 2, 600 * RATE, read), window=RATE, hop=RATE, arrays=open_arrays())
assert scores.sdr.shape == (4, 600)
assert np.abs(scores.sdr - 20).max() < 0.5, scores.sdr
assert np.abs(scores.sir - 20).max() < 0.5, scores.sir
print(before, peak_kb())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is asked of Linux")
def test_ten_minutes_take_no_more_than_a_gigabyte() -> None:
    """262 MB were taken, 56 of them by Python and NumPy, with two threads."""
    outcome = subprocess.run(
        [sys.executable, "-c", LONG_TRACK], cwd=SRC, capture_output=True, text=True, timeout=600, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    before, peak = (int(word) * 1024 / 1e6 for word in outcome.stdout.split())
    print(f"{peak:.0f} MB, {before:.0f} MB of them before it began")  # noqa: T201
    assert peak < 1000
