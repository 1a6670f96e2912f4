"""In which order layers, or modules, of a net stand, and how surely that is the order of the calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from converter.core.layers import Net
from converter.frameworks import framework
from converter.matching.modules import Element, Member, Module, shared
from converter.matching.order import NUMBERED, true_order
from converter.matching.words import stage, variable

#: The place that words stand for, if they do.
_Place = Callable[[frozenset[str]], "int | None"]


class Placing(msgspec.Struct, frozen=True):
    """ranks: the place of each in the order. is_called: whether it is that of the calls; is_meant: whether it is that
    of what their names mean (see `words.stage`); by_position: whether it is that of the file, and that tells something.

    pattern: the name that they all have but for its numbers, which tell the order then; () where they have others.
    """

    ranks: NDArray[np.int64]
    is_called: bool = False
    is_meant: bool = False
    by_position: bool = False
    pattern: tuple[str, ...] = ()


def placing(net: Net, elements: Sequence[Element], start: int) -> Placing | None:
    """None where nothing tells of an order. start: with how many tokens all names in the region begin."""
    seen = _observed(net, elements)
    if seen is not None:
        return Placing(seen, is_called=True)
    is_file = is_listed(net, [one.members[0] if isinstance(one, Module) else one for one in elements])
    pattern = _common([one.spelling.pattern(start) for one in elements])
    numbers = [one.spelling.numbers(start)[: pattern.count("#")] for one in elements]
    listed = _ranks([one.position for one in elements])
    if len(set(numbers)) == len(numbers):
        ranks = _ranks(numbers)
        is_listed_so = is_file and bool((ranks == listed).all())
        return Placing(ranks, _counts_calls(elements, pattern, start), by_position=is_listed_so, pattern=pattern)
    meant = _meant(elements, start, variable)
    if meant is not None:
        return Placing(meant, is_meant=True)  # a file may have them otherwise: of a layer some, and the others bare
    meant = _meant(elements, start, stage)
    if not is_file:
        return None if meant is None else Placing(meant, is_meant=True)
    is_called = framework(net.framework).counts_classes
    agrees = meant is not None and bool((meant == listed).all())
    return Placing(listed, is_called, is_meant=agrees, by_position=meant is None or agrees)


def _meant(elements: Sequence[Element], start: int, place: _Place) -> NDArray[np.int64] | None:
    """The order of what their names mean, if each means something else."""
    return _by_meaning(tuple(one.spelling.meaning(start) for one in elements), place)


@lru_cache(maxsize=1024)
def _by_meaning(meanings: tuple[frozenset[str], ...], place: _Place) -> NDArray[np.int64] | None:
    alike = frozenset.intersection(*meanings)
    places = [place(meaning - alike) for meaning in meanings]
    return _ranks(places) if None not in places and len(set(places)) == len(places) else None


def _common(patterns: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """With what all of them begin, up to the last number in that."""
    alike = patterns[0][: shared(patterns)]
    return alike[: max((i + 1 for i, token in enumerate(alike) if token == "#"), default=0)]


def _observed(net: Net, elements: Sequence[Element]) -> NDArray[np.int64] | None:
    """The order of the calls, where a forward showed it."""
    layers = [one.members[0].layer if isinstance(one, Module) else one.layer for one in elements]
    if net.observed is None or any(layer.path not in net.observed.calls for layer in layers):
        return None
    called = true_order(net, layers)
    places = {layer.path: place for place, layer in enumerate(called or ())}
    return _ranks([places[layer.path] for layer in layers]) if called else None


def is_listed(net: Net, members: Sequence[Member]) -> bool:
    """Whether their order in the file is that of definition: a Keras file sorts the attributes of a user's class."""
    if not net.ordered or not framework(net.framework).counts_classes:
        return net.ordered
    places = [tuple(one.layer.tensors[0].name.split("/")) for one in members]
    if not all("vars" in place for place in places):
        return True
    return len(members) < 2 or places[0][: shared(places)][-1:] == ("layers",)


def _counts_calls(elements: Sequence[Element], pattern: tuple[str, ...], start: int) -> bool:
    """Whether the last of these numbers is one of a container, of a class that is counted, or of a block."""
    place = start + len(pattern) - 1
    if all(place in one.spelling.counted for one in elements):
        return True
    is_around = all(isinstance(one, Module) or len(one.spelling.tokens) > place + 1 for one in elements)
    words = elements[0].spelling.tokens[max(place - 1, 0) : place]
    return is_around and (len(elements) > 2 or all(word in NUMBERED or word.isdecimal() for word in words))


def _ranks(keys: Sequence[Any]) -> NDArray[np.int64]:
    ranks = np.empty(len(keys), np.int64)
    ranks[sorted(range(len(keys)), key=lambda i: keys[i])] = np.arange(len(keys))
    return ranks
