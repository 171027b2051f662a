"""Short-time Fourier transform and its inverse, one segment at a time.

Frames start every `hop` samples from the first sample on; `stft` neither centres nor pads, so that the
transform of a segment holds exactly the frames that a transform of the whole track would hold at that place,
and the plain sum of the segments' inverse transforms is the inverse transform of the whole track. Where frames are to
be centred, `pad` comes first.

Arrays have shape (…, channel, freq, frame); in memory the frames are rows (the view is a transposed one), because
both the FFT and the networks read along frequency.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from unbraid.datatypes import ComplexArray, FloatArray

__all__ = ["frames_to_samples", "hann", "istft", "pad", "squares_covering", "stft"]

# Frames transformed at a time: 32 × 4096 float32 are half a megabyte, which stays in the second-level cache.
_CHUNK = 32


def frames_to_samples(n_frames: int, n_fft: int, hop: int) -> int:
    """How many samples `n_frames` frames cover: (n_frames − 1)·hop + n_fft."""
    return (n_frames - 1) * hop + n_fft


@lru_cache(maxsize=8)
def hann(n: int) -> FloatArray:
    """Periodic Hann window, 0.5 − 0.5·cos(2πi/n) [shape=(n,)], read-only."""
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)).astype(np.float32)
    window.flags.writeable = False
    return window


def pad(samples: FloatArray, *, n_before: int, n_total: int, reflect: bool = True) -> FloatArray:
    """Put samples before and after.

    samples : ndarray [shape=(channel, time), float32]
    n_before, n_total : samples to put before, and in all afterwards
    reflect : mirror the signal at its first and last sample; otherwise put zeros
    returns : ndarray [shape=(channel, n_total), float32]

    A signal is mirrored once. To a shorter one zeros are added first until that is enough, at the end as far as there
    is room and else at the start: the rule of Demucs.
    """
    n_samples = samples.shape[-1]
    n_after = n_total - n_before - n_samples
    n_missing = max(n_before, n_after) - n_samples + 1
    if reflect and n_missing > 0:
        n_zeros = n_missing - min(n_after, n_missing), min(n_after, n_missing)
        samples = np.pad(samples, ((0, 0), n_zeros))
        n_before, n_after = n_before - n_zeros[0], n_after - n_zeros[1]
    return np.pad(samples, ((0, 0), (n_before, n_after)), mode="reflect" if reflect else "constant")


def stft(samples: FloatArray, *, n_fft: int, hop: int, normalised: bool = False) -> ComplexArray:
    """Spectrogram with a periodic Hann window.

    samples : ndarray [shape=(channel, time), float32]
    normalised : divide by √n_fft
    returns : ndarray [shape=(channel, n_fft//2 + 1, frame), complex64], frame = 1 + (time − n_fft)//hop
    """
    from scipy import fft

    frames = sliding_window_view(samples, n_fft, axis=-1)[:, ::hop]
    n_channels, n_frames = frames.shape[:2]
    spec = np.empty((n_channels, n_frames, n_fft // 2 + 1), np.complex64)
    window = hann(n_fft) * np.float32(n_fft**-0.5 if normalised else 1)
    for channel in range(n_channels):
        for start in range(0, n_frames, _CHUNK):
            part = slice(start, start + _CHUNK)
            spec[channel, part] = fft.rfft(frames[channel, part] * window, axis=-1, overwrite_x=True)
    return spec.swapaxes(-1, -2)


def istft(spec: ComplexArray, *, hop: int, normalised: bool = False) -> FloatArray:
    """Inverse of `stft` by windowed overlap-add, scaled so that samples in n_fft/hop frames, 3 or more, are unchanged.

    spec : ndarray [shape=(channel, n_fft//2 + 1, frame), complex64]
    normalised : multiply by √n_fft
    returns : ndarray [shape=(channel, (frame − 1)·hop + n_fft), float32]

    Each frame is multiplied by the window again; the squares of Hann windows that are n_fft/4 apart sum to 3/2,
    hence the factor 2/3 at 75 % overlap, in general hop/(n_fft·3/8). The first and last n_fft − hop samples are
    covered by fewer frames: they are completed by adding the neighbouring segment, or by dividing by
    `squares_covering`; so are all samples where n_fft/hop is less than 3 or no whole number.
    """
    from scipy import fft

    rows = spec.swapaxes(-1, -2)
    n_channels, n_frames, n_freqs = rows.shape
    n_fft = 2 * (n_freqs - 1)
    overlap = -(-n_fft // hop)
    n_missing = overlap * hop - n_fft
    window = hann(n_fft) * np.float32(hop / (n_fft * 3 / 8) * (n_fft**0.5 if normalised else 1))
    out = np.zeros((n_channels, n_frames + overlap - 1, hop), np.float32)
    for channel in range(n_channels):
        for start in range(0, n_frames, _CHUNK):
            frames = fft.irfft(rows[channel, start : start + _CHUNK], n_fft, axis=-1)
            frames *= window
            if n_missing:
                frames = np.pad(frames, ((0, 0), (0, n_missing)))
            pieces = frames.reshape(-1, overlap, hop)
            for k in range(overlap):
                out[channel, start + k : start + k + len(pieces)] += pieces[:, k]
    return out.reshape(n_channels, -1)[:, : frames_to_samples(n_frames, n_fft, hop)]


def squares_covering(n_frames: int, *, n_fft: int, hop: int) -> FloatArray:
    """How completely so many frames cover each sample of `istft`, whose result is to be divided by it at the edges.

    Returns the sum of the squares of their windows over that of endless frames [shape=((frame − 1)·hop + n_fft,)].
    """
    overlap = -(-n_fft // hop)
    squares = np.zeros((overlap, hop), np.float32)
    squares.reshape(-1)[:n_fft] = hann(n_fft) ** 2 * np.float32(hop / (n_fft * 3 / 8))
    out = np.zeros((n_frames + overlap - 1, hop), np.float32)
    for k in range(overlap):
        out[k : k + n_frames] += squares[k]
    return out.reshape(-1)[: frames_to_samples(n_frames, n_fft, hop)]
