"""Where the spectrogram is cut into bands that have weights of their own.

With the same weights in all bands the layer computes what it does without them, but for its context along frequency.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from unbraid.errors import ModelError

__all__ = ["Band", "decoder_bands", "encoder_bands"]


@dataclass(frozen=True)
class Band:
    """Bins from `start` up to `stop`, and how many bins of zeros to put below and above them."""

    start: int
    stop: int
    n_below: int = 0
    n_above: int = 0


def encoder_bands(n_bins: int, cuts: tuple[float, ...], kernel_size: int, stride: int) -> tuple[Band, ...]:
    """Cut what a layer of the encoder convolves without padding.

    n_bins : of the layer's input
    cuts : upper ends of all bands but the last, as fractions of `n_bins`; each band ends where a whole number of steps
        of the convolution comes closest to it, and the next one begins where the next step does
    kernel_size, stride : of the convolution along frequency

    Raises
    ------
    ModelError : a band in which the kernel has no place
    """
    padding = kernel_size // 4
    bands = []
    start = 0
    for cut in cuts:
        n_below = 0 if start else padding
        n_steps = round((round(n_bins * cut) - start + n_below - kernel_size) / stride + 1)
        stop = start + (n_steps - 1) * stride + kernel_size - n_below
        bands.append(Band(start, stop, n_below))
        start = stop - kernel_size + stride
    bands.append(Band(start, n_bins, 0 if start else padding, padding))
    for band in bands:
        if band.n_below + band.stop - band.start + band.n_above < kernel_size or band.stop > n_bins:
            raise ModelError(f"multi_freqs must leave every band at least {kernel_size} of {n_bins} bins, got {cuts}")
    return tuple(bands)


def decoder_bands(n_bins: int, cuts: tuple[float, ...]) -> tuple[Band, ...]:
    """Cut the input of a layer of the decoder.

    The transposed convolutions of neighbours overlap by one stride, in which they are added; the bias counts once.

    n_bins : of the layer's input
    cuts : upper ends of all bands but the last, as fractions of `n_bins`

    Raises
    ------
    ModelError : a band without bins
    """
    edges = (0, *(round(n_bins * cut) for cut in cuts), n_bins)
    if any(low >= high for low, high in itertools.pairwise(edges)):
        raise ModelError(f"multi_freqs must leave every band at least one of {n_bins} bins, got {cuts}")
    return tuple(Band(low, high) for low, high in itertools.pairwise(edges))
