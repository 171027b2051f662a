"""Settings drawn at random that several roles share: oscillators, filters, effects, operators."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from unbraid.datasets.synthesis.motion import Chorus, Effect, Gate, Tremolo
from unbraid.datasets.synthesis.oscillators import Wave, drawn_spectrum
from unbraid.datasets.synthesis.sweeps import Sweep
from unbraid.datasets.synthesis.tones import FmTone, Modulator, Stack

__all__ = [
    "bell",
    "chance",
    "chorus",
    "drawn_pan",
    "electric_piano_tone",
    "fm_tone",
    "gate",
    "log_between",
    "pluck",
    "tremolo",
    "waves",
]


def chance(probability: float, rng: Generator) -> bool:
    """Throw a coin."""
    return bool(rng.random() < probability)


def drawn_pan(rng: Generator) -> float:
    """Draw a place between left (−1) and right (1), the middle more often."""
    return float(np.clip(rng.normal(0, 0.3), -0.8, 0.8))


def log_between(low: float, high: float, rng: Generator) -> float:
    """Draw a number, each octave of the range as likely as any other."""
    return float(low * (high / low) ** rng.random())


def waves(rng: Generator, *, most_voices: int, detune_cents: tuple[float, float], sub: float) -> tuple[Wave, ...]:
    """Draw one to three oscillators; `sub` is the chance of one that is an octave lower."""
    drawn = []
    for i in range(int(rng.choice([1, 1, 2, 2, 3]))):
        shape = str(rng.choice(["saw", "saw", "saw", "pulse", "pulse", "triangle", "drawn", "sine"]))
        n_voices = 1 + int(rng.integers(most_voices))
        moves = chance(0.4, rng)
        semitones = float(rng.choice([0, 0, 0, 12, 12, -12, 7] if i else [0]))
        drawn.append(
            Wave(
                shape,
                semitones=semitones,
                gain=1.0 if i == 0 else float(rng.uniform(0.15, 0.3 if semitones else 0.9)),
                n_voices=n_voices,
                detune_cents=log_between(*detune_cents, rng)
                if n_voices > 1
                else (float(rng.uniform(0, 4)) if i else 0.0),
                width=float(rng.choice([0.5, 0.25, rng.uniform(0.12, 0.5)])),
                width_depth=float(rng.uniform(0.03, 0.2)) if moves else 0.0,
                width_hz=log_between(0.15, 4, rng),
                spectrum=drawn_spectrum(int(rng.integers(6, 60)), float(rng.uniform(0.5, 1.6)), rng),
            )
        )
    if chance(sub, rng):
        drawn.append(
            Wave(str(rng.choice(["sine", "triangle", "pulse"])), semitones=-12, gain=float(rng.uniform(0.2, 0.5)))
        )
    return tuple(drawn)


def chorus(rng: Generator, *, strong: bool = False) -> Chorus:
    """Draw a chorus, or (`strong`) an ensemble of three."""
    n_taps = 3 if strong else int(rng.integers(1, 3))
    rate_hz = log_between(0.2, 1.5, rng)
    # A delay that swings by d at rate r bends the pitch by 2πrd: kept below 8 cents.
    depth_s = min(float(rng.uniform(5e-4, 3e-3)), 0.0046 / (2 * np.pi * rate_hz))
    # A copy as strong as the sound itself would at times extinguish a tone of few partials.
    mix = float(rng.uniform(0.5, 0.9) if strong else rng.uniform(0.2, 0.5))
    return Chorus(n_taps, rate_hz, float(rng.uniform(4e-3, 9e-3)), depth_s, mix)


def tremolo(rng: Generator, *, panning: bool) -> Tremolo:
    """Draw a tremolo."""
    return Tremolo(log_between(2.5, 7, rng), float(rng.uniform(0.2, 0.8)), panning)


def gate(rng: Generator) -> Effect:
    """Draw a rhythm of 8 or 16 steps, the first of them open, and no more than two closed in a row."""
    is_open = [True]
    for _ in range(int(rng.choice([7, 15, 15]))):
        is_open.append(not any(is_open[-2:]) or chance(0.6, rng))
    return Gate(tuple(is_open), float(rng.uniform(0.4, 0.95)))


def pluck(rng: Generator, **fixed: float) -> Sweep:
    """Draw a filter that closes soon after each note's start."""
    sweep = {
        "resonance": float(rng.uniform(0, 0.7)),
        "cutoff_hz": log_between(150, 900, rng),
        "octaves": float(rng.uniform(1.5, 4.5)),
        "decay_s": log_between(0.05, 0.5, rng),
        "sustain": float(rng.uniform(0, 0.4)),
        "velocity_octaves": float(rng.uniform(0.5, 2.5)),
        "tracking": float(rng.uniform(0.2, 1)),
    } | fixed
    return Sweep(str(rng.choice(["low12", "low24"])), **sweep)


def electric_piano_tone(rng: Generator) -> FmTone:
    """Draw a body and a tine, each an operator modulated by another."""
    apart = float(rng.uniform(0, 4))
    tine = float(rng.choice([7, 10, 12, 14, 14, 15]))
    body = Modulator(1.0, float(rng.uniform(0.3, 1.6)), log_between(0.5, 3, rng), float(rng.uniform(0, 0.4)), 0.8)
    ping = Modulator(tine, float(rng.uniform(0.15, 0.9)), log_between(0.06, 0.5, rng), 0.0, 0.9)
    decay_s = log_between(0.8, 4, rng)
    stacks = [
        Stack(1.0, 1.0, (body,), decay_s=decay_s, cents=-apart),
        Stack(1.0, float(rng.uniform(0.3, 1.0)), (ping,), decay_s=decay_s * 0.7, cents=apart),
    ]
    if chance(0.3, rng):
        stacks.append(Stack(2.0, float(rng.uniform(0.1, 0.4)), (body,), decay_s=decay_s * 0.6))
    return FmTone(tuple(stacks), spread=float(rng.choice([0, 0, rng.uniform(0.1, 0.6)])))


def fm_tone(rng: Generator) -> FmTone:
    """Draw two to four operators in a chain, or in pairs, all of whole ratios."""
    ratios = rng.choice([0.5, 1, 1, 1, 2, 2, 3], size=3)
    modulators = tuple(
        Modulator(
            float(ratio),
            float(rng.uniform(0.4, 2.8) / (1 + i)),
            log_between(0.05, 0.8, rng),
            float(rng.uniform(0, 0.4)),
            float(rng.uniform(0.3, 0.9)),
        )
        for i, ratio in enumerate(ratios[: int(rng.integers(1, 4))])
    )
    return FmTone((Stack(1.0, 1.0, modulators, chained=chance(0.5, rng), decay_s=log_between(0.5, 8, rng)),))


def bell(rng: Generator) -> FmTone:
    """Draw a tone with a few partials that are no harmonics, weaker than the note itself."""
    ratio = float(rng.choice([2.0, 3.0, 3.5, 1.41, 4.0, 5.0, 7.0, 2.76]))
    strike = Modulator(ratio, float(rng.uniform(0.3, 1.1)), log_between(0.1, 1.5, rng), float(rng.uniform(0, 0.3)), 0.7)
    decay_s = log_between(0.3, 3, rng)
    apart = float(rng.uniform(0, 5))
    stacks = (
        Stack(1.0, 1.0, (strike,), decay_s=decay_s, cents=apart),
        Stack(1.0, 0.6, (Modulator(1.0, float(rng.uniform(0, 0.8))),), decay_s=decay_s * 1.5, cents=-apart),
        Stack(float(rng.choice([2, 3, 4])), float(rng.uniform(0, 0.3)), (), decay_s=decay_s * 0.4),
    )
    return FmTone(stacks, spread=float(rng.uniform(0, 0.7)))
