"""What the pipeline needs of a family: the arithmetic around its network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from unbraid.datatypes import FloatArray

__all__ = ["Mix", "Transform"]

# What a result is made of: how much of which of the network's stems.
Mix = Mapping[int, float]


class Transform(Protocol):
    """From samples to a network's inputs, and from its outputs to stems. Immutable; several threads may use it.

    The track is cut into chunks of `segment` samples, one every `stride` samples, from `lead` zeros before its start
    until its end; the last ones may be shorter. The network sees a window around each.
    """

    @property
    def config(self) -> Any:
        """The family's configuration."""

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the stems, in the order of the network's outputs."""

    @property
    def sample_rate(self) -> int:
        """In Hz."""

    @property
    def n_channels(self) -> int:
        """Audio channels that the network takes."""

    @property
    def segment(self) -> int:
        """Samples of a chunk."""

    @property
    def stride(self) -> int:
        """Samples from the start of a chunk to the start of the next."""

    @property
    def lead(self) -> int:
        """Zeros before the track, in samples."""

    @property
    def normalises(self) -> bool:
        """Whether the track is brought to zero mean and unit deviation first, which takes a pass over it."""

    @property
    def sums_to_mix(self) -> bool:
        """Whether the stems add up to the mix by themselves."""

    @property
    def wiener(self) -> bool:
        """Whether a Wiener filter over the whole track refines the stems, which takes a pass over it."""

    def window(self, n: int) -> tuple[int, int]:
        """For a chunk of `n` samples: how many samples before it its window starts, and the window's length."""

    def with_options(
        self,
        *,
        overlap: float | None = None,
        segment_s: float | None = None,
        high_band: str | None = None,
        wiener: bool = False,
    ) -> Transform:
        """The same with a user's choices, None being the model's own; UsageError for what it does not allow."""

    def forward(self, window: FloatArray, /) -> tuple[FloatArray, ...]:
        """Inputs of the network for a window [shape=(channel, time), float32]."""

    def inverse(
        self,
        outputs: Sequence[FloatArray],
        window: FloatArray,
        mixes: Sequence[Mix],
        /,
        *,
        n: int,
        index: int,
        wiener_filter: Any = None,
    ) -> FloatArray:
        """Results of a chunk, faded so that chunks just add up.

        outputs : of the network, for this window
        n, index : samples of the chunk; its number, from 0
        wiener_filter : of the track, where `wiener`
        returns : ndarray [shape=(len(mixes), channel, n), float32], which is the caller's
        """
