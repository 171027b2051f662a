"""What surrounds a Demucs network of the time domain: windows of a length that it takes, and chunks that fade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unbraid.datatypes import FloatArray
from unbraid.models.chunked import ChunkedTransform
from unbraid.models.demucs.config import DemucsConfig
from unbraid.models.demucs.lengths import valid_length
from unbraid.models.hdemucs.transform import mixed
from unbraid.models.transform import Mix

__all__ = ["DemucsTransform"]


@dataclass(frozen=True)
class DemucsTransform(ChunkedTransform):
    """The arithmetic around the network: its fields are those of `ChunkedTransform`."""

    config: DemucsConfig

    @property
    def n_channels(self) -> int:
        """Audio channels of the network."""
        return self.config.n_channels

    @property
    def normalises(self) -> bool:
        """Whether the track is brought to zero mean and unit deviation first, as all releases did."""
        return True

    def window(self, n: int) -> tuple[int, int]:
        """For a chunk of `n` samples: samples of the track before it that the network sees too, and in all."""
        length = valid_length(self.config, n)
        return (length - n) // 2, length

    def forward(self, window: FloatArray) -> tuple[FloatArray, ...]:
        """Inputs of the network.

        window : ndarray [shape=(channel, time), float32]
        returns : (the window itself [shape=(1, channel, time), float32],)
        """
        return (window[None],)

    def inverse(
        self,
        outputs: Sequence[FloatArray],
        window: FloatArray,
        mixes: Sequence[Mix],
        *,
        n: int,
        index: int,
        wiener_filter: None = None,
    ) -> FloatArray:
        """Results of a chunk.

        outputs : the network's, (stems [shape=(1, stem, channel, m), float32],), around the window's centre
        window : as it was given to `forward`
        mixes : for each result, how much of which of the network's stems it is made of
        n, index : samples of the chunk in the window; its number, which decides how it fades into its neighbours
        wiener_filter : must be None
        returns : ndarray [shape=(len(mixes), channel, n), float32]
        """
        start = (outputs[0].shape[-1] - n) // 2
        stems, fade = outputs[0][0, :, :, start : start + n], self.fade(n, index)
        out = np.zeros((len(mixes), len(window), n), np.float32)
        for target, parts in zip(out, mixes, strict=True):
            if (stem := mixed(stems, parts)) is not None:
                np.multiply(stem, fade, out=target)
        return out
