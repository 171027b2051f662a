"""Examples whose stems are from different songs, each at a level of its own: more mixes than anybody has recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Protocol

import numpy as np

from unbraid.datatypes import FloatArray
from unbraid.errors import UsageError
from unbraid.training.examples import Readable

__all__ = ["RemixConfig", "Remixes"]

_N_ATTEMPTS = 3  # to find a place where a stem sounds
_LEAST_DB = -20.0  # what sounds, beside the stem's level
_P_SILENT = 0.1
_CLIP = 2.5  # standard deviations, of levels


@dataclass(frozen=True)
class RemixConfig:
    """How examples are made of several songs.

    p : share of examples whose stems are from songs of their own; the others are parts of songs as they are
    p_silent : probability that a stem is silent in such an example, by its name; 0.1 where none is given
    levels_db : mean level by stem, RMS in dB of full scale while it sounds; as it is where none is given
    spread_db : standard deviation around it
    p_speed : probability that a stem, or a part of a song, is faster and higher, or slower and lower, as on a tape
    speed_semitones : by how much at most
    weights : how often songs are drawn beside others of the same length, by patterns of their names; 1 without
    """

    p: float = 0.0
    p_silent: Mapping[str, float] = field(default_factory=dict)
    levels_db: Mapping[str, float] = field(default_factory=dict)
    spread_db: float = 0.0
    p_speed: float = 0.0
    speed_semitones: float = 4.0
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shares = {"p": self.p, "p_speed": self.p_speed}
        shares |= {f"p_silent.{stem}": share for stem, share in self.p_silent.items()}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise UsageError(f"remix.{name} must be in [0, 1], got {share}")
        for name in ("spread_db", "speed_semitones"):
            if not 0 <= getattr(self, name) <= 24:
                raise UsageError(f"remix.{name} must be in [0, 24], got {getattr(self, name)}")
        for pattern, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise UsageError(f"remix.weights.{pattern} must be 0 or more, got {weight}")

    def weight(self, name: str) -> float:
        """Of a song: that of the first pattern that fits its name."""
        return next((weight for pattern, weight in self.weights.items() if fnmatchcase(name, pattern)), 1.0)


class _Song(Readable, Protocol):
    """A song whose stems are rows; `unbraid.training.data.Span` is one."""

    @property
    def name(self) -> str:
        """Of the track."""

    @property
    def n_rows(self) -> int:
        """How many stems it has, or could have."""

    def read_row(self, row: int, start: int, stop: int) -> FloatArray:
        """A stem's samples [shape=(channel, stop - start), float32]."""

    def level_db(self, row: int) -> float:
        """Of a stem while it sounds, RMS in dB of full scale; -inf where it never does."""


class _Draw:
    """Draws places in songs: each as likely as any other, but for the weights of their songs."""

    def __init__(self, spans: Sequence[_Song], config: RemixConfig) -> None:
        self.spans = spans
        self._lengths = np.array([span.n_samples for span in spans])
        self._weights = np.array([config.weight(span.name) for span in spans])

    def __call__(self, rng: np.random.Generator, n_samples: int) -> tuple[_Song, int]:
        """Draw a song, and where in it so many samples begin."""
        n_starts = np.maximum(self._lengths - n_samples, 0) + 1
        ends = np.cumsum(n_starts * self._weights)
        index = min(int(np.searchsorted(ends, rng.random() * ends[-1], side="right")), len(ends) - 1)
        return self.spans[index], int(rng.integers(n_starts[index]))


class Remixes:
    """Draws examples: parts of songs, or stems of several of them."""

    def __init__(self, spans: Sequence[_Song], stems: Sequence[str], config: RemixConfig) -> None:
        self._config, self._n_rows = config, spans[0].n_rows
        if not any(config.weight(span.name) for span in spans):
            raise UsageError("remix.weights are 0 for every song: there is nothing to draw")
        self._songs = _Draw(spans, config)
        sounding = [[span for span in spans if span.level_db(i) > -math.inf] for i in range(self._n_rows)]
        self._rows = [_Draw(some, config) if some else None for some in sounding]
        names = (*stems, "")  # what else is in the mix has none
        self._levels_db = [config.levels_db.get(name) for name in names]
        self._p_silent = [config.p_silent.get(name, _P_SILENT) for name in names]

    def draw(self, rng: np.random.Generator, n_samples: int) -> FloatArray:
        """Draw one [shape=(row, channel, n_samples), float32]."""
        if rng.random() < self._config.p:
            return np.stack([self._row(i, rng, n_samples) for i in range(self._n_rows)])
        semitones, n_read = self._speed(rng, n_samples)
        span, start = self._songs(rng, n_read)
        return _played(span.read(start, start + n_read), semitones, n_samples)

    def _row(self, i: int, rng: np.random.Generator, n_samples: int) -> FloatArray:
        """One row of a remix [shape=(channel, n_samples)]."""
        draw, level_db = self._rows[i], self._levels_db[i]
        if draw is None or rng.random() < self._p_silent[i]:
            return np.zeros_like(self._songs.spans[0].read_row(i, 0, n_samples))
        for _ in range(_N_ATTEMPTS):
            semitones, n_read = self._speed(rng, n_samples)
            span, start = draw(rng, n_read)
            samples = _played(span.read_row(i, start, start + n_read), semitones, n_samples)
            power = float(np.square(samples).mean())
            if power > 0 and 10 * math.log10(power) > span.level_db(i) + _LEAST_DB:
                break
        change_db = 0.0 if level_db is None else level_db - span.level_db(i)
        change_db += self._config.spread_db * float(np.clip(rng.standard_normal(), -_CLIP, _CLIP))
        return samples * np.float32(10 ** (change_db / 20))

    def _speed(self, rng: np.random.Generator, n_samples: int) -> tuple[float, int]:
        """Draw by how many semitones it is faster, and how many samples that takes."""
        limit = self._config.speed_semitones
        semitones = float(rng.uniform(-limit, limit)) if rng.random() < self._config.p_speed else 0.0
        return semitones, n_samples if not semitones else math.ceil(n_samples * 2 ** (semitones / 12)) + 1


def _played(samples: FloatArray, semitones: float, n_samples: int) -> FloatArray:
    """Play [shape=(…, time)] faster, by so many semitones: straight lines between the samples.

    Midway between two samples these make f Hz cos(π f / sample_rate) as loud, 6 dB softer at 15 kHz: an equaliser among
    those that examples are varied by.
    """
    if not semitones:
        return samples
    at = np.arange(n_samples) * 2 ** (semitones / 12)
    before = at.astype(np.intp)
    share = (at - before).astype(np.float32)
    first = samples[..., before]
    return first + share * (samples[..., before + 1] - first)
