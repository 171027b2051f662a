from dataclasses import replace

import pytest

from unbraid.errors import UsageError
from unbraid.separation.plan import Options, make_plan
from unbraid.weights.store import Model


def test_all_stems_leave_the_last_one_to_the_remainder(model) -> None:
    plan = make_plan(model, Options())
    assert plan.stems == ("vocals", "drums", "bass")
    assert plan.members[0].mixes == ({0: 1.0}, {1: 1.0})
    assert plan.remainder


def test_two_stems_compute_one_network_output(model) -> None:
    plan = make_plan(model, Options(two_stems="drums"))
    assert (plan.stems, plan.members[0].mixes, plan.remainder) == (("drums", "no_drums"), ({1: 1.0},), True)


@pytest.mark.parametrize("options", [Options(high_band="zeros"), Options(wiener=True), Options(high_band="model")])
def test_nothing_is_left_to_the_remainder_where_stems_do_not_add_up(model, options: Options) -> None:
    plan = make_plan(model, options)
    assert (plan.members[0].mixes, plan.remainder) == (({0: 1.0}, {1: 1.0}, {2: 1.0}), False)


def test_some_stems_are_computed_in_the_order_asked_for(model) -> None:
    plan = make_plan(model, Options(stems=("bass", "vocals")))
    assert (plan.stems, plan.members[0].mixes) == (("bass", "vocals"), ({2: 1.0}, {0: 1.0}))
    assert not plan.remainder


def test_segment_and_overlap_become_whole_frames(model) -> None:
    transform = make_plan(model, Options(segment_s=2.0, overlap=0.5)).transform
    assert transform.config.n_frames == 128  # 86.1 frames, up to a multiple of 64
    assert transform.stride == 64 * 1024
    assert transform.segment == 127 * 1024 + 4096


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stems": ("vocal",)}, "no stem 'vocal'.*did you mean 'vocals'"),
        ({"two_stems": "piano"}, "no stem 'piano', it has vocals, drums, bass"),
        ({"stems": ()}, "stems must be one name or more"),
        ({"stems": ("bass", "bass")}, "each once, got bass, bass"),
        ({"stems": ("bass",), "two_stems": "bass"}, "either stems or two-stems"),
        ({"shifts": -1}, "shifts must be in 0…100, got -1"),
        ({"other_method": "plus"}, "other-method must be one of minus, add, none, got 'plus'"),
        ({"sum_exact": True, "stems": ("bass",)}, "sum-exact needs all stems"),
        ({"overlap": 1.0}, r"overlap must be in \[0, 1\), got 1.0"),
        ({"overlap": -0.1}, "overlap must be in"),
        ({"segment_s": 0.0}, "segment must be in"),
        ({"segment_s": float("nan")}, "segment must be in"),
        ({"high_band": "mirror"}, "high band must be one of"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_impossible_options_are_refused_in_one_line(model, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make_plan(model, Options(**options))
    assert "\n" not in str(caught.value)


def bag(model: Model, *stem_weights: tuple[float, ...]) -> Model:
    (part,) = model.parts
    described = [replace(part.described, stem_weights=weights) for weights in stem_weights]
    return replace(model, parts=tuple(replace(part, described=one) for one in described))


def test_members_are_averaged_by_their_weights(model) -> None:
    plan = make_plan(bag(model, (1, 1, 0), (3, 0, 2)), Options(high_band="zeros", shifts=2))
    assert [len(member.offsets) for member in plan.members] == [2, 2]
    assert plan.members[0].offsets != plan.members[1].offsets  # each draws its own
    assert plan.members[0].mixes == ({0: 0.125}, {1: 0.5}, {})
    assert plan.members[1].mixes == ({0: 0.375}, {}, {2: 0.5})


@pytest.mark.parametrize("options", [Options(stems=("bass",)), Options(two_stems="bass")])
def test_networks_that_no_wanted_stem_needs_are_not_run(model, options: Options) -> None:
    plan = make_plan(bag(model, (1, 0, 0), (0, 1, 0), (0, 0, 1)), options)
    assert [member.mixes for member in plan.members] == [({2: 1.0},)]


@pytest.mark.parametrize(
    ("method", "names", "mixes", "remainder"),
    [
        ("minus", ("bass", "no_bass"), ({2: 1.0},), True),
        ("add", ("bass", "no_bass"), ({2: 1.0}, {0: 1.0, 1: 1.0}), False),
        ("none", ("bass",), ({2: 1.0},), False),
    ],
)
def test_the_other_of_two_stems(model, method: str, names: tuple, mixes: tuple, remainder: bool) -> None:
    plan = make_plan(model, Options(two_stems="bass", other_method=method, high_band="zeros"))
    assert (plan.stems, plan.members[0].mixes, plan.remainder) == (names, mixes, remainder)
