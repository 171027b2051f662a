"""Syllables that nobody spoke: vowels from formants, consonants from noise, as the frames of a vocoder.

Vowels are cascades of resonances (Klatt, "Software for a cascade/parallel formant synthesizer", JASA 67(3), 1980) at
the frequencies of Peterson & Barney (JASA 24, 1952, men); a voice is a size of the mouth, a slope of the glottis'
spectrum, a share of breath, and its own way of saying each vowel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from unbraid.datasets.synthesis.syllables import Material, Syllable
from unbraid.datasets.synthesis.vocoder import FRAME_S, Utterance, response_length
from unbraid.datatypes import FloatArray

__all__ = ["VOICE_TYPES", "invent_speech"]

# Middle of the range (MIDI number), size of the formants relative to a man's.
VOICE_TYPES = {
    "bass": (45, 0.9),
    "baritone": (50, 0.96),
    "tenor": (57, 1.03),
    "countertenor": (62, 1.05),
    "alto": (60, 1.12),
    "mezzo": (64, 1.16),
    "soprano": (69, 1.2),
    "child": (70, 1.32),
}

_VOWELS_HZ = {
    "iy": (270, 2290, 3010),
    "ih": (390, 1990, 2550),
    "eh": (530, 1840, 2480),
    "ae": (660, 1720, 2410),
    "ah": (520, 1190, 2390),
    "aa": (730, 1090, 2440),
    "ao": (570, 840, 2410),
    "uh": (440, 1020, 2240),
    "uw": (300, 870, 2240),
    "er": (490, 1350, 1690),
}
_DIPHTHONGS = (("aa", "iy"), ("aa", "uw"), ("ao", "iy"), ("eh", "iy"), ("ao", "uw"))
# Formants towards which voiced consonants go, and how much quieter than a vowel they are.
_SONORANTS = {
    "m": ((250, 1000, 2200), 10),
    "n": ((250, 1500, 2500), 10),
    "ng": ((250, 1900, 2600), 12),
    "l": ((360, 1100, 2700), 6),
    "r": ((420, 1250, 1650), 5),
    "w": ((290, 650, 2200), 6),
    "y": ((260, 2200, 3000), 7),
    "b": ((200, 800, 2200), 24),
    "d": ((200, 1700, 2600), 24),
}
# Of noise: middle and width of its band in octaves, how much quieter, length in seconds, silence before it, voiced.
_NOISES = {
    "s": (7000, 0.5, 12, 0.11, 0.0, False),
    "sh": (3500, 0.6, 10, 0.11, 0.0, False),
    "f": (6500, 1.6, 24, 0.09, 0.0, False),
    "th": (6000, 1.4, 26, 0.08, 0.0, False),
    "h": (1500, 1.5, 18, 0.07, 0.0, False),
    "p": (900, 1.4, 16, 0.035, 0.05, False),
    "t": (4800, 0.8, 11, 0.045, 0.05, False),
    "k": (2200, 0.6, 12, 0.05, 0.05, False),
    "ch": (3800, 0.6, 10, 0.08, 0.04, False),
    "z": (6500, 0.5, 15, 0.08, 0.0, True),
    "v": (5000, 1.6, 20, 0.06, 0.0, True),
}


@dataclass(frozen=True)
class _Voice:
    """Whose mouth it is: vowels in Hz [each shape=(formant,)], and what the glottis sends."""

    vowels: dict[str, NDArray[Any]]
    scale: float
    upper_hz: NDArray[Any]  # the formants above the third
    width: float  # of all formants, relative
    corner_hz: float  # the glottis' spectrum falls by 12 dB an octave from here on
    breath: FloatArray  # share of noise in the bands of an Utterance


def _draw_voice(rng: Generator, scale: float) -> _Voice:
    """Draw a voice whose formants are `scale` times a man's."""
    vowels = {name: np.array(hz) * scale * np.exp2(rng.normal(0, 0.07, 3)) for name, hz in _VOWELS_HZ.items()}
    upper_hz = scale * np.array([3400, 4400, 5500, 6600, 7700]) * np.exp2(rng.normal(0, 0.04, 5))
    if rng.random() < 0.3:  # the singer's formant: the fourth and fifth close together (Sundberg 1974)
        upper_hz[:2] = scale * np.array([2850, 3250])
    loudest = float(rng.choice([rng.uniform(0.02, 0.15), rng.uniform(0.1, 0.7)]))
    breath = np.clip(loudest * np.array([0.02, 0.08, 0.3, 0.7, 1.0]), 0, 1).astype(np.float32)
    corner_hz = float(np.exp(rng.uniform(np.log(250), np.log(1500))))
    return _Voice(vowels, scale, upper_hz, float(rng.uniform(0.8, 1.6)), corner_hz, breath)


def _vowel_power(voice: _Voice, formants_hz: NDArray[Any], sample_rate: int) -> NDArray[Any]:
    """Return logarithms of power spectra: of formants (frame, 3), (frame, bin)."""
    hz = np.linspace(0, sample_rate / 2, response_length(sample_rate) // 2 + 1)
    log_power = np.zeros((len(formants_hz), len(hz)))
    upper = np.broadcast_to(voice.upper_hz, (len(formants_hz), len(voice.upper_hz)))
    for formant_hz in np.concatenate([formants_hz, upper], axis=1).T:
        width = voice.width * (50 + 0.04 * formant_hz[:, None])
        squared = np.square(formant_hz[:, None])
        # Of unit gain at 0 Hz; the bell of a resonance of two poles.
        log_power -= np.log(np.square(1 - np.square(hz) / squared) + np.square(hz * width) / np.square(squared))
    # Beyond the last resonance modelled, those not modelled hold the level up: its fall is limited.
    beyond = np.maximum(hz / voice.upper_hz[-1], 1)
    log_power += 2 * (3 + len(voice.upper_hz)) * 2 * np.log(beyond) - 6 * np.log(beyond)
    radiated = np.square(hz) / (np.square(hz) + 300.0**2) + 1e-6
    return np.asarray(log_power - 2 * np.log(1 + np.square(hz / voice.corner_hz)) + np.log(radiated))


class _Tape:
    """Frames as they are said: targets of the formants, loudness, noise; lists of one entry for each frame."""

    def __init__(self) -> None:
        self.formants_hz: list[NDArray[Any]] = []
        self.level_db: list[float] = []
        self.voiced: list[bool] = []
        self.noise: list[str] = []
        self.noise_db: list[float] = []

    def say(
        self, seconds: float, formants_hz: NDArray[Any], level_db: float, *, noise: str = "", noise_db: float = -200.0
    ) -> None:
        """Add frames that are all alike; a level of −200 dB is none."""
        for _ in range(max(1, round(seconds / FRAME_S))):
            self.formants_hz.append(formants_hz)
            self.level_db.append(level_db)
            self.voiced.append(level_db > -200)
            self.noise.append(noise)
            self.noise_db.append(noise_db)

    def __len__(self) -> int:
        return len(self.level_db)


def invent_speech(rng: Generator, sample_rate: int, voice_type: str) -> Material:
    """Invent a voice of one of VOICE_TYPES and what it says: 24 to 40 syllables.

    Only `rng` and the arguments decide, the sample rate about nothing but the sampling.
    """
    centre, scale = VOICE_TYPES[voice_type]
    voice = _draw_voice(rng, scale * float(np.exp2(rng.normal(0, 0.06))))
    tape, syllables = _Tape(), []
    # Few vowels and consonants make an "ooh" or "na na na", many make a text.
    vowels = rng.permutation(list(_VOWELS_HZ))[: int(rng.integers(1, len(_VOWELS_HZ) + 1))].tolist()
    consonants = rng.permutation([*_NOISES, *_SONORANTS])[: int(rng.choice([1, 2, 6, 20]))].tolist()
    spoken, diphthongs = rng.uniform(0.4, 1), rng.uniform(0, 0.4)
    for _ in range(int(rng.integers(24, 41))):
        start = len(tape)
        vowel = voice.vowels[vowels[int(rng.integers(len(vowels)))]]
        if rng.random() < spoken:
            _say_consonant(tape, voice, consonants[int(rng.integers(len(consonants)))], vowel, rng)
        vowel_start = len(tape)
        if rng.random() < diphthongs:
            first, second = (voice.vowels[name] for name in _DIPHTHONGS[int(rng.integers(len(_DIPHTHONGS)))])
            tape.say(0.14, first, 0.0)
            tape.say(0.08, second, -2.0)
        else:
            tape.say(float(rng.uniform(0.12, 0.25)), vowel, 0.0)
        vowel_end = len(tape)
        if rng.random() < 0.3 * spoken:
            _say_consonant(tape, voice, consonants[int(rng.integers(len(consonants)))], vowel, rng)
        syllables.append(Syllable(start, vowel_start, vowel_end, len(tape)))
    return Material(_record(tape, voice, sample_rate, centre - 7), tuple(syllables), float(centre))


def _say_consonant(tape: _Tape, voice: _Voice, name: str, vowel: NDArray[Any], rng: Generator) -> None:
    """Add the frames of a consonant of _SONORANTS or _NOISES."""
    if name in _SONORANTS:
        formants_hz, quieter_db = _SONORANTS[name]
        tape.say(float(rng.uniform(0.04, 0.1)), np.array(formants_hz) * voice.scale, -float(quieter_db))
        return
    _, _, quieter_db, seconds, silence_s, voiced = _NOISES[name]
    if silence_s:
        tape.say(silence_s, vowel, -200.0)
    level_db = -18.0 if voiced else -200.0
    tape.say(seconds * rng.uniform(0.7, 1.3), vowel, level_db, noise=name, noise_db=rng.uniform(-4, 4) - quieter_db)


def _record(tape: _Tape, voice: _Voice, sample_rate: int, spoken: float) -> Utterance:
    """Turn what was said into frames; transitions last some 50 ms."""
    from scipy.ndimage import uniform_filter1d

    formants_hz = uniform_filter1d(np.array(tape.formants_hz), 10, axis=0, mode="nearest")
    voiced = np.array(tape.voiced)
    level_db = uniform_filter1d(np.maximum(tape.level_db, -60.0), 4, mode="nearest")
    log_power = _vowel_power(voice, formants_hz, sample_rate)
    # All vowels are about as loud; a wide mouth is louder by nature.
    loudness = np.log(np.exp(log_power).mean(axis=1, keepdims=True))
    power = (
        np.exp(log_power - 0.7 * loudness - 0.3 * loudness.mean()) * 10 ** (level_db[:, None] / 10) * voiced[:, None]
    )
    hz = np.linspace(0, sample_rate / 2, power.shape[1])
    noise = np.zeros_like(power)
    for name, (middle_hz, octaves, *_rest) in _NOISES.items():
        bell = np.exp(-0.5 * np.square(np.log2(np.maximum(hz, 20) / (middle_hz * voice.scale**0.5)) / octaves))
        said = np.array([entry == name for entry in tape.noise])
        noise += said[:, None] * 10 ** (np.array(tape.noise_db)[:, None] / 10) * bell / bell.mean()
    both = power + uniform_filter1d(noise, 2, axis=0)
    noisiness = np.broadcast_to(voice.breath, (len(tape), len(voice.breath))).copy()
    edges = np.searchsorted(hz, (0, 1000, 2000, 4000, 8000)).clip(max=len(hz) - 1)
    heard = np.add.reduceat(noise, edges, axis=1) / (np.add.reduceat(both, edges, axis=1) + 1e-12)
    noisiness = np.where(voiced[:, None], np.maximum(noisiness, heard), 1.0)
    f0 = np.where(voiced, 440 * 2 ** ((spoken - 69) / 12), 0.0)
    log_both = np.log(np.maximum(both, 1e-12))
    return Utterance(f0.astype(np.float32), log_both.astype(np.float16), noisiness.astype(np.float16), sample_rate)
