"""Which layers of two nets belong together, by all that their files tell at once: shapes, names, order, and places.

Shapes are hard. Modules of the same content are paired first, and layers inside of them (see `modules`). Names and
numbers are weighed. An order counts where numbers or a framework tell that it is the order of the calls; where it only
tells how an author wrote the net down, something else has to confirm it. A pair is taken when each of the two is by far
the best for the other; what could as well be swapped is left alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from converter.core.layers import Layer, Net
from converter.matching.anchors import Orders, tells
from converter.matching.looks import SIDES, Groups, Side
from converter.matching.modules import Element, Member, Module, Region, region_of, regions
from converter.matching.placing import Placing, is_listed, placing
from converter.matching.repeats import Repeats
from converter.matching.words import Spelling, spellings

#: Why a pair is taken: the first is certain, the others are likely.
ONLY_ONE = "only one with this shape"
PLACE, NAMES, POSITION = "same place in the tree", "names", "position"
BESIDE, ELSEWHERE = "what stands beside it", "as in other modules"
#: By so much a pair must be better than any other of its two sides.
_MARGIN = 0.5
#: What the evidence weighs: a rare word, an equal number, one place in the order, a neighbour, a pair of other modules
#: whose names are the same inside.
_WORD, _NUMBER, _STEP, _NEIGHBOUR, _AS_ELSEWHERE = 1.0, 1.5, 1.0, 0.5, 2.0
#: Less than the margin.
_HINT = 0.4
#: Of more that look alike in one place the order alone is looked at; names cost time by the square of the number.
_MANY = 1_000
#: Beyond so many places apart one order says no more against a pair than at that distance.
_FAR = 4

Scores: TypeAlias = NDArray[np.float64]
_Name: TypeAlias = tuple[str, ...]
#: All names inside of two modules.
_Insides: TypeAlias = tuple[frozenset[_Name], frozenset[_Name]]


class Likely(msgspec.Struct, frozen=True, gc=False):
    source: Layer
    target: Layer
    reason: str


class Evidence:
    """groups: of the layers of both. paired: source path -> target path of what is paired already."""

    def __init__(self, source: Net, target: Net, groups: Groups, paired: Mapping[str, str]) -> None:
        self._nets = source, target
        self._groups = groups
        self._paired = dict(paired)
        self._taken = set(paired.values())
        self._open: list[tuple[Region, list[Member], list[Member]]] = []
        #: the names inside of their modules of what was paired, by how many tokens both have; and of which modules
        self._elsewhere: dict[tuple[int, int], dict[tuple[_Name, _Name], set[_Insides]]] = {}
        self._insides: dict[int, _Insides] = {}
        #: how much of that there is, and what was settled in regions by what they are and what was known of others then
        self._learned = 0
        self._settled_so: dict[Hashable, list[tuple[int, int, str]]] = {}
        #: what a pair of modules with other names inside weighs: little, while there is anything else
        self._unlike = _AS_ELSEWHERE

    def pairs(self) -> Iterator[Likely]:
        """What is likely; the surest first."""
        sides = [self._members(net, side) for net, side in zip(self._nets, SIDES, strict=True)]
        for ours, theirs in region_of(sides[0], sides[1]).groups():
            if len(ours) == len(theirs) == 1 and all(self._free(ours, theirs)):
                one, other = ours[0].layer, theirs[0].layer
                if self._groups.fit(one, other):
                    yield self._taking(Likely(one, other, ONLY_ONE))
        all_regions = list(regions(sides[0], sides[1], self._modules))
        for region in all_regions:
            self._learn_from(region)
        self._open = [(region, *group) for region in all_regions for group in region.groups()]
        repeats = Repeats(self._nets, all_regions, self._groups)
        fresh = True
        while fresh or self._unlike == _HINT:
            self._unlike = _HINT if fresh else _AS_ELSEWHERE
            fresh = False
            for region, ours, theirs in self._open:
                for likely in self._settled_again(repeats, region, *self._free(ours, theirs)):
                    fresh = True
                    yield self._taking(likely)

    def rivals(self) -> Mapping[str, Sequence[Layer]]:
        """Each target layer that is in no pair -> the source layers of its module that it could be."""
        left = (self._free(ours, theirs) for _, ours, theirs in self._open)
        return {
            other.layer.path: [one.layer for one in ours if self._groups.fit(one.layer, other.layer)]
            for ours, theirs in left
            for other in theirs
        }

    def _taking(self, likely: Likely) -> Likely:
        self._paired[likely.source.path] = likely.target.path
        self._taken.add(likely.target.path)
        return likely

    def _members(self, net: Net, side: Side) -> tuple[Member, ...]:
        spelled = spellings(net)
        return tuple(
            Member(layer, spelled[layer.path], position, self._groups.of(layer, side))
            for position, layer in enumerate(net.layers)
        )

    def _free(self, ours: Sequence[Member], theirs: Sequence[Member]) -> tuple[list[Member], list[Member]]:
        return (
            [one for one in ours if one.layer.path not in self._paired],
            [one for one in theirs if one.layer.path not in self._taken],
        )

    def _modules(self, ours: Sequence[Module], theirs: Sequence[Module], region: Region) -> list[tuple[Module, Module]]:
        """Which of these modules of one content belong together."""
        if len(ours) != len(theirs):
            return []
        if len(ours) == 1:
            return [(ours[0], theirs[0])]
        orders = self._orders(region, ours, theirs)
        called = orders if orders and all(order.is_called for order in orders) else None
        if len(ours) > _MANY:
            return _zipped(ours, theirs, called) if called else []
        scores = self._by_name(region, ours, theirs) + self._by_inside(region, ours, theirs)
        found = _clear(scores + _by_order(*called) if called else scores)
        if called and any(called[0].ranks[i] != called[1].ranks[j] for i, j in found):
            return []  # names speak against the order of the calls
        return [(ours[i], theirs[j]) for i, j in found]

    def _settled_again(
        self, repeats: Repeats, region: Region, ours: Sequence[Member], theirs: Sequence[Member]
    ) -> list[Likely]:
        """What is clear among layers of one group; what was settled where all is alike is not worked out again."""
        if not ours or not theirs:
            return []
        kind = repeats.of(region, ours, theirs, self._paired)
        key = kind, self._learned, self._unlike
        if kind is None or key not in self._settled_so:
            found = list(self._settled(region, ours, theirs))
            places = [{one.layer.path: place for place, one in enumerate(side)} for side in (ours, theirs)]
            self._settled_so[key] = [
                (places[0][likely.source.path], places[1][likely.target.path], likely.reason) for likely in found
            ]
            return found
        return [Likely(ours[i].layer, theirs[j].layer, reason) for i, j, reason in self._settled_so[key]]

    def _settled(self, region: Region, ours: Sequence[Member], theirs: Sequence[Member]) -> Iterator[Likely]:
        """The pairs that are clear among layers of one group."""
        if len(ours) > _MANY or len(theirs) > _MANY:
            yield from self._many(region, ours, theirs)
            return
        possible = np.array([[self._groups.fit(one.layer, other.layer) for other in theirs] for one in ours])
        if len(ours) == len(theirs) == 1:
            if possible.all():
                yield self._likely(region, ours[0], theirs[0], PLACE)
            return
        impossible = np.where(possible, 0.0, -np.inf)
        names, elsewhere = self._by_name(region, ours, theirs), self._as_elsewhere(region, ours, theirs)
        beside = self._beside(region, ours, theirs)
        orders = self._orders(region, ours, theirs)
        order = (
            _by_order(*orders) if orders and tells(region, ours, theirs, orders, self._paired) else np.zeros_like(names)
        )
        for i, j in _clear(names + elsewhere + beside + order + impossible):
            told = ((NAMES, names), (POSITION, order), (ELSEWHERE, elsewhere))
            reason = next((reason for reason, scores in told if _leads(scores + impossible, i, j)), BESIDE)
            yield self._likely(region, ours[i], theirs[j], reason)

    def _many(self, region: Region, ours: Sequence[Member], theirs: Sequence[Member]) -> Iterator[Likely]:
        orders = self._orders(region, ours, theirs)
        if orders and tells(region, ours, theirs, orders, self._paired):
            for one, other in _zipped(ours, theirs, orders):
                if self._groups.fit(one.layer, other.layer):
                    yield self._likely(region, one, other, POSITION)

    def _learn_from(self, region: Region) -> None:
        """What was said of one module tells of others."""
        theirs = {other.layer.path: other for other in region.left[1]}
        for one in region.left[0]:
            other = theirs.get(self._paired.get(one.layer.path, ""))
            if other is not None:
                self._learn(region, one, other)

    def _likely(self, region: Region, one: Member, other: Member, reason: str) -> Likely:
        self._learn(region, one, other)
        return Likely(one.layer, other.layer, reason)

    def _learn(self, region: Region, one: Member, other: Member) -> None:
        if len(region.ours) == len(self._nets[0].layers):
            return  # the first ``conv1`` of a net is not as those inside of its modules
        inside = self._inside(region)
        for starts in (region.starts, region.outer):
            names = one.tokens(starts[0]), other.tokens(starts[1])
            if any(all(token.isdecimal() for token in name) for name in names):
                continue  # other modules count otherwise
            if starts == region.outer and any(name[0].isdecimal() for name in names):
                continue  # of this block alone
            known = self._elsewhere.setdefault((len(names[0]), len(names[1])), {}).setdefault(names, set())
            self._learned += inside not in known
            known.add(inside)

    # -- evidence -----------------------------------------------------------------------------------------------------

    def _by_name(self, region: Region, ours: Sequence[Element], theirs: Sequence[Element]) -> Scores:
        """Of names inside of the region, which are the same in block after block."""
        sides = zip((ours, theirs), region.starts, strict=True)
        return self._name_scores(*(tuple(one.spelling.tokens[start:] for one in side) for side, start in sides))

    def _by_inside(self, region: Region, ours: Sequence[Module], theirs: Sequence[Module]) -> Scores:
        """Of modules that are only numbered on one side, by what is in them: ``layer.1`` of T5 with its EncDecAttention
        is the ``cross_attention`` of the other net.
        """
        sides = tuple(zip((ours, theirs), region.starts, strict=True))
        named = [[bool(one.spelling.words(start)) for one in side] for side, start in sides]
        if any(map(any, named)) == all(map(any, named)) or not any(map(all, named)):
            return np.zeros((len(ours), len(theirs)))
        words = [[one.spelling.words(start) or one.words_inside for one in side] for side, start in sides]
        return _by_words(words[0], words[1])

    @staticmethod
    @lru_cache(maxsize=16)
    def _name_scores(ours: tuple[tuple[str, ...], ...], theirs: tuple[tuple[str, ...], ...]) -> Scores:
        spelled = [[Spelling(tokens) for tokens in side] for side in (ours, theirs)]
        words = _with_parts([[one.words() for one in side] for side in spelled])
        numbers = [[one.numbers() for one in side] for side in spelled]
        return _by_words(words[0], words[1]) + _by_numbers(numbers[0], numbers[1])

    def _as_elsewhere(self, region: Region, ours: Sequence[Member], theirs: Sequence[Member]) -> Scores:
        """More where layers whose names end so are paired elsewhere, and more again where all names there are these."""
        inside = self._inside(region)
        names = [[one.tokens(start) for one in side] for side, start in zip((ours, theirs), region.starts, strict=True)]
        scores = np.zeros((len(ours), len(theirs)))
        for (here, there), known in self._elsewhere.items():
            ends = [_ends(side, length) for side, length in zip(names, (here, there), strict=True)]
            met = [[known.get((one, other), ()) for other in ends[1]] for one in ends[0]]
            worth = [
                [_AS_ELSEWHERE if inside in found else self._unlike if found else 0.0 for found in row] for row in met
            ]
            scores = np.maximum(scores, np.array(worth))
        return scores

    def _inside(self, region: Region) -> _Insides:
        """All names inside of the two modules."""
        if id(region) not in self._insides:
            sides = zip((region.ours, region.theirs), region.starts, strict=True)
            ours, theirs = (frozenset(one.tokens(start) for one in side) for side, start in sides)
            self._insides[id(region)] = ours, theirs
        return self._insides[id(region)]

    def _beside(self, region: Region, ours: Sequence[Member], theirs: Sequence[Member]) -> Scores:
        """More where what stands before them, or behind them, is paired: the norm of a convolution."""
        scores = np.zeros((len(ours), len(theirs)))
        if not (is_listed(self._nets[0], region.ours) and is_listed(self._nets[1], region.theirs)):
            return scores
        for step in (-1, 1):
            behind = {one.layer.path: j for j, one in _neighbours(region.theirs, theirs, step)}
            for i, one in _neighbours(region.ours, ours, step):
                j = behind.get(self._paired.get(one.layer.path, ""))
                if j is not None:
                    scores[i, j] += _NEIGHBOUR
        return scores

    def _orders(self, region: Region, ours: Sequence[Element], theirs: Sequence[Element]) -> Orders | None:
        if len(ours) != len(theirs):
            return None
        orders = [
            placing(net, side, start)
            for net, side, start in zip(self._nets, (ours, theirs), region.starts, strict=True)
        ]
        return (orders[0], orders[1]) if orders[0] and orders[1] else None


def _ends(names: Sequence[tuple[str, ...]], length: int) -> list[tuple[str, ...]]:
    """Of each so many tokens; () of one that has another within its end: ``skip.block.conv`` is no ``conv`` of other
    modules where there is a ``block.conv``.
    """
    whole = set(names)
    longer = [any(name[-size:] in whole for size in range(length, len(name))) for name in names]
    return [() if is_longer else name[-length:] for name, is_longer in zip(names, longer, strict=True)]


def _zipped(ours: Sequence[Element], theirs: Sequence[Element], orders: Orders) -> list[tuple[Element, Element]]:
    """One by one in these orders."""
    places = [np.argsort(order.ranks).tolist() for order in orders]
    return [(ours[i], theirs[j]) for i, j in zip(*places, strict=True)]


def _neighbours(region: Sequence[Member], members: Sequence[Member], step: int) -> Iterator[tuple[int, Member]]:
    """The position of each of the members, and what stands so many places behind it, if it looks otherwise.

    What stands at the end of several that look alike tells of their order alone: the last of two branches is the one
    that was written down last.
    """
    looks = [one.look for one in region]
    places = {one.layer.path: place for place, one in enumerate(region)}
    for i, member in enumerate(members):
        place = places[member.layer.path]
        around = {side: looks[place + side] for side in (-1, 1) if 0 <= place + side < len(region)}
        if step in around and member.look not in around.values():
            yield i, region[place + step]


def _with_parts(words: list[list[frozenset[str]]]) -> list[list[frozenset[str]]]:
    """And the words of the other side that are written in theirs: there is ``query`` in ``myquery``."""
    known = [frozenset[str]().union(*side) for side in words]
    found: list[list[frozenset[str]]] = []
    for side, own, others in zip(words, known, reversed(known), strict=True):
        parts = {
            word: frozenset(part for part in others - own if len(part) > 3 and part in word)
            for word in own - others
            if word.isalpha()  # and is no two words that mean something else together
        }
        found.append([each.union(*(parts.get(word, ()) for word in each)) for each in side])
    return found


def _by_words(ours: Sequence[frozenset[str]], theirs: Sequence[frozenset[str]]) -> Scores:
    """Words that both sides know: more for one that both have, less for one that one has; the rarer, the more."""
    scores = np.zeros((len(ours), len(theirs)))
    for word in _known(ours) & _known(theirs):
        here, there = (np.array([word in words for words in side], float) for side in (ours, theirs))
        weight = _WORD * math.log2(1 + (len(ours) + len(theirs)) / (here.sum() + there.sum()))
        scores += weight * (3 * np.outer(here, there) - here[:, None] - there[None, :])
    return scores


def _known(words: Sequence[frozenset[str]]) -> frozenset[str]:
    """Single letters count where every name has one: there is an ``x`` in any name."""
    known = frozenset[str]().union(*words)
    letters = {word for word in known if len(word) == 1}
    return known if all(each & letters for each in words) else known - letters


def _by_numbers(ours: Sequence[tuple[int, ...]], theirs: Sequence[tuple[int, ...]]) -> Scores:
    """Equal numbers, where both sides have the same ones, but for those that all have."""
    ours, theirs = _telling(ours), _telling(theirs)
    if set(ours) != set(theirs) or len(set(ours)) == 1:
        return np.zeros((len(ours), len(theirs)))
    known = {each: i for i, each in enumerate(dict.fromkeys(ours))}
    here, there = (np.array([known[each] for each in side]) for side in (ours, theirs))
    return np.where(here[:, None] == there[None, :], _NUMBER, 0.0)


def _telling(numbers: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Without the places at which all have the same number."""
    if len({len(each) for each in numbers}) > 1:
        return list(numbers)
    varied = [len(set(column)) > 1 for column in zip(*numbers, strict=True)]
    return [tuple(itertools.compress(each, varied)) for each in numbers]


def _by_order(ours: Placing, theirs: Placing) -> Scores:
    apart = abs(ours.ranks[:, None] - theirs.ranks[None, :])
    scores: Scores = -_STEP * np.minimum(apart, _FAR).astype(np.float64)
    return scores


def _leads(scores: Scores, i: int, j: int) -> bool:
    """Whether nothing else is as good for the row of the pair."""
    return bool(scores[i, j] - np.delete(scores[i], j).max(initial=-np.inf) >= _MARGIN)


def _clear(scores: Scores) -> list[tuple[int, int]]:
    """The pairs that are by far the best for both sides, again and again without those found."""
    rows, columns = (np.arange(size) for size in scores.shape)
    found: list[tuple[int, int]] = []
    while len(rows) and len(columns):
        left = scores[np.ix_(rows, columns)]
        best = left.argmax(axis=1)
        top = left[np.arange(len(rows)), best]
        rivals = np.maximum(_second(left, best), _second(left.T, left.argmax(axis=0))[best])
        clear = (left.argmax(axis=0)[best] == np.arange(len(rows))) & (top > -np.inf) & (top - rivals >= _MARGIN)
        if not clear.any():
            break
        found += zip(rows[clear].tolist(), columns[best[clear]].tolist(), strict=True)
        rows, columns = rows[~clear], np.delete(columns, best[clear])
    return found


def _second(scores: Scores, best: NDArray[np.int64]) -> Scores:
    """The best of each row but for the one that is the best."""
    others = scores.copy()
    others[np.arange(len(scores)), best] = -np.inf
    second: Scores = others.max(axis=1)
    return second
