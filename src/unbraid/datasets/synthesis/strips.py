"""The channel strip of one part: what engineers do to a voice, a kit or a guitar before it meets the others.

What is done is drawn anew for each part, from habits that go with its role.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.random import Generator

from unbraid.datasets.synthesis.distortion import amplify, crush, soft_clip, tube, warm
from unbraid.datasets.synthesis.dynamics import compress, loudness, shape_transients
from unbraid.datasets.synthesis.effects import Band, echo, equalise, haas, high_pass, low_pass, pan, widen
from unbraid.datasets.synthesis.modulation import auto_pan, chorus, flange, phase_shift, tremolo
from unbraid.datatypes import FloatArray

__all__ = ["HABITS", "Habits", "channel_strip", "levelled", "placed"]

_LOUDNESS = 0.1  # at which parts enter each stage, -20 dB; thresholds and drives are relative to it


@dataclass(frozen=True)
class Habits:
    """How parts of a role are treated.

    level_db, spread_db : mean and standard deviation of its level where it sounds; only differences count
    low_cut_hz : range of its high-pass
    wet_db : range of what it sends to a room
    pan : how far from the middle it may be
    p_compress, p_transients, p_echo : probabilities
    effects : probability of each effect, by its name in `_EFFECTS`
    """

    level_db: float
    spread_db: float
    low_cut_hz: tuple[float, float]
    wet_db: tuple[float, float]
    pan: float
    p_compress: float
    p_transients: float
    p_echo: float
    effects: Mapping[str, float]


_KIT = {"soft_clip": 0.25, "tube": 0.2, "crush": 0.08, "flanger": 0.04, "telephone": 0.04}
_BASS = {"soft_clip": 0.3, "tube": 0.3, "warm": 0.15, "amplifier": 0.12, "chorus": 0.12, "phaser": 0.04, "crush": 0.03}
_KEYS = {"soft_clip": 0.12, "tube": 0.12, "warm": 0.1, "chorus": 0.2, "phaser": 0.1, "tremolo": 0.12, "auto_pan": 0.1}
_GUITAR = {"amplifier": 0.45, "tube": 0.2, "chorus": 0.2, "flanger": 0.08, "phaser": 0.1, "tremolo": 0.1} | {
    "telephone": 0.03
}
_SYNTHESIZER = {"soft_clip": 0.2, "tube": 0.12, "chorus": 0.25, "flanger": 0.1, "phaser": 0.12, "tremolo": 0.08} | {
    "auto_pan": 0.15,
    "crush": 0.06,
    "amplifier": 0.05,
}
_ORCHESTRA = {"tube": 0.08, "warm": 0.1, "chorus": 0.1}
_SUNG = {"soft_clip": 0.12, "tube": 0.15, "warm": 0.2, "chorus": 0.1, "flanger": 0.03, "telephone": 0.05, "crush": 0.02}

HABITS: Final[Mapping[str, Habits]] = {
    "drums": Habits(0, 2.5, (15, 45), (-32, -12), 0.05, 0.5, 0.4, 0.03, _KIT),
    "percussion": Habits(-8, 4, (60, 300), (-28, -9), 0.8, 0.3, 0.3, 0.12, _KIT),
    "bass": Habits(-1, 3, (15, 40), (-50, -22), 0.05, 0.7, 0.1, 0.01, _BASS),
    "piano": Habits(-4, 4, (25, 150), (-28, -8), 0.4, 0.4, 0.1, 0.08, _KEYS | {"amplifier": 0.02}),
    "guitar": Habits(-4, 4, (70, 200), (-28, -9), 0.9, 0.4, 0.1, 0.2, _GUITAR),
    "organ": Habits(-7, 4, (40, 200), (-28, -9), 0.6, 0.2, 0.0, 0.05, _KEYS | {"amplifier": 0.15}),
    "pad": Habits(-9, 4, (60, 300), (-24, -5), 0.3, 0.2, 0.0, 0.1, _SYNTHESIZER),
    "strings": Habits(-7, 4, (40, 200), (-24, -5), 0.5, 0.2, 0.0, 0.05, _ORCHESTRA),
    "brass": Habits(-6, 4, (60, 200), (-26, -8), 0.6, 0.4, 0.05, 0.06, _ORCHESTRA),
    "lead": Habits(-4, 4, (80, 250), (-26, -8), 0.4, 0.4, 0.05, 0.4, _SYNTHESIZER),
    "arpeggio": Habits(-8, 4, (80, 300), (-26, -6), 0.8, 0.3, 0.1, 0.4, _SYNTHESIZER),
    "voice": Habits(0.5, 3, (60, 140), (-28, -8), 0.08, 0.8, 0.05, 0.25, _SUNG),
    "backing": Habits(-6, 4, (80, 220), (-24, -6), 0.8, 0.6, 0.0, 0.2, _SUNG),
}


def levelled(samples: FloatArray, level: float, *, sample_rate: int) -> FloatArray:
    """With this loudness where it sounds; silence stays silence."""
    now = loudness(samples, sample_rate=sample_rate)
    return samples * np.float32(level / now) if now > 0 else samples.copy()


def channel_strip(
    samples: FloatArray, role: str, rng: Generator, *, tempo_bpm: float, intensity: float, sample_rate: int
) -> FloatArray:
    """Filter, compress, bend, move and place one part.

    Parameters
    ----------
    samples : ndarray
        [shape=(2, time), float32]
    role : str
        One of `HABITS`.
    rng : Generator
        Draws what is done.
    tempo_bpm : float
        Echoes and tremolos follow it.
    intensity : float
        Factor of all probabilities of effects.
    sample_rate : int
        In Hz.

    Returns
    -------
    treated : ndarray of the same shape
        With a loudness of 0.1 where it sounds.
    """
    habits = HABITS[role]
    if not samples.any():
        return samples.copy()
    out = levelled(samples, _LOUDNESS, sample_rate=sample_rate)
    stages = [_equalised, _evened]
    if rng.random() < 0.4:
        stages.reverse()
    for stage in stages:
        out = stage(out, habits, rng, sample_rate)
    for name, probability in habits.effects.items():
        if rng.random() < probability * intensity:
            out = _EFFECTS[name](levelled(out, _LOUDNESS, sample_rate=sample_rate), rng, sample_rate, tempo_bpm)
    if rng.random() < habits.p_echo * intensity:
        out = _echoed(out, rng, sample_rate, tempo_bpm)
    out = placed(out, habits, rng, sample_rate=sample_rate)
    return levelled(out, _LOUDNESS, sample_rate=sample_rate)


def _equalised(samples: FloatArray, habits: Habits, rng: Generator, sample_rate: int) -> FloatArray:
    """High-pass and two to four bands; now and then a low-pass."""
    low_cut_hz = float(np.exp(rng.uniform(*np.log(habits.low_cut_hz)))) if rng.random() < 0.7 else None
    bands = [
        Band("peak", 80 * 2 ** rng.uniform(0, 7), float(np.clip(rng.normal(0, 3.5), -12, 9)), rng.uniform(0.4, 3))
        for _ in range(rng.integers(1, 4))
    ]
    shelf = ("low_shelf", rng.uniform(80, 300)) if rng.random() < 0.5 else ("high_shelf", rng.uniform(2500, 9000))
    bands.append(Band(*shelf, float(np.clip(rng.normal(0, 3), -10, 8))))
    return equalise(
        samples,
        bands,
        low_cut_hz=low_cut_hz,
        low_cut_order=int(rng.integers(1, 5)),
        high_cut_hz=2000 * 2 ** rng.uniform(0, 3) if rng.random() < 0.1 else None,
        sample_rate=sample_rate,
    )


def _evened(samples: FloatArray, habits: Habits, rng: Generator, sample_rate: int) -> FloatArray:
    """Compressed, or with other transients, or as it is."""
    out = samples
    if rng.random() < habits.p_transients:
        attack_db, sustain_db = float(rng.uniform(-6, 9)), float(rng.uniform(-12, 8))
        out = shape_transients(out, attack_db=attack_db, sustain_db=sustain_db, sample_rate=sample_rate)
    if rng.random() < habits.p_compress:
        out = compress(
            out,
            threshold_db=float(rng.uniform(-32, -10)),
            ratio=float(1 + np.exp(rng.uniform(-0.7, 2.3))),
            knee_db=float(rng.uniform(0, 12)),
            attack_s=float(np.exp(rng.uniform(*np.log((0.0008, 0.04))))),
            release_s=float(np.exp(rng.uniform(*np.log((0.04, 0.5))))),
            dry=float(rng.uniform(0.2, 0.6)) if rng.random() < 0.2 else 0.0,
            sample_rate=sample_rate,
        )
    return out


def _echoed(samples: FloatArray, rng: Generator, sample_rate: int, tempo_bpm: float) -> FloatArray:
    """With echoes in time, dotted and triplets too; some are a slap of no more than 0.13 s."""
    beats = float(rng.choice([0.25, 1 / 3, 0.5, 0.5, 0.75, 0.75, 1.0]))
    slap = rng.random() < 0.25
    return echo(
        samples,
        delay_s=float(rng.uniform(0.05, 0.13)) if slap else min(beats * 60 / tempo_bpm, 1.5),
        feedback=float(rng.uniform(0.0, 0.2) if slap else rng.uniform(0.1, 0.65)),
        wet_db=float(rng.uniform(-20, -5)),
        low_cut_hz=float(rng.uniform(80, 400)),
        high_cut_hz=float(rng.uniform(1500, 9000)),
        ping_pong=bool(rng.random() < 0.35),
        sample_rate=sample_rate,
    )


def placed(samples: FloatArray, habits: Habits, rng: Generator, *, sample_rate: int) -> FloatArray:
    """Wide or narrow, and somewhere between the speakers."""
    width = float(rng.choice([0.0, 0.5, 1.0, 1.0, 1.0, 1.4])) if rng.random() < 0.5 else 1.0
    out = widen(samples, width=width) if width != 1 else samples
    position = float(habits.pan * np.clip(rng.normal(0, 0.5), -1, 1))
    if habits.pan > 0.2 and rng.random() < 0.12:
        delay_s, channel = float(rng.uniform(0.004, 0.025)), int(rng.integers(2))
        return haas(out, delay_s=delay_s, channel=channel, sample_rate=sample_rate)
    return pan(out, position=position)


def _soft_clip(samples: FloatArray, rng: Generator, sample_rate: int, tempo_bpm: float) -> FloatArray:
    drive_db = float(rng.uniform(3, 20))
    return soft_clip(samples, drive_db=drive_db, oversampling=2 if drive_db < 14 else 4, sample_rate=sample_rate)


def _tube(samples: FloatArray, rng: Generator, sample_rate: int, tempo_bpm: float) -> FloatArray:
    drive_db, asymmetry = float(rng.uniform(3, 20)), float(rng.uniform(0.1, 0.8))
    n_times = 2 if drive_db < 14 else 4
    return tube(samples, drive_db=drive_db, asymmetry=asymmetry, oversampling=n_times, sample_rate=sample_rate)


def _warm(samples: FloatArray, rng: Generator, sample_rate: int, tempo_bpm: float) -> FloatArray:
    return warm(
        samples, drive_db=float(rng.uniform(6, 16)), share=float(rng.uniform(0.1, 0.6)), sample_rate=sample_rate
    )


def _crush(samples: FloatArray, rng: Generator, sample_rate: int, tempo_bpm: float) -> FloatArray:
    return crush(samples, n_bits=float(rng.uniform(4, 10)), hold=int(rng.integers(1, 7)))


def _amplifier(samples: FloatArray, rng: Generator, sample_rate: int, tempo_bpm: float) -> FloatArray:
    return amplify(
        samples,
        drive_db=float(rng.uniform(6, 36)),
        tight_hz=float(rng.uniform(60, 250)),
        bite_db=float(rng.uniform(-2, 9)),
        cabinet_hz=float(rng.uniform(3200, 6500)),
        sample_rate=sample_rate,
    )


def _telephone(samples: FloatArray, rng: Generator, sample_rate: int, tempo_bpm: float) -> FloatArray:
    """Through a small loudspeaker: a narrow band, driven."""
    out = high_pass(samples, cutoff_hz=float(rng.uniform(250, 600)), order=3, sample_rate=sample_rate)
    out = low_pass(out, cutoff_hz=float(rng.uniform(2200, 5000)), order=3, sample_rate=sample_rate)
    return soft_clip(out, drive_db=float(rng.uniform(6, 20)), sample_rate=sample_rate)


def _chorus(samples: FloatArray, rng: Generator, sample_rate: int, tempo_bpm: float) -> FloatArray:
    delay_s = float(rng.uniform(0.006, 0.025))
    return chorus(
        samples,
        rate_hz=float(np.exp(rng.uniform(*np.log((0.15, 3.0))))),
        delay_s=delay_s,
        depth_s=float(rng.uniform(0.0005, min(0.004, 0.8 * delay_s))),
        n_voices=int(rng.integers(1, 4)),
        wet=float(rng.uniform(0.25, 0.6)),
        sample_rate=sample_rate,
    )


def _flanger(samples: FloatArray, rng: Generator, sample_rate: int, tempo_bpm: float) -> FloatArray:
    delay_s = float(rng.uniform(0.0008, 0.005))
    return flange(
        samples,
        rate_hz=float(np.exp(rng.uniform(*np.log((0.06, 0.8))))),
        delay_s=delay_s,
        depth_s=delay_s * float(rng.uniform(0.4, 0.9)),
        feedback=float(rng.uniform(-0.7, 0.7)),
        wet=float(rng.uniform(0.25, 0.5)),
        sample_rate=sample_rate,
    )


def _phaser(samples: FloatArray, rng: Generator, sample_rate: int, tempo_bpm: float) -> FloatArray:
    return phase_shift(
        samples,
        rate_hz=float(np.exp(rng.uniform(*np.log((0.08, 2.0))))),
        centre_hz=float(np.exp(rng.uniform(*np.log((350, 1600))))),
        octaves=float(rng.uniform(0.5, 1.8)),
        n_stages=2 * int(rng.integers(2, 5)),
        feedback=float(rng.uniform(0, 0.6)),
        sample_rate=sample_rate,
    )


def _tremolo(samples: FloatArray, rng: Generator, sample_rate: int, tempo_bpm: float) -> FloatArray:
    in_time = tempo_bpm / 60 * float(rng.choice([1.0, 2.0, 3.0, 4.0]))
    return tremolo(
        samples,
        rate_hz=in_time if rng.random() < 0.5 else float(rng.uniform(2.5, 9)),
        depth=float(rng.uniform(0.15, 0.9)),
        hardness=float(np.exp(rng.uniform(-1, 2))),
        phase=float(rng.random()),
        sample_rate=sample_rate,
    )


def _auto_pan(samples: FloatArray, rng: Generator, sample_rate: int, tempo_bpm: float) -> FloatArray:
    in_time = tempo_bpm / 60 * float(rng.choice([0.125, 0.25, 0.5, 1.0]))
    rate_hz = in_time if rng.random() < 0.5 else float(np.exp(rng.uniform(*np.log((0.05, 3.0)))))
    depth, phase = float(rng.uniform(0.2, 1)), float(rng.random())
    return auto_pan(samples, rate_hz=rate_hz, depth=depth, phase=phase, sample_rate=sample_rate)


_EFFECTS: Final[Mapping[str, Callable[[FloatArray, Generator, int, float], FloatArray]]] = {
    "soft_clip": _soft_clip,
    "tube": _tube,
    "warm": _warm,
    "crush": _crush,
    "amplifier": _amplifier,
    "telephone": _telephone,
    "chorus": _chorus,
    "flanger": _flanger,
    "phaser": _phaser,
    "tremolo": _tremolo,
    "auto_pan": _auto_pan,
}
