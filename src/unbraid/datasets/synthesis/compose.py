"""Songs as scores: a style, a form, an arrangement in which parts come and go, and the notes of each part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from unbraid.datasets.synthesis.harmony import (
    TUNES,
    Bar,
    Hit,
    bass_line,
    harmonised,
    key_scale,
    melody,
    pick,
    progression,
)
from unbraid.datasets.synthesis.rhythms import Grid, accompany, arpeggiate, drum, hold, kick_patterns, shake
from unbraid.datasets.synthesis.score import ROLES, Note, Part, Score
from unbraid.errors import UsageError

__all__ = ["STYLES", "compose"]


@dataclass(frozen=True)
class _Style:
    """What songs of a kind have in common.

    tempo_bpm : of quarters, lowest and highest
    feels : names in PROGRESSIONS
    forms : names in _FORMS
    seats : "role: chance that the part is there, ways to play, one of which is chosen; …"; of percussion, instruments
    meters : one is chosen
    swung, swing : as in Grid; from, to
    human_s : standard deviation of the timing of a good player; machines, whose is 0, keep the grid
    colour : chance of a triad to become a seventh or ninth chord
    pentatonic : chance of melodies of five notes
    """

    tempo_bpm: tuple[float, float]
    feels: str
    forms: str
    seats: str
    meters: str = "4/4"
    swung: int = 4
    swing: tuple[float, float] = (0.0, 0.0)
    human_s: float = 0.004
    colour: float = 0.1
    pentatonic: float = 0.4


# fmt: off
_STYLES = {
    "rock": _Style((96, 168), "rock|rock minor|pop", "song", """
        drums: 1 rock; percussion: .3 tambourine shaker cowbell; bass: 1 roots kick simple; guitar: 1 power strum riff
        guitar: .8 strum power picked riff; piano: .2 block; organ: .25 hold; lead: .5 solo theme
        voice: .95 sung rhythmic; backing: .6 thirds oohs answer"""),
    "pop": _Style((84, 132), "pop|pop minor", "song", """
        drums: 1 pop rock; percussion: .5 shaker tambourine claps congas; bass: 1 roots simple kick octaves deep
        piano: .7 block broken stabs; guitar: .6 strum picked skank; guitar: .3 scratch picked; pad: .5 hold
        strings: .35 hold line; brass: .15 stabs; lead: .3 theme hook; arpeggio: .3 machine
        voice: .97 sung rhythmic long; backing: .8 thirds oohs answer""", human_s=0.003),
    "ballad": _Style((56, 84), "pop|pop minor|soul", "song", """
        drums: .8 soft pop; percussion: .2 shaker triangle; bass: .95 simple long roots; piano: .9 broken block
        guitar: .5 picked strum; pad: .5 hold; strings: .7 hold line; organ: .2 hold; lead: .3 theme
        voice: 1 sung long; backing: .6 oohs thirds""", meters="4/4 4/4 6/8", human_s=0.007, colour=0.25),
    "funk": _Style((92, 122), "soul minor|soul|blues", "song", """
        drums: 1 funk; percussion: .6 congas tambourine cowbell shaker; bass: 1 funk; guitar: .95 scratch
        guitar: .3 riff scratch; piano: .4 stabs comp; organ: .4 stabs hold; brass: .75 stabs fanfare; lead: .3 solo
        voice: .8 rhythmic sung; backing: .6 thirds answer""", swung=2, swing=(0, 0.5), colour=0.3, pentatonic=0.7),
    "soul": _Style((66, 112), "soul|soul minor", "song", """
        drums: 1 pop soft funk; percussion: .6 tambourine congas shaker; bass: 1 funk simple kick; piano: .7 block comp
        guitar: .7 skank picked; organ: .5 hold swell; strings: .45 line hold; brass: .5 stabs fanfare swell
        lead: .2 theme; voice: 1 sung; backing: .85 oohs thirds answer
        """, meters="4/4 4/4 4/4 6/8", swung=2, swing=(0, 0.4), human_s=0.006, colour=0.3, pentatonic=0.6),
    "disco": _Style((108, 126), "dance minor|soul minor|dance", "song club", """
        drums: 1 four; percussion: .7 tambourine congas cowbell shaker; bass: 1 octaves funk; guitar: .8 scratch
        piano: .5 stabs block; strings: .7 line hold; brass: .5 stabs fanfare; pad: .2 hold; lead: .25 hook
        voice: .85 sung rhythmic; backing: .7 thirds oohs""", human_s=0.003, colour=0.3),
    "house": _Style((118, 130), "dance minor|dance|soul minor", "club", """
        drums: 1 four; percussion: .7 shaker congas claps bongos tambourine; bass: 1 offbeat octaves funk sub deep
        piano: .55 stabs block; organ: .35 stabs; pad: .6 hold pulse; strings: .25 hold; brass: .1 stabs
        arpeggio: .5 machine; lead: .5 hook chops; voice: .65 chops sung; backing: .3 thirds
        """, swung=2, swing=(0, 0.35), human_s=0, colour=0.4),
    "techno": _Style((122, 146), "drone minor|metal minor|dance minor", "club", """
        drums: 1 four; percussion: .7 shaker wood claps triangle congas; bass: .95 offbeat pulse sub deep
        pad: .5 hold; piano: .12 stabs; arpeggio: .75 machine; arpeggio: .3 machine; lead: .4 chops hook
        voice: .25 chops
        """, human_s=0),
    "trance": _Style((132, 144), "dance minor|pop minor|pop", "club", """
        drums: 1 four; percussion: .5 claps shaker; bass: 1 offbeat pulse; pad: .8 hold pulse; strings: .4 hold
        piano: .35 broken block; arpeggio: .9 machine; lead: .85 hook theme; lead: .3 hook; voice: .45 long chops
        backing: .2 oohs""", human_s=0),
    "drum and bass": _Style((164, 178), "dance minor|drone minor|soul minor", "club", """
        drums: 1 breaks; percussion: .4 shaker congas claps; bass: 1 sub wobble pulse deep
        pad: .7 hold; piano: .3 broken stabs; strings: .25 hold; arpeggio: .4 machine; lead: .4 hook chops
        voice: .5 chops long sung; backing: .2 oohs
        """, human_s=0, colour=0.3),
    "hip-hop": _Style((80, 102), "soul minor|jazz minor|jazz|pop minor", "song", """
        drums: 1 boombap; percussion: .4 shaker bongos tambourine; bass: 1 simple kick sub deep
        piano: .6 stabs block broken; guitar: .3 picked skank; organ: .2 hold; strings: .3 hold line; brass: .25 stabs
        pad: .2 hold; lead: .2 theme
        voice: .9 rhythmic; backing: .4 answer thirds""", swung=2, swing=(0.2, 0.8), human_s=0.005, pentatonic=0.8),
    "trap": _Style((126, 156), "drone minor|pop minor|metal minor", "song club", """
        drums: 1 trap; percussion: .4 claps shaker bongos; bass: 1 sub kick deep deep
        piano: .45 broken swell; guitar: .2 picked; pad: .5 hold; strings: .3 hold; brass: .15 swell
        arpeggio: .35 machine; lead: .6 hook theme
        voice: .85 rhythmic sung; backing: .4 answer oohs thirds""", human_s=0, pentatonic=0.7),
    "reggae": _Style((66, 90), "rock|soul minor|folk minor|pop", "song", """
        drums: 1 reggae; percussion: .6 bongos shaker congas wood; bass: 1 reggae; guitar: .95 skank
        guitar: .3 riff picked; piano: .4 skank; organ: .7 bubble; brass: .35 fanfare stabs; lead: .2 theme
        voice: .9 sung rhythmic; backing: .6 thirds oohs answer""", swing=(0, 0.7), human_s=0.005),
    "jazz": _Style((88, 216), "jazz|jazz minor|blues", "jazz", """
        drums: .9 swing; bass: 1 walking; piano: .9 comp; guitar: .35 comp; organ: .12 comp; brass: .4 fanfare swell
        lead: .85 solo theme; strings: .1 hold; voice: .4 sung; backing: .08 oohs
        """, meters="4/4 4/4 4/4 3/4", swing=(0.5, 1.0), human_s=0.007, colour=0.5, pentatonic=0.2),
    "blues": _Style((64, 138), "blues", "jazz song", """
        drums: 1 rock soft; bass: 1 walking roots simple; guitar: 1 comp strum skank; guitar: .5 riff
        piano: .5 comp block; organ: .45 hold comp; brass: .2 stabs; lead: .7 solo; voice: .8 sung; backing: .2 answer
        """, meters="4/4 4/4 4/4 6/8", swing=(0.6, 1.0), human_s=0.007, pentatonic=0.9),
    "bossa": _Style((112, 150), "jazz|jazz minor|soul", "jazz song", """
        drums: .8 latin; percussion: .8 shaker clave triangle congas; bass: 1 latin simple; guitar: .9 comp stabs picked
        piano: .6 comp; strings: .3 hold line; brass: .2 swell; lead: .5 theme solo; voice: .75 sung long
        backing: .2 oohs""", human_s=0.006, colour=0.6),
    "salsa": _Style((84, 112), "jazz minor|folk minor|soul", "song", """
        drums: .5 latin; percussion: 1 congas clave cowbell timbales bongos shaker; bass: 1 latin; piano: 1 montuno
        brass: .8 fanfare stabs; guitar: .2 stabs; strings: .15 line; lead: .3 solo; voice: .85 sung rhythmic
        backing: .7 answer thirds""", human_s=0.005, colour=0.3),
    "metal": _Style((96, 190), "metal minor|rock minor", "song", """
        drums: 1 metal; bass: 1 gallop roots kick; guitar: 1 power riff; guitar: .9 power riff; lead: .6 solo
        pad: .15 hold; strings: .15 hold; piano: .08 broken; voice: .8 rhythmic sung; backing: .25 thirds oohs
        """, meters="4/4 4/4 4/4 6/8", human_s=0.003, colour=0, pentatonic=0.3),
    "folk": _Style((76, 132), "folk|folk minor", "song", """
        drums: .35 soft train; percussion: .4 tambourine shaker wood; bass: .7 simple country; guitar: 1 picked strum
        guitar: .5 picked strum; piano: .3 broken block; strings: .4 line hold; lead: .4 theme; organ: .15 hold
        voice: .95 sung; backing: .55 thirds""", meters="4/4 4/4 3/4 6/8", human_s=0.008, colour=0.05),
    "waltz": _Style((84, 176), "folk|folk minor|jazz|pop", "song jazz", """
        drums: .5 soft swing; percussion: .2 triangle tambourine; bass: .95 simple; piano: .8 block broken
        guitar: .5 strum picked; organ: .25 stabs; strings: .6 line hold; brass: .3 swell fanfare; lead: .5 theme
        voice: .7 sung long; backing: .3 thirds oohs""", meters="3/4", swing=(0, 0.5), human_s=0.008),
    "country": _Style((88, 168), "folk|rock|pop", "song", """
        drums: .95 train rock; percussion: .3 tambourine shaker; bass: 1 country walking simple; guitar: 1 strum
        guitar: .8 picked riff; piano: .4 block broken; organ: .2 hold; strings: .25 line; lead: .6 theme solo
        voice: .97 sung; backing: .6 thirds""", meters="4/4 4/4 4/4 3/4", swing=(0, 0.6), human_s=0.006, colour=0),
    "synthpop": _Style((98, 132), "pop minor|dance minor|pop", "song", """
        drums: 1 pop four; percussion: .4 claps tambourine; bass: 1 pulse octaves broken sub; pad: .8 hold pulse
        arpeggio: .75 machine; arpeggio: .25 machine; lead: .6 hook theme; guitar: .25 picked; piano: .2 stabs
        strings: .3 hold; voice: .85 sung long; backing: .5 thirds oohs""", human_s=0),
    "ambient": _Style((58, 96), "drone|drone minor", "drift", """
        drums: .3 soft boombap; percussion: .3 shaker triangle wood; bass: .7 long sub; pad: 1 hold; pad: .5 hold
        piano: .5 broken swell; strings: .5 hold line; guitar: .3 picked; arpeggio: .5 machine; lead: .3 long theme
        voice: .35 long; backing: .35 oohs""", human_s=0.006, colour=0.4),
}

# Sections and their bars; the best known ways to build a song, a night at a club, and a tune with choruses.
_FORMS = {
    "song": (
        "intro 4 verse 8 chorus 8 verse 8 chorus 8 bridge 8 chorus 8 outro 4",
        "intro 8 verse 16 chorus 8 verse 8 chorus 8 solo 8 breakdown 4 chorus 16 outro 8",
        "chorus 4 verse 8 build 2 chorus 8 verse 8 build 2 chorus 8 bridge 8 chorus 8 chorus 8",
        "intro 4 verse 8 verse 8 bridge 8 verse 8 solo 16 bridge 8 verse 8 outro 4",
        "verse 8 chorus 8 intro 4 verse 8 chorus 8 solo 8 verse 8 chorus 8 outro 4",
    ),
    "club": (
        "intro 16 build 4 drop 16 breakdown 16 build 8 drop 16 outro 16",
        "intro 8 verse 16 build 8 drop 16 breakdown 8 verse 16 build 8 drop 16 outro 8",
        "breakdown 8 build 4 drop 16 bridge 8 drop 8 breakdown 16 build 8 drop 16 outro 8",
    ),
    "jazz": (
        "intro 4 verse 16 solo 16 solo 16 verse 16 outro 4",
        "verse 12 verse 12 solo 12 solo 12 bridge 8 verse 12 outro 4",
    ),
    "drift": (
        "intro 8 verse 16 breakdown 8 verse 16 outro 8",
        "intro 16 bridge 8 verse 8 breakdown 16 chorus 8 outro 16",
    ),
}

# Tenths of the times a part plays in a section, by role in the order of ROLES:
#                    dr pe ba pi gu or pa st br le ar vo bk
_PRESENCE = {
    "intro":        (5, 5, 4, 6, 6, 4, 6, 5, 2, 4, 5, 1, 1),
    "verse":        (9, 5, 9, 7, 7, 5, 5, 3, 2, 1, 3, 9, 1),
    "chorus":      (10, 7, 10, 8, 9, 7, 7, 7, 5, 3, 5, 10, 9),
    "bridge":       (6, 4, 7, 7, 6, 6, 7, 6, 3, 3, 4, 6, 4),
    "breakdown":    (2, 3, 3, 6, 3, 4, 8, 6, 2, 3, 4, 5, 2),
    "build":        (8, 5, 3, 3, 3, 3, 7, 5, 2, 2, 7, 4, 2),
    "drop":        (10, 8, 10, 4, 5, 4, 5, 4, 4, 8, 7, 3, 2),
    "solo":         (9, 6, 9, 7, 7, 6, 4, 3, 3, 10, 2, 0, 1),
    "outro":        (6, 5, 6, 6, 6, 5, 7, 5, 2, 3, 4, 3, 2),
}
_LOUDNESS = {"intro": 0.85, "verse": 0.88, "breakdown": 0.75, "bridge": 0.88, "outro": 0.85, "build": 0.92}
# fmt: on

# Sixteenths of a bar, of a tap of the foot, and beats of a bar.
_METERS = {"4/4": (16, 4, 4), "3/4": (12, 4, 3), "6/8": (12, 6, 6)}

# Times the standard deviation of a good player's timing.
_LOOSENESS = {"drums": 0.6, "percussion": 0.9, "bass": 0.8, "strings": 1.6, "brass": 1.2, "lead": 1.2}
_SINGER_S = 0.009  # singers aren't machines in any style

# Semitones from the first voice, the best first: thirds above, thirds below, sixths below.
_SECOND_VOICES = ((3, 4, 5, 7, -3, -4), (-3, -4, -5, -7, 3, 4), (-8, -9, -7, -5, -4, -3))

STYLES = tuple(_STYLES)


@dataclass(frozen=True)
class _Seat:
    """A part before it's played."""

    role: str
    modes: tuple[str, ...]


def compose(rng: Generator, seconds: float, *, style: str | None = None) -> Score:
    """Make up a song, or a piece from somewhere in a song that would be longer.

    seconds : its length, > 0
    style : one of STYLES, or None for any

    The song begins on a bar line. The beat of 6/8 is the eighth: `beats_per_bar` is 6 and `tempo_bpm` counts eighths.
    Parts that never play within the piece are left out, so that a short one may lack drums, bass or a voice.
    Raises UsageError for a length that isn't one, or a style that isn't known.
    """
    if not (isfinite(seconds) and seconds > 0):
        raise UsageError(f"seconds must be > 0, got {seconds}")
    name = pick(rng, STYLES) if style is None else style
    if name not in _STYLES:
        raise UsageError(f"style must be one of {', '.join(STYLES)}, got {name!r}")
    kind = _STYLES[name]
    n_steps, pulse, n_beats = _METERS[pick(rng, kind.meters.split())]
    quarters_bpm = rng.uniform(*kind.tempo_bpm)
    grid = Grid(15 / quarters_bpm, kind.swung, 0.0 if pulse == 6 else rng.uniform(*kind.swing))
    feel = pick(rng, kind.feels.split("|"))
    root, minor, n_bars = int(rng.integers(12)), feel.endswith("minor"), ceil(seconds / (n_steps * grid.step_s))
    bars = _bars(rng, kind, feel, n_bars=n_bars, n_steps=n_steps, pulse=pulse, root=root)
    seats = _band(rng, kind)
    active = _arrangement(rng, [seat.role for seat in seats], bars)
    scales = key_scale(root, minor, pentatonic=False), key_scale(root, minor, pentatonic=rng.random() < kind.pentatonic)
    played = _play(rng, seats, bars, active, scales)
    stops = [bar.start for bar in bars if bar.left == 0 and rng.random() < 0.06]
    parts = []
    for seat, hits in zip(seats, played, strict=True):
        kept = hits if seat.role in ("voice", "backing") else _stopped(hits, stops, n_steps, pulse)
        notes = _notes(rng, kept, grid, seconds=seconds, role=seat.role, human_s=kind.human_s, bars=bars)
        if notes:
            parts.append(Part(seat.role, notes))
    return Score(name, quarters_bpm * (2 if pulse == 6 else 1), n_beats, root, minor, seconds, tuple(parts))


def _bars(rng: Generator, kind: _Style, feel: str, *, n_bars: int, n_steps: int, pulse: int, root: int) -> list[Bar]:
    """Lay out a form and its chords, and take this many bars from it; a form that's too short goes round again."""
    words = pick(rng, _FORMS[pick(rng, kind.forms.split())]).split()
    form = [(section, int(length)) for section, length in zip(words[::2], words[1::2], strict=True)]
    stretch = pick(rng, (1, 1, 2, 4) if kind.human_s == 0 or "drone" in feel else (1, 1, 1, 1, 1, 2))
    chords = {section: progression(rng, feel, root, kind.colour) for section in _PRESENCE}
    if "drop" in dict(form):  # what leads to a drop has its chords
        chords |= dict.fromkeys(("build", "breakdown"), chords["drop"])
    if rng.random() < 0.5:
        chords |= dict.fromkeys(("intro", "solo", "outro"), chords["verse"])
    places = [(section, i, length - 1 - i) for section, length in form for i in range(length)]
    begin = int(rng.integers(0, max(0, len(places) - n_bars) + 1))
    places = (places * ceil((begin + n_bars) / len(places)))[begin : begin + n_bars]
    return [
        Bar(i * n_steps, n_steps, pulse, section, index, left, chords[section][index // stretch % len(chords[section])])
        for i, (section, index, left) in enumerate(places)
    ]


def _band(rng: Generator, kind: _Style) -> list[_Seat]:
    """Choose who plays, and how."""
    seats = []
    for line in filter(str.strip, kind.seats.replace("\n", ";").split(";")):
        role, chance, *modes = line.replace(":", " ").split()
        if rng.random() < float(chance):
            seats.append(_Seat(role, tuple(modes) if role == "percussion" else (pick(rng, modes),)))
    return seats


def _arrangement(rng: Generator, roles: Sequence[str], bars: Sequence[Bar]) -> NDArray[Any]:
    """Return who plays when [shape=(part, bar)]: by the habits of sections, then with breaks, solos and surprises."""
    active = np.zeros((len(roles), len(bars)), bool)
    habits: dict[tuple[int, str], bool] = {}
    begins = [i for i, bar in enumerate(bars) if i == 0 or bar.index == 0]
    for begin, end in zip(begins, [*begins[1:], len(bars)], strict=True):
        section = bars[begin].section
        for part, role in enumerate(roles):
            chance = _PRESENCE[section][list(ROLES).index(role)] / 10
            if (part, section) not in habits or rng.random() < 0.2:
                habits[part, section] = bool(rng.random() < chance)
            if habits[part, section]:
                gradual = section in ("intro", "build", "breakdown")
                late = pick(rng, (0, 2, 4, 8) if gradual else (0, 0, 0, 0, 0, 0, 0, 4))
                early = pick(rng, (0, 0, 2, 4)) if section == "outro" else 0
                active[part, min(begin + late, end - 1) : max(end - early, begin + 1)] = True
    stems = np.array([ROLES[role] for role in roles])
    surprise = rng.uniform(0.1, 0.35)
    for begin in range(0, len(bars), 4):
        if rng.random() < surprise:
            block = slice(begin, begin + pick(rng, (1, 2, 4, 4, 4)))
            active[:, block] = _surprise(rng, active[:, begin], stems)[:, None]
    # Somebody always plays.
    fallback = int(rng.integers(len(roles)))
    active[fallback] |= ~active.any(axis=0)
    return active


def _surprise(rng: Generator, active: NDArray[Any], stems: NDArray[Any]) -> NDArray[Any]:
    """Return another choice of parts: one alone, one stem alone, all but one stem, or any stems."""
    names = sorted(set(stems.tolist()))
    playing: NDArray[Any] = np.arange(len(stems)) == rng.integers(len(stems))
    how = pick(rng, ("part", "stem", "without", "without", "any"))
    if how == "without":
        playing = active & (stems != pick(rng, names))
    elif how != "part":
        chosen = [pick(rng, names)] if how == "stem" else [name for name in names if rng.random() < 0.5]
        playing = np.isin(stems, chosen) & (active | (rng.random(len(stems)) < 0.6))
    return playing


def _play(
    rng: Generator, seats: Sequence[_Seat], bars: Sequence[Bar], active: NDArray[Any], scales: Sequence[tuple[int, ...]]
) -> list[list[Hit]]:
    """Return the notes of each part on the grid, where it's active; scales are the key's and melodies'."""
    key, scale = scales
    family = next((seat.modes[0] for seat in seats if seat.role == "drums"), "pop")
    kick = kick_patterns(rng, bars, family)
    low = pick(rng, (48, 52, 57, 57))
    sung: list[Hit] = []
    played = []
    for seat, plays in zip(seats, active, strict=True):
        own = [bar for bar, playing in zip(bars, plays, strict=True) if playing]
        role, mode = seat.role, seat.modes[0]
        if role == "drums":
            hits = drum(rng, own, family, kick)
        elif role == "percussion":
            hits = shake(rng, own, seat.modes)
        elif role == "bass":
            hits = bass_line(rng, own, mode, kick)
        elif role == "voice":
            # Also where it rests, for those who harmonise with it.
            sung = melody(rng, bars, scale, replace(TUNES[mode], low=low, high=low + 19))
            hits = [hit for hit in sung if plays[int(hit.step) // bars[0].n_steps]]
        elif mode == "thirds" and sung:
            hits = harmonised(sung, own, key, pick(rng, _SECOND_VOICES))
        elif mode == "answer":
            hits = melody(rng, own, scale, replace(TUNES["fanfare"], low=55, high=76))
        elif mode in TUNES:
            hits = melody(rng, own, scale, TUNES[mode])
        elif mode in ("hold", "oohs", "thirds"):
            hits = hold(rng, own, role)
        elif mode in ("broken", "picked", "machine"):
            hits = arpeggiate(rng, own, role, mode)
        else:
            hits = accompany(rng, own, role, mode)
        played.append(hits)
    return played


def _stopped(hits: Sequence[Hit], stops: Sequence[int], n_steps: int, pulse: int) -> list[Hit]:
    """Return what's left if all stop after the first beat of some bars."""
    kept = []
    for hit in hits:
        until = int(hit.step) // n_steps * n_steps + pulse
        if until - pulse not in stops:
            kept.append(hit)
        elif hit.step < until:
            kept.append(hit._replace(length=min(hit.length, until - hit.step)))
    return kept


def _notes(
    rng: Generator, hits: Sequence[Hit], grid: Grid, *, seconds: float, role: str, human_s: float, bars: Sequence[Bar]
) -> tuple[Note, ...]:
    """Play from the grid: with the timing of a player, one note at a time where the role says so, until the end."""
    if not hits:
        return ()
    step, length, pitch, velocity, late_s = np.array(hits).T
    deviation_s = max(human_s * _LOOSENESS.get(role, 1.0), _SINGER_S if role in ("voice", "backing") else 0.0)
    spread = np.clip(rng.standard_normal(len(step)), -2.5, 2.5)
    behind_s = rng.uniform(-0.5, 1.0) * deviation_s
    start = np.maximum(grid.seconds(step) + late_s + behind_s + deviation_s * spread, 0.0)
    end = np.minimum(np.maximum(grid.seconds(step + length), start + 0.03), seconds)
    loudness = np.array([_LOUDNESS.get(bar.section, 1.0) for bar in bars])[(step // bars[0].n_steps).astype(int)]
    velocity = velocity * loudness * (1 + (0.07 if human_s else 0.03) * rng.standard_normal(len(step)))
    velocity = np.clip(velocity, 0.08, 1.0).round(3)
    # A note ends where the next one begins: that of any pitch, or of its own.
    voice = np.zeros_like(pitch) if role in ("bass", "voice", "lead") else pitch
    order = np.lexsort((start, voice))
    follows = np.where(np.diff(voice[order]) == 0, start[order][1:], np.inf)
    end[order[:-1]] = np.minimum(end[order[:-1]], follows)
    kept = [i for i in np.argsort(start, kind="stable").tolist() if end[i] - start[i] > 0.015]
    rows = zip(start.tolist(), (end - start).tolist(), pitch.astype(int).tolist(), velocity.tolist(), strict=True)
    notes = [Note(*row) for row in rows]
    return tuple(notes[i] for i in kept)
