"""What is played: notes, in parts, that an arrangement lets begin and end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from numpy.random import Generator

from unbraid.datatypes import FloatArray

__all__ = ["ROLES", "Note", "Part", "Player", "Score"]

# What a part does in a song, and the stem it belongs to.
ROLES = {
    "drums": "drums",
    "percussion": "drums",
    "bass": "bass",
    "piano": "piano",
    "guitar": "other",
    "organ": "other",
    "pad": "other",
    "strings": "other",
    "brass": "other",
    "lead": "other",
    "arpeggio": "other",
    "voice": "vocals",
    "backing": "vocals",
}


@dataclass(frozen=True)
class Note:
    """A pitch, as a MIDI number (69 = 440 Hz; General MIDI's drum in a part of drums), and how hard: 0 to 1."""

    start_s: float
    duration_s: float
    pitch: int
    velocity: float = 1.0


@dataclass(frozen=True)
class Part:
    """What one player plays, by the time of its notes; `role` is one of ROLES."""

    role: str
    notes: tuple[Note, ...]

    @property
    def stem(self) -> str:
        """Where it belongs."""
        return ROLES[self.role]


@dataclass(frozen=True)
class Score:
    """A song as a composer writes it.

    style : as the composer names it
    tempo_bpm, beats_per_bar : of it all
    root : of the key, a MIDI number from 0 (C) to 11
    minor : whether the key is
    seconds : length, the last notes' ends included
    """

    style: str
    tempo_bpm: float
    beats_per_bar: int
    root: int
    minor: bool
    seconds: float
    parts: tuple[Part, ...]


class Player(Protocol):
    """An instrument with all its settings: turns the notes of a part into sound."""

    def __call__(self, notes: tuple[Note, ...], n_samples: int, sample_rate: int, rng: Generator) -> FloatArray:
        """Samples [shape=(2, n_samples), float32] from the song's beginning; notes that reach beyond are cut."""
        ...
