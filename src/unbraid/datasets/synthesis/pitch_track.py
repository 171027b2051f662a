"""The pitch of a voice, frame by frame: normalised cross-correlation, and the cheapest path through its peaks.

After Talkin, "A robust algorithm for pitch tracking (RAPT)", in: Speech Coding and Synthesis, Elsevier 1995.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from unbraid.datatypes import FloatArray

__all__ = ["track_pitch"]

_RATE = 12000  # what voices have up to 6 kHz decides; more only costs
_WINDOW_S = 0.02
_FINE = 2  # lags are looked at in steps of 1 / (_FINE · _RATE)
_N_CANDIDATES = 6
_BLOCK = 512  # frames at a time

# Costs of a path; a frame with correlation r costs 1 − r when it is called voiced.
_UNVOICED = 0.52
_LONG_LAG = 0.03  # an octave: of all multiples of the period, the period itself
_JUMP = 0.35  # an octave between two frames
_SWITCH = 0.14  # between voiced and unvoiced


def track_pitch(
    samples: FloatArray, sample_rate: int, n_frames: int, hop: int, *, low_hz: float, high_hz: float
) -> FloatArray:
    """Return the pitch at samples 0, hop, 2 · hop, … of a mono recording.

    samples : ndarray [shape=(time,), float32]
    hop : samples from frame to frame
    low_hz, high_hz : no other pitch is looked for

    Returns an ndarray [shape=(n_frames,), float32], in Hz; 0 where no pitch is heard.
    """
    heard = soxr.resample(np.ascontiguousarray(samples, np.float32), sample_rate, _RATE, quality="HQ")
    window, longest = round(_WINDOW_S * _RATE), int(_RATE / low_hz) + 2
    centres = np.rint(np.arange(n_frames) * (hop * _RATE / sample_rate)).astype(np.intp)
    # Window and lag together lie around the frame; a usual lag is taken, the exact one not being known yet.
    before = (window + round(_RATE / (2 * low_hz))) // 2
    after = window + longest
    padded = np.concatenate([np.zeros(before, np.float32), heard, np.zeros(after + int(centres[-1]) + 1, np.float32)])
    floor = max(1e-9, 1e-5 * float(np.square(heard).max(initial=0))) * window
    found = [
        _candidates(padded, centres[at : at + _BLOCK], window, longest, floor, high_hz)
        for at in range(0, n_frames, _BLOCK)
    ]
    lags_s = np.concatenate([lags for lags, _ in found])
    strengths = np.concatenate([strength for _, strength in found])
    return _best_path(lags_s, strengths, 1 / high_hz)


def _candidates(
    padded: FloatArray, starts: NDArray[np.intp], window: int, longest: int, floor: float, high_hz: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the lags in seconds and the correlations of the best peaks: two arrays (frame, _N_CANDIDATES)."""
    from scipy.fft import irfft, next_fast_len, rfft

    n_segment = window + longest
    n_fft = next_fast_len(n_segment, real=True)
    segments = np.lib.stride_tricks.sliding_window_view(padded, n_segment)[starts]
    segments = segments - segments.mean(axis=1, keepdims=True)
    cross = np.conj(rfft(segments[:, :window], n_fft)) * rfft(segments, n_fft)
    products = irfft(cross, _FINE * n_fft)[:, : _FINE * longest] * np.float32(_FINE)
    summed = np.cumsum(np.square(segments, dtype=np.float64), axis=1)
    energy = np.empty((len(starts), longest))
    energy[:, 0] = summed[:, window - 1]
    energy[:, 1:] = summed[:, window : window + longest - 1] - summed[:, : longest - 1]
    fine = np.repeat(energy, _FINE, axis=1)
    fine[:, 1:-1:_FINE] = 0.5 * (energy[:, :-1] + energy[:, 1:])
    correlation = products / (np.sqrt(np.maximum(fine * energy[:, :1], 0)) + floor)

    shortest = max(2, int(_FINE * _RATE / high_hz))
    inner = correlation[:, shortest:-1]
    left, right = correlation[:, shortest - 1 : -2], correlation[:, shortest + 1 :]
    height = np.where((inner > left) & (inner >= right), inner, -1.0)
    # Without this, the candidates of a high voice are all multiples of its period.
    wanted = height - _LONG_LAG * np.log2(np.arange(shortest, shortest + inner.shape[1]) / shortest)
    best = np.argpartition(-wanted, _N_CANDIDATES, axis=1)[:, :_N_CANDIDATES]
    peak, lower, upper = (np.take_along_axis(values, best, axis=1) for values in (height, left, right))
    bend = 2 * np.take_along_axis(inner, best, axis=1) - lower - upper
    offset = np.where(peak > 0, 0.5 * (upper - lower) / np.maximum(bend, 1e-9), 0.0)
    return (best + shortest + np.clip(offset, -0.5, 0.5)) / (_FINE * _RATE), peak


def _best_path(lags_s: NDArray[Any], strengths: NDArray[Any], shortest_s: float) -> FloatArray:
    """Return the pitch along the path whose costs are least (Viterbi); 0 where it is unvoiced."""
    n_frames, n_states = lags_s.shape
    octaves = np.log2(lags_s)
    local = np.full((n_frames, n_states + 1), _UNVOICED)
    local[:, :-1] = 1 - strengths + _LONG_LAG * (octaves - np.log2(shortest_s))
    came_from = np.zeros((n_frames, n_states + 1), np.intp)
    change = np.full((n_states + 1, n_states + 1), _SWITCH)
    change[-1, -1] = 0
    total = local[0].copy()
    states = np.arange(n_states + 1)
    for frame in range(1, n_frames):
        change[:-1, :-1] = np.abs(octaves[frame - 1][:, None] - octaves[frame]) * _JUMP
        reached = total[:, None] + change
        came_from[frame] = reached.argmin(axis=0)
        total = reached[came_from[frame], states] + local[frame]
    f0 = np.zeros(n_frames, np.float32)
    state = int(total.argmin())
    for frame in range(n_frames - 1, -1, -1):
        if state < n_states:
            f0[frame] = 1 / lags_s[frame, state]
        state = int(came_from[frame, state])
    return f0
