"""Layers whose shapes do not tell in which form they are stored, and those beside them that do.

A GPT-2 of `Conv1D` that goes into a net of `nn.Linear` is transposed, as its oblong matrices prove; a square one would
fit as it is, and would be wrong. So where some layers of a kind change their form, those that could do either follow
them, or are asked about where others of the same form stay. Between frameworks each side follows its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence, Set

import msgspec
from msgspec.structs import replace

from converter.core.layers import Layer, Reading
from converter.errors import Problem
from converter.frameworks.linear import CONV1D
from converter.matching.common_kinds import is_square_and_bare
from converter.matching.compatibility import possibilities
from converter.matching.pairs import Pair, not_certain
from converter.matching.words import TABLES, Spelling, tokens_in
from converter.planning.questions import differ, in_doubt, undecided

#: What is said of a matrix without a layer.
_BARE = "a bare matrix as [in, out]"


class _Way(msgspec.Struct, frozen=True):
    """From which form of a kind into which; each with what it lacks."""

    kind: str
    ours: tuple[str, frozenset[str]]
    theirs: tuple[str, frozenset[str]]

    @property
    def changes(self) -> bool:
        return self.ours != self.theirs

    def is_beside(self, other: _Way) -> bool:
        """Whether the one speaks against the other: the same form goes, or comes from, elsewhere."""
        return self.kind == other.kind and (self.ours == other.ours or self.theirs == other.theirs)


def followed(pairs: Sequence[Pair], strict: bool) -> tuple[tuple[Pair, ...], list[Problem]]:
    """The pairs of one framework, with those that follow others into another form; and those in doubt as questions.

    strict: nothing follows, all is asked.
    """
    ways = _ways(pairs, same_framework=True)
    decided: dict[_Way, str] = {}
    for pair, possible in zip(pairs, ways, strict=True):
        if len(possible) == 1:
            decided.setdefault(possible[0], pair.source.path)
    changed = {way: path for way, path in decided.items() if way.changes}
    if not changed:
        return tuple(pairs), []
    result: list[Pair] = []
    problems: list[Problem] = []
    for pair, possible in zip(pairs, ways, strict=True):
        led = [way for way in possible if way in changed]
        stays = any(not way.changes and way.kind == one.kind for way in possible for one in led)
        if not led or not stays or not _differs(pair, True):
            result.append(pair)
        elif strict or any(way.is_beside(led[0]) for way in decided if way != led[0]):
            problems.append(_question(pair))
        else:
            result.append(_led(pair, led[0], changed[led[0]]))
    return tuple(result), problems


def oriented(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """The pairs of two frameworks, with the matrices that could lie either way as all others of their side lie.

    A square one that is called nothing that tables are called is no table.
    """
    pairs = [_no_table(pair) for pair in pairs]
    ways = [[way for way in possible if way.kind == "linear"] for possible in _ways(pairs, same_framework=False)]
    ours = _oriented([pair.source for pair in pairs], [{way.ours[0] for way in each} for each in ways])
    theirs = _oriented([pair.target for pair in pairs], [{way.theirs[0] for way in each} for each in ways])
    return tuple(map(_turned, pairs, ours, theirs))


def with_bare(pairs: Sequence[Pair], strict: bool) -> tuple[list[Pair], list[Problem]]:
    """The pairs, with what is likely of a square matrix without a layer; strict: that is a question."""
    result: list[Pair] = []
    problems: list[Problem] = []
    for pair in pairs:
        bare = is_square_and_bare(pair.source, pair.target)
        result.append(replace(pair, reason=f"{pair.reason}; {_BARE}", likely=True) if bare else pair)
        if bare and strict:
            problems.append(not_certain(pair, f"{_BARE}, which its shape does not tell"))
    return result, problems


def _no_table(pair: Pair) -> Pair:
    sides = [{reading.kind for reading in layer.readings} for layer in (pair.source, pair.target)]
    if not sides[0] & sides[1] >= {"linear", "embedding"}:
        return pair
    names = Spelling((*tokens_in(pair.source.path), *tokens_in(pair.target.path))).meaning()
    if names & TABLES or not _differs(pair, False):
        return pair
    readings = tuple(reading for reading in pair.source.readings if reading.kind != "embedding")
    reason = f"{pair.reason}; square, and of no table by its name"
    return replace(pair, source=replace(pair.source, readings=readings), reason=reason, likely=True)


def _turned(pair: Pair, ours: Layer, theirs: Layer) -> Pair:
    if ours is pair.source and theirs is pair.target:
        return pair
    return replace(pair, source=ours, target=theirs, reason=f"{pair.reason}, lying as the others do", likely=True)


def _lying(layer: Layer, not_so: Set[str]) -> Layer:
    readings = tuple(one for one in layer.readings if one.kind != "linear" or one.form not in not_so & _ORIENTATIONS)
    return replace(layer, readings=readings)


#: The usual form of a linear layer, and the two of GPT-2's Conv1D.
_ORIENTATIONS = CONV1D | {""}


def _oriented(layers: Sequence[Layer], forms: Sequence[Set[str]]) -> list[Layer]:
    """forms: of a linear layer, in which each of them agrees with its counterpart."""
    known = {form for each in forms if len(each) == 1 for form in each} & _ORIENTATIONS
    return [
        _lying(layer, each - known) if len(each) > 1 and len(each & known) == 1 else layer
        for layer, each in zip(layers, forms, strict=True)
    ]


def _ways(pairs: Iterable[Pair], same_framework: bool) -> list[tuple[_Way, ...]]:
    known: dict[Hashable, tuple[_Way, ...]] = {}
    ways = []
    for pair in pairs:
        looks = tuple(tuple(reading.nameless for reading in layer.readings) for layer in (pair.source, pair.target))
        if looks not in known:
            found = possibilities(pair.source, pair.target, same_framework)
            known[looks] = tuple(dict.fromkeys(_Way(one.kind, _form(one), _form(other)) for one, other, _ in found))
        ways.append(known[looks])
    return ways


def _form(reading: Reading) -> tuple[str, frozenset[str]]:
    return reading.form, reading.lacks


def _differs(pair: Pair, same_framework: bool) -> bool:
    """Whether it makes a difference which form it is."""
    return differ(pair, [agreement for _, _, agreement in possibilities(pair.source, pair.target, same_framework)])


def _question(pair: Pair) -> Problem:
    return undecided(in_doubt(pair, [each for _, _, each in possibilities(pair.source, pair.target, True)]), True)


def _led(pair: Pair, way: _Way, leader: str) -> Pair:
    """The pair in the form of the others of this kind; what else it could be, it can still be."""
    source, target = _only(pair.source, way.kind, way.ours), _only(pair.target, way.kind, way.theirs)
    return replace(
        pair, source=source, target=target, reason=f"{pair.reason}, in another form as '{leader}' is", likely=True
    )


def _only(layer: Layer, kind: str, form: tuple[str, frozenset[str]]) -> Layer:
    return replace(layer, readings=tuple(one for one in layer.readings if one.kind != kind or _form(one) == form))
