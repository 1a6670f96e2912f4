"""What the paths of a net tell beside the names: an order that is true, and the tail that two names share.

The order of a file is that in which the layers were made, or of the alphabet; neither says in which order
they are called. Numbers that a framework itself gives do: the children of a Sequential (``net.0``, ``net.2``,
``layers_0``), and the layers that are counted by class (``dense``, ``dense_1``; ``Conv_0``, ``Conv_1``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import cache, cached_property, cmp_to_key

from converter.core.layers import Layer, Net, join_path, split_path
from converter.frameworks import FRAMEWORKS, framework

#: Names that get a number by themselves: of classes, and of the containers of Keras and Flax.
_COUNTED = frozenset(
    {name for row in FRAMEWORKS for name in row.classes} | {"sequential", "functional", "model", "layers", "conv"}
)

#: What is numbered in the order of use, by people (``ln1`` and ``ln2``, ``block0`` and ``block1``) and as the layers of
#: a recurrent module (``l0``).
_NUMBERED = frozenset("ln norm bn fc linear dense conv attn attention block blk stage stem cell l".split())


class _UnknownError(Exception):
    """Two layers of which none is known to come first."""


class _Order:
    """What is known of the order in which the layers of a net are called."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._framework = framework(net.framework)
        self._numbers_all = net.ordered and self._framework.counts_classes  # Keras writes a model's layers in its order

    @cached_property
    def _position(self) -> Mapping[str, int]:
        return {layer.path: place for place, layer in enumerate(self._net.layers)}

    @cached_property
    def _siblings(self) -> Mapping[tuple[str, ...], Set[str]]:
        """The names inside of each module."""
        found: dict[tuple[str, ...], set[str]] = {}
        for path in self._net.by_path:
            parts = split_path(path)
            for depth, part in enumerate(parts):
                found.setdefault(parts[:depth], set()).add(part)
        return found

    def compare(self, first: Layer, second: Layer) -> int:
        """Negative where the first is called first. Raises _UnknownError."""
        seen = self._net.observed.compare(first.path, second.path) if self._net.observed else None
        if seen is not None:
            return seen
        ours, theirs = split_path(first.path), split_path(second.path)
        depth = next((d for d, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other), None)
        if depth is not None:
            one, other = (self._counted(parts[:depth], parts[depth]) for parts in (ours, theirs))
            if one and other and one[0] == other[0]:
                return one[1] - other[1]
            if one and other and self._numbers_all:
                return self._position[first.path] - self._position[second.path]
        raise _UnknownError

    def _counted(self, parent: tuple[str, ...], name: str) -> tuple[str, int] | None:
        """As `counted`; also of a list of Flax, of a class of the user's that Keras counts, and of ``block2``."""
        found = counted(name)
        parts = re.fullmatch(r"(.*?[^\W\d])(_?)(\d*)", name)
        if found or not parts:
            return found
        stem, line, number = parts.groups()
        if self._framework.counts_classes and (line or not number):
            siblings = self._siblings[parent]
            several = stem in siblings and f"{stem}_1" in siblings
            return (stem, int(number or 0)) if several else None
        is_list = self._framework.suffixes_lists and line and number
        return (stem, int(number)) if number and (is_list or stem.casefold() in _NUMBERED) else None

    def before(self, layer: Layer, others: Iterable[Layer]) -> int | None:
        """How many of the others are called before it; None where that is not known."""
        try:
            return sum(self.compare(other, layer) < 0 for other in others)
        except _UnknownError:
            return None


def true_order(net: Net, layers: Iterable[Layer]) -> list[Layer] | None:
    """The layers in the order in which they are called; None where only the file's order is known."""
    try:
        return sorted(layers, key=cmp_to_key(_Order(net).compare))
    except _UnknownError:
        return None


def in_turn(
    source: Net, target: Net, ours: Sequence[Layer], theirs: Sequence[Layer], beside: Iterable[tuple[Layer, Layer]]
) -> list[tuple[Layer, Layer]]:
    """As many layers of either net, one by one in the order in which they are called.

    Empty where an order is not known, or where what is paired ``beside`` them has another.
    """
    first, second = true_order(source, ours), true_order(target, theirs)
    if not first or not second:
        return []
    orders = _Order(source), _Order(target)
    for one, other in beside:
        places = orders[0].before(one, ours), orders[1].before(other, theirs)
        if None not in places and places[0] != places[1]:
            return []
    return list(zip(first, second, strict=True))


def counted(name: str) -> tuple[str, int] | None:
    """``dense_2`` -> ("dense", 2), ``dense`` -> ("dense", 0), ``7`` -> ("", 7); None for a name of the user's."""
    if name.isdecimal():
        return "", int(name)
    found = re.fullmatch(r"(.*?\D)(?:_?(\d+))?", name)
    stem = found[1].rstrip("_") if found else ""
    automatic = stem in _COUNTED or re.fullmatch(r"[A-Z]\w*_\d+", name)
    return (stem, int(found[2] or 0)) if found and automatic else None


#: How a path is compared with those of another net: without case, wrappers …
Naming = Callable[[str], str]


def numbered_alike(
    source: Net, ours: Naming, target: Net, theirs: Naming, in_part: bool = False
) -> Callable[[Layer, Layer], bool]:
    """Whether two layers of one name are the same, as far as numbers in it go: both nets must have the same ones there.

    One Sequential counts activations and the other does not: ``2`` is then another layer in each. in_part: the nets
    have some layers in common only, so that the user's own numbers (``block3``) count as names.
    """
    telling = is_numbered if in_part else _has_number

    @cache
    def numbers() -> tuple[Mapping[str, set[str]], Mapping[str, set[str]]]:
        return _numbers(source, ours), _numbers(target, theirs)

    def alike(one: Layer, other: Layer) -> bool:
        if not telling(one.path) and not telling(other.path):
            return True
        here, there = numbers()
        return all(here[place] == there.get(place) for place, _ in _numbered_places(one.path, ours))

    return alike


def _has_number(path: str) -> bool:
    return re.search(r"\d", path) is not None


def _numbers(net: Net, naming: Naming) -> Mapping[str, set[str]]:
    """Every place with a number, and the numbers that the net has there."""
    found: dict[str, set[str]] = {}
    for path in net.by_path:
        for place, number in _numbered_places(path, naming):
            found.setdefault(place, set()).add(number)
    return found


def _numbered_places(path: str, naming: Naming) -> Iterator[tuple[str, str]]:
    """``net.2.fc`` -> ("net#", "2"): what leads to each number, all numbers aside, and those up to there."""
    parts = split_path(path)
    for end, part in enumerate(parts, 1):
        if _has_number(part):
            name = naming(join_path(parts[:end]))
            yield re.sub(r"[\W_]*\d+[\W_]*", "#", name).casefold(), " ".join(re.findall(r"\d+", name))


def is_numbered(path: str) -> bool:
    """Whether some part of it is a number or an automatic name, and not the user's word."""
    return any(counted(part) is not None for part in split_path(path))


#: Beyond so many free layers it takes too long to see whether any of them is called alike.
_MOST_RIVALS = 2_000


def same_tails(source: Net, target: Net, free: Iterable[str], wanted: Iterable[str]) -> list[tuple[Layer, Layer]]:
    """Free layers whose names end alike, as no others in the nets do: ``model.encoder.fc`` and ``encoder/fc``.

    The longest tails first. A number or an automatic name says nothing; nor do words, where another free layer
    shares one with either that these two do not share.
    """
    left = {path: _words(path) for path in free}
    open_ = {path: _words(path) for path in wanted}
    if len(left) + len(open_) > _MOST_RIVALS:
        return []
    depth = max((len(split_path(path)) for path in (*left, *open_)), default=0)
    found = []
    for length in range(depth, 0, -1):
        ours, theirs = _by_tail(source.layers, length), _by_tail(target.layers, length)
        for tail in ours.keys() & theirs.keys():
            if len(ours[tail]) == len(theirs[tail]) == 1:
                one, other = ours[tail][0], theirs[tail][0]
                if one.path in left and other.path in open_ and not _has_rival(one.path, other.path, left, open_):
                    found.append((one, other))
        for one, other in found:
            left.pop(one.path, None)
            open_.pop(other.path, None)
    return found


def _has_rival(one: str, other: str, ours: Mapping[str, Set[str]], theirs: Mapping[str, Set[str]]) -> bool:
    """Whether some third layer is called like one of the two, by a word that the other does not have."""
    return any(
        any(_is_like(word, rival) for rival in words for word in mine if not any(_is_like(word, w) for w in its))
        for mine, its, rivals, own in ((ours[one], theirs[other], theirs, other), (theirs[other], ours[one], ours, one))
        for path, words in rivals.items()
        if path != own
    )


def _is_like(word: str, other: str) -> bool:
    return word in other or other in word


def _words(path: str) -> Set[str]:
    """The user's own words in a path."""
    return {_plain([part]) for part in split_path(path) if counted(part) is None}


def _by_tail(layers: Iterable[Layer], length: int) -> Mapping[str, list[Layer]]:
    result: dict[str, list[Layer]] = {}
    for layer in layers:
        parts = split_path(layer.path)
        if len(parts) >= length and counted(parts[-1]) is None:
            result.setdefault(_plain(parts[-length:]), []).append(layer)
    return result


def _plain(parts: Sequence[str]) -> str:
    return ".".join(re.sub(r"[\W_]", "", part).casefold() for part in parts)
