"""Nested dicts, lists and tuples as names and leaves: ``{"a": [x, y]}`` is ``a/0``, ``a/1``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np

from converter.core.contents import LeftOut
from converter.errors import FormatError
from converter.formats.io.budget import Budget, Loan

__all__ = ["Child", "Children", "Flat", "NamedValue", "Search", "flatten", "plain_children"]

MAX_DEPTH = 100
#: Shared containers can be reached by many names; no real file has so many.
MAX_ENTRIES = 1_000_000
MAX_NAME_CHARACTERS = 256 << 20
#: So many things of one container that are not kept are told one by one.
MAX_LINES = 1000
#: Bytes that a name takes beside its characters, and for each level; names are charged when these are so many.
_NAME, _LEVEL, _STEP = 250, 8, 1 << 20

#: (separator, key, value) of one thing inside a container; the separator is "/", or "." for an attribute.
Child: TypeAlias = tuple[str, str, object]
#: What is inside of a container; None for a leaf.
Children: TypeAlias = Callable[[object], Iterable[Child] | None]


class NamedValue(msgspec.Struct, frozen=True, gc=False):
    """A leaf and its path. `parts` are the keys, each after its separator."""

    parts: tuple[str, ...]
    value: object

    @property
    def name(self) -> str:
        """The joined name; a leaf that stands alone is called "0"."""
        return "".join(self.parts)[1:] if self.parts else "0"


class Flat(msgspec.Struct, frozen=True):
    """The leaves that were asked for, and one line for what else there is, at the highest level that holds none."""

    kept: list[NamedValue]
    left_out: tuple[LeftOut, ...]


def plain_children(value: object) -> Iterable[Child] | None:
    """What a dict, list, tuple or array of objects holds; None for a leaf."""
    if isinstance(value, dict):
        return (("/", _key_name(key), item) for key, item in value.items())
    if isinstance(value, np.ndarray) and value.dtype == object:
        return _items(value.ravel().tolist()) if value.ndim else plain_children(value.item()) or _items([value.item()])
    if isinstance(value, (list, tuple)):
        return _items(value)
    return None


class Search:
    """Which containers hold a leaf of the kind that is looked for. Each is walked once, by however many names it is
    reached, as long as the search lives."""

    def __init__(self, children: Children, wanted: Callable[[object], bool]) -> None:
        self._children, self._wanted = children, wanted
        self._known: dict[int, bool] = {}

    def is_leaf(self, value: object) -> bool:
        return self._children(value) is None

    def holds(self, value: object) -> bool:
        """Whether such a leaf is anywhere inside, or is the value itself."""
        if self._wanted(value) or id(value) in self._known:
            return self._known.get(id(value), True)
        depths: dict[int, int] = {}  # of what is open
        walked: list[int] = []
        path: list[_Open] = []

        def down(item: object) -> None:
            inside = self._children(item)
            if inside is not None:
                path.append(_Open(id(item), iter(inside), len(walked), len(path)))
                depths[id(item)] = len(path) - 1
                walked.append(id(item))

        down(value)
        while path:
            here = path[-1]
            child = next(here.items, None)
            if child is None:
                path.pop()
                if here.lowest >= len(path):  # nothing in it leads above it: all of it is known now
                    self._known |= dict.fromkeys(walked[here.first :], False)
                    del walked[here.first :]
                else:
                    path[-1].lowest = min(path[-1].lowest, here.lowest)
                    depths[here.key] = here.lowest
                continue
            item = child[2]
            if self._wanted(item) or self._known.get(id(item), False):
                self._known |= dict.fromkeys((level.key for level in path), True)
                return True
            if id(item) in self._known:
                continue
            if id(item) in depths:
                here.lowest = min(here.lowest, depths[id(item)])
            else:
                down(item)
        return False


class _Open(msgspec.Struct):
    """A container that a search is in. first: where it is among those walked; lowest: the depth that it leads to."""

    key: int
    items: Iterator[Child]
    first: int
    lowest: int


class _Level(msgspec.Struct):
    """A container on the way down. lines: what in it is not kept: order, key, value; `_BARREN` for a container."""

    key: int
    parts: tuple[str, ...]
    order: int
    items: Iterator[Child]
    lines: list[tuple[int, str, object]]
    surplus: int = 0
    kept: bool = False
    #: the least depth of what was passed over in it, because the way there leads through that
    lowest: int = MAX_DEPTH

    def note(self, order: int, key: str, value: object) -> None:
        if len(self.lines) < MAX_LINES:
            self.lines.append((order, key, value))
        else:
            self.surplus += 1


_BARREN = object()
#: What is never wanted and holds nothing.
_SIMPLE = frozenset({bool, int, float, str, bytes, type(None)})


def flatten(
    value: object,
    path: Path,
    children: Children = plain_children,
    wanted: Callable[[object], bool] = lambda value: isinstance(value, np.ndarray) and value.dtype != object,
    reason: Callable[[object], str] = repr,
    loan: Loan | None = None,
) -> Flat:
    """The leaves in the order of the containers. A container that holds itself ends there.

    wanted: which leaves are kept; never numbers and texts of Python.
    reason: why another one is left out; a whole container is said to hold no weights.
    loan: what pays for the names. What holds nothing that is wanted is walked once, however often it is shared.
    Raises FormatError for nesting, sharing or names beyond reason.
    """
    inside = None if wanted(value) else children(value)
    if inside is None:
        lone = NamedValue((), value)
        return Flat([lone], ()) if wanted(value) else Flat([], (LeftOut(lone.name, reason(value)),))
    walk = _Walk(path, children, wanted, loan or Loan(Budget(path)))
    walk.down(id(value), (), 0, inside)
    while walk.levels:
        walk.step()
    lines = [(order, LeftOut(name, _told(what, reason))) for order, name, what in walk.lines]
    return Flat(walk.kept, tuple(line for _, line in sorted(lines, key=lambda line: line[0])))


def _told(what: object, reason: Callable[[object], str]) -> str:
    if isinstance(what, _Surplus):
        return f"and {what.count} more that are not weights"
    return "holds no weights" if what is _BARREN else reason(what)


class _Surplus(msgspec.Struct, frozen=True):
    count: int


class _Walk:
    """One walk through all containers, with a stack of its own: a file may nest deeper than Python."""

    def __init__(self, path: Path, children: Children, wanted: Callable[[object], bool], loan: Loan) -> None:
        self._path, self._children, self._wanted, self._loan = path, children, wanted, loan
        self.levels: list[_Level] = []
        self.kept: list[NamedValue] = []
        self.lines: list[tuple[int, str, object]] = []
        self._open: dict[int, int] = {}  # depth of each container that the walk is in
        self._barren: dict[int, bool] = {}  # whether there is anything in it
        self._entries = self._characters = self._cost = 0

    def down(self, key: int, parts: tuple[str, ...], order: int, inside: Iterable[Child]) -> None:
        if len(self.levels) >= MAX_DEPTH:
            where = "".join(parts)[1:60]
            raise FormatError(self._path, f"containers nested deeper than {MAX_DEPTH} levels, at '{where}'")
        self._open[key] = len(self.levels)
        self.levels.append(_Level(key, parts, order, iter(inside), []))

    def step(self) -> None:
        """Go on in the innermost container, up to its end or down into the next one."""
        level = self.levels[-1]
        depth = len(self.levels)
        for separator, key, item in level.items:
            self._entries += 1
            if self._entries > MAX_ENTRIES:
                self._refuse()
            if type(item) in _SIMPLE:
                level.note(self._entries, separator + key, item)
            elif id(item) in self._open:
                level.lowest = min(level.lowest, self._open[id(item)])
            elif self._wanted(item):
                level.kept = True
                self.kept.append(NamedValue((*level.parts, separator + key), item))
                self._charge(self.kept[-1].parts)
            else:
                self._beside(level, separator + key, item)
                if len(self.levels) > depth:
                    return
        self._up()

    def _beside(self, level: _Level, key: str, item: object) -> None:
        """Something that is not wanted, or a container."""
        filled = self._barren.get(id(item))
        if filled is None:
            inside = self._children(item)
            if inside is None:
                level.note(self._entries, key, item)
            else:
                self.down(id(item), (*level.parts, key), self._entries, inside)
        elif filled:
            level.note(self._entries, key, _BARREN)

    def _up(self) -> None:
        level = self.levels.pop()
        del self._open[level.key]
        above = self.levels[-1] if self.levels else None
        if level.kept or above is None:
            for order, key, what in level.lines:
                self._line(order, (*level.parts, key), what)
            if level.surplus:
                self._line(self._entries, (*level.parts, "/..."), _Surplus(level.surplus))
        elif level.lines:
            above.note(level.order, level.parts[-1], _BARREN)
        if above is None:
            return
        above.kept |= level.kept
        if level.lowest < len(self.levels):
            above.lowest = min(above.lowest, level.lowest)
        elif not level.kept:
            self._barren[level.key] = bool(level.lines)

    def _line(self, order: int, parts: tuple[str, ...], what: object) -> None:
        self.lines.append((order, NamedValue(parts, None).name, what))
        self._charge(parts)

    def _charge(self, parts: tuple[str, ...]) -> None:
        characters = sum(map(len, parts))
        self._characters += characters
        self._cost += _NAME + characters + _LEVEL * len(parts)
        if self._characters > MAX_NAME_CHARACTERS:
            self._refuse()
        if self._cost > _STEP:
            self._loan.charge(self._cost, "the names of what it holds")
            self._cost = 0

    def _refuse(self) -> None:
        raise FormatError(self._path, "its containers hold each other in so many ways that their names have no end")


def _items(values: Iterable[object]) -> Iterator[Child]:
    return (("/", str(index), value) for index, value in enumerate(values))


def _key_name(key: object) -> str:
    if isinstance(key, bytes):
        return key.decode("latin-1")
    return key if isinstance(key, str) else str(key)
