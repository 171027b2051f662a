"""Rooms: impulse responses by noise or by a network of delays, and sound in them.

A response is an ndarray [shape=(2, time), float32], different on both sides, each of energy 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from unbraid.datasets.synthesis.effects import filtered, high_pass
from unbraid.datatypes import FloatArray

__all__ = ["gated_response", "network_response", "noise_response", "reverberate"]

_CROSSOVERS_HZ = (200.0, 800.0, 3200.0, 8000.0)
_MIDDLES_HZ = (100.0, 400.0, 1600.0, 5000.0, 11000.0)
_FADE_S = 0.01
_N_DELAYS = 8
_N_FFT = 2**20  # at most, but for very long rooms


def _finished(response: NDArray[Any], pre_delay_s: float, low_cut_hz: float, sample_rate: int) -> FloatArray:
    """Filtered, of energy 1, without a click at its end, and later by `pre_delay_s`."""
    cut = high_pass(response.astype(np.float32), cutoff_hz=low_cut_hz, order=1, sample_rate=sample_rate)
    n_fade = min(round(_FADE_S * sample_rate), cut.shape[1])
    cut[:, cut.shape[1] - n_fade :] *= np.linspace(1, 0, n_fade, dtype=np.float32)
    cut /= np.sqrt(np.square(cut).sum(axis=1, keepdims=True))
    return np.pad(cut, ((0, 0), (round(pre_delay_s * sample_rate), 0)))


def noise_response(
    rng: Generator,
    *,
    decay_s: float,
    high_share: float,
    build_up_s: float,
    n_early: int,
    pre_delay_s: float,
    low_cut_hz: float,
    sample_rate: int,
) -> FloatArray:
    """A room of noise, in five bands that each decay in their own time.

    Parameters
    ----------
    rng : Generator
        Draws the noise, and where single echoes are.
    decay_s : float
        In which middle frequencies fall by 60 dB.
    high_share : float
        Decay of the highest band over that of the middle; those between are between, and lows decay slower still.
    build_up_s : float
        In which it swells; long in a hall.
    n_early : int
        Single echoes in the first 60 ms, on each side.
    pre_delay_s : float
        Before anything returns.
    low_cut_hz : float
        Below which little returns.
    sample_rate : int
        In Hz.

    Returns
    -------
    response : ndarray [shape=(2, round(pre_delay_s · sample_rate) + round(1.05 · decay_s · sample_rate)), float32]
    """
    from scipy.signal import butter

    time_s = np.arange(max(32, round(1.05 * decay_s * sample_rate))) / sample_rate
    rest = rng.standard_normal((2, len(time_s)), dtype=np.float32)
    octaves = np.log2(np.array(_MIDDLES_HZ) / _MIDDLES_HZ[1])
    decays_s = decay_s * high_share ** (octaves / octaves[-1])
    response = np.zeros_like(rest)
    for i, band_decay_s in enumerate(decays_s):
        band = rest
        if i < len(_CROSSOVERS_HZ) and _CROSSOVERS_HZ[i] < 0.45 * sample_rate:
            # What a low-pass leaves of the rest is a band, and what it takes is the new rest: they add up.
            band = filtered(rest, butter(2, _CROSSOVERS_HZ[i], fs=sample_rate, output="sos"))
        rest = rest - band
        response += band * (10 ** (-3 * time_s / band_decay_s)).astype(np.float32)
    response *= (1 - np.exp(-time_s / max(build_up_s, 1e-4))).astype(np.float32)
    level = math.sqrt(float(np.square(response).max(initial=1e-9)))
    for channel in range(2):
        at = (rng.uniform(0.002, 0.06, n_early) * sample_rate).astype(np.intp)
        at = at[at < len(time_s)]
        response[channel, at] += level * rng.choice([-1.0, 1.0], len(at)) * np.exp(-at / (0.03 * sample_rate))
    return _finished(response, pre_delay_s, low_cut_hz, sample_rate)


def gated_response(
    rng: Generator, *, length_s: float, slope_db: float, low_cut_hz: float, sample_rate: int
) -> FloatArray:
    """Noise that changes by `slope_db` until it breaks off; swelling, if that is positive, as if run backwards."""
    n = max(32, round(length_s * sample_rate))
    slope = 10 ** (slope_db / 20 * np.linspace(0, 1, n))
    return _finished(rng.standard_normal((2, n)) * slope, 0.0, low_cut_hz, sample_rate)


def network_response(
    rng: Generator,
    *,
    decay_s: float,
    delays_s: tuple[float, float],
    damping_hz: float,
    pre_delay_s: float,
    low_cut_hz: float,
    sample_rate: int,
) -> FloatArray:
    """A plate or a room by eight delays that feed each other (J.-M. Jot, "Digital delay networks", AES 90, 1991).

    The matrix is Householder's, I - 2 u uᵀ, so that all loss is in the delays' gains 10^(-3 delay / decay).

    Parameters
    ----------
    rng : Generator
        Draws the delays.
    decay_s : float
        In which lows fall by 60 dB.
    delays_s : (float, float)
        The shortest and longest; short ones are a plate.
    damping_hz : float
        Cutoff of the low-pass of first order in each delay.
    pre_delay_s, low_cut_hz, sample_rate
        As for `noise_response`.

    Returns
    -------
    response : ndarray [shape=(2, round(pre_delay_s · sample_rate) + round(1.05 · decay_s · sample_rate)), float32]
    """
    from scipy.signal import lfilter

    n = max(32, round(1.05 * decay_s * sample_rate))
    spread = np.geomspace(*delays_s, _N_DELAYS) * rng.uniform(0.93, 1.07, _N_DELAYS)
    delays = np.maximum(1, np.round(spread * sample_rate).astype(np.intp)) | 1
    gains = 10 ** (-3 * delays / (decay_s * sample_rate))
    pole = math.exp(-2 * math.pi * min(damping_hz, 0.45 * sample_rate) / sample_rate)
    n_before, block = int(delays.max()), int(delays.min())
    lines = np.zeros((_N_DELAYS, n_before + n))
    state = np.zeros((_N_DELAYS, 1))
    # Half of the delays are heard with the other sign on the right: the sides are as good as independent.
    signs = np.repeat(rng.choice([-1.0, 1.0], (1, _N_DELAYS)), 2, axis=0)
    signs[1, rng.permutation(_N_DELAYS)[: _N_DELAYS // 2]] *= -1
    response = np.zeros((2, n))
    for start in range(0, n, block):
        stop = min(start + block, n)
        late = np.stack(
            [line[n_before - d + start : n_before - d + stop] for line, d in zip(lines, delays, strict=True)]
        )
        damped, state = lfilter([1 - pole], [1, -pole], late * gains[:, None], axis=1, zi=state)
        response[:, start:stop] = signs @ damped
        lines[:, n_before + start : n_before + stop] = damped - (2 / _N_DELAYS) * damped.sum(axis=0)
        if not start:
            lines[:, n_before] += 1
    return _finished(response, pre_delay_s, low_cut_hz, sample_rate)


def reverberate(sends: FloatArray, responses: Sequence[FloatArray]) -> FloatArray:
    """Return what comes back from rooms, without the sound itself; what sounds on after the end is cut off.

    Parameters
    ----------
    sends : ndarray
        [shape=(room, stem, 2, time), float32]; what each stem sends to each room. A third of what a side of the room
        gets from its own side, it gets from the other one.
    responses : sequence of ndarray
        One for each room.

    Returns
    -------
    wet : ndarray [shape=(stem, 2, time), float32]
        The sum of what all rooms give back of a stem.
    """
    from scipy.fft import irfft, next_fast_len, rfft

    n = sends.shape[3]
    wet = np.zeros(sends.shape[1:], np.float32)
    longest = max((response.shape[1] for response in responses), default=1)
    # Overlap-add; a spectrum for each send and each response, and one way back for all rooms of a stem.
    n_fft = next_fast_len(min(n + longest - 1, max(_N_FFT, 2 * longest)), real=True)
    n_block = n_fft - longest + 1
    spectra = [rfft(response, n_fft) for response in responses]
    for stem in range(sends.shape[1]):
        heard = [room for room in range(len(responses)) if sends[room, stem].any()]
        for start in range(0, n if heard else 0, n_block):
            total = np.zeros((2, n_fft // 2 + 1), np.complex64)
            for room in heard:
                block = sends[room, stem, :, start : start + n_block]
                crossed = np.float32(0.75) * block + np.float32(0.25) * block[::-1]
                total += rfft(crossed, n_fft) * spectra[room]
            stop = min(start + n_fft, n)
            wet[stem, :, start:stop] += irfft(total, n_fft)[:, : stop - start]
    return wet
