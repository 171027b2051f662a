"""Files of `torch.save`, read without torch, beside what torch reads from them."""

import argparse
import io
import mmap
import os
import pathlib
import pickle
import types
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import torch_writer as writer
from unbraid.errors import ModelError
from unbraid.weights.convert.torch_file import Record, Reference, read_torch_file

SHARED = Path(os.environ.get("UNBRAID_SHARED", Path(__file__).parents[4] / "shared"))
GOLDEN = SHARED / "golden" / "demucs"

# The first has been torch's own since 1.6; both still exist in the wild.
FORMATS = [
    {"_use_new_zipfile_serialization": new, "pickle_protocol": protocol} for new in (True, False) for protocol in (2, 4)
]

DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
DTYPES += ["uint16", "uint32", "uint64", "complex64", "complex128"]


@pytest.fixture(params=FORMATS, ids=lambda options: "-".join(map(str, options.values())))
def reread(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Save with torch in every format, and read without it."""

    def saved_and_read(value: object) -> Any:
        path = tmp_path / "model.th"
        torch.save(value, path, **request.param)
        return read_torch_file(path)

    return saved_and_read


def assert_same(ours: Any, theirs: Any) -> int:
    """Compare with what torch holds, bit for bit; return the number of tensors."""
    if isinstance(theirs, torch.Tensor):
        expected = theirs.detach().numpy()
        assert isinstance(ours, np.ndarray) and not ours.flags.writeable
        assert (ours.dtype, ours.shape) == (expected.dtype, expected.shape)
        assert ours.tobytes() == expected.tobytes()
        return 1
    if isinstance(theirs, dict):
        assert type(ours) is dict and list(ours) == list(theirs)
        return sum(assert_same(ours[key], value) for key, value in theirs.items())
    if isinstance(theirs, list | tuple):
        assert isinstance(ours, list if isinstance(theirs, list) else tuple) and len(ours) == len(theirs)
        return sum(assert_same(one, other) for one, other in zip(ours, theirs, strict=True))
    if isinstance(theirs, type):
        assert ours == Reference(theirs.__module__, theirs.__qualname__)
        return 0
    assert type(ours) is type(theirs) and ours == theirs
    return 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_numeric_type(dtype: str, reread: Any) -> None:
    raw = np.random.default_rng(1).integers(0, 2 if dtype == "bool" else 256, 16 * 3 * 5, dtype=np.uint8)
    tensor = torch.from_numpy(raw).view(getattr(torch, dtype)).reshape(3, -1)
    assert_same(reread(tensor), tensor)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5), (1,), (1, 1, 7), (2, 3, 4, 5)], ids=str)
def test_shapes(shape: tuple[int, ...], reread: Any) -> None:
    tensor = torch.arange(float(np.prod(shape))).reshape(shape) if shape else torch.tensor(2.5)
    assert_same(reread([tensor]), [tensor])


def views() -> dict[str, torch.Tensor]:
    whole = torch.arange(120.0).reshape(4, 5, 6)
    return {
        "transposed": whole.permute(2, 0, 1),
        "rows": whole[1:3],
        "columns": whole[:, 1:4, 2],
        "every other": whole[::2, ::3],
        "one number": whole[2, 3, 4],
        "axis of length 1 with an odd stride": whole.as_strided((1, 4), (7, 30), 3),
        "expanded along an axis of length 1": whole[:1].expand(1, 5, 6),
    }


@pytest.mark.parametrize("name", views())
def test_views(name: str, reread: Any) -> None:
    view = views()[name]
    assert_same(reread(view), view)


def test_weights_of_an_lstm_flattened_into_one_storage(reread: Any) -> None:
    # As cuDNN wants them, and so as models trained on a GPU were saved.
    lstm = nn.LSTM(5, 7, num_layers=2, bidirectional=True)
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in lstm.parameters()])
    state, at = OrderedDict(), 0
    for name, parameter in lstm.named_parameters():
        state[name] = flat[at : at + parameter.numel()].view(parameter.shape)
        at += parameter.numel()
    assert len({tensor.untyped_storage().data_ptr() for tensor in state.values()}) == 1
    assert assert_same(reread(state), state) == 16
    assert all(torch.equal(state[name], parameter) for name, parameter in lstm.named_parameters())


def test_state_of_a_module_with_tied_parameters(reread: Any) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    module[2].weight = module[0].weight
    state = module.state_dict()
    assert hasattr(state, "_metadata")
    assert assert_same(reread(state), state) == 9
    assert assert_same(reread(list(module.parameters())), list(module.parameters())) == 5


def test_what_surrounds_the_tensors(reread: Any) -> None:
    package = {
        "klass": nn.Linear,
        "args": (),
        "kwargs": {"segment": Fraction(39, 5), "sources": ["drums", "Ça 🎵"], "none": None, "yes": True, "no": False},
        "numbers": [0, 1, -1, 255, 256, 65536, -(2**31), 2**40, -(2**63), 0.5, float("inf"), -0.0],
        "training_args": {"optim": {"betas": (0.9, 0.999)}, "bytes": [b"", b"\x00\xff" * 300]},
        "size": torch.Size([1, 2]),
        "state": {i: torch.full((2,), i) for i in range(3)},
    }
    # A class of torch's modules is stored with its source in the old format, for which torch may warn.
    assert assert_same(reread(package), {**package, "size": (1, 2)}) == 3


@pytest.mark.parametrize("number", [np.float64(0.1), np.float32(0.1), np.int64(-3), np.uint8(200), np.bool_(True)])
def test_numbers_of_numpy_become_plain(number: Any, reread: Any) -> None:
    value = reread({"score": number})["score"]
    assert type(value) is type(number.item()) and value == number.item()


def test_command_line_options_of_demucs_2(reread: Any) -> None:
    options = reread({"training_args": argparse.Namespace(models=pathlib.Path("models", "x"), lr=3e-4)})[
        "training_args"
    ]
    assert isinstance(options, Record) and options.kind == Reference("argparse", "Namespace")
    assert isinstance(options.state, dict) and options.state["lr"] == 3e-4
    path = options.state["models"]
    assert isinstance(path, Record) and path.kind.module == "pathlib" and path.arguments == ("models", "x")


def test_a_checkpoint_with_its_optimiser(reread: Any) -> None:
    module = nn.Conv1d(2, 3, 4)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-4)
    module(torch.ones(1, 2, 8)).sum().backward()
    optimizer.step()
    state = module.state_dict()
    checkpoint = {"state": state, "best_state": state, "optimizer": optimizer.state_dict(), "history": [{"loss": 0.5}]}
    assert assert_same(reread(checkpoint), checkpoint) == 10


def test_an_old_optimiser_that_counts_by_address(reread: Any) -> None:
    state = {140_234_567_890_000 + 64 * i: torch.full((2,), i) for i in range(300)}
    assert assert_same(reread({"optimizer": {"state": state}}), {"optimizer": {"state": state}}) == 300


def test_tensors_map_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.th"
    torch.save(torch.arange(1000), path)
    array = read_torch_file(path)
    assert isinstance(array, np.ndarray)
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap)


def test_values_shared_in_the_file_are_separate_afterwards(reread: Any) -> None:
    inner = ["a"]
    value = reread([inner, inner])
    assert value == [["a"], ["a"]] and value[0] is not value[1]


def test_the_writer_of_these_tests_writes_what_torch_writes(tmp_path: Path) -> None:
    # The attack corpus is made with it: what is refused there must be refused for its one fault.
    path = tmp_path / "model.th"
    expected = {"weight": torch.from_numpy(np.arange(16, dtype=np.uint8)).view(torch.float32).reshape(2, 2)}
    for view, file in ((b"", writer.zip_file), (b"N", writer.legacy_file)):
        tensor = writer.tensor((2, 2), (2, 1), stored=writer.storage(view=view))
        path.write_bytes(file(writer.pickled(writer.dict_of({"weight": tensor}))))
        assert torch.equal(torch.load(path, weights_only=False)["weight"], expected["weight"])
        assert_same(read_torch_file(path), expected)


OTHERS = {
    "empty": (b"", "it is empty"),
    "web page": (b"\n<!DOCTYPE html><html><body>404</body></html>", "it is a web page"),
    "XML error of a bucket": (b"<?xml version='1.0'?><Error/>", "it is a web page"),
    "pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "pointer of Git LFS"),
    "text": (b"Not Found\n", "it is a text"),
    "gzip": (b"\x1f\x8b\x08\x00\x00\x00", "compressed by gzip"),
    "tar": (b"storages".ljust(257, b"\0") + b"ustar".ljust(255, b"\0"), "tar archive"),
    "numbers": (bytes(range(256)) * 4, "torch.save did not write it"),
    "empty archive": (b"PK\x05\x06" + bytes(18), "torch.save did not write it"),
    "another pickle": (pickle.dumps({"a": 1}), "it is a pickle, but"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_files_are_named_for_what_they_are(kind: str, tmp_path: Path) -> None:
    content, expected = OTHERS[kind]
    path = tmp_path / "model.th"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=expected) as caught:
        read_torch_file(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.th", "."])
def test_no_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_torch_file(tmp_path / name)


def test_bfloat16_is_refused_by_name(reread: Any) -> None:
    with pytest.raises(ModelError, match=r"torch\.BFloat16Storage', which is not supported"):
        reread(torch.zeros(3, dtype=torch.bfloat16))


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_file_cut_anywhere_is_refused(new: bool, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(3), "b": [1.5, "x"]}, buffer, _use_new_zipfile_serialization=new)
    data = buffer.getvalue()
    path = tmp_path / "model.th"
    for n in range(len(data)):
        path.write_bytes(data[:n])
        with pytest.raises(ModelError):
            read_torch_file(path)


class _Stub:
    """Stands for the classes of a golden file, whose programs are not installed here."""


class _StubbingUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "demucs":
            return type(name, (_Stub,), {"__module__": module})
        return super().find_class(module, name)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference files in '{GOLDEN}'")
def test_golden_files_bit_for_bit() -> None:
    stubbing: Any = types.ModuleType("stubbing")
    stubbing.Unpickler, stubbing.load = _StubbingUnpickler, pickle.load
    paths = sorted([*GOLDEN.glob("*.th"), *GOLDEN.glob("*.pth")])
    assert len(paths) == 13
    for path in paths:
        theirs = torch.load(path, weights_only=False, pickle_module=stubbing)
        assert assert_same(read_torch_file(path), theirs) >= 40
