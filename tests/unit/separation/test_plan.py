import pytest

from unbraid.errors import UsageError
from unbraid.separation.plan import Options, make_plan


def test_all_stems_leave_the_last_one_to_the_remainder(model) -> None:
    plan = make_plan(model, Options())
    assert plan.stems == ("vocals", "drums", "bass")
    assert plan.groups == ((0,), (1,))
    assert plan.remainder


def test_two_stems_compute_one_network_output(model) -> None:
    plan = make_plan(model, Options(two_stems="drums"))
    assert (plan.stems, plan.groups, plan.remainder) == (("drums", "no_drums"), ((1,),), True)


@pytest.mark.parametrize("options", [Options(high_band="zeros"), Options(wiener=True), Options(high_band="model")])
def test_nothing_is_left_to_the_remainder_where_stems_do_not_add_up(model, options: Options) -> None:
    plan = make_plan(model, options)
    assert (plan.groups, plan.remainder) == (((0,), (1,), (2,)), False)


def test_some_stems_are_computed_in_the_order_asked_for(model) -> None:
    plan = make_plan(model, Options(stems=("bass", "vocals")))
    assert (plan.stems, plan.groups, plan.remainder) == (("bass", "vocals"), ((2,), (0,)), False)


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
        ({"shifts": 0}, "shifts must be in 1…100, got 0"),
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
