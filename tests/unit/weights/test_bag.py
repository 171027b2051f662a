"""Bags of Demucs: the published ones, other ways to write the same, and what is refused."""

import importlib.resources
from pathlib import Path

import pytest

from refusals import refusal
from unbraid.errors import ModelError
from unbraid.weights.convert.bag import Bag, read_bag

ONE_EACH = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))
TRACK_A = ((1.0, 1.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 1.0, 1.0), (1.0, 0.0, 1.0, 1.0))
PUBLISHED = {
    "hdemucs_mmi": Bag(("75fc33f5",), None, 44.0),
    "htdemucs": Bag(("955717e8",), None, None),
    "htdemucs_6s": Bag(("5c90dfd2",), None, None),
    "htdemucs_ft": Bag(("f7e0c4bc", "d12395a8", "92cfc3b6", "04573f0d"), ONE_EACH, None),
    "mdx": Bag(("0d19c1c6", "7ecf8ec1", "c511e2ab", "7d865c68"), TRACK_A, 44.0),
    "mdx_extra": Bag(("e51eebcc", "a1d90b5c", "5d2d6c55", "cfa93e08"), None, 44.0),
    "mdx_extra_q": Bag(("83fc094f", "464b36d7", "14fc6a69", "7fd6ef75"), None, 44.0),
    "mdx_q": Bag(("6b9c2ca1", "b72baf4e", "42e558d4", "305bc58f"), TRACK_A, 44.0),
    "repro_mdx_a": Bag(("9a6b4851", "1ef250f1", "fa0cb7f9", "902315c2"), None, 44.0),
    "repro_mdx_a_hybrid_only": Bag(("fa0cb7f9", "902315c2", "fa0cb7f9", "902315c2"), None, 44.0),
    "repro_mdx_a_time_only": Bag(("9a6b4851", "9a6b4851", "1ef250f1", "1ef250f1"), None, 44.0),
}

# As they are published, three-line comments and all: a list in one line, one over several with commas at their ends.
FLOW = """models: ['6b9c2ca1', 'b72baf4e']
weights: [
  [1., 1., 0.],
  [0., 1.5, 1e0],
]
segment: 44"""


def written(folder: Path, text: str) -> Path:
    path = folder / "bag.yaml"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parity
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files(name: str) -> None:
    pytest.importorskip("demucs", reason="needs demucs 4.1.0")
    file = importlib.resources.files("demucs") / "remote" / f"{name}.yaml"
    assert isinstance(file, Path)
    assert read_bag(file) == PUBLISHED[name]


@pytest.mark.parametrize(
    "text",
    [
        FLOW,
        FLOW.replace("\n", "\r\n"),
        f"# a bag\n---\n{FLOW} # seconds\n\n",
        'segment: 44.0\nweights: [[+1,1.,.0],\n[0,1.5,1]]\nmodels:\n  [6b9c2ca1, "b72baf4e"]\n',
        "models:\n- 6b9c2ca1\n- 'b72baf4e'\nsegment: 44\nweights:\n- - 1.0\n  - 1\n  - 0\n- - 0\n  - 1.5\n  - 1.0\n",
        "models:\n  - 6b9c2ca1  # drums\n\n  - b72baf4e\nweights:\n  - [1, 1, 0]\n  - [0, 1.5,\n    1]\nsegment: 44\n",
        "models :\n  ['6b9c2ca1',\n   'b72baf4e' ]\nsegment:\n  44\nweights: [[1, 1, 0], [0, 1.5, 1]]",
    ],
)
def test_one_bag_written_in_many_ways(tmp_path: Path, text: str) -> None:
    assert read_bag(written(tmp_path, text)) == Bag(("6b9c2ca1", "b72baf4e"), ((1, 1, 0), (0, 1.5, 1)), 44.0)


@pytest.mark.parametrize("nothing", ["", "weights:\nsegment: \n", "weights: null\nsegment: ~"])
def test_what_is_not_said_is_none(tmp_path: Path, nothing: str) -> None:
    assert read_bag(written(tmp_path, f"models: ['a-1.b']\n{nothing}")) == Bag(("a-1.b",), None, None)


MODELS = "models: [a, b]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "models must be a list of 1 to 64, got None"),
        ("models: []", "models must be a list"),
        ("models: a", "models must be a list"),
        ("models: [" + "a," * 65 + "]", "models must be a list of 1 to 64"),
        ("models: ['../a']", "models must be names"),
        ("models: ['a b']", "expected a list in brackets"),
        ("models: [.a]", "models must be names"),
        ("models: [[a]]", "models must be names"),
        ("models: ['ä']", "models must be names"),
        ("models: [" + "a" * 101 + "]", "models must be names"),
        (MODELS + "models: [c]", "it has 'models' twice"),
        (MODELS + "weight: [[1]]", "unknown key 'weight'; the nearest known one is 'weights'"),
        (MODELS + "klass: !!python/object:os.system [x]", "unknown key 'klass'"),
        (MODELS + "weights: !!python/tuple [1]", "expected a list in brackets"),
        (MODELS + "weights: &a [*a, *a]", "expected a list in brackets"),
        (MODELS + "weights: {a: 1}", "expected a list in brackets"),
        (MODELS + "weights: [[1, 0], [0, 1]", "expected the end of a list"),
        (MODELS + "weights: [[1, 0], [0, 1]]]", "expected a list in brackets"),
        (MODELS + "weights: [[1 0], [0, 1]]", "expected a list in brackets"),
        (MODELS + "weights: [[1,, 0], [0, 1]]", "expected a list in brackets"),
        (MODELS + "weights: [,]", "expected a list in brackets"),
        (MODELS + "weights: [[[1]], [[1]]]", "expected a list in brackets"),
        (MODELS + "weights: " + "[" * 10000, "expected a list in brackets"),
        (MODELS + "weights: [[1], [1]] x", "expected a list in brackets"),
        (MODELS + "weights: [1, 1]", "weights must be lists of numbers, got '1'"),
        (MODELS + "weights: []", "weights must be 2 lists of equal length"),
        (MODELS + "weights: [[1, 1]]", "weights must be 2 lists of equal length"),
        (MODELS + "weights: [[], []]", "weights must be 2 lists of equal length"),
        (MODELS + "weights: [[1], [1, 1]]", "weights must be 2 lists of equal length"),
        (MODELS + "weights: [[1, 0], [1, 0]]", "weights must not be negative, nor all 0 for a stem"),
        (MODELS + "weights: [[2], [-1]]", "weights must not be negative"),
        (MODELS + "weights: [[.nan], [1]]", "weights must be numbers, got '.nan'"),
        (MODELS + "weights: [[1e999], [1]]", "weights must be numbers, got '1e999'"),
        (MODELS + "weights: [[0x1], [1]]", "weights must be numbers, got '0x1'"),
        (MODELS + "weights: [[true], [1]]", "weights must be numbers, got 'true'"),
        (MODELS + "weights:\n- 1\n 2", "expected a list in brackets"),
        (MODELS + "weights:\n- [1]\n-[1]", "expected an item of a list"),
        (MODELS + "weights:\n  - [1]\n - [1]", "expected an item of a list"),
        (MODELS + "weights:\n" + "- " * 5000 + "1", "expected a list in brackets"),
        (MODELS + "segment: 0", "segment must be from 0 to 3600 seconds"),
        (MODELS + "segment: -5", "segment must be from 0 to 3600 seconds"),
        (MODELS + "segment: 4000", "segment must be from 0 to 3600 seconds"),
        (MODELS + "segment: 44 s", "expected a list in brackets or a single value"),
        (MODELS + "segment: [44]", "segment must be numbers"),
        ("- a\n- b", "expected one of models:, weights:, segment:"),
        ("{models: [a]}", "expected one of models:, weights:, segment:"),
        ("models", "expected one of models:, weights:, segment:"),
        ("models: ['\0']", "models must be names"),
        ("#" * 70000, "it is larger than 65536 bytes"),
    ],
)
def test_refused(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    assert message in refusal(lambda: read_bag(path), path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read '.*none\.yaml'"):
        read_bag(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"models: ['\xe4']")
    with pytest.raises(ModelError, match="it is no text in UTF-8"):
        read_bag(tmp_path / "latin.yaml")
