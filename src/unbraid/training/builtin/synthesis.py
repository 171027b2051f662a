"""Electronic sounds from nothing: oscillators for basses, leads and pads, kick drums, and a reverberation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from unbraid.datatypes import FloatArray

__all__ = ["Patch", "bass_patch", "kick", "lead_patch", "play_patch", "reverberate"]


@dataclass(frozen=True)
class Patch:
    """A synthesiser voice: how it oscillates, how its low-pass and its level move.

    shape : "saw", "square", "sine" or "fm"
    n_voices, detune_cents : unison oscillators and how far they are spread
    brightness, decay_s : partials above about `brightness` are soft at first; softer still after `decay_s`
    attack_s, release_s, sustain : level envelope
    sub : level of a sine an octave below
    """

    shape: str
    n_voices: int
    detune_cents: float
    brightness: float
    decay_s: float
    attack_s: float
    release_s: float
    sustain: float
    sub: float


def bass_patch(rng: np.random.Generator) -> Patch:
    """Draw a bass: dark to buzzing, plucked to held."""
    return Patch(
        shape=str(rng.choice(["saw", "square", "sine", "fm"], p=[0.35, 0.25, 0.2, 0.2])),
        n_voices=int(rng.integers(1, 4)),
        detune_cents=float(rng.uniform(0, 15)),
        brightness=float(np.exp(rng.uniform(np.log(1.5), np.log(25)))),
        decay_s=float(np.exp(rng.uniform(np.log(0.08), np.log(2)))),
        attack_s=float(rng.uniform(0.002, 0.02)),
        release_s=float(rng.uniform(0.02, 0.12)),
        sustain=float(rng.uniform(0.1, 1)),
        sub=float(rng.choice([0, 0, 0.5, 1])),
    )


def lead_patch(rng: np.random.Generator) -> Patch:
    """Draw a lead, pluck or pad: one to five oscillators, bright or mellow."""
    return Patch(
        shape=str(rng.choice(["saw", "square", "sine", "fm"], p=[0.4, 0.25, 0.1, 0.25])),
        n_voices=int(rng.integers(1, 6)),
        detune_cents=float(rng.uniform(2, 30)),
        brightness=float(np.exp(rng.uniform(np.log(2), np.log(40)))),
        decay_s=float(np.exp(rng.uniform(np.log(0.1), np.log(4)))),
        attack_s=float(np.exp(rng.uniform(np.log(0.003), np.log(0.3)))),
        release_s=float(rng.uniform(0.05, 0.5)),
        sustain=float(rng.uniform(0.05, 1)),
        sub=0.0,
    )


def play_patch(
    patch: Patch, pitch: float, velocity: int, duration_s: float, sample_rate: int, rng: np.random.Generator
) -> FloatArray:
    """Play one note [shape=(2, time)] by summing partials, so that nothing aliases."""
    n_samples = int((duration_s + patch.release_s) * sample_rate) + 1
    time_s = np.arange(n_samples, dtype=np.float32) / np.float32(sample_rate)
    note = np.zeros((2, n_samples), np.float32)
    for index in range(patch.n_voices):
        cents = patch.detune_cents * (index - (patch.n_voices - 1) / 2)
        frequency_hz = 440 * 2 ** ((pitch - 69 + cents / 100) / 12)
        tone = _oscillate(patch, frequency_hz, time_s, sample_rate, float(rng.uniform(0, 6.28)))
        pan = 0.5 + (0.4 * (index / max(1, patch.n_voices - 1) - 0.5) if patch.n_voices > 1 else 0)
        note += np.array([[np.cos(pan * np.pi / 2)], [np.sin(pan * np.pi / 2)]], np.float32) * tone
    if patch.sub:
        note += np.float32(patch.sub * 0.5) * np.sin(2 * np.pi * 220 * 2 ** ((pitch - 69) / 12) * time_s)
    envelope = np.minimum(1, time_s / patch.attack_s)
    envelope *= patch.sustain + (1 - patch.sustain) * np.exp(-time_s / patch.decay_s)
    envelope *= np.clip((duration_s + patch.release_s - time_s) / patch.release_s, 0, 1)
    shaped: FloatArray = (note * (envelope * np.float32(velocity / 127))).astype(np.float32, copy=False)
    return shaped


def _oscillate(patch: Patch, frequency_hz: float, time_s: FloatArray, sample_rate: int, phase: float) -> FloatArray:
    """One oscillator [shape=(time,)]; its partials fade with a slope that steepens after `decay_s`."""
    angle: FloatArray = np.float32(2 * np.pi * frequency_hz) * time_s + np.float32(phase)
    if patch.shape == "sine":
        sine: FloatArray = np.sin(angle)
        return sine
    closing: FloatArray = np.exp(-time_s / np.float32(patch.decay_s))
    if patch.shape == "fm":
        index = closing * np.float32(patch.brightness * 0.25)  # of the modulation; it falls to zero
        modulated: FloatArray = np.sin(angle + index * np.sin(2 * angle))
        return modulated
    step = 2 if patch.shape == "square" else 1
    top = int(min(2.5 * patch.brightness, 30, 0.45 * sample_rate / frequency_hz))
    tone = np.zeros_like(time_s)
    rotor = np.exp(1j * angle).astype(np.complex64)
    power, turn = rotor.copy(), rotor**step
    for partial in range(1, max(top, 1) + 1, step):
        fixed = 1 / partial / (1 + (partial / patch.brightness) ** 2)
        tone += np.float32(fixed) * power.imag * (closing if partial > 0.5 * patch.brightness else np.float32(1))
        power *= turn
    return tone


def kick(rng: np.random.Generator, sample_rate: int) -> FloatArray:
    """Draw an electronic kick drum [shape=(2, time)]: a falling sine with a click."""
    time_s = np.arange(int(rng.uniform(0.15, 0.6) * sample_rate)) / sample_rate
    low_hz, drop_hz, drop_s = rng.uniform(40, 65), rng.uniform(50, 250), rng.uniform(0.01, 0.06)
    phase = 2 * np.pi * (low_hz * time_s + drop_hz * drop_s * (1 - np.exp(-time_s / drop_s)))
    body = np.sin(phase) * np.exp(-time_s / rng.uniform(0.05, 0.25))
    body *= np.clip((time_s[-1] - time_s) / 0.02, 0, 1)
    click = rng.standard_normal(len(time_s)) * np.exp(-time_s / 0.003) * rng.uniform(0, 0.4)
    mono = np.tanh(rng.uniform(0.8, 3) * (body + click))
    return np.stack([mono, mono]).astype(np.float32)


def reverberate(samples: FloatArray, rng: np.random.Generator, sample_rate: int) -> FloatArray:
    """Add a diffuse tail [shape=(2, time), same as `samples`]: decaying noise, different on each side."""
    length_s = float(rng.uniform(0.3, 2))
    n_tail = int(length_s * sample_rate)
    time_s = np.arange(n_tail) / sample_rate
    tail = rng.standard_normal((2, n_tail)) * np.exp(-6 * time_s / length_s)
    tail[:, : int(rng.uniform(0.005, 0.04) * sample_rate)] = 0
    tail *= rng.uniform(0.1, 0.6) / np.sqrt(np.sum(tail**2, axis=1, keepdims=True))
    size = scipy.fft.next_fast_len(samples.shape[1] + n_tail, real=True)
    spectrum = scipy.fft.rfft(samples, size) * scipy.fft.rfft(tail.astype(np.float32), size)
    wet = scipy.fft.irfft(spectrum, size)[:, : samples.shape[1]]
    result: FloatArray = (samples + wet).astype(np.float32)
    return result
