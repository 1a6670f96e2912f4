"""Which layers of two nets fit each other by their shapes, worked out once for all that look alike."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Literal

from converter.core.layers import Layer, Net
from converter.matching.compatibility import agreements

Side = Literal["source", "target"]
SIDES: tuple[Side, Side] = ("source", "target")
_Look = Hashable


class Fitting:
    """Whether a source layer could be a target layer. Layers that look alike fit the same ones."""

    def __init__(self, same_framework: bool) -> None:
        self._same_framework = same_framework
        self._looks: dict[int, tuple[Layer, _Look]] = {}
        self._known: dict[tuple[_Look, _Look], tuple[bool, bool]] = {}

    def fits(self, source: Layer, target: Layer) -> bool:
        return self._answer(source, target)[0]

    def exactly(self, source: Layer, target: Layer) -> bool:
        """It fits as what it is, with nothing filled in and nothing lost."""
        return self._answer(source, target)[1]

    def look(self, layer: Layer) -> _Look:
        """What it may be, and its shapes."""
        if id(layer) not in self._looks:
            look = tuple(
                (reading.kind, reading.form, *((item.leaf, item.spec.shape, item.sizes) for item in reading.stored))
                for reading in layer.readings
            )
            self._looks[id(layer)] = layer, look
        return self._looks[id(layer)][1]

    def unlike(self, layers: Iterable[Layer]) -> list[Layer]:
        """One of each look."""
        return list({self.look(layer): layer for layer in layers}.values())

    def _answer(self, source: Layer, target: Layer) -> tuple[bool, bool]:
        looks = self.look(source), self.look(target)
        if looks not in self._known:
            found = agreements(source, target, self._same_framework)
            kinds = [{reading.kind for reading in layer.readings} for layer in (source, target)]
            self._known[looks] = bool(found), bool(kinds[0] & kinds[1]) and any(one.is_exact for one in found)
        return self._known[looks]


class Groups:
    """The layers of two nets in groups: of those that fit each other, directly or by way of others.

    What has a counterpart that it fits exactly fits no other. paired: source path -> target path of layers that fit
    each other alone.
    """

    def __init__(self, source: Net, target: Net, fitting: Fitting, paired: Mapping[str, str]) -> None:
        self._fitting = fitting
        self._alone = {("source", path): other for path, other in paired.items()}
        self._alone |= {("target", other): other for other in paired.values()}
        ours, theirs = (
            {self._look(layer, side): layer for layer in net.layers}
            for net, side in zip((source, target), SIDES, strict=True)
        )
        both = [(a, b) for a in ours for b in theirs if not isinstance(a, str) and not isinstance(b, str)]
        edges = {(a, b) for a, b in both if fitting.exactly(ours[a], theirs[b])}
        met = {a for a, _ in edges}, {b for _, b in edges}
        edges |= {(a, b) for a, b in both if a not in met[0] and b not in met[1] and fitting.fits(ours[a], theirs[b])}
        self._edges = edges | {(other, other) for other in paired.values()}
        self._groups = _joined(self._edges)

    def of(self, layer: Layer, side: Side) -> Hashable:
        """The group of the layer; of one that fits none, its own look."""
        look = side, self._look(layer, side)
        return self._groups.get(look, look)

    def look(self, layer: Layer, side: Side) -> Hashable:
        """What it may be, and its shapes; of one that is paired already, nothing."""
        return None if (side, layer.path) in self._alone else self._fitting.look(layer)

    def fit(self, source: Layer, target: Layer) -> bool:
        return (self._look(source, "source"), self._look(target, "target")) in self._edges

    def _look(self, layer: Layer, side: Side) -> _Look:
        return self._alone.get((side, layer.path)) or self._fitting.look(layer)


def _joined(edges: Iterable[tuple[_Look, _Look]]) -> Mapping[Hashable, int]:
    """The number of the group of each look, of either side."""
    groups: dict[Hashable, int] = {}
    members: dict[int, list[Hashable]] = {}
    for number, (one, other) in enumerate(edges):
        looks = [("source", one), ("target", other)]
        met = {groups[look] for look in looks if look in groups}
        members[number] = [look for look in looks if look not in groups]
        for group in met:
            members[number] += members.pop(group)
        groups |= dict.fromkeys(members[number], number)
    return groups
