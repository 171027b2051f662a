"""What a mixing desk does to sound without changing over time: filters, equaliser, echo, place between the speakers.

Effects are plain functions of samples [shape=(2, time), float32] that return new samples of the same shape. What
changes over time is in `modulation`, what follows the level in `dynamics`, what bends the wave in `distortion`, and
rooms are in `rooms`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unbraid.datatypes import FloatArray
from unbraid.errors import UsageError

__all__ = [
    "Band",
    "amplitude",
    "band_limit",
    "echo",
    "equalise",
    "filtered",
    "haas",
    "high_pass",
    "low_pass",
    "pan",
    "widen",
]

_AWAKE = 1e-18  # amplitude of the tone that keeps filters from denormal numbers, which are a hundred times as slow
_NOTHING = 1e-12  # magnitude below which samples are silence, -240 dB
_BLOCK = 16384
_TAPS_S = 0.008  # length of the filter that limits the band: its slope is 0.7 kHz wide


@dataclass(frozen=True)
class Band:
    """One band of a parametric equaliser.

    kind : "peak", "low_shelf" or "high_shelf"
    frequency_hz : the middle of a peak, or where a shelf has half its gain in dB
    gain_db : at the middle of a peak, or on the shelf
    q : middle over width; 0.71 for a shelf without overshoot
    """

    kind: str
    frequency_hz: float
    gain_db: float
    q: float = math.sqrt(0.5)


def amplitude(level_db: float) -> float:
    """The factor that a level in dB means."""
    return float(10 ** (level_db / 20))


def filtered(samples: FloatArray, sections: NDArray[Any]) -> FloatArray:
    """Through second-order sections [shape=(section, 6)], from rest; silence stays silence."""
    from scipy.signal import sosfilt

    out = np.empty_like(samples)
    state = np.zeros((len(sections), len(samples), 2))
    # A quarter of the sample rate, which neither a high-pass nor a low-pass takes to nothing.
    awake = np.tile(np.array((_AWAKE, _AWAKE, -_AWAKE, -_AWAKE)), _BLOCK // 4)
    # Blocks that stay in the processor's cache take half the time of the whole.
    for start in range(0, samples.shape[1], _BLOCK):
        block = samples[:, start : start + _BLOCK]
        heard, state = sosfilt(sections, block + awake[: block.shape[1]], axis=1, zi=state)
        heard[np.abs(heard) < _NOTHING] = 0
        out[:, start : start + _BLOCK] = heard
    return out


def high_pass(samples: FloatArray, *, cutoff_hz: float, order: int = 2, sample_rate: int) -> FloatArray:
    """Butterworth's filter: 3 dB at the cutoff, 6 · order dB an octave below it."""
    return filtered(samples, _butterworth(cutoff_hz, order, "highpass", sample_rate))


def low_pass(samples: FloatArray, *, cutoff_hz: float, order: int = 2, sample_rate: int) -> FloatArray:
    """Butterworth's filter: 3 dB at the cutoff, 6 · order dB an octave above it."""
    return filtered(samples, _butterworth(cutoff_hz, order, "lowpass", sample_rate))


def _butterworth(cutoff_hz: float, order: int, kind: str, sample_rate: int) -> NDArray[Any]:
    from scipy.signal import butter

    cutoff_hz = min(cutoff_hz, 0.48 * sample_rate)
    sections: NDArray[Any] = butter(order, cutoff_hz, kind, fs=sample_rate, output="sos")
    return sections


def equalise(
    samples: FloatArray,
    bands: Sequence[Band],
    *,
    low_cut_hz: float | None = None,
    low_cut_order: int = 2,
    high_cut_hz: float | None = None,
    sample_rate: int,
) -> FloatArray:
    """Parametric equaliser, without delay and with the phase of an analogue one.

    The formulas of the bands' second-order sections are R. Bristow-Johnson's (Audio EQ Cookbook).

    Parameters
    ----------
    samples : ndarray
        [shape=(channel, time), float32]
    bands : sequence of Band
        Any number.
    low_cut_hz, low_cut_order : float, int
        A high-pass in the same pass over the samples; see `high_pass`.
    high_cut_hz : float
        A low-pass of 12 dB an octave likewise.
    sample_rate : int
        In Hz.

    Returns
    -------
    coloured : ndarray of the same shape
    """
    sections = [np.array([_section(band, sample_rate)]) for band in bands]
    if low_cut_hz is not None:
        sections.append(_butterworth(low_cut_hz, low_cut_order, "highpass", sample_rate))
    if high_cut_hz is not None:
        sections.append(_butterworth(high_cut_hz, 2, "lowpass", sample_rate))
    return filtered(samples, np.concatenate(sections)) if sections else samples.copy()


def _section(band: Band, sample_rate: int) -> list[float]:
    """Coefficients b0, b1, b2, a0 = 1, a1, a2."""
    omega = 2 * math.pi * min(band.frequency_hz, 0.45 * sample_rate) / sample_rate
    root = 10 ** (band.gain_db / 40)
    cosine, alpha = math.cos(omega), math.sin(omega) / (2 * band.q)
    if band.kind == "peak":
        b = (1 + alpha * root, -2 * cosine, 1 - alpha * root)
        a = (1 + alpha / root, -2 * cosine, 1 - alpha / root)
    elif band.kind in ("low_shelf", "high_shelf"):
        # A high shelf is a low one with the spectrum turned round.
        sign = 1 if band.kind == "low_shelf" else -1
        mirrored, slope = sign * cosine, 2 * math.sqrt(root) * alpha
        middle = root + 1 - (root - 1) * mirrored
        b = (root * (middle + slope), sign * 2 * root * (root - 1 - (root + 1) * mirrored), root * (middle - slope))
        middle = root + 1 + (root - 1) * mirrored
        a = (middle + slope, sign * -2 * (root - 1 + (root + 1) * mirrored), middle - slope)
    else:
        raise UsageError(f"kind of a band must be peak, low_shelf or high_shelf, got '{band.kind}'")
    return [*(value / a[0] for value in b), 1.0, a[1] / a[0], a[2] / a[0]]


def band_limit(samples: FloatArray, *, cutoff_hz: float, sample_rate: int) -> FloatArray:
    """Take all above the cutoff away, as encoders do: steeply, without delay. Above half the sample rate: nothing.

    samples : ndarray [shape=(…, time), float32]
    """
    from scipy.signal import firwin, oaconvolve

    if cutoff_hz >= sample_rate / 2 or not samples.shape[-1]:
        return samples.copy()
    n_taps = 2 * round(_TAPS_S * sample_rate / 2) + 1
    taps = firwin(n_taps, cutoff_hz, window=("kaiser", 8.0), fs=sample_rate).astype(np.float32)
    before = n_taps // 2
    limited = np.empty_like(samples)
    # Row by row, which needs a fraction of the memory, and of the time.
    for row in np.ndindex(samples.shape[:-1]):
        limited[row] = oaconvolve(samples[row], taps)[before : before + samples.shape[-1]]
    return limited


def echo(
    samples: FloatArray,
    *,
    delay_s: float,
    feedback: float,
    wet_db: float,
    low_cut_hz: float,
    high_cut_hz: float,
    ping_pong: bool,
    sample_rate: int,
) -> FloatArray:
    """Repeat what was played, again and again.

    Parameters
    ----------
    samples : ndarray
        [shape=(2, time), float32]
    delay_s : float
        From one echo to the next.
    feedback : float
        Share of each echo in the next one, below 1.
    wet_db : float
        Level of the first echo.
    low_cut_hz, high_cut_hz : float
        What is lost between an echo and the next one, by 6 dB an octave; the first one is complete.
    ping_pong : bool
        Whether echoes are on the left and on the right in turn.
    sample_rate : int
        In Hz.

    Returns
    -------
    wet : ndarray of the same shape
        The first echo begins round(delay_s · sample_rate) samples after the sound.
    """
    from scipy.signal import sosfilt

    n, n_delay = samples.shape[1], max(1, round(delay_s * sample_rate))
    sections = np.concatenate(
        [_butterworth(low_cut_hz, 1, "highpass", sample_rate), _butterworth(high_cut_hz, 1, "lowpass", sample_rate)]
    )
    source = np.stack([samples.mean(axis=0), np.zeros(n, np.float32)]) if ping_pong else samples
    wet = np.zeros_like(samples)
    state = np.zeros((len(sections), 2, 2))
    # A block is as long as the delay, so that all that it hears of itself is known.
    for start in range(n_delay, n, n_delay):
        stop = min(start + n_delay, n)
        before = wet[:, start - n_delay : stop - n_delay]
        awake = _AWAKE * (1 - (np.arange(stop - start) & 2))
        again, state = sosfilt(sections, before + awake, axis=1, zi=state)
        wet[:, start:stop] = source[:, start - n_delay : stop - n_delay]
        wet[:, start:stop] += feedback * (again[::-1] if ping_pong else again)
    wet[np.abs(wet) < _NOTHING] = 0
    out: FloatArray = samples + np.float32(amplitude(wet_db)) * wet
    return out


def pan(samples: FloatArray, *, position: float) -> FloatArray:
    """Move between left (-1) and right (1); the power of a sound in the middle stays what it is."""
    angle = (min(max(position, -1.0), 1.0) + 1) * math.pi / 4
    gains = np.array([[math.cos(angle)], [math.sin(angle)]], np.float32) * np.float32(math.sqrt(2))
    return samples * gains


def widen(samples: FloatArray, *, width: float) -> FloatArray:
    """Multiply the difference of the sides by `width`; 0 is mono. What is alike on both sides stays."""
    middle = 0.5 * (samples[:1] + samples[1:])
    side = np.float32(0.5 * width) * (samples[:1] - samples[1:])
    return np.concatenate([middle + side, middle - side])


def haas(samples: FloatArray, *, delay_s: float, channel: int, sample_rate: int) -> FloatArray:
    """Let one channel be late, up to 30 ms: the ear hears a place or width, and no echo (H. Haas, Acustica 1, 1951)."""
    n_delay = min(max(0, round(delay_s * sample_rate)), samples.shape[1])
    out = samples.copy()
    out[channel, n_delay:] = samples[channel, : samples.shape[1] - n_delay]
    out[channel, :n_delay] = 0
    return out
