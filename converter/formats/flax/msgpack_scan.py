"""The headers of a msgpack file, walked one by one; what they announce is skipped, not read.

Format: the msgpack specification (``spec.md`` of msgpack/msgpack). The ``msgpack`` package copies every
byte it passes; this scan reads a few bytes around each header, so a file of any size is listed at once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

from converter.errors import FormatError
from converter.formats.io.source import Source
from converter.formats.pickle.nested import MAX_DEPTH

__all__ = ["Cursor", "Kind", "MsgpackValue", "Scan"]

Kind: TypeAlias = Literal["nil", "bool", "int", "float", "str", "bin", "ext", "array", "map"]

WINDOW = 512
AHEAD = 128
MAX_KEY = 4096
#: kind, size of the number after the first byte, its struct code, the value where there is no such number.
_Head: TypeAlias = "tuple[Kind, int, str, object]"


def _head_table() -> Mapping[int, _Head]:
    table: dict[int, _Head] = {0xC0: ("nil", 0, "", None), 0xC2: ("bool", 0, "", False), 0xC3: ("bool", 0, "", True)}
    table |= {byte: ("int", 0, "", byte) for byte in range(0x80)}
    table |= {byte: ("int", 0, "", byte - 256) for byte in range(0xE0, 0x100)}
    table |= {0x80 + n: ("map", 0, "", n) for n in range(16)}
    table |= {0x90 + n: ("array", 0, "", n) for n in range(16)}
    table |= {0xA0 + n: ("str", 0, "", n) for n in range(32)}
    table |= {0xD4 + n: ("ext", 0, "", 1 << n) for n in range(5)}
    numbers: tuple[tuple[int, Kind, str], ...] = (
        (0xC4, "bin", "BHI"),
        (0xC7, "ext", "BHI"),
        (0xCA, "float", "fd"),
        (0xCC, "int", "BHIQ"),
        (0xD0, "int", "bhiq"),
        (0xD9, "str", "BHI"),
        (0xDC, "array", "HI"),
        (0xDE, "map", "HI"),
    )
    for first, kind, codes in numbers:
        table |= {first + n: (kind, struct.calcsize(">" + code), ">" + code, 0) for n, code in enumerate(codes)}
    return table


_HEADS = _head_table()


class MsgpackValue(NamedTuple):
    """A value other than a filled container, where its payload starts, and what its header says.

    value: of a number, bool or nil; of a text, binary or extension the length of its payload; of a
        container (an empty one) 0. code: the type of an extension. ahead: the first bytes of an
        extension's payload. keys: those of the name, where one of them contains a slash.
    """

    name: str
    kind: Kind
    value: object
    start: int
    code: int = 0
    ahead: bytes = b""
    keys: tuple[str, ...] = ()


class Cursor:
    """A position in the file that moves over headers; every read is checked against the file's end."""

    def __init__(self, source: Source, position: int = 0, end: int | None = None, data: bytes = b"") -> None:
        self.source = source
        self.position = position
        self.end = source.size if end is None else end
        self._base = position
        self._data = data  # what stands at `position`, as far as it was read already

    def take(self, length: int, what: str) -> bytes:
        at = self.position - self._base
        if at < 0 or at + length > len(self._data):
            self._base, at = self.position, 0
            self.check(length, what)
            self._data = self.source.take(self.position, min(max(length, WINDOW), self.end - self.position), what)
        self.position += length
        return self._data[at : at + length]

    def check(self, length: int, what: str) -> None:
        if self.position + length > self.end:
            needed = f"{what} needs bytes {self.position} to {self.position + length}"
            raise FormatError(self.source.path, f"{needed}, but it ends at {self.end}: the file is cut or damaged")

    def skip(self, length: int, what: str) -> None:
        self.check(length, what)
        self.position += length

    def read_ahead(self, length: int) -> bytes:
        """The first of the bytes that stand here, which are not passed by."""
        ahead = self.take(min(length, AHEAD, max(0, self.end - self.position)), "a payload")
        self.position -= len(ahead)
        return ahead

    def head(self) -> tuple[Kind, object, int]:
        """Kind, value (or length, or count) and extension type of what starts here. Moves after the header."""
        first = self.take(1, "the next value")[0]
        head = _HEADS.get(first)
        if head is None:
            raise FormatError(
                self.source.path, f"byte {self.position - 1} is {first:#x}, which starts no msgpack value"
            )
        kind, width, code, value = head
        if width:
            (value,) = struct.unpack(code, self.take(width, "the header of a value"))
        return kind, value, self.take(1, "the type of an extension")[0] if kind == "ext" else 0

    def size(self, *kinds: Kind) -> int:
        """The length or count of the next value, which must be of one of these kinds."""
        at = self.position
        kind, value, _ = self.head()
        if kind not in kinds or not isinstance(value, int):
            raise FormatError(self.source.path, f"at byte {at} is a msgpack {kind}, expected {' or '.join(kinds)}")
        return value


class Scan:
    """All leaves of a file in its order, by name: keys joined with ``/``, items of arrays by their index.

    kind: of the value at the top, known once iteration has begun.
    Raises FormatError while it is iterated.
    """

    kind: Kind = "nil"

    def __init__(self, source: Source) -> None:
        self._source = source

    def __iter__(self) -> Iterator[MsgpackValue]:
        cursor = Cursor(self._source)
        yield from self._leaves(cursor)
        if cursor.position != cursor.end:
            extra = cursor.end - cursor.position
            raise FormatError(self._source.path, f"{extra} bytes follow the value that ends at {cursor.position}")

    def _leaves(self, cursor: Cursor) -> Iterator[MsgpackValue]:
        """One open container is (the prefix of its names, their keys where one has a slash, is it a map, its count, the
        next index)."""
        leaf = _next(cursor, "0")
        self.kind = leaf.kind
        if not _is_filled(leaf):
            yield leaf
            return
        pending = [_opened(cursor, leaf, "", ())]
        budget = self._source.budget
        while pending:
            prefix, keys, is_map, count, index = pending.pop()
            if index == count:
                continue
            pending.append((prefix, keys, is_map, count, index + 1))
            key = _key(cursor) if is_map else str(index)
            name = prefix + key
            if keys or "/" in key:
                keys = (*(keys or prefix.split("/")[:-1]), key)
            budget.charge_name(name)
            leaf = _next(cursor, name, keys)
            if not _is_filled(leaf):
                yield leaf
                continue
            if len(pending) >= MAX_DEPTH:
                problem = f"containers nested deeper than {MAX_DEPTH} levels, at '{name[:60]}'"
                raise FormatError(self._source.path, problem)
            pending.append(_opened(cursor, leaf, name + "/", keys))


def _next(cursor: Cursor, name: str, keys: tuple[str, ...] = ()) -> MsgpackValue:
    """The value that starts here; the cursor moves after it or, for a container, into it."""
    kind, value, code = cursor.head()
    start, ahead = cursor.position, b""
    if kind in ("str", "bin", "ext"):
        assert isinstance(value, int)
        ahead = cursor.read_ahead(value) if kind == "ext" else b""
        cursor.skip(value, f"'{name[:60]}'")
    return MsgpackValue(name, kind, value, start, code, ahead, keys)


def _is_filled(leaf: MsgpackValue) -> bool:
    return leaf.kind in ("array", "map") and leaf.value != 0


def _opened(
    cursor: Cursor, leaf: MsgpackValue, prefix: str, keys: tuple[str, ...]
) -> tuple[str, tuple[str, ...], bool, int, int]:
    assert isinstance(leaf.value, int)
    is_map = leaf.kind == "map"
    cursor.check(leaf.value * (2 if is_map else 1), f"the {leaf.value} items of a container")
    return prefix, keys, is_map, leaf.value, 0


def _key(cursor: Cursor) -> str:
    """A text; or a whole number, as a Python dict may have it."""
    at = cursor.position
    kind, value, _ = cursor.head()
    if kind == "int":
        return str(value)
    if kind != "str" or not isinstance(value, int) or value > MAX_KEY:
        raise FormatError(cursor.source.path, f"at byte {at} there is a {kind} ({value}), expected a key")
    try:
        return cursor.take(value, "a key").decode()
    except UnicodeDecodeError:
        raise FormatError(cursor.source.path, f"the key at byte {at} is not UTF-8 text") from None
