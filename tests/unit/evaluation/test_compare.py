import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unbraid.errors import UnbraidError
from unbraid.evaluation.aggregate import AVERAGE
from unbraid.evaluation.compare import compare, comparison_rows, holm, signed_rank_p, verdict
from unbraid.evaluation.results import StemScores, TrackScores

NAN = math.nan


def scores(system: str, levels: Sequence[float], *, stems: Sequence[str] = ("vocals",), **whole: Sequence[float]):
    """Scores of tracks 0, 1, … whose every stem has these levels."""
    return [
        TrackScores(
            system=system,
            track=f"track {number}",
            subset="test",
            stems={
                stem: StemScores(
                    {"SDR": np.array([level, NAN])}, {name: found[number] for name, found in whole.items()}
                )
                for stem in stems
            },
        )
        for number, level in enumerate(levels)
    ]


def pair(n_tracks: int, gap: float, spread: float, **options):
    rng = np.random.default_rng(2)
    levels = rng.normal(6, 3, n_tracks)
    return scores("A", levels + rng.normal(gap, spread, n_tracks), **options), scores("B", levels, **options)


# The test.


@settings(deadline=None)  # the first one imports scipy.stats
@given(st.lists(st.integers(-20, 20), max_size=9, unique_by=abs))
def test_p_counts_all_signs(differences: list[int]) -> None:
    known = [value for value in differences if value]
    sizes = sorted(abs(value) for value in known)
    ranks = [sizes.index(abs(value)) + 1 for value in known]
    half = sum(ranks) / 2
    off = abs(sum(rank for rank, value in zip(ranks, known, strict=True) if value > 0) - half)
    all_signs = list(itertools.product((False, True), repeat=len(known)))
    as_far = sum(abs(sum(itertools.compress(ranks, signs)) - half) >= off - 1e-9 for signs in all_signs)
    assert signed_rank_p(np.array(differences, float)) == pytest.approx(as_far / len(all_signs))


def test_p_is_as_low_by_chance_as_it_says() -> None:
    rng = np.random.default_rng(8)
    p_values = [signed_rank_p(rng.laplace(0, 1, 20)) for _ in range(1000)]
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.028)  # four standard deviations


@pytest.mark.parametrize("differences", [[1.0, 1.0, -1.0], [0.5] * 20, np.linspace(-1, 2, 301)])
def test_ties_and_many_tracks_have_a_p_too(differences) -> None:
    assert 0 < signed_rank_p(np.array(differences)) <= 1


def test_holm_by_hand() -> None:
    # Sorted: 0.01 × 4, 0.015 × 3, 0.03 × 2, 0.04 × 1 but not below 0.06.
    assert holm([0.04, 0.01, 0.03, 0.015]) == pytest.approx([0.06, 0.04, 0.06, 0.045])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


# The comparison.


def test_a_clear_difference() -> None:
    found = compare(*pair(50, 0.3, 0.3))
    (difference,) = found.differences
    assert (found.first, found.second, difference.n_tracks) == ("A", "B", 50)
    assert difference.is_significant and difference.wins + difference.losses == 50
    assert 0.1 < difference.median.low < difference.median.value < difference.median.high < 0.5
    assert 0.1 < difference.mean.low < difference.mean.value < difference.mean.high < 0.5
    low, value, high = (difference.median.low, difference.median.value, difference.median.high)
    assert verdict(found, difference) == f"A better than B by {value:.2f} dB (95 % CI {low:.2f}…{high:.2f}), p < 0.001"


def test_the_other_way_round() -> None:
    first, second = pair(50, 0.3, 0.3)
    there, back = compare(first, second), compare(second, first)
    (one,), (other,) = there.differences, back.differences
    assert one.median.value == pytest.approx(-other.median.value)
    assert (one.wins, one.losses, one.p) == (other.losses, other.wins, pytest.approx(other.p))
    assert verdict(back, other).split(" (")[0] == verdict(there, one).split(" (")[0]


def test_no_difference() -> None:
    found = compare(*pair(50, 0.0, 1.0))
    (difference,) = found.differences
    assert difference.median.low < 0 < difference.median.high
    assert verdict(found, difference) == f"no difference that 50 tracks can show, p = {difference.p:.3f}"


def test_the_same_scores() -> None:
    found = compare(scores("A", range(9)), scores("B", range(9)))
    assert found.differences[0].p == 1
    assert verdict(found, found.differences[0]) == "the same on 9 tracks"


@pytest.mark.parametrize(("n_tracks", "n_stems", "can"), [(5, 1, False), (6, 1, True), (7, 4, False), (8, 4, True)])
def test_few_tracks_can_show_nothing(n_tracks: int, n_stems: int, can: bool) -> None:
    stems = ("vocals", "drums", "bass", "other")[:n_stems]
    found = compare(*pair(n_tracks, 5.0, 0.1, stems=stems))
    assert found.differences[0].is_significant == can
    words = verdict(found, found.differences[0])
    needed = 6 if n_stems == 1 else 8
    expected = f"no difference that {n_tracks} tracks can show: no test can be significant with fewer than {needed}"
    assert words.startswith("A better than B by " if can else expected)


def test_stems_are_corrected_for_their_number_and_their_mean_is_not() -> None:
    found = compare(*pair(10, 0.5, 1.0, stems=("vocals", "drums", "bass", "other")))
    *stems, average = found.differences
    assert average.stem == AVERAGE
    assert [one.p_adjusted for one in stems] == [min(1.0, 4 * one.p) for one in stems]  # all the same
    assert average.p_adjusted == average.p == stems[0].p
    assert average.median.value == pytest.approx(stems[0].median.value)


def test_less_may_be_better() -> None:
    levels = np.linspace(0.1, 0.2, 10)
    first, second = scores("A", levels, L1=levels + 0.01), scores("B", levels, L1=levels)
    found = compare(first, second, metric="L1")
    assert (found.differences[0].wins, found.differences[0].losses) == (0, 10)
    assert verdict(found, found.differences[0]) == "B better than A by 0.01 (95 % CI 0.01…0.01), p = 0.002"
    assert comparison_rows(found)[0][1] == "median"


def test_tracks_and_stems_that_one_lacks_are_named() -> None:
    first, second = pair(10, 1.0, 0.1, stems=("vocals", "drums"))
    second = [replace(one, stems={"vocals": one.stems["vocals"]}) for one in second[1:]]
    found = compare(first[:-2], second)
    assert (found.only_first, found.only_second) == (("track 0",), ("track 8", "track 9"))
    assert found.notes == ("only 'A' has the SDR of 'drums'",)
    assert [(one.stem, one.n_tracks) for one in found.differences] == [("vocals", 7)]


def test_tracks_without_a_score_do_not_count_and_infinite_ones_do() -> None:
    first = scores("A", [0.0] * 5, x=[NAN, 1.0, 1.0, math.inf, math.inf])
    second = scores("B", [0.0] * 5, x=[1.0, 1.0, 2.0, math.inf, -math.inf])
    (found,) = compare(first, second, metric="x").differences
    assert (found.n_tracks, found.wins, found.losses) == (4, 1, 1)
    assert comparison_rows(compare(first, second, metric="x"))[1][3] == "∞"


def test_other_settings_are_an_error_or_a_note() -> None:
    first, second = pair(10, 1.0, 0.1)
    said = [replace(one, settings={"dataset": "MUSDB18", "overlap": "0.1"}) for one in first]
    other = [replace(one, settings={"dataset": "MUSDB18-HQ", "overlap": "0.25"}) for one in second]
    with pytest.raises(UnbraidError, match=r"different settings of 'dataset': MUSDB18 of 'A' .*, MUSDB18-HQ of 'B'"):
        compare(said, other)
    assert compare(said, other, must_agree=()).notes == (
        "dataset: MUSDB18 for 'A', MUSDB18-HQ for 'B'",
        "overlap: 0.1 for 'A', 0.25 for 'B'",
    )
    assert compare(said, second).notes == ("overlap: 0.1 for 'A', not said for 'B'",)
    with pytest.raises(UnbraidError, match=r"different windows: 1 s of 'A' on 'track 0', 2 s of 'B'"):
        compare(first, [replace(one, window_s=2.0) for one in second])
    with pytest.raises(UnbraidError, match="different steps between windows"):
        compare(first, [*second[:-1], replace(second[-1], hop_s=0.5)])


def test_what_cannot_be_compared() -> None:
    first, second = pair(3, 1.0, 0.1)
    with pytest.raises(UnbraidError, match="'A' has no SIR; there are SDR"):
        compare(first, second, metric="SIR")
    with pytest.raises(UnbraidError, match="no track has been scored for both 'A' and 'B'"):
        compare(first[:1], second[1:])
    with pytest.raises(UnbraidError, match="two scores"):
        compare([*first, *first], second)


def test_the_table() -> None:
    found = compare(*pair(50, -0.3, 0.3, stems=("vocals", "drums")))
    heading, *rows = comparison_rows(found)
    assert heading[:3] == ["stem", "median (dB)", "95 % CI"]
    assert [row[0] for row in rows] == ["vocals", "drums", AVERAGE]
    assert {len(row) for row in (heading, *rows)} == {len(heading)}
    assert rows[0][1] == f"{found.differences[0].median.value:.2f}".replace("-", "−")
    assert rows[0][6] == f"{found.differences[0].wins}/{found.differences[0].losses}"
    assert rows[0][7] == "< 0.001"
    assert rows[0][-1].startswith("B better than A by 0.")
