"""The pickle machine: the stack, the memo, and the table of opcodes of CPython's ``Lib/pickletools.py``.

Hostile pickles cost no more than their size: lengths are checked before anything is made, the memo is a dict,
keys of dicts are simple, and memory is counted.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from converter.errors import FormatError
from converter.formats.pickle_values import (
    Global,
    Opaque,
    PickleError,
    Shell,
    UnsafePickleError,
    has_simple_hash,
    is_small_key,
)

#: Longer bytes are views of the data.
VIEW_FROM = 4096
#: Memory that a pickle may take beyond its own size: MEMORY_FLOOR, or MEMORY_FACTOR times its size if that is more.
MEMORY_FLOOR = 128 << 20
MEMORY_FACTOR = 8
#: Keys whose hash an attacker can choose (tuples of numbers) make a dict slow: no more than these in a pickle.
MAX_ODD_KEYS = 4096
MAX_TEXT_NUMBER = 1000  # digits of a number written as text


class Machine:
    """One run over one pickle. The stack is a list; at a MARK it is put aside and a new one begun."""

    def __init__(
        self,
        data: memoryview,
        known: Mapping[str, Callable[..., object] | None],
        persistent: Callable[[object], object] | None,
        unknown: Callable[[str], Callable[..., object] | None] | None,
    ) -> None:
        self.data = data.toreadonly()
        self.known = known
        self.persistent = persistent
        self.unknown = unknown
        self.position = 0
        self.start = 0  # of the opcode, for messages
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.globals: dict[str, Global] = {}
        self.left = max(MEMORY_FLOOR, MEMORY_FACTOR * len(data))
        self.odd_keys = 0

    def run(self) -> object:
        data, size, opcodes = self.data, len(self.data), OPCODES
        while self.position < size:
            self.start = self.position
            code = data[self.position]
            self.position += 1
            if code == _STOP:
                return self.pop()
            action = opcodes.get(code)
            if action is None:
                raise PickleError(f"there is no opcode {code:#04x}")
            action(self)
        raise PickleError("it ends without a STOP")

    # -- the stack ------------------------------------------------------------------------------------------

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise PickleError("it takes a value from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack:
            raise PickleError("it uses a value of an empty stack")
        return self.stack[-1]

    def mark(self) -> None:
        self.charge(64)
        self.marked.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        if not self.marked:
            raise PickleError("it returns to a mark that was not set")
        items, self.stack = self.stack, self.marked.pop()
        return items

    def charge(self, size: int) -> None:
        """Count memory that the size of the file does not show."""
        self.left -= size
        if self.left < 0:
            raise PickleError("it would take far more memory than the file has bytes")

    # -- the data -------------------------------------------------------------------------------------------

    def view(self, size: int) -> memoryview:
        end = self.position + size
        if end > len(self.data):
            raise PickleError(f"{size} bytes announced, {len(self.data) - self.position} left")
        self.position, begin = end, self.position
        return self.data[begin:end]

    def blob(self, size: int) -> bytes | memoryview:
        view = self.view(size)
        return view if size > VIEW_FROM else view.tobytes()

    def text(self, size: int) -> str:
        return _decoded(self.view(size).tobytes(), "utf-8")

    def line(self) -> bytes:
        """Up to the next newline, which is taken too."""
        size, chunk = 128, b""
        while self.position + len(chunk) < len(self.data) or not chunk:
            chunk = self.data[self.position : self.position + size].tobytes()
            end = chunk.find(b"\n")
            if end >= 0:
                self.position += end + 1
                return chunk[:end]
            if not chunk:
                break
            size *= 2
        raise PickleError("a line without an end")

    def number(self, layout: struct.Struct) -> Any:
        return layout.unpack(self.view(layout.size))[0]

    def small_line(self) -> bytes:
        line = self.line()
        if len(line) > MAX_TEXT_NUMBER:
            raise PickleError(f"a number of {len(line)} digits")
        return line

    # -- memo, containers, globals, calls ---------------------------------------------------------------------

    def put(self, index: int) -> None:
        self.charge(100)
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        try:
            value = self.memo[index]
        except KeyError:
            raise PickleError(f"it refers to memo {index}, which was not set") from None
        self.push(value.finished if isinstance(value, Shell) and value.finished is not None else value)

    def key(self, key: object) -> object:
        """The key of a dict or the member of a set, if it is harmless to hash."""
        if not has_simple_hash(key):
            self.odd_keys += 1
            if self.odd_keys > MAX_ODD_KEYS or not is_small_key(key):
                raise PickleError(f"a {type(key).__name__} as the key of a dict or set")
        return key

    def add_pairs(self, target: Any, items: list[Any]) -> None:
        if len(items) % 2:
            raise PickleError("a key without a value")
        if isinstance(target, Opaque):
            target = target.mapping
        if not isinstance(target, dict):
            raise PickleError(f"items are set in a {type(target).__name__}")
        for index in range(0, len(items), 2):
            target[self.key(items[index])] = items[index + 1]

    def add_items(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, Opaque):
            target = target.items
        if isinstance(target, set):
            target.update(self.key(item) for item in items)
        elif isinstance(target, list):
            target.extend(items)
        else:
            raise PickleError(f"items are appended to a {type(target).__name__}")

    def find(self, module: str, name: str) -> Global:
        full = f"{module} {name}"
        if full not in self.globals:
            if full in self.known:
                make = self.known[full]
            elif self.unknown is not None:
                make = self.unknown(full)
            else:
                raise UnsafePickleError(f"asks for '{module}.{name}', which is not on the list of known data types")
            self.globals[full] = Global(full, make)
        return self.globals[full]

    def call(self, target: object, args: object) -> object:
        if not isinstance(target, Global) or not isinstance(args, tuple):
            raise PickleError(f"it calls a {type(target).__name__} with a {type(args).__name__}")
        if target.make is None:
            raise UnsafePickleError(f"calls '{target.name.replace(' ', '.')}', which is not data")
        try:
            result = target.make(*args)
        except (PickleError, FormatError):
            raise
        except Exception as error:  # the arguments are anything the file says
            raise PickleError(f"'{target.name}' with unfit arguments ({type(error).__name__})") from None
        self.charge(_owned(result))
        return result

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Opaque):
            target.state = state
        elif isinstance(target, Shell):
            try:
                target.finished = target.finish(state)
            except (PickleError, FormatError):
                raise
            except Exception as error:
                raise PickleError(f"an unfit state ({type(error).__name__})") from None
            self.charge(_owned(target.finished))
            self.stack[-1] = target.finished
        elif not isinstance(target, (dict, list, set)):  # those: attributes beside the items, such as _metadata
            raise PickleError(f"a state for a {type(target).__name__}")

    def resolve(self, identity: object) -> None:
        if self.persistent is None:
            raise PickleError("a persistent id, which such a file does not have")
        try:
            self.push(self.persistent(identity))
        except (PickleError, FormatError):
            raise
        except Exception as error:
            raise PickleError(f"an unfit persistent id ({type(error).__name__})") from None

    def new_container(self, make: Callable[[], object], size: int) -> None:
        self.charge(size)
        self.push(make())

    def take_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise PickleError("it takes values from an empty stack")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("the name of a global is not text")
        self.push(self.find(module, name))

    def reduce(self) -> None:
        args, target = self.pop(), self.pop()
        self.push(self.call(target, args))

    def new_object(self) -> None:  # NEWOBJ_EX: one more value, the keyword arguments
        keywords, args, target = self.pop(), self.pop(), self.pop()
        if keywords:
            args = (*args, keywords) if isinstance(args, tuple) else args
        self.push(self.call(target, args))

    def old_object(self) -> None:
        items = self.pop_mark()
        if not items:
            raise PickleError("an instance of nothing")
        self.push(self.call(items[0], tuple(items[1:])))

    def old_instance(self) -> None:
        target = self.find(*_two_lines(self))
        self.push(self.call(target, tuple(self.pop_mark())))


def _owned(value: object) -> int:
    """Bytes of memory that this result of a call holds for itself."""
    if isinstance(value, np.ndarray):
        return value.nbytes if value.base is None else 128
    return len(value) if isinstance(value, (bytes, str)) else 64


def _decoded(raw: bytes, encoding: str) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        raise PickleError(f"text that is not {encoding}") from None


def _two_lines(machine: Machine) -> tuple[str, str]:
    return _decoded(machine.line(), "utf-8"), _decoded(machine.line(), "utf-8")


def _old_text(machine: Machine, size: int) -> str | memoryview:
    """A str of Python 2: text, or raw bytes; as Latin-1 it can be turned back into both."""
    if size < 0:
        raise PickleError(f"a text of {size} bytes")
    view = machine.view(size)
    return view if size > VIEW_FROM else view.tobytes().decode("latin-1")


def _quoted(machine: Machine) -> str:
    line = machine.line().strip()
    if len(line) < 2 or line[:1] not in b"'\"" or line[-1:] != line[:1]:
        raise PickleError("a text without its quotes")
    try:
        return codecs.escape_decode(line[1:-1])[0].decode("latin-1")
    except ValueError:
        raise PickleError("a text with a wrong escape") from None


def _int_line(machine: Machine) -> object:
    line = machine.small_line()
    return {b"00": False, b"01": True}[line] if line in (b"00", b"01") else _parsed(int, line)


def _parsed(kind: Callable[[bytes], object], line: bytes) -> object:
    try:
        return kind(line)
    except ValueError:
        raise PickleError(f"a number that is none: {line[:20]!r}") from None


def _index(machine: Machine) -> int:
    index = _parsed(int, machine.small_line())
    assert isinstance(index, int)
    return index


def _signed(machine: Machine, layout: struct.Struct) -> int:
    size = machine.number(layout)
    if size < 0:
        raise PickleError(f"a number of {size} bytes")
    return int.from_bytes(machine.view(size), "little", signed=True)


def _put_new(machine: Machine) -> None:
    machine.put(len(machine.memo))


def _pop_any(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _pairs_to_dict(machine: Machine) -> None:
    items = machine.pop_mark()
    made: dict[object, object] = {}
    machine.add_pairs(made, items)
    machine.push(made)


def _one_pair(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.add_pairs(machine.top(), [key, value])


def _one_item(machine: Machine) -> None:
    item = machine.pop()
    machine.add_items(machine.top(), [item])


def _many_pairs(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.add_pairs(machine.top(), items)


def _many_items(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.add_items(machine.top(), items)


def _frozen(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.push(frozenset(machine.key(item) for item in items))


def _new_object(machine: Machine) -> None:
    args, target = machine.pop(), machine.pop()
    machine.push(machine.call(target, args))


_U1, _U2, _I4, _U4, _U8 = (struct.Struct(code) for code in ("<B", "<H", "<i", "<I", "<Q"))
_DOUBLE = struct.Struct(">d")
_STOP = ord(".")

#: opcode -> what it does; the names are in the comments of CPython's Lib/pickle.py.
OPCODES: Mapping[int, Callable[[Machine], object]] = MappingProxyType(
    {
        # stack
        ord("("): Machine.mark,
        ord("0"): _pop_any,
        ord("1"): Machine.pop_mark,
        ord("2"): lambda m: m.push(m.top()),
        # constants
        ord("N"): lambda m: m.push(None),
        0x88: lambda m: m.push(True),
        0x89: lambda m: m.push(False),
        # numbers
        ord("I"): lambda m: m.push(_int_line(m)),
        ord("L"): lambda m: m.push(_parsed(int, m.small_line().rstrip(b"L"))),
        ord("F"): lambda m: m.push(_parsed(float, m.small_line())),
        ord("J"): lambda m: m.push(m.number(_I4)),
        ord("K"): lambda m: m.push(m.number(_U1)),
        ord("M"): lambda m: m.push(m.number(_U2)),
        ord("G"): lambda m: m.push(m.number(_DOUBLE)),
        0x8A: lambda m: m.push(_signed(m, _U1)),
        0x8B: lambda m: m.push(_signed(m, _I4)),
        # text and bytes
        ord("S"): lambda m: m.push(_quoted(m)),
        ord("T"): lambda m: m.push(_old_text(m, m.number(_I4))),
        ord("U"): lambda m: m.push(_old_text(m, m.number(_U1))),
        ord("V"): lambda m: m.push(_decoded(m.line(), "raw-unicode-escape")),
        ord("X"): lambda m: m.push(m.text(m.number(_U4))),
        0x8C: lambda m: m.push(m.text(m.number(_U1))),
        0x8D: lambda m: m.push(m.text(m.number(_U8))),
        ord("B"): lambda m: m.push(m.blob(m.number(_U4))),
        ord("C"): lambda m: m.push(m.blob(m.number(_U1))),
        0x8E: lambda m: m.push(m.blob(m.number(_U8))),
        0x96: lambda m: m.push(m.blob(m.number(_U8))),
        # containers
        ord("]"): lambda m: m.new_container(list, 64),
        ord("}"): lambda m: m.new_container(dict, 64),
        0x8F: lambda m: m.new_container(set, 216),
        ord(")"): lambda m: m.push(()),
        ord("l"): lambda m: m.push(m.pop_mark()),
        ord("t"): lambda m: m.push(tuple(m.pop_mark())),
        0x85: lambda m: m.take_tuple(1),
        0x86: lambda m: m.take_tuple(2),
        0x87: lambda m: m.take_tuple(3),
        ord("d"): _pairs_to_dict,
        0x91: _frozen,
        ord("a"): _one_item,
        ord("e"): _many_items,
        0x90: _many_items,
        ord("s"): _one_pair,
        ord("u"): _many_pairs,
        # memo
        ord("p"): lambda m: m.put(_index(m)),
        ord("q"): lambda m: m.put(m.number(_U1)),
        ord("r"): lambda m: m.put(m.number(_U4)),
        0x94: _put_new,
        ord("g"): lambda m: m.get(_index(m)),
        ord("h"): lambda m: m.get(m.number(_U1)),
        ord("j"): lambda m: m.get(m.number(_U4)),
        # globals and calls
        ord("c"): lambda m: m.push(m.find(*_two_lines(m))),
        0x93: Machine.stack_global,
        ord("R"): Machine.reduce,
        0x81: _new_object,
        0x92: Machine.new_object,
        ord("o"): Machine.old_object,
        ord("i"): Machine.old_instance,
        ord("b"): Machine.build,
        ord("P"): lambda m: m.resolve(_decoded(m.line(), "utf-8")),
        ord("Q"): lambda m: m.resolve(m.pop()),
        # framing
        0x80: lambda m: m.number(_U1),
        0x95: lambda m: m.number(_U8),
    }
)
