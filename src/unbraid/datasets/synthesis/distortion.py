"""What bends the wave. Curves are applied at a multiple of the sample rate, so that what they add above it is lost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unbraid.audio.resample import resample
from unbraid.datasets.synthesis.effects import Band, amplitude, equalise, high_pass, low_pass
from unbraid.datatypes import FloatArray

__all__ = ["amplify", "crush", "saturation_gain", "soft_clip", "tube", "warm"]

_SMOOTHED_S = 0.0002  # each of two moving averages: the gain keeps what is below some 2 kHz
_LEAST_GAIN = 0.35  # -9 dB; what a master loses to saturation is less


def _oversampled(
    curve: Callable[[FloatArray], FloatArray], samples: FloatArray, factor: int, sample_rate: int
) -> FloatArray:
    return resample(curve(resample(samples, sample_rate, factor * sample_rate)), factor * sample_rate, sample_rate)


def soft_clip(samples: FloatArray, *, drive_db: float, oversampling: int = 4, sample_rate: int) -> FloatArray:
    """tanh(drive · x) / drive, rounded on both sides alike: odd harmonics; soft sounds keep their level."""
    drive = np.float32(amplitude(drive_db))
    return _oversampled(lambda x: np.tanh(drive * x) / drive, samples, oversampling, sample_rate)


def tube(
    samples: FloatArray, *, drive_db: float, asymmetry: float, oversampling: int = 4, sample_rate: int
) -> FloatArray:
    """tanh(u + asymmetry · (√(1 + u²) - 1)) / drive, u = drive · x: even harmonics too, without their constant part.

    asymmetry : from 0, which is `soft_clip`, to below 1; soft sounds keep their level, which are too soft to bend
    """
    drive = np.float32(amplitude(drive_db))

    def curve(x: FloatArray) -> FloatArray:
        u = drive * x
        bent: FloatArray = np.tanh(u + np.float32(asymmetry) * (np.sqrt(1 + np.square(u)) - 1)) / drive
        return bent

    bent = _oversampled(curve, samples, oversampling, sample_rate)
    return high_pass(bent, cutoff_hz=10.0, order=1, sample_rate=sample_rate)


def warm(samples: FloatArray, *, drive_db: float, share: float, oversampling: int = 2, sample_rate: int) -> FloatArray:
    """Even harmonics only, without their constant part: x + share · (√(1 + (drive · x)²) - 1) / drive."""
    drive = np.float32(amplitude(drive_db))

    def curve(x: FloatArray) -> FloatArray:
        bent: FloatArray = x + np.float32(share) * (np.sqrt(1 + np.square(drive * x)) - 1) / drive
        return bent

    bent = _oversampled(curve, samples, oversampling, sample_rate)
    return high_pass(bent, cutoff_hz=10.0, order=1, sample_rate=sample_rate)


def crush(samples: FloatArray, *, n_bits: float, hold: int) -> FloatArray:
    """Round to 2^n_bits steps between -1 and 1, and keep each `hold`-th sample until the next one.

    Its aliases are what it is for.
    """
    step = np.float32(2 ** (1 - n_bits))
    kept = np.repeat(samples[:, ::hold], hold, axis=1)[:, : samples.shape[1]]
    rounded: FloatArray = np.round(kept / step) * step
    return rounded


def amplify(
    samples: FloatArray,
    *,
    drive_db: float,
    tight_hz: float,
    bite_db: float,
    cabinet_hz: float,
    sample_rate: int,
) -> FloatArray:
    """An amplifier for guitars: two tubes in a row, four times oversampled, and a loudspeaker in a box.

    Parameters
    ----------
    samples : ndarray
        [shape=(2, time), float32]
    drive_db : float
        Of the first tube; the second one has half of it.
    tight_hz : float
        What is below is not driven.
    bite_db : float
        Of the upper middle, before the tubes.
    cabinet_hz : float
        Above it the loudspeaker is silent: 24 dB an octave.
    sample_rate : int
        In Hz.

    Returns
    -------
    amplified : ndarray of the same shape
    """
    driven = equalise(
        samples,
        [Band("peak", 1400.0, bite_db, 0.7)],
        low_cut_hz=tight_hz,
        low_cut_order=1,
        # Highs that the loudspeaker would not let out make nothing but aliases.
        high_cut_hz=1.5 * cabinet_hz,
        sample_rate=sample_rate,
    )
    first, second = np.float32(amplitude(drive_db)), np.float32(amplitude(drive_db / 2))

    def curve(x: FloatArray) -> FloatArray:
        u = first * x
        bent: FloatArray = np.tanh(second * np.tanh(u + np.float32(0.4) * (np.sqrt(1 + np.square(u)) - 1)))
        return bent

    bent = _oversampled(curve, driven, 4, sample_rate) / np.float32(amplitude(0.75 * drive_db))
    box = [Band("peak", 110.0, 3.0, 1.2), Band("peak", 420.0, -3.0, 1.0), Band("peak", 0.6 * cabinet_hz, 4.0, 1.5)]
    boxed = equalise(bent, box, low_cut_hz=75.0, sample_rate=sample_rate)
    return low_pass(boxed, cutoff_hz=cabinet_hz, order=4, sample_rate=sample_rate)


def saturation_gain(mix: FloatArray, *, drive_db: float, sample_rate: int) -> FloatArray:
    """Gain tanh(u) / u, u = drive · mix, that a saturated mix has had; smoothed, so that it does not tear stems.

    mix : ndarray [shape=(2, time), float32]
    returns : ndarray [shape=(2, time), float32] from 0.35 to 1
    """
    from scipy.ndimage import uniform_filter1d

    u = np.abs(mix) * np.float32(amplitude(drive_db))
    gain = np.maximum(np.tanh(u) / np.maximum(u, 1e-3), np.float32(_LEAST_GAIN))
    gain[u < 1e-3] = 1
    size = max(1, round(_SMOOTHED_S * sample_rate))
    smoothed: FloatArray = uniform_filter1d(uniform_filter1d(gain, size, mode="nearest"), size, mode="nearest")
    return np.clip(smoothed, _LEAST_GAIN, 1)
