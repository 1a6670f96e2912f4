"""Tables of positions with two rows more in one of the nets, at the front.

BART, OPT and RoBERTa count positions from 2, as fairseq does (its padding is token 1), so that no row before that is
ever looked up; their counterparts in other code bases begin at once. Two rows are all that is known of: any other
difference may be one of the longest text, or of tokens before the patches of an image, whose rows are used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from converter.core.layers import Layer, Net, Stored
from converter.core.rows import DropRows
from converter.matching.pairs import Pair
from converter.matching.words import Spelling, tokens_in

#: So many rows, and what is said of a table that has them.
_OFFSET = 2
_UNUSED = f"its first {_OFFSET} rows are no positions"
#: Words for tables that are looked up by differences of positions.
_RELATIVE = frozenset({"relative", "rel", "bias"})
_TABLES = frozenset({"embedding", "parameter"})


def without_offset(net: Net, other: Net) -> Net:
    """The net with each table of positions without its first two rows, where just these are what the other's lack."""
    tables = _tables(net)
    ours, theirs = Counter(tables.values()), Counter(_tables(other).values())
    longer = {
        (rows, width)
        for rows, width in ours.keys() - theirs.keys()
        if theirs[rows - _OFFSET, width] == ours[rows, width] and (rows - _OFFSET, width) not in ours
    }
    if not longer or _takes_images(net) or _takes_images(other):
        return net
    layers = (_shortened(layer) if tables.get(layer.path) in longer else layer for layer in net.layers)
    return replace(net, layers=tuple(layers))


def with_offset_told(pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs, with what is likely of tables that were shortened."""
    return [
        replace(pair, reason=f"{pair.reason}; {_UNUSED}", likely=True)
        if any(map(_is_shortened, (pair.source, pair.target)))
        else pair
        for pair in pairs
    ]


def _tables(net: Net) -> Mapping[str, tuple[int, int]]:
    """Path of each table of positions -> its rows, and their width."""
    shapes = {layer.path: layer.tensors[0].shape for layer in net.layers if _is_table(layer)}
    return {path: (shape[0], shape[1]) for path, shape in shapes.items() if len(shape) == 2}


def _is_table(layer: Layer) -> bool:
    if len(layer.tensors) != 1 or not any(reading.kind in _TABLES for reading in layer.readings):
        return False
    words = Spelling(tuple(tokens_in(layer.path))).meaning()
    return "position" in words and not words & _RELATIVE


def _takes_images(net: Net) -> bool:
    return any(len(spec.shape) == 4 for layer in net.layers if "conv" in layer.kind for spec in layer.tensors)


def _shortened(layer: Layer) -> Layer:
    tables = tuple(reading for reading in layer.readings if reading.kind in _TABLES)
    return replace(layer, readings=tables).with_tensors(_without_rows)


def _without_rows(stored: Stored) -> Stored:
    op = DropRows(_OFFSET)
    return replace(stored, spec=op.infer((stored.spec,))[0], sources=(stored.spec,), fold=op)


def _is_shortened(layer: Layer) -> bool:
    return any(isinstance(item.fold, DropRows) for reading in layer.readings for item in reading.stored)
