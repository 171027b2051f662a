"""Band-limited oscillators: one turn of a wave as a table, read at a pitch that may move.

A phase is an unsigned integer of 32 bits, 2³² to the turn: it wraps by itself, exactly, however long the sound is.
A table holds only harmonics below 0.45 times the sample rate, so that nothing folds back as long as the pitch stays
within 180 cents of the one that the table was made for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from unbraid.datasets.synthesis.clock import Clock, at_audio_rate
from unbraid.datatypes import FloatArray

__all__ = ["Phase", "Pitch", "Wave", "drawn_spectrum", "looked_up", "radians", "wavetable"]

Phase = NDArray[np.uint32]

# A table is read without interpolation: at 2¹⁴ points that noise lies 60 dB below a saw of 200 harmonics.
_TABLE_BITS = 14
_TURN = 2**32


@dataclass(frozen=True, eq=False)
class Pitch:
    """What an oscillator is to play.

    hz : a number, or an ndarray [shape=(time,), float32] with the pitch of each sample
    pieces : first sample, sample after the last, and highest pitch in Hz of each stretch that one table serves
    """

    hz: float | FloatArray
    pieces: tuple[tuple[int, int, float], ...]

    @property
    def n_samples(self) -> int:
        """How long it is played."""
        return self.pieces[-1][1]

    @property
    def middle_hz(self) -> float:
        """Its mean, by which detunings are measured."""
        return float(np.mean(self.hz))

    def phase(self, ratio: float, sample_rate: int) -> Phase:
        """Return the phase [shape=(time,), uint32] at this pitch times `ratio`, from 0 on."""
        if isinstance(self.hz, float):
            return _steady_phase(self.hz * ratio, self.n_samples, sample_rate)
        # Beyond half the sample rate a table has nothing to say anyway.
        steps = np.minimum(self.hz * np.float32(ratio * _TURN / sample_rate), np.float32(_TURN // 2)).astype(np.uint32)
        return np.cumsum(steps, dtype=np.uint32)


@dataclass(frozen=True)
class Wave:
    """An oscillator, or several in unison.

    shape : "saw", "pulse", "triangle", "sine" or "drawn"
    semitones : above the note; gain : of the whole unison
    n_voices, detune_cents : how many, and how far the outermost are from the middle
    width, width_depth, width_hz : of a pulse, in turns, and how it moves
    spectrum : amplitudes of harmonics 1, 2, … of a drawn wave
    """

    shape: str
    semitones: float = 0.0
    gain: float = 1.0
    n_voices: int = 1
    detune_cents: float = 0.0
    width: float = 0.5
    width_depth: float = 0.0
    width_hz: float = 1.0
    spectrum: tuple[float, ...] = ()

    def add_to(self, sound: FloatArray, pitch: Pitch, spread: float, sample_rate: int, rng: Generator) -> None:
        """Add it, in place, to `sound` [shape=(channel, time), float32]: of two channels, or of one for no spread."""
        ratio = 2 ** (self.semitones / 12)
        phase = pitch.phase(ratio, sample_rate)
        top = ratio * 2 ** (self.detune_cents / 1200)
        # A table serves a sixth of an octave, rounded up, so that it is often at hand.
        tables = [
            _table(self, 2 ** (np.ceil(6 * np.log2(top_hz * top)) / 6), sample_rate) for _, _, top_hz in pitch.pieces
        ]
        width = self._width(len(phase), sample_rate, rng)
        places = np.linspace(-1, 1, self.n_voices) if self.n_voices > 1 else np.zeros(1)
        # Equal steps would beat in step.
        detunings = places * self.detune_cents * rng.uniform(0.85, 1.0, self.n_voices)
        for place, cents in zip(places[rng.permutation(self.n_voices)], detunings, strict=True):
            beat_hz = pitch.middle_hz * ratio * (2 ** (cents / 1200) - 1)
            turned = phase + np.uint32(rng.integers(_TURN))
            if beat_hz:
                turned += _steady_phase(beat_hz, len(phase), sample_rate)
            voice = looked_up(turned, tables, pitch)
            if width is not None:
                voice -= looked_up(turned + width, tables, pitch)
            voice *= np.float32(self.gain / np.sqrt(self.n_voices))
            if len(sound) == 1:
                sound[0] += voice
            else:
                angle = np.pi / 4 * (1 + spread * place)
                sound[0] += voice * np.float32(np.sqrt(2) * np.cos(angle))
                sound[1] += voice * np.float32(np.sqrt(2) * np.sin(angle))

    def harmonics(self) -> NDArray[Any]:
        """Amplitudes of as many harmonics as a table can have."""
        number = np.arange(1, 2 ** (_TABLE_BITS - 1), dtype=np.float64)
        if self.shape in ("saw", "pulse"):
            return 0.64 / number
        if self.shape == "triangle":
            return np.where(number % 2 == 1, 0.81 / number**2, 0) * np.where(number % 4 == 3, -1, 1)
        return np.array(self.spectrum if self.shape == "drawn" else (1.0,))

    def _width(self, n_samples: int, sample_rate: int, rng: Generator) -> Phase | np.uint32 | None:
        """How far behind the first saw the second is that makes a pulse of two; None for other shapes."""
        if self.shape != "pulse":
            return None
        if not self.width_depth:
            return np.uint32(self.width * _TURN)
        clock = Clock(sample_rate, n_samples)
        swing = np.sin(2 * np.pi * (self.width_hz * clock.control_seconds() + rng.random()))
        width = np.clip(self.width + self.width_depth * swing, 0.05, 0.95)
        return (at_audio_rate(clock, width) * np.float32(_TURN)).astype(np.uint32)


def _steady_phase(frequency_hz: float, n_samples: int, sample_rate: int) -> Phase:
    step = np.uint32(round(frequency_hz / sample_rate * _TURN) % _TURN)
    return np.arange(n_samples, dtype=np.uint32) * step


def wavetable(harmonics: NDArray[Any], frequency_hz: float, sample_rate: int) -> FloatArray:
    """Return one turn [shape=(2¹⁴,), float32] of Σ harmonics[k − 1] sin(2πkt), as far as a sound of this pitch goes."""
    from scipy.fft import irfft

    n_harmonics = min(len(harmonics), int(0.45 * sample_rate / frequency_hz), 2 ** (_TABLE_BITS - 1) - 1)
    bins = np.zeros(2 ** (_TABLE_BITS - 1) + 1, np.complex64)
    bins[1 : n_harmonics + 1] = -1j * harmonics[:n_harmonics] * 2 ** (_TABLE_BITS - 1)
    turn: FloatArray = irfft(bins)
    return turn


@lru_cache(maxsize=256)
def _table(wave: Wave, frequency_hz: float, sample_rate: int) -> FloatArray:
    table = wavetable(wave.harmonics(), frequency_hz, sample_rate)
    table.setflags(write=False)
    return table


def looked_up(phase: Phase, tables: list[FloatArray], pitch: Pitch) -> FloatArray:
    """Return what the table of each piece of the pitch has at each phase: (time,)."""
    index = phase >> np.uint32(32 - _TABLE_BITS)
    sound = np.empty(len(phase), np.float32)
    for table, (start, stop, _) in zip(tables, pitch.pieces, strict=True):
        sound[start:stop] = table[index[start:stop]]
    return sound


def radians(phase: Phase) -> FloatArray:
    """Return a phase as an angle between −π and π."""
    angle: FloatArray = phase.view(np.int32) * np.float32(2 * np.pi / _TURN)
    return angle


def drawn_spectrum(n_harmonics: int, tilt: float, rng: Generator) -> tuple[float, ...]:
    """Draw amplitudes that fall as k^−tilt on the whole, with a hump somewhere; the fundamental has its full share."""
    number = np.arange(1, n_harmonics + 1)
    hump = 1 + rng.uniform(0, 3) * np.exp(-(((number - rng.uniform(2, 9)) / rng.uniform(0.7, 3)) ** 2))
    amplitudes = number**-tilt * hump * rng.uniform(0, 1, n_harmonics) * rng.choice([-1, 1], n_harmonics)
    if rng.random() < 0.25:
        amplitudes[1::2] *= 0.1  # hollow, as a clarinet
    amplitudes[0] = 1.0
    return tuple(float(amplitude) for amplitude in amplitudes)
