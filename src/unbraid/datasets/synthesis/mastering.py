"""From stems to a finished mix: whatever the mix needs is done to each stem, so that they still add up to it.

Filters are linear. Compressor, saturation and limiter are gains over time, which are computed from the mix and
multiply every stem.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from unbraid.datasets.synthesis.distortion import saturation_gain
from unbraid.datasets.synthesis.dynamics import HOP, at_audio_rate, compressor_gain, hop_peaks, limiter_curve
from unbraid.datasets.synthesis.effects import Band, amplitude, band_limit, equalise
from unbraid.datatypes import FloatArray

__all__ = ["BAND_LIMITS_HZ", "CEILING", "master", "maximizer_gain", "set_level"]

CEILING = 0.95

BAND_LIMITS_HZ = (11_000.0, 15_000.0, 16_000.0, 19_000.0)  # of lossy encoders at low to high bit rates

_LOUDNESS_DB = (-20.0, -7.0)
_P_BAND_LIMIT = 0.3
_MOST_LIMITED_DB = 14.0
_N_HALVINGS = 9  # of a range of 20 dB: to 0.04 dB
_SILENCE = 1e-7


def _rms(samples: FloatArray) -> float:
    return math.sqrt(float(np.square(samples).mean(dtype=np.float64)))


def set_level(stems: FloatArray, rng: Generator) -> FloatArray:
    """Make the mix as loud as drawn, -20 to -7 dB, but not above the ceiling: one factor, and nothing else.

    stems : ndarray [shape=(stem, 2, time), float32]
    """
    mix = stems.sum(axis=0)
    target, peak = amplitude(float(rng.uniform(*_LOUDNESS_DB))), float(np.abs(mix).max())
    if peak < _SILENCE:
        return stems.copy()
    # Less than the ceiling by more than the rounding of the stems' sum.
    return stems * np.float32(min(target / _rms(mix), (CEILING - 1e-5) / peak))


def maximizer_gain(
    mix: FloatArray, *, loudness: float, ceiling: float, lookahead_s: float, release_s: float, sample_rate: int
) -> FloatArray:
    """Gain that makes a mix louder, and keeps its peaks below a ceiling.

    Parameters
    ----------
    mix : ndarray
        [shape=(2, time), float32]
    loudness : float
        Root mean square wanted. Less is reached where peaks would have to be reduced by more than 14 dB.
    ceiling : float
        Highest magnitude.
    lookahead_s, release_s : float
        Of the limiter; see `limiter_curve`.
    sample_rate : int
        In Hz.

    Returns
    -------
    gain : ndarray [shape=(time,), float32]
    """
    n = mix.shape[1]
    peaks = hop_peaks(mix)
    peak = float(peaks.max(initial=0.0))
    if peak < _SILENCE:
        return np.ones(n, np.float32)
    power = np.square(mix).mean(axis=0)
    power = np.pad(power, (0, -n % HOP)).reshape(-1, HOP).sum(axis=1, dtype=np.float64)
    lowest_db = 20 * math.log10(loudness / math.sqrt(float(power.sum()) / n))
    highest_db = max(lowest_db, 20 * math.log10(ceiling / peak)) + 20
    highest_db = min(highest_db, 20 * math.log10(ceiling / peak) + _MOST_LIMITED_DB)
    lowest_db = min(lowest_db, highest_db)
    for halving in range(_N_HALVINGS + 1):
        # First without limiting, which is enough for soft mixes.
        drive_db = (lowest_db + highest_db) / 2 if halving else lowest_db
        drive = np.float32(amplitude(drive_db))
        curve = limiter_curve(
            peaks * drive, ceiling=ceiling, lookahead_s=lookahead_s, release_s=release_s, sample_rate=sample_rate
        )
        reached = float(drive) * math.sqrt(float(power @ np.square(0.5 * (curve[:-1] + curve[1:]))) / n)
        if reached < 0.999 * loudness:
            lowest_db = drive_db
        elif halving:
            highest_db = drive_db
        else:
            break
    return at_audio_rate(curve * float(drive), n)


def master(stems: FloatArray, rng: Generator, *, sample_rate: int) -> FloatArray:
    """Colour, glue, saturate and maximise a mix, and perhaps limit its band, all by way of its stems.

    Parameters
    ----------
    stems : ndarray
        [shape=(stem, 2, time), float32]
    rng : Generator
        Draws what is done.
    sample_rate : int
        In Hz.

    Returns
    -------
    mastered : ndarray of the same shape
        The sum peaks at 0.95 or below, and has a root mean square of -20 to -7 dB as far as limiting allows.
    """
    shape = stems.shape
    tilt_db = rng.normal(0, 2, 2).clip(-5, 5)
    tilt = [
        Band("low_shelf", rng.uniform(80, 400), tilt_db[0]),
        Band("high_shelf", rng.uniform(2000, 8000), tilt_db[1]),
    ]
    out = equalise(stems.reshape(-1, shape[2]), tilt, sample_rate=sample_rate).reshape(shape)
    mix = out.sum(axis=0)
    level = _rms(mix)
    if level < _SILENCE:
        return out
    # Thresholds and drives are relative to a root mean square of -16 dB.
    gain = np.full((1, shape[2]), amplitude(-16.0) / level, np.float32)
    if rng.random() < 0.7:
        gain = gain * compressor_gain(
            mix * gain,
            threshold_db=float(rng.uniform(-18, -5)),
            ratio=float(rng.uniform(1.3, 4)),
            knee_db=float(rng.uniform(3, 12)),
            attack_s=float(rng.uniform(0.003, 0.04)),
            release_s=float(rng.uniform(0.08, 0.6)),
            sample_rate=sample_rate,
        )
    if rng.random() < 0.4:
        gain = gain * saturation_gain(mix * gain, drive_db=float(rng.uniform(-3, 8)), sample_rate=sample_rate)
    gain = gain * maximizer_gain(
        mix * gain,
        loudness=amplitude(float(rng.uniform(*_LOUDNESS_DB))),
        ceiling=CEILING - 1e-5,
        lookahead_s=float(rng.uniform(0.0015, 0.006)),
        release_s=float(np.exp(rng.uniform(*np.log((0.02, 0.3))))),
        sample_rate=sample_rate,
    )
    out = out * gain
    if rng.random() < _P_BAND_LIMIT:
        out = band_limit(out, cutoff_hz=float(rng.choice(BAND_LIMITS_HZ)), sample_rate=sample_rate)
        # Waves without their highs may be higher than they were.
        peak = float(np.abs(out.sum(axis=0)).max())
        out *= np.float32(min(1.0, (CEILING - 1e-5) / max(peak, _SILENCE)))
    return out
