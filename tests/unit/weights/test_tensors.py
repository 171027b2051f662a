from __future__ import annotations

import hashlib
import json
import mmap
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from unbraid.errors import ModelError
from unbraid.weights.tensors import map_file, read_metadata, read_tensors, write_tensors

Tensors = dict[str, np.ndarray[Any, Any]]
TYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]


def every_type() -> Tensors:
    rng = np.random.default_rng(0)
    tensors: Tensors = {kind: rng.integers(0, 100, (2, 3)).astype(kind) for kind in reversed(TYPES)}
    tensors |= {f"empty {kind}": np.zeros((0, 4), kind) for kind in TYPES}
    tensors |= {f"single {kind}": np.array(1, kind) for kind in TYPES}
    return tensors


def bits_equal(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


def mapped(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap.mmap)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    tensors, path = every_type(), tmp_path / "weights.safetensors"
    digest = write_tensors(path, tensors)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    read = read_tensors(path)
    assert list(read) == list(tensors)
    for name, tensor in tensors.items():
        bits_equal(read[name], tensor)
        assert read[name].flags.aligned
        assert mapped(read[name])


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    tensors, path = every_type(), tmp_path / "weights.safetensors"
    write_tensors(path, tensors)
    read = safetensors.numpy.load_file(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        bits_equal(read[name], tensor)


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    tensors, path = every_type(), tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(tensors, path, metadata={"origin": "ü\n\U0001f3b5"})
    read = read_tensors(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        bits_equal(read[name], tensor)
    assert read_metadata(path) == {"origin": "ü\n\U0001f3b5"}


def test_every_bit_of_a_float_survives(tmp_path: Path) -> None:
    # NaNs with a message, negative zero, denormals, infinities.
    tensor = np.array([0x7FC00001, 0xFF812345, 0x80000000, 1, 0x7F800000], np.uint32).view(np.float32)
    write_tensors(tmp_path / "w", {"x": tensor})
    bits_equal(read_tensors(tmp_path / "w")["x"], tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(24, dtype=np.float32)[::-2],
        np.arange(24, dtype=np.int16)[3:],
        np.broadcast_to(np.float64(2.5), (3, 4)),
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.frombuffer(bytes(range(41)), np.uint8)[1:].view(np.float64),
    ],
    ids=["transposed", "backwards", "part", "repeated", "big-endian", "misaligned"],
)
def test_any_view_is_written_and_left_alone(tmp_path: Path, tensor: np.ndarray[Any, Any]) -> None:
    before = tensor.copy()
    write_tensors(tmp_path / "w", {"x": tensor})
    read = read_tensors(tmp_path / "w")["x"]
    np.testing.assert_array_equal(read, tensor)
    assert read.dtype == tensor.dtype.newbyteorder("<")
    np.testing.assert_array_equal(tensor, before)


def test_tensors_begin_at_a_line_of_the_cache(tmp_path: Path) -> None:
    for n in range(1, 70):
        write_tensors(tmp_path / "w", {"x" * n: np.zeros(1, np.float32)})
        data = (tmp_path / "w").read_bytes()
        (size,) = struct.unpack_from("<Q", data)
        assert (8 + size) % 64 == 0
        assert len(data) == 8 + size + 4


def test_metadata(tmp_path: Path) -> None:
    write_tensors(tmp_path / "w", {"x": np.zeros(1)}, {"format": "np", "": "two\nlines"})
    assert read_metadata(tmp_path / "w") == {"format": "np", "": "two\nlines"}
    assert list(read_tensors(tmp_path / "w")) == ["x"]
    with safetensors.safe_open(tmp_path / "w", "np") as file:
        assert file.metadata() == {"format": "np", "": "two\nlines"}


def test_no_tensors_and_no_metadata(tmp_path: Path) -> None:
    write_tensors(tmp_path / "w", {})
    assert read_tensors(tmp_path / "w") == {}
    assert read_metadata(tmp_path / "w") == {}
    assert safetensors.numpy.load_file(tmp_path / "w") == {}


def test_mapped_tensors_cannot_be_written_to(tmp_path: Path) -> None:
    write_tensors(tmp_path / "w", every_type())
    for tensor in read_tensors(tmp_path / "w").values():
        with pytest.raises(ValueError, match="read-only"):
            tensor[...] = 0


def test_misaligned_tensors_are_read_too(tmp_path: Path) -> None:
    # Allowed by the format: three bytes first, and a header of odd length.
    tensors = {"bytes": np.array([1, 2, 3], np.uint8), "floats": np.array([1.5, -2.5], np.float64)}
    header = {
        "bytes": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "floats": {"dtype": "F64", "shape": [2], "data_offsets": [3, 19]},
    }
    text = json.dumps(header).encode()
    text += b" " * (len(text) % 2 == 0)
    path = tmp_path / "w"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(t.tobytes() for t in tensors.values()))
    read = read_tensors(path)
    for name, tensor in tensors.items():
        bits_equal(read[name], tensor)
        assert read[name].flags.aligned
        assert not read[name].flags.writeable


def test_neither_way_takes_memory(tmp_path: Path) -> None:
    # 64 MB in 16 tensors, every one of which has to be put in order.
    tensors = {str(i): np.zeros((1000, 1048), np.float32).T for i in range(16)}
    tracemalloc.start()
    try:
        write_tensors(tmp_path / "w", tensors)
        _, peak = tracemalloc.get_traced_memory()
        assert peak < 3 * tensors["0"].nbytes
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        read = read_tensors(tmp_path / "w")
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before < 1_000_000
    finally:
        tracemalloc.stop()
    assert len(read) == 16


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("x", np.zeros(1, np.complex64), "tensor 'x' is of type complex64, expected one of F64, F32"),
        ("x", np.zeros(1, "V2"), r"tensor 'x' is of type \|V2"),  # as bfloat16 looks to NumPy
        ("x", np.zeros(1, object), "tensor 'x' is of type object"),
        ("x", np.zeros(1, "U4"), "tensor 'x' is of type <U4"),
        ("__metadata__", np.zeros(1), "'__metadata__' is no name"),
        ("a\nb", np.zeros(1), "is no name"),
        ("x" * 300, np.zeros(1), "is no name"),
    ],
)
def test_what_the_format_has_no_place_for(
    tmp_path: Path, name: str, tensor: np.ndarray[Any, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=f"cannot write weights .*{message}"):
        write_tensors(tmp_path / "w", {name: tensor})
    assert not (tmp_path / "w").exists()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot write weights '.*absent.w': No such file or directory"):
        write_tensors(tmp_path / "absent" / "w", {"x": np.zeros(1)})


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ModelError, match=r"cannot write weights '.*w': File too large"):
            write_tensors(tmp_path / "w", {str(i): np.zeros(10_000) for i in range(9)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_empty_file_is_mapped_too(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert map_file(tmp_path / "empty").shape == (0,)
