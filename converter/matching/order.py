"""The order in which the layers of a net are called, as far as their paths or a forward of the net tell it.

The order of a file is that in which the layers were made, or of the alphabet; neither says in which order
they are called. Numbers that a framework itself gives do: the children of a Sequential (``net.0``, ``net.2``,
``layers_0``), and the layers that are counted by class (``dense``, ``dense_1``; ``Conv_0``, ``Conv_1``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from functools import cached_property, cmp_to_key

from converter.core.layers import Layer, Net, split_path
from converter.frameworks import FRAMEWORKS, framework

#: Names that get a number by themselves: of classes, and of the containers of Keras and Flax.
_COUNTED = frozenset(
    {name for row in FRAMEWORKS for name in row.classes} | {"sequential", "functional", "model", "layers", "conv"}
)

#: What is numbered in the order of use, by people (``ln1`` and ``ln2``, ``block0`` and ``block1``) and as the layers of
#: a recurrent module (``l0``).
NUMBERED = frozenset("ln norm bn fc linear dense conv attn attention block blk stage stem cell l".split())


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
        return {layer.path: position for position, layer in enumerate(self._net.layers)}

    @cached_property
    def _siblings(self) -> Mapping[tuple[str, ...], Set[str]]:
        """The names inside of each module."""
        names: dict[tuple[str, ...], set[str]] = {}
        for path in self._net.by_path:
            parts = split_path(path)
            for depth, part in enumerate(parts):
                names.setdefault(parts[:depth], set()).add(part)
        return names

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
        automatic = counted(name)
        parts = re.fullmatch(r"(.*?[^\W\d])(_?)(\d*)", name)
        if automatic or not parts:
            return automatic
        stem, line, number = parts.groups()
        if self._framework.counts_classes and (line or not number):
            siblings = self._siblings[parent]
            several = stem in siblings and f"{stem}_1" in siblings
            return (stem, int(number or 0)) if several else None
        is_list = self._framework.suffixes_lists and line and number
        return (stem, int(number)) if number and (is_list or stem.casefold() in NUMBERED) else None


def true_order(net: Net, layers: Iterable[Layer]) -> list[Layer] | None:
    """The layers in the order in which they are called; None where only the file's order is known."""
    try:
        return sorted(layers, key=cmp_to_key(_Order(net).compare))
    except _UnknownError:
        return None


def counted(name: str) -> tuple[str, int] | None:
    """``dense_2`` -> ("dense", 2), ``dense`` -> ("dense", 0), ``7`` -> ("", 7); None for a name of the user's."""
    if name.isdecimal():
        return "", int(name)
    match = re.fullmatch(r"(.*?\D)(?:_?(\d+))?", name)
    stem = match[1].rstrip("_") if match else ""
    automatic = stem in _COUNTED or re.fullmatch(r"[A-Z]\w*_\d+", name)
    return (stem, int(match[2] or 0)) if match and automatic else None
