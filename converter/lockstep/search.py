"""The walk through the clone: in the order of its calls each layer gets the weights of the source layer that took the
same, in the reading that gives the same. Where that leads nowhere the last choice is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, permutations, product

from converter.core.differences import any_order, compared
from converter.core.tensors import Array
from converter.errors import ConversionError, MatchError
from converter.lockstep.activations import Fingerprint, fingerprint, order_between
from converter.lockstep.calls import Calls
from converter.lockstep.pairing import Pairing
from converter.lockstep.trial import Trial
from converter.matching.hints import Found

#: Problems of a plan about the order of flattened features, which is seen here.
_ORDER = frozenset({"permuted", "flatten inputs"})
#: So often the clone is run for each of its layers, and beside that, before it is given up.
_RUNS_EACH, _RUNS = 2, 100


class Search:
    """source: what the source took and gave. gives_same: whether these outputs are those of the source."""

    def __init__(
        self, pairing: Pairing, source: Calls, trial: Trial, gives_same: Callable[[Mapping[str, Array]], bool]
    ) -> None:
        self._pairing, self._source, self._trial, self._gives_same = pairing, source, trial, gives_same
        self._furthest = -1
        #: where the walk that came furthest ended
        self.parting = "all layers of both take and give the same"
        #: pairings of which each layer gives the same, and the net does not
        self.unequal: list[list[Found]] = []

    def solutions(self) -> Iterator[list[Found]]:
        """The pairings with which the nets give the same. After the first, evidence is not taken back.

        Raises MatchError for what no run can settle, and ConversionError where it takes too many.
        """
        self._calls()  # there has to be a plan at all
        stack, is_found = [self._settled(0)] if len(self._pairing) else [], False
        while stack:
            place = len(stack) - 1
            kept = is_found and self._pairing.is_likely(place)
            if kept or not next(stack[-1], False):
                stack.pop()
            elif len(stack) < len(self._pairing):
                stack.append(self._settled(len(stack)))
            elif self._gives_same(self._calls().outputs):
                is_found = True
                yield list(self._pairing.found)
            else:
                self.unequal.append(list(self._pairing.found))

    def _settled(self, place: int) -> Iterator[bool]:
        """Each time another source is there that takes the same and gives the same."""
        target = self._pairing.found[place].target
        clone = self._calls()
        takes = [source for source in self._pairing.candidates(place) if self._takes_same(source, target, clone)]
        is_settled = False
        for source in takes:
            for _ in self._readings(place, source):
                is_settled = True
                yield True
        if not is_settled and place > self._furthest:
            self._furthest, self.parting = place, self._told(place, takes)

    def _readings(self, place: int, source: str) -> Iterator[bool]:
        """Each time the source is there in a reading that gives the same."""
        target = self._pairing.found[place].target
        for kind in self._pairing.readings(source, target):
            if not self._pairing.choose(place, source, kind):
                return
            clone = self._calls()
            order = None if self._gives_alike(source, target, clone) else self._order(source, target, clone)
            if order is not None:
                self._pairing.choose(place, source, kind, order)
                clone = self._calls()
            if self._gives_alike(source, target, clone):
                yield True

    def _calls(self) -> Calls:
        """The clone's, with the pairing as it is. Raises MatchError for what no run can settle."""
        if self._trial.runs > _RUNS + _RUNS_EACH * len(self._pairing):
            times = f"the nets were run {self._trial.runs} times"
            raise ConversionError(f"{times}, and it is still open which of their layers belong together.")
        while True:
            try:
                return self._trial.calls(self._pairing.found)
            except MatchError as error:
                if not self._pairing.take_alike({item.subject for item in error.problems if item.kind in _ORDER}):
                    raise

    # -- what is seen of two layers ---------------------------------------------------------------------------------

    def _takes_same(self, source: str, target: str, clone: Calls) -> bool:
        return _may_be_same(self._source.taken(source), clone.taken(target))

    def _gives_alike(self, source: str, target: str, clone: Calls) -> bool:
        return _may_be_same(self._source.given(source), clone.given(target))

    def _order(self, source: str, target: str, clone: Calls) -> tuple[int, ...] | None:
        """The places among the features that come into the source at which those of the clone stand."""
        for ours, theirs in product(self._source.features(source), clone.features(target)):
            if ours.shape == theirs.shape and fingerprint(ours).is_like(fingerprint(theirs)):
                shapes = chain(self._source.shapes(ours.shape[1]), clone.shapes(ours.shape[1]))
                order = order_between(ours, theirs, (each for shape in shapes for each in permutations(shape)))
                return () if order == tuple(range(ours.shape[1])) else order
        return None

    def _told(self, place: int, takes: list[str]) -> str:
        """Where the nets part, and how. takes: the sources that take what the clone's layer there takes."""
        item, clone = self._pairing.found[place], self._calls()
        before = f"up to '{self._pairing.found[place - 1].target}' they compute the same, and then " if place else ""
        where = f"{before}they part at '{item.target}': it "
        if not takes:
            apart = _apart(self._source.inputs(item.source), clone.inputs(item.target))
            return f"{where}takes what no layer of the source takes that fits it ('{item.source}' takes {apart})"
        self._pairing.choose(place, takes[0])
        apart = _apart(self._source.outputs_of(takes[0]), self._calls().outputs_of(item.target))
        return f"{where}takes what '{takes[0]}' of the source takes, and that gives {apart}"


def _may_be_same(ours: Sequence[Fingerprint], theirs: Sequence[Fingerprint]) -> bool:
    """Whether any are the same; yes where one side is not seen."""
    return not ours or not theirs or any(one.is_like(other) for one, other in product(ours, theirs))


def _apart(ours: Sequence[Array], theirs: Sequence[Array]) -> str:
    """By how much the closest of these differ."""
    found = [compared(("", ""), one, other, any_order, None) for one, other in product(ours, theirs)]
    closest = min(found, key=lambda difference: difference.relative, default=None)
    if closest is None:
        return "what is not seen"
    if closest.relative == float("inf"):
        return f"shape {closest.shapes[0]} instead of {closest.shapes[1]}"
    return f"something else, max abs {closest.absolute:.2g}, max rel {closest.relative:.2g}"
