"""Instruments for every role: each call draws another, from as wide a family as its role has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.random import Generator

from unbraid.datasets.synthesis.basses import acid_bass, analog_bass, fm_bass, reese, sine_bass, string_bass
from unbraid.datasets.synthesis.decays import StringTone
from unbraid.datasets.synthesis.guitars import acoustic_guitar, clean_guitar, distorted_guitar, guitar_strings
from unbraid.datasets.synthesis.keys import acoustic_piano, drawbar_organ, electric_piano, pipe_organ
from unbraid.datasets.synthesis.motion import Effect
from unbraid.datasets.synthesis.oscillators import Wave
from unbraid.datasets.synthesis.patches import (
    bell,
    chance,
    chorus,
    drawn_pan,
    fm_tone,
    gate,
    log_between,
    pluck,
    tremolo,
    waves,
)
from unbraid.datasets.synthesis.players import Envelope, Monophonic, Polyphonic
from unbraid.datasets.synthesis.score import Player
from unbraid.datasets.synthesis.sweeps import Sweep
from unbraid.datasets.synthesis.tones import AnalogTone
from unbraid.errors import UsageError

__all__ = ["synthesizer"]


def synthesizer(role: str, rng: Generator) -> Player:
    """Draw an instrument for a role: bass, piano, guitar, organ, pad, strings, brass, lead or arpeggio.

    A single note at full velocity peaks at about 0.6.

    Raises
    ------
    UsageError: no synthesizer plays this role
    """
    if role not in _ROLES:
        raise UsageError(f"no synthesizer plays {role!r}; there are {', '.join(_ROLES)}")
    instruments, weights = zip(*_ROLES[role], strict=True)
    chosen: Callable[[Generator], Player] = instruments[rng.choice(len(weights), p=np.array(weights) / sum(weights))]
    return chosen(rng)


def _slow_envelope(rng: Generator, attack_s: tuple[float, float], release_s: tuple[float, float]) -> Envelope:
    return Envelope(
        log_between(*attack_s, rng), log_between(0.5, 3, rng), float(rng.uniform(0.5, 1)), log_between(*release_s, rng)
    )


def _pad(rng: Generator) -> Player:
    sweep = Sweep(
        str(rng.choice(["low12", "low12", "low24", "low24", "band", "high"], p=[0.25, 0.2, 0.25, 0.2, 0.06, 0.04])),
        resonance=float(rng.uniform(0, 0.5)),
        cutoff_hz=log_between(350, 5000, rng),
        tracking=float(rng.uniform(0.2, 0.8)),
        octaves=float(rng.uniform(-1, 2)),
        attack_s=log_between(0.1, 2, rng),
        decay_s=log_between(0.5, 3, rng),
        lfo_octaves=float(rng.choice([0, rng.uniform(0.1, 0.8)])),
        lfo_hz=log_between(0.1, 1, rng),
    )
    if sweep.kind in ("band", "high"):
        sweep = replace(sweep, cutoff_hz=300, tracking=1.0, octaves=min(sweep.octaves, 0.5), resonance=0.1)
    tone = AnalogTone(
        waves(rng, most_voices=5, detune_cents=(3, 18), sub=0.25),
        sweep,
        noise=float(rng.choice([0, 0, rng.uniform(0.005, 0.05)])),
        spread=float(rng.uniform(0.2, 1)),
        vibrato_cents=float(rng.choice([0, rng.uniform(0, 6)])),
    )
    effects: list[Effect] = [chorus(rng, strong=chance(0.5, rng))] if chance(0.5, rng) else []
    if chance(0.2, rng):
        effects.append(gate(rng))
    return Polyphonic(tone, _slow_envelope(rng, (0.02, 0.9), (0.1, 1.5)), tuple(effects), softness=0.7)


def _bell_pad(rng: Generator) -> Player:
    return Polyphonic(
        bell(rng), Envelope(log_between(0.003, 0.2, rng), release_s=log_between(0.2, 1.5, rng)), (chorus(rng),)
    )


def _strings(rng: Generator) -> Player:
    section = Wave("saw", n_voices=int(rng.integers(3, 8)), detune_cents=log_between(5, 16, rng))
    doubled = Wave("saw", semitones=float(rng.choice([12, -12])), gain=0.35, n_voices=2, detune_cents=8)
    tone = AnalogTone(
        (section, doubled) if chance(0.35, rng) else (section,),
        Sweep(
            "low12",
            resonance=0.0,
            cutoff_hz=log_between(900, 5000, rng),
            octaves=float(rng.uniform(0, 1)),
            attack_s=log_between(0.05, 0.5, rng),
            sustain=0.7,
            velocity_octaves=float(rng.uniform(0.5, 2)),
        ),
        noise=float(rng.uniform(0, 0.03)),
        spread=float(rng.uniform(0.3, 1)),
        vibrato_cents=float(rng.uniform(0, 7)),
        vibrato_hz=float(rng.uniform(4.5, 6.2)),
    )
    effects: tuple[Effect, ...] = (chorus(rng, strong=True),) if chance(0.5, rng) else ()
    attack_s = (0.008, 0.03) if chance(0.3, rng) else (0.05, 0.4)
    return Polyphonic(tone, _slow_envelope(rng, attack_s, (0.08, 0.6)), effects, softness=0.9)


def _plucked_strings(rng: Generator) -> Player:
    tone = replace(
        guitar_strings(rng, nylon=True), decay_s=log_between(0.1, 0.3, rng), n_strings=3, detune_cents=7, spread=0.7
    )
    return Polyphonic(tone, Envelope(0.003, release_s=0.2), pan=drawn_pan(rng))


def _brass(rng: Generator) -> Player:
    tone = AnalogTone(
        (
            Wave("saw", n_voices=int(rng.integers(1, 5)), detune_cents=log_between(3, 12, rng)),
            Wave("pulse", gain=float(rng.uniform(0, 0.4)), width=0.2),
        ),
        Sweep(
            str(rng.choice(["low12", "low24"])),
            resonance=float(rng.uniform(0, 0.35)),
            cutoff_hz=log_between(250, 900, rng),
            tracking=float(rng.uniform(0.3, 0.8)),
            octaves=float(rng.uniform(1.5, 4)),
            attack_s=log_between(0.015, 0.12, rng),
            decay_s=log_between(0.15, 1, rng),
            sustain=float(rng.uniform(0.4, 0.8)),
            velocity_octaves=float(rng.uniform(1, 2.5)),
        ),
        noise=float(rng.uniform(0, 0.05)),
        noise_s=0.05,
        spread=float(rng.choice([0, rng.uniform(0.2, 0.9)])),
        vibrato_cents=float(rng.choice([0, rng.uniform(2, 8)])),
        vibrato_delay_s=0.4,
        bend_semitones=float(rng.uniform(-0.7, 0)),
        bend_s=log_between(0.01, 0.03, rng),
        drive=float(rng.choice([0, 0, 1.5])),
    )
    envelope = Envelope(log_between(0.008, 0.05, rng), 0.5, float(rng.uniform(0.7, 1)), log_between(0.03, 0.2, rng))
    if chance(0.25, rng) and not tone.spread:
        return Monophonic(tone, envelope, glide_s=0.02, legato=True, pan=drawn_pan(rng))
    return Polyphonic(tone, envelope, pan=drawn_pan(rng))


def _analog_lead(rng: Generator) -> Player:
    tone = AnalogTone(
        waves(rng, most_voices=4, detune_cents=(3, 15), sub=0.15),
        pluck(
            rng,
            cutoff_hz=log_between(500, 4000, rng),
            octaves=float(rng.uniform(0, 3)),
            sustain=float(rng.uniform(0.2, 0.9)),
        ),
        spread=float(rng.choice([0, rng.uniform(0.2, 0.8)])),
        vibrato_cents=float(rng.choice([0, rng.uniform(3, 8)])),
        vibrato_hz=float(rng.uniform(4.5, 6.5)),
        drive=float(rng.choice([0, 0, rng.uniform(1, 6)])),
    )
    envelope = Envelope(log_between(0.002, 0.04, rng), 0.6, float(rng.uniform(0.4, 1)), log_between(0.02, 0.3, rng))
    effects: tuple[Effect, ...] = (chorus(rng),) if chance(0.3, rng) else ()
    return Monophonic(
        tone,
        envelope,
        effects,
        drawn_pan(rng),
        glide_s=float(rng.choice([0, log_between(0.01, 0.08, rng)])),
        always_glides=chance(0.4, rng),
        legato=chance(0.5, rng),
    )


def _supersaw(rng: Generator) -> Player:
    tone = AnalogTone(
        (
            Wave("saw", n_voices=7, detune_cents=log_between(8, 30, rng)),
            Wave("saw", semitones=0, gain=float(rng.uniform(0.3, 0.9))),
            Wave(
                "saw",
                semitones=float(rng.choice([12, -12])),
                gain=float(rng.uniform(0, 0.3)),
                n_voices=3,
                detune_cents=10,
            ),
        ),
        Sweep("low12", cutoff_hz=log_between(2500, 12000, rng), octaves=float(rng.uniform(0, 1.5)), resonance=0.1),
        noise=float(rng.uniform(0, 0.05)),
        spread=float(rng.uniform(0.5, 1)),
    )
    return Polyphonic(tone, Envelope(0.004, 0.8, float(rng.uniform(0.5, 1)), log_between(0.05, 0.4, rng)), softness=1.0)


def _fm_lead(rng: Generator) -> Player:
    tone = replace(fm_tone(rng), vibrato_cents=float(rng.uniform(0, 7)))
    return Polyphonic(tone, Envelope(0.005, release_s=log_between(0.03, 0.3, rng)), (chorus(rng),), drawn_pan(rng))


def _analog_pluck(rng: Generator) -> Player:
    tone = AnalogTone(
        waves(rng, most_voices=5, detune_cents=(3, 16), sub=0.15),
        pluck(rng),
        spread=float(rng.choice([0, rng.uniform(0.2, 1)])),
    )
    envelope = Envelope(0.002, log_between(0.1, 0.8, rng), float(rng.uniform(0, 0.5)), log_between(0.03, 0.4, rng))
    return Polyphonic(tone, envelope, pan=drawn_pan(rng), n_versions=3)


def _bell(rng: Generator) -> Player:
    return Polyphonic(bell(rng), Envelope(0.002, release_s=log_between(0.1, 0.8, rng)), pan=drawn_pan(rng))


def _mallet(rng: Generator) -> Player:
    # A bar free at both ends, tuned as marimbas (1:4:10), vibraphones or left as it is.
    partials = [(1.0, 4.0, 9.9), (1.0, 4.0, 10.0, 16.3), (1.0, 2.76, 5.4, 8.93), (1.0, 3.0, 6.2)][int(rng.integers(4))]
    tone = StringTone(
        partials=partials,
        decay_s=log_between(0.1, 1.5, rng),
        damping_hz=log_between(800, 4000, rng),
        brightness_hz=log_between(800, 3000, rng),
        tilt=1.0,
        position=0.3,
        hammer=float(rng.uniform(0.05, 0.4)),
    )
    effects: tuple[Effect, ...] = (tremolo(rng, panning=True),) if chance(0.3, rng) else ()
    return Polyphonic(
        tone, Envelope(0.001, release_s=log_between(0.1, 0.5, rng)), effects, drawn_pan(rng), n_versions=3
    )


# How often each instrument is drawn for a role, by its share of all.
_ROLES: dict[str, tuple[tuple[Callable[[Generator], Player], float], ...]] = {
    "bass": ((analog_bass, 3), (acid_bass, 1), (reese, 1.5), (sine_bass, 3), (fm_bass, 1.5), (string_bass, 3)),
    "piano": ((acoustic_piano, 2), (electric_piano, 1)),
    "guitar": ((acoustic_guitar, 2), (clean_guitar, 2), (distorted_guitar, 2)),
    "organ": ((drawbar_organ, 2), (pipe_organ, 1)),
    "pad": ((_pad, 5), (_bell_pad, 1), (_strings, 1)),
    "strings": ((_strings, 5), (_plucked_strings, 1)),
    "brass": ((_brass, 1),),
    "lead": ((_analog_lead, 4), (_supersaw, 1), (_fm_lead, 1), (distorted_guitar, 0.5)),
    "arpeggio": (
        (_analog_pluck, 4),
        (_bell, 1),
        (_mallet, 1),
        (acoustic_guitar, 0.5),
        (_supersaw, 0.7),
        (electric_piano, 0.5),
    ),
}
