"""What a page says of each layer, taken from the documents that ``--json`` prints: of a conversion, or of a refusal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec

from converter.core.layers import split_path
from converter.core.natural_order import natural_key
from converter.errors import FLAGS, Placeholder, Remedy
from converter.matching.pairs import SCHEMA
from converter.planning.plan import KEPT

CERTAIN, LIKELY, ASKED, KEEPS, LEFT_OUT = "certain", "likely", "asked", "kept", "left out"
#: Status -> its mark, and what it means.
STATUSES: Mapping[str, tuple[str, str]] = {
    CERTAIN: ("✓", "by a schema, a map, the same name, or the only place of this shape"),
    LIKELY: ("≈", "all the evidence speaks for it, and nothing proves it; --strict refuses it"),
    ASKED: ("?", "the evidence singles nothing out: you decide"),
    KEEPS: ("=", "the values of the clone stay"),
    LEFT_OUT: ("∅", "of the source, and not handed on"),
}
#: A tensor as the documents have it: name, shape, and where it is known dtype.
Tensor = Mapping[str, Any]


class Moved(msgspec.Struct, frozen=True, gc=False):
    """What becomes of tensors; done: by which operations, "" where that is not known yet."""

    sources: Sequence[Tensor]
    targets: Sequence[Tensor]
    done: str = ""


class Line(msgspec.Struct, frozen=True, gc=False):
    """A layer on the page. options: what settles or overrules it, as the command line takes it.

    question: the number of the problem that asks about it; 0 where none does.
    """

    path: str
    status: str
    reason: str
    kind: str = ""
    moved: Sequence[Moved] = ()
    options: Sequence[str] = ()
    question: int = 0


class Module(msgspec.Struct):
    """A node of the tree: the layers and modules in it, each with the name that it has there."""

    inside: list[tuple[str, Line | Module]] = []

    @property
    def lines(self) -> Iterator[Line]:
        """All layers in it, and in the modules in it."""
        for _, item in self.inside:
            yield from (item,) if isinstance(item, Line) else item.lines


def tree(lines: Iterable[Line]) -> Module:
    """The modules that the paths form."""
    modules: dict[tuple[str, ...], Module] = {(): Module()}

    def module(path: tuple[str, ...]) -> Module:
        if path not in modules:
            modules[path] = Module()
            module(path[:-1]).inside.append((path[-1], modules[path]))
        return modules[path]

    for line in lines:
        *around, name = split_path(line.path)
        module(tuple(around)).inside.append((name, line))
    for each in modules.values():
        each.inside = _in_order(each.inside)
    return modules[()]


def _in_order(inside: Sequence[tuple[str, Line | Module]]) -> list[tuple[str, Line | Module]]:
    """Names that differ in a number alone follow each other by it, from where the first of them stands."""
    first: dict[str, int] = {}
    for position, (name, _) in enumerate(inside):
        first.setdefault(_letters(name), position)
    return sorted(inside, key=lambda item: (first[_letters(item[0])], natural_key(item[0])))


def _letters(name: str) -> str:
    return name.rstrip("0123456789")


# -- of a conversion --------------------------------------------------------------------------------------------------


def converted(document: Mapping[str, Any]) -> list[Line]:
    """The layers of `Report.to_dict`."""
    alike = groupby(document["tensors"], key=lambda tensor: (tensor["layer"], tensor["reason"], tensor["likely"]))
    return [_converted(list(tensors)) for _, tensors in alike]


def _converted(tensors: Sequence[Mapping[str, Any]]) -> Line:
    first = tensors[0]
    path, reason = first["layer"], first["reason"]
    status = KEEPS if reason == KEPT else LIKELY if first["likely"] else CERTAIN
    moved = [Moved(item["sources"], [item["target"]], _done(item)) for item in tensors]
    return Line(path, status, reason, first["kind"], moved, _overruling(path, status, reason))


def _done(tensor: Mapping[str, Any]) -> str:
    return ", ".join(dict.fromkeys(tensor["done"])) or "moved"


def _overruling(path: str, status: str, reason: str) -> tuple[str, ...]:
    """The options that say otherwise."""
    if reason == SCHEMA:
        return (FLAGS(Remedy("schema", Placeholder("NAMES.yaml"))),)
    if reason.startswith(KEPT):
        return (FLAGS(Remedy("map", (Placeholder("SOURCE"), path))),)
    ways = [Remedy("map", (path, Placeholder("TARGET")))]
    if status == LIKELY:
        ways.append(Remedy("kind", (path, Placeholder("KIND"))))
    return tuple(map(FLAGS, ways))


# -- of a refusal -----------------------------------------------------------------------------------------------------


def refused(document: Mapping[str, Any]) -> list[Line]:
    """The layers of `MatchError.to_dict`: those that were paired, and those that a problem is about."""
    problems = document["problems"]
    asked = {path: at for at, problem in enumerate(problems, 1) for path in (problem["subject"], *problem["alike"])}
    lines = [_paired(pair, asked, problems) for pair in document["paired"]]
    known = {pair[end] for pair in document["paired"] for end in ("layer", "into")}
    for path, number in asked.items():
        problem = problems[number - 1]
        if path and path not in known and problem["about"] is None:  # else it is an option that is wrong
            lines.append(Line(path, ASKED, problem["text"], question=number))
    return lines


def _paired(pair: Mapping[str, Any], asked: Mapping[str, int], problems: Sequence[Mapping[str, Any]]) -> Line:
    path, kind, moved = pair["layer"], pair["kind"], [Moved(pair["sources"], pair["targets"])]
    if number := asked.get(path) or asked.get(pair["into"]):
        return Line(path, ASKED, problems[number - 1]["text"], kind, moved, question=number)
    status, reason = LIKELY if pair["likely"] else CERTAIN, pair["reason"]
    return Line(path, status, reason, kind, moved, _overruling(path, status, reason))
