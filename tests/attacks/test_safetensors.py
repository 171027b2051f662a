"""Lying safetensors files: refused in one line that names them."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refusals import MEGABYTE, refusal, refuse_within_limits, tree
from unbraid.errors import ModelError
from unbraid.weights.tensors import read_metadata, read_tensors

Build = Callable[[], bytes]
DATA = bytes(24)
GOOD: dict[str, Any] = {
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "I64", "shape": [1], "data_offsets": [16, 24]},
}


def file(header: bytes | str | dict[str, Any], data: bytes = DATA, size: int | None = None) -> bytes:
    """A file with any header, which may lie about its size."""
    if isinstance(header, dict):
        header = json.dumps(header)
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def changed(name: str, data: bytes = DATA, **fields: object) -> Build:
    """The good file, with other fields for one of its tensors; None removes a field."""
    entry = {key: value for key, value in {**GOOD[name], **fields}.items() if value is not None}
    return lambda: file({**GOOD, name: entry}, data)


def alone(dtype: str, shape: list[Any], end: object, data: bytes = b"") -> Build:
    """A file with one tensor."""
    return lambda: file({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}, data)


def named(name: str) -> Build:
    return lambda: file({name: GOOD["a"], "b": GOOD["b"]})


def text(old: str, new: str) -> Build:
    """The good file, with something else in the text of its header."""
    header = json.dumps(GOOD)
    assert old in header
    return lambda: file(header.replace(old, new, 1))


ANY = "."
TOO_LARGE = "its header claims"
UNUSUAL = "tensor 'a' must have dtype, shape, data_offsets and nothing else"
NO_NAME = "is no name of a tensor"
CASES: dict[str, tuple[Build, str]] = {
    # the size of the header
    "nothing": (lambda: b"", ANY),
    "less than a size": (lambda: b"\x10\0\0", ANY),
    "a size and nothing else": (lambda: struct.pack("<Q", 2), ANY),
    "a header of no bytes": (lambda: file(b"", size=0), ANY),
    "a header of 100 GB": (lambda: file(GOOD, size=10**11), TOO_LARGE),
    "a header of 2^63 bytes": (lambda: file(GOOD, size=1 << 63), TOO_LARGE),
    "a header of 2^64 - 1 bytes": (lambda: file(GOOD, size=(1 << 64) - 1), TOO_LARGE),
    "a header that goes on behind the end": (lambda: file(GOOD, size=4000), ANY),
    "a header of 5 MB that is there": (lambda: file(json.dumps(GOOD) + " " * 5 * MEGABYTE), TOO_LARGE),
    "a header that ends within itself": (lambda: file(GOOD, size=40), ANY),
    "a header with a part of the data": (lambda: file(GOOD, size=len(json.dumps(GOOD)) + 8), ANY),
    # its text
    "another kind of file": (lambda: b"PK\x03\x04" + bytes(200), ANY),
    "no JSON": (lambda: file("hello"), ANY),
    "a list": (lambda: file("[]", b""), ANY),
    "a number": (lambda: file("1", b""), ANY),
    "no UTF-8": (lambda: file(json.dumps(GOOD).encode().replace(b'"a"', b'"\xff"')), ANY),
    "UTF-16": (lambda: file(json.dumps(GOOD).encode("utf-16-le")), ANY),
    "a byte order mark": (lambda: file(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()), ANY),
    "half a pair of surrogates": (text('"a"', '"\\ud800"'), ANY),
    "a comma too many": (text("}}", "},}"), ANY),
    "something behind the header": (lambda: file(json.dumps(GOOD) + "{}"), ANY),
    "brackets a hundred thousand deep": (lambda: file('{"a":' + "[" * 100_000), ANY),
    "objects a hundred thousand deep": (lambda: file('{"a":' * 100_000), ANY),
    "a deep value that nobody asked for": (text('"dtype"', f'"x": {"[" * 5000 + "]" * 5000}, "dtype"'), ANY),
    "a million things that nobody asked for": (
        text('"dtype"', f'"x": [{"{}," * 10**6}{{}}], "dtype"'),
        UNUSUAL,
    ),
    "a property that nobody asked for": (changed("a", pickle="cos"), UNUSUAL),
    "a tensor that is a list": (lambda: file({**GOOD, "a": ["F32", [2, 2], [0, 16]]}), UNUSUAL),
    "a type that is an object": (changed("a", dtype={"F32": None}), "expected string|" + UNUSUAL),
    # names
    "a tensor twice": (text('"b"', '"a"'), ANY),
    "an empty tensor twice": (
        lambda: file("{" + '"e":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},' * 2 + json.dumps(GOOD)[1:]),
        "twice",
    ),
    "metadata twice": (lambda: file('{"__metadata__":{},"__metadata__":{},' + json.dumps(GOOD)[1:]), ANY),
    "a key of the metadata twice": (
        lambda: file('{"__metadata__":{"k":"1","k":"2"},' + json.dumps(GOOD)[1:]),
        "twice",
    ),
    "places twice": (text('"data_offsets": [0, 16]', '"data_offsets": [0, 0], "data_offsets": [0, 16]'), ANY),
    "a name of two lines": (named("a\nb"), NO_NAME),
    "a name that paints": (named("\x1b[31mred"), NO_NAME),
    "a name of 100,000 letters": (named("x" * 100_000), NO_NAME),
    # places
    "overlapping tensors": (changed("b", DATA[:20], data_offsets=[12, 20]), ANY),
    "the same bytes twice": (changed("b", DATA[:16], data_offsets=[0, 8]), ANY),
    "a hole between tensors": (changed("b", bytes(32), data_offsets=[24, 32]), ANY),
    "a hole before the first": (alone("F32", [1], 8, bytes(8)), ANY),
    "bytes behind the last": (lambda: file(GOOD, DATA + b"x"), ANY),
    "a byte too few": (lambda: file(GOOD, DATA[:-1]), ANY),
    "no data": (lambda: file(GOOD, b""), ANY),
    "an end before the beginning": (changed("a", data_offsets=[16, 0]), ANY),
    "a place before the file": (changed("a", data_offsets=[-16, 0]), ANY),
    "a place of 2^64": (changed("b", data_offsets=[16, 1 << 64]), ANY),
    "a place that wraps": (changed("b", data_offsets=[(1 << 64) - 8, 1 << 64]), ANY),
    "a place of 100 GB": (changed("b", data_offsets=[16, 10**11]), ANY),
    "a place with a fraction": (changed("a", data_offsets=[0, 16.0]), ANY),
    "a place that is text": (changed("a", data_offsets=["0", "16"]), ANY),
    "three places": (changed("a", data_offsets=[0, 8, 16]), ANY),
    "no places": (changed("a", data_offsets=None), ANY),
    # shapes
    "a shape too large for its bytes": (changed("a", shape=[2, 3]), ANY),
    "a shape too small for its bytes": (changed("a", shape=[2]), ANY),
    "a negative shape": (changed("a", shape=[-2, -2]), ANY),
    "a shape of fractions": (changed("a", shape=[2.0, 2.0]), ANY),
    "a shape that overflows": (changed("a", shape=[1 << 62, 4]), ANY),
    "a shape that wraps to the right size": (changed("a", shape=[1 << 32, 1 << 32, 4]), ANY),
    "a shape larger than a number": (changed("a", shape=[1 << 64, 2]), ANY),
    "no shape": (changed("a", shape=None), ANY),
    "nothing, 2^63 times": (alone("F32", [1 << 63, 0], 0), "impossible shape"),
    "nothing, of impossible strides": (alone("F64", [1 << 40, 0, 1 << 40], 0), ANY),
    "a hundred dimensions": (alone("F32", [1] * 100, 4, bytes(4)), "impossible shape"),
    "a hundred thousand dimensions": (alone("F32", [1] * 100_000, 4, bytes(4)), "impossible shape"),
    # types
    "bfloat16": (changed("a", dtype="BF16", shape=[8]), "tensor 'a' is of type BF16, expected one of F64, F32"),
    "an 8-bit float": (changed("a", dtype="F8_E4M3", shape=[16]), "tensor 'a' is of type F8_E4M3"),
    "complex numbers": (changed("a", dtype="C64", shape=[2]), ANY),
    "a type that does not exist": (changed("a", dtype="F33"), ANY),
    "a type in small letters": (changed("a", dtype="f32"), ANY),
    "a type that is a number": (changed("a", dtype=32), ANY),
    "no type": (changed("a", dtype=None), ANY),
    # metadata
    "metadata that are no text": (lambda: file({"__metadata__": {"a": 1}, **GOOD}), ANY),
    "metadata that are a list": (lambda: file({"__metadata__": ["a"], **GOOD}), ANY),
    "metadata that are a tensor": (lambda: file({"__metadata__": GOOD["a"], "b": GOOD["b"]}), ANY),
}


@pytest.mark.parametrize(("build", "message"), CASES.values(), ids=CASES)
def test_a_lying_file_is_refused(tmp_path: Path, build: Build, message: str) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(build())
    before = tree(tmp_path)
    said = refusal(lambda: read_tensors(path), path, most_bytes=200 * MEGABYTE)
    assert re.search(f"cannot read weights '.*': .*{message}.*; fetch or export the file again", said), said
    try:
        read_metadata(path)  # which need not look at types
    except ModelError as error:
        assert str(error).isprintable()
    assert tree(tmp_path) == before


def test_large_claims_do_not_fit_into_little_memory(tmp_path: Path) -> None:
    paths = []
    for i, (build, _) in enumerate(CASES.values()):
        paths.append(tmp_path / f"{i}.safetensors")
        paths[-1].write_bytes(build())
    refuse_within_limits(
        """
        import json, numpy, safetensors
        from unbraid.weights.tensors import read_tensors as act
        """,
        paths,
        more_bytes=256 * MEGABYTE,
    )


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    assert "No such file" in refusal(lambda: read_tensors(path), path)
    assert "No such file" in refusal(lambda: read_metadata(path), path)
    path.mkdir()
    refusal(lambda: read_tensors(path), path)
    refusal(lambda: read_metadata(path), path)


def test_the_good_file_is_accepted(tmp_path: Path) -> None:
    # What every case above differs from in one thing.
    path = tmp_path / "weights.safetensors"
    path.write_bytes(file(GOOD, bytes(range(24))))
    read = read_tensors(path)
    np.testing.assert_array_equal(read["a"].view(np.uint8).reshape(-1), np.arange(16))
    np.testing.assert_array_equal(read["b"].view(np.uint8), np.arange(16, 24))
