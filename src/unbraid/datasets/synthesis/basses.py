"""Basses: analogue, acid, reese and wobble, sine, FM, and strings."""

from __future__ import annotations

from numpy.random import Generator

from unbraid.datasets.synthesis.decays import StringTone, drawn_body
from unbraid.datasets.synthesis.motion import Amplifier, Effect
from unbraid.datasets.synthesis.oscillators import Wave
from unbraid.datasets.synthesis.patches import chance, fm_tone, log_between, pluck, waves
from unbraid.datasets.synthesis.players import Envelope, Monophonic, Polyphonic
from unbraid.datasets.synthesis.score import Player
from unbraid.datasets.synthesis.sweeps import Sweep
from unbraid.datasets.synthesis.tones import AnalogTone

__all__ = ["acid_bass", "analog_bass", "fm_bass", "reese", "sine_bass", "string_bass"]


def analog_bass(rng: Generator) -> Player:
    """Draw oscillators through a filter."""
    tone = AnalogTone(
        waves(rng, most_voices=2, detune_cents=(4, 14), sub=0.5),
        pluck(rng, cutoff_hz=log_between(90, 700, rng), octaves=float(rng.uniform(0.5, 4)), tracking=0.4),
        drive=float(rng.choice([0, 0, rng.uniform(0.8, 4)])),
    )
    envelope = Envelope(0.002, log_between(0.1, 2, rng), float(rng.uniform(0.2, 1)), log_between(0.01, 0.2, rng))
    glide_s = float(rng.choice([0, 0, rng.uniform(0.01, 0.06)]))
    return Monophonic(tone, envelope, glide_s=glide_s, legato=chance(0.3, rng))


def acid_bass(rng: Generator) -> Player:
    """Draw one oscillator through a filter that almost whistles, with accents and slides."""
    sweep = Sweep(
        "low24",
        resonance=float(rng.uniform(0.65, 0.93)),
        cutoff_hz=log_between(150, 700, rng),
        octaves=float(rng.uniform(1, 3)),
        decay_s=log_between(0.08, 0.5, rng),
        sustain=0.0,
        velocity_octaves=float(rng.uniform(0.5, 2)),
        tracking=0.2,
    )
    wave = Wave(str(rng.choice(["saw", "pulse"])))
    tone = AnalogTone((wave,), sweep, drive=float(rng.uniform(0.8, 6)))
    return Monophonic(
        tone,
        Envelope(0.002, 0.6, 0.4, 0.02),
        glide_s=float(rng.uniform(0.02, 0.07)),
        always_glides=chance(0.2, rng),
        legato=True,
        accent_octaves=float(rng.uniform(0.5, 1.5)),
    )


def reese(rng: Generator) -> Player:
    """Draw detuned saws over a sine, perhaps with a filter that wobbles."""
    wobbling = chance(0.4, rng)
    detuned = Wave("saw", n_voices=int(rng.integers(2, 5)), detune_cents=log_between(8, 28, rng))
    under = Wave("sine", semitones=0, gain=float(rng.uniform(0.3, 1)))
    sweep = Sweep(
        str(rng.choice(["low12", "low24"])),
        resonance=float(rng.uniform(0.1, 0.7)),
        cutoff_hz=log_between(250, 1500, rng),
        lfo_octaves=float(rng.uniform(0, 1)),
        lfo_hz=log_between(0.2, 1.5, rng),
    )
    return Monophonic(
        AnalogTone((detuned, under), sweep, spread=float(rng.uniform(0, 0.5)), drive=float(rng.choice([0, 1.5, 4]))),
        Envelope(0.004, 1.0, 1.0, 0.04),
        glide_s=float(rng.uniform(0, 0.08)),
        always_glides=chance(0.5, rng),
        legato=chance(0.5, rng),
        wobble_octaves=float(rng.uniform(0.7, 2)) if wobbling else 0.0,
        wobbles=tuple(int(turns) for turns in rng.choice([1, 2, 3, 4, 6, 8], size=3)),
    )


def sine_bass(rng: Generator) -> Player:
    """Draw a drum machine's long bass drum, as a bass."""
    tone = AnalogTone(
        (Wave("sine"), Wave("triangle", gain=float(rng.uniform(0, 0.15)))),
        Sweep(cutoff_hz=5000, velocity_octaves=1),
        noise=float(rng.uniform(0, 0.5)),
        noise_s=0.004,
        bend_semitones=float(rng.choice([0, 12, 24])),
        bend_s=log_between(0.01, 0.03, rng),
        drive=float(rng.choice([0, 1, 3])),
    )
    return Monophonic(
        tone,
        Envelope(0.002, log_between(0.4, 3, rng), 0.0, log_between(0.05, 0.3, rng)),
        glide_s=float(rng.choice([0, 0.03, 0.08])),
    )


def fm_bass(rng: Generator) -> Player:
    """Draw a bass of operators."""
    return Polyphonic(fm_tone(rng), Envelope(0.002, release_s=log_between(0.02, 0.12, rng)), n_versions=1)


def string_bass(rng: Generator) -> Player:
    """Draw an electric or an upright bass."""
    upright = chance(0.3, rng)
    tone = StringTone(
        stiffness=2e-4,
        decay_s=log_between(0.2, 0.5, rng) if upright else log_between(0.4, 1.5, rng),
        damping_hz=log_between(300, 2500, rng),
        position=float(rng.uniform(0.08, 0.3)),
        brightness_hz=log_between(250, 1500, rng) if upright else log_between(400, 3500, rng),
        tilt=float(rng.uniform(0.3, 1.0)),
        hammer=float(rng.uniform(0.05, 0.5)),
        hammer_hz=log_between(700, 5000, rng),
        hammer_s=log_between(0.004, 0.02, rng),
        body=drawn_body(3, rng),
    )
    dirt = Amplifier(float(rng.uniform(1, 6)), 40, log_between(2000, 5000, rng), 800, 0.3)
    effects: tuple[Effect, ...] = (dirt,) if not upright and chance(0.3, rng) else ()
    return Polyphonic(tone, Envelope(0.002, release_s=log_between(0.03, 0.12, rng)), effects, n_versions=4)
