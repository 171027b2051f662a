"""How many samples a Demucs network of the time domain wants, and how many it gives.

The convolutions of a network take whole strides only, and in the first two releases those of the decoder have no
padding: the edges of a window are lost. So a window is longer than what is wanted of it.
"""

from __future__ import annotations

from unbraid.errors import ModelError
from unbraid.models.demucs.config import DemucsConfig

__all__ = ["output_length", "valid_length"]


def valid_length(config: DemucsConfig, n: int) -> int:
    """The length of a window for `n` samples, as upstream chooses it: `output_length` of it is at least `n`.

    n : at least 1
    """
    m = 2 * n if config.resample else n
    kernel, stride = config.kernel_size, config.stride
    for _ in range(config.depth):
        m = -(-m // stride) + kernel - 1 if config.upsample else -(-(m - kernel) // stride) + 1
        m = max(1, m)
        if config.version < 3:
            m += 2 * config.context  # whether there is such a convolution (`rewrite`) or not
    for _ in range(config.depth):
        m = m * stride + kernel - 1 if config.upsample else (m - 1) * stride + kernel
    m = -(-m // 2) if config.resample else m
    while config.upsample and _output_length(config, m) < n:  # for some sizes upstream's formula gives too little
        m += 1
    return m


def output_length(config: DemucsConfig, n: int) -> int:
    """How many samples the network gives for a window of `n`: those around its centre.

    Raises
    ------
    ModelError : the window is too short for the network
    """
    m = _output_length(config, n)
    if m < 1:
        raise ModelError(
            f"{n} samples are too short for this network; for one sample of stems it needs {valid_length(config, 1)}"
        )
    return m


def _output_length(config: DemucsConfig, n: int) -> int:
    """The same, but less than 1 where the window is too short."""
    if config.version == 3:  # pads inside
        return n
    kernel, stride = config.kernel_size, config.stride
    m = 2 * n if config.resample else n
    for _ in range(config.depth):
        m = -(-(m - kernel + 1) // stride) if config.upsample else (m - kernel) // stride + 1
        if m < 1:
            return 0
    for _ in range(config.depth):
        m = (m - 1) * stride if config.upsample else m
        m -= 2 * config.context if config.rewrite else 0
        if m < 1:
            return 0
        m = m - kernel + 1 if config.upsample else (m - 1) * stride + kernel
    return m // 2 if config.resample else m
