"""Players of recorded instruments: pitched ones, and kits of drums."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

from unbraid.datasets.synthesis.recordings import Event, Recordings, Sample, Voice, perform
from unbraid.datasets.synthesis.score import Note, Player
from unbraid.datatypes import FloatArray

__all__ = ["draw_drummer", "draw_soloist"]

# How long a note takes to begin (what is cut into has to be faded in) and to end, in seconds: the bounds of a draw.
_ATTACK_S = {"organ": (0.003, 0.012), "synth": (0.005, 0.04), "strings": (0.003, 0.012), "brass": (0.001, 0.004)}
_RELEASE_S = {
    "piano": (0.1, 0.25),
    "guitar": (0.05, 0.15),
    "bass": (0.04, 0.1),
    "organ": (0.02, 0.06),
    "synth": (0.1, 0.4),
    "strings": (0.08, 0.2),
}
# The drums of General MIDI by what they are; one kit of a mixture plays all of a line.
_PIECES = (
    (35, 36),
    (37, 38, 39, 40),
    (42, 44, 46),
    (41, 43, 45, 47, 48, 50),
    (49, 51, 52, 53, 55, 57, 59),
    (54, 56, 58, *range(60, 88), *range(27, 35)),  # by hand
)
_CENTRED = frozenset((35, 36, 37, 38, 39, 40))
_OPEN_HAT, _CHOKES = 46, (42, 44)
# What is played instead of a drum that a kit lacks, the best first.
_INSTEAD: dict[int, tuple[int, ...]] = {
    **{35: (36,), 36: (35,), 37: (40, 38), 38: (40, 37), 39: (38, 40), 40: (38, 37)},
    **{42: (44, 46), 44: (42, 46), 46: (42, 44), 54: (42, 44), 58: (39, 37, 38)},
    **{41: (43, 45, 47, 48), 43: (41, 45, 47, 48), 45: (43, 47, 41, 48), 47: (45, 48, 50, 43)},
    **{48: (50, 47, 45), 50: (48, 47, 45)},
    **{49: (57, 55, 52, 51), 52: (49, 57), 55: (49, 57, 52), 57: (49, 55, 52, 51)},
    **{51: (59, 53, 49), 53: (51, 59), 59: (51, 53, 57)},
    **dict.fromkeys((27, 28, 29, 30, 31, 32, 33, 34), (37, 75, 42)),
    **dict.fromkeys((60, 62, 63, 65, 78), (62, 63, 50, 48, 47)),
    **dict.fromkeys((61, 64, 66, 79), (64, 63, 45, 43, 47)),
    **dict.fromkeys((56, 67, 68), (56, 53, 76, 51, 37)),
    **dict.fromkeys((69, 70, 82), (70, 69, 42, 44)),
    **dict.fromkeys((71, 72, 80, 81, 83, 84, 85), (81, 56, 53, 51, 42)),
    **dict.fromkeys((73, 74, 75, 76, 77, 86, 87), (75, 76, 37, 40, 38)),
}
_LAST_RESORT = (46, 42, 38)


@dataclass(frozen=True)
class _Soloist:
    """A pitched instrument; short notes may have an articulation of their own."""

    bank: Recordings
    voice: Voice
    short_voice: Voice
    short_s: float
    attack_s: float
    release_s: float
    gains: tuple[float, float]
    velocities: tuple[float, float]
    cents: float

    def __call__(self, notes: tuple[Note, ...], n_samples: int, sample_rate: int, rng: Generator) -> FloatArray:
        """Play a part, as `Player` says; in another octave where the instrument would be far out of its range."""
        octave = self._octave(notes)
        random = rng.random((len(notes), 4)).tolist()
        latest: dict[str, str] = {}
        long: list[Event] = []
        short: list[Event] = []
        for note, (take, tune, place, level) in zip(notes, random, strict=True):
            is_short = note.duration_s < self.short_s
            voice = self.short_voice if is_short else self.voice
            velocity, pitch = _midi_velocity(note, self.velocities), note.pitch + octave
            sample = _take(voice.takes(velocity, pitch), latest, take)
            gain = sample.gain(velocity) * 10 ** ((level - 0.5) / 10)
            event = Event(
                sample,
                # In three steps, so that notes can share a transposed recording.
                round(100 * (pitch - sample.pitch) + self.cents + int(3 * tune) - 1, 3),
                max(0, round((note.start_s + 0.003 * (place - 0.5)) * sample_rate)),
                max(1, round(note.duration_s * sample_rate)),
                max(1, round(self.release_s * sample_rate)),
                (gain * self.gains[0], gain * self.gains[1]),
            )
            (short if is_short else long).append(event)
        track = np.zeros((2, n_samples), np.float32)
        for voice, events in ((self.voice, long), (self.short_voice, short)):
            perform(self.bank, track, events, sample_rate, attack_s=self.attack_s, sustained=voice.sustained)
        return track

    def _octave(self, notes: tuple[Note, ...]) -> int:
        """Semitones by which the part is moved: a fourth or so beyond what was recorded still sounds natural."""
        pitches = np.array([note.pitch for note in notes], float)
        low, high = self.voice.notes[0] - 4, self.voice.notes[-1] + 5

        def cost(octave: int) -> float:
            moved = pitches + octave
            return float(np.mean(np.maximum(low - moved, 0) + np.maximum(moved - high, 0))) + abs(octave) / 4

        return min((0, 12, -12, 24, -24, 36, -36), key=cost) if len(notes) else 0


@dataclass(frozen=True)
class _Piece:
    """A drum of a kit: what it is (None: not of General MIDI), and how it is tuned and placed."""

    voice: Voice
    note: int | None
    cents: float
    gains: tuple[float, float]


@dataclass(frozen=True)
class _Drummer:
    """Drums ring out, but an open hi-hat only until it is closed."""

    bank: Recordings
    pieces: dict[int, _Piece]
    velocities: tuple[float, float]
    mirrored: bool

    def __call__(self, notes: tuple[Note, ...], n_samples: int, sample_rate: int, rng: Generator) -> FloatArray:
        """Play a part, as `Player` says."""
        random = rng.random((len(notes), 3)).tolist()
        latest: dict[str, str] = {}
        events, closed, opened = [], defaultdict(list), []
        for note, (take, place, level) in zip(notes, random, strict=True):
            piece = self.pieces[min(max(note.pitch, min(self.pieces)), max(self.pieces))]
            velocity = _midi_velocity(note, self.velocities)
            sample = _take(piece.voice.takes(velocity, None), latest, take)
            start = max(0, round((note.start_s + 0.003 * (place - 0.5)) * sample_rate))
            gain = sample.gain(velocity) * 10 ** ((level - 0.5) / 10)
            gains = (gain * piece.gains[0], gain * piece.gains[1])
            events.append(Event(sample, piece.cents, start, n_samples, round(0.03 * sample_rate), gains))
            if piece.note in _CHOKES:
                closed[piece.voice.instrument].append(start)
            elif piece.note == _OPEN_HAT:
                opened.append((piece.voice.instrument, events[-1]))
        for kit, event in opened:
            starts = np.sort(np.array(closed[kit], np.int64))
            following = starts[starts > event.start]
            if len(following):
                event.n_held = int(following[0]) - event.start
        track = np.zeros((2, n_samples), np.float32)
        perform(self.bank, track, events, sample_rate, attack_s=0.0, sustained=False)
        return np.ascontiguousarray(track[::-1]) if self.mirrored else track


def _pick(items: Sequence[Any], rng: Generator) -> Any:
    return items[int(rng.integers(len(items)))]


def draw_soloist(bank: Recordings, voices: list[Voice], role: str, rng: Generator) -> Player:
    """Draw an instrument, an articulation of it, and how it is played."""
    name = _pick(sorted({voice.instrument for voice in voices}), rng)
    own = [voice for voice in voices if voice.instrument == name]
    long = [voice for voice in own if not voice.short]
    voice = _pick(long if long and rng.random() < 0.85 else own, rng)
    short = [other for other in own if other.short] or [voice]
    attack_s, release_s = _ATTACK_S.get(voice.family, (0.0, 0.001)), _RELEASE_S.get(voice.family, (0.05, 0.12))
    if role == "pad":
        attack_s, release_s = (0.02, 0.4), (0.2, 0.9)
    pan = float(rng.uniform(-0.6, 0.6)) * (0.3 if voice.samples[0].stereo else 1.0)
    return _Soloist(
        bank,
        voice,
        short_voice=_pick(short, rng),
        # A bow or a breath needs longer than a short note lasts.
        short_s=float(rng.uniform(0.12, 0.35)) if rng.random() < (0.9 if voice.sustained else 0.5) else 0.0,
        attack_s=float(rng.uniform(*attack_s)),
        release_s=float(rng.uniform(*release_s)),
        gains=_gains(0.0 if role == "bass" else pan),
        velocities=(float(rng.uniform(1, 30)), float(rng.uniform(100, 127))),
        cents=float(rng.uniform(-1, 1)),
    )


def draw_drummer(bank: Recordings, voices: list[Voice], rng: Generator, *, percussion: bool) -> Player | None:
    """Draw a kit, or one kit for each line of a mixture; percussion may also be sounds that have no place in one."""
    kits: dict[str, dict[int, list[Voice]]] = defaultdict(lambda: defaultdict(list))
    loose: dict[str, list[Voice]] = defaultdict(list)
    for voice in voices:
        if voice.family == "drums":
            for note in voice.notes:
                kits[voice.instrument][note].append(voice)
            if not voice.notes:
                loose[voice.instrument].append(voice)
    if percussion:
        able = [kit for kit, notes in kits.items() if not notes.keys().isdisjoint(_PIECES[-1])] or list(kits)
        able += [f"{name} loose" for name, sounds in loose.items() if len(sounds) > 2]
    else:
        able = [kit for kit, notes in kits.items() if not {36, 38, 42} - notes.keys()] or list(kits)
    if not able:
        return None
    home, cents = _pick(able, rng), float(np.clip(80 * rng.standard_normal(), -250, 250))
    if home.endswith(" loose"):
        sounds = loose[home.removesuffix(" loose")]
        made = [_piece(sound, None, cents, rng) for sound in sounds]
        pieces = {pitch: _pick(made, rng) for pitch in range(27, 88)}
    else:
        pieces = _pieces(kits, home, cents, rng, mixed=not percussion and rng.random() < 0.4)
    velocities = (float(rng.uniform(1, 30)), float(rng.uniform(100, 127)))
    return _Drummer(bank, pieces, velocities, mirrored=bool(rng.random() < 0.5))


def _pieces(
    kits: dict[str, dict[int, list[Voice]]], home: str, cents: float, rng: Generator, *, mixed: bool
) -> dict[int, _Piece]:
    """Find a drum for every note of General MIDI, in the kit at home as long as it has one of the kind."""
    pieces: dict[int, _Piece] = {}
    made: dict[tuple[str, int], _Piece] = {}
    for line in _PIECES:
        able = [kit for kit, notes in kits.items() if not notes.keys().isdisjoint(line)]
        first = _pick(able, rng) if mixed and able else home
        others = [kit for kit in kits if kit != first]
        order = [first, *(others[index] for index in rng.permutation(len(others)))]
        for pitch in line:
            wanted = (pitch, *_INSTEAD.get(pitch, ()))
            found = [(kit, note) for kit in order for note in wanted if note in kits[kit]]
            found += [(kit, note) for kit in order for note in _LAST_RESORT if note in kits[kit]]
            kit, note = (found or [(first, min(kits[first], key=lambda note: abs(note - pitch)))])[0]
            if (kit, note) not in made:
                made[kit, note] = _piece(_pick(kits[kit][note], rng), note, cents, rng)
            pieces[pitch] = made[kit, note]
    return pieces


def _piece(voice: Voice, note: int | None, cents: float, rng: Generator) -> _Piece:
    pan = float(rng.uniform(-1, 1)) * (0.1 if voice.samples[0].stereo or note in _CENTRED else 0.6)
    return _Piece(voice, note, round(cents + float(rng.uniform(-50, 50)), 3), _gains(pan))


def _gains(pan: float) -> tuple[float, float]:
    """Left and right at constant power, each 1 in the middle; `pan` is from -1 to 1."""
    angle = np.pi / 4 * (pan + 1)
    return float(np.sqrt(2) * np.cos(angle)), float(np.sqrt(2) * np.sin(angle))


def _midi_velocity(note: Note, velocities: tuple[float, float]) -> int:
    softest, hardest = velocities
    return int(np.clip(round(softest + (hardest - softest) * note.velocity), 1, 127))


def _take(takes: list[Sample], latest: dict[str, str], random: float) -> Sample:
    """Choose by a random number from 0 to 1, but not the same take twice running."""
    fresh = [sample for sample in takes if sample.file != latest.get(takes[0].file)] or takes
    chosen = fresh[int(random * len(fresh))]
    latest[takes[0].file] = chosen.file
    return chosen
