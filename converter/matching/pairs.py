"""Pairs of layers, and what they rest on."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from converter.core.layers import Layer
from converter.errors import MatchError, NamedShape, Paired, Problem, Remedy
from converter.matching.tied import Ties
from converter.matching.untrained import Kept

SCHEMA, MAP, LOCKSTEP, SAME_NAME = "schema", "map", "lockstep", "same name"
_CERTAIN = frozenset({MAP, LOCKSTEP, SAME_NAME})


def is_certain(reason: str) -> bool:
    """Whether ``strict`` accepts a pair that rests on it."""
    return reason in _CERTAIN or of_schema(reason)


def of_schema(reason: str) -> bool:
    """Whether a schema says it: that of the user, or a table of known names."""
    return reason == SCHEMA or bool(names_known_by(reason))


def names_known_by(reason: str) -> str:
    """The family and the code bases of a table of known names that says it (see `known_names`); "" for none."""
    said = reason.partition(";")[0]
    return said.removeprefix(f"{SCHEMA} ") if said.startswith(f"{SCHEMA} ") else ""


class Pair(msgspec.Struct, frozen=True, gc=False):
    """likely: whether it is what the evidence speaks for, and not certain (see `evidence`)."""

    source: Layer
    target: Layer
    reason: str
    likely: bool = False

    @property
    def told(self) -> Paired:
        """As an error has it."""
        source, target = self.source, self.target
        sources, targets = (
            tuple(NamedShape(spec.name, spec.shape) for spec in end.tensors) for end in (source, target)
        )
        return Paired(source.path, target.path, source.kind, sources, targets, self.reason, self.likely)


class Matched(msgspec.Struct, frozen=True):
    """The pairs; what is tied to one of them; and the target layers that the source lacks and may lack."""

    pairs: tuple[Pair, ...]
    ties: Ties
    kept: tuple[Kept, ...]


def check_strict(pairs: Iterable[Pair]) -> None:
    """Raises MatchError for pairs that rest on less than a name."""
    pairs = list(pairs)
    problems = [not_certain(pair, pair.reason) for pair in pairs if not is_certain(pair.reason)]
    if problems:
        raise MatchError(problems, paired=(pair.told for pair in pairs))


def not_certain(pair: Pair, reason: str) -> Problem:
    """What ``strict`` says of a pair that rests on this."""
    source, target = pair.source.path, pair.target.path
    return Problem(
        f"'{source}' -> '{target}' rests on: {reason}.",
        "strict",
        source,
        candidates=(target,),
        remedies=(Remedy("map", (source, target)),),
        summary="{count} pairs rest on less than a name.",
        about=Remedy("strict"),
    )
