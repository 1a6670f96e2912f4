"""Layers by the names that well-known code bases give them (see `converter.schema.names`).

A table is used where it knows nearly all layers of both nets, each by the names of one code base, where the rows have
as many layers in one net as in the other, and all of these fit: else the nets are of another family, or a variant of
it, and other evidence decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

import msgspec

from converter.core.layers import Layer, Net
from converter.core.natural_order import natural_key
from converter.schema.names import Table, tables_for

#: Part of the layers of a net that a table must know (it lacks those that one code base has in one, and another apart),
#: and of its rows for a code base that the net must have.
_LEAST_KNOWN, _LEAST_ROWS = 0.5, 0.8
#: Nets with fewer layers may be anybody's.
_FEWEST = 8

#: The layers of each row that has any.
Rows = Mapping[int, Sequence[Layer]]


class Known(msgspec.Struct, frozen=True):
    """Two nets of a family that is known. source, target: their code bases. alone: layers of either that the code base
    of the other has not, and gives the same without.
    """

    family: str
    source: str
    target: str
    pairs: tuple[tuple[Layer, Layer], ...]
    alone: frozenset[str]

    @property
    def reason(self) -> str:
        return f"schema {self.family}, {self.source} -> {self.target}"


def known(source: Net, target: Net, fits: Callable[[Layer, Layer], bool]) -> Known | None:
    """What the tables say of two nets; None where none of them knows both."""
    if min(len(source.layers), len(target.layers)) < _FEWEST:
        return None
    tables = list(tables_for(source.by_path, target.by_path, least=_LEAST_KNOWN))
    tables = tables or list(tables_for(_without_lead(source), _without_lead(target), least=_LEAST_KNOWN))
    found = [one for table in tables for one in _by_table(table, source, target, fits)]
    best = max(found, key=lambda one: len(one.pairs), default=None)
    if best is None or any(len(one.pairs) == len(best.pairs) and _differ(one, best) for one in found):
        return None
    return best


def _differ(one: Known, other: Known) -> bool:
    return {(a.path, b.path) for a, b in one.pairs} != {(a.path, b.path) for a, b in other.pairs}


def _by_table(table: Table, source: Net, target: Net, fits: Callable[[Layer, Layer], bool]) -> Iterator[Known]:
    theirs = [(base, rows) for base in table.code_bases if (rows := _rows(table, base, target)) is not None]
    ours = [(base, rows) for base in table.code_bases if theirs and (rows := _rows(table, base, source)) is not None]
    for here, of_source in ours:
        for there, of_target in theirs:
            pairs = _pairs(of_source, of_target, fits)
            if pairs is not None:
                alone = [*_alone(table, of_source), *_alone(table, of_target)] if here != there else []
                yield Known(table.family, here, there, pairs, frozenset(alone))


def _alone(table: Table, rows: Rows) -> Iterator[str]:
    return (layer.path for number, layers in rows.items() if table.rows[number].alone for layer in layers)


def _pairs(ours: Rows, theirs: Rows, fits: Callable[[Layer, Layer], bool]) -> tuple[tuple[Layer, Layer], ...] | None:
    """The layers of each row that both have, in order; None where one of them shows that the nets are not alike."""
    pairs: list[tuple[Layer, Layer]] = []
    for row in ours.keys() & theirs.keys():
        if len(ours[row]) != len(theirs[row]) or not all(map(fits, ours[row], theirs[row])):
            return None
        pairs += zip(ours[row], theirs[row], strict=True)
    return tuple(pairs)


def _rows(table: Table, base: str, net: Net) -> Rows | None:
    """The layers of the net by row; None where its names are not those of this code base."""
    named = {number: row for number, row in enumerate(table.rows) if base in row.names}
    spelled = _spellings(net, [pattern for row in named.values() for pattern in row.names[base]])
    rows: dict[int, list[Layer]] = {}
    for layer in net.layers:
        possible = (number for name in spelled(layer.path) for number in table.rows_of(base, name))
        number = next((number for number in possible if _may_be(layer, named[number].kind)), None)
        if number is not None:
            rows.setdefault(number, []).append(layer)
    needed = [number for number, row in named.items() if not row.optional]
    has = sum(number in rows for number in needed)
    if sum(map(len, rows.values())) < _LEAST_KNOWN * len(net.layers) or has < _LEAST_ROWS * len(needed):
        return None
    return {number: sorted(layers, key=lambda layer: natural_key(layer.path)) for number, layers in rows.items()}


def _may_be(layer: Layer, kind: str) -> bool:
    return not kind or any(reading.kind == kind for reading in layer.readings)


def _spellings(net: Net, patterns: Sequence[str]) -> Callable[[str], Iterable[str]]:
    """Names that a layer may have in a table: a net may be a part of another (``bert.``, ``model.``) there or here."""
    lead, other = _shared_lead(tuple(net.by_path)), _shared_lead(tuple(patterns))

    def spelled(path: str) -> Iterator[str]:
        yield path
        if lead and path.startswith(lead):
            yield path[len(lead) :]
        if other:
            yield other + path

    return spelled


def _without_lead(net: Net) -> list[str]:
    lead = _shared_lead(tuple(net.by_path))
    return [path.removeprefix(lead) for path in net.by_path]


@lru_cache(maxsize=64)  # of a net it is asked for with each code base of each table
def _shared_lead(names: tuple[str, ...]) -> str:
    """The module, with its dot, that more than half of the names begin with; "" for none."""
    leads = Counter(name.split(".", 1)[0] for name in names if "." in name)
    lead, count = next(iter(leads.most_common(1)), ("", 0))
    return f"{lead}." if 2 * count > len(names) else ""
