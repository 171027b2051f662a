"""Separation of a whole track by a transform and a function for its network: the pipeline in its simplest form."""

from collections.abc import Callable
from typing import Any

import numpy as np

from unbraid.models.transform import Transform

Array = np.ndarray[Any, Any]


def separate(transform: Transform, network: Callable[..., Array], track: Array) -> Array:
    """Stems [shape=(stem, channel, time)] of a track [shape=(channel, time)], with zeros beyond its ends."""
    n_track, n_stems = track.shape[-1], len(transform.stems)
    mean, deviation = np.float32(0), np.float32(1)
    if transform.normalises:
        mono = track.mean(axis=0, dtype=np.float64)
        mean, deviation = np.float32(mono.mean()), np.float32(mono.std(ddof=1) + 1e-8)
    level = (track - mean) / deviation
    each = tuple({i: 1.0} for i in range(n_stems))
    out = np.zeros((n_stems, *track.shape), np.float32)
    for index, start in enumerate(range(0, n_track, transform.stride)):
        n = min(transform.segment, n_track - start)
        before, length = transform.window(n)
        inside = slice(max(start - before, 0), min(start - before + length, n_track))
        window = np.zeros((len(track), length), np.float32)
        window[:, inside.start - start + before :][:, : inside.stop - inside.start] = level[:, inside]
        outputs = (network(*transform.forward(window)),)
        out[..., start : start + n] += transform.inverse(outputs, window, each, n=n, index=index)
    return out * deviation + mean


def by_torch(module: Any) -> Callable[..., Array]:
    """A torch module as a function of arrays."""
    import torch

    def run(*inputs: Array) -> Array:
        with torch.inference_mode():
            stems: Array = module(*(torch.from_numpy(array) for array in inputs)).numpy()
        return stems

    return run
