"""The modules of two nets, as their names tell them, and which of them belong together: the largest first, each inside
of a pair of modules that belong together already.

A module is all layers whose names begin alike, wherever authors and frameworks put their dots: ``encoder.layer.0`` and
``transformer_layer_0`` are both modules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cached_property
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from converter.core.layers import Layer
from converter.matching.words import Spelling


class Member(msgspec.Struct, frozen=True):
    """A layer of a net. position: in the net. look: equal for layers that fit the same ones."""

    layer: Layer
    spelling: Spelling
    position: int
    look: Hashable

    def tokens(self, start: int) -> tuple[str, ...]:
        """Of its name from there on."""
        return self.spelling.tokens[start:]


class Module(msgspec.Struct, frozen=True, dict=True):
    """Layers whose names begin alike, with all of ``spelling``."""

    spelling: Spelling
    members: tuple[Member, ...]

    @cached_property
    def content(self) -> Hashable:
        """What looks are in it, and how many layers of each."""
        return frozenset(Counter(member.look for member in self.members).items())

    @cached_property
    def words_inside(self) -> frozenset[str]:
        """What the names of its layers say from there on."""
        start = len(self.spelling.tokens)
        return frozenset[str]().union(*(member.spelling.words(start) for member in self.members))

    @property
    def position(self) -> int:
        return self.members[0].position


Element = TypeVar("Element", Member, Module)


class Region(msgspec.Struct, frozen=True):
    """Two modules that belong together. ours, theirs: their layers; left: those of no pair of modules inside.

    starts: with how many tokens all names of either side begin. outer: those of the region around it.
    """

    ours: tuple[Member, ...]
    theirs: tuple[Member, ...]
    starts: tuple[int, int]
    left: tuple[tuple[Member, ...], tuple[Member, ...]]
    outer: tuple[int, int] = (0, 0)

    def groups(self) -> list[tuple[list[Member], list[Member]]]:
        """The layers of either side that look alike."""
        groups: dict[Hashable, tuple[list[Member], list[Member]]] = {}
        for side, members in enumerate(self.left):
            for member in members:
                groups.setdefault(member.look, ([], []))[side].append(member)
        return list(groups.values())


def common(members: Sequence[Member]) -> int:
    """With how many tokens all names begin; of a layer alone all but the last."""
    tokens = [member.spelling.tokens for member in members]
    return min(shared(tokens), max(min(map(len, tokens), default=0) - 1, 0))


def shared(sequences: Sequence[tuple[str, ...]]) -> int:
    """With how many items all of them begin."""
    first, last = min(sequences, default=()), max(sequences, default=())
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))


def region_of(ours: tuple[Member, ...], theirs: tuple[Member, ...], outer: tuple[int, int] = (0, 0)) -> Region:
    return Region(ours, theirs, (common(ours), common(theirs)), (ours, theirs), outer)


Pairing = Callable[[Sequence[Module], Sequence[Module], Region], list[tuple[Module, Module]]]


def regions(
    ours: tuple[Member, ...], theirs: tuple[Member, ...], paired: Pairing, outer: tuple[int, int] = (0, 0)
) -> Iterator[Region]:
    """The modules that belong together, inside of two that do, and at last what is left of these.

    paired: which of several modules of one content do.
    """
    whole = region_of(ours, theirs, outer)
    inside = [_by_content(members, start) for members, start in zip((ours, theirs), whole.starts, strict=True)]
    taken: tuple[set[str], set[str]] = set(), set()
    for content, modules in inside[0].items():
        free = [
            [module for module in side if not any(one.layer.path in used for one in module.members)]
            for side, used in zip((modules, inside[1].get(content, [])), taken, strict=True)
        ]
        for one, other in paired(free[0], free[1], whole) if all(free) else ():
            for module, used in zip((one, other), taken, strict=True):
                used.update(member.layer.path for member in module.members)
            yield from regions(one.members, other.members, paired, whole.starts)
    rest = [
        tuple(member for member in side if member.layer.path not in used)
        for side, used in zip((ours, theirs), taken, strict=True)
    ]
    yield replace(whole, left=(rest[0], rest[1]))


def _are_counted(members: Sequence[Member], end: int) -> bool:
    """Whether they are no module, but layers of one name that is counted: ``conv1`` and ``conv2``."""
    return len({one.look for one in members}) == 1 and all(
        len(one.spelling.tokens) == end + 1 and end not in one.spelling.heads for one in members
    )


def _by_content(members: Sequence[Member], start: int) -> dict[Hashable, list[Module]]:
    """The modules inside, by what is in them, the largest first; of those with the same layers the innermost alone."""
    inside: dict[tuple[str, ...], list[Member]] = {}
    for member in members:
        tokens = member.spelling.tokens
        for end in range(start + 1, len(tokens) + 1):
            inside.setdefault(tokens[:end], []).append(member)
    several = {
        tokens: found
        for tokens, found in inside.items()
        if 1 < len(found) < len(members) and not _are_counted(found, len(tokens))
    }
    wrapped = {tokens[:-1] for tokens, found in several.items() if len(found) == len(several.get(tokens[:-1], ()))}
    modules = [
        Module(Spelling(tokens, found[0].spelling.counted), tuple(found))
        for tokens, found in several.items()
        if tokens not in wrapped
    ]
    contents: dict[Hashable, list[Module]] = {}
    for module in sorted(modules, key=lambda module: -len(module.members)):
        contents.setdefault(module.content, []).append(module)
    return contents
