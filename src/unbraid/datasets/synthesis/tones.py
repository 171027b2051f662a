"""Electronic tones: oscillators through a filter, and operators that modulate each other's phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from unbraid.datasets.synthesis.clock import Clock, at_audio_rate
from unbraid.datasets.synthesis.oscillators import Pitch, Wave, radians
from unbraid.datasets.synthesis.sweeps import Sweep, softened, swept
from unbraid.datatypes import FloatArray

__all__ = ["AnalogTone", "FmTone", "Modulator", "Stack", "Tone"]


class Tone(Protocol):
    """How a single note of an instrument sounds before it is let go."""

    def __call__(
        self, frequency_hz: float, velocity: float, n_samples: int, sample_rate: int, rng: Generator
    ) -> FloatArray:
        """Samples [shape=(channel, time), float32], one channel or two, at any level."""
        ...


@dataclass(frozen=True)
class AnalogTone:
    """Oscillators and noise, through a filter, perhaps overdriven.

    noise : its level; noise_s : its decay, 0 for noise that stays
    spread : of voices in unison between left and right, 0 to 1
    vibrato_cents, vibrato_hz, vibrato_delay_s : of the pitch
    bend_semitones, bend_s : where the pitch comes from, and how soon
    drive : of a soft clipper after the filter; 0 for none
    """

    waves: tuple[Wave, ...]
    sweep: Sweep
    noise: float = 0.0
    noise_s: float = 0.0
    spread: float = 0.0
    vibrato_cents: float = 0.0
    vibrato_hz: float = 5.5
    vibrato_delay_s: float = 0.3
    bend_semitones: float = 0.0
    bend_s: float = 0.04
    drive: float = 0.0

    def __call__(
        self, frequency_hz: float, velocity: float, n_samples: int, sample_rate: int, rng: Generator
    ) -> FloatArray:
        """Sound a note: (channel, time), one channel or two."""
        clock = Clock(sample_rate, n_samples)
        age_s = clock.control_seconds()
        cutoff_hz = self.sweep.cutoff(age_s, frequency_hz, velocity, rng)
        if self.sweep.kind.startswith("low"):
            cutoff_hz = np.maximum(cutoff_hz, 0.9 * frequency_hz)  # a note above its filter would hardly be one
        pitch = Pitch(frequency_hz, ((0, n_samples, frequency_hz),))
        if self.vibrato_cents or self.bend_semitones:
            hz = at_audio_rate(clock, frequency_hz * np.exp2(self.bent(age_s, age_s, rng) / 12))
            pitch = Pitch(hz, ((0, n_samples, float(hz.max(initial=frequency_hz))),))
        return self.sound(pitch, cutoff_hz, age_s, sample_rate, rng)

    def bent(self, age_s: NDArray[Any], time_s: NDArray[Any], rng: Generator) -> NDArray[Any]:
        """Return how far vibrato and bend lead from the pitch, in semitones, at each age of a note."""
        begun = np.clip((age_s - self.vibrato_delay_s) / 0.3, 0, 1)
        swing = np.sin(2 * np.pi * (self.vibrato_hz * time_s + rng.random()))
        bent: NDArray[Any] = self.vibrato_cents / 100 * begun * swing
        return bent + self.bend_semitones * np.exp(-age_s / self.bend_s)

    def sound(
        self, pitch: Pitch, cutoff_hz: NDArray[Any], age_s: NDArray[Any], sample_rate: int, rng: Generator
    ) -> FloatArray:
        """Sound a pitch through a moving filter; `cutoff_hz` and `age_s` are curves over it."""
        n_samples = pitch.n_samples
        sound = np.zeros((2 if self.spread else 1, n_samples), np.float32)
        for wave in self.waves:
            wave.add_to(sound, pitch, self.spread, sample_rate, rng)
        if self.noise:
            hiss = rng.standard_normal(n_samples, np.float32) * np.float32(self.noise)
            if self.noise_s:
                hiss *= at_audio_rate(Clock(sample_rate, n_samples), np.exp(-age_s / self.noise_s))
            sound += hiss
        sound = swept(sound, cutoff_hz, self.sweep, sample_rate)
        return softened(sound, self.drive) if self.drive else sound


@dataclass(frozen=True)
class Modulator:
    """An operator that moves another's phase.

    ratio : of its frequency to the note's; index : how far, in radians, at full velocity
    decay_s, sustain : how that falls; velocity : what share of it the softest note loses
    """

    ratio: float
    index: float
    decay_s: float = 0.5
    sustain: float = 0.2
    velocity: float = 0.6


@dataclass(frozen=True)
class Stack:
    """An operator that is heard, and those that modulate it: side by side, or each the one before it (`chained`)."""

    ratio: float
    gain: float
    modulators: tuple[Modulator, ...]
    chained: bool = False
    decay_s: float = 100.0
    cents: float = 0.0


@dataclass(frozen=True)
class FmTone:
    """Stacks of operators (Chowning, JAES 21(7), 1973), perhaps placed apart: `spread`, 0 to 1."""

    stacks: tuple[Stack, ...]
    spread: float = 0.0
    vibrato_cents: float = 0.0
    vibrato_hz: float = 5.5

    def __call__(
        self, frequency_hz: float, velocity: float, n_samples: int, sample_rate: int, rng: Generator
    ) -> FloatArray:
        """Sound a note: (channel, time), one channel or two."""
        clock = Clock(sample_rate, n_samples)
        age_s = clock.control_seconds()
        pitch = Pitch(frequency_hz, ((0, n_samples, frequency_hz),))
        if self.vibrato_cents:
            swing = self.vibrato_cents / 1200 * np.clip(age_s / 0.4 - 0.5, 0, 1)
            hz = frequency_hz * np.exp2(swing * np.sin(2 * np.pi * self.vibrato_hz * age_s))
            pitch = Pitch(at_audio_rate(clock, hz), ((0, n_samples, float(hz.max())),))
        places = np.linspace(-1, 1, len(self.stacks)) * self.spread if len(self.stacks) > 1 else np.zeros(1)
        sound = np.zeros((2 if places.any() else 1, n_samples), np.float32)
        for stack, place in zip(self.stacks, places, strict=True):
            tone = self._stack(stack, pitch, velocity, clock, rng)
            if len(sound) == 1:
                sound[0] += tone
            else:
                angle = np.pi / 4 * (1 + place)
                sound += tone * np.sqrt(2) * np.array([[np.cos(angle)], [np.sin(angle)]], np.float32)
        return sound

    @staticmethod
    def _stack(stack: Stack, pitch: Pitch, velocity: float, clock: Clock, rng: Generator) -> FloatArray:
        """Sound one: (time,)."""
        age_s = clock.control_seconds()
        top_hz = pitch.pieces[0][2]
        carrier = stack.ratio * 2 ** (stack.cents / 1200)
        moved = np.zeros(clock.n_samples, np.float32)
        # Sidebands further away than (index + 2) times the modulator's frequency are 45 dB down: Carson's rule and one.
        reach_hz = 0.42 * clock.sample_rate - carrier * top_hz
        for modulator in reversed(stack.modulators):
            own_hz = modulator.ratio * top_hz
            limit = max(0.0, reach_hz / own_hz - 2)
            if stack.chained:
                limit /= len(stack.modulators)
            index = modulator.index * (1 - modulator.velocity * (1 - velocity))
            fall = modulator.sustain + (1 - modulator.sustain) * np.exp(-age_s / modulator.decay_s)
            angle = radians(pitch.phase(modulator.ratio, clock.sample_rate))
            if stack.chained:
                angle += moved
                moved = np.zeros_like(moved)
            moved += np.sin(angle) * at_audio_rate(clock, min(index, limit) * fall)
        moved += radians(pitch.phase(carrier, clock.sample_rate)) + np.float32(rng.uniform(0, 0.3))
        tone: FloatArray = np.sin(moved)
        tone *= at_audio_rate(clock, stack.gain * np.exp(-age_s / stack.decay_s))
        return tone
