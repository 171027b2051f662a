"""What surrounds an Open-Unmix model: centred spectra of a chunk, and a Wiener filter that puts the stems together.

A track of up to 30 seconds is treated as Open-Unmix does. Of a longer one, the LSTM of a network sees a chunk at once
instead of the whole track, so that memory does not grow with it. (Open-Unmix is trained on excerpts of 6 seconds.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from unbraid.datatypes import ComplexArray, FloatArray
from unbraid.dsp.stft import frames_to_samples, istft, pad, squares_covering, stft
from unbraid.dsp.wiener_em import wiener_excerpt
from unbraid.models.chunked import ChunkedTransform
from unbraid.models.hdemucs.transform import mixed
from unbraid.models.openunmix.config import OpenUnmixConfig
from unbraid.models.transform import Mix

__all__ = ["OpenUnmixTransform"]

# A chunk every 30 seconds: what fits into that is not cut.
_SEGMENT_S = 32
_OVERLAP = 1 / 16
# Frames transformed at a time: some of one stem's spectrogram and its samples stay in the second-level cache.
_CHUNK_FRAMES = 32
# Where n_fft / hop is less than 4, the last samples may lie at the edge of the last frame only. Dividing by its window
# there would make a click of what the networks leave of the window's shape: these samples fade out instead.
_LEAST_COVERING = 0.1


@dataclass(frozen=True)
class OpenUnmixTransform(ChunkedTransform):
    """The arithmetic around the networks: its fields are those of `ChunkedTransform`."""

    config: OpenUnmixConfig
    overlap: float = _OVERLAP

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the stems: those of the networks' outputs, and last the residual, where there is one."""
        return (*self.config.stems, "residual") if self.config.residual else self.config.stems

    @property
    def n_channels(self) -> int:
        """Audio channels. Networks for one channel see the mean magnitude of both, and serve both."""
        return 2

    @property
    def segment(self) -> int:
        """Length of a chunk in samples: whole hops, so that its last sample is at the centre of a frame."""
        return -(-super().segment // self.config.hop) * self.config.hop

    @property
    def own_segment(self) -> int:
        """About the length of a chunk in samples where nobody chose one."""
        return _SEGMENT_S * self.sample_rate

    @property
    def normalises(self) -> bool:
        """Whether the track is brought to zero mean and unit deviation first."""
        return False

    def window(self, n: int) -> tuple[int, int]:
        """For a chunk of `n` samples: samples of the track before it that the network sees too, and in all."""
        return 0, n

    def n_frames(self, n_samples: int) -> int:
        """Frames of the spectrogram of so many samples, which the network is given."""
        return 1 + n_samples // self.config.hop

    def forward(self, window: FloatArray) -> tuple[FloatArray, ...]:
        """Inputs of the network.

        window : ndarray [shape=(channel, time), float32], of any number of channels if the networks are for one
        returns : (magnitudes [shape=(1, n_channels of the networks, T, F), float32],)
        """
        config, padded, n_frames = self.config, self._padded(window), self.n_frames(window.shape[-1])
        magnitudes = np.empty((1, config.n_channels, n_frames, config.n_bins), np.float32)
        for frames in _slices(n_frames, _CHUNK_FRAMES):
            found = np.abs(self._spectrogram(padded, frames).swapaxes(-1, -2))
            magnitudes[0, :, frames] = found if config.n_channels > 1 else found.mean(axis=0)
        return (magnitudes,)

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

        outputs : the network's, (magnitudes [shape=(1, stem, n_channels of the networks, T, F), float32],)
        window : as it was given to `forward`
        mixes : for each result, how much of which stem it is made of
        n, index : samples of the chunk, which is the window; its number, which decides how it fades into its neighbours
        wiener_filter : must be None
        returns : ndarray [shape=(len(mixes), channel, n), float32]
        """
        config, magnitudes = self.config, outputs[0][0].swapaxes(-1, -2)
        padded, n_frames = self._padded(window), self.n_frames(n)
        out = np.zeros((len(mixes), *padded.shape), np.float32)
        for frames in _slices(n_frames, (config.wiener_frames or n_frames) if config.n_iterations else _CHUNK_FRAMES):
            stems = wiener_excerpt(
                self._spectrogram(padded, frames),
                magnitudes[..., frames],
                iterations=config.n_iterations,
                softmask=config.softmask,
                residual=config.residual,
            )
            for target, parts in zip(out, mixes, strict=True):
                if (stem := mixed(stems, parts)) is not None:
                    samples = istft(stem, hop=config.hop)
                    target[:, frames.start * config.hop :][:, : samples.shape[-1]] += samples
        inside = slice(config.n_fft // 2, config.n_fft // 2 + n)
        covering = squares_covering(n_frames, n_fft=config.n_fft, hop=config.hop)[inside].clip(_LEAST_COVERING)
        results: FloatArray = out[..., inside] * (self.fade(n, index) / covering)
        return results

    def _padded(self, window: FloatArray) -> FloatArray:
        """All samples that the frames of a window see [shape=(channel, time)]: half a frame is mirrored at its ends."""
        n_fft, hop = self.config.n_fft, self.config.hop
        n_total = frames_to_samples(self.n_frames(window.shape[-1]), n_fft, hop)
        return pad(window, n_before=n_fft // 2, n_total=n_total)

    def _spectrogram(self, padded: FloatArray, frames: slice) -> ComplexArray:
        """Some frames [shape=(channel, F, frame)]."""
        n_fft, hop = self.config.n_fft, self.config.hop
        return stft(padded[:, frames.start * hop : (frames.stop - 1) * hop + n_fft], n_fft=n_fft, hop=hop)


def _slices(n: int, size: int) -> Iterator[slice]:
    """0…n in pieces."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
