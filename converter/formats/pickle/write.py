"""Pickles written by hand: the opcodes of plain values, in protocol 2, which `load` reads and every Python loads."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

__all__ = ["class_of", "mapping", "number", "numbers", "plain", "text"]


def class_of(module: str, name: str) -> bytes:
    """A global."""
    return f"c{module}\n{name}\n".encode()


def mapping(items: Iterable[tuple[str, bytes]]) -> bytes:
    """A dict of values that are written already."""
    return b"}(" + b"".join(text(name) + value for name, value in items) + b"u"


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    if 0 <= value < 0x100:
        return b"K" + struct.pack("<B", value)
    small = -(1 << 31) <= value < 1 << 31
    return b"J" + struct.pack("<i", value) if small else b"\x8a\x08" + struct.pack("<q", value)


def numbers(values: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def plain(value: object, leaf: Callable[[object], bytes | None] = lambda value: None) -> bytes:
    """Nested dicts, lists, tuples, numbers, texts and None. leaf: writes what is none of these; None: it is one."""
    if (own := leaf(value)) is not None:
        return own
    match value:
        case dict():
            return b"}(" + b"".join(plain(key, leaf) + plain(item, leaf) for key, item in value.items()) + b"u"
        case list():
            return b"](" + b"".join(plain(item, leaf) for item in value) + b"e"
        case tuple():
            return b"(" + b"".join(plain(item, leaf) for item in value) + b"t"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return number(value)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return text(value)
    assert value is None, value
    return b"N"
