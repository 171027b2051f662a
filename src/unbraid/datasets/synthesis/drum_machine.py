"""Drum kits, electronic and almost acoustic: each call draws another."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from unbraid.datasets.synthesis.drum_sounds import Bars, Drum, Head, Layer, Rattle, circuit_metal, drawn_metal
from unbraid.datasets.synthesis.patches import chance, log_between
from unbraid.datasets.synthesis.players import add_at, loudness
from unbraid.datasets.synthesis.score import Note, Player
from unbraid.datatypes import FloatArray

__all__ = ["drum_machine"]

_FIRST, _LAST = 35, 82
_N_VERSIONS = 3
_VELOCITY_STEPS = 4
_CHOKE_S = 0.008

# What ends what: the foot the open hat, the hand triangle and cuica, and each bass drum and whistle the one before it.
_CHOKED_BY = {46: (42, 44, 46), 81: (80, 81), 79: (78, 79), 72: (71, 72), 35: (35, 36), 36: (35, 36)}


def drum_machine(rng: Generator) -> Player:
    """Draw a kit that answers General MIDI's drums 35 to 82; other numbers play the nearest of these.

    The length of a note does not matter: what is struck rings.  A drum alone at full velocity peaks at 0.3 to 0.9.
    """
    acoustic = chance(0.4, rng)
    width = float(rng.uniform(0, 0.8)) * float(rng.choice([-1, 1]))
    drums: dict[int, Drum] = {}
    drums |= _kicks(acoustic, rng)
    drums |= _snares(acoustic, rng)
    drums |= _hats(acoustic, width, rng)
    drums |= _toms(acoustic, width, rng)
    drums |= _cymbals(width, rng)
    drums |= _skins(width, rng)
    drums |= _woods(width, rng)
    drums |= _shaken(width, rng)
    drums |= _whistles(width, rng)
    return _Kit(tuple(sorted(drums.items())), softness=float(rng.uniform(1, 1.7)))


@dataclass(frozen=True)
class _Kit:
    """Drums by number; every drum has a few renderings of a hit that are drawn from at random."""

    drums: tuple[tuple[int, Drum], ...]
    softness: float

    def __call__(self, notes: tuple[Note, ...], n_samples: int, sample_rate: int, rng: Generator) -> FloatArray:
        """Play: (2, n_samples)."""
        samples = np.zeros((2, n_samples), np.float32)
        drums = dict(self.drums)
        hits: dict[tuple[int, int, int], FloatArray] = {}
        numbers = [int(np.clip(note.pitch, _FIRST, _LAST)) for note in notes]
        ends = {
            number: sorted(note.start_s for note, other in zip(notes, numbers, strict=True) if other in choking)
            for number, choking in _CHOKED_BY.items()
        }
        versions = rng.integers(_N_VERSIONS, size=len(notes))
        for i, note in enumerate(notes):
            number = numbers[i]
            step = max(1, round(note.velocity * _VELOCITY_STEPS))
            key = (number, step, int(versions[i]))
            if key not in hits:
                hits[key] = drums[number](step / _VELOCITY_STEPS, sample_rate, rng)
            hit = hits[key]
            if number in _CHOKED_BY:
                later = np.searchsorted(ends[number], note.start_s + 0.001)
                if later < len(ends[number]):
                    hit = _choked(hit, round((ends[number][later] - note.start_s) * sample_rate), sample_rate)
            add_at(samples, hit * np.float32(loudness(note.velocity, self.softness)), round(note.start_s * sample_rate))
        return samples


def _choked(hit: FloatArray, n_free: int, sample_rate: int) -> FloatArray:
    """Cut a hit short, in 8 ms."""
    n_fade = max(1, round(_CHOKE_S * sample_rate))
    cut = hit[:, : n_free + n_fade].copy()
    dying = cut[:, n_free:]
    dying *= np.linspace(1, 0, n_fade, dtype=np.float32)[: dying.shape[1]]
    return cut


def _click(gain: float, rng: Generator) -> Rattle:
    return Rattle(float(rng.uniform(800, 2500)), log_between(3000, 10000, rng), log_between(0.0008, 0.004, rng), gain)


def _kicks(acoustic: bool, rng: Generator) -> dict[int, Drum]:
    hz = log_between(40, 68, rng)
    style = "acoustic" if acoustic else str(rng.choice(["long", "punch", "hard"]))
    if style == "acoustic":
        head = Head(hz * 1.1, log_between(0.06, 0.16, rng), rng.uniform(0.3, 1), rng.uniform(0.01, 0.03), 0.25)
        shell = Rattle(40, log_between(150, 500, rng), log_between(0.02, 0.06, rng), float(rng.uniform(0.1, 0.5)))
        layers: tuple[Layer, ...] = (head, shell, _click(float(rng.uniform(0.1, 0.8)), rng))
    elif style == "long":
        head = Head(hz, log_between(0.25, 0.8, rng), rng.uniform(0.5, 2), rng.uniform(0.006, 0.02))
        head = replace(head, drive=float(rng.choice([0, rng.uniform(0.5, 3)])))
        layers = (head, _click(float(rng.uniform(0, 0.4)), rng))
    else:
        head = Head(hz, log_between(0.08, 0.3, rng), rng.uniform(1.5, 3.2), rng.uniform(0.012, 0.04))
        head = replace(head, drive=float(rng.uniform(2, 8)) if style == "hard" else 0.0)
        layers = (head, _click(float(rng.uniform(0.1, 0.8)), rng))
    other = replace(head, hz=head.hz * float(rng.uniform(0.85, 1.15)), decay_s=head.decay_s * 0.8)
    return {36: Drum(layers, 0.85), 35: Drum((other, *layers[1:]), 0.85)}


def _snares(acoustic: bool, rng: Generator) -> dict[int, Drum]:
    def snare(tune: float) -> Drum:
        hz = tune * log_between(150, 240, rng)
        wires = Rattle(
            log_between(300, 2500, rng),
            log_between(6000, 15000, rng),
            log_between(0.03, 0.16, rng),
            float(rng.uniform(0.6, 2)),
            stereo=chance(0.3, rng),
        )
        if acoustic:
            head = Head(hz, log_between(0.04, 0.12, rng), 0.2, 0.01, modes=float(rng.uniform(0.4, 1.2)), gain=0.7)
            return Drum((head, wires, _click(0.8, rng)), 0.75)
        head = Head(hz, log_between(0.03, 0.1, rng), float(rng.uniform(0, 1.2)), 0.012, gain=0.6)
        second = Head(hz * float(rng.uniform(1.6, 1.9)), log_between(0.02, 0.06, rng), 0.1, gain=0.4)
        return Drum((head, second, wires), 0.75)

    stick_hz = log_between(1300, 2200, rng)
    rim = Bars((stick_hz * 0.28, stick_hz, stick_hz * 1.57), (0.5, 1.0, 0.6), (0.015, 0.012, 0.006))
    gaps_s = np.cumsum(rng.uniform(0.007, 0.013, int(rng.integers(2, 5))))
    clap = Rattle(
        log_between(600, 1100, rng),
        log_between(1800, 6000, rng),
        log_between(0.04, 0.15, rng),
        delays_s=(0.0, *(float(gap_s) for gap_s in gaps_s)),
        early_decay_s=0.004,
        stereo=chance(0.6, rng),
    )
    return {38: snare(1.0), 40: snare(1.12), 37: Drum((rim, _click(0.3, rng)), 0.6), 39: Drum((clap,), 0.65)}


def _hats(acoustic: bool, width: float, rng: Generator) -> dict[int, Drum]:
    low_hz = log_between(5500, 8500, rng)
    hiss, metal = (1.0, float(rng.uniform(0.1, 0.6))) if acoustic or chance(0.5, rng) else (0.3, 1.0)
    tune = float(rng.uniform(0.8, 1.3))
    plate = drawn_metal(60, low_hz, 14000, 1.0, metal, rng)
    high_hz = log_between(11000, 19000, rng)

    def hat(decay_s: float, rise_s: float, level: float) -> Drum:
        noise = Rattle(low_hz, high_hz, decay_s, hiss, rise_s=rise_s)
        ringing = replace(plate, decays_s=tuple(decay_s * decay for decay in plate.decays_s))
        if not acoustic:
            ringing = circuit_metal(low_hz, 13500, tune, decay_s, metal)
        return Drum((noise, ringing), level, 0.6 * width)

    closed_s = log_between(0.012, 0.05, rng)
    return {
        42: hat(closed_s, 0.0005, 0.45),
        44: hat(closed_s * 0.8, 0.003, 0.35),
        46: hat(log_between(0.12, 0.45, rng), 0.001, 0.45),
    }


def _toms(acoustic: bool, width: float, rng: Generator) -> dict[int, Drum]:
    lowest_hz = log_between(65, 95, rng)
    step = float(rng.uniform(2.5, 4.5))
    head = Head(
        lowest_hz,
        log_between(0.12, 0.4, rng),
        float(rng.uniform(0.1, 0.4)) if acoustic else float(rng.uniform(0.3, 1.5)),
        log_between(0.02, 0.08, rng),
        modes=float(rng.uniform(0.3, 0.9)) if acoustic else float(rng.uniform(0, 0.2)),
    )
    stick = Rattle(400, log_between(2000, 7000, rng), 0.008, float(rng.uniform(0.1, 0.8)))
    drums = {}
    for i, number in enumerate((41, 43, 45, 47, 48, 50)):
        struck = replace(head, hz=lowest_hz * 2 ** (step * i / 12), decay_s=head.decay_s * 0.93**i)
        drums[number] = Drum((struck, stick), 0.75, width * (1 - 0.4 * i))
    return drums


def _cymbals(width: float, rng: Generator) -> dict[int, Drum]:
    def crash(decay_s: float, low_hz: float, pan: float) -> Drum:
        return Drum(
            (
                drawn_metal(110, low_hz, 12000, decay_s, 0.6, rng),
                Rattle(low_hz, 6000, 0.6 * decay_s, 0.5, stereo=True, rise_s=0.003),
                Rattle(5000, log_between(11000, 18000, rng), 0.35 * decay_s, 0.9, stereo=True, rise_s=0.001),
            ),
            0.6,
            pan,
        )

    decay_s = log_between(0.35, 0.9, rng)
    ride = drawn_metal(80, float(rng.uniform(350, 600)), 11000, log_between(0.3, 0.9, rng), 0.7, rng)
    stick = Rattle(3500, 12000, log_between(0.01, 0.04, rng), 0.7)
    bell_hz = log_between(550, 900, rng)
    bell = Bars((bell_hz, bell_hz * 1.49, bell_hz * 2.73, bell_hz * 4.3), (1, 0.7, 0.6, 0.4), (0.5, 0.4, 0.3, 0.2))
    return {
        49: crash(decay_s, 400, 0.8 * width),
        57: crash(decay_s * 0.85, 500, -0.8 * width),
        52: crash(decay_s * 0.5, 300, -width),
        55: crash(decay_s * 0.3, 900, 0.5 * width),
        51: Drum((ride, stick), 0.5, -0.6 * width),
        59: Drum((replace(ride, gain=0.8), stick), 0.5, -0.7 * width),
        53: Drum((bell, replace(ride, gain=0.3), stick), 0.5, -0.6 * width),
    }


def _skins(width: float, rng: Generator) -> dict[int, Drum]:
    """Bongos, congas, timbales."""
    low_hz = log_between(150, 210, rng)

    def skin(hz: float, decay_s: float, pan: float) -> Drum:
        head = Head(hz, decay_s, 0.15, 0.015, modes=float(rng.uniform(0.2, 0.7)))
        return Drum((head, Rattle(500, 5000, 0.006, float(rng.uniform(0.2, 0.8)))), 0.65, pan)

    return {
        60: skin(low_hz * 2.6, 0.05, -width),
        61: skin(low_hz * 1.9, 0.07, -0.8 * width),
        62: skin(low_hz * 1.35, 0.025, 0.7 * width),
        63: skin(low_hz * 1.3, 0.13, 0.7 * width),
        64: skin(low_hz, 0.17, 0.5 * width),
        65: skin(low_hz * 2.1, 0.16, -0.3 * width),
        66: skin(low_hz * 1.5, 0.2, -0.4 * width),
    }


def _woods(width: float, rng: Generator) -> dict[int, Drum]:
    """What rings at a pitch: cowbell, agogos, claves, wood blocks, triangles."""
    cow_hz = log_between(450, 620, rng)
    agogo_hz, clave_hz, block_hz = log_between(620, 800, rng), log_between(2000, 2800, rng), log_between(600, 900, rng)
    triangle_hz = log_between(1100, 1500, rng)

    def bars(hz: float, ratios: tuple[float, ...], decay_s: float, pan: float) -> Drum:
        levels = tuple(1 / (1 + 0.5 * i) for i in range(len(ratios)))
        decays_s = tuple(decay_s / (1 + 0.3 * i) for i in range(len(ratios)))
        return Drum((Bars(tuple(hz * ratio for ratio in ratios), levels, decays_s), _click(0.1, rng)), 0.55, pan)

    steel = (1.0, 2.8, 3.9, 5.4, 7.1, 8.9)
    cow = (1.0, 1.48, 3.0, 4.44, 5.0, 7.4)
    return {
        56: bars(cow_hz, cow, log_between(0.03, 0.15, rng), 0.4 * width),
        67: bars(agogo_hz * 1.5, (1.0, 2.5, 4.1), 0.15, -0.5 * width),
        68: bars(agogo_hz, (1.0, 2.5, 4.1), 0.18, -0.5 * width),
        75: bars(clave_hz, (1.0, 2.7), log_between(0.015, 0.04, rng), 0.6 * width),
        76: bars(block_hz * 1.4, (1.0, 2.6, 4.2), 0.025, -0.6 * width),
        77: bars(block_hz, (1.0, 2.6, 4.2), 0.03, -0.6 * width),
        80: bars(triangle_hz, steel, 0.05, 0.8 * width),
        81: bars(triangle_hz, steel, log_between(0.4, 1, rng), 0.8 * width),
    }


def _shaken(width: float, rng: Generator) -> dict[int, Drum]:
    """Tambourine, cabasa, maracas, shaker, guiros, vibraslap."""
    low_hz = log_between(3500, 7000, rng)

    def shaken(low: float, decay_s: float, rise_s: float, pan: float) -> Drum:
        return Drum((Rattle(low, log_between(9000, 16000, rng), decay_s, rise_s=rise_s),), 0.45, pan)

    def scraped(n_ridges: int, gap_s: float) -> Drum:
        ridges = tuple(float(gap_s * i) for i in range(n_ridges))
        return Drum((Rattle(1800, 7000, 0.01, delays_s=ridges, early_decay_s=0.006),), 0.5, 0.5 * width)

    jingles = drawn_metal(24, 4500, 13000, log_between(0.08, 0.25, rng), 1.0, rng)
    teeth = tuple(float(0.028 * i) for i in range(16))
    return {
        54: Drum((jingles, Rattle(5000, 14000, 0.06, 0.5)), 0.45, 0.6 * width),
        69: shaken(low_hz, log_between(0.02, 0.05, rng), 0.008, -0.7 * width),
        70: shaken(low_hz * 0.8, log_between(0.01, 0.03, rng), 0.005, 0.7 * width),
        82: shaken(low_hz * 0.9, log_between(0.02, 0.06, rng), 0.02, 0.6 * width),
        73: scraped(10, 0.009),
        74: scraped(32, 0.011),
        58: Drum((Rattle(2200, 5000, 0.05, delays_s=teeth, early_decay_s=0.012),), 0.5, -0.6 * width),
    }


def _whistles(width: float, rng: Generator) -> dict[int, Drum]:
    """Whistles and cuicas."""
    hz = log_between(2000, 2600, rng)

    def whistle(decay_s: float) -> Drum:
        air = Rattle(hz * 0.9, hz * 1.2, decay_s, 0.6, rise_s=0.008)
        return Drum((Head(hz, decay_s, 0.05, 0.02), Head(hz * 1.03, decay_s, 0.05, 0.02), air), 0.45, -0.3 * width)

    return {
        71: whistle(0.05),
        72: whistle(0.16),
        78: Drum((Head(520, 0.05, -0.3, 0.05, modes=0.4),), 0.5, 0.3 * width),
        79: Drum((Head(420, 0.12, 0.5, 0.1, modes=0.4),), 0.5, 0.3 * width),
    }
