from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unbraid.errors import UnbraidError
from unbraid.training.builtin.data import (
    Library,
    RemixConfig,
    draw_example,
    held_out_window,
    load_library,
    split_low_band,
)

SAMPLE_RATE = 1000
CONFIG = RemixConfig(n_samples=500)


def write_piece(cache: Path, kind: str, name: str, stems: dict[str, np.ndarray]) -> None:
    folder = cache / kind / name
    folder.mkdir(parents=True)
    for stem, samples in stems.items():
        np.save(folder / f"{stem}.npy", samples.astype(np.float16))


def noise(seed: int, seconds: int = 60) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((2, seconds * SAMPLE_RATE))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    write_piece(tmp_path, "songs", "kept", {"vocals": noise(1), "drums": noise(2), "other": noise(3)})
    write_piece(tmp_path, "songs", "full", {s: noise(i) for i, s in enumerate(("vocals", "drums", "bass", "other"))})
    write_piece(tmp_path, "songs", "never", {s: noise(9) for s in ("vocals", "drums", "bass", "other")})
    write_piece(tmp_path, "synthetic", "000", {"drums": noise(4), "bass": noise(5)})
    write_piece(tmp_path, "singing", "000", {"vocals": noise(6)})
    return tmp_path


@pytest.fixture
def library(cache: Path) -> Library:
    return load_library(cache, sample_rate=SAMPLE_RATE, hold_out=("never",), window_s=10, margin_s=2)


def test_held_out_material_is_never_drawn(library: Library) -> None:
    assert [piece.name for piece in library.pieces["songs"]] == ["full", "kept"]
    assert set(library.windows) == {"full", "kept"}
    for piece in library.pieces["songs"]:
        start, stop = library.windows[piece.name]
        assert stop - start == 10 * SAMPLE_RATE
        for first, last in piece.spans:
            assert last <= start - 2 * SAMPLE_RATE or first >= stop + 2 * SAMPLE_RATE or first == last


def test_draws_stay_inside_the_spans(library: Library) -> None:
    """What may not be drawn is replaced by something that would show in any draw of it."""
    marked = []
    for piece in library.pieces["songs"]:
        allowed = np.zeros(60 * SAMPLE_RATE, bool)
        for first, last in piece.spans:
            allowed[first:last] = True
        assert 0.6 < allowed.mean() < 0.9
        stems = {stem: np.where(allowed, samples, np.float16(60000)) for stem, samples in piece.stems.items()}
        marked.append(replace(piece, stems=stems))
    library = replace(library, pieces={**library.pieces, "songs": tuple(marked)})
    rng = np.random.default_rng(0)
    assert max(np.abs(draw_example(library, CONFIG, rng)).max() for _ in range(300)) < 1000


def test_the_same_generator_draws_the_same_example(library: Library) -> None:
    for seed in range(20):
        first = draw_example(library, CONFIG, np.random.default_rng(seed))
        second = draw_example(library, CONFIG, np.random.default_rng(seed))
        np.testing.assert_array_equal(first, second)
        assert first.shape == (4, 2, 500)
        assert first.dtype == np.float32
    assert not np.array_equal(first, draw_example(library, CONFIG, np.random.default_rng(99)))


def test_every_stem_is_sometimes_silent_and_mostly_sounds(library: Library) -> None:
    rng = np.random.default_rng(4)
    sounds = np.array([draw_example(library, CONFIG, rng).any(axis=(1, 2)) for _ in range(300)]).mean(axis=0)
    assert ((sounds > 0.4) & (sounds < 0.99)).all()


def test_a_true_mix_keeps_its_stems_aligned(cache: Path) -> None:
    library = load_library(cache, sample_rate=SAMPLE_RATE, hold_out=("never", "kept"), window_s=10, margin_s=2)
    config = RemixConfig(n_samples=500, p_aligned=1.0, p_pitch=0.0)
    (piece,) = library.pieces["songs"]
    vocals, drums = (piece.stems[stem].astype(np.float64) for stem in ("vocals", "drums"))
    example = draw_example(library, config, np.random.default_rng(2)).astype(np.float64)
    places = []
    for drawn, whole in ((example[0], vocals), (example[1], drums)):
        side = max((np.correlate(row, drawn[0], "valid") for row in whole), key=lambda c: np.abs(c).max())
        places.append(int(np.argmax(np.abs(side))))
    assert places[0] == places[1]


def test_the_window_is_where_all_stems_sound() -> None:
    vocals, drums = np.zeros((2, 2, 60 * SAMPLE_RATE), np.float16)
    vocals[:, 5000:30000] = 0.5
    drums[:, 20000:50000] = 0.5
    window = held_out_window({"vocals": vocals, "drums": drums}, sample_rate=SAMPLE_RATE, window_s=10)
    assert window == (20000, 30000)


def test_the_low_band_and_the_rest_add_up() -> None:
    time_s = np.arange(3000) / SAMPLE_RATE
    low, high = np.sin(2 * np.pi * 20 * time_s), np.sin(2 * np.pi * 200 * time_s)
    samples = np.stack([low + high, low - high]).astype(np.float32)
    below, above = split_low_band(samples, 60, SAMPLE_RATE)
    np.testing.assert_allclose(below + above, samples, atol=1e-6)
    inner = np.s_[:, 500:-500]
    np.testing.assert_allclose(below[inner], np.stack([low, low])[inner], atol=0.02)


def test_an_empty_cache_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnbraidError, match="no songs"):
        load_library(tmp_path, sample_rate=SAMPLE_RATE, hold_out=())


def test_examples_of_pitched_pieces_have_the_exact_length(library: Library) -> None:
    config = RemixConfig(n_samples=777, p_pitch=1.0, pitch_semitones=4.0)
    for rng in itertools.islice((np.random.default_rng(seed) for seed in itertools.count()), 50):
        assert draw_example(library, config, rng).shape == (4, 2, 777)
