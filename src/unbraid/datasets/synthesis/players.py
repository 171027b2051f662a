"""How a part's notes become sound: each by itself (`Polyphonic`), or as one line that glides (`Monophonic`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from unbraid.datasets.synthesis.clock import Clock, at_audio_rate, smoothed
from unbraid.datasets.synthesis.motion import Effect
from unbraid.datasets.synthesis.oscillators import Pitch
from unbraid.datasets.synthesis.score import Note, Player
from unbraid.datasets.synthesis.tones import AnalogTone, Tone
from unbraid.datatypes import FloatArray

__all__ = ["Doubled", "Envelope", "Monophonic", "Polyphonic", "add_at", "hz_of", "loudness"]

# Peak of a note at full velocity.
_PEAK = 0.6
_SHORTEST_RELEASE_S = 0.006
# Timbre follows the velocity in this many steps, so that a rendered note serves again; level follows it exactly.
_VELOCITY_STEPS = 4


def hz_of(pitch: float) -> float:
    """Return the frequency of a MIDI number."""
    return float(440 * 2 ** ((pitch - 69) / 12))


def loudness(velocity: float, softness: float) -> float:
    """Return the gain for a velocity: its power `softness`, but never quite nothing."""
    return float(max(min(velocity, 1.0), 0.02) ** softness)


def add_at(samples: FloatArray, sound: FloatArray, start: int) -> None:
    """Add a sound (channel, time) to `samples` (2, time) in place, from sample `start` on; the rest is cut."""
    first, last = max(0, -start), min(sound.shape[1], samples.shape[1] - start)
    if first < last:
        samples[:, start + first : start + last] += sound[:, first:last]


@dataclass(frozen=True)
class Envelope:
    """Level over a note's life: rises, falls to the share `sustain`, and to nothing once the note ends."""

    attack_s: float = 0.003
    decay_s: float = 0.5
    sustain: float = 1.0
    release_s: float = 0.05

    def held(self, age_s: NDArray[Any]) -> NDArray[Any]:
        """Return the level at each age while the note is held."""
        rise = np.clip(age_s / max(self.attack_s, 0.001), 0, 1)
        rise *= 2 - rise
        if self.sustain == 1:
            return rise
        fall = np.exp(-np.maximum(age_s - self.attack_s, 0) / self.decay_s)
        held: NDArray[Any] = rise * (self.sustain + (1 - self.sustain) * fall)
        return held

    def let_go(self, since_s: NDArray[Any]) -> NDArray[Any]:
        """Return the factor that remains at each time after the note's end (1 before it)."""
        left: NDArray[Any] = np.square(np.clip(1 - since_s / self.tail_s, 0, 1))
        return left

    @property
    def tail_s(self) -> float:
        """How long it takes to be silent."""
        return max(self.release_s, _SHORTEST_RELEASE_S)


def _step_s(notes: tuple[Note, ...]) -> float:
    """Return the time between notes, halved or doubled until it is about that of sixteenths."""
    starts = np.unique(np.round([note.start_s for note in notes], 2))
    step_s = float(np.median(np.diff(starts))) if len(starts) > 1 else 0.125
    while step_s > 0.22:
        step_s /= 2
    while step_s < 0.09:
        step_s *= 2
    return step_s


def _finished(
    samples: FloatArray, alone: FloatArray, effects: tuple[Effect, ...], step_s: float, sample_rate: int, seed: int
) -> FloatArray:
    """Send a part through effects, at the level that a note `alone` (2, time) is to have behind them."""
    if not effects:
        return samples * np.float32(_PEAK / max(float(np.abs(alone).max()), 1e-6))
    # What swings makes the same note now louder, now softer: the middle of three times counts.
    n_alone = alone.shape[1]
    repeated = np.tile(alone, 3)
    rng = np.random.default_rng(seed)
    for effect in effects:
        samples = effect(samples, step_s, sample_rate, rng)
        repeated = effect(repeated, step_s, sample_rate, rng)
    peaks = np.abs(repeated).reshape(2, 3, n_alone).max(axis=(0, 2))
    return samples * np.float32(_PEAK / max(float(np.median(peaks)), 1e-6))


def _typical(notes: tuple[Note, ...]) -> Note:
    """Return a note at full velocity as those of the part, by which its level is set."""
    pitch = sorted(note.pitch for note in notes)[len(notes) // 2]
    duration_s = sorted(note.duration_s for note in notes)[len(notes) // 2]
    return Note(0.0, min(duration_s, 1.0), pitch, 1.0)


@dataclass(frozen=True)
class Polyphonic:
    """Every note by itself; the same pitch at about the same velocity is rendered once or a few times, and used again.

    softness : power of the velocity that is the gain
    n_versions : renderings of the same note, drawn from at random
    cents : how far one note may be out of tune
    """

    tone: Tone
    envelope: Envelope
    effects: tuple[Effect, ...] = ()
    pan: float = 0.0
    softness: float = 1.4
    n_versions: int = 2
    cents: float = 1.5

    def __call__(self, notes: tuple[Note, ...], n_samples: int, sample_rate: int, rng: Generator) -> FloatArray:
        """Play: (2, n_samples)."""
        if not notes:
            return np.zeros((2, n_samples), np.float32)
        seed = int(rng.integers(2**63))
        samples = self._dry(notes, n_samples, sample_rate, rng)
        if not self.effects:
            return samples
        typical = _typical(notes)
        n_heard = round((typical.duration_s + self.envelope.tail_s + 0.1) * sample_rate)
        alone = self._dry((typical,), n_heard, sample_rate, np.random.default_rng(seed))
        return _finished(samples, alone, self.effects, _step_s(notes), sample_rate, seed)

    def _dry(self, notes: tuple[Note, ...], n_samples: int, sample_rate: int, rng: Generator) -> FloatArray:
        samples = np.zeros((2, n_samples), np.float32)
        n_tail = round(self.envelope.tail_s * sample_rate)
        tail = self.envelope.let_go(np.arange(n_tail) / sample_rate).astype(np.float32)
        groups: dict[tuple[int, int, int], list[Note]] = {}
        for note, version in zip(notes, rng.integers(self.n_versions, size=len(notes)), strict=True):
            step = max(1, round(note.velocity * _VELOCITY_STEPS))
            groups.setdefault((note.pitch, step, int(version)), []).append(note)
        for (pitch, step, _), group in groups.items():
            n_held = [max(1, round(note.duration_s * sample_rate)) for note in group]
            starts = [round(note.start_s * sample_rate) for note in group]
            n_needed = max(min(held + n_tail, n_samples - start) for held, start in zip(n_held, starts, strict=True))
            if n_needed <= 0:
                continue
            body = self._body(pitch, step / _VELOCITY_STEPS, n_needed, sample_rate, rng)
            for note, held, start in zip(group, n_held, starts, strict=True):
                gain = np.float32(loudness(note.velocity, self.softness))
                add_at(samples, body[:, :held] * gain, start)
                dying = body[:, held : held + n_tail]
                add_at(samples, dying * (tail[: dying.shape[1]] * gain), start + held)
        return samples

    def _body(self, pitch: int, velocity: float, n_samples: int, sample_rate: int, rng: Generator) -> FloatArray:
        """Return a note as long as it is ever held, at full level: (2, n_samples)."""
        frequency_hz = hz_of(pitch + rng.uniform(-self.cents, self.cents) / 100)
        sound = self.tone(frequency_hz, velocity, n_samples, sample_rate, rng)
        clock = Clock(sample_rate, n_samples)
        sound = sound * self._envelope(clock)
        sound *= np.float32(_PEAK / max(float(np.abs(sound).max()), 1e-6))
        if len(sound) == 2:
            return sound
        return _panned(sound[0], self.pan)

    def _envelope(self, clock: Clock) -> FloatArray:
        level = at_audio_rate(clock, self.envelope.held(clock.control_seconds()))
        n_exact = min(clock.n_samples, round(0.02 * clock.sample_rate))
        # The beginning sample by sample: an attack may be shorter than the step of a curve.
        level[:n_exact] = self.envelope.held(np.arange(n_exact) / clock.sample_rate)
        return level


@dataclass(frozen=True)
class Monophonic:
    """One line: the latest note sounds.

    glide_s : time constant of the way from note to note; `always_glides`, or only from a note that is still held
    legato : whether a note that follows a held one goes on in its envelope
    accent_octaves : of the filter, for notes above a velocity of 0.8
    wobble_octaves, wobbles : swing of the filter, in turns to four steps, drawn for each note from this list
    """

    tone: AnalogTone
    envelope: Envelope
    effects: tuple[Effect, ...] = ()
    pan: float = 0.0
    softness: float = 1.2
    glide_s: float = 0.0
    always_glides: bool = False
    legato: bool = False
    accent_octaves: float = 0.0
    wobble_octaves: float = 0.0
    wobbles: tuple[int, ...] = (1,)

    def __call__(self, notes: tuple[Note, ...], n_samples: int, sample_rate: int, rng: Generator) -> FloatArray:
        """Play: (2, n_samples)."""
        samples = np.zeros((2, n_samples), np.float32)
        if not notes:
            return samples
        seed = int(rng.integers(2**63))
        step_s = _step_s(notes)
        for phrase in _phrases(sorted(notes, key=lambda note: (note.start_s, note.pitch))):
            start = round(phrase[0].start_s * sample_rate)
            if start < n_samples:
                line = self._line(phrase, n_samples - start, step_s, sample_rate, rng)
                add_at(samples, line, start)
        typical = _typical(notes)
        n_heard = round((typical.duration_s + self.envelope.tail_s + 0.1) * sample_rate)
        alone = self._line([typical], n_heard, step_s, sample_rate, np.random.default_rng(seed))
        return _finished(samples, alone, self.effects, step_s, sample_rate, seed)

    def _line(self, notes: list[Note], n_most: int, step_s: float, sample_rate: int, rng: Generator) -> FloatArray:
        """Play notes without long rests between them, from the start of the first on: (2, time)."""
        starts = np.array([note.start_s - notes[0].start_s for note in notes])
        held_s = np.array([note.duration_s for note in notes])
        velocities = np.array([note.velocity for note in notes])
        length_s = float((starts + held_s).max()) + self.envelope.tail_s + 0.012
        clock = Clock(sample_rate, min(n_most, round(length_s * sample_rate)))
        time_s = clock.control_seconds()
        at = np.maximum(np.searchsorted(starts, time_s + 1e-9, side="right") - 1, 0)
        age_s = time_s - starts[at]
        joined = np.concatenate([[False], starts[1:] < (starts + held_s)[:-1] + 0.005])
        first = np.maximum.accumulate(np.where(joined & self.legato, 0, np.arange(len(notes))))
        sounding_s = time_s - starts[first][at]

        semitones = self._gliding(notes, starts, joined, age_s, at)
        hz = 440 * np.exp2((semitones + self.tone.bent(sounding_s, time_s, rng) - 69) / 12)
        velocity = velocities[at] + 0.0
        cutoff_hz = self.tone.sweep.cutoff(sounding_s, hz, velocity, rng)
        cutoff_hz = cutoff_hz * np.exp2(self.accent_octaves * np.clip((velocity - 0.8) / 0.1, 0, 1))
        if self.wobble_octaves:
            rates_hz = rng.choice(self.wobbles, len(notes))[at] / (4 * step_s)
            cutoff_hz = cutoff_hz * np.exp2(-self.wobble_octaves * np.cos(2 * np.pi * rates_hz * age_s))
        if self.tone.sweep.kind.startswith("low"):
            cutoff_hz = np.maximum(cutoff_hz, 0.9 * hz)

        pitch = _pieces(at_audio_rate(clock, hz), np.round(starts * sample_rate).astype(int))
        sound = self.tone.sound(pitch, cutoff_hz, sounding_s, sample_rate, rng)
        gains = np.array([loudness(velocity, self.softness) for velocity in velocities])
        level = gains[at] * self.envelope.held(sounding_s) * self.envelope.let_go(age_s - held_s[at])
        sound *= at_audio_rate(clock, _rounded(clock, level))
        return sound if len(sound) == 2 else _panned(sound[0], self.pan)

    def _gliding(
        self, notes: list[Note], starts: NDArray[Any], joined: NDArray[Any], age_s: NDArray[Any], at: NDArray[Any]
    ) -> NDArray[Any]:
        """Return the pitch as a MIDI number at each point of a curve."""
        targets: NDArray[Any] = np.array([float(note.pitch) for note in notes])
        if not self.glide_s:
            steps: NDArray[Any] = targets[at]
            return steps
        begins = targets.copy()
        for i in range(1, len(notes)):
            if joined[i] or self.always_glides:
                left = np.exp(-(starts[i] - starts[i - 1]) / self.glide_s)
                begins[i] = targets[i - 1] + (begins[i - 1] - targets[i - 1]) * left
        gliding: NDArray[Any] = targets[at] + (begins - targets)[at] * np.exp(-np.maximum(age_s, 0) / self.glide_s)
        return gliding


def _phrases(notes: list[Note]) -> Iterator[list[Note]]:
    """Cut a line at rests, and also between detached notes where it would get long."""
    phrase: list[Note] = []
    end_s = 0.0
    for note in notes:
        long = bool(phrase) and note.start_s - phrase[0].start_s > 4
        if phrase and note.start_s - end_s > (0.005 if long else 0.1):
            yield phrase
            phrase = []
        phrase.append(note)
        end_s = max(end_s, note.start_s + note.duration_s) if len(phrase) > 1 else note.start_s + note.duration_s
    if phrase:
        yield phrase


def _pieces(hz: FloatArray, starts: NDArray[Any]) -> Pitch:
    """Return a moving pitch, cut where notes start."""
    bounds = [0, *(int(start) for start in np.unique(starts) if 0 < start < len(hz)), len(hz)]
    pieces = tuple((start, stop, float(hz[start:stop].max())) for start, stop in pairwise(bounds) if start < stop)
    return Pitch(hz, pieces)


def _panned(samples: FloatArray, pan: float) -> FloatArray:
    """Place a mono sound between left (−1) and right (1) at constant power: (2, time)."""
    angle = np.pi / 4 * (pan + 1)
    return np.stack([samples * np.float32(np.cos(angle)), samples * np.float32(np.sin(angle))])


def _rounded(clock: Clock, level: NDArray[Any]) -> NDArray[Any]:
    """Take the clicks out of a level that jumps, by its mean over the last 3 ms."""
    width_s = 0.003
    late = round(width_s * clock.sample_rate / 64) + 1
    delayed = np.concatenate([np.zeros(late), level[:-late]]) if len(level) > late else np.zeros_like(level)
    return smoothed(clock, delayed, width_s)


@dataclass(frozen=True)
class Doubled:
    """The same part played twice, the second take on the other side (`width` apart: 0 to 1)."""

    player: Player
    width: float

    def __call__(self, notes: tuple[Note, ...], n_samples: int, sample_rate: int, rng: Generator) -> FloatArray:
        """Play: (2, n_samples)."""
        samples = np.zeros((2, n_samples), np.float32)
        for side in (-1, 1):
            late = [abs(float(late_s)) for late_s in rng.normal(0, 0.003, len(notes))]
            take = tuple(
                replace(note, start_s=note.start_s + min(late_s, 0.008))
                for note, late_s in zip(notes, late, strict=True)
            )
            mono = self.player(take, n_samples, sample_rate, rng).mean(axis=0)
            samples += _panned(mono, side * self.width)
        return samples
