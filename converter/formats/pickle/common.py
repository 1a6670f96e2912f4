"""The opcodes that most of a pickle consists of, in one loop that keeps the state of the machine in local variables.

A state_dict takes 31 opcodes for each tensor, and 12 microseconds here instead of 22 by the table of `pickle_opcodes`,
which says what they mean: whatever is unusual, an error above all, is left to that.
"""

from __future__ import annotations

import struct

from converter.formats.pickle.machine import MARK_COST, MEMO_COST, Machine
from converter.formats.pickle.opcodes import OPCODES
from converter.formats.pickle.values import Shell

__all__ = ["run_common"]

_BINGET, _BININT, _BININT1, _BININT2, _BINPERSID, _BINPUT, _BINUNICODE, _EMPTY_TUPLE, _LONG_BINPUT = b"hJKMQqX)r"
_MARK, _NEWFALSE, _REDUCE, _TUPLE, _TUPLE1, _TUPLE2 = b"(\x89Rt\x85\x86"
#: The bytes of the longest of these opcodes with its number.
_LONGEST = 5
_UNSET = object()
_I4, _U4, _U2 = (struct.Struct(code).unpack_from for code in ("<i", "<I", "<H"))


def run_common(machine: Machine) -> None:  # noqa: PLR0912, PLR0915  # a call for each opcode is what it saves
    """Go on as far as there are such opcodes and nothing is wrong with them."""
    data, marked, memo = machine.data, machine.marked, machine.memo
    stack, position, left = machine.stack, machine.position, machine.left
    size = len(data)
    while position <= size - _LONGEST:
        code = data[position]
        if code == _LONG_BINPUT:
            if not stack or left < MEMO_COST:
                break
            memo[_U4(data, position + 1)[0]] = stack[-1]
            left -= MEMO_COST
            position += 5
        elif code == _BININT1:
            stack.append(data[position + 1])
            position += 2
        elif code == _BINGET:
            value = memo.get(data[position + 1], _UNSET)
            if value is _UNSET or isinstance(value, Shell):
                break
            stack.append(value)
            position += 2
        elif code == _MARK:
            if left < MARK_COST:
                break
            marked.append(stack)
            stack = []
            left -= MARK_COST
            position += 1
        elif code == _BINUNICODE:
            end = position + 5 + _U4(data, position + 1)[0]
            if end > size:
                break
            try:
                stack.append(str(data[position + 5 : end], "utf-8"))
            except UnicodeDecodeError:
                break
            position = end
        elif code == _TUPLE:
            if not marked:
                break
            made = tuple(stack)
            stack = marked.pop()
            stack.append(made)
            position += 1
        elif code in _CALLS:
            if len(stack) < 2:
                break
            machine.stack, machine.start, machine.left = stack, position, left
            _CALLS[code](machine)
            left = machine.left
            position += 1
        elif code == _TUPLE1:
            if not stack:
                break
            stack[-1] = (stack[-1],)
            position += 1
        elif code == _TUPLE2:
            if len(stack) < 2:
                break
            second = stack.pop()
            stack[-1] = (stack[-1], second)
            position += 1
        elif code == _NEWFALSE:
            stack.append(False)
            position += 1
        elif code == _EMPTY_TUPLE:
            stack.append(())
            position += 1
        elif code == _BININT2:
            stack.append(_U2(data, position + 1)[0])
            position += 3
        elif code == _BININT:
            stack.append(_I4(data, position + 1)[0])
            position += 5
        elif code == _BINPUT:
            if not stack or left < MEMO_COST:
                break
            memo[data[position + 1]] = stack[-1]
            left -= MEMO_COST
            position += 2
        else:
            break
    machine.stack, machine.position, machine.left = stack, position, left


_CALLS = {code: OPCODES[code] for code in (_REDUCE, _BINPERSID)}
