"""What TensorBoard shows of a training: losses, scores, and what the stems look and sound like meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from unbraid.datatypes import FloatArray
from unbraid.dsp.stft import stft
from unbraid.training.data import Span
from unbraid.training.loop import Watcher
from unbraid.training.networks import Trainable
from unbraid.training.state import Progress
from unbraid.training.validation import separate_span

__all__ = ["TensorBoard", "pictures"]

_N_FFT, _HOP = 2048, 512
_RANGE_DB = 80.0
_EVERY = 10  # steps whose losses are averaged to a point
# Seconds of music to see and hear.
_CLIP_S = 8.0


class TensorBoard(Watcher):
    """Writes events into a folder.

    clip : a validation part, of which the beginning is shown; None for none
    n_samples : of an example
    """

    def __init__(self, folder: Path, trainable: Trainable, clip: Span | None, *, n_samples: int) -> None:
        self._folder = folder
        self._writer: Any = None
        self._trainable = trainable
        self._clip = clip
        self._n_samples = n_samples
        self._sums: dict[str, float] = {}
        self._n_summed = 0

    def on_step(self, progress: Progress, losses: Mapping[str, float], rate: float, examples_s: float) -> None:
        """Add to the curves."""
        writer = self._open(progress.step)
        for stem, loss in losses.items():
            self._sums[stem] = self._sums.get(stem, 0.0) + loss
        self._n_summed += 1
        if self._n_summed == _EVERY:
            for stem, total in self._sums.items():
                writer.add_scalar(f"loss/{stem}", total / _EVERY, progress.step)
            writer.add_scalar("learning rate", rate, progress.step)
            self._sums, self._n_summed = {}, 0

    def on_validation(self, progress: Progress, scores: Mapping[str, float], name: str, is_kept: bool) -> None:
        """Add the scores, and the clips of the weights as they are now."""
        writer = self._open(progress.step)
        for stem, score in scores.items():
            writer.add_scalar(f"SDR/{stem}", score, progress.step)
        if self._clip is not None:
            self._show(writer, self._clip, progress.step)
        writer.flush()

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()

    def _open(self, step: int) -> Any:
        """The writer; what a stopped training wrote of steps that are done again now is withdrawn."""
        if self._writer is None:
            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        return self._writer

    def _show(self, writer: Any, clip: Span, step: int) -> None:
        rate = clip.sample_rate
        shown = Span(clip.track, clip.start, min(clip.stop, clip.start + round(_CLIP_S * rate)), clip.gain)
        truth = shown.read(0, shown.n_samples)
        estimates = separate_span(self._trainable, shown, self._n_samples, 1)
        level = float(np.abs(truth.sum(axis=0)).max()) + 1e-9  # the mix at full scale, the stems in proportion
        for i, stem in enumerate(self._trainable.stems):
            picture = pictures([truth[i] / level, estimates[i] / level])
            writer.add_image(f"true, estimated/{stem}", picture, step)
            mono = np.clip(estimates[i].mean(axis=0) / level, -1, 1)[None]
            writer.add_audio(stem, torch.from_numpy(mono), step, sample_rate=rate)


def pictures(signals: Sequence[FloatArray]) -> FloatArray:
    """Spectrograms side by side, on one scale in dB [shape=(3, freq, frame), in 0…1]; low frequencies at the bottom."""
    levels = []
    for samples in signals:
        power = np.square(np.abs(stft(samples.mean(axis=0, keepdims=True), n_fft=_N_FFT, hop=_HOP)[0]))
        levels.append(10 * np.log10(power[::2] + 1e-10))
    top = max(float(level.max()) for level in levels)
    grey = np.concatenate([np.clip(1 + (level - top) / _RANGE_DB, 0, 1) for level in levels], axis=1)[::-1]
    # Dark blue over magenta and orange to pale yellow: brightness rises evenly, so it reads in black and white too.
    stops = np.array([[0.0, 0.0, 0.02], [0.33, 0.07, 0.43], [0.73, 0.22, 0.33], [0.98, 0.55, 0.04], [0.99, 1.0, 0.64]])
    return np.stack([np.interp(grey, np.linspace(0, 1, len(stops)), channel) for channel in stops.T]).astype(np.float32)
