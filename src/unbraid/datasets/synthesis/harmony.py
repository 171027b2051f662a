"""Which pitches sound: chords, how they lead to each other, bass lines and melodies."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.random import Generator

__all__ = [
    "MAJOR", "MINOR", "PROGRESSIONS", "TUNES", "Bar", "Chord", "Hit", "Tune", "bass_line", "fit", "guitar_shape",
    "harmonised", "key_scale", "melody", "pick", "progression", "spans", "struck", "voicing",
]  # fmt: skip

T = TypeVar("T")

MAJOR = (0, 2, 4, 5, 7, 9, 11)
MINOR = (0, 2, 3, 5, 7, 8, 10)

_DEGREES = {"i": 0, "ii": 2, "iii": 4, "iv": 5, "v": 7, "vi": 9, "vii": 11}
_MAJOR_KINDS = {
    "": (0, 4, 7), "5": (0, 7), "6": (0, 4, 7, 9), "7": (0, 4, 7, 10), "M7": (0, 4, 7, 11), "9": (0, 4, 7, 10, 14),
    "add9": (0, 4, 7, 14), "sus2": (0, 2, 7), "sus4": (0, 5, 7), "7sus4": (0, 5, 7, 10), "+": (0, 4, 8),
}  # fmt: skip
_MINOR_KINDS = {
    "": (0, 3, 7), "6": (0, 3, 7, 9), "7": (0, 3, 7, 10), "9": (0, 3, 7, 10, 14), "add9": (0, 3, 7, 14),
    "o": (0, 3, 6), "o7": (0, 3, 6, 9), "ø": (0, 3, 6, 10),
}  # fmt: skip

# A chord a bar, or several with commas; strokes part progressions. Degrees count from the major scale on the key's
# note; small numerals are minor. A feel's name ends in "minor" where its key is.
PROGRESSIONS = {
    "pop": "I V vi IV | vi IV I V | I vi IV V | IV V iii vi | I IV vi V | I iii IV iv | I V IV IV | IV I V vi | "
        "I III7 vi IV | I V,vi IV I | I IV I V vi ii IV V | IVM7 V iii7 vi | I bVII IV I | I IV,V vi,iii IV,V",
    "pop minor": "i bVI bIII bVII | i bVII bVI bVII | bVI bVII i i | i iv bVI V7 | i bIII bVII IV | iv i bVI V | "
        "i v bVI iv | i bVI iv V7sus4,V7 | i i bVI bVII | bVI bIII bVII i | i bVII iv bVI i bVII bVI V7",
    "rock": "I IV V IV | I bVII IV I | I I IV V | I bIII IV I | I V bVII IV | I5 bVII5 IV5 IV5 | I IV I V,IV",
    "rock minor": "i bVII bVI bVII | i bIII bVII IV | i5 i5 bVI5 bVII5 | i iv i bVII | i5 bIII5 IV5 bVI5,bVII5",
    "metal minor": "i5 i5 bII5 i5 | i5 bVI5 bII5 bVII5 | i5 i5 bIII5,bII5 i5 | i5 bVI5 bVII5 i5 | i5 iv5 bVI5 V5",
    "blues": "I7 I7 I7 I7 IV7 IV7 I7 I7 V7 IV7 I7 V7 | I7 IV7 I7 I7 IV7 IV7 I7 VI7 ii7 V7 I7,VI7 ii7,V7 | "
        "I7 IV7 I7 V7",
    "jazz": "ii7 V7 IM7 IM7 | IM7 vi7 ii7 V7 | IM7,vi7 ii7,V7 iii7,VI7 ii7,V7 | IM7 #io7 ii7 V7 | ii7 V7 iii7 VI7 | "
        "IM7 I7 IVM7 iv6 | IM7 bIIIM7 bVIM7 bII7 | IM7 II7 ii7 V9 | iii7 biiio7 ii7 V7sus4,V7",
    "jazz minor": "iiø V7 i6 i6 | i7 iv7 iiø V7 | i6 bVIM7 iiø V7 | i7 i7 bVI7 V7 | "
        "iv7 bVII9 bIIIM7 bVIM7 iiø V7 i6 V7",
    "soul": "IM7 iii7 IVM7 V7sus4 | ii9 V9 IM7 IVM7 | I7 I7 IV7 I7 | IVM7 iii7 ii7 IM7 | IM7 bVIIM7 IVM7 iv6",
    "soul minor": "i7 IV9 i7 IV9 | i9 i9 bVIM7 V7 | i7 iv7 i7 v7 | bVIM7 v7 i7 bIII7 | i7 i7 i7 bVI7,V7",
    "folk": "I I IV I V V I I | I IV I V | I V vi iii IV I IV V | I vi IV V I IV I,V I | I ii IV I",
    "folk minor": "i bVII i bVII | i i bVII i | i iv i V | i bIII bVII i iv i V i",
    "dance minor": "i7 i7 bVIM7 bVII | i bVI bVII v | iadd9 bVI bIII bVII | i i iv bVI | i7 iv9 i7 v7 | "
        "bVI bVII i bIII",
    "dance": "IVM7 V vi7 iii7 | vi7 IVM7 I V | Iadd9 V vi IV | ii7 vi7 IVM7 V | I I IV V",
    "drone": "Isus2 Iadd9 IVM7 IVadd9 | IM7 IM7 iii7 IVM7 | Iadd9 bVIIadd9 | Isus2 Vsus4 IVsus2 Isus2",
    "drone minor": "iadd9 iadd9 bVIM7 bVIM7 | i9 iv9 | iadd9 bIIIM7 bVIM7 v7 | i i bVII bVI",
}  # fmt: skip

# Steps of a bar in sixteenths: root, fifth, third, octave, seventh or sixth, fifth below, approach to the next chord;
# x is a muted root, - holds, a dot rests. The steps of 6/8 and 3/4 have their own lines at the end.
_LINES = {
    "roots": "r-r-r-r-r-r-r-r- r-------r------- r---r---r---r--- r-----r-r-----a- r-r-r-r-r-r-f-a- r--r--r-r--r--r-",
    "simple": "r-------f------- r-----r-f-----f- r-----------f-a- r-------r-f-o-f- r---f---o---f---",
    "long": "r--------------- r-----------r--- r-------r-------",
    "country": "r--.f--.r--.f--. r---f---r---l--- r-..l-..r-..l-a- r---t---f---a---",
    "funk": "r..xr..r.xo.s.o. r--.x.r.o-.xs.fo r.xro..xr.xrs.a. r-..o.r..r.xo-s. r.....r.r.o-..sf r.r.x.o..xr.s-a.",
    "octaves": "r.o.r.o.r.o.r.o. r-o-r-o-r-o-f-a- ..r-o-.r..r-o-o. r..o..r.r..o..r.",
    "offbeat": "..r-..r-..r-..r- ..r-..r-..r-..ro .rrr.rrr.rrr.rrr .r.r.r.r.r.r.r.r ..rr..rr..rr..ro "
        "x.r-x.r-x.r-x.o-",
    "pulse": "rrrrrrrrrrrrrrrr rrorrrorrrorrror r.rrr.rrr.rrr.rr r-r-o-r-r-r-o-s- rrfrorfrrrfrorsr",
    "broken": "r-f-o-f-r-f-o-f- r-t-f-o-f-t-r-f- r---f-o-t---f--- r.f.o.s.r.f.o.f.",
    "sub": "r---------r----- r-----r--------- r-------....r-r- r--r--r--------- r---------..rro- r-----..r---f---",
    "wobble": "r-----------....o-s-f-r-r------- r-....r---..r-..r-....r---s-f-.. r---..r-r---....r---..o---f-....",
    "reggae": "....r-r-..f-t-.. r--.....r-f-r-.. r-t-f-..r-t-.... ..r-..r-t-f-.... r-..r-..f-..t-r-",
    "latin": "r-----f-f-----r- ......f-....r--- r-....f-....o-f- r-----f-r-----a- ...r--f-....r---",
    "gallop": "r-rrr-rrr-rrr-rr rrrrrrrrrrrrrrrr r-r-rrr-r-r-rrr- r-..rr..r-rrr.a.",
    "three": "r---l---l--- r----------- r---f---o--- r-------f-a- r---r---a--- r-t-f---f-a-",
    "six": "r-----r----- r---r-f---a- r-----f-r-f- r-r-r-r-r-r- r-f-o-f-o-f- r-----------",
}  # fmt: skip
_WITH_KICK = {"kick": "roots", "deep": "sub"}  # and what they play where there is none
_DEEP = ("deep", "sub", "wobble")


class Hit(NamedTuple):
    """A note on the grid: step and length in sixteenths, as written; `late_s` is added to where the step sounds."""

    step: float
    length: float
    pitch: int
    velocity: float
    late_s: float = 0.0


@dataclass(frozen=True)
class Chord:
    """A root from 0 (C) to 11, and the other tones as semitones above it."""

    root: int
    intervals: tuple[int, ...]

    @property
    def tones(self) -> tuple[int, ...]:
        """Pitch classes, the root first."""
        return tuple((self.root + interval) % 12 for interval in self.intervals)


@dataclass(frozen=True)
class Bar:
    """What the players must know of a bar.

    start : its first sixteenth, counted from the beginning of the song
    n_steps, pulse : sixteenths in it and in what feet tap to: 16 and 4 in 4/4, 12 and 4 in 3/4, 12 and 6 in 6/8
    section : "verse", "chorus", …
    index, left : bars of the section before this one and after it
    chords : equally long
    """

    start: int
    n_steps: int
    pulse: int
    section: str
    index: int
    left: int
    chords: tuple[Chord, ...]

    def chord_at(self, step: float) -> Chord:
        """Chord at a sixteenth of this bar."""
        return self.chords[int(step) * len(self.chords) // self.n_steps]


@dataclass(frozen=True)
class Tune:
    """How a melody moves.

    low, high : MIDI numbers it stays within
    notes : fewest and most in a bar
    grid : sixteenths between the places where a note may begin
    plan : a letter a bar; the same letter is the same motif
    breath : share of a phrase's last bar without new notes
    gate : share of its length for which a note sounds
    narrow : share of notes that stay on their pitch
    """

    low: int
    high: int
    notes: tuple[int, int]
    grid: int = 2
    plan: str = "AABA"
    breath: float = 0.4
    gate: float = 0.9
    narrow: float = 0.2


TUNES = {
    "sung": Tune(48, 76, (2, 6)),
    "long": Tune(48, 76, (1, 3), grid=4, plan="ABAC", gate=0.95),
    "rhythmic": Tune(48, 76, (4, 6), plan="AAAB", breath=0.25, gate=0.75, narrow=0.6),
    "chops": Tune(48, 76, (2, 5), plan="ABAB", breath=0.0, gate=0.5, narrow=0.4),
    "theme": Tune(58, 84, (2, 6), plan="ABAC"),
    "hook": Tune(60, 88, (3, 8), plan="ABAB", breath=0.2, gate=0.8, narrow=0.3),
    "solo": Tune(57, 90, (4, 12), grid=1, plan="ABCDEFGH", breath=0.3, narrow=0.1),
    "riff": Tune(40, 60, (4, 8), plan="AAAB", breath=0.1, gate=0.75, narrow=0.35),
    "line": Tune(55, 79, (1, 4), grid=4, plan="ABCB", breath=0.1, gate=0.97),
    "fanfare": Tune(52, 77, (2, 6), plan="AAAB", breath=0.5, gate=0.6, narrow=0.4),
}


def pick(rng: Generator, choices: Sequence[T]) -> T:
    """Return one of them; ten times as fast as `Generator.choice`, which makes an array first."""
    return choices[int(rng.integers(len(choices)))]


def fit(pattern: str, n_steps: int, bar: int) -> str:
    """Return the part of a repeated pattern that falls on this bar of a section; 4/4 is cut to fit 3/4."""
    begin = bar % max(1, len(pattern) // 16) * 16 if n_steps == 16 else 0
    return (pattern * 2)[begin : begin + n_steps]


def struck(pattern: str) -> list[tuple[int, int, str]]:
    """Return (step, length, character) of all that's neither a rest nor a hold."""
    return [(found.start(), len(found.group()), found.group()[0]) for found in re.finditer(r"[^.\-]-*", pattern)]


@cache
def _parsed(name: str) -> Chord:
    """Return a chord by its numeral, in the key of C."""
    found = re.fullmatch(r"([b#]?)([IViv]+)(.*)", name)
    assert found, name
    accidental, numeral, kind = found.groups()
    kinds = _MAJOR_KINDS if numeral.isupper() or kind == "5" else _MINOR_KINDS
    shift = {"b": -1, "#": 1, "": 0}[accidental]
    return Chord((_DEGREES[numeral.lower()] + shift) % 12, kinds[kind])


def progression(rng: Generator, feel: str, root: int, colour: float) -> list[tuple[Chord, ...]]:
    """Choose the chords of some bars in the key of `root`; `colour` is the chance of a triad to become more."""
    text = pick(rng, PROGRESSIONS[feel].split(" | "))
    scale = MINOR if feel.endswith("minor") else MAJOR
    coloured: dict[str, Chord] = {}
    for name in sorted(set(text.replace(",", " ").split())):
        chord = _parsed(name)
        extensions = [step for step in (10, 11, 14) if (chord.root + step) % 12 in scale]
        if len(chord.intervals) == 3 and 7 in chord.intervals and extensions and rng.random() < colour:
            chord = Chord(chord.root, (*chord.intervals, pick(rng, extensions)))
        coloured[name] = Chord((chord.root + root) % 12, chord.intervals)
    return [tuple(coloured[name] for name in bar.split(",")) for bar in text.split()]


@lru_cache(maxsize=4096)
def _close_voicings(tones: tuple[int, ...], n_voices: int, centre: int, spread: bool) -> list[tuple[int, ...]]:
    """Return the inversions of a chord around a pitch; if spread, the second highest note an octave down."""
    order = sorted(tones)
    found = []
    for low in range(centre - 11, centre + 2):
        if low % 12 in order:
            first = order.index(low % 12)
            climb = [(order[(first + i) % len(order)] - low) % 12 for i in range(n_voices)]
            pitches = [low + step + 12 * (i // len(order)) for i, step in enumerate(climb)]
            if spread and n_voices > 2:
                pitches[-2] -= 12
            found.append(tuple(sorted(pitches)))
    return found


def voicing(chord: Chord, before: tuple[int, ...], n_voices: int, centre: int, spread: bool = False) -> tuple[int, ...]:
    """Return the notes of a chord around a pitch closest to those before; a big chord lacks its fifth."""
    tones = chord.tones
    if len(tones) > n_voices:
        tones = tuple(tone for tone, step in zip(tones, chord.intervals, strict=True) if step != 7)[-n_voices:]

    def far(pitches: tuple[int, ...]) -> float:
        away = 0.4 * abs(sum(pitches) - centre * len(pitches))
        return away + sum(abs(a - b) for a, b in zip(pitches, before, strict=False))

    return min(_close_voicings(tones, n_voices, centre, spread), key=far)


@lru_cache(maxsize=4096)
def guitar_shape(chord: Chord, fret: int) -> tuple[int, ...]:
    """Return the notes of a grip within four frets, from the lowest string that has the root or fifth."""
    notes: list[int] = []
    for string in (40, 45, 50, 55, 59, 64):
        in_reach = [pitch for pitch in range(string + fret, string + fret + 4) if pitch % 12 in chord.tones]
        if in_reach and (notes or (in_reach[0] - chord.root) % 12 in (0, 7)):
            notes.append(in_reach[0])
    # Two tones are too few for most grips.
    return tuple(sorted(set(notes))) if len(notes) > 3 else voicing(chord, (), 4, 50 + fret)


def spans(bars: Sequence[Bar], *, longest: int = 2) -> list[tuple[int, int, Chord]]:
    """Return (start, length in sixteenths, chord) of what's held; a chord that stays, for `longest` bars."""
    found: list[tuple[int, int, Chord]] = []
    for bar in bars:
        length = bar.n_steps // len(bar.chords)
        for i, chord in enumerate(bar.chords):
            start = bar.start + i * length
            begin, held, same = found[-1] if found else (0, 0, None)
            if same == chord and begin + held == start and held + length <= longest * bar.n_steps:
                found[-1] = (begin, held + length, chord)
            else:
                found.append((start, length, chord))
    return found


def bass_line(rng: Generator, bars: Sequence[Bar], mode: str, kick: dict[int, str]) -> list[Hit]:
    """Play the bass: "walking", with the "kick" (its pattern by start of bar), or one of the lines; from 28 to 55.

    Those of machines, which have no lowest string, begin up to half an octave below: "deep" (also with the kick), "sub"
    and "wobble".
    """
    floor = int(rng.integers(22, 29) if mode in _DEEP else rng.integers(28, 33))
    lines: dict[str, str] = {}
    hits: list[Hit] = []
    pitch = floor
    for i, bar in enumerate(bars):
        following = bars[i + 1].chords[0] if i + 1 < len(bars) else bar.chords[0]
        target = (following.root - floor) % 12 + floor
        if mode == "walking":
            hits += _walk(rng, bar, pitch, target)
            pitch = hits[-1].pitch
            continue
        if bar.section not in lines:
            narrow = {(12, 4): "three", (12, 6): "six"}.get((bar.n_steps, bar.pulse))
            lines[bar.section] = pick(rng, _LINES[narrow or _WITH_KICK.get(mode, mode)].split())
        line = fit(lines[bar.section], bar.n_steps, bar.index)
        if mode in _WITH_KICK and bar.start in kick:
            line = re.sub(r"\.", "-", re.sub(r"[1-9]", "r", kick[bar.start])).lstrip("-").rjust(bar.n_steps, ".")
        for step, length, how in struck(line):
            hits.append(_bass_note(bar.chord_at(step), target, floor, bar.start + step, length, how))
    return hits


def _bass_note(chord: Chord, target: int, floor: int, step: int, length: int, how: str) -> Hit:
    """Return one note of a line, by its letter."""
    root = (chord.root - floor) % 12 + floor
    fifth = next((interval for interval in chord.intervals if interval in (6, 7, 8)), 7)
    third = next((interval for interval in chord.intervals if interval in (3, 4)), fifth)
    seventh = next((interval for interval in chord.intervals if interval in (9, 10, 11)), fifth)
    above = {"f": fifth, "t": third, "o": 12, "s": seventh, "l": fifth - 12}
    pitch = root + above.get(how, 0)
    if how == "a":  # from a semitone below, or a tone above, whichever is on the way
        pitch = target - 1 if target >= root else target + 2
    pitch += 12 if pitch < min(floor, 28) else -12 if pitch > 55 else 0
    return Hit(step, 0.4 if how == "x" else length - 0.15, pitch, 0.45 if how == "x" else 0.85)


def _walk(rng: Generator, bar: Bar, pitch: int, target: int) -> list[Hit]:
    """Walk through a bar: roots on the first, chord tones on the others, and a step to what follows."""
    hits = []
    for step in range(0, bar.n_steps, bar.pulse):
        chord = bar.chord_at(step)
        changed = step == 0 or chord != bar.chord_at(step - bar.pulse)
        near = [p for p in range(max(28, pitch - 7), min(55, pitch + 7) + 1) if p != pitch or changed]
        if changed and rng.random() < 0.9:
            near = [p for p in near if p % 12 == chord.root] or [(chord.root - 28) % 12 + 28]
        elif step + bar.pulse == bar.n_steps:
            near = [target + step_to for step_to in (-2, -1, 1, 2) if 28 <= target + step_to <= 55]
        else:
            near = [p for p in near if p % 12 in chord.tones] or near
        pitch = pick(rng, near)
        hits.append(Hit(bar.start + step, bar.pulse - 0.4, pitch, 0.8))
        if rng.random() < 0.12:
            hits.append(Hit(bar.start + step + bar.pulse - 2, 1.2, pitch, 0.5))
    return hits


def key_scale(root: int, minor: bool, *, pentatonic: bool) -> tuple[int, ...]:
    """Return the pitch classes of a key, seven or five of them."""
    seven, five = (MINOR, (0, 3, 5, 7, 10)) if minor else (MAJOR, (0, 2, 4, 7, 9))
    return tuple((root + step) % 12 for step in (five if pentatonic else seven))


@lru_cache(maxsize=4096)
def _ladder(chord: Chord, scale: tuple[int, ...], low: int, high: int) -> tuple[list[int], list[int]]:
    """Return what may be sung over a chord, and its tones: the scale gives way where the chord alters it."""
    tones, altered = chord.tones, [tone for tone in chord.tones if tone not in scale]
    allowed = {note for note in scale if all((note - tone) % 12 not in (1, 11) for tone in altered)} | set(tones)
    pitches = range(low, high + 1)
    return [pitch for pitch in pitches if pitch % 12 in allowed], [pitch for pitch in pitches if pitch % 12 in tones]


def _nearest(ladder: list[int], pitch: int) -> int:
    """Return the index of what's closest to a pitch."""
    i = bisect_left(ladder, pitch)
    return i - 1 if i == len(ladder) or (i > 0 and pitch - ladder[i - 1] < ladder[i] - pitch) else i


def _motif(rng: Generator, tune: Tune, bar: Bar) -> list[tuple[int, float, int]]:
    """Make up a bar of (step, length, steps of the scale from the note before)."""
    slots = np.arange(0, bar.n_steps, tune.grid)
    weights = 1.0 + 2.0 * (slots % bar.pulse == 0) + (slots % 2 == 0)
    n_notes = min(int(rng.integers(tune.notes[0], tune.notes[1] + 1)), len(slots))
    onsets = np.sort(rng.choice(slots, n_notes, replace=False, p=weights / weights.sum())).tolist()
    moves = rng.choice([-3, -2, -1, -1, 1, 1, 2, 4], n_notes) * (rng.random(n_notes) >= tune.narrow)
    lengths = np.diff([*onsets, bar.n_steps]) * np.where(rng.random(n_notes) < 0.2, 0.5, tune.gate)
    return list(zip(onsets, lengths.tolist(), moves.tolist(), strict=True))


def melody(rng: Generator, bars: Sequence[Bar], scale: tuple[int, ...], tune: Tune) -> list[Hit]:
    """Make up a melody of motifs that come back, varied, and of phrases that end in a rest.

    A section that comes again has its melody again, but for a few notes.
    """
    phrase = pick(rng, (2, 4, 4))
    pitch = centre = (tune.low + tune.high) // 2
    motifs: dict[tuple[str, str], list[tuple[int, float, int]]] = {}
    sung: dict[tuple[str, int], tuple[list[tuple[int, float, int]], int]] = {}
    hits: list[Hit] = []
    for bar in bars:
        place = (bar.section, bar.index % 8)
        last = bar.index % phrase == phrase - 1
        if place not in sung:
            letter = (bar.section, tune.plan[bar.index % len(tune.plan)])
            if letter not in motifs:
                motifs[letter] = _motif(rng, tune, bar)
            # A motif comes back where the melody is by now, pulled to the middle of the range.
            silent = last and tune.breath > 0.3 and rng.random() < 0.15
            sung[place] = [] if silent else motifs[letter], round(0.7 * pitch + 0.3 * centre)
        motif, pitch = sung[place]
        end = bar.n_steps * (1 - tune.breath) if last else bar.n_steps
        for i, (step, length, move) in enumerate(motif):
            if step >= end and i > 0:
                break
            ladder, tones = _ladder(bar.chord_at(step), scale, tune.low, tune.high)
            moved = _nearest(ladder, pitch) + (move if rng.random() < 0.93 else -move)
            pitch = ladder[moved if 0 <= moved < len(ladder) else _nearest(ladder, centre)]
            if step % bar.pulse == 0 or length >= bar.pulse:
                pitch = tones[_nearest(tones, pitch)]
            loud = 0.9 if step % bar.pulse == 0 else 0.75
            hits.append(Hit(bar.start + step, min(length, max(end - step, 2.0)), pitch, loud))
    return hits


def harmonised(hits: Sequence[Hit], bars: Sequence[Bar], scale: tuple[int, ...], intervals: Sequence[int]) -> list[Hit]:
    """Return a second voice: of these semitones to the first one, the first that the scale and the chord allow."""
    by_step = {bar.start + step: bar for bar in bars for step in range(bar.n_steps)}
    found = []
    for hit in hits:
        if bar := by_step.get(int(hit.step)):
            ladder, _ = _ladder(bar.chord_at(hit.step - bar.start), scale, 43, 81)
            other = next((hit.pitch + step for step in intervals if hit.pitch + step in ladder), hit.pitch)
            found.append(hit._replace(pitch=other, velocity=0.8 * hit.velocity))
    return found
