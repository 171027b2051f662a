"""What is known of one track once it is scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["BSS_METRICS", "ScoreArray", "StemScores", "TrackScores"]

ScoreArray = NDArray[np.float64]

# The metrics of BSSEval, in the order in which they are printed.
BSS_METRICS = ("SDR", "ISR", "SIR", "SAR")


@dataclass(frozen=True, eq=False)
class StemScores:
    """The scores of one stem of one track.

    frames : metric of `BSS_METRICS` → ndarray [shape=(frame,), float64], dB; NaN where a window has no score,
        +inf where an error is exactly zero; an empty mapping where the stem has no such scores
    whole : score of the whole track → number; see `unbraid.evaluation.scores` for their names
    """

    frames: Mapping[str, ScoreArray]
    whole: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class TrackScores:
    """The scores of one system on one track.

    system : what made the estimates, as given by the user: "htdemucs", "oracle:irm2", "mix", a folder's name
    track, subset : as in the dataset; the subset is "train", "validation", "test" or ""
    stems : stem → its scores, in the dataset's order
    window_s, hop_s : length and step of the frames in seconds
    notices : what the reader should know: stems that could not be scored, lengths that differed, resampling …
    settings : what the scores depend on (dataset, options, versions), as plain strings
    """

    system: str
    track: str
    subset: str
    stems: Mapping[str, StemScores]
    window_s: float = 1.0
    hop_s: float = 1.0
    notices: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
