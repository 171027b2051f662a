"""What diffq quantised, restored: against numbers computed one by one, against its own files, and what is refused."""

import copy
import hashlib
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantized_states import DIFFQ, UNIFORM, Quantizer, quantized_state
from refusals import refusal
from unbraid.errors import ModelError
from unbraid.weights.convert.demucs import read_demucs_package
from unbraid.weights.convert.diffq import is_quantized, restore_quantized
from unbraid.weights.convert.torch_file import Reference, read_torch_file

GOLDEN = Path(__file__).parents[2] / "golden" / "quantized"

# With min_size 0.001 (of 2^20 bytes, four to a value), parameters of more than 262 values are quantised.
MIN_SIZE = 0.001
SHAPES = {
    "encoder.0.weight": (40, 2, 8),
    "encoder.0.bias": (40,),
    "lstm.weight_hh": (26, 10),
    "lstm.weight_ih": (264,),
    "scale": (50, 50),
    "decoder.0.weight": (1, 300),
}
LARGE = {"encoder.0.weight", "lstm.weight_ih", "scale", "decoder.0.weight"}
WHERE = "model.th"


def options(**more: Any) -> dict[str, Any]:
    return {"min_size": MIN_SIZE, **more}


def assert_same_bits(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert found[name].tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize("form", ["packed", "torch_pack", "plain", "0.2.0"])
@pytest.mark.parametrize("more", [{"group_size": 4}, {}, {"group_size": 2, "min_bits": 1, "float16": True}])
def test_bits_by_group(form: str, more: dict[str, Any]) -> None:
    quantizer = Quantizer(DIFFQ, form, options(**more))
    state, meant = quantized_state(quantizer, SHAPES, LARGE, np.random.default_rng(1))
    assert is_quantized(state)
    assert_same_bits(restore_quantized(state, SHAPES, WHERE), meant)


@pytest.mark.parametrize("form", ["packed", "torch_pack", "plain", "0.2.0"])
@pytest.mark.parametrize("more", [{"bits": 1}, {"bits": 8.0, "qat": True}, {"bits": 15, "float16": True}, {}])
def test_bits_for_all(form: str, more: dict[str, Any]) -> None:
    quantizer = Quantizer(UNIFORM, form, options(**more))
    state, meant = quantized_state(quantizer, SHAPES, LARGE, np.random.default_rng(2))
    assert_same_bits(restore_quantized(state, SHAPES, WHERE), meant)


def test_one_group_for_a_whole_parameter() -> None:
    quantizer = Quantizer(DIFFQ, "plain", options(group_size=0))
    state, meant = quantized_state(quantizer, SHAPES, LARGE, np.random.default_rng(3))
    assert_same_bits(restore_quantized(state, SHAPES, WHERE), meant)


def test_many_lines_of_packed_levels() -> None:
    shapes = {"a": (9, 2048, 8), "b": (3, 1000)}
    quantizer = Quantizer(UNIFORM, "packed", {"bits": 3})
    state, meant = quantized_state(quantizer, shapes, {"a", "b"}, np.random.default_rng(4))
    assert_same_bits(restore_quantized(state, shapes, WHERE), meant)


def test_which_parameters_are_large() -> None:
    shapes = {"a": (262,), "b": (263,), "c": ()}
    state, meant = quantized_state(Quantizer(UNIFORM, "plain", options()), shapes, {"b"}, np.random.default_rng(5))
    assert_same_bits(restore_quantized(state, shapes, WHERE), meant)
    # The default: 0.01 of 2^20 bytes.
    shapes = {"a": (2621,), "b": (2622,)}
    state, meant = quantized_state(Quantizer(UNIFORM, "plain"), shapes, {"b"}, np.random.default_rng(5))
    assert_same_bits(restore_quantized(state, shapes, WHERE), meant)


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (["weight_*"], LARGE - {"lstm.weight_ih"}),  # the name within its module
        (["encoder.*", "*.weight"], {"lstm.weight_ih", "scale"}),
        ([".scale"], LARGE - {"scale"}),  # diffq puts a dot before those of the network itself
        (["Scale", "weight"], {"lstm.weight_ih", "scale"}),
        (None, LARGE),
    ],
)
def test_excluded_names(exclude: list[str] | None, left: set[str]) -> None:
    quantizer = Quantizer(UNIFORM, "plain", options(exclude=exclude))
    state, meant = quantized_state(quantizer, SHAPES, left, np.random.default_rng(6))
    assert_same_bits(restore_quantized(state, SHAPES, WHERE), meant)


def test_the_form_of_version_0_1() -> None:
    quantizer = Quantizer(DIFFQ, "0.1", options(group_size=4))
    state, meant = quantized_state(quantizer, SHAPES, LARGE, np.random.default_rng(7))
    with pytest.raises(ModelError, match=r"cannot use 'model\.th': no quantiser that is known wrote it: None"):
        restore_quantized(state, SHAPES, WHERE)
    # Which quantiser it was is known from elsewhere.
    state["meta"] = {"klass": DIFFQ, "init_kwargs": quantizer.options}
    assert_same_bits(restore_quantized(state, SHAPES, WHERE), meant)


@pytest.mark.parametrize("name", ["diffq", "uniform"])
def test_files_of_the_real_programs(name: str) -> None:
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    content: Any = read_torch_file(GOLDEN / f"{name}.th")
    network = read_demucs_package(GOLDEN / f"{name}.th", content)
    assert network.config.stems == ("drums", "bass")
    found = {key: hashlib.sha256(tensor.astype(np.float32)).hexdigest()[:16] for key, tensor in network.tensors.items()}
    assert found == expected
    assert len(content["state"]["quantized"]) == 4
    small = np.float16 if name == "uniform" else np.float32
    assert network.tensors["encoder.0.0.bias"].dtype == small


Change = Callable[[dict[str, Any]], object]


SOUND: dict[int, dict[str, Any]] = {}


def broken(change: Change, quantizer: Quantizer) -> dict[str, Any]:
    if id(quantizer) not in SOUND:
        SOUND[id(quantizer)], _ = quantized_state(quantizer, SHAPES, LARGE, np.random.default_rng(8))
    state = copy.deepcopy(SOUND[id(quantizer)])
    state["quantized"] = [list(item) for item in state["quantized"]]
    change(state)
    return state


def meta(**values: Any) -> Change:
    return lambda state: state["meta"].update(values)


def option(**values: Any) -> Change:
    return lambda state: state["meta"]["init_kwargs"].update(values)


def item(index: int, change: Callable[[Any], Any], at: int = 0) -> Change:
    """Change one entry of the at-th quantised parameter."""

    def apply(state: dict[str, Any]) -> None:
        state["quantized"][at][index] = change(state["quantized"][at][index])

    return apply


def level_of(n_bits: int, change: Callable[[Any], Any]) -> Change:
    """Change the packed levels of the third quantised parameter, which has groups of all sizes."""
    return item(0, lambda packed: [change(one) if bits == n_bits else one for bits, one in enumerate(packed, 1)], at=2)


PACKED = Quantizer(DIFFQ, "packed", options(group_size=4))
PLAIN = Quantizer(DIFFQ, "plain", options(group_size=4))
EVEN = Quantizer(UNIFORM, "packed", options(bits=6))
EVEN_PLAIN = Quantizer(UNIFORM, "plain", options(bits=6))
HUGE = np.zeros((10**9, 0, 32), np.int64)

REFUSED: list[tuple[Quantizer, Change, str]] = [
    (PACKED, meta(klass=Reference("diffq.lsq", "LSQ")), "no quantiser that is known wrote it"),
    (PACKED, meta(klass="diffq.diffq.DiffQuantizer"), "no quantiser that is known wrote it"),
    (PACKED, meta(init_kwargs=None), "no quantiser that is known wrote it"),
    (PACKED, lambda state: state.pop("others"), "a quantised state must have quantized, float16, others and meta"),
    (PACKED, lambda state: state.update(more=1), "a quantised state must have quantized, float16, others and meta"),
    (PACKED, lambda state: state.update(others=None), "others must be a list, got None"),
    (PACKED, lambda state: state["others"].pop(), r"'lstm\.weight_hh' .* 'others' holds too few tensors"),
    (PACKED, lambda state: state["others"].append(np.zeros(1)), "'others' holds more tensors"),
    (PACKED, lambda state: state["float16"].append(np.zeros(1)), "'float16' holds more tensors"),
    (PACKED, lambda state: state["quantized"].pop(), r"'decoder\.0\.weight' .* 'quantized' holds too few tensors"),
    (PACKED, lambda state: state["quantized"].append(None), "'quantized' holds more tensors"),
    (PACKED, lambda state: state["others"].reverse(), r"'encoder\.0\.bias' .* must have shape \(40,\), got \(26, 10\)"),
    (PACKED, lambda state: state["others"].insert(0, np.zeros(40, int)), "its value must be a tensor of numbers"),
    (PACKED, option(min_size=-1), "min_size must be a number from 0"),
    (PACKED, option(min_size=float("nan")), "min_size must be a number from 0"),
    (PACKED, option(min_size="0"), "min_size must be a number from 0"),
    (PACKED, option(group_size=2.5), "group_size must be a whole number"),
    (PACKED, option(group_size=-8), "group_size must be a number from 0"),
    (PACKED, option(group_size=7), "its 640 values do not fall into groups of 7"),
    (PACKED, option(group_size=8), "its bits must be 80 packed numbers, got more"),
    (PACKED, option(min_bits=6), "it has bits beyond 1 to 14"),
    (PACKED, option(min_bits=16), "min_bits must be a number from 0 to 15"),
    (PACKED, option(float16=1), "float16 must be true or false"),
    (PACKED, option(exclude="weight"), "exclude must be a list"),
    (PACKED, option(exclude=["[z-a]"]), r"exclude must hold names with \* and \?"),
    (PACKED, option(exclude=["*" * 1000]), r"exclude must hold names with \* and \?"),
    (PACKED, option(max_level=3), "its quantiser has an unknown option 'max_level'"),
    (PACKED, option(bits=8), "its quantiser has an unknown option 'bits'"),
    (PACKED, meta(packed=None), "packed must be true or false"),
    (PACKED, meta(packed=False), "its levels must be a tensor of whole numbers"),
    (PACKED, meta(torch_pack=True), "packed numbers, got int64"),
    (PACKED, item(0, lambda packed: packed[:-1]), "packed levels must be a list of 14"),
    (PACKED, item(0, lambda packed: [None] * 14), "it must have 640 levels, and at most 0 are stored"),
    (PACKED, item(0, lambda packed: [HUGE] * 14), "it must have 640 levels, and at most 0 are stored"),
    (PACKED, item(0, lambda packed: ["x"] * 14), "its levels must be a tensor of whole numbers, got 'x'"),
    (PACKED, item(0, lambda packed: [one[0] for one in packed if one is not None]), "must be a list of 14"),
    (PACKED, item(2, lambda bits: bits[:0]), "its bits must be 160 packed numbers, got int64 of shape"),
    (PACKED, item(2, lambda bits: bits.astype(np.int32)), "its bits must be 160 packed numbers, got int32"),
    (PACKED, item(2, lambda bits: bits.astype(float)), "its bits must be a tensor of whole numbers"),
    (PACKED, item(2, lambda bits: np.full((1, 16, 32), -1)), "its bits must be 160 packed numbers"),
    (PACKED, item(2, lambda bits: np.full((1, 4, 32), 31)), "it has bits beyond 1 to 14"),
    (PACKED, item(2, lambda bits: bits.reshape(-1)), "its bits must be 160 packed numbers"),
    (PACKED, item(2, lambda bits: np.array(3)), "its bits must be 160 packed numbers"),
    (PACKED, level_of(5, lambda packed: None), "its levels of 5 bits are missing|it must have 2500 levels"),
    (PACKED, level_of(5, lambda packed: packed[:, :4]), "its levels of 5 bits must be .* packed numbers"),
    (PACKED, level_of(5, lambda packed: np.repeat(packed, 2, 0)), "its levels of 5 bits must be .* packed numbers"),
    (PACKED, level_of(5, lambda packed: packed[..., :16]), "its levels of 5 bits must be .* packed numbers"),
    (PACKED, item(1, lambda scales: (0.0, float("inf"))), "the range of a parameter must be two finite numbers"),
    (PACKED, item(1, lambda scales: (-3e38, 3e38)), "the range of a parameter must be two finite numbers"),
    (PACKED, item(1, lambda scales: (10**400, 0.0)), "the range of a parameter must be two finite numbers"),
    (PACKED, item(1, lambda scales: (0.0, "1")), "the range of a parameter must be two finite numbers"),
    (PACKED, item(1, lambda scales: (0.0, 1.0, 2.0)), "the range of a parameter must be a list of 2"),
    (PACKED, lambda state: state["quantized"].__setitem__(0, (1, 2)), "a quantised parameter must be a list of 3"),
    (PLAIN, item(0, lambda levels: levels[:-1]), r"it must have 160 groups of 4, got levels \(159, 4\)"),
    (PLAIN, item(0, lambda levels: levels.reshape(-1)), r"it must have 160 groups of 4, got levels \(640,\)"),
    (PLAIN, item(2, lambda bits: bits[1:]), r"it must have 160 groups of 4, .* bits \(159,\)"),
    (PLAIN, item(2, lambda bits: bits * 0), "it has bits beyond 1 to 15"),
    (PLAIN, item(2, lambda bits: bits * 0 + 16), "it has bits beyond 1 to 15"),
    (PLAIN, item(2, lambda bits: bits * 0 + 3), "it has levels beyond its bits"),
    (PLAIN, item(0, lambda levels: -levels), "it has levels beyond its bits"),
    (EVEN, option(bits=0), "bits must be a whole number from 1 to 15"),
    (EVEN, option(bits=16), "bits must be a number from 0 to 15"),
    (EVEN, option(bits=5), "its levels must be 640 packed numbers"),
    (EVEN, option(bits=7.5), "bits must be a whole number"),
    (EVEN, option(bits=None), "bits must be a number"),
    (EVEN, option(group_size=8), "its quantiser has an unknown option 'group_size'"),
    (EVEN, item(0, lambda packed: packed[:0]), "its levels must be 640 packed numbers"),
    (EVEN, item(0, lambda packed: HUGE), "its levels must be 640 packed numbers"),
    (EVEN_PLAIN, option(bits=5), "it has levels beyond 0 to 31"),
    (EVEN_PLAIN, item(0, lambda levels: levels.T), r"its levels must have shape \(40, 2, 8\), got \(8, 2, 40\)"),
    (EVEN_PLAIN, item(0, lambda levels: levels.astype(bool)), "its levels must be a tensor of whole numbers"),
]


@pytest.mark.parametrize(("quantizer", "change", "message"), REFUSED)
def test_refused(quantizer: Quantizer, change: Change, message: str) -> None:
    state = broken(change, quantizer)
    with pytest.raises(ModelError, match=message) as caught:
        restore_quantized(state, SHAPES, WHERE)
    assert WHERE in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_wild_claim_takes_no_memory() -> None:
    shapes = {"a": (2**20, 2**20)}
    bits = np.zeros((2**29, 0, 32), np.int64)
    levels = np.zeros((1, 1, 32), np.int64)
    state = {"quantized": [([levels] * 14, (0.0, 1.0), bits)], "float16": [], "others": [], "meta": PACKED.meta()}
    message = refusal(lambda: restore_quantized(state, shapes, WHERE), Path(WHERE), most_bytes=1 << 20)
    assert f"it must have {2**40} levels" in message


def test_nothing_but_errors_of_ours_from_random_damage() -> None:
    rng = random.Random(9)
    scraps = [None, True, -1, 2**70, 0.5, "x", b"x", [], {}, (), np.zeros(3), np.zeros((1, 2, 32), np.int64)]
    scraps += [np.array(7), np.full((3, 5), 200, np.uint8), np.zeros((0, 4, 32), np.int64), [None] * 14]

    def damaged(value: Any, depth: int) -> Any:
        if rng.random() < 0.03 * depth:
            return rng.choice(scraps)
        if isinstance(value, dict):
            return {key: damaged(one, depth + 1) for key, one in value.items() if rng.random() > 0.01}
        if isinstance(value, list | tuple):
            return [damaged(one, depth + 1) for one in value if rng.random() > 0.01]
        return value

    shapes = {name: SHAPES[name] for name in ("encoder.0.weight", "encoder.0.bias", "lstm.weight_ih")}
    seeds = [
        quantized_state(quantizer, shapes, LARGE, np.random.default_rng(10))[0]
        for quantizer in (PACKED, PLAIN, EVEN, EVEN_PLAIN)
    ]
    refused = 0
    for _ in range(3000):
        state = damaged(rng.choice(seeds), 0)
        try:
            assert list(restore_quantized(state, shapes, WHERE)) == list(shapes)
        except ModelError as error:
            refused += 1
            assert str(error).isprintable()
    assert 1000 < refused < 3000


def plain(value: Any) -> Any:
    """What `read_torch_file` makes of it."""
    if isinstance(value, type):
        return Reference(value.__module__, value.__qualname__)
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(one) for one in value)
    return value.numpy() if hasattr(value, "numpy") else value


@pytest.mark.parity
@pytest.mark.parametrize(
    ("kind", "given", "form"),
    [
        ("UniformQuantizer", {"bits": 8, "min_size": 0.001}, {}),
        ("UniformQuantizer", {"bits": 15, "min_size": 0.01, "float16": True, "exclude": ["*bias"]}, {"packed": False}),
        ("UniformQuantizer", {"bits": 1, "min_size": 0, "exclude": ["encoder.0.*", "decoder.*"]}, {}),
        ("DiffQuantizer", {"group_size": 8, "min_size": 0.2}, {}),
        ("DiffQuantizer", {"group_size": 4, "min_size": 0.002, "min_bits": 1, "float16": True}, {}),
        ("DiffQuantizer", {"min_size": 0.02, "min_bits": 3, "exclude": ["*weight_hh*"]}, {"torch_pack": True}),
        ("DiffQuantizer", {"group_size": 0, "min_size": 0.01}, {"packed": False}),
    ],
)
@pytest.mark.parametrize("network", ["demucs", "hdemucs", "htdemucs"])
def test_same_bits_as_diffq(network: str, kind: str, given: dict[str, Any], form: dict[str, bool]) -> None:
    diffq = pytest.importorskip("diffq", reason="needs diffq 0.2.4, and a C compiler for it")
    module = pytest.importorskip(f"demucs.{network}", reason="needs demucs 4.1.0")
    torch = pytest.importorskip("torch")
    klass = {"demucs": "Demucs", "hdemucs": "HDemucs", "htdemucs": "HTDemucs"}[network]
    torch.manual_seed(0)
    original, restored = (getattr(module, klass)(["a", "b"], channels=8, depth=4) for _ in range(2))
    quantizer = getattr(diffq, kind)(original, **given)
    for quantized in quantizer._qparams if kind == "DiffQuantizer" else ():
        # Of all bits but 15, which diffq cannot restore.
        share = torch.rand(quantized.logit.shape) * (14.4 - quantizer.min_bits) / (15 - quantizer.min_bits)
        quantized.logit.data = torch.logit(share)
    state = quantizer.get_quantized_state(**form)
    diffq.restore_quantized_state(restored, state)
    expected = {name: tensor.numpy() for name, tensor in restored.state_dict().items()}
    found = restore_quantized(plain(state), {name: tensor.shape for name, tensor in expected.items()}, WHERE)
    assert_same_bits({name: tensor.astype(np.float32) for name, tensor in found.items()}, expected)
