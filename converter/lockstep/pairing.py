"""A whole pairing of two nets while it is searched for: what is settled, and a guess for the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from converter.core.layers import Layer
from converter.matching.compatibility import agreements
from converter.matching.hints import Found, narrowed
from converter.matching.matcher import Matcher
from converter.matching.pairs import MAP, SCHEMA, Pair
from converter.planning.questions import differ


class Pairing:
    """The layers of the clone in the order of their calls, each with one of the source.

    matcher: what the evidence pairs, and what it leaves free; that is paired as it comes. sources, targets: paths in
    the order of calls.
    """

    def __init__(self, matcher: Matcher, sources: Sequence[str], targets: Sequence[str]) -> None:
        self._matcher = matcher
        self.sources = sources
        self._likely = {pair.target.path: pair.source.path for pair in matcher.pairs}
        self._said = {pair.target.path for pair in matcher.pairs if pair.reason in (MAP, SCHEMA)}
        self._kinds: dict[tuple[str, str], list[str]] = {}
        self._alike: set[str] = set()
        guess = {**self._likely, **self._guessed(targets)}
        self.found = [self._first(guess[target], target) for target in targets if target in guess]

    def __len__(self) -> int:
        return len(self.found)

    def _guessed(self, targets: Sequence[str]) -> dict[str, str]:
        """The layers that are free on both sides, each with the first that fits."""
        free = [path for path in self.sources if path in self._matcher.free_sources]
        guess: dict[str, str] = {}
        for target in targets:
            fitting = [path for path in free if self._fits(path, target)]
            if target in self._matcher.free_targets and fitting:
                guess[target] = fitting[0]
                free.remove(fitting[0])
        return guess

    def is_said(self, place: int) -> bool:
        """Whether the user or a schema says it."""
        return self.found[place].target in self._said

    def is_likely(self, place: int) -> bool:
        """Whether the evidence speaks for what is chosen there, too."""
        return self._likely.get(self.found[place].target) == self.found[place].source

    def candidates(self, place: int) -> Iterator[str]:
        """The sources that are not settled before and fit there; the one that is there first."""
        here = self.found[place]
        yield here.source
        settled = {item.source for item in self.found[: place + 1]}
        if not self.is_said(place):
            yield from (path for path in self.sources if path not in settled and self._fits(path, here.target))

    def readings(self, source: str, target: str) -> list[str]:
        """The kinds that the source could be there; "" alone where all lead to the same."""
        if (source, target) not in self._kinds:
            self._kinds[source, target] = _kinds(*self._layers(source, target), self._matcher.same_framework)
        return self._kinds[source, target]

    def choose(self, place: int, source: str, kind: str = "", order: tuple[int, ...] | None = None) -> bool:
        """Put the source there, and what was there in its place. False where that does not fit."""
        here = self.found[place]
        former = next((i for i, item in enumerate(self.found) if item.source == source), place)
        if former != place:
            if not self._fits(here.source, self.found[former].target):
                return False
            self.found[former] = self._first(here.source, self.found[former].target)
        chosen = self._first(source, here.target)
        self.found[place] = replace(chosen, kind=kind, order=chosen.order if order is None else order)
        return True

    def take_alike(self, sources: set[str]) -> bool:
        """Take the features of these layers for in the same order in both nets, until it is seen. False if they are."""
        fresh = sources - self._alike
        self._alike |= fresh
        self.found = [replace(item, order=()) if item.source in fresh else item for item in self.found]
        return bool(fresh)

    def _first(self, source: str, target: str) -> Found:
        return Found(source, target, self.readings(source, target)[0], () if source in self._alike else None)

    def _fits(self, source: str, target: str) -> bool:
        return self._matcher.fits(*self._layers(source, target))

    def _layers(self, source: str, target: str) -> tuple[Layer, Layer]:
        return self._matcher.source.by_path[source], self._matcher.target.by_path[target]


def _kinds(source: Layer, target: Layer, same_framework: bool) -> list[str]:
    """As `Pairing.readings`, worked out."""
    if not differ(Pair(source, target, ""), agreements(source, target, same_framework)):
        return [""]
    called = dict.fromkeys(reading.called for reading in source.readings)
    return [kind for kind in called if agreements(narrowed(source, kind), target, same_framework)] or [""]
