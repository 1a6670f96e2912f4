"""The state of the pickle machine (stack, memo, position) and the operations that opcodes are made of.

Lengths are checked before anything is allocated, the memo is a dict, keys of dicts are simple, and every object that
is made is paid for by the budget of the file. The opcodes themselves are in `opcodes`.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from converter.errors import FormatError
from converter.formats.io.budget import Loan
from converter.formats.io.source import Parsed
from converter.formats.pickle.inert import InertClass
from converter.formats.pickle.values import (
    Global,
    Opaque,
    Ordered,
    PickleError,
    Shell,
    UnsafePickleError,
    has_simple_hash,
    is_small_key,
)

#: Longer bytes are views of the data.
VIEW_FROM = 4096
#: Bytes of a file that are read at a time.
WINDOW = 1 << 15
#: `passed` is called after every PASSED_EVERY byte strings of at least LARGE bytes.
LARGE, PASSED_EVERY = 1 << 20, 5
#: The budget is charged in steps of so many bytes: a lock for each object would double the time.
STEP = 1 << 20
#: Keys whose hash an attacker can choose (tuples of numbers) make a dict slow: no more than these in a pickle.
MAX_ODD_KEYS = 4096
MAX_TEXT_NUMBER = 1000  # digits of a number written as text
MAX_NUMBER = 1024  # bytes of another; Python writes no number of more than 4300 digits
#: Bytes of memory: what CPython 3.10 to 3.13 takes for each, rounded up. An entry of a dict or set may take most just
#: after it has grown; the first one makes its table.
SLOT, MEMO, MARK, NUMBER = 9, 100, 120, 40
LIST, DICT, SET, TUPLE, TEXT = 80, 80, 232, 56, 64
FIRST_ITEM, FIRST_ENTRY, ENTRY = 40, 168, 104
INSTANCE, ARRAY, GLOBAL = 300, 450, 500
#: A result of a call is paid for when it is there; one of an argument with more items than these, before.
MANY = 1000


class Machine:
    """One run over one pickle. The stack is a list; at a MARK it is put aside and a new one begun."""

    def __init__(
        self,
        data: memoryview | Parsed,
        known: Mapping[str, Callable[..., object] | None],
        persistent: Callable[[object], object] | None,
        unknown: Callable[[str], Callable[..., object] | None] | None,
        loan: Loan,
        passed: Callable[[], None] | None = None,
    ) -> None:
        self.parsed = data if isinstance(data, Parsed) else None
        self.size = len(data)
        #: The bytes around the position, which begin at ``base``: of a file some, of what is in memory all.
        self.window = memoryview(b"") if isinstance(data, Parsed) else data.toreadonly()
        self.base = 0
        self.loan = loan
        self.passed = passed
        self.large = 0
        self.known = known
        self.persistent = persistent
        self.unknown = unknown
        self.position = 0
        self.start = 0  # of the opcode, for messages
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.globals: dict[str, Global] = {}
        self.left = 0  # of the memory that was charged already
        self.odd_keys = 0

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

    def pop_mark(self) -> list[Any]:
        if not self.marked:
            raise PickleError("it returns to a mark that was not set")
        items, self.stack = self.stack, self.marked.pop()
        self.left += MARK
        return items

    def charge(self, size: int) -> None:
        """Count memory that the size of the file does not show, before it is taken. Raises FormatError."""
        self.left -= size
        if self.left < 0:
            step = STEP - self.left
            self.loan.charge(step, "the objects of its pickle")
            self.left += step

    def make_sure(self, args: tuple[object, ...]) -> None:
        """Raise FormatError unless there is memory for a copy of each argument of a call."""
        for arg in args:
            each = _EACH.get(type(arg))
            if each and len(arg) > MANY:  # type: ignore[arg-type]
                self.loan.budget.check(each * len(arg), "the objects of its pickle")  # type: ignore[arg-type]

    # -- the data -------------------------------------------------------------------------------------------

    def cover(self, begin: int, size: int) -> None:
        """Have so many bytes in the window, or those up to the end."""
        is_inside = self.base <= begin and min(begin + size, self.size) <= self.base + len(self.window)
        if self.parsed is not None and not is_inside:
            self.base, self.window = begin, self.parsed.take(begin, max(size, WINDOW))

    def view(self, size: int) -> memoryview:
        end = self.position + size
        if end > self.size:
            raise PickleError(f"{size} bytes announced, {self.size - self.position} left")
        self.cover(self.position, size)
        self.position, begin = end, self.position - self.base
        return self.window[begin : begin + size]

    def kept(self, size: int) -> memoryview:
        """As `view`, of data at which nobody looks before its tensor is read."""
        if self.parsed is None or self.position + size > self.size:
            return self.view(size)
        self.position += size
        return self.parsed.view(self.position - size, size)

    def blob(self, size: int) -> bytes | memoryview:
        view = self.kept(size) if size > VIEW_FROM else self.view(size)
        if size >= LARGE and self.passed is not None:
            self.large += 1
            if self.large % PASSED_EVERY == 0:
                self.passed()
        return view if size > VIEW_FROM else view.tobytes()

    def line(self) -> bytes:
        """Up to the next newline, which is taken too."""
        size, chunk = 128, b""
        while self.position + len(chunk) < self.size or not chunk:
            self.cover(self.position, size)
            begin = self.position - self.base
            chunk = self.window[begin : begin + size].tobytes()
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
        self.charge(MEMO)
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
        self.charge(ENTRY * (len(items) // 2) + (0 if target else FIRST_ENTRY))
        for index in range(0, len(items), 2):
            target[self.key(items[index])] = items[index + 1]

    def add_items(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, Opaque):
            target = target.items
        if isinstance(target, set):
            self.charge(ENTRY * len(items))
            target.update(self.key(item) for item in items)
        elif isinstance(target, list):
            self.charge(SLOT * len(items) + (0 if target else FIRST_ITEM))
            target.extend(items)
        else:
            raise PickleError(f"items are appended to a {type(target).__name__}")

    def find(self, module: str, name: str) -> Global:
        full = f"{module} {name}"
        if full not in self.globals:
            self.charge(GLOBAL + 2 * len(full))
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
        self.make_sure(args)
        try:
            result = target.make(*args)
        except (PickleError, FormatError):
            raise
        except Exception as error:  # the arguments are anything the file says
            raise PickleError(f"'{target.name}' with invalid arguments ({type(error).__name__})") from None
        self.charge(_owned(result))
        return result

    def new(self, target: object, args: object) -> object:
        """An instance, by the class itself: of one that is not known nothing but that is known, and nothing is run."""
        if isinstance(target, Global) and isinstance(target.make, InertClass):
            target = Global(target.name, target.make.instance)
        return self.call(target, args)

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, (Opaque, Ordered)):
            target.state = state
        elif isinstance(target, Shell):
            self.make_sure(state if isinstance(state, tuple) else (state,))
            try:
                target.finished = target.finish(state)
            except (PickleError, FormatError):
                raise
            except Exception as error:
                raise PickleError(f"an invalid state ({type(error).__name__})") from None
            self.charge(_owned(target.finished))
            self.stack[-1] = target.finished
        elif not isinstance(target, (dict, list, set)):  # those: attributes beside the items
            raise PickleError(f"a state for a {type(target).__name__}")

    def resolve(self, identity: object) -> object:
        """The object of a persistent id."""
        if self.persistent is None:
            raise PickleError("a persistent id, which such a file does not have")
        self.charge(INSTANCE)
        try:
            return self.persistent(identity)
        except (PickleError, FormatError):
            raise
        except Exception as error:
            raise PickleError(f"an invalid persistent id ({type(error).__name__})") from None

    def new_container(self, make: Callable[[], object], size: int) -> None:
        self.charge(size)
        self.push(make())

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("the name of a global is not text")
        self.push(self.find(module, name))

    def new_object(self) -> None:  # NEWOBJ_EX: one more value, the keyword arguments
        keywords, args, target = self.pop(), self.pop(), self.pop()
        if keywords:
            args = (*args, keywords) if isinstance(args, tuple) else args
        self.push(self.new(target, args))

    def old_object(self) -> None:
        items = self.pop_mark()
        if not items:
            raise PickleError("an instance of nothing")
        self.push(self.call(items[0], tuple(items[1:])))


#: Bytes of a copy, for each item of what is copied.
_EACH: Mapping[type, int] = {
    **dict.fromkeys((list, tuple, dict, set, frozenset), ENTRY),
    bytes: 1,
    memoryview: 1,
    str: 4,
}


def _owned(value: object) -> int:
    """Bytes of memory that this result of a call holds for itself."""
    if isinstance(value, np.ndarray):
        return ARRAY + (value.nbytes if value.dtype.hasobject or value.base is None else 0)
    if isinstance(value, (list, tuple, dict, set, frozenset, str, bytes)):
        return sys.getsizeof(value) + 16
    return INSTANCE


def decoded(raw: bytes, encoding: str) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        raise PickleError(f"text that is not {encoding}") from None
