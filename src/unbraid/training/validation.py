"""Scoring a network while it is trained: validation parts are separated much as the pipeline does it, and compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from unbraid.datatypes import FloatArray
from unbraid.training.data import Span
from unbraid.training.networks import Trainable

__all__ = ["mean_score", "separate_span", "validation_scores"]

# Added to energies, so that silence gives a number: that of the evaluation's uSDR.
_DELTA = 1e-7
# Of the mix's energy: a stem that has less of it in a part, as where a song fades out, would decide the mean alone.
_LEAST_SHARE = 1e-5


@torch.no_grad()
def separate_span(
    trainable: Trainable, span: Span, n_samples: int, batch_size: int, fabric: Fabric | None = None
) -> FloatArray:
    """Separate a part of a track, example after example [shape=(stem, channel, time), float32].

    Chunks of Demucs and of Open-Unmix are put one after another, without any overlap; the windows of Spleeter overlap
    by what their transforms leave incomplete, and are added up, which is the transform of the whole.
    """
    config = trainable.config
    n_overlap = config.n_fft - config.hop if trainable.family == "spleeter" else 0
    stride, device = n_samples - n_overlap, next(trainable.parameters()).device
    starts = range(-n_overlap, span.n_samples, stride)
    joined = np.zeros((len(trainable.stems), config.n_channels, len(starts) * stride + n_overlap), np.float32)
    was_training = trainable.training
    trainable.eval()
    for first in range(0, len(starts), batch_size):
        some = starts[first : first + batch_size]
        mixes = np.stack([span.read(start, start + n_samples).sum(axis=0) for start in some])
        given = torch.from_numpy(mixes).to(device)
        if fabric is None:
            estimates = trainable.separate(given)
        else:
            with fabric.autocast():
                estimates = trainable.separate(given)
        for start, estimate in zip(some, estimates.float().cpu().numpy(), strict=True):
            joined[..., start + n_overlap :][..., :n_samples] += estimate
    trainable.train(was_training)
    return joined[..., n_overlap:][..., : span.n_samples]


def validation_scores(
    trainable: Trainable, validation: Sequence[Span], n_samples: int, batch_size: int, fabric: Fabric
) -> dict[str, float]:
    """Mean uSDR in dB of each stem over the validation parts, as the evaluation defines it; NaN where there is none.

    A part in which a stem is silent, or 50 dB below the mix, does not count for that stem. Each process takes its share
    of the parts.
    """
    stems = trainable.stems
    energies = torch.zeros(3, len(validation), len(stems))
    for i in range(fabric.global_rank, len(validation), fabric.world_size):
        span = validation[i]
        rows = span.read(0, span.n_samples)
        truth = rows[: len(stems)]
        error = separate_span(trainable, span, n_samples, batch_size, fabric) - truth
        for row, signal in enumerate((truth, error, rows.sum(axis=0, keepdims=True))):
            energies[row, i] = torch.from_numpy(np.square(signal).sum(axis=(1, 2)))
    energies = cast(Tensor, fabric.all_reduce(fabric.to_device(energies), reduce_op="sum")).cpu().double()
    sdr = 10 * torch.log10((energies[0] + _DELTA) / (energies[1] + _DELTA))
    sdr[(energies[0] == 0) | (energies[0] < _LEAST_SHARE * energies[2])] = torch.nan
    return dict(zip(stems, sdr.nanmean(dim=0).tolist(), strict=True))


def mean_score(scores: Mapping[str, float]) -> float:
    """Mean over those stems that have a score; −inf where none has."""
    known = [score for score in scores.values() if not math.isnan(score)]
    return sum(known) / len(known) if known else -math.inf
