"""From the prepared arrays to training examples: four stems, cropped, remixed at random; their sum is the mix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray

from unbraid.datatypes import FloatArray
from unbraid.errors import UnbraidError
from unbraid.training.builtin.bank import pitched
from unbraid.training.builtin.prepare import STEMS

__all__ = ["Library", "Piece", "RemixConfig", "draw_example", "held_out_window", "load_library", "split_low_band"]


@dataclass(frozen=True, eq=False)
class Piece:
    """One song or line of voices on disk.

    kind : "songs", "synthetic", "singing" or "speech"
    stems : stem to samples [shape=(2, time), float16], memory-mapped; a silent stem is absent
    levels_db : stem to its RMS level while it sounds, dB of full scale
    spans : parts of it, in samples (start, stop), that may be trained on
    """

    kind: str
    name: str
    stems: Mapping[str, NDArray[np.float16]]
    levels_db: Mapping[str, float]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Library:
    """The pieces by kind, and what was left out: songs never trained on, and one window (start, stop) of the others."""

    pieces: Mapping[str, tuple[Piece, ...]]
    windows: Mapping[str, tuple[int, int]]
    sample_rate: int


@dataclass(frozen=True)
class RemixConfig:
    """How examples are drawn.

    n_samples : length of an example
    p_aligned, p_synthetic_song : chance of a real song's own mix, and of a synthetic song under some voice
    p_silent : chance of silence for each stem of an independent mix, in the order of STEMS
    p_real : chance that a stem comes from a real song, in the order of STEMS
    level_db : mean level of each stem of an independent mix, in the order of STEMS
    gain_spread_db : standard deviation of the gains around it
    p_pitch, pitch_semitones : chance and range of a change of speed
    bass_crossover_hz : where "other" is split for songs whose bass has no stem of its own
    """

    n_samples: int
    p_aligned: float = 0.2
    p_synthetic_song: float = 0.15
    p_silent: tuple[float, ...] = (0.15, 0.1, 0.2, 0.12)
    p_real: tuple[float, ...] = (0.6, 0.55, 0.4, 0.6)
    level_db: tuple[float, ...] = (-24.0, -22.0, -24.0, -25.0)
    gain_spread_db: float = 5.0
    p_pitch: float = 0.6
    pitch_semitones: float = 4.0
    bass_crossover_hz: float = 150.0


def load_library(
    cache: Path, *, sample_rate: int, hold_out: tuple[str, ...], window_s: float = 30.0, margin_s: float = 3.0
) -> Library:
    """Open a prepared cache and set aside what is for evaluation.

    Parameters
    ----------
    cache : Path
        As `prepare` wrote it.
    sample_rate : int
        In Hz.
    hold_out : tuple of str
        Real songs that are not trained on at all.
    window_s, margin_s : float
        Of every other real song, a window that is not trained on, and how far examples keep away from it.
    """
    pieces: dict[str, list[Piece]] = {"songs": [], "synthetic": [], "singing": [], "speech": []}
    windows: dict[str, tuple[int, int]] = {}
    for kind, found in pieces.items():
        for folder in sorted((cache / kind).glob("*")):
            stems = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
            if not stems or folder.name in hold_out:
                continue
            n_samples = next(iter(stems.values())).shape[1]
            spans: tuple[tuple[int, int], ...] = ((0, n_samples),)
            if kind == "songs":
                start, stop = held_out_window(stems, sample_rate=sample_rate, window_s=window_s)
                windows[folder.name] = (start, stop)
                margin = int(margin_s * sample_rate)
                spans = ((0, max(0, start - margin)), (min(n_samples, stop + margin), n_samples))
            levels = {stem: _active_level_db(samples, sample_rate) for stem, samples in stems.items()}
            found.append(Piece(kind, folder.name, stems, levels, spans))
    if not pieces["songs"]:
        raise UnbraidError(f"cannot train: no songs in '{cache}'; prepare the data first")
    return Library({kind: tuple(found) for kind, found in pieces.items()}, windows, sample_rate)


def held_out_window(stems: Mapping[str, NDArray[np.float16]], *, sample_rate: int, window_s: float) -> tuple[int, int]:
    """The window (start, stop, in samples) in which the stem that sounds least sounds most; the first of equals."""
    size = int(window_s)
    loud = []
    for samples in stems.values():
        seconds = _second_powers(samples, sample_rate)
        loud.append(seconds > 0.03 * seconds.max())
    if len(loud[0]) <= size:
        return 0, next(iter(stems.values())).shape[1]
    sums = np.cumsum(np.pad(np.array(loud), ((0, 0), (1, 0))), axis=1)
    counts = sums[:, size:] - sums[:, :-size]
    start = int(np.argmax(counts.min(axis=0) + 1e-3 * counts.sum(axis=0)))
    return start * sample_rate, (start + size) * sample_rate


def split_low_band(samples: FloatArray, crossover_hz: float, sample_rate: int) -> tuple[FloatArray, FloatArray]:
    """Split [shape=(channel, time)] into what lies below and above a frequency; the two add up to the whole.

    A raised-cosine crossover one octave wide, on the spectrum of the whole excerpt (no phase shift).
    """
    n_samples = samples.shape[1]
    size = scipy.fft.next_fast_len(n_samples, real=True)
    octaves = np.log2(np.maximum(scipy.fft.rfftfreq(size, 1 / sample_rate), 1e-3) / crossover_hz)
    keep = 0.5 + 0.5 * np.cos(np.pi * np.clip(octaves + 0.5, 0, 1))
    low = scipy.fft.irfft(scipy.fft.rfft(samples, size) * keep.astype(np.float32), size)[:, :n_samples]
    low = low.astype(np.float32, copy=False)
    return low, samples - low


def draw_example(library: Library, config: RemixConfig, rng: np.random.Generator) -> FloatArray:
    """Draw one example.

    Returns
    -------
    ndarray [shape=(4, 2, config.n_samples), float32]
        The stems in the order of STEMS; the mix is their sum.
    """
    chance = rng.random()
    if chance < config.p_aligned:
        example = _aligned(library, _weighted(library.pieces["songs"], rng), config, rng)
    elif chance < config.p_aligned + config.p_synthetic_song and library.pieces["synthetic"]:
        example = _aligned(library, _any(library.pieces["synthetic"], rng), config, rng)
        if rng.random() < 0.8:
            example[0] = _single(library, 0, config, rng)
    else:
        example = np.zeros((len(STEMS), 2, config.n_samples), np.float32)
        for index in range(len(STEMS)):
            if rng.random() >= config.p_silent[index]:
                example[index] = _single(library, index, config, rng)
            if index == 3 and rng.random() < 0.2:
                example[index] += np.float32(0.7) * _single(library, index, config, rng)
    return example * np.float32(10 ** (rng.uniform(-8, 6) / 20))


def _single(library: Library, index: int, config: RemixConfig, rng: np.random.Generator) -> FloatArray:
    """Draw one stem alone [shape=(2, n_samples)], at a random level, polarity and side."""
    stem = STEMS[index]
    real = rng.random() < config.p_real[index]
    if real and stem == "bass":
        pieces = library.pieces["songs"]  # the low band of "other" where there is no bass stem: rarer, see the weights
        own = [piece for piece in pieces if "bass" in piece.stems]
        pieces = tuple(own) if own and rng.random() < 0.75 else pieces
    elif real:
        pieces = library.pieces["songs"]
    elif stem == "vocals":
        pieces = library.pieces["speech" if rng.random() < 0.12 else "singing"]
    else:
        pieces = tuple(piece for piece in library.pieces["synthetic"] if stem in piece.stems)
    piece = _weighted(pieces or library.pieces["songs"], rng)
    source = "other" if stem == "bass" and "bass" not in piece.stems else stem
    if source not in piece.stems:
        return np.zeros((2, config.n_samples), np.float32)
    for _attempt in range(3):
        start, semitones, n_read = _place(piece, config, rng)
        samples = _read(piece, source, start, n_read, semitones, config.n_samples)
        if np.sqrt(np.mean(samples**2)) > 0.1 * 10 ** (piece.levels_db[source] / 20):
            break
    if piece.kind == "songs" and "bass" not in piece.stems and stem in ("bass", "other"):
        low, high = split_low_band(samples, config.bass_crossover_hz, library.sample_rate)
        samples = low if stem == "bass" else high
    gain_db = config.level_db[index] - piece.levels_db[source] + np.clip(rng.normal(0, config.gain_spread_db), -12, 12)
    gain = 10 ** (gain_db / 20) * rng.choice([-1, 1])
    return np.float32(gain) * (samples[::-1] if rng.random() < 0.5 else samples)


def _aligned(library: Library, piece: Piece, config: RemixConfig, rng: np.random.Generator) -> FloatArray:
    """Draw one moment of a song with all its stems [shape=(4, 2, n_samples)], in nearly its own balance."""
    example = np.zeros((len(STEMS), 2, config.n_samples), np.float32)
    start, semitones, n_read = _place(piece, config, rng)
    for index, stem in enumerate(STEMS):
        if stem in piece.stems:
            example[index] = _read(piece, stem, start, n_read, semitones, config.n_samples)
    if piece.kind == "songs" and "bass" not in piece.stems:
        example[2], example[3] = split_low_band(example[3], config.bass_crossover_hz, library.sample_rate)
    if rng.random() < 0.6:
        example *= 10 ** (rng.normal(0, 2.5, (len(STEMS), 1, 1)).astype(np.float32) / 20)
    loudest_db = max(piece.levels_db.values())
    example *= np.float32(10 ** ((-22 - loudest_db) / 20))
    return example[:, ::-1] if rng.random() < 0.5 else example


def _place(piece: Piece, config: RemixConfig, rng: np.random.Generator) -> tuple[int, float, int]:
    """Draw where to read, how far to transpose, and how many samples that takes."""
    limit = config.pitch_semitones
    semitones = float(rng.uniform(-limit, limit)) if rng.random() < config.p_pitch else 0.0
    n_read = int(np.ceil(config.n_samples * 2 ** (semitones / 12))) + 2
    room = np.array([max(0, stop - start - n_read) for start, stop in piece.spans], np.float64)
    if not room.any():
        raise UnbraidError(f"cannot train on '{piece.name}': it has no part as long as an example")
    start, _ = piece.spans[int(rng.choice(len(room), p=room / room.sum()))]
    return start + int(rng.integers(int(room[piece.spans.index((start, _))]))), semitones, n_read


def _read(piece: Piece, stem: str, start: int, n_read: int, semitones: float, n_samples: int) -> FloatArray:
    """Read and transpose an excerpt [shape=(2, n_samples)]."""
    halves = np.array(piece.stems[stem][:, start : start + n_read])
    samples = torch.from_numpy(halves).float().numpy()  # twenty times as fast as astype
    return pitched(samples, semitones)[:, :n_samples]


def _any(pieces: tuple[Piece, ...], rng: np.random.Generator) -> Piece:
    return pieces[int(rng.integers(len(pieces)))]


def _weighted(pieces: tuple[Piece, ...], rng: np.random.Generator) -> Piece:
    """Draw a piece in proportion to what may be trained on of it."""
    lengths = np.array([sum(stop - start for start, stop in piece.spans) for piece in pieces], np.float64)
    return pieces[int(rng.choice(len(pieces), p=lengths / lengths.sum()))]


def _second_powers(samples: NDArray[np.float16], sample_rate: int) -> NDArray[np.float64]:
    """Mean power of each whole second."""
    n_seconds = samples.shape[1] // sample_rate
    seconds = (samples[:, i * sample_rate : (i + 1) * sample_rate].astype(np.float32) for i in range(n_seconds))
    return np.array([np.mean(second**2) for second in seconds], np.float64)


def _active_level_db(samples: NDArray[np.float16], sample_rate: int) -> float:
    """RMS level over the seconds that sound."""
    powers = _second_powers(samples, sample_rate)
    loud = powers[powers > max(1e-6, 0.01 * powers.max(initial=0.0))]
    return float(10 * np.log10(loud.mean())) if len(loud) else 0.0
