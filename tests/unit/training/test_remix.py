"""Examples made of several songs: which rows they are of, how loud, how fast."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from training_makers import RATE
from unbraid.datasets.tracks import load_dataset
from unbraid.errors import UsageError
from unbraid.training.data import Span, spans_of
from unbraid.training.remix import RemixConfig, Remixes

STEMS = ("vocals", "drums")
N = RATE // 2
NEVER = dict.fromkeys(STEMS, 0.0)
# Each song's stems are sines of their own.
HZ = {
    ("one", "vocals"): 440,
    ("one", "drums"): 550,
    ("two", "vocals"): 660,
    ("two", "drums"): 770,
    ("solo", "vocals"): 880,
}


@pytest.fixture
def spans(tmp_path: Path) -> list[Span]:
    time = np.arange(2 * RATE) / RATE
    for (song, stem), hz in HZ.items():
        (tmp_path / "songs" / song).mkdir(parents=True, exist_ok=True)
        sine = 0.1 * np.sin(2 * np.pi * hz * time) * (1 if song != "two" else 0.25)
        soundfile.write(tmp_path / "songs" / song / f"{stem}.wav", np.stack([sine, -sine], 1), RATE, subtype="FLOAT")
    return spans_of(
        load_dataset(tmp_path / "songs"),
        tmp_path / "cache",
        stems=STEMS,
        sample_rate=RATE,
        n_channels=2,
        missing="silent",
    )


def frequencies(example: np.ndarray) -> list[float]:
    """Of each row, in Hz; 0 for silence."""
    spectra = np.abs(np.fft.rfft(example[:, 0] * np.hanning(example.shape[-1]), 1 << 16))
    return [float(row.argmax() * RATE / (1 << 16)) if row.any() else 0.0 for row in spectra]


def drawn(spans: list[Span], config: RemixConfig, n: int = 300) -> list[np.ndarray]:
    remixes = Remixes(spans, STEMS, config)
    return [remixes.draw(np.random.default_rng(seed), N) for seed in range(n)]


def test_without_it_examples_are_parts_of_songs(spans: list[Span]) -> None:
    songs = {tuple(round(hz, -1) for hz in frequencies(example)) for example in drawn(spans, RemixConfig())}
    assert songs == {(440, 550), (660, 770), (880, 0)}


def test_stems_are_of_any_songs_that_have_them(spans: list[Span]) -> None:
    found = [tuple(round(hz, -1) for hz in frequencies(one)) for one in drawn(spans, RemixConfig(p=1, p_silent=NEVER))]
    assert set(found) == {(voice, drum) for voice in (440, 660, 880) for drum in (550, 770)}
    # Each is as likely as any other: 50 of 300, with a deviation of 6.5.
    assert all(abs(found.count(pair) - 50) < 26 for pair in set(found))


def test_a_stem_is_silent_as_often_as_that(spans: list[Span]) -> None:
    config = RemixConfig(p=1, p_silent={"vocals": 0.3})
    silent = np.array([[not row.any() for row in one] for one in drawn(spans, config)])
    assert np.abs(silent.mean(axis=0) - (0.3, 0.1)).max() < 0.08  # three deviations
    assert abs((silent[:, 0] & silent[:, 1]).mean() - 0.03) < 0.03


def test_levels_are_those_wanted_whatever_they_were(spans: list[Span]) -> None:
    config = RemixConfig(p=1, p_silent=NEVER, levels_db={"vocals": -30.0}, spread_db=3.0)
    levels = np.array([10 * np.log10(np.square(one).mean(axis=(1, 2))) for one in drawn(spans, config)])
    assert abs(levels[:, 0].mean() + 30) < 0.6 and abs(levels[:, 0].std() - 3) < 0.4
    # The drums keep their own: -23 dB, or 12 dB less.
    assert abs(levels[:, 1].mean() - (-23.0 - 6.0)) < 1.2


def test_a_tape_that_runs_faster_is_higher(spans: list[Span]) -> None:
    plain = RemixConfig(weights={"one": 1.0, "*": 0.0})
    assert {tuple(round(hz, -1) for hz in frequencies(one)) for one in drawn(spans, plain, 20)} == {(440, 550)}
    found = np.array([frequencies(one) for one in drawn(spans, RemixConfig(**{**vars(plain), "p_speed": 1.0}))])
    semitones = 12 * np.log2(found / [440, 550])
    assert np.abs(semitones).max() < 4.02 and semitones.min() < -3.5 and semitones.max() > 3.5
    np.testing.assert_allclose(semitones[:, 0], semitones[:, 1], atol=0.05)  # all stems of a song alike


def test_the_same_generator_gives_the_same_example(spans: list[Span]) -> None:
    config = RemixConfig(p=0.5, spread_db=2.0, p_speed=0.5)
    for one, other in zip(drawn(spans, config, 20), drawn(spans, config, 20), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": 1.5}, "remix.p must be in"),
        ({"p_silent": {"drums": 2.0}}, "remix.p_silent.drums must be in"),
        ({"spread_db": -1}, "remix.spread_db must be in"),
        ({"weights": {"a*": -1.0}}, "remix.weights.a"),
    ],
)
def test_impossible_values_are_refused(change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RemixConfig(**change)


def test_songs_that_all_weigh_nothing_are_refused(spans: list[Span]) -> None:
    with pytest.raises(UsageError, match=r"remix\.weights are 0 for every song"):
        Remixes(spans, STEMS, RemixConfig(weights={"*": 0.0}))
