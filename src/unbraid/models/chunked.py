"""What the transforms have in common whose chunks of samples fade into each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

from unbraid.datatypes import FloatArray
from unbraid.dsp.segments import crossfade_weights
from unbraid.errors import UsageError

__all__ = ["ChunkedTransform"]

Self = TypeVar("Self", bound="ChunkedTransform")

_LONGEST_S = 600.0


@dataclass(frozen=True)
class ChunkedTransform:
    """Chunks of a length, and how one gives way to the next.

    config : of the network
    overlap : share of a chunk that the next one covers again
    transition_power : 1 fades chunks linearly into each other; higher powers fade faster, about the same place
    chosen_segment : samples of a chunk; None for the model's own

    Raises
    ------
    UsageError : a value outside its range
    """

    config: Any
    overlap: float = 0.25
    transition_power: float = 1.0
    chosen_segment: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise UsageError(f"overlap must be in [0, 1), got {self.overlap}")
        if not 1 <= self.transition_power <= 100:
            raise UsageError(f"transition power must be in [1, 100], got {self.transition_power}")

    def with_options(
        self: Self,
        *,
        overlap: float | None = None,
        segment_s: float | None = None,
        high_band: str | None = None,
        wiener: bool = False,
    ) -> Self:
        """The same with a user's choices; None keeps the model's own.

        overlap : in [0, 1)
        segment_s : length of a chunk in seconds
        high_band : of no meaning here, as these networks leave out nothing
        wiener : of no use here: an option of Spleeter's models

        Raises
        ------
        UsageError : a value outside its range
        """
        if wiener:
            raise UsageError("the Wiener filter over a whole track is an option of Spleeter models")
        segment = self.chosen_segment
        if segment_s is not None:
            if not 0 < segment_s <= self.longest_segment_s:
                raise UsageError(
                    f"segment must be in (0, {self.longest_segment_s:g}] seconds for this model, got {segment_s}"
                )
            segment = max(1, int(self.sample_rate * segment_s))
        return replace(self, overlap=self.overlap if overlap is None else overlap, chosen_segment=segment)

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the stems, in the order of the network's outputs."""
        stems: tuple[str, ...] = self.config.stems
        return stems

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        sample_rate: int = self.config.sample_rate
        return sample_rate

    @property
    def segment(self) -> int:
        """Length of a chunk in samples."""
        return self.chosen_segment or self.own_segment

    @property
    def own_segment(self) -> int:
        """Length of a chunk in samples where nobody chose one."""
        segment: int = self.config.segment_samples
        return segment

    @property
    def longest_segment_s(self) -> float:
        """The longest chunk that a user may choose."""
        return _LONGEST_S

    @property
    def stride(self) -> int:
        """Samples from the start of a chunk to the start of the next."""
        return max(1, int((1 - self.overlap) * self.segment))

    @property
    def lead(self) -> int:
        """Zeros before the track, in samples."""
        return 0

    @property
    def sums_to_mix(self) -> bool:
        """Whether the stems add up to the mix by themselves."""
        return False

    @property
    def wiener(self) -> bool:
        """Whether a Wiener filter over the whole track refines the stems."""
        return False

    def fade(self, n: int, index: int) -> FloatArray:
        """Weights of the `n` samples of a chunk; those of all chunks over a sample add up to 1."""
        return crossfade_weights(self.segment, self.stride, index, power=self.transition_power)[:n]
