"""The opcodes of pickles, protocols 0 to 5, as CPython's ``Lib/pickletools.py`` defines them."""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType

from converter.formats.pickle.machine import VIEW_FROM, Machine, decoded
from converter.formats.pickle.values import PickleError

__all__ = ["OPCODES"]


def _two_lines(machine: Machine) -> tuple[str, str]:
    return decoded(machine.line(), "utf-8"), decoded(machine.line(), "utf-8")


def _old_instance(machine: Machine) -> None:
    target = machine.find(*_two_lines(machine))
    machine.push(machine.call(target, tuple(machine.pop_mark())))


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
        ord("V"): lambda m: m.push(decoded(m.line(), "raw-unicode-escape")),
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
        ord("i"): _old_instance,
        ord("b"): Machine.build,
        ord("P"): lambda m: m.resolve(decoded(m.line(), "utf-8")),
        ord("Q"): lambda m: m.resolve(m.pop()),
        # framing
        0x80: lambda m: m.number(_U1),
        0x95: lambda m: m.number(_U8),
    }
)
