"""What surrounds a Spleeter network: from samples to magnitudes, and from estimated magnitudes to stems.

The track gets `n_fft` zeros in front and is cut into segments of `T` frames. A segment of (T − 1)·hop + n_fft
samples every T·hop samples holds the very frames that the transform of the whole track has there, and the sum of
the segments' inverse transforms is the inverse transform of the whole track: streaming is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from unbraid.datatypes import ComplexArray, FloatArray
from unbraid.dsp.masks import apply_mask, ratio_masks
from unbraid.dsp.segments import crossfade_weights
from unbraid.dsp.stft import frames_to_samples, istft, stft
from unbraid.dsp.wiener import WienerFilter, WienerStatistics
from unbraid.errors import UsageError
from unbraid.models.spleeter.config import MASK_EXTENSIONS, STRIDE, SpleeterConfig

__all__ = ["SpleeterTransform"]

Scalar = TypeVar("Scalar", np.float32, np.complex64)

# Frames inverted at a time: estimates, masks and one stem of them stay in the second-level cache.
_CHUNK_FRAMES = 32


@dataclass(frozen=True)
class SpleeterTransform:
    """Spleeter's arithmetic around the network, on stereo segments.

    config : of the network
    overlap : share of a segment that the next one covers again; their masks fade into each other there
    wiener : refine the estimates by a multichannel Wiener filter (Spleeter's --mwf) instead of ratio masks
    """

    config: SpleeterConfig
    overlap: float = 0.0
    wiener: bool = False

    def with_options(
        self,
        *,
        overlap: float | None = None,
        segment_s: float | None = None,
        high_band: str | None = None,
        wiener: bool = False,
    ) -> SpleeterTransform:
        """The same with a user's choices; None keeps the model's own.

        overlap : in [0, 1)
        segment_s : length of a segment in seconds, rounded up to whole multiples of 64 frames
        high_band : mask above the network's bins, "zeros" or "average"; "model" as the configuration says
        wiener : see the class

        Raises
        ------
        UsageError : a value outside its range
        """
        config = self.config
        if high_band not in (None, "model"):
            if high_band not in MASK_EXTENSIONS:
                raise UsageError(f"high band must be one of average, zeros, model, got {high_band!r}")
            config = replace(config, mask_extension=high_band)
        if segment_s is not None:
            if not 0 < segment_s <= 600:
                raise UsageError(f"segment must be in (0, 600] seconds, got {segment_s}")
            n_frames = -(-int(segment_s * config.sample_rate / config.hop) // STRIDE) * STRIDE
            config = replace(config, n_frames=max(STRIDE, n_frames))
        if overlap is not None and not 0 <= overlap < 1:
            raise UsageError(f"overlap must be in [0, 1), got {overlap}")
        return SpleeterTransform(config, overlap=self.overlap if overlap is None else overlap, wiener=wiener)

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the stems, in the order of the network's outputs."""
        return self.config.stems

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return self.config.sample_rate

    @property
    def lead(self) -> int:
        """Zeros before the track, in samples."""
        return self.config.n_fft

    @property
    def segment(self) -> int:
        """Length of a segment in samples."""
        return frames_to_samples(self.config.n_frames, self.config.n_fft, self.config.hop)

    @property
    def stride(self) -> int:
        """Samples from the start of a segment to the start of the next."""
        return self._stride_frames * self.config.hop

    @property
    def _stride_frames(self) -> int:
        return max(1, round(self.config.n_frames * (1 - self.overlap)))

    @property
    def n_channels(self) -> int:
        """Audio channels of the network."""
        return self.config.n_channels

    @property
    def normalises(self) -> bool:
        """Whether the track is brought to zero mean and unit deviation first."""
        return False

    def window(self, n: int) -> tuple[int, int]:
        """For a chunk of `n` samples: samples of the track before it that the network sees too, and in all."""
        return 0, self.segment

    @property
    def sums_to_mix(self) -> bool:
        """Whether the stems add up to the mix: full-band ratio masks do."""
        full_band = self.config.mask_extension == "average" or self.config.n_bins > self.config.n_fft // 2
        return full_band and not self.wiener

    def forward(self, segment: FloatArray) -> tuple[FloatArray, ...]:
        """Inputs of the network.

        segment : ndarray [shape=(2, self.segment), float32]
        returns : (magnitudes [shape=(1, 2, T, F), float32],)
        """
        config = self.config
        magnitudes = np.empty((1, config.n_channels, config.n_frames, config.n_bins), np.float32)
        for frames in self._chunks():
            low = self.spectrogram(segment, frames).swapaxes(-1, -2)[..., : config.n_bins]
            np.abs(low, out=magnitudes[0, :, frames])
        return (magnitudes,)

    def spectrogram(self, segment: FloatArray, frames: slice) -> ComplexArray:
        """Spectrogram of some frames of a segment [shape=(2, freq, frame), complex64]."""
        n_fft, hop = self.config.n_fft, self.config.hop
        return stft(segment[:, frames.start * hop : (frames.stop - 1) * hop + n_fft], n_fft=n_fft, hop=hop)

    def _chunks(self) -> Iterator[slice]:
        """The frames of a segment, a few at a time."""
        n_frames = self.config.n_frames
        return (slice(i, min(i + _CHUNK_FRAMES, n_frames)) for i in range(0, n_frames, _CHUNK_FRAMES))

    def inverse(
        self,
        outputs: Sequence[FloatArray],
        segment: FloatArray,
        mixes: Sequence[Mapping[int, float]],
        *,
        n: int | None = None,
        index: int = 0,
        wiener_filter: WienerFilter | None = None,
    ) -> FloatArray:
        """Stems of a segment.

        outputs : the network's, (estimates [shape=(1, stem, 2, T, F), float32],)
        segment : as it was given to `forward`; its spectrogram is computed again, which costs less than keeping it
        mixes : for each stem of the result, how much of which of the network's stems it is made of
        n : samples wanted; None for all
        index : number of the segment, which decides how it fades into its neighbours
        wiener_filter : of the whole track, where the Wiener filter is asked for
        returns : ndarray [shape=(len(mixes), 2, n), float32]
        """
        config, estimates = self.config, self.estimates(outputs)
        fade = None
        if self._stride_frames < config.n_frames:
            fade = crossfade_weights(config.n_frames, self._stride_frames, index)
        out = np.zeros((len(mixes), config.n_channels, self.segment), np.float32)
        for frames in self._chunks():
            mix = self.spectrogram(segment, frames)
            if fade is not None:
                mix *= fade[frames]
            for target, stem in zip(out, self._stems(mix, estimates[..., frames], mixes, wiener_filter), strict=True):
                samples = istft(stem, hop=config.hop)
                target[:, frames.start * config.hop :][:, : samples.shape[-1]] += samples
        return out[..., :n]

    def _stems(
        self,
        mix: ComplexArray,
        estimates: FloatArray,
        mixes: Sequence[Mapping[int, float]],
        wiener_filter: WienerFilter | None,
    ) -> Iterator[ComplexArray]:
        """Spectrograms of the results in some frames, one after the other."""
        refined = None if wiener_filter is None else wiener_filter.apply(mix, estimates)
        masks = ratio_masks(estimates, exponent=self.config.separation_exponent)
        for parts in mixes:
            stem = apply_mask(mix, _mixed(masks, parts), extension=self.config.mask_extension)
            if refined is not None:  # the filter knows only the network's band; above, the masks hold
                stem[:, : self.config.n_bins] = _mixed(refined[..., : self.config.n_bins, :], parts)
            yield stem

    def estimates(self, outputs: Sequence[FloatArray]) -> FloatArray:
        """The network's outputs as magnitudes [shape=(stem, channel, F, frame), float32]."""
        estimates: FloatArray = outputs[0][0].swapaxes(-1, -2)
        return estimates

    def statistics(self) -> WienerStatistics:
        """Empty statistics for the first pass of the Wiener filter."""
        return WienerStatistics(len(self.stems), self.config.n_channels, self.config.n_bins)


def _mixed(stems: NDArray[Scalar], parts: Mapping[int, float]) -> NDArray[Scalar]:
    """The weighted sum of some stems; one alone as it is is the usual case, and costs nothing."""
    if list(parts.values()) == [1.0]:
        alone: NDArray[Scalar] = stems[next(iter(parts))]
        return alone
    out: NDArray[Scalar] = np.tensordot(np.array(list(parts.values()), np.float32), stems[list(parts)], 1)
    return out
