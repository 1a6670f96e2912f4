"""Nested dicts, lists and tuples as names and leaves: ``{"a": [x, y]}`` is ``a/0``, ``a/1``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np

from converter.core.contents import LeftOut
from converter.errors import FormatError

__all__ = ["Child", "NamedValue", "flatten", "left_out", "plain_children"]

MAX_DEPTH = 100
#: Shared containers can be reached by many names; no real file has so many.
MAX_ENTRIES = 1_000_000
MAX_NAME_CHARACTERS = 256 << 20

#: (separator, key, value) of one thing inside a container; the separator is "/", or "." for an attribute.
Child: TypeAlias = tuple[str, str, object]


class NamedValue(msgspec.Struct, frozen=True, gc=False):
    """A leaf and its path. `parts` are the keys, each after its separator."""

    parts: tuple[str, ...]
    value: object

    @property
    def name(self) -> str:
        """The joined name; a leaf that stands alone is called "0"."""
        return "".join(self.parts)[1:] if self.parts else "0"


def plain_children(value: object) -> Iterable[Child] | None:
    """What a dict, list, tuple or array of objects holds; None for a leaf."""
    if isinstance(value, dict):
        return (("/", _key_name(key), item) for key, item in value.items())
    if isinstance(value, np.ndarray) and value.dtype == object:
        return _items(value.ravel().tolist()) if value.ndim else plain_children(value.item()) or _items([value.item()])
    if isinstance(value, (list, tuple)):
        return _items(value)
    return None


def flatten(
    value: object,
    path: Path,
    children: Callable[[object], Iterable[Child] | None] = plain_children,
) -> Iterator[NamedValue]:
    """The leaves in the order of the containers. A container that holds itself ends there.

    children: what is inside of a container; None for a leaf.
    Raises FormatError for nesting, sharing or names beyond reason.
    """
    entries = characters = 0
    inside = children(value)
    if inside is None:
        yield NamedValue((), value)
        return
    open_ids = [id(value)]
    seen = {id(value)}
    pending: list[tuple[tuple[str, ...], int, Iterator[Child]]] = [((), 0, iter(inside))]
    while pending:
        parts, length, items = pending[-1]
        child = next(items, None)
        if child is None:
            pending.pop()
            seen.discard(open_ids.pop())
            continue
        separator, key, item = child
        entries += 1
        longer = length + len(key) + 1
        characters += longer
        if entries > MAX_ENTRIES or characters > MAX_NAME_CHARACTERS:
            raise FormatError(path, "its containers hold each other in so many ways that their names have no end")
        here = (*parts, separator + key)
        inside = None if id(item) in seen else children(item)
        if inside is None:
            if id(item) not in seen:
                yield NamedValue(here, item)
            continue
        if len(pending) >= MAX_DEPTH:
            raise FormatError(path, f"containers nested deeper than {MAX_DEPTH} levels, at '{''.join(parts)[1:60]}'")
        pending.append((here, longer, iter(inside)))
        open_ids.append(id(item))
        seen.add(id(item))


def left_out(
    entries: Sequence[NamedValue], kept: Sequence[NamedValue], reason: Callable[[object], str]
) -> tuple[LeftOut, ...]:
    """One line for each thing that holds nothing of what is kept, at the highest level where that is so.

    reason: why a single leaf is left out; a whole container is said to hold no tensors.
    """
    if len(kept) == len(entries):
        return ()
    filled = {entry.parts[:depth] for entry in kept for depth in range(len(entry.parts) + 1)}
    lines: dict[str, str] = {}
    for entry in entries:
        levels = range(min(1, len(entry.parts)), len(entry.parts) + 1)
        depth = next((level for level in levels if entry.parts[:level] not in filled), None)
        if depth is None:
            continue
        name = NamedValue(entry.parts[:depth], None).name
        whole = depth == len(entry.parts)
        lines.setdefault(name, reason(entry.value) if whole else "holds no weights")
    return tuple(LeftOut(name, why) for name, why in lines.items())


def _items(values: Iterable[object]) -> Iterator[Child]:
    return (("/", str(index), value) for index, value in enumerate(values))


def _key_name(key: object) -> str:
    if isinstance(key, bytes):
        return key.decode("latin-1")
    return key if isinstance(key, str) else str(key)
