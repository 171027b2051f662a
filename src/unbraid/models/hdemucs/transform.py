"""What surrounds a Hybrid Demucs or HT Demucs network: from samples to its two inputs, and from its outputs to stems.

Frame t of the spectrogram is centred on the t-th hop of the window: (3/2)·hop samples, mirrored, come before the window
and as many after its last whole hop, so that a frame and a step of the waveform's branch mean the same time. The frames
divide by √n_fft, and their Nyquist bin is left out (Défossez, "Hybrid Spectrogram and Waveform Source Separation",
2021, section 3.1). Networks for the spectrogram alone have frames that are centred on multiples of the hop from 0 on.

The stems' spectrograms are added up in the wanted proportions before they are turned into samples: what costs time is
one inverse transform for each result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from unbraid.datatypes import ComplexArray, FloatArray
from unbraid.dsp.stft import frames_to_samples, istft, pad, squares_covering, stft
from unbraid.dsp.wiener_em import wiener_excerpt
from unbraid.models.chunked import ChunkedTransform
from unbraid.models.hdemucs.config import HDemucsConfig
from unbraid.models.htdemucs.config import HTDemucsConfig
from unbraid.models.transform import Mix

__all__ = ["HybridTransform", "mixed"]

Scalar = TypeVar("Scalar", np.float32, np.complex64)

# Frames transformed at a time: some of one stem's spectrogram and its samples stay in the second-level cache.
_CHUNK_FRAMES = 32
# Frames that EM takes together, in Hybrid Demucs.
_WIENER_FRAMES = 300
# Added to magnitudes that phases are divided by, in Hybrid Demucs.
_SILENCE = 1e-8


@dataclass(frozen=True)
class HybridTransform(ChunkedTransform):
    """The arithmetic around the network of both families: its fields are those of `ChunkedTransform`."""

    config: HDemucsConfig | HTDemucsConfig

    @property
    def n_channels(self) -> int:
        """Audio channels of the network."""
        return self.config.n_channels

    @property
    def longest_segment_s(self) -> float:
        """The longest chunk that a user may choose: what an HT Demucs network was trained with."""
        if isinstance(self.config, HTDemucsConfig):
            return self.config.segment_samples / self.sample_rate
        return super().longest_segment_s

    @property
    def normalises(self) -> bool:
        """Whether the track is brought to zero mean and unit deviation first."""
        return True

    def window(self, n: int) -> tuple[int, int]:
        """For a chunk of `n` samples: samples of the track before it that the network sees too, and in all."""
        config = self.config
        if isinstance(config, HTDemucsConfig) and (config.use_train_segment or self.chosen_segment):
            return (self.segment - n) // 2, self.segment
        return 0, n

    def network_samples(self, n_window: int) -> int:
        """How many samples the network is given for a window: zeros may fill it up to the length in training."""
        config = self.config
        filled = isinstance(config, HTDemucsConfig) and config.use_train_segment
        return max(n_window, config.segment_samples) if filled else n_window

    def n_frames(self, n_samples: int) -> int:
        """Frames of the spectrogram of so many samples, which the network is given."""
        hop = self.config.hop
        return -(-n_samples // hop) if self._hybrid else 1 + n_samples // hop

    @property
    def _hybrid(self) -> bool:
        return not isinstance(self.config, HDemucsConfig) or self.config.hybrid

    @property
    def _hybrid_old(self) -> bool:
        return isinstance(self.config, HDemucsConfig) and self.config.hybrid_old

    @property
    def _n_padding(self) -> int:
        """Samples of the first frame that lie before the window."""
        return (3 if self._hybrid else 4) * self.config.hop // 2

    def forward(self, window: FloatArray) -> tuple[FloatArray, ...]:
        """Inputs of the network.

        window : ndarray [shape=(channel, time), float32]
        returns : (spectrum [shape=(1, C, F, T), float32], mix [shape=(1, channel, n), float32]), where C is real and
            imaginary parts of each channel in turn, or the channels' magnitudes; F = n_fft/2. The mix, which may be
            the window itself, is left out for a network without a branch for it
        """
        config, window = self.config, self._filled(window)
        padded, n_frames, n_bins = self._padded(window), self.n_frames(window.shape[-1]), config.n_fft // 2
        n_parts = 2 if config.complex_as_channels else 1
        spectrum = np.empty((len(window), n_parts, n_bins, n_frames), np.float32)
        for frames in _slices(n_frames, _CHUNK_FRAMES):
            spec = self._mix_spectrogram(padded, frames)
            if config.complex_as_channels:
                spectrum[:, 0, :, frames], spectrum[:, 1, :, frames] = spec.real, spec.imag
            else:
                spectrum[:, 0, :, frames] = np.abs(spec)
        inputs = spectrum.reshape(1, -1, n_bins, n_frames), window[None]
        return inputs if self._hybrid else inputs[:1]

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

        outputs : the network's: spectra [shape=(1, stem, C, F, T), float32] and, of a network with a branch for it,
            waves [shape=(1, stem, channel, n_network), float32]
        window : as it was given to `forward`
        mixes : for each result, how much of which of the network's stems it is made of
        n, index : samples of the chunk in the window; its number, which decides how it fades into its neighbours
        wiener_filter : must be None
        returns : ndarray [shape=(len(mixes), channel, n), float32]
        """
        config, spectra, hop = self.config, outputs[0][0], self.config.hop
        iterations, n_frames = config.n_wiener_iterations, spectra.shape[-1]
        padded = None if config.complex_as_channels else self._padded(self._filled(window))
        n_padded = frames_to_samples(n_frames, config.n_fft, hop)
        out = np.zeros((len(mixes), len(window), n_padded), np.float32)
        for frames in _slices(n_frames, _WIENER_FRAMES if padded is not None and iterations > 0 else _CHUNK_FRAMES):
            stems = spectra[..., frames]
            if padded is not None:
                stems = self._with_phases(stems, self._mix_spectrogram(padded, frames))
            for target, parts in zip(out, mixes, strict=True):
                if (stem := mixed(stems, parts)) is not None:
                    samples = istft(_with_nyquist(stem), hop=hop, normalised=True)
                    target[:, frames.start * hop :][:, : samples.shape[-1]] += samples
        before, _ = self.window(n)
        results = self._unpadded(out, n_frames)[..., before : before + n]
        for waves in outputs[1:]:
            for result, parts in zip(results, mixes, strict=True):
                if (wave := mixed(waves[0, :, :, before : before + n], parts)) is not None:
                    result += wave
        results *= self.fade(n, index)
        return results

    def _filled(self, window: FloatArray) -> FloatArray:
        """The window as the network sees it."""
        n_zeros = self.network_samples(window.shape[-1]) - window.shape[-1]
        return np.pad(window, ((0, 0), (0, n_zeros))) if n_zeros else window

    def _padded(self, window: FloatArray) -> FloatArray:
        """All samples that the frames of a window see [shape=(channel, time)]."""
        n_total = frames_to_samples(self.n_frames(window.shape[-1]), self.config.n_fft, self.config.hop)
        return pad(window, n_before=self._n_padding, n_total=n_total, reflect=not self._hybrid_old)

    def _unpadded(self, padded: FloatArray, n_frames: int) -> FloatArray:
        """The inverse transform [shape=(…, time)] from the window's start on, made complete where that needs be."""
        n_fft, hop = self.config.n_fft, self.config.hop
        if self._hybrid_old:
            # What was put before the window stays, so stems come late: these networks were trained so. Two silent
            # frames before those of the network count among the frames that cover a sample.
            start, covering = 0, squares_covering(n_frames + 2, n_fft=n_fft, hop=hop)[2 * hop :]
        elif self._hybrid:
            return padded[..., self._n_padding :]
        else:
            start, covering = self._n_padding, squares_covering(n_frames, n_fft=n_fft, hop=hop)
        inside = slice(start, start + n_frames * hop)
        unpadded: FloatArray = padded[..., inside] / covering[inside]
        return unpadded

    def _mix_spectrogram(self, padded: FloatArray, frames: slice) -> ComplexArray:
        """Some frames without their Nyquist bin [shape=(channel, F, frame)]."""
        n_fft, hop = self.config.n_fft, self.config.hop
        samples = padded[:, frames.start * hop : (frames.stop - 1) * hop + n_fft]
        return stft(samples, n_fft=n_fft, hop=hop, normalised=True)[:, :-1]

    def _with_phases(self, magnitudes: FloatArray, mix: ComplexArray) -> ComplexArray:
        """Spectrograms of the stems (and of the residual, perhaps) [shape=(stem, channel, F, frame)].

        magnitudes : ndarray [shape=(stem, channel, F, frame), float32]
        mix : ndarray [shape=(channel, F, frame), complex64]
        """
        config = self.config
        if config.n_wiener_iterations < 0:
            phases: ComplexArray = mix / (np.abs(mix) + np.float32(_SILENCE))
            return phases * magnitudes
        return wiener_excerpt(mix, magnitudes, iterations=config.n_wiener_iterations, residual=config.wiener_residual)


def mixed(stems: NDArray[Scalar], parts: Mix) -> NDArray[Scalar] | None:
    """Add up stems [shape=(stem, …)] as the weights say; None for nothing. One alone is a view, and costs nothing."""
    total: NDArray[Scalar] | None = None
    for i, weight in parts.items():
        stem = stems[i] if weight == 1 else stems[i] * np.float32(weight)
        total = stem if total is None else total + stem
    return total


def _with_nyquist(stem: FloatArray | ComplexArray) -> ComplexArray:
    """Spectrogram of a stem as `istft` takes it [shape=(channel, F + 1, frame), complex64].

    stem : ndarray [shape=(channel, F, frame), complex64], or [shape=(2·channel, F, frame), float32], real and imaginary
        parts of each channel in turn
    """
    is_complex = stem.dtype == np.complex64
    real, imaginary = (stem.real, stem.imag) if is_complex else (stem[0::2], stem[1::2])
    n_channels, n_bins, n_frames = real.shape
    rows = np.zeros((n_channels, n_frames, n_bins + 1), np.complex64)
    rows.real[..., :-1] = real.swapaxes(-1, -2)
    rows.imag[..., :-1] = imaginary.swapaxes(-1, -2)
    return rows.swapaxes(-1, -2)


def _slices(n: int, size: int) -> Iterator[slice]:
    """0…n in pieces."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
