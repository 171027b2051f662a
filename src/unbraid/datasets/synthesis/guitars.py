"""Guitars: of nylon and steel, clean and distorted through an amplifier."""

from __future__ import annotations

from dataclasses import replace

from numpy.random import Generator

from unbraid.datasets.synthesis.decays import StringTone, drawn_body
from unbraid.datasets.synthesis.motion import Amplifier, Effect
from unbraid.datasets.synthesis.patches import chance, chorus, drawn_pan, log_between, tremolo
from unbraid.datasets.synthesis.players import Doubled, Envelope, Polyphonic
from unbraid.datasets.synthesis.score import Player

__all__ = ["acoustic_guitar", "clean_guitar", "distorted_guitar", "guitar_strings"]


def guitar_strings(rng: Generator, *, nylon: bool) -> StringTone:
    """Draw the strings that all guitars have."""
    return StringTone(
        stiffness=log_between(2e-5, 1.5e-4, rng),
        decay_s=log_between(0.3, 0.7, rng) if nylon else log_between(0.5, 2, rng),
        damping_hz=log_between(600, 2000, rng) if nylon else log_between(1500, 6000, rng),
        position=float(rng.uniform(0.06, 0.35)),
        brightness_hz=log_between(900, 2500, rng) if nylon else log_between(1500, 6000, rng),
        tilt=float(rng.uniform(0.2, 0.9)),
        hammer=float(rng.uniform(0.1, 0.5)),
        hammer_hz=log_between(1500, 7000, rng),
        hammer_s=log_between(0.003, 0.012, rng),
        body=drawn_body(4, rng),
        mute_below=float(rng.choice([0, 0.4])),
    )


def acoustic_guitar(rng: Generator) -> Player:
    """Draw a guitar without a plug."""
    tone = guitar_strings(rng, nylon=chance(0.5, rng))
    if chance(0.2, rng):  # twelve strings, or a mandolin
        tone = replace(tone, n_strings=2, detune_cents=4.0, spread=float(rng.uniform(0.2, 0.8)))
    player = Polyphonic(tone, Envelope(0.001, release_s=log_between(0.03, 0.25, rng)), pan=drawn_pan(rng), n_versions=3)
    return Doubled(player, float(rng.uniform(0.4, 1))) if chance(0.25, rng) else player


def clean_guitar(rng: Generator) -> Player:
    """Draw an electric guitar whose amplifier hardly distorts."""
    effects: list[Effect] = [Amplifier(log_between(0.4, 2, rng), 90, log_between(4000, 7000, rng), 2500, 0.6)]
    if chance(0.5, rng):
        effects.append(chorus(rng))
    if chance(0.2, rng):
        effects.append(tremolo(rng, panning=False))
    tone = replace(guitar_strings(rng, nylon=False), body=drawn_body(2, rng), hammer=0.15)
    envelope = Envelope(0.001, release_s=log_between(0.02, 0.15, rng))
    return Polyphonic(tone, envelope, tuple(effects), drawn_pan(rng), n_versions=3)


def distorted_guitar(rng: Generator) -> Player:
    """Draw an electric guitar whose amplifier distorts, with palm mutes for soft notes."""
    tone = replace(
        guitar_strings(rng, nylon=False),
        body=drawn_body(1.5, rng),
        decay_s=log_between(1.2, 3, rng),
        mute_below=float(rng.uniform(0.4, 0.75)),
        mute_s=log_between(0.04, 0.12, rng),
        hammer=0.2,
    )
    amplifier = Amplifier(
        log_between(5, 60, rng),
        log_between(90, 400, rng),
        log_between(3000, 6000, rng),
        log_between(1200, 3200, rng),
        float(rng.uniform(0.2, 1.2)),
    )
    player = Polyphonic(tone, Envelope(0.001, release_s=0.03), (amplifier,), drawn_pan(rng), softness=0.9, n_versions=3)
    return Doubled(replace(player, pan=0.0), float(rng.uniform(0.6, 1))) if chance(0.6, rng) else player
