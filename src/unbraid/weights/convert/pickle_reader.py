"""Reads the pickles that ``torch.save`` writes, and runs nothing that they ask for.

A pickle is a program for a machine with a stack. The machine here knows the few instructions that saved models need,
and no name in a pickle ever leads to an import: a class or function is a `Reference` that only says what it is called,
a tensor is a `StoredTensor` that only says where its numbers lie, and of calls only those of `pickle_calls` are known.
Everything else is refused by name. Time and memory grow no faster than the pickle.
(CPython, Lib/pickletools.py: protocols 2 to 5.)
"""

from __future__ import annotations

import pickletools
import re
import struct
from collections import OrderedDict
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from unbraid.weights.convert.pickle_calls import (
    CALLS,
    STORAGE_TYPES,
    Damage,
    Misfit,
    NumpyType,
    Record,
    Reference,
    Storage,
    StoredTensor,
    shown,
)

__all__ = ["read_pickle", "read_pickle_at", "replaced"]

# Official models need fewer than 50,000 instructions and 1 MB; a checkpoint with its optimiser a few times as much.
_LARGEST_PICKLE = 1 << 26
_MOST_INSTRUCTIONS = 1 << 20
_DEEPEST = 64

# An optimiser's state has the numbers of its parameters for keys, in old files their addresses. Of large numbers, many
# can be chosen to collide in the table of a dict, which then takes quadratic time.
_SMALL_KEY = 1 << 20
_MOST_LARGE_KEYS = 1 << 10


def read_pickle(data: bytes | memoryview) -> object:
    """Return what a pickle describes, without running any of it.

    Returns None, bool, int, float, str, bytes, list, tuple, dict, Fraction, Reference, Record and StoredTensor objects.
    Raises Damage for whatever is broken, excessive, or not needed by a saved model.
    """
    value, end = read_pickle_at(data, 0)
    if end != len(data):
        raise Damage(f"{len(data) - end} bytes follow the end of its pickle")
    return value


def read_pickle_at(data: bytes | memoryview, start: int) -> tuple[object, int]:
    """Return what the pickle that begins at byte `start` describes, and the byte after its end; see `read_pickle`."""
    machine = _Machine(memoryview(data)[start : start + _LARGEST_PICKLE])
    value = machine.run()
    # The machine lets a list hold itself, or the same list a million times. This copy cannot.
    return replaced(value, lambda tensor: tensor), start + machine.at


def replaced(value: object, tensor: Callable[[StoredTensor], object]) -> object:
    """Return a copy of what `read_pickle` returned, with every StoredTensor replaced by what `tensor` gives for it."""
    n_values = 0

    def copied(value: object, depth: int) -> object:
        nonlocal n_values
        n_values += 1
        if n_values > _MOST_INSTRUCTIONS or depth > _DEEPEST:
            raise Damage(f"its values nest deeper than {_DEEPEST}, or are more than {_MOST_INSTRUCTIONS}")
        if isinstance(value, StoredTensor):
            return tensor(value)
        if isinstance(value, dict):
            return {key: copied(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [copied(item, depth + 1) for item in value]
        if isinstance(value, tuple):
            return tuple([copied(item, depth + 1) for item in value])
        if isinstance(value, Record):
            return Record(value.kind, value.arguments, copied(value.state, depth + 1))
        if value is None or isinstance(value, (bool, int, float, str, bytes, Fraction, Reference)):
            return value
        raise Damage(f"it holds a {type(value).__name__} that belongs to no tensor")

    return copied(value, 0)


class _Machine:
    """Runs one pickle. `at` is the next byte to read; afterwards, the byte behind the pickle."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> object:
        if self.number(1) != _PROTO or not 2 <= self.number(1) <= 5:
            raise Damage("it holds no pickle of protocol 2 to 5")
        for _ in range(_MOST_INSTRUCTIONS):
            code = self.number(1)
            if code == _STOP:
                if self.marks or len(self.stack) != 1:
                    raise Damage("its pickle ends before its value is complete")
                return self.pop()
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                name = next((known.name for known in pickletools.opcodes if known.code == chr(code)), f"byte {code}")
                raise Damage(f"its pickle holds {name}, which no saved model needs")
            instruction(self)
        raise Damage(f"its pickle has more than {_MOST_INSTRUCTIONS} instructions")

    def take(self, n: int) -> memoryview:
        start, self.at = self.at, self.at + n
        if self.at > len(self.data):
            large = len(self.data) == _LARGEST_PICKLE
            raise Damage(f"its pickle is larger than {_LARGEST_PICKLE} bytes" if large else "its pickle is cut short")
        return self.data[start : self.at]

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def check_frame(self, n: int) -> None:
        # A frame only helps to read ahead, which nobody does here.
        if n > len(self.data) - self.at:
            raise Damage("its pickle is cut short")

    def text(self, size: int) -> None:
        self.push(_text(self.take(self.number(size))))

    def line(self) -> str:
        end = bytes(self.data[self.at : self.at + 256]).find(b"\n")
        if end < 0:
            raise Damage("a name in its pickle has no end")
        return _text(self.take(end + 1)[:-1])

    def long(self) -> None:
        size = self.number(1)
        if size > 16:
            raise Damage(f"its pickle holds a whole number of {size} bytes")
        self.push(self.number(size, signed=True))

    def push(self, value: object) -> None:
        self.stack.append(value)

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Damage("its pickle takes more values than it has made")
        return self.stack[-1]

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def pop_marked(self) -> list[Any]:
        if not self.marks:
            raise Damage("its pickle takes more values than it has made")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def tuple_of(self, n: int) -> None:
        values = [self.pop() for _ in range(n)]
        self.push(tuple(values[::-1]))

    def remember(self, index: int) -> None:
        if index >= _MOST_INSTRUCTIONS:
            raise Damage(f"its pickle numbers a value {index}")
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise Damage(f"its pickle asks for value {index}, which it has not made")
        self.push(self.memo[index])

    def refer(self, module: object, name: object) -> None:
        for part in (module, name):
            if not isinstance(part, str) or not re.fullmatch(r"[\w.]{1,200}", part, re.ASCII):
                raise Damage("its pickle names no proper class")
        self.push(Reference(str(module), str(name)))

    def refer_to_stacked(self) -> None:
        name, module = self.pop(), self.pop()
        self.refer(module, name)

    def append(self, values: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise Damage("its pickle appends to what is no list")
        target += values

    def set_items(self, values: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(values) % 2:
            raise Damage("its pickle sets items of what is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str) and type(key) is not int:
                raise Damage(f"its pickle has a dict with a {type(key).__name__} for a key")
            if type(key) is int and not 0 <= key < (_SMALL_KEY if len(target) >= _MOST_LARGE_KEYS else 1 << 63):
                raise Damage(f"its pickle has a dict with the key {key}, or too many such")
            if key in target:
                raise Damage(f"its pickle sets {shown(key)} in a dict twice")
            target[key] = value

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(arguments, tuple) or not isinstance(function, Reference):
            raise Damage("its pickle calls what is no function")
        allowed = CALLS.get(str(function))
        if allowed is None:
            raise Damage(f"its pickle calls {shown(function)}, which no saved model needs")
        try:
            self.push(allowed(arguments))
        except Misfit:
            raise Damage(f"its pickle calls {shown(function)} with arguments that no saved model has") from None

    def make(self) -> None:
        arguments, kind = self.pop(), self.pop()
        if not isinstance(kind, Reference) or not isinstance(arguments, tuple):
            raise Damage("its pickle makes an object of what is no class")
        # `demucs` 2 stored the options of its command line beside the model.
        if str(kind) != "argparse.Namespace" or arguments:
            raise Damage(f"its pickle makes an object of {shown(kind)}, which no saved model needs")
        self.push(Record(kind, ()))

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, OrderedDict) and isinstance(state, dict):
            return  # `_metadata` of a state: the versions of torch's modules
        if isinstance(target, NumpyType) and isinstance(state, tuple) and state[1:2] in (("<",), ("|",)):
            return  # little-endian, and the rest repeats the type's name
        if isinstance(target, Record) and target.state is None and isinstance(state, dict):
            target.state = state
            return
        what = target if isinstance(target, Reference) else type(target).__name__
        raise Damage(f"its pickle sets the state of {shown(what)}, which no saved model needs")

    def persistent(self) -> None:
        match self.pop():
            case ("storage", Reference() as kind, str() as key, str(), n, *view) if view[1:] == [] and not any(view):
                if kind.module not in ("torch", "torch.storage") or kind.name not in STORAGE_TYPES:
                    raise Damage(f"it holds tensors of type {shown(kind)}, which is not supported")
                if not re.fullmatch(r"\w{1,64}", key, re.ASCII) or type(n) is not int or n < 0:
                    raise Damage("its pickle describes a storage wrongly")
                self.push(Storage(STORAGE_TYPES[kind.name], key, n))
            case ("module", Reference() as kind, _, _):
                self.push(kind)  # the old format wraps a class to carry its source code
            case _:
                raise Damage("its pickle refers to something outside that is no storage")


def _text(data: memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise Damage("text in its pickle is not UTF-8") from None


_PROTO = 0x80
_STOP = ord(".")

_INSTRUCTIONS: dict[int, Callable[[_Machine], None]] = {
    0x95: lambda m: m.check_frame(m.number(8)),  # FRAME
    ord("N"): lambda m: m.push(None),  # NONE
    0x88: lambda m: m.push(True),  # NEWTRUE
    0x89: lambda m: m.push(False),  # NEWFALSE
    ord("J"): lambda m: m.push(m.number(4, signed=True)),  # BININT
    ord("K"): lambda m: m.push(m.number(1)),  # BININT1
    ord("M"): lambda m: m.push(m.number(2)),  # BININT2
    0x8A: _Machine.long,  # LONG1
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),  # BINFLOAT
    ord("X"): lambda m: m.text(4),  # BINUNICODE
    0x8C: lambda m: m.text(1),  # SHORT_BINUNICODE
    ord("B"): lambda m: m.push(bytes(m.take(m.number(4)))),  # BINBYTES
    ord("C"): lambda m: m.push(bytes(m.take(m.number(1)))),  # SHORT_BINBYTES
    ord("]"): lambda m: m.push([]),  # EMPTY_LIST
    ord("a"): lambda m: m.append([m.pop()]),  # APPEND
    ord("e"): lambda m: m.append(m.pop_marked()),  # APPENDS
    ord(")"): lambda m: m.push(()),  # EMPTY_TUPLE
    ord("t"): lambda m: m.push(tuple(m.pop_marked())),  # TUPLE
    0x85: lambda m: m.tuple_of(1),  # TUPLE1
    0x86: lambda m: m.tuple_of(2),  # TUPLE2
    0x87: lambda m: m.tuple_of(3),  # TUPLE3
    ord("}"): lambda m: m.push({}),  # EMPTY_DICT
    ord("s"): lambda m: m.set_items([m.pop(), m.pop()][::-1]),  # SETITEM
    ord("u"): lambda m: m.set_items(m.pop_marked()),  # SETITEMS
    ord("("): lambda m: m.marks.append(len(m.stack)),  # MARK
    ord("h"): lambda m: m.recall(m.number(1)),  # BINGET
    ord("j"): lambda m: m.recall(m.number(4)),  # LONG_BINGET
    ord("q"): lambda m: m.remember(m.number(1)),  # BINPUT
    ord("r"): lambda m: m.remember(m.number(4)),  # LONG_BINPUT
    0x94: lambda m: m.remember(len(m.memo)),  # MEMOIZE
    ord("c"): lambda m: m.refer(m.line(), m.line()),  # GLOBAL
    0x93: _Machine.refer_to_stacked,  # STACK_GLOBAL
    ord("R"): _Machine.call,  # REDUCE
    0x81: _Machine.make,  # NEWOBJ
    ord("b"): _Machine.build,  # BUILD
    ord("Q"): _Machine.persistent,  # BINPERSID
}
