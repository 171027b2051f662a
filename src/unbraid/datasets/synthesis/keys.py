"""Pianos, acoustic and electric, and organs with drawbars and with pipes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.random import Generator

from unbraid.datasets.synthesis.decays import StringTone, drawn_body
from unbraid.datasets.synthesis.motion import Amplifier, Effect, RotatingSpeaker
from unbraid.datasets.synthesis.oscillators import Wave, drawn_spectrum
from unbraid.datasets.synthesis.patches import (
    chance,
    chorus,
    drawn_pan,
    electric_piano_tone,
    log_between,
    tremolo,
)
from unbraid.datasets.synthesis.players import Envelope, Polyphonic
from unbraid.datasets.synthesis.score import Player
from unbraid.datasets.synthesis.sweeps import Sweep
from unbraid.datasets.synthesis.tones import AnalogTone

__all__ = ["acoustic_piano", "drawbar_organ", "electric_piano", "pipe_organ"]


def acoustic_piano(rng: Generator) -> Player:
    """Draw a piano: grand, upright, or out of tune."""
    tone = StringTone(
        stiffness=log_between(1.5e-4, 6e-4, rng),
        decay_s=log_between(0.7, 2.2, rng),
        damping_hz=log_between(1200, 5000, rng),
        position=float(rng.uniform(0.1, 0.14)),
        brightness_hz=log_between(900, 3500, rng),
        velocity_octaves=float(rng.uniform(1, 2.5)),
        tilt=float(rng.uniform(0.2, 0.6)),
        n_strings=int(rng.integers(2, 4)),
        detune_cents=float(rng.choice([0.6, 1.2, 1.5, 7.0], p=[0.4, 0.3, 0.2, 0.1])),
        hammer=float(rng.uniform(0.05, 0.4)),
        hammer_hz=log_between(800, 4000, rng),
        hammer_s=log_between(0.01, 0.04, rng),
        body=drawn_body(2.5, rng),
        spread=float(rng.uniform(0.1, 0.9)),
    )
    return Polyphonic(tone, Envelope(0.0015, release_s=log_between(0.06, 0.8, rng)), softness=1.6)


def electric_piano(rng: Generator) -> Player:
    """Draw operators or tines, perhaps with amplifier, tremolo, chorus."""
    effects: list[Effect] = []
    if chance(0.25, rng):
        effects.append(Amplifier(float(rng.uniform(0.8, 3)), 60, log_between(3500, 9000, rng), 1500, 0.3))
    if chance(0.35, rng):
        effects.append(tremolo(rng, panning=chance(0.7, rng)))
    if chance(0.5, rng):
        effects.append(chorus(rng))
    if chance(0.35, rng):
        tine = StringTone(
            decay_s=log_between(0.6, 1.5, rng),
            partials=(1.0, 2.0, 3.0, 4.0, float(rng.uniform(5.9, 7.2)), float(rng.uniform(15, 20))),
            brightness_hz=log_between(1200, 4000, rng),
            tilt=1.2,
            position=0.2,
            hammer=0.1,
        )
        return Polyphonic(tine, Envelope(0.002, release_s=0.1), tuple(effects), drawn_pan(rng))
    return Polyphonic(electric_piano_tone(rng), Envelope(0.002, release_s=log_between(0.05, 0.4, rng)), tuple(effects))


def drawbar_organ(rng: Generator) -> Player:
    """Draw an organ's drawbars and its rotating speaker."""
    # 16', 5⅓', 8', 4', 2⅔', 2', 1⅗', 1⅓', 1' as harmonics of the octave below the note.
    spectrum = np.zeros(16)
    bars = rng.integers(0, 9, size=9) * (rng.random(9) < 0.6)
    spectrum[np.array([1, 3, 2, 4, 6, 8, 10, 12, 16]) - 1] = np.where(bars, 2.0 ** ((bars - 8) / 2), 0)
    spectrum[1] = 1.0
    spectrum[:1] *= 0.6
    tone = AnalogTone(
        (Wave("drawn", semitones=-12, spectrum=tuple(float(amplitude) for amplitude in spectrum)),),
        Sweep(cutoff_hz=9000, velocity_octaves=0.2, tracking=0),
        noise=float(rng.uniform(0, 0.6)),
        noise_s=0.005,
    )
    if chance(0.3, rng):  # percussion: the third harmonic, soon gone
        ping = Wave("sine", semitones=19, gain=0.4)
        tone = replace(tone, waves=(*tone.waves, ping))
    effects: list[Effect] = []
    if chance(0.25, rng):
        effects.append(Amplifier(float(rng.uniform(1, 5)), 60, 6000, 1200, 0.2))
    if chance(0.75, rng):
        fast_hz, depth, width = rng.uniform((5.5, 0.15, 0.3), (7.2, 0.5, 1.0))
        effects.append(RotatingSpeaker(log_between(0.5, 1, rng), float(fast_hz), float(depth), float(width)))
    return Polyphonic(tone, Envelope(0.003, release_s=0.02), tuple(effects), softness=0.3, n_versions=1, cents=0.5)


def pipe_organ(rng: Generator) -> Player:
    """Draw one to three ranks of pipes."""
    ranks = [
        Wave(
            "drawn",
            semitones=float(semitones),
            gain=float(rng.uniform(0.25, 0.6)) if semitones else 1.0,
            detune_cents=float(rng.uniform(0, 3)),
            n_voices=1 + int(chance(0.3, rng)),
            spectrum=drawn_spectrum(int(rng.integers(4, 24)), float(rng.uniform(0.8, 2)), rng),
        )
        for semitones in (0, *rng.choice([12, 12, 19, 24, -12], size=int(rng.integers(0, 3)), replace=False))
    ]
    tone = AnalogTone(
        tuple(ranks),
        Sweep(cutoff_hz=log_between(2000, 9000, rng), velocity_octaves=0.1),
        noise=float(rng.uniform(0, 0.15)),
        noise_s=float(rng.uniform(0.02, 0.08)),
        spread=float(rng.uniform(0, 0.5)),
    )
    envelope = Envelope(log_between(0.01, 0.06, rng), release_s=log_between(0.04, 0.15, rng))
    effects: tuple[Effect, ...] = (tremolo(rng, panning=False),) if chance(0.2, rng) else ()
    return Polyphonic(tone, envelope, effects, softness=0.3)
