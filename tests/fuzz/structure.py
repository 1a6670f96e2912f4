"""Changes of the structure of a file, as values: items doubled, dropped, swapped, copied elsewhere, renamed, nested."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache

from hypothesis import strategies as st

from tests.fuzz.grammars import Tree, made, tree_of

__all__ = ["Change", "changed", "changes", "has_structure"]

#: What stands for a value that nobody expects.
NUMBERS = (0, 1, -1, 2, 255, 1 << 16, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, (1 << 64) - 1)
TEXTS = ("", ".", "..", "/", "../up", "a" * 300, "\0", "\x1b[31m", "weight", "F32", "<f4", "|O", "dtype", "shape")
MOST_LEVELS = 70


@dataclass(frozen=True)
class Change:
    """kind: of `KINDS`. at, other: two places in the tree, counted from its start; beyond its end from there again."""

    kind: str
    at: int
    other: int


@dataclass
class _Place:
    parent: list[Tree]
    index: int

    @property
    def value(self) -> Tree:
        return self.parent[self.index]

    @value.setter
    def value(self, tree: Tree) -> None:
        self.parent[self.index] = tree


def changes() -> st.SearchStrategy[Change]:
    places = st.integers(0, 1 << 16)
    return st.builds(Change, st.sampled_from(list(KINDS)), places, places)


def has_structure(data: bytes) -> bool:
    return isinstance(_tree(data), list)


def changed(data: bytes, several: Sequence[Change]) -> bytes:
    """The file with these changes; those that leave nothing that could be written are passed over."""
    for change in several:
        tree = deepcopy(_tree(data))
        places = list(_places(tree)) if isinstance(tree, list) else []
        if not places:
            return data
        KINDS[change.kind](places[change.at % len(places)], places[change.other % len(places)], change.other)
        try:
            data = made(tree)
        except Exception:  # what makes it takes only what fits
            continue
    return data


@lru_cache(maxsize=256)
def _tree(data: bytes) -> Tree:
    return tree_of(data)


def _places(tree: list[Tree]) -> Iterator[_Place]:
    """Of all parts below it, each after what it is in. The first item of a tree says what it is, and stays."""
    for index in range(1, len(tree)):
        yield _Place(tree, index)
        if isinstance(tree[index], list):
            yield from _places(tree[index])


def _double(at: _Place, other: _Place, number: int) -> None:
    at.parent.insert(at.index, deepcopy(at.value))


def _drop(at: _Place, other: _Place, number: int) -> None:
    del at.parent[at.index]


def _swap(at: _Place, other: _Place, number: int) -> None:
    at.value, other.value = deepcopy(other.value), deepcopy(at.value)


def _copy(at: _Place, other: _Place, number: int) -> None:
    at.value = deepcopy(other.value)


def _insert(at: _Place, other: _Place, number: int) -> None:
    at.parent.insert(at.index, deepcopy(other.value))


def _nest(at: _Place, other: _Place, number: int) -> None:
    tag = at.parent[0]
    for _ in range(1 + number % MOST_LEVELS):
        at.value = [tag, at.value]


def _value(at: _Place, other: _Place, number: int) -> None:
    """Another value of the same sort, or, of a tree, nothing in it."""
    text = TEXTS[number % len(TEXTS)]
    if isinstance(at.value, list):
        at.value = at.value[:1]
    elif isinstance(at.value, str):
        at.value = text
    else:
        at.value = text.encode() if isinstance(at.value, bytes) else NUMBERS[number % len(NUMBERS)]


KINDS: dict[str, Callable[[_Place, _Place, int], None]] = {
    "double": _double,
    "drop": _drop,
    "swap": _swap,
    "copy": _copy,
    "insert": _insert,
    "nest": _nest,
    "value": _value,
}
