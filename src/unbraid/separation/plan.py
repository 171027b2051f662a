"""What to compute: a user's choices, checked against a model, become a plan that the pipeline follows blindly."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unbraid.datatypes import Network
from unbraid.errors import UsageError
from unbraid.models.transform import Mix, Transform
from unbraid.weights.store import Model, Part

__all__ = ["Member", "Options", "Plan", "make_plan"]

MAX_SHIFT_S = 0.5  # as in Demucs: half a second is longer than any period in music and short against a segment
OTHER_METHODS = ("minus", "add", "none")


@dataclass(frozen=True)
class Options:
    """How to separate.

    stems : the stems wanted, in this order; None for all of the model's
    two_stems : this stem, and all the others together as "no_STEM"
    other_method : how those come about: "minus" (what the stem leaves of the mix), "add" (their sum), or "none" of them
    wiener : refine by a multichannel Wiener filter; takes two passes, so twice the time
    shifts : average over this many runs, each with the track moved by a random time of up to half a second;
        0 and 1 are one run without
    overlap : share of a segment that the next one covers again, in [0, 1); None as the model wants it
    segment_s : seconds of audio that the network sees at once; None as the model was trained
    high_band : what the masks do above the network's band: "average", "zeros", or "model" as its configuration says
    sum_exact : share what the stems leave of the mix out among them, so that they add up to it
    seed : of the random shifts

    Raises
    ------
    UsageError : a value outside its range
    """

    stems: tuple[str, ...] | None = None
    two_stems: str | None = None
    other_method: str = "minus"
    wiener: bool = False
    shifts: int = 1
    overlap: float | None = None
    segment_s: float | None = None
    high_band: str = "average"
    sum_exact: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.shifts <= 100:
            raise UsageError(f"shifts must be in 0…100, got {self.shifts}")
        if self.stems is not None and self.two_stems is not None:
            raise UsageError("choose either stems or two-stems, not both")
        if self.stems is not None and (not self.stems or len(set(self.stems)) < len(self.stems)):
            raise UsageError(f"stems must be one name or more, each once, got {', '.join(self.stems) or 'none'}")
        if self.other_method not in OTHER_METHODS:
            raise UsageError(f"other-method must be one of {', '.join(OTHER_METHODS)}, got {self.other_method!r}")
        if self.seed < 0:
            raise UsageError(f"seed must be 0 or more, got {self.seed}")


@dataclass(frozen=True, eq=False)
class Member:
    """One network of the plan.

    transform : the arithmetic around it
    network : itself, for windows of so many samples
    mixes : what of its stems goes into each computed result
    offsets : samples of silence put before the track, one pass for each
    """

    transform: Transform
    network: Callable[[int], Network]
    mixes: tuple[Mix, ...]
    offsets: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """What the pipeline does: every pass of every member is added up.

    stems : names of the results
    remainder : whether the last result is what the others leave of the mix, instead of computed; then the results
        add up to the mix to the last bit of a float, at any sample rate, and one inverse transform is saved
    sum_exact : whether what the results leave of the mix is shared out among them
    """

    members: tuple[Member, ...]
    stems: tuple[str, ...]
    remainder: bool
    sum_exact: bool = False

    @property
    def transform(self) -> Transform:
        """That of the first member; sample rate and channels are alike in all."""
        return self.members[0].transform

    @property
    def n_computed(self) -> int:
        """How many of the results are computed."""
        return len(self.members[0].mixes)

    @property
    def n_passes(self) -> int:
        """How often the track is read: more than once where something of all of it must be known first."""
        return 1 + self.transform.normalises + self.transform.wiener


def make_plan(model: Model, options: Options) -> Plan:
    """Check the options against the model; networks that no wanted stem needs are left out.

    Raises
    ------
    UsageError : a stem that the model does not have, or a value outside its range
    """
    transforms = [
        part.transform.with_options(
            overlap=options.overlap, segment_s=options.segment_s, high_band=options.high_band, wiener=options.wiener
        )
        for part in model.parts
    ]
    names, groups, remainder = _results(model, options, transforms[0].sums_to_mix)
    totals = np.sum([part.stem_weights for part in model.parts], axis=0)
    rng = np.random.default_rng(options.seed)
    members = []
    for part, transform in zip(model.parts, transforms, strict=True):
        highest = int(MAX_SHIFT_S * transform.sample_rate)
        n_shifts = max(1, options.shifts)
        offsets = (0,) if n_shifts == 1 else tuple(int(n) for n in rng.integers(0, highest + 1, n_shifts))
        share = np.array(part.stem_weights) / totals / n_shifts
        mixes = tuple({i: float(share[i]) for i in group if share[i]} for group in groups)
        if any(mixes):
            members.append(Member(transform, _network(part, transform), mixes, offsets))
    return Plan(tuple(members), names, remainder, options.sum_exact and not remainder)


def _network(part: Part, transform: Transform) -> Callable[[int], Network]:
    return lambda n_samples: part.network(transform, n_samples)


def _results(
    model: Model, options: Options, sums_to_mix: bool
) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...], bool]:
    """Names of the results, the stems in each that is computed, and whether the last one is what those leave."""
    available, n_stems = dict(model.stems), len(model.transform.stems)
    if options.two_stems is not None:
        if options.sum_exact and options.other_method == "none":
            raise UsageError("sum-exact needs all stems of the model, so other-method must not be none")
        wanted = available[_known(options.two_stems, model)]
        rest = tuple(i for i in range(n_stems) if i not in wanted)
        both = (options.two_stems, f"no_{options.two_stems}")
        if options.other_method == "none":
            return both[:1], (wanted,), False
        if options.other_method == "minus" or sums_to_mix:
            return both, (wanted,), True
        if not rest:
            raise UsageError(f"model {model.name} has only one stem, so there is nothing to add up for the other")
        return both, (wanted, rest), False
    names = tuple(options.stems if options.stems is not None else available)
    groups = tuple(available[_known(name, model)] for name in names)
    is_complete = sum(len(group) for group in groups) == n_stems
    if options.sum_exact and not is_complete:
        raise UsageError("sum-exact needs all stems of the model, so choose none with stems or two-stems")
    remainder = sums_to_mix and is_complete and len(names) > 1
    return names, groups[:-1] if remainder else groups, remainder


def _known(stem: str, model: Model) -> str:
    names = [name for name, _ in model.stems]
    if stem in names:
        return stem
    near = difflib.get_close_matches(stem, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise UsageError(f"model {model.name} has no stem '{stem}', it has {', '.join(names)}{hint}")
