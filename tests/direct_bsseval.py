"""BSSEval by its definition: delayed copies in a matrix, least squares, convolution in time. For small sizes.

Written from the formulas in `unbraid.evaluation.bsseval`; it shares no code, no Fourier transform and no normal
equations with either that or museval, and so is also right where these equations are singular.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["direct_bss_eval"]

Array = NDArray[np.float64]


def direct_bss_eval(
    references: Array,
    estimates: Array,
    *,
    n_taps: int,
    window: int | None = None,
    hop: int | None = None,
    framewise: bool = False,
) -> Array:
    """SDR, ISR, SIR and SAR [shape=(4, stem, frame)] of stems [shape=(stem, channel, time)]."""
    n_stems, _, n_samples = references.shape
    window, hop = (n_samples, 1) if window is None or hop is None or window > n_samples else (window, hop)
    starts = range(0, n_samples - window + 1, hop)
    result = np.full((4, n_stems, len(starts)), np.nan)
    for frame, start in enumerate(starts):
        part = np.s_[..., start : start + window]
        s, e = references[part], estimates[part]
        if not all(stem.sum(axis=0).any() for stem in (*s, *e)):
            continue
        for j in range(n_stems):
            fitted = part if framewise else np.s_[...]
            own = filtered(s[j], filters(references[fitted][j], estimates[fitted][j], n_taps))
            every = own
            if n_stems > 1:
                taps = filters(np.concatenate(references[fitted]), estimates[fitted][j], n_taps)
                every = filtered(np.concatenate(s), taps)
            true, estimated = padded(s[j], n_taps), padded(e[j], n_taps)
            result[:, j, frame] = (
                decibels(true, estimated - true),
                decibels(true, own - true),
                decibels(own, every - own),
                decibels(every, estimated - every),
            )
    return result


def padded(signals: Array, n_taps: int) -> Array:
    """Signals with the time that a filter takes to end."""
    return np.pad(signals, ((0, 0), (0, n_taps - 1)))


def filters(inputs: Array, output: Array, n_taps: int) -> Array:
    """Least-squares filters [shape=(output channel, input channel, tap)], by QR of the delayed inputs."""
    delayed = np.stack([np.roll(signal, k) for signal in padded(inputs, n_taps) for k in range(n_taps)], axis=1)
    q, r = np.linalg.qr(delayed)
    solution: Array = np.linalg.solve(r, q.T @ padded(output, n_taps).T)
    return np.ascontiguousarray(solution.T.reshape(len(output), len(inputs), n_taps))


def filtered(inputs: Array, taps: Array) -> Array:
    """The sum of all filtered inputs, for each output channel."""
    return np.stack([sum(map(np.convolve, inputs, per_input)) for per_input in taps])


def decibels(signal: Array, error: Array) -> float:
    """Ratio of energies; +inf where there is no error."""
    energy = np.sum(error**2)
    return float(10 * np.log10(np.sum(signal**2) / energy)) if energy else np.inf
