"""The opcodes of pickles, protocols 0 to 5, as CPython's ``Lib/pickletools.py`` defines them.

A state_dict takes 31 opcodes for each tensor, nearly all of them of the few kinds that `run` executes itself, on
local variables; a call for each would double the time. All others are in a table.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType

from converter.formats.pickle.machine import (
    DICT,
    ENTRY,
    LIST,
    MARK,
    MAX_NUMBER,
    MEMO,
    NUMBER,
    SET,
    SLOT,
    TEXT,
    TUPLE,
    VIEW_FROM,
    Machine,
    decoded,
)
from converter.formats.pickle.values import Opaque, PickleError, Shell

__all__ = ["OPCODES", "run"]


def _text(machine: Machine, size: int) -> str:
    return _paid(machine, decoded(machine.view(size).tobytes(), "utf-8"))


def _paid(machine: Machine, text: str) -> str:
    """Up to four bytes for each character where they are not ASCII."""
    machine.charge(0 if text.isascii() else 4 * len(text))
    return text


def _triple(machine: Machine) -> None:
    third, second, first = machine.pop(), machine.pop(), machine.pop()
    machine.push((first, second, third))


def _two_lines(machine: Machine) -> tuple[str, str]:
    return decoded(machine.line(), "utf-8"), decoded(machine.line(), "utf-8")


def _old_instance(machine: Machine) -> None:
    target = machine.find(*_two_lines(machine))
    machine.push(machine.call(target, tuple(machine.pop_mark())))


def _old_text(machine: Machine, size: int) -> str | memoryview:
    """A str of Python 2: text, or raw bytes; as Latin-1 it can be turned back into both."""
    if size < 0:
        raise PickleError(f"a text of {size} bytes")
    return machine.kept(size) if size > VIEW_FROM else machine.view(size).tobytes().decode("latin-1")


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
        raise PickleError(f"not a number: {line[:20]!r}") from None


def _index(machine: Machine) -> int:
    index = _parsed(int, machine.small_line())
    assert isinstance(index, int)
    return index


def _signed(machine: Machine, layout: struct.Struct) -> object:
    """One that is too long to be written down is kept as a thing without a value."""
    size = machine.number(layout)
    if size < 0:
        raise PickleError(f"a number of {size} bytes")
    view = machine.view(size)
    return Opaque("builtins int") if size > MAX_NUMBER else int.from_bytes(view, "little", signed=True)


def _put_new(machine: Machine) -> None:
    machine.put(len(machine.memo))


def _pop_any(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _pairs_to_dict(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.charge(DICT)
    made: dict[object, object] = {}
    machine.add_pairs(made, items)
    machine.push(made)


def _list(machine: Machine) -> None:
    machine.charge(LIST)
    machine.push(machine.pop_mark())


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
    machine.charge(SET + ENTRY * len(items))
    machine.push(frozenset(machine.key(item) for item in items))


def _new_object(machine: Machine) -> None:
    args, target = machine.pop(), machine.pop()
    machine.push(machine.new(target, args))


_U1, _U2, _I4, _U4, _U8 = (struct.Struct(code) for code in ("<B", "<H", "<i", "<I", "<Q"))
_DOUBLE = struct.Struct(">d")

#: Bytes of the longest opcode of those in `run`.
LONGEST = 9
#: Opcode -> what it does, but for the common ones, which are in `run`.
_RARE: Mapping[int, Callable[[Machine], object]] = MappingProxyType(
    {
        # stack
        ord("0"): _pop_any,
        ord("1"): Machine.pop_mark,
        ord("2"): lambda m: m.push(m.top()),
        # constants
        ord("N"): lambda m: m.push(None),
        0x88: lambda m: m.push(True),
        # numbers
        ord("I"): lambda m: m.push(_int_line(m)),
        ord("L"): lambda m: m.push(_parsed(int, m.small_line().rstrip(b"L"))),
        ord("F"): lambda m: m.push(_parsed(float, m.small_line())),
        0x8A: lambda m: m.push(_signed(m, _U1)),
        0x8B: lambda m: m.push(_signed(m, _I4)),
        # text and bytes
        ord("S"): lambda m: m.push(_quoted(m)),
        ord("X"): lambda m: m.push(_text(m, m.number(_U4))),  # one that goes beyond the window
        ord("T"): lambda m: m.push(_old_text(m, m.number(_I4))),
        ord("U"): lambda m: m.push(_old_text(m, m.number(_U1))),
        ord("V"): lambda m: m.push(_paid(m, decoded(m.line(), "raw-unicode-escape"))),
        0x8C: lambda m: m.push(_text(m, m.number(_U1))),
        0x8D: lambda m: m.push(_text(m, m.number(_U8))),
        ord("B"): lambda m: m.push(m.blob(m.number(_U4))),
        ord("C"): lambda m: m.push(m.blob(m.number(_U1))),
        0x8E: lambda m: m.push(m.blob(m.number(_U8))),
        0x96: lambda m: m.push(m.blob(m.number(_U8))),
        # containers
        ord("]"): lambda m: m.new_container(list, LIST),
        ord("}"): lambda m: m.new_container(dict, DICT),
        0x8F: lambda m: m.new_container(set, SET),
        ord("l"): _list,
        0x87: _triple,
        ord("d"): _pairs_to_dict,
        0x91: _frozen,
        ord("a"): _one_item,
        ord("e"): _many_items,
        0x90: _many_items,
        ord("s"): _one_pair,
        ord("u"): _many_pairs,
        # memo
        ord("p"): lambda m: m.put(_index(m)),
        0x94: _put_new,
        ord("g"): lambda m: m.get(_index(m)),
        ord("j"): lambda m: m.get(m.number(_U4)),
        # globals and calls
        ord("c"): lambda m: m.push(m.find(*_two_lines(m))),
        0x93: Machine.stack_global,
        0x81: _new_object,
        0x92: Machine.new_object,
        ord("o"): Machine.old_object,
        ord("i"): _old_instance,
        ord("b"): Machine.build,
        ord("P"): lambda m: m.push(m.resolve(decoded(m.line(), "utf-8"))),
        # framing
        0x80: lambda m: m.number(_U1),
        0x95: lambda m: m.number(_U8),
    }
)

_BINGET, _BININT, _BININT1, _BININT2, _BINPERSID, _BINPUT, _BINUNICODE, _EMPTY_TUPLE, _LONG_BINPUT = b"hJKMQqX)r"
_BINFLOAT = ord("G")
_MARK, _NEWFALSE, _REDUCE, _STOP, _TUPLE, _TUPLE1, _TUPLE2 = b"(\x89R.t\x85\x86"
_COMMON = frozenset(b"hJKMQqX)rG(\x89R.t\x85\x86")
#: All that there are.
OPCODES = _COMMON.union(_RARE)


def run(machine: Machine) -> object:
    """Execute the pickle up to its STOP; returns the object. Raises PickleError for the opcode at ``machine.start``."""
    try:
        return _run(machine)
    except UnicodeDecodeError:
        raise PickleError("text that is not utf-8") from None
    except (IndexError, struct.error) as error:
        machine.cover(machine.start, 2)
        begin = machine.start - machine.base
        rest = bytes(machine.window[begin : begin + 2])
        if not rest:
            raise PickleError("it ends without a STOP") from None
        if isinstance(error, struct.error) or rest in (b"K", b"h", b"q"):
            raise PickleError("it ends within an opcode") from None
        raise PickleError("it takes a value from an empty stack") from None


def _run(machine: Machine) -> object:  # noqa: PLR0912, PLR0915  # one loop: a call for each opcode is what it saves
    marked, memo, call = machine.marked, machine.memo, machine.call
    stack, position, left = machine.stack, 0, machine.left  # the position is that in the window
    data, base, safe = _window(machine, 0)
    i4, u4, u2, double = (layout.unpack_from for layout in (_I4, _U4, _U2, _DOUBLE))
    rare = _RARE.get
    try:
        while True:
            if left < 0:
                machine.left = left
                machine.charge(0)
                left = machine.left
            if position >= safe:
                start = base + position
                data, base, safe = _window(machine, start)
                position = start - base
            code = data[position]
            if code == _LONG_BINPUT:
                memo[u4(data, position + 1)[0]] = stack[-1]
                left -= MEMO
                position += 5
            elif code == _BININT1:
                stack.append(data[position + 1])
                left -= SLOT
                position += 2
            elif code == _BINGET:
                index = data[position + 1]
                if index not in memo or isinstance(memo[index], Shell):
                    machine.stack = stack
                    machine.get(index)
                else:
                    stack.append(memo[index])
                left -= SLOT
                position += 2
            elif code == _MARK:
                marked.append(stack)
                stack = []
                left -= MARK
                position += 1
            elif code == _BINUNICODE and (end := position + 5 + u4(data, position + 1)[0]) <= len(data):
                text = str(data[position + 5 : end], "utf-8")
                stack.append(text)
                left -= TEXT if text.isascii() else TEXT + 4 * len(text)
                position = end
            elif code == _TUPLE:
                items = tuple(stack)
                stack = marked.pop() if marked else machine.pop_mark()
                stack.append(items)
                left += MARK - TUPLE - SLOT  # the slots of the items become those of the tuple
                position += 1
            elif code == _REDUCE:
                args, target = stack.pop(), stack.pop()
                machine.left = left
                stack.append(call(target, args))
                left = machine.left
                position += 1
            elif code == _BINPERSID:
                machine.left = left
                stack.append(machine.resolve(stack.pop()))
                left = machine.left
                position += 1
            elif code == _TUPLE1:
                stack[-1] = (stack[-1],)
                left -= TUPLE + SLOT
                position += 1
            elif code == _TUPLE2:
                second = stack.pop()
                stack[-1] = (stack[-1], second)
                left -= TUPLE + SLOT
                position += 1
            elif code == _NEWFALSE:
                stack.append(False)
                left -= SLOT
                position += 1
            elif code == _BINFLOAT:
                stack.append(double(data, position + 1)[0])
                left -= NUMBER
                position += 9
            elif code == _EMPTY_TUPLE:
                stack.append(())
                left -= SLOT
                position += 1
            elif code == _BININT2:
                stack.append(u2(data, position + 1)[0])
                left -= NUMBER
                position += 3
            elif code == _BININT:
                stack.append(i4(data, position + 1)[0])
                left -= NUMBER
                position += 5
            elif code == _BINPUT:
                memo[data[position + 1]] = stack[-1]
                left -= MEMO
                position += 2
            elif code == _STOP:
                machine.position = base + position + 1
                return stack.pop()
            else:
                action = rare(code)
                if action is None:
                    raise PickleError(f"there is no opcode {code:#04x}")
                machine.stack, machine.position, machine.left = stack, base + position + 1, left - TEXT
                action(machine)
                stack, left = machine.stack, machine.left
                if machine.window is not data:
                    data, base, safe = _window(machine, machine.position)
                position = machine.position - base
    finally:
        machine.stack, machine.left = stack, left
        machine.start = base + position


def _window(machine: Machine, begin: int) -> tuple[memoryview, int, int]:
    """The window with the next opcode, what it begins at, and from where on opcodes in it may go beyond its end."""
    machine.cover(begin, LONGEST)
    is_last = machine.base + len(machine.window) >= machine.size
    return machine.window, machine.base, machine.size + 1 if is_last else len(machine.window) - LONGEST
