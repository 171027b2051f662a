"""What to compute: a user's choices, checked against a model, become a plan that the pipeline follows blindly."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unbraid.errors import UsageError
from unbraid.models.spleeter.transform import SpleeterTransform
from unbraid.weights.store import Model

__all__ = ["Options", "Plan", "make_plan"]

MAX_SHIFT_S = 0.5  # as in Demucs: half a second is longer than any period in music and short against a segment


@dataclass(frozen=True)
class Options:
    """How to separate.

    stems : the stems wanted, in this order; None for all of the model's
    two_stems : this stem, and all the others together as "no_STEM"
    wiener : refine by a multichannel Wiener filter; takes two passes, so twice the time
    shifts : average over this many runs, each with the track moved by a random time of up to half a second
    overlap : share of a segment that the next one covers again, in [0, 1); None as the model wants it
    segment_s : seconds of audio that the network sees at once; None as the model was trained
    high_band : what the masks do above the network's band: "average", "zeros", or "model" as its configuration says
    seed : of the random shifts

    Raises
    ------
    UsageError : a value outside its range
    """

    stems: tuple[str, ...] | None = None
    two_stems: str | None = None
    wiener: bool = False
    shifts: int = 1
    overlap: float | None = None
    segment_s: float | None = None
    high_band: str = "average"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.shifts <= 100:
            raise UsageError(f"shifts must be in 1…100, got {self.shifts}")
        if self.stems is not None and self.two_stems is not None:
            raise UsageError("choose either stems or two-stems, not both")
        if self.stems is not None and (not self.stems or len(set(self.stems)) < len(self.stems)):
            raise UsageError(f"stems must be one name or more, each once, got {', '.join(self.stems) or 'none'}")
        if self.seed < 0:
            raise UsageError(f"seed must be 0 or more, got {self.seed}")


@dataclass(frozen=True)
class Plan:
    """What the pipeline does.

    transform : the arithmetic around the network
    stems : names of the results
    groups : the network's stems that are added up in each computed result
    remainder : whether the last result is what the others leave of the mix, instead of computed; then the results
        add up to the mix to the last bit of a float, at any sample rate, and one inverse transform is saved
    offsets : samples of silence put before the track, one pass for each; the passes are averaged
    """

    transform: SpleeterTransform
    stems: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    remainder: bool
    offsets: tuple[int, ...]


def make_plan(model: Model, options: Options) -> Plan:
    """Check the options against the model.

    Raises
    ------
    UsageError : a stem that the model does not have, or a value outside its range
    """
    transform = model.transform.with_options(
        overlap=options.overlap, segment_s=options.segment_s, high_band=options.high_band, wiener=options.wiener
    )
    results = _results(model, options)
    n_covered = sum(len(group) for _, group in results)
    remainder = transform.sums_to_mix and n_covered == len(transform.stems) and len(results) > 1
    groups = tuple(group for _, group in (results[:-1] if remainder else results))
    rng = np.random.default_rng(options.seed)
    highest = int(MAX_SHIFT_S * transform.sample_rate)
    offsets = (0,) if options.shifts == 1 else tuple(int(n) for n in rng.integers(0, highest + 1, options.shifts))
    return Plan(transform, tuple(name for name, _ in results), groups, remainder, offsets)


def _results(model: Model, options: Options) -> list[tuple[str, tuple[int, ...]]]:
    """Name and network stems of each result."""
    available = dict(model.stems)
    if options.two_stems is not None:
        wanted = available[_known(options.two_stems, model)]
        rest = tuple(i for i in range(len(model.transform.stems)) if i not in wanted)
        if not rest:
            raise UsageError(f"model {model.name} has only one stem, so two-stems leaves nothing for the other")
        return [(options.two_stems, wanted), (f"no_{options.two_stems}", rest)]
    names: Sequence[str] = options.stems if options.stems is not None else tuple(available)
    return [(name, available[_known(name, model)]) for name in names]


def _known(stem: str, model: Model) -> str:
    names = [name for name, _ in model.stems]
    if stem in names:
        return stem
    near = difflib.get_close_matches(stem, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise UsageError(f"model {model.name} has no stem '{stem}', it has {', '.join(names)}{hint}")
