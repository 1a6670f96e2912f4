"""Layers by the names that well-known code bases give them (see `converter.schema.names`).

A table is used where it knows nearly all layers of both nets, each by the names of one code base, where the rows have
as many layers in one net as in the other, and all of these fit: else the nets are of another family, or a variant of
it, and other evidence decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from converter.core.layers import Layer, Net
from converter.core.natural_order import natural_key
from converter.schema.names import Row, Table, compiled, tables_for

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
    whole = source.by_path, target.by_path
    inner = ([path.removeprefix(_shared_lead(paths)) for path in paths] for paths in whole)
    tables = list(tables_for(*whole, least=_LEAST_KNOWN)) or tables_for(*inner, least=_LEAST_KNOWN)
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
    named = [(number, row) for number, row in enumerate(table.rows) if base in row.names]
    patterns = [(number, row, pattern) for number, row in named for pattern in row.names[base]]
    patterns.sort(key=lambda entry: entry[2].count("{"))  # a name that is told by fewer numbers is no other's
    spelled = _spellings(net, [pattern for _, _, pattern in patterns])
    rows: dict[int, list[Layer]] = {}
    for layer in net.layers:
        number = next((n for n, row, pattern in patterns if _is_of(layer, row, pattern, spelled(layer.path))), None)
        if number is not None:
            rows.setdefault(number, []).append(layer)
    needed = [number for number, row in named if not row.optional]
    has = sum(number in rows for number in needed)
    if sum(map(len, rows.values())) < _LEAST_KNOWN * len(net.layers) or has < _LEAST_ROWS * len(needed):
        return None
    return {number: sorted(layers, key=lambda layer: natural_key(layer.path)) for number, layers in rows.items()}


def _is_of(layer: Layer, row: Row, pattern: str, names: Sequence[str]) -> bool:
    regex = compiled(pattern)
    may_be = not row.kind or any(reading.kind == row.kind for reading in layer.readings)
    return may_be and any(map(regex.fullmatch, names))


def _spellings(net: Net, patterns: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Names that a layer may have in a table: a net may be a part of another (``bert.``, ``model.``) there or here."""
    lead, other = _shared_lead(net.by_path), _shared_lead(patterns)

    def spelled(path: str) -> tuple[str, ...]:
        return path, path.removeprefix(lead), other + path

    return spelled


def _shared_lead(names: Iterable[str]) -> str:
    """The module, with its dot, that more than half of the names begin with; "" for none."""
    names = list(names)
    leads = Counter(name.split(".", 1)[0] for name in names if "." in name)
    lead, count = next(iter(leads.most_common(1)), ("", 0))
    return f"{lead}." if 2 * count > len(names) else ""
