"""Effects that move by themselves: chorus, flanger, phaser, tremolo and wandering between the speakers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unbraid.datasets.synthesis.dynamics import HOP, at_audio_rate
from unbraid.datatypes import FloatArray

__all__ = ["auto_pan", "chorus", "flange", "phase_shift", "tremolo"]

_PASSES = 4  # echoes of echoes in a flanger
_HOP_S = 0.023  # of the phaser: its filters are crossfaded from one to the next
_N_TOGETHER = 256  # frames of the phaser, to bound memory


def _wave(n: int, rate_hz: float, phase: float, sample_rate: int) -> NDArray[Any]:
    """A slow sine from -1 to 1 whose phase is in turns; points of a curve [shape=(ceil(n / HOP) + 1,)]."""
    time_s = np.arange(-(-n // HOP) + 1) * (HOP / sample_rate)
    wave: NDArray[Any] = np.sin(2 * np.pi * (rate_hz * time_s + phase))
    return wave


def _delayed(samples: FloatArray, delay: FloatArray) -> FloatArray:
    """Each sample of one channel from `delay` samples ago, 1 or more, by a cubic through four neighbours.

    samples, delay, returns : ndarray [shape=(time,), float32]
    """
    whole = np.ceil(delay)
    t = whole - delay
    n_before = int(whole.max(initial=0))
    # One more before, for the first of four neighbours, and two after.
    padded = np.pad(samples, (n_before + 1, 2))
    index = np.arange(n_before, n_before + len(samples)) - whole.astype(np.intp)
    before, here, there, after = (padded[i:].take(index) for i in range(4))
    # Catmull and Rom's spline (1974).
    c1, c3 = there - before, 3 * (here - there) + after - before
    c2 = 2 * before - 5 * here + 4 * there - after
    out: FloatArray = here + np.float32(0.5) * t * (c1 + t * (c2 + t * c3))
    return out


def chorus(
    samples: FloatArray,
    *,
    rate_hz: float,
    delay_s: float,
    depth_s: float,
    n_voices: int,
    wet: float,
    sample_rate: int,
) -> FloatArray:
    """Add voices that are late by changing times, others on the left than on the right.

    Parameters
    ----------
    samples : ndarray
        [shape=(2, time), float32]
    rate_hz : float
        How often a voice comes and goes.
    delay_s, depth_s : float
        Mean of the delay, and how far it goes to both sides, less than the mean.
    n_voices : int
        At different phases.
    wet : float
        Share of the voices' amplitude in the whole, 0 to 1.
    sample_rate : int
        In Hz.

    Returns
    -------
    richer : ndarray of the same shape
    """
    n = samples.shape[1]
    out = np.float32(1 - wet) * samples
    for voice in range(n_voices):
        for channel in range(2):
            turn = (voice + 0.5 * channel) / n_voices
            delay_curve_s = delay_s + depth_s * _wave(n, rate_hz * (1 + 0.07 * voice), turn, sample_rate)
            late = _delayed(samples[channel], at_audio_rate(np.maximum(delay_curve_s * sample_rate, 1), n))
            out[channel] += np.float32(wet / math.sqrt(n_voices)) * late
    return out


def flange(
    samples: FloatArray,
    *,
    rate_hz: float,
    delay_s: float,
    depth_s: float,
    feedback: float,
    wet: float,
    sample_rate: int,
) -> FloatArray:
    """Add a copy that is a few milliseconds late: a comb of notches that moves.

    rate_hz, delay_s, depth_s, wet : as for `chorus`
    feedback : gain of each echo of the copy into the next, of four; -1 to 1
    """
    n = samples.shape[1]
    out = samples.copy()
    for channel in range(2):
        delay_curve_s = delay_s + depth_s * _wave(n, rate_hz, 0.25 * channel, sample_rate)
        delay = at_audio_rate(np.maximum(delay_curve_s * sample_rate, 1), n)
        late = _delayed(samples[channel], delay)
        copy = late
        for _ in range(_PASSES - 1):
            late = np.float32(feedback) * _delayed(late, delay)
            copy = copy + late
        out[channel] = np.float32(1 - wet) * out[channel] + np.float32(wet) * copy
    return out


def phase_shift(
    samples: FloatArray,
    *,
    rate_hz: float,
    centre_hz: float,
    octaves: float,
    n_stages: int,
    feedback: float,
    sample_rate: int,
) -> FloatArray:
    """A phaser: half the sound goes through all-pass filters that move, and meets the other half again.

    A stage turns the phase by -2 atan(f / f0); there are notches where all together turn it by half a turn. Windows
    of 46 ms are filtered, each by the filter at its middle, and overlap.

    Parameters
    ----------
    samples : ndarray
        [shape=(2, time), float32]
    rate_hz : float
        How often f0 goes up and down.
    centre_hz, octaves : float
        Middle of f0's way, and how far it goes up and down.
    n_stages : int
        Two for each notch.
    feedback : float
        From the end of the stages to their beginning, 0 to below 1.
    sample_rate : int
        In Hz.

    Returns
    -------
    swept : ndarray of the same shape
    """
    from scipy.fft import irfft, rfft

    n, hop = samples.shape[1], 2 ** round(math.log2(_HOP_S * sample_rate))
    n_frames = -(-n // hop) + 1
    padded = np.pad(samples, ((0, 0), (hop, n_frames * hop - n)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2 * hop, axis=1)[:, ::hop]
    window = (0.5 - 0.5 * np.cos(np.pi * (np.arange(2 * hop) + 0.5) / hop)).astype(np.float32)
    frequencies = np.fft.rfftfreq(4 * hop, 1 / sample_rate).astype(np.float32)
    # As much silence again after each window, for the filters to ring on.
    out = np.zeros((2, n_frames + 3, hop), np.float32)
    for first in range(0, n_frames, _N_TOGETHER):
        some = frames[:, first : first + _N_TOGETHER]
        n_some = some.shape[1]
        time_s = (first + np.arange(n_some)) * hop / sample_rate
        sweep = np.stack([np.sin(2 * np.pi * (rate_hz * time_s + phase)) for phase in (0.0, 0.2)])
        f0 = (centre_hz * 2 ** (octaves * sweep)).astype(np.float32)[..., None]
        turned = np.exp(np.complex64(-2j * n_stages) * np.arctan(frequencies / f0))
        response = np.float32(0.5) + np.float32(0.5 * (1 - feedback)) * turned / (1 - np.float32(feedback) * turned)
        parts = irfft(response * rfft(some * window, 4 * hop), 4 * hop).reshape(2, n_some, 4, hop)
        for i in range(4):
            out[:, first + i : first + i + n_some] += parts[:, :, i]
    return out.reshape(2, -1)[:, hop : hop + n]


def tremolo(
    samples: FloatArray, *, rate_hz: float, depth: float, hardness: float, phase: float, sample_rate: int
) -> FloatArray:
    """Let the level go up and down.

    depth : how far the amplitude falls, 0 to 1
    hardness : 1 for a sine, 10 for almost a switch
    phase : in turns, at the beginning
    """
    wave = _wave(samples.shape[1], rate_hz, phase, sample_rate)
    swing = np.tanh(hardness * wave) / math.tanh(hardness)
    return samples * at_audio_rate(1 - depth * (0.5 + 0.5 * swing), samples.shape[1])


def auto_pan(samples: FloatArray, *, rate_hz: float, depth: float, phase: float, sample_rate: int) -> FloatArray:
    """Wander from side to side, up to `depth` (0 to 1) of the whole way; the power of both together stays."""
    angle = (1 + depth * _wave(samples.shape[1], rate_hz, phase, sample_rate)) * (np.pi / 4)
    gains = [at_audio_rate(math.sqrt(2) * curve, samples.shape[1]) for curve in (np.cos(angle), np.sin(angle))]
    return samples * np.stack(gains)
