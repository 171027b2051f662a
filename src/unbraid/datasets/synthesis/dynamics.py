"""What follows the level: compressors, transient shaping, ducking, limiting.

Levels are taken, and gains computed, for every `HOP` samples, and gains go on straight lines from one such point to
the next: nothing but the multiplication is done for each sample. A level is not known before it sounds, but for the
rest of a hop; only the limiter looks ahead.

The level detector is "smooth, decoupled" (D. Giannoulis, M. Massberg, J. Reiss, "Digital dynamic range compressor
design", JAES 60(6), 2012): a maximum that falls exponentially, y[k] = max(x[k], r · y[k - 1]), whose logarithm is the
running maximum of log x[k] - k log r plus k log r; then a low-pass for the attack.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from unbraid.datasets.synthesis.effects import low_pass
from unbraid.datatypes import FloatArray

__all__ = [
    "HOP",
    "at_audio_rate",
    "compress",
    "compressor_gain",
    "duck",
    "hop_peaks",
    "kick_envelope",
    "limiter_curve",
    "loudness",
    "shape_transients",
]

HOP = 16  # samples from one point of a curve to the next, 0.4 ms at 44.1 kHz

_FLOOR = 1e-6  # amplitude below which there are no levels
_KICK_HZ = 110.0
_BLOCK_S = 0.1
_GATE_DB = 20.0  # below the loudest block; what is softer counts as a pause
_DETECTED_DB = 12.0  # of difference between a fast and a slow level that count as an onset, or an end


def hop_peaks(samples: FloatArray) -> FloatArray:
    """Highest magnitude of any channel in each hop [shape=(ceil(time / HOP),), float32]."""
    n = samples.shape[1]
    n_hops = -(-n // HOP)
    highest = np.zeros(n_hops * HOP, np.float32)
    np.max(np.abs(samples), axis=0, out=highest[:n])
    # Halves of halves are ten times as fast as a maximum over a short axis.
    for _ in range(HOP.bit_length() - 1):
        highest = np.maximum(highest[0::2], highest[1::2])
    return highest


def at_audio_rate(curve: NDArray[Any], n_samples: int) -> FloatArray:
    """Points [shape=(ceil(n_samples / HOP) + 1,)] joined by straight lines [shape=(n_samples,), float32]."""
    points = curve.astype(np.float32)
    full: FloatArray = np.diff(points)[:, None] * (np.arange(HOP, dtype=np.float32) / np.float32(HOP))
    full += points[:-1, None]
    return full.reshape(-1)[:n_samples]


def loudness(samples: FloatArray, *, sample_rate: int) -> float:
    """Root mean square of what sounds: of the blocks of 0.1 s that are not 20 dB below the loudest one."""
    n_block = max(1, round(_BLOCK_S * sample_rate))
    n_whole = samples.shape[1] // n_block * n_block
    blocks = samples[:, :n_whole].reshape(2, -1, n_block)
    power = np.einsum("cbt,cbt->b", blocks, blocks).astype(np.float64) / (2 * n_block)
    power = np.append(power, np.square(samples[:, n_whole:]).sum(dtype=np.float64) / (2 * n_block))
    highest = power.max(initial=0.0)
    return float(np.sqrt(power[power >= highest * 10 ** (-_GATE_DB / 10)].mean())) if highest > 0 else 0.0


def _decaying_maximum(values: NDArray[Any], release_s: float, sample_rate: int) -> NDArray[Any]:
    """y[k] = max(x[k], r · y[k - 1]), with r such that y falls to 1 / e in `release_s` [shape as given]."""
    fallen = np.arange(len(values)) * (HOP / sample_rate / release_s)
    fallen_from = np.log(np.maximum(values, 1e-9)) + fallen
    maximum: NDArray[Any] = np.exp(np.maximum.accumulate(fallen_from) - fallen)
    return maximum


def _followed(values: NDArray[Any], attack_s: float, release_s: float, sample_rate: int) -> NDArray[Any]:
    """Points of a curve that rises to values in `attack_s` and falls in `release_s` [shape=(hop + 1,)]."""
    from scipy.signal import lfilter

    if not len(values):
        return np.zeros(1)
    pole = math.exp(-HOP / sample_rate / attack_s)
    released = _decaying_maximum(values, release_s, sample_rate)
    return np.concatenate(([0.0], lfilter([1 - pole], [1, -pole], released)))


def compressor_gain(
    key: FloatArray,
    *,
    threshold_db: float,
    ratio: float,
    knee_db: float,
    attack_s: float,
    release_s: float,
    sample_rate: int,
) -> FloatArray:
    """Gain of a compressor that listens to `key`.

    Parameters
    ----------
    key : ndarray
        [shape=(2, time), float32]; the louder channel counts.
    threshold_db : float
        Peak level, full scale being 0 dB, above which levels rise by 1 / ratio dB a dB only.
    ratio : float
        1 or more.
    knee_db : float
        Width of the bend around the threshold.
    attack_s, release_s : float
        In which the reduction in dB gets to 1 - 1 / e of what it should be, and falls to 1 / e of what it was.
    sample_rate : int
        In Hz.

    Returns
    -------
    gain : ndarray [shape=(time,), float32]
    """
    over = 20 * np.log10(np.maximum(hop_peaks(key), _FLOOR)) - threshold_db
    bend = np.square(np.clip(over + knee_db / 2, 0, knee_db)) / (2 * max(knee_db, 1e-9))
    reduction_db = (1 - 1 / ratio) * np.where(over > knee_db / 2, over, bend)
    curve = 10 ** (-_followed(reduction_db, attack_s, release_s, sample_rate) / 20)
    return at_audio_rate(curve, key.shape[1])


def compress(
    samples: FloatArray,
    *,
    threshold_db: float,
    ratio: float,
    knee_db: float = 6.0,
    attack_s: float,
    release_s: float,
    dry: float = 0.0,
    sample_rate: int,
) -> FloatArray:
    """Bring loud and soft closer together, both channels alike; see `compressor_gain`.

    dry : share of the input in the output; above 0 it is a parallel compressor.
    """
    gain = compressor_gain(
        samples,
        threshold_db=threshold_db,
        ratio=ratio,
        knee_db=knee_db,
        attack_s=attack_s,
        release_s=release_s,
        sample_rate=sample_rate,
    )
    return samples * (np.float32(dry) + np.float32(1 - dry) * gain)


def shape_transients(samples: FloatArray, *, attack_db: float, sustain_db: float, sample_rate: int) -> FloatArray:
    """Make onsets, and what follows them, louder or softer, whatever their level.

    attack_db : gain where a level of 1 ms is 12 dB above one of 30 ms, or more; less in between
    sustain_db : gain where a level that falls in 0.4 s is 12 dB above one that falls in 30 ms, or more
    """
    peaks = hop_peaks(samples)
    if not peaks.any():
        return samples.copy()
    # Half a percent of the peak: what is softer has neither onsets nor ends.
    floor = max(0.005 * float(peaks.max()), _FLOOR)

    def level_db(attack_s: float, release_s: float) -> NDArray[Any]:
        levels = np.maximum(_followed(peaks, attack_s, release_s, sample_rate), floor)
        return cast(NDArray[Any], 20 * np.log10(levels))

    onset = np.clip((level_db(0.001, 0.05) - level_db(0.03, 0.05)) / _DETECTED_DB, 0, 1)
    end = np.clip((level_db(0.001, 0.4) - level_db(0.001, 0.03)) / _DETECTED_DB, 0, 1)
    curve = 10 ** ((attack_db * onset + sustain_db * end) / 20)
    return samples * at_audio_rate(curve, samples.shape[1])


def kick_envelope(drums: FloatArray, *, sample_rate: int) -> FloatArray:
    """Level of the bass drum: of what is below 110 Hz in the drums, relative to its maximum.

    Returns an ndarray [shape=(ceil(time / HOP),), float32] from 0 to 1, all 0 for silence.
    """
    peaks = hop_peaks(low_pass(drums, cutoff_hz=_KICK_HZ, order=3, sample_rate=sample_rate))
    highest = float(peaks.max(initial=0.0))
    return peaks / np.float32(highest) if highest > _FLOOR else np.zeros_like(peaks)


def duck(
    samples: FloatArray,
    envelope: FloatArray,
    *,
    depth_db: float,
    attack_s: float,
    release_s: float,
    sample_rate: int,
) -> FloatArray:
    """Make room for a bass drum (side chain).

    envelope : ndarray [shape=(ceil(time / HOP),)]; `kick_envelope`. Below 0.2 nothing happens, from 0.6 on all does.
    depth_db : how much softer at most
    """
    reduction_db = depth_db * np.clip((envelope - 0.2) / 0.4, 0, 1)
    curve = 10 ** (-_followed(reduction_db, attack_s, release_s, sample_rate) / 20)
    return samples * at_audio_rate(curve, samples.shape[1])


def limiter_curve(
    peaks: FloatArray, *, ceiling: float, lookahead_s: float, release_s: float, sample_rate: int
) -> NDArray[Any]:
    """Points of a gain that keeps peaks below a ceiling.

    Parameters
    ----------
    peaks : ndarray
        [shape=(hop,), float32]; `hop_peaks`
    ceiling : float
        Highest magnitude.
    lookahead_s : float
        Time before a peak in which the gain falls, on a smooth curve.
    release_s : float
        In which the reduction in dB falls to 1 / e.
    sample_rate : int
        In Hz.

    Returns
    -------
    curve : ndarray [shape=(hop + 1,), float64]
        At both points around a hop it is low enough for its peak.
    """
    from scipy.ndimage import maximum_filter1d, uniform_filter1d

    n_ahead = max(1, round(lookahead_s * sample_rate / HOP))
    needed_db = np.maximum(20 * np.log10(np.maximum(peaks.astype(np.float64), _FLOOR) / ceiling), 0)
    points_db = np.maximum(np.append(needed_db, 0.0), np.insert(needed_db, 0, 0.0))
    held_db = maximum_filter1d(points_db, 2 * n_ahead + 1, mode="nearest")
    # The mean of values all of which are enough for the one in the middle.
    smooth_db = uniform_filter1d(_decaying_maximum(held_db, release_s, sample_rate), 2 * n_ahead + 1, mode="nearest")
    return cast(NDArray[Any], 10 ** (-smooth_db / 20))
