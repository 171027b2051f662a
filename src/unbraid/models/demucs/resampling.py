"""The low-pass filters by which Demucs resamples inside its network: those of the julius package, version 0.2."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["resampling_kernels"]

N_ZEROS: Final = 24  # zero crossings on either side
ROLLOFF: Final = 0.945  # share of the band that is kept


def resampling_kernels(*, old: int, new: int) -> NDArray[np.float64]:
    """Filters for resampling by `new` / `old`, in which one of the two is 1, as julius computes them.

    Output j is the input interpolated at the time of j · old / new input samples, by a sinc with the window
    cos²(π t / (2 N_ZEROS)), t counted in its zero crossings, and scaled so that a constant stays what it is.

    returns : ndarray [shape=(new, 2 · reach + old)]; tap k of filter i is for input j · old + k − reach, with
        reach = ceil(N_ZEROS · old / ROLLOFF)
    """
    reach = math.ceil(N_ZEROS * old / ROLLOFF)
    taps = np.arange(-reach, reach + old) / old
    t = np.clip((taps - np.arange(new)[:, None] / new) * ROLLOFF, -N_ZEROS, N_ZEROS)
    kernels: NDArray[np.float64] = np.sinc(t) * np.cos(t * np.pi / (2 * N_ZEROS)) ** 2
    kernels /= kernels.sum(axis=1, keepdims=True)
    return kernels
