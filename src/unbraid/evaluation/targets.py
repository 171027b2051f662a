"""Which estimates are compared with which true stems, where a system and a dataset do not have the same stems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unbraid.errors import UsageError

__all__ = ["Target", "is_sum_of_others", "match_notices", "match_stems"]

_OTHER = "other"


@dataclass(frozen=True)
class Target:
    """A stem to be scored: the sum of some true stems against the sum of some estimates, by their numbers.

    estimated : none where this is only there to tell interference from artefacts
    """

    name: str
    true: tuple[int, ...]
    estimated: tuple[int, ...]


def match_stems(true: Sequence[str], estimated: Sequence[str]) -> list[tuple[Target, ...]]:
    """Match stems by name, as museval does, and by what they are made of.

    * "accompaniment" and "no_vocals" (or any "no_STEM") are the sum of all true stems but that one. They are scored
      together with that stem and nothing else, as in museval, whose vocals come from this group.
    * What only one side has goes into "other" there: a model's piano and guitar where the dataset has none, or the
      reverse. Where "other" is all that they share, it is scored as it is in the dataset.
    * A stem alone is scored against the rest of the mix, so that interference means something.

    Returns
    -------
    list of tuples of Target
        Groups that are to be scored together; a later group's score of a stem counts instead of an earlier one's.

    Raises
    ------
    UsageError
        If nothing matches.
    """
    groups = [
        _stem_and_rest(stem, rest, true, estimated)
        for rest in estimated
        if (stem := _without(rest)) and stem in true and len(true) > 1
    ]
    stems = _stems(true, estimated)
    # Unless it is one stem that has a group with the rest.
    if stems and not (sum(bool(target.estimated) for target in stems) == 1 and any(stems[0] in one for one in groups)):
        groups.insert(0, stems)
    if not groups:
        raise UsageError(
            f"none of the stems {', '.join(estimated)} is one of the true stems {', '.join(true)}; choose others"
        )
    return groups


def match_notices(true: Sequence[str], estimated: Sequence[str], groups: Sequence[Sequence[Target]]) -> list[str]:
    """Say what the reader should know of a match: stems that went into "other", and those that are not scored."""
    scored = [target for group in groups for target in group if target.estimated]
    notices = [
        f"{target.name}: true {' + '.join(true[i] for i in target.true)} against estimated "
        f"{' + '.join(estimated[i] for i in target.estimated)}"
        for target in scored
        if max(len(target.true), len(target.estimated)) > 1 and not _without(target.name)
    ]
    used = {i for target in scored for i in target.estimated}
    unused = [name for i, name in enumerate(estimated) if i not in used]
    return notices + [f"estimated {name} is not scored: no true stem is like it" for name in unused]


def is_sum_of_others(name: str, stems: Sequence[str]) -> bool:
    """Whether a stem is the rest without another one, and the parts of that rest are there too: it must not count."""
    without = _without(name)
    return without is not None and any(not _without(stem) and stem != without for stem in stems)


def _stems(true: Sequence[str], estimated: Sequence[str]) -> tuple[Target, ...]:
    """The stems that are not the rest of anything."""
    plain = [name for name in estimated if not _without(name)]
    common = [name for name in true if name in plain and name != _OTHER]
    targets = [_target(name, true, estimated) for name in common]
    other = tuple(i for i, name in enumerate(true) if name not in common)
    others = tuple(i for i, name in enumerate(estimated) if name in plain and name not in common)
    if not common:
        other = tuple(i for i in other if true[i] == _OTHER)
    if other and others and _OTHER in ((*true, *plain) if common else plain):
        # In the dataset's order, which is that of every table.
        place = sum(true.index(name) < true.index(_OTHER) for name in common) if _OTHER in true else len(targets)
        targets.insert(place, Target(_OTHER, other, others))
    if len(targets) == 1 and (rest := tuple(i for i in range(len(true)) if i not in targets[0].true)):
        targets.append(Target("the rest", rest, ()))
    return tuple(targets)


def _stem_and_rest(stem: str, rest: str, true: Sequence[str], estimated: Sequence[str]) -> tuple[Target, ...]:
    all_others = Target(rest, _all_but(true, stem), (estimated.index(rest),))
    if stem in estimated:
        return (_target(stem, true, estimated), all_others)
    return (all_others, Target(stem, (true.index(stem),), ()))


def _target(name: str, true: Sequence[str], estimated: Sequence[str]) -> Target:
    return Target(name, (true.index(name),), (estimated.index(name),))


def _without(name: str) -> str | None:
    """The stem that this one is the rest of."""
    if name == "accompaniment":
        return "vocals"
    return name.removeprefix("no_") if name.startswith("no_") else None


def _all_but(true: Sequence[str], stem: str) -> tuple[int, ...]:
    return tuple(i for i, name in enumerate(true) if name != stem)
