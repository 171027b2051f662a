"""Hostile files in torch's formats: each is refused in one line, and nothing runs, is imported or is written.

All are read by one process that may not take much memory; what it saw of each file is one line of JSON.
"""

import dataclasses
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torch_writer import (
    ORDERED_DICT,
    Member,
    call,
    dict_of,
    legacy_file,
    members_of,
    pickled,
    ref,
    stacked_ref,
    storage,
    tensor,
    text,
    tuple_of,
    whole,
    zip_archive,
    zip_file,
)

_READER = """
import json, os, sys, time
from pathlib import Path
from unbraid.errors import ModelError
from unbraid.weights.convert.torch_file import read_torch_file

files = sorted(Path(sys.argv[1]).iterdir())
read_torch_file(files.pop(0))  # a good one: what reading imports is there now
if sys.platform == "linux":
    import resource
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + (400 << 20),) * 2)
known = set(sys.modules)
for file in files:
    start = time.monotonic()
    message = ""
    try:
        read_torch_file(file)
        outcome = "read"
    except ModelError as error:
        outcome, message = "ModelError", str(error)
    except BaseException as error:
        outcome, message = type(error).__name__, str(error)
    report = {"outcome": outcome, "message": message, "seconds": time.monotonic() - start}
    report |= {"imported": sorted(set(sys.modules) - known), "written": os.listdir(".")}
    print(file.name, json.dumps(report), flush=True)
"""


def obtain(*path: str) -> bytes:
    """Reach for an attribute of an attribute … of a module, as gadget chains do."""
    found = call(ref("importlib", "import_module"), text(path[0]))
    for name in path[1:]:
        found = call(ref("builtins", "getattr"), found, text(name))
    return found


class _Reducing:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("canary",)


SHELL = text("mkdir canary")
CODE = text("__import__('os').mkdir('canary')")
NESTED = b"B" + struct.pack("<I", 40) + pickled(call(ref("os", "mkdir"), text("canary"))).ljust(40)
SYSTEM = {"posix": "posix", "nt": "nt"}[os.name]

# Under `pickle.loads` each of these makes a folder named canary, which a test proves.
LIVE: dict[str, tuple[bytes, str]] = {
    "os.system": (call(ref("os", "system"), SHELL), "'os.system'"),
    "the system call behind os": (call(stacked_ref(SYSTEM, "system"), SHELL), f"'{SYSTEM}.system'"),
    "eval": (call(ref("builtins", "eval"), CODE), "'builtins.eval'"),
    "exec": (call(ref("builtins", "exec"), CODE), "'builtins.exec'"),
    "eval of Python 2": (call(ref("__builtin__", "eval"), CODE), "'__builtin__.eval'"),
    "chain of getattr": (call(obtain("os", "mkdir"), text("canary")), "'importlib.import_module'"),
    "subprocess.call": (
        call(ref("subprocess", "call"), b"](" + text("mkdir") + text("canary") + b"e"),
        "'subprocess.call'",
    ),
    "code.__reduce__": (pickle.dumps(_Reducing(), 2)[2:-1], "mkdir'"),
    "runpy": (call(ref("runpy", "_run_code"), CODE, b"}"), "'runpy._run_code'"),
    "pickle within the pickle": (call(ref("pickle", "loads"), NESTED), "'pickle.loads'"),
    "open for writing": (call(ref("io", "open"), text("canary"), text("w")), "'io.open'"),
    "operator.methodcaller": (
        call(call(ref("operator", "methodcaller"), text("mkdir"), text("canary")), obtain("os")),
        "'operator.methodcaller'",
    ),
    "functools.partial": (
        call(call(ref("functools", "partial"), ref("os", "mkdir"), text("canary"))),
        "'functools.partial'",
    ),
    "INST": (b"(" + SHELL + b"ios\nsystem\n", "INST"),
    "OBJ": (b"(" + ref("os", "system") + SHELL + b"o", "OBJ"),
    "hidden in a state that is thrown away": (
        ORDERED_DICT + dict_of({"_metadata": call(ref("os", "mkdir"), text("canary"))}) + b"b",
        "'os.mkdir'",
    ),
    "hidden in a class of the package": (dict_of({"klass": call(ref("os", "mkdir"), text("canary"))}), "'os.mkdir'"),
    "dropped by POP": (call(ref("os", "mkdir"), text("canary")) + b"0N", "'os.mkdir'"),
    "after the value": (b"N0" + call(ref("os", "mkdir"), text("canary")), "POP"),
}


def laughs(first: bytes, wrap: Callable[[bytes], bytes]) -> bytes:
    """Thirty levels, each holding the one below ten times."""
    return b"(" + first + b"q\x00" + b"".join(wrap(b"h\x00" * 10) + b"q\x00" for _ in range(30)) + b"t"


def huge(code: int, kind: str, n: int) -> bytes:
    return bytes([code]) + struct.pack(f"<{kind}", n) + b"x"


def rebuilt(*arguments: bytes) -> bytes:
    return call(ref("torch._utils", "_rebuild_tensor_v2"), *arguments)


HUNDRED_GB = 10**11
NUMPY_TYPE = call(ref("numpy", "dtype"), text("f8"), b"\x89", b"\x88")
SCALAR = ref("numpy.core.multiarray", "scalar")
STATE = "sets the state of"

PICKLES: dict[str, tuple[bytes, str]] = {
    # Code.
    "torch.hub.load": (call(ref("torch.hub", "load"), text("evil/model"), text("model")), "'torch.hub.load'"),
    "torch.load": (call(ref("torch", "load"), text("other.th")), "'torch.load'"),
    "ctypes": (call(ref("ctypes", "CDLL"), text("libevil.so")), "'ctypes.CDLL'"),
    "webbrowser": (call(ref("webbrowser", "open"), text("http://example.org")), "'webbrowser.open'"),
    "attribute of an allowed name": (
        call(ref("torch._utils", "_rebuild_tensor_v2.__globals__.get"), text("torch")),
        "'torch._utils._rebuild_tensor_v2.__globals__.get'",
    ),
    "allowed name split elsewhere": (call(ref("torch", "_utils._rebuild_tensor")), "arguments"),
    "rebuild from another type": (
        call(ref("torch._tensor", "_rebuild_from_type_v2"), ref("os", "system"), b"N", tuple_of(SHELL), b"}"),
        "'torch._tensor._rebuild_from_type_v2'",
    ),
    "NEWOBJ": (ref("subprocess", "Popen") + tuple_of(SHELL) + b"\x81", "'subprocess.Popen'"),
    "NEWOBJ with arguments for an allowed class": (
        ref("argparse", "Namespace") + tuple_of(SHELL) + b"\x81",
        "'argparse.Namespace'",
    ),
    "NEWOBJ of a call": (b"])\x81", "no class"),
    "NEWOBJ_EX": (ref("subprocess", "Popen") + b")" + dict_of({"args": SHELL}) + b"\x92", "NEWOBJ_EX"),
    "BUILD of a class": (ref("torch", "Tensor") + dict_of({"__setstate__": ref("os", "system")}) + b"b", STATE),
    "BUILD of slots": (ref("torch", "Tensor") + tuple_of(b"N", dict_of({"a": b"N"})) + b"b", STATE),
    "BUILD of a tensor": (tensor() + dict_of({"__class__": ref("os", "system")}) + b"b", STATE),
    "BUILD of a list": (b"]}b", STATE),
    "BUILD twice": (ref("argparse", "Namespace") + b")\x81}b}b", STATE),
    "EXT1": (b"\x82\x01", "EXT1"),
    "EXT2": (b"\x83\x01\x00", "EXT2"),
    "EXT4": (b"\x84\x01\x00\x00\x00", "EXT4"),
    "call of what is no function": (text("os.system") + tuple_of(SHELL) + b"R", "no function"),
    "call of a list": (b"])R", "no function"),
    "arguments that are no tuple": (ref("collections", "OrderedDict") + b"]R", "no function"),
    "name of a class that is none": (ref("os;import", "system") + b")R", "no proper class"),
    "name of a class without end": (b"c" + b"a" * 1000, "has no end"),
    "name of a class that is a number": (whole(1) + whole(2) + b"\x93", "no proper class"),
    "out-of-band buffer": (b"\x97", "NEXT_BUFFER"),
    # Persistent ids.
    "persistent id in text": (b"Pos.system\n", "PERSID"),
    "persistent id that is a text": (text("os.system") + b"Q", "no storage"),
    "persistent id of another kind": (tuple_of(text("pipe"), SHELL) + b"Q", "no storage"),
    "storage of another class": (
        tuple_of(text("storage"), ref("os", "system"), text("0"), text("cpu"), whole(4)) + b"Q",
        "'os.system'",
    ),
    "storage with a path for a key": (tensor(stored=storage(key="../../0")), "describes a storage wrongly"),
    "storage of negative length": (tensor(stored=storage(n=-4)), "describes a storage wrongly"),
    "view of a storage": (tensor(stored=storage(view=tuple_of(text("1"), whole(0), whole(4)))), "no storage"),
    # Calls that are allowed, with other arguments.
    "OrderedDict of something": (call(ref("collections", "OrderedDict"), b"]"), "arguments"),
    "fraction with an exponent": (call(ref("fractions", "Fraction"), text("1e999999999")), "arguments"),
    "fraction of nothing": (call(ref("fractions", "Fraction"), whole(1), whole(0)), "arguments"),
    "fraction of a billion digits": (call(ref("fractions", "Fraction"), text("9" * 100_000)), "arguments"),
    "bytes by another codec": (call(ref("_codecs", "encode"), text("x"), text("zlib_codec")), "arguments"),
    "bytes that are none": (call(ref("_codecs", "encode"), text("€"), text("latin1")), "arguments"),
    "NumPy type of objects": (call(ref("numpy", "dtype"), text("O8"), b"\x89", b"\x88"), "arguments"),
    "NumPy type of a billion bytes": (call(ref("numpy", "dtype"), text("V999999999"), b"\x89", b"\x88"), "arguments"),
    "NumPy type, big-endian": (NUMPY_TYPE + tuple_of(whole(3), text(">")) + b"b", STATE),
    "NumPy number of another size": (call(SCALAR, NUMPY_TYPE, b"C\x01x"), "arguments"),
    "NumPy number of a text": (call(SCALAR, text("f8"), b"C\x01x"), "arguments"),
    "path of lists": (call(ref("pathlib", "PosixPath"), b"]"), "arguments"),
    "size of a list": (call(ref("torch", "Size"), b"]"), "arguments"),
    "parameter of a list": (call(ref("torch._utils", "_rebuild_parameter"), b"]", b"\x88", b"}"), "arguments"),
    "tensor that is to be conjugated": (tensor(more=dict_of({"conj": b"\x88"})), "arguments"),
    "tensor without arguments": (rebuilt(), "arguments"),
    "tensor of a nested type": (
        call(ref("torch._utils", "_rebuild_tensor_v3"), *[b"N"] * 6, b"]" * 90_000 + b"a" * 89_999),
        "arguments",
    ),
    "compared with a NumPy type": (tuple_of(NUMPY_TYPE, NUMPY_TYPE, NUMPY_TYPE, NUMPY_TYPE) + b"Q", "no storage"),
    # Structures.
    "deep lists": (b"]" * 150_000 + b"a" * 149_999, "nest deeper"),
    "deep tuples": (b")" + b"\x85" * 200_000, "nest deeper"),
    "deep dicts": ((b"}" + text("k")) * 120_000 + b"N" + b"s" * 120_000, "nest deeper"),
    "deep states": (
        (ref("argparse", "Namespace") + b")\x81}" + text("k")) * 100_000 + b"N" + b"sb" * 100_000,
        "nest deeper",
    ),
    "deep arguments": (call(ref("os", "system"), b"]" * 120_000 + b"a" * 119_999), "'os.system'"),
    "list in itself": (b"]q\x00h\x00a", "nest deeper"),
    "list in itself, many times": (b"]q\x00(" + b"h\x00" * 100_000 + b"e", "nest deeper"),
    "dict in itself": (b"}q\x00" + text("k") + b"h\x00s", "nest deeper"),
    "lists in each other": (b"]q\x00]q\x01h\x00aa", "nest deeper"),
    "billion laughs of lists": (laughs(b"]", lambda ten: b"](" + ten + b"e"), "or are more than"),
    "billion laughs of tuples": (laughs(b")", lambda ten: b"(" + ten + b"t"), "or are more than"),
    "billion laughs of tensors": (laughs(tensor(), lambda ten: b"](" + ten + b"e"), "or are more than"),
    "key that takes an age to hash": (b"})" + b"q\x00h\x00\x86" * 200 + b"Ns", "a tuple for a key"),
    "key that is a tensor": (b"}" + tensor() + b"Ns", "a StoredTensor for a key"),
    "keys that collide": (
        b"}(" + b"".join(whole((i << 40) + (1 << 30)) + b"N" for i in range(2000)) + b"u",
        "or too many such",
    ),
    "keys that collide, with the hash 0": (
        b"}(" + b"".join(whole(i * ((1 << 61) - 1)) + b"N" for i in range(9)) + b"u",
        "too many",
    ),
    "negative key": (b"}" + whole(-1) + b"Ns", "the key -1"),
    "same key twice": (b"}(" + text("k") + b"N" + text("k") + b"Nu", "'k' in a dict twice"),
    "set": (b"\x8f", "EMPTY_SET"),
    "frozen set": (b"(N\x91", "FROZENSET"),
    "memo at 2**31": (b"Nr" + struct.pack("<I", 1 << 31), "numbers a value"),
    "memo in text at 10**18": (b"Np" + b"9" * 18 + b"\n", "PUT"),
    "memo that was not set": (b"h\x07", "has not made"),
    "long memo that was not set": (b"j" + struct.pack("<I", (1 << 32) - 1), "has not made"),
    "instructions without end": (b"N" * 1_100_000, "instructions"),
    # Sizes.
    "BINBYTES8 of 100 GB": (huge(0x8E, "Q", HUNDRED_GB), "BINBYTES8"),
    "BINUNICODE8 of 100 GB": (huge(0x8D, "Q", HUNDRED_GB), "BINUNICODE8"),
    "BYTEARRAY8 of 100 GB": (huge(0x96, "Q", HUNDRED_GB), "BYTEARRAY8"),
    "BINUNICODE of 4 GB": (huge(ord("X"), "I", (1 << 32) - 1), "larger|cut short"),
    "BINBYTES of 4 GB": (huge(ord("B"), "I", (1 << 32) - 1), "larger|cut short"),
    "BINSTRING of negative length": (huge(ord("T"), "i", -1), "BINSTRING"),
    "FRAME of 100 GB": (huge(0x95, "Q", HUNDRED_GB) + b"N", "cut short"),
    "FRAME of negative length": (huge(0x95, "q", -1) + b"N", "cut short"),
    "LONG4 of 2 GB": (huge(0x8B, "i", (1 << 31) - 1), "LONG4"),
    "LONG4 of negative length": (huge(0x8B, "i", -1), "LONG4"),
    "LONG1 of 255 bytes": (b"\x8a\xff" + b"\x7f" * 255, "whole number of 255 bytes"),
    "LONG of a million digits": (b"L" + b"9" * 1_000_000 + b"L\n", "LONG"),
    "INT of a million digits": (b"I" + b"9" * 1_000_000 + b"\n", "INT"),
    "FLOAT of a million digits": (b"F" + b"9" * 1_000_000 + b"\n", "FLOAT"),
    "text that is not UTF-8": (text(b"\xff\xfe"), "not UTF-8"),
    "half a surrogate pair": (text(b"\xed\xa0\x80"), "not UTF-8"),
    # The stack.
    "nothing": (b"", "before its value is complete"),
    "two values": (b"NN", "before its value is complete"),
    "open mark": (b"(N", "before its value is complete"),
    "REDUCE of nothing": (b"R", "more values than it has made"),
    "TUPLE3 of two": (b"NN\x87", "more values than it has made"),
    "TUPLE without a mark": (b"Nt", "more values than it has made"),
    "below the mark": (b"N(\x85", "more values than it has made"),
    "APPEND to a number": (whole(1) + b"Na", "no list"),
    "SETITEM of a list": (b"]NNs", "no dict"),
    "SETITEMS of three": (b"}(NNNu", "no dict"),
    "BINPUT of nothing": (b"q\x00", "more values than it has made"),
    "BUILD of nothing": (b"}b", "more values than it has made"),
    "POP": (b"NN0", "POP"),
    "DUP": (b"N2", "DUP"),
    "no instruction": (b"\xff", "byte 255"),
    # Tensors.
    "storage of 100 GB": (tensor((HUNDRED_GB // 4,), stored=storage(n=HUNDRED_GB // 4)), "length that its tensors say"),
    "tensor of 100 GB": (tensor((HUNDRED_GB // 4,)), "reaches beyond"),
    "tensor of 2**124 numbers": (tensor((1 << 62, 1 << 62), (1 << 62, 1)), "reaches beyond"),
    "empty tensor of 2**124 numbers": (tensor((0, 1 << 62, 1 << 62), (1, 1, 1)), "cannot have the shape"),
    "one number repeated 100 GB": (tensor((HUNDRED_GB // 4,), (0,)), "overlap"),
    "rows that overlap": (tensor((3, 2), (1, 1)), "overlap"),
    "begins beyond its storage": (tensor((1,), offset=4), "reaches beyond"),
    "ends beyond its storage": (tensor((4,), offset=1), "reaches beyond"),
    "stride beyond its storage": (tensor((2,), (4,)), "reaches beyond"),
    "negative offset": (tensor(offset=-1), "arguments"),
    "negative stride": (tensor(strides=(-1,), offset=3), "arguments"),
    "negative size": (tensor((-1,)), "arguments"),
    "offset of 2**64": (tensor(offset=1 << 64), "arguments"),
    "more strides than sizes": (tensor((4,), (1, 1)), "arguments"),
    "sizes that are texts": (
        rebuilt(storage(), whole(0), tuple_of(text("4")), tuple_of(whole(1)), b"\x89", b"}"),
        "arguments",
    ),
    "33 axes": (tensor((1,) * 33, (1,) * 33), "arguments"),
    "two tensors that overlap": (tuple_of(tensor((3,)), tensor((3,), offset=1)), "two tensors overlap"),
    "two shapes of the same numbers": (tuple_of(tensor((4,)), tensor((2, 2), (2, 1))), "two tensors overlap"),
    "two types of the same numbers": (tuple_of(tensor(), tensor(stored=storage(kind="IntStorage"))), "in two ways"),
    "two lengths of the same storage": (tuple_of(tensor(), tensor((1,), stored=storage(n=2))), "in two ways"),
    "type of another size": (tensor(stored=storage(kind="DoubleStorage")), "length that its tensors say"),
    "storage shorter than in the file": (tensor((2,), stored=storage(n=2)), "length that its tensors say"),
    "storage that is missing": (tensor(stored=storage(key="1")), "is missing|does not fit"),
    "the same tensor 100,000 times": (b"](" + tensor() + b"q\x00" + b"h\x00" * 100_000 + b"e", "fill several files"),
    "bare storage": (storage(), "a Storage that belongs to no tensor"),
    "bare NumPy type": (NUMPY_TYPE, "a NumpyType that belongs to no tensor"),
    "quantised tensor": (tensor(stored=storage(kind="QInt8Storage")), "'torch.QInt8Storage', which is not supported"),
    "float of 8 bits": (
        call(
            ref("torch._utils", "_rebuild_tensor_v3"),
            *(storage(n=16, kind="UntypedStorage"), whole(0), tuple_of(whole(4)), tuple_of(whole(1)), b"\x89", b"}"),
            ref("torch", "float8_e5m2"),
        ),
        "'torch.float8_e5m2', which is not supported",
    ),
}

GOOD = pickled(dict_of({"weight": tensor()}))


def forged(index: int, **changes: Any) -> bytes:
    """An archive with one field of one member wrong: 0 data.pkl, 1 byteorder, 2 data/0, 3 version."""
    members = members_of(GOOD)
    members[index] = dataclasses.replace(members[index], **changes)
    return zip_archive(members)


def with_member(*more: Member) -> bytes:
    return zip_archive([*members_of(GOOD), *more])


def compressed(size: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in members_of(GOOD, {"0": bytes(size)}):
            archive.writestr(str(member.name), member.data)
    return buffer.getvalue()


def overlapping() -> bytes:
    inner = Member("model/data/1", bytes(16))
    outer = Member("model/data/0", inner.header() + inner.data)
    return zip_archive([outer, dataclasses.replace(inner, start=len(outer.header())), *members_of(GOOD, {})])


def with_zip64(n_entries: int) -> bytes:
    data = zip_file(GOOD)
    size, start = struct.unpack_from("<2I", data, len(data) - 10)
    end = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, n_entries, n_entries, size, start)
    return data[:-22] + end + struct.pack("<4sIQI", b"PK\x06\x07", 0, len(data) - 22, 1) + data[-22:]


NAME = "has a name that torch.save never gives"
DIRECTORY = "directory is damaged"

FILES: dict[str, tuple[bytes, str]] = {
    "compressed pickle": (forged(0, method=8), "compressed or encrypted"),
    "zip bomb": (compressed(50 << 20), "compressed or encrypted"),
    "size that hides a bomb": (forged(2, packed=4), "compressed or encrypted"),
    "encrypted member": (forged(2, flags=1), "compressed or encrypted"),
    "members that overlap": (overlapping(), "overlap"),
    "member that reaches into the directory": (forged(3, size=60), "overlap"),
    "member of 4 GB": (forged(2, size=(1 << 32) - 1), "overlap"),
    "member beyond the end": (forged(2, start=(1 << 32) - 2), "beyond its end"),
    "member at another's place": (forged(2, start=0), "not where its directory says"),
    "member with two names": (forged(2, local_name=b"model/data/9"), "not where its directory says"),
    "wrong checksum of the pickle": (forged(0, crc=1), "does not match its checksum"),
    "wrong checksum of a storage": (forged(2, crc=1), "does not match its checksum"),
    "folder above": (with_member(Member("../canary", b"")), NAME),
    "folder above, further on": (with_member(Member("model/../../canary", b"")), NAME),
    "absolute path": (with_member(Member("/tmp/canary", b"")), NAME),
    "drive of Windows": (with_member(Member("C:\\canary", b"")), NAME),
    "name with a line end": (with_member(Member("model/a\nb", b"")), NAME),
    "name that is not ASCII": (with_member(Member(b"model/\xff\xfe", b"")), NAME),
    "name with a null": (with_member(Member(b"model/data/1\x00.txt", b"")), NAME),
    "no name": (with_member(Member("", b"")), NAME),
    "no data.pkl": (zip_archive(members_of(GOOD)[1:]), "one folder with a data.pkl"),
    "two data.pkl": (with_member(Member("model/data.pkl", GOOD)), "two members 'model/data.pkl'"),
    "two folders": (with_member(Member("other/data.pkl", GOOD)), "one folder with a data.pkl"),
    "data.pkl without a folder": (with_member(Member("data.pkl", GOOD)), "one folder with a data.pkl"),
    "member outside the folder": (with_member(Member("model2/x", b"")), "one folder with a data.pkl"),
    "TorchScript": (with_member(Member("model/constants.pkl", pickled(b")"))), "TorchScript"),
    "big-endian": (forged(1, data=b"big"), "big-endian"),
    "directory with too many members": (zip_archive(members_of(GOOD), n_entries=60_000), DIRECTORY),
    "directory with too few members": (zip_archive(members_of(GOOD), n_entries=1), DIRECTORY),
    "directory of 4 GB": (zip_archive(members_of(GOOD), size=(1 << 32) - 1), DIRECTORY),
    "contradiction of zip64": (with_zip64(10**9), DIRECTORY),
    "comment behind the end": (zip_file(GOOD) + b"comment", "does not end as a zip archive"),
    "pickle cut short": (zip_file(GOOD[:-3]), "cut short"),
    "pickle without STOP": (zip_file(GOOD[:-1]), "cut short"),
    "bytes after the pickle": (zip_file(GOOD + b"x"), "1 bytes follow"),
    "two pickles in one": (zip_file(GOOD + GOOD), "bytes follow"),
    "pickle of protocol 0": (zip_file(b"cos\nsystem\n(S'mkdir canary'\ntR."), "no pickle of protocol 2 to 5"),
    "pickle of protocol 6": (zip_file(pickled(b"N", 6)), "no pickle of protocol 2 to 5"),
    "the same window 1,000 times": (
        zip_file(pickled(b"](" + tensor((1 << 14,), stored=storage(1 << 14)) * 1000 + b"e"), {"0": bytes(1 << 16)}),
        "fill several files",
    ),
    "old: magic number": (legacy_file(GOOD, magic=1), "torch.save did not write it"),
    "old: version": (legacy_file(GOOD, version=1002), "unknown version"),
    "old: big-endian": (legacy_file(GOOD, little_endian=False), "big-endian"),
    "old: attack ahead of the magic number": (pickled(LIVE["os.system"][0]) + legacy_file(GOOD), "'os.system'"),
    "old: attack in the list of storages": (legacy_file(GOOD, keys=LIVE["os.system"][0]), "'os.system'"),
    "old: list of storages that is none": (legacy_file(GOOD, keys=b"N"), "does not fit"),
    "old: storage listed twice": (legacy_file(GOOD, [("0", 4, bytes(16))] * 2), "does not fit"),
    "old: storage that no tensor has": (legacy_file(GOOD, [("0", 4, bytes(16)), ("1", 4, bytes(16))]), "does not fit"),
    "old: storage of 100 GB": (legacy_file(GOOD, [("0", HUNDRED_GB, bytes(16))]), "length that its tensors say"),
    "old: storage of negative length": (legacy_file(GOOD, [("0", -4, bytes(16))]), "length that its tensors say"),
    "old: storage cut short": (legacy_file(GOOD)[:-1], "cut short"),
    "old: bytes after the end": (legacy_file(GOOD) + b"x", "1 bytes follow its end"),
    "old: pickle of 65 MB": (legacy_file(pickled(text(bytes(65 << 20)))), "larger than 67108864 bytes"),
}


def corpus() -> dict[str, tuple[bytes, str]]:
    cases = dict(FILES)
    for name, (body, expected) in (LIVE | PICKLES).items():
        cases[f"{name} (zip)"] = zip_file(pickled(body)), expected
        if len(body) < 100_000 and "laughs" not in name:  # the long ones are no different there
            cases[f"{name} (old)"] = legacy_file(pickled(body)), expected
    return cases


CASES = corpus()
NUMBERS = {name: f"{number:03d}" for number, name in enumerate(CASES, 1)}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What one process saw of every file, by the file's number."""
    files, place = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("place")
    (files / "000").write_bytes(zip_file(GOOD))
    for name, (data, _) in CASES.items():
        (files / NUMBERS[name]).write_bytes(data)
    command = [sys.executable, "-W", "error", "-c", _READER, str(files)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=600, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(files.iterdir())) == len(CASES) + 1
    return {line[:3]: json.loads(line[4:]) for line in done.stdout.splitlines()}


@pytest.mark.parametrize("name", CASES)
def test_is_refused_and_nothing_happens(name: str, reports: dict[str, dict[str, Any]]) -> None:
    report = reports[NUMBERS[name]]
    message, expected = report["message"], CASES[name][1]
    assert report["outcome"] == "ModelError", report
    assert any(part in message for part in expected.split("|")), message
    assert "\n" not in message and message.isprintable() and len(message) < 500
    assert f"{os.sep}{NUMBERS[name]}'" in message
    assert report["written"] == [] and report["imported"] == []
    assert report["seconds"] < 20


@pytest.mark.parametrize("name", LIVE)
def test_the_corpus_is_live(name: str, tmp_path: Path) -> None:
    # If these did nothing under `pickle`, refusing them would prove nothing.
    code = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
    subprocess.run(
        [sys.executable, "-c", code],
        input=pickled(LIVE[name][0]),
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (tmp_path / "canary").exists()


def test_references_that_are_only_named_stay_names(tmp_path: Path) -> None:
    from unbraid.weights.convert.torch_file import Reference, read_torch_file

    path = tmp_path / "model.th"
    path.write_bytes(zip_file(pickled(dict_of({"klass": ref("os", "system")}))))
    assert read_torch_file(path) == {"klass": Reference("os", "system")}
