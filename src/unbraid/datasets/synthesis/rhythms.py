"""When things sound: the grid with its swing, drums, percussion, and how chords are struck, strummed and broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from unbraid.datasets.synthesis.harmony import Bar, Hit, fit, guitar_shape, pick, spans, struck, voicing

__all__ = [
    "CENTRES",
    "GROOVES",
    "PERCUSSION",
    "Grid",
    "accompany",
    "arpeggiate",
    "drum",
    "hold",
    "kick_patterns",
    "shake",
]

# Sixteenths of one bar or of two: kicks, snares (1 to 3 are ghost notes), hats (o is open, p the pedal); a digit is
# the velocity in ninths. Any kick goes with any snare and any hat.
GROOVES = {
    "rock": (
        "9.......9....... 9.......9.9..... 9.9.....9....... 9.....9.9....... 9..9....9.9...9. 9.9...9...9.9...",
        "....9.......9... ....9..2....9... ....9..2.2..9..2 ....9.......9.2.",
        "8.6.8.6.8.6.8.6. 8...8...8...8... 8.6.8.6.8.6.8.o. o.o.o.o.o.o.o.o. 8.5.7.5.8.5.7.5o",
    ),
    "pop": (
        "9.......9....... 9.....9.9....... 9..9....9..9.... 9.........9..... 9......99.9..... 9...9...9...9...",
        "....9.......9... ....9.......9... ....9..2.2..9... ....9......29..3",
        "8.6.8.6.8.6.8.6. 8465846584658465 ..8...8...8...8. 8.6.8.6.8.6.8.6o 8.468.468.468.46",
    ),
    "soft": (
        "9............... 9.......7....... 9.....6.8....... 8.........7.....",
        "........7....... ....6.......6... ............7... ................ ....6.....2.6...",
        "5.4.5.4.5.4.5.4. 5...5...5...5... ................ 6.3.5.3.6.3.5.3.",
    ),
    "funk": (
        "9..9......9..9.. 9.9....9..9..... 9.....9..9.9.... 9..9..9...9....9 9.9.......99..9.",
        "....9..2.2..9..2 ....9..3.2.29..3 ....9.2..2..9.2. ....9..2....29.2 ...29..2.2.29..2",
        "8464846484648464 8.6.8.6o8.6.8.6. 8658.5868658.58o 84648464846484o. 8.858.858.858.8o",
    ),
    "four": (
        "9...9...9...9... 9...9...9...9... 9...9...9...9..6 9...9...9...9.6.",
        "....9.......9... ................ ....9.......9..3 ....9..2.2..9...",
        "..o...o...o...o. ..8...8...8...8. 4.8.4.8.4.8.4.8. 648664866486648o ..o.4.o...o.4.o4 8484848484848484",
    ),
    "breaks": (
        "9.........9..... 9.9.......9..... 9.......9.9..... 9.9.......99.... 9.....9...9..9..",
        "....9.......9... ....9..3.3..9... ....9..2.2.39..3 ....9..3.3....9.....9..3.3..9... ....9.....3.9.3.",
        "8.6.8.6.8.6.8.6. 8464846484648464 8.8.8o8.8.8.8.8. 8.668.668.668.66",
    ),
    "boombap": (
        "9.......9.9..... 9.9....9..9..... 9......9.99..... 9..9......9..9.. 9.9.......9...9.",
        "....9.......9... ....9.......9..2 ....9..2....9... ....9.....2.9...",
        "8.6.8.6.8.6.8.6. 8.668.6.8.668.6. 8...8...8...8... 8.6.8.6o8.6.8.6.",
    ),
    "trap": (
        "9.......9....... 9.....9......... 9..9......9..... 9.........9..9.. 9......9..9.....9..9......9...9. "
        "9.....9.....9...",
        "........9....... ........9....... ........9......3 ........9.....9.",
        "8.6.8.6.8.6.8.6. 8686868686868686 8.668.668.668.66 8..6..8.8..6..8.",
    ),
    "reggae": (
        "........9....... 9.......9....... 9...9...9...9... ......6.9.......",
        "........9....... ........9.....3. ....3...9..3.... ........9.......2..2..2.9.......",
        "..7...7...7...7. 7.5.7.5.7.5.7.5. 7.577.577.577.57 4.7.4.7.4.7.4.7o",
    ),
    "swing": (
        "4...4...4...4... ................ 6.............5. ......5......... 5.........5.....",
        "................ ......3.......2. ..3.......4..... ......4...3..... ............4...",
        "8...9.6.8...9.6. 8...9.6.8...9.6. 8.6.9.6.8.6.9.6. ....p.......p...",
    ),
    "latin": (
        "9.....9.9.....9. 9..79..79..79..7 9.....7.9.....7. ......7.....7...",
        "9..9..9...9..9.. ..9.9..9.9..9... 9...9.9...9.9... ............7... ....7.......7.7.",
        "8.6.8.6.8.6.8.6. 8464846484648464 6.8.6.8.6.8.6.8. 8..6..8...6..8..",
    ),
    "metal": (
        "9.9.9.9.9.9.9.9. 9999999999999999 9.999.999.999.99 9..9..9..9..9.9. 9.9999..9.9999.. 9.99....9.99....",
        "....9.......9... ........9....... ..9...9...9...9. ....9.......9... 9.......9.......",
        "9...9...9...9... 8.8.8.8.8.8.8.8. o...o...o...o... 9.......9.......",
    ),
    "train": (
        "9.......9....... 9...9...9...9... 9.....5.9.......",
        "3363336333633363 ..6...6...6...6. ....8.......8... ..73..73..73..73 ....8.......8.4.",
        "................ 6.4.6.4.6.4.6.4. ..p...p...p...p. 7...7...7...7...",
    ),
    "three": (
        "9........... 9.........6. 9.......7... 9.....6.....",
        "....7...7... ........8... ....8....... ....6..2.6.. ............",
        "7...6...6... 7.5.7.5.7.5. ....6...6... 8...7.5.7... ............",
    ),
    "six": (
        "9........... 9.........7. 9...6....... 9.....9..... 9.9.......9.",
        "......9..... ......9...2. ......9.2..2 ......9.....",
        "8.6.6.8.6.6. 865665865665 8.....8..... 8.6.6.8.6.o.",
    ),
}  # fmt: skip

# General MIDI's hand drums: layers, joined by +, of a number and its sixteenths, by a colon; a space parts the choices.
PERCUSSION = {
    "shaker": "82:7465746574657465 82:7.5.7.5.7.5.7.5. 70:3.7.3.7.3.7.3.7. 69:7357735773577357 82:..7...7...7...7.",
    "tambourine": "54:....9.......9... 54:8.5.8.5.8.5.8.5. 54:6485648564856485 54:..8...8...8...8.",
    "congas": "62:5..7..5.5..7..5.+63:......8.......88+64:...........88... "
        "62:..7...7...7...7.+63:....8.......8...+64:7......7..8..... 63:8..5..8...8..5..+64:....7.......7.7.",
    "bongos": "60:8.5.6.5.8.5.6.5.+61:......7.......7. 60:8..8..8..8..8.8.+61:....7.......7...",
    "cowbell": "56:8...8...8...8... 56:8...8.8.8...8.8. 56:8..8..8...8.8...",
    "clave": "75:8..8..8.....8.8. 75:....8.8...8..8..8..8..8.....8... 75:8..8...8..8.8...",
    "claps": "39:....9.......9... 39:....9..4....9..4 39:........9.......",
    "wood": "76:8...5...8...5...+77:..6...6...6...6. 76:8..8..8..8..8... 67:8...8.....8.....+68:..7...7.7...7.7.",
    "timbales": "65:8...8.8...8.8...+66:..6......6....6. 65:8.7.8.788.7.8.7.+66:....6.......6...",
    "triangle": "81:8...............8.......8....... 80:5.5.5.5.5.5.5.5.+81:..8...8...8...8.",
}  # fmt: skip

# Sixteenths at which chords are struck; the dash holds.
_STRIKES = {
    "block": "9---7---8---7--- 9-------8------- 9---------7----- 9-----8---7----- 9-6-7-6-8-6-7-6- 9--7--8-9--7--8-",
    "stabs": "8..8..8..8..8.8. ..8...8...8...8. 8.....8...8..... 9..9......9..... ...8...8...8...8 "
        "8..8..8.........8..8..8...8...8.",
    "comp": "8.....6---...... ......8---....6. ..6...8-....7--- 8---......7-.... ....7-....6---.. ............8--- "
        "..8---....6-..7-",
    "bubble": "..8...8...8...8. 4.8.4.8.4.8.4.8. ..86..86..86..86 ....8.......8...",
    "swell": "9--------------- 9-------9-------",
    "pulse": "8.8.8.8.8.8.8.8. 8.68.68.8.68.68. 8686868686868686 ..8...8...8...8. 8..8..8.8..8..8.",
    "strum": "9---7-6---676-76 9-6-8-6-9-6-8-6- 9---8-6---6-8-6- 9---8---9---8-65 9-------8---7-6- 9-657-659-657-65",
    "skank": "....8.......8... ..8...8...8...8. ....86......86.. ..8...8...8...86",
    "scratch": "8xx6xx8x6xx8xx6x x.8xx.8xx.8xx.8x 8..x.x8..x.x8.6x xx8xxx8xxx8xx68x",
    "power": "9-------9------- 8888888888888888 9.9.9.9.9.9.9.9. 9-899-899-899-89 9--9--9---9-9-9- 9--------------- "
        "9..9..9.....9.9. 8.7.7.7.8.7.7-9-",
    "montuno": "8.8..8.8.8.8..8. 8..8..8.8..8.8.. .8.8.8.88.8.8.8.",
    "six": "9-----7----- 9---6-7---6- 9-5-5-8-5-5- 9----------- ..7-..7...7-",
    "three": "9---7---7--- ....8---8--- 9-----6-7--- 9----------- 9-..7-6-7-6-",
}  # fmt: skip

# Where the chords of each role lie, and how many notes they have.
CENTRES = {
    "piano": (62, 4), "guitar": (57, 4), "organ": (63, 4), "pad": (60, 4), "strings": (66, 4), "brass": (62, 3),
    "backing": (62, 3),
}  # fmt: skip

_TOMS = (50, 48, 47, 45, 43, 41)


@dataclass(frozen=True)
class Grid:
    """Where sixteenths lie in time.

    step_s : seconds of one, without swing
    swung : sixteenths in a pair that swings: 4 for eighths, 2 for sixteenths
    swing : 0 for halves of a pair that are equal, 1 for the first to last twice as long
    """

    step_s: float
    swung: int
    swing: float

    def seconds(self, steps: ArrayLike) -> NDArray[np.float64]:
        """Seconds from the beginning of the song at which steps, whole or not, sound."""
        pairs, within = np.divmod(np.asarray(steps, np.float64) / self.swung, 1)
        warped = np.interp(within, [0.0, 0.5, 1.0], [0.0, 0.5 + self.swing / 6, 1.0])
        return (pairs + warped) * (self.swung * self.step_s)


def _family(bar: Bar, family: str) -> str:
    """Return the patterns that fit the meter."""
    return {(12, 6): "six", (12, 4): "three"}.get((bar.n_steps, bar.pulse), family)


def kick_patterns(rng: Generator, bars: Sequence[Bar], family: str) -> dict[int, str]:
    """Choose a kick pattern for each section, to be shared by drums and bass: by the start of the bar."""
    chosen: dict[str, str] = {}
    for bar in bars:
        if bar.section not in chosen:
            pattern = pick(rng, GROOVES[_family(bar, family)][0].split())
            if family != "four" and rng.random() < 0.4:  # one of our own
                steps = list(pattern)
                steps[int(rng.integers(1, len(steps)))] = pick(rng, ".79")
                pattern = "".join(steps)
            chosen[bar.section] = pattern
    return {bar.start: fit(chosen[bar.section], bar.n_steps, bar.index) for bar in bars}


def drum(rng: Generator, bars: Sequence[Bar], family: str, kick: dict[int, str]) -> list[Hit]:
    """Play the kit: grooves by section, ghost notes, fills at the ends of phrases, crashes where sections begin."""
    snare = pick(
        rng,
        {
            "trap": (38, 39, 40),
            "four": (39, 38, 40),
            "soft": (37, 38, 37),
            "latin": (37, 37, 38),
            "reggae": (37, 38),
        }.get(family, (38, 38, 40)),
    )
    kick_pitch, crash_pitch = pick(rng, (36, 36, 36, 35)), pick(rng, (49, 49, 57))
    fills, crashes, ghosts = rng.uniform(0.2, 0.9), rng.uniform(0.3, 1.0), rng.uniform(0, 0.12)
    metals = {"swing": (51, 51, 59), "metal": (42, 51, 49, 52)}.get(family, (42, 42, 42, 51))
    sections: dict[str, tuple[str, str, int, float]] = {}
    hits: list[Hit] = []
    for bar in bars:
        if bar.section not in sections:
            _, snares, hats = GROOVES[_family(bar, family)]
            feel = pick(rng, (1.0,) * 8 + (0.5, 2.0)) if bar.n_steps == 16 and family not in ("four", "swing") else 1.0
            metal = pick(rng, (42, 51, 46, 49) if bar.section == "chorus" and family in ("rock", "metal") else metals)
            sections[bar.section] = pick(rng, snares.split()), pick(rng, hats.split()), metal, feel
        snares_at, hats_at, metal, feel = sections[bar.section]
        if bar.section == "build":
            hits += _build(bar, snare, kick_pitch)
            continue
        phrase_ends = bar.left == 0 or bar.index % 8 == 7 or (bar.index % 4 == 3 and rng.random() < 0.4)
        length = pick(rng, (bar.n_steps, 8, 8, 4, 4, 2)) if phrase_ends and rng.random() < fills else 0
        until = bar.n_steps - length
        for pattern, pitch in (
            (kick[bar.start], kick_pitch),
            (_at_feel(snares_at, feel, bar), snare),
            (fit(hats_at, bar.n_steps, bar.index), metal),
        ):
            for step, char in enumerate(pattern[:until]):
                if char != ".":
                    struck_pitch = {"o": 46, "p": 44}.get(char, pitch)
                    hits.append(Hit(bar.start + step, 1, struck_pitch, int({"o": "8", "p": "6"}.get(char, char)) / 9))
        if family == "trap" and rng.random() < 0.5 and until > 4:
            hits += _roll(rng, bar, until)
        if family not in ("four", "trap", "swing"):
            hits += [
                Hit(bar.start + step, 1, 38, 0.22)
                for step in np.flatnonzero(rng.random(until) < ghosts).tolist()
                if step % 2
            ]
        if length:
            hits += _fill(rng, bar, until, snare, kick_pitch)
        if bar.index == 0 and rng.random() < crashes:
            hits.append(Hit(bar.start, 4, crash_pitch, 0.95))
    return hits


def _at_feel(pattern: str, feel: float, bar: Bar) -> str:
    """Return a bar of a pattern: at half the time it takes two bars, in double time half a bar."""
    if feel == 0.5:
        pattern = "".join(char + "." for char in pattern)
    elif feel == 2.0:
        pattern = pattern[::2] * 2
    return fit(pattern, bar.n_steps, bar.index)


def _roll(rng: Generator, bar: Bar, until: int) -> list[Hit]:
    """Roll on the closed hat, in thirty-seconds or triplets."""
    begin = 2 * int(rng.integers(0, until // 2 - 1))
    n_hits, rising = pick(rng, ((8, 4), (4, 2), (6, 4), (3, 2))), pick(rng, (-0.3, 0.0, 0.3))
    return [
        Hit(bar.start + begin + n_hits[1] * i / n_hits[0], 0.5, 42, 0.65 + rising * (i / n_hits[0] - 0.5))
        for i in range(n_hits[0])
    ]


def _build(bar: Bar, snare: int, kick: int) -> list[Hit]:
    """Play quarters, then eighths, then sixteenths, louder and louder, and nothing on the last beat."""
    total = bar.index + bar.left + 1
    every = 4 if bar.index < total / 2 else 2 if bar.left >= max(1, total // 4) else 1
    until = bar.n_steps - (bar.pulse if bar.left == 0 else 0)
    hits = []
    for step in range(0, until, every):
        loud = 0.4 + 0.55 * (bar.index + step / bar.n_steps) / total
        hits.append(Hit(bar.start + step, 1, snare, loud))
        if step % 4 == 0:
            hits.append(Hit(bar.start + step, 1, kick, 0.9))
    return hits


def _fill(rng: Generator, bar: Bar, begin: int, snare: int, kick: int) -> list[Hit]:
    """Fill the bar's end: down the toms, a roll on the snare, or here and there."""
    kind = pick(rng, ("toms", "toms", "snare", "mixed", "sparse", "triplets"))
    every = {"sparse": 2.0, "triplets": 4 / 3}.get(kind, 1.0)
    n_hits = max(1, round((bar.n_steps - begin) / every))
    hits = []
    for i in range(n_hits):
        share = i / n_hits
        pitch = _TOMS[int(share * len(_TOMS))]
        if kind == "snare" or (kind in ("mixed", "sparse") and rng.random() < 0.6):
            pitch = snare
        if kind != "mixed" or i == 0 or rng.random() < 0.75:
            hits.append(Hit(bar.start + begin + every * i, 1, pitch, 0.55 + 0.4 * share))
        if (begin + every * i) % 4 == 0:
            hits.append(Hit(bar.start + begin + every * i, 1, kick, 0.8))
    return hits


def shake(rng: Generator, bars: Sequence[Bar], instruments: Sequence[str]) -> list[Hit]:
    """Play one to three percussion instruments, each with a pattern that stays."""
    names = rng.permutation(np.array(instruments))[: int(rng.integers(1, 4))].tolist()
    hits = []
    for name in names:
        layers = [layer.split(":") for layer in pick(rng, PERCUSSION[name].split()).split("+")]
        gain = rng.uniform(0.75, 1.0) / 9
        for bar in bars:
            for pitch, pattern in layers:
                line = fit(pattern, bar.n_steps, bar.index)
                hits += [Hit(bar.start + step, 1, int(pitch), gain * int(char)) for step, _, char in struck(line)]
    return hits


def hold(rng: Generator, bars: Sequence[Bar], role: str) -> list[Hit]:
    """Hold chords, in four voices or so, each led to what's nearest."""
    centre, n_voices = CENTRES[role]
    n_voices += int(rng.integers(-1, 2))
    centre += int(rng.integers(-4, 5))
    spread, longest = bool(rng.random() < 0.4), pick(rng, (1, 2, 4))
    hits: list[Hit] = []
    before: tuple[int, ...] = ()
    for start, length, chord in spans(bars, longest=longest):
        before = voicing(chord, before, n_voices=n_voices, centre=centre, spread=spread)
        hits += [Hit(start, length - 0.1, pitch, 0.7) for pitch in before]
    return hits


def accompany(rng: Generator, bars: Sequence[Bar], role: str, mode: str) -> list[Hit]:
    """Strike chords in the rhythm of a mode: strummed by guitars, with a left hand by pianos."""
    centre, n_voices = CENTRES[role]
    centre += int(rng.integers(-4, 5))
    fret, spread_s = int(rng.integers(0, 8)), rng.uniform(0.003, 0.012)
    short = mode in ("stabs", "skank", "bubble", "scratch") and rng.random() < 0.8
    left_hand = role == "piano" and mode in ("block", "comp") and rng.random() < 0.7
    lines: dict[str, str] = {}
    hits: list[Hit] = []
    before: tuple[int, ...] = ()
    for bar in bars:
        if bar.section not in lines:
            fitting = mode if _family(bar, mode) == "three" and rng.random() < 0.5 else _family(bar, mode)
            lines[bar.section] = pick(rng, _STRIKES[fitting].split())
        for i, (step, length, how) in enumerate(struck(fit(lines[bar.section], bar.n_steps, bar.index))):
            chord = bar.chord_at(step)
            if mode == "power":
                root = (chord.root - 40) % 12 + 40
                pitches: tuple[int, ...] = (root, root + 7, root + 12) if length > 1 else (root, root + 7)
            elif role == "guitar":
                pitches = guitar_shape(chord, fret)
                pitches = pitches[-3:] if short else pitches
            else:
                before = voicing(chord, before, n_voices=n_voices, centre=centre)
                pitches = (before[0], before[0] + 12) if mode == "montuno" and i % 2 else before
            loud = 0.35 if how == "x" else int(how) / 10
            sounds = 0.3 if how == "x" else min(length, 1) * 0.7 if short else length - 0.1
            order = pitches[::-1] if role == "guitar" and step % 4 == 2 else pitches  # upstrokes
            strum = spread_s if role == "guitar" and mode != "power" else 0.0
            hits += [Hit(bar.start + step, sounds, pitch, loud, strum * k) for k, pitch in enumerate(order)]
        if left_hand:
            for k, chord in enumerate(bar.chords):
                length = bar.n_steps // len(bar.chords)
                hits.append(Hit(bar.start + k * length, length - 0.2, (chord.root - 34) % 12 + 34, 0.65))
    return hits


def arpeggiate(rng: Generator, bars: Sequence[Bar], role: str, mode: str) -> list[Hit]:
    """Break chords: a piano or guitar with its bass on the pulse ("broken", "picked"), or a machine ("machine")."""
    machine = mode == "machine"
    low = int(rng.integers(52, 66)) if machine else 50
    every = pick(rng, (1.0, 1.0, 2.0, 4 / 3)) if machine else pick(rng, (2.0, 2.0, 1.0))
    n_octaves, gate = int(rng.integers(1, 4)) if machine else 1, rng.uniform(0.3, 1.0) if machine else 1.8
    order = pick(rng, ("up", "down", "both", "made up"))
    made_up = rng.integers(0, 12, 8).tolist()
    rests = (rng.random(16) < pick(rng, (0.0, 0.0, 0.2, 0.35))) if machine else np.zeros(16, bool)
    fret = int(rng.integers(0, 6))
    hits: list[Hit] = []
    before: tuple[int, ...] = ()
    for bar in bars:
        for i in range(round(bar.n_steps / every)):
            step = i * every
            chord = bar.chord_at(step)
            if role == "guitar":
                rungs = list(guitar_shape(chord, fret))[1:]
            else:
                before = voicing(chord, before, n_voices=4 if len(chord.tones) > 3 else 3, centre=low + 6)
                rungs = [pitch + 12 * octave for octave in range(n_octaves) for pitch in before]
            if order in ("both", "down"):
                rungs = rungs[::-1] if order == "down" else rungs + rungs[-2:0:-1]
            pitch = rungs[(made_up[i % 8] if order == "made up" else i) % len(rungs)]
            if not rests[i % 16]:
                hits.append(Hit(bar.start + step, every * gate, pitch, 0.85 if step % bar.pulse == 0 else 0.65))
            if not machine and step % (2 * bar.pulse) == 0:
                bass = (chord.root - 40) % 12 + 40
                hits.append(Hit(bar.start + step, 2 * bar.pulse - 0.3, bass, 0.75))
    return hits
