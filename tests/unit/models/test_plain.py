"""Configurations as plain data: what comes back, and what is refused in which words."""

from dataclasses import dataclass, field

import pytest

from unbraid.errors import ModelError
from unbraid.models.plain import check_fields, check_stems, read_plain, shown, write_plain


@dataclass(frozen=True)
class Part:
    n_layers: int = 1

    def __post_init__(self) -> None:
        check_fields(self, {"n_layers": (1, 8)})


@dataclass(frozen=True)
class Whole:
    stems: tuple[str, ...]
    scale: float = 1
    shifted: bool = False
    width: int | None = None
    edges: tuple[float, ...] = ()
    part: Part = field(default_factory=Part)
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        check_stems(self.stems)
        check_fields(self, {"scale": (0, 1e6), "width": (1, 100), "edges": (0, 1)})


FULL = Whole(("a", "b"), 0.5, True, 3, (0.25, 0.5), Part(2), (Part(3), Part(4)))
FULL_PLAIN = {
    "stems": ["a", "b"],
    "scale": 0.5,
    "shifted": True,
    "width": 3,
    "edges": [0.25, 0.5],
    "part": {"n_layers": 2},
    "parts": [{"n_layers": 3}, {"n_layers": 4}],
}


def test_there_and_back() -> None:
    assert write_plain(FULL) == FULL_PLAIN
    assert read_plain(Whole, FULL_PLAIN) == FULL


def test_absent_keys_have_their_defaults() -> None:
    assert read_plain(Whole, {"stems": ["a"]}) == Whole(("a",))


def test_none_is_left_out_since_toml_has_no_word_for_it() -> None:
    plain = write_plain(Whole(("a",)))
    assert "width" not in plain
    assert read_plain(Whole, plain) == Whole(("a",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scael": 1}, "unknown key 'scael'; the nearest known one is 'scale'"),
        ({"EDGES": []}, "unknown key 'EDGES'; the nearest known one is 'edges'"),
        ({"part": {"layers": 1}}, "unknown key 'part.layers'; the nearest known one is 'part.n_layers'"),
        ({"part": 3}, "part must be a table, got 3"),
        ({"parts": [3]}, "parts must be a table, got 3"),
        ({"parts": {"n_layers": 3}}, "parts must be a list, got {'n_layers': 3}"),
        ({"stems": "vocals"}, "stems must be a list, got 'vocals'"),
        ({"stems": []}, "stems must be one name or more, got ()"),
        ({"stems": ["a", ""]}, "stems must be one name or more, got ('a', '')"),
        ({"stems": ["a", "a"]}, "stems must differ from each other, got ('a', 'a')"),
        ({"stems": [str(i) for i in range(65)]}, "stems must be at most 64, got 65"),
        ({"scale": True}, "scale must be a number, got True"),
        ({"scale": "1"}, "scale must be a number, got '1'"),
        ({"scale": float("nan")}, "scale must be a number, got nan"),
        ({"scale": float("inf")}, "scale must be a number, got inf"),
        ({"scale": 10**400}, "scale must be from 0 to 1e+06, got 1000000000"),
        ({"scale": 10**10_000}, "scale must be from 0 to 1e+06, got "),
        ({"shifted": 1}, "shifted must be true or false, got 1"),
        ({"width": 3.0}, "width must be a whole number, got 3.0"),
        ({"width": True}, "width must be a whole number, got True"),
        ({"width": 0}, "width must be from 1 to 100, got 0"),
        ({"edges": [0.5, 1.5]}, "edges must be from 0 to 1, got (0.5, 1.5)"),
        ({"edges": [0.5, "1"]}, "edges must be a number, got '1'"),
        ({"part": {"n_layers": 9}}, "n_layers must be from 1 to 8, got 9"),
    ],
)
def test_what_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError) as error:
        read_plain(Whole, {**FULL_PLAIN, **change})
    assert str(error.value).startswith(message)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ModelError, match=r"^stems is missing$"):
        read_plain(Whole, {"scale": 1})


@pytest.mark.parametrize("content", [None, [], 3, "stems"])
def test_only_a_table_will_do(content: object) -> None:
    with pytest.raises(ModelError, match=r"^the configuration must be a table, got "):
        read_plain(Whole, content)


def test_a_tuple_is_a_tuple() -> None:
    with pytest.raises(ModelError, match=r"^edges must be a tuple, got \[0.5\]$"):
        Whole(("a",), edges=[0.5])  # type: ignore[arg-type]


def test_values_are_shown_in_one_short_line() -> None:
    for value in ("x" * 10**6, list(range(10**5)), {"a": "\n" * 99}, 10**10_000, [10**10_000], "two\nlines"):
        assert len(shown(value)) < 100
        assert "\n" not in shown(value)
