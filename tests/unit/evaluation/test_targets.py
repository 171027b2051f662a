"""Which stems are compared: that of museval where it has a rule, what the names mean where it has none."""

import pytest

from unbraid.errors import UsageError
from unbraid.evaluation.targets import Target, match_notices, match_stems

MUSDB = ("drums", "bass", "other", "vocals")
SIX = (*MUSDB, "guitar", "piano")
# musdb 0.4's targets, in its order, as sums of its stems.
MUSEVAL_TARGETS = {**{stem: (stem,) for stem in MUSDB}, "accompaniment": ("drums", "bass", "other")}

Named = tuple[str, frozenset[str], frozenset[str]]


def named(true: tuple[str, ...], estimated: tuple[str, ...]) -> list[list[Named]]:
    """The groups, with names in place of numbers."""
    groups = match_stems(true, estimated)
    for group in groups:
        n_scored = sum(bool(target.estimated) for target in group)
        assert all(target.estimated for target in group[:n_scored]) and n_scored, "those that are scored come first"
        for target in group:
            assert len(set(target.true)) == len(target.true) > 0
    return [
        [
            (
                target.name,
                frozenset(true[i] for i in target.true),
                frozenset(estimated[i] for i in target.estimated),
            )
            for target in group
        ]
        for group in groups
    ]


def one(name: str, true: str = "", estimated: str | None = None) -> Named:
    """A target in short: its name, and what it is the sum of where that is not the stem of that name."""
    sides = (true or name).split(), (name if estimated is None else estimated).split()
    return (name, frozenset(sides[0]), frozenset(sides[1]))


def museval_groups(estimated: tuple[str, ...]) -> list[list[Named]]:
    """What `museval.eval_mus_track` (0.4.1) compares, in its order; a later score of a stem is the one that counts."""
    targets = [name for name in MUSEVAL_TARGETS if name in estimated]
    has_acc = "vocals" in targets and "accompaniment" in targets
    if has_acc:
        targets.remove("accompaniment")
    groups = [targets] if len(targets) >= 2 else []
    groups += [["vocals", "accompaniment"]] if has_acc else []
    return [[(name, frozenset(MUSEVAL_TARGETS[name]), frozenset([name])) for name in group] for group in groups]


@pytest.mark.parametrize(
    "estimated",
    [
        MUSDB,
        ("vocals", "drums", "bass", "other"),
        ("vocals", "accompaniment"),
        ("accompaniment", "vocals"),
        (*MUSDB, "accompaniment"),
        ("accompaniment", "bass", "drums", "other", "vocals"),
        ("drums", "bass"),
        ("vocals", "drums", "accompaniment"),
    ],
)
def test_what_museval_has_a_rule_for_is_done_so(estimated: tuple[str, ...]) -> None:
    assert named(MUSDB, estimated) == museval_groups(estimated)


@pytest.mark.parametrize(
    ("true", "estimated", "expected"),
    [
        # Two stems of --two-stems, under the name that they are written with.
        (MUSDB, ("vocals", "no_vocals"), [[one("vocals"), one("no_vocals", "drums bass other")]]),
        (MUSDB, ("no_drums", "drums"), [[one("drums"), one("no_drums", "bass other vocals")]]),
        (MUSDB, ("other", "no_other"), [[one("other"), one("no_other", "drums bass vocals")]]),
        (
            SIX,
            ("vocals", "accompaniment"),
            [[one("vocals"), one("accompaniment", "drums bass other guitar piano")]],
        ),
        # A dataset of two stems.
        (("vocals", "accompaniment"), ("vocals", "no_vocals"), [[one("vocals"), one("no_vocals", "accompaniment")]]),
        (
            ("vocals", "accompaniment"),
            MUSDB,
            [[one("vocals"), one("other", "accompaniment", "drums bass other")]],
        ),
        # A model's piano and guitar where the dataset has none, and the reverse.
        (
            MUSDB,
            ("vocals", "drums", "bass", "other", "piano"),
            [[one("drums"), one("bass"), one("other", "other", "other piano"), one("vocals")]],
        ),
        (
            MUSDB,
            SIX,
            [[one("drums"), one("bass"), one("other", "other", "other piano guitar"), one("vocals")]],
        ),
        (
            SIX,
            ("vocals", "drums", "bass", "other"),
            [[one("drums"), one("bass"), one("other", "other piano guitar", "other"), one("vocals")]],
        ),
        (
            ("vocals", "drums", "bass", "piano", "other"),
            SIX,
            [[one("vocals"), one("drums"), one("bass"), one("piano"), one("other", "other", "other guitar")]],
        ),
        (SIX, tuple(reversed(SIX)), [[one(stem) for stem in SIX]]),
        (MUSDB, ("vocals", "other"), [[one("other", "other drums bass"), one("vocals")]]),
        (("vocals", "drums", "bass"), MUSDB, [[one("vocals"), one("drums"), one("bass")]]),
        (
            ("vocals", "keys", "strings"),
            ("vocals", "other"),
            [[one("vocals"), one("other", "keys strings", "other")]],
        ),
        # A stem alone, against the rest.
        (MUSDB, ("vocals",), [[one("vocals"), one("the rest", "drums bass other", "")]]),
        (MUSDB, ("other",), [[one("other"), one("the rest", "drums bass vocals", "")]]),
        (("vocals",), ("vocals", "other"), [[one("vocals")]]),
        (("vocals",), ("vocals", "no_vocals"), [[one("vocals")]]),
        # The rest alone, or that of something else.
        (MUSDB, ("no_vocals",), [[one("no_vocals", "drums bass other"), one("vocals", "vocals", "")]]),
        (
            MUSDB,
            ("drums", "accompaniment"),
            [
                [one("drums"), one("the rest", "bass other vocals", "")],
                [one("accompaniment", "drums bass other"), one("vocals", "vocals", "")],
            ],
        ),
        # Every stem with its rest.
        (
            ("vocals", "drums"),
            ("vocals", "drums", "no_vocals", "no_drums"),
            [
                [one("vocals"), one("drums")],
                [one("vocals"), one("no_vocals", "drums")],
                [one("drums"), one("no_drums", "vocals")],
            ],
        ),
    ],
)
def test_stems_of_other_names(true: tuple[str, ...], estimated: tuple[str, ...], expected: list[list[Named]]) -> None:
    found = named(true, estimated)
    assert [sorted(group, key=str) for group in found] == [sorted(group, key=str) for group in expected]


def test_a_stem_of_the_sum_of_others_is_in_the_datasets_place() -> None:
    (group,) = match_stems(("bass", "other", "drums", "piano"), ("piano and guitar", "drums", "bass"))
    assert [target.name for target in group] == ["bass", "other", "drums"]
    assert group[1] == Target("other", (1, 3), (0,))


@pytest.mark.parametrize("estimated", [("piano",), ("voc", "drms"), ("no_piano", "mandolin"), ("no_",)])
def test_nothing_in_common_is_an_error(estimated: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as error:
        match_stems(MUSDB, estimated)
    assert str(error.value) == (
        f"none of the stems {', '.join(estimated)} is one of the true stems drums, bass, other, vocals; choose others"
    )


@pytest.mark.parametrize(
    ("true", "estimated", "expected"),
    [
        (MUSDB, MUSDB, []),
        (MUSDB, ("vocals", "accompaniment"), []),
        (MUSDB, ("vocals",), []),
        (MUSDB, SIX, ["other: true other against estimated other + guitar + piano"]),
        (SIX, MUSDB, ["other: true other + guitar + piano against estimated other"]),
        (MUSDB, ("vocals", "other"), ["other: true drums + bass + other against estimated other"]),
        (
            ("vocals", "drums"),
            ("vocals", "drums", "keys", "no_bass"),
            [
                "estimated keys is not scored: no true stem is like it",
                "estimated no_bass is not scored: no true stem is like it",
            ],
        ),
    ],
)
def test_what_is_not_one_to_one_is_said(true: tuple[str, ...], estimated: tuple[str, ...], expected: list[str]) -> None:
    assert match_notices(true, estimated, match_stems(true, estimated)) == expected
