"""Tables of known names: what the layers of a family of nets are called in the code bases that have it.

    family: mobilenet_v2
    layers:
      - {kind: conv, torchvision: features.0.0, timm: conv_stem, keras.applications: Conv1}
      - {kind: conv, torchvision: "features.{i}.conv.2", timm: "blocks.{i}.{j}.conv_pwl", keras.applications: ...}

A row is one layer, or all layers of one place in the blocks of a net, in the order of the numbers in their names.
Code bases number their blocks in many ways, so the numbers of two columns need not be the same: the first layer of a
row in one net is the first in the other, and so on. A code base that calls
them otherwise in some nets has a list of names. ``{i}`` stands for a number, ``{_i}`` for the suffix of the second
and later of its kind in Keras, and ``{@i}`` for a letter. ``optional`` rows are not in every net of the family. Layers
of an ``alone`` row are in one code base only, and the nets of the others give the same without them.

The files are in ``schemas/names``, written from pairs that were proved by running both nets (`tests.zoo.names`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property, lru_cache
from pathlib import Path

import msgspec

from converter.errors import ConversionError
from converter.schema.bounds import read_text, read_yaml
from converter.schema.errors import near_miss
from converter.schema.loader import schema_folder

_PLACE = re.compile(r"\{([_@]?)[a-z]\}")
_VALUES = {"": "[0-9]{1,9}", "_": "(?:_[0-9]{1,9})?", "@": "[a-z]"}
#: Values of the places.
_EXAMPLES = ({"": "0", "_": "", "@": "a"}, {"": "0", "_": "_0", "@": "a"})
_NUMBERED = re.compile(r"[0-9]+(?:[a-z](?=[_.]|$))?")
_PRIVATE = re.compile(r"(?:^|(?<=\.))_+")
#: What is not the same in all layers of a row: numbers, with the letter behind, and places for them; and signs.
_VARIES = re.compile(r"\{[_@]?[a-z]\}|[0-9]+[a-z]?(?![a-z])|_")


class Row(msgspec.Struct, frozen=True):
    """kind: of its layers, "" where code bases differ. names: code base -> patterns. optional: a net may lack it.
    alone: only this code base has it, and what the nets compute does not depend on it.
    """

    names: Mapping[str, tuple[str, ...]]
    kind: str = ""
    optional: bool = False
    alone: bool = False


_KEYS = {"kind", "optional", "alone"}


class Table(msgspec.Struct, frozen=True, dict=True):
    """The names of a family."""

    family: str
    rows: tuple[Row, ...]

    @cached_property
    def code_bases(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for row in self.rows for name in row.names))

    def rows_of(self, code_base: str, name: str) -> Iterator[int]:
        """The numbers of the rows that a layer of this name may be of, the one with the fewest places first."""
        called = _public(name)
        alike = self._by_skeleton.get((code_base, _skeleton(called)), ())
        return (number for number, pattern in alike if compiled(_public(pattern)).fullmatch(called))

    @cached_property
    def _by_skeleton(self) -> Mapping[tuple[str, str], Sequence[tuple[int, str]]]:
        """To compare each name of a large net with each pattern would take seconds."""
        found: dict[tuple[str, str], dict[tuple[int, str], None]] = defaultdict(dict)
        for number, row in enumerate(self.rows):
            for base, patterns in row.names.items():
                for pattern in patterns:
                    for name in _examples(_public(pattern)):
                        found[base, _skeleton(name)][number, pattern] = None
        return {key: sorted(rows, key=lambda row: row[1].count("{")) for key, rows in found.items()}


def _examples(pattern: str) -> Iterator[str]:
    """Names that it has: with and without the suffixes that may be missing."""
    parts = _PLACE.split(pattern)  # text and the sign of a place by turns
    for values in _EXAMPLES:
        yield "".join(values[part] if i % 2 else part for i, part in enumerate(parts))


@lru_cache(maxsize=1 << 16)
def _public(name: str) -> str:
    """A file of Keras calls a layer as the attribute is called that it is in, and often that is the name of the layer
    with an underscore before it; a live net has the latter.
    """
    return _PRIVATE.sub("", name)


@lru_cache(maxsize=1 << 16)
def _skeleton(name: str) -> str:
    """Without numbers, and the letters of blocks behind them."""
    return _NUMBERED.sub("#", name)


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """What the names of a row match."""
    parts = _PLACE.split(pattern)  # text and the sign of a place by turns
    return re.compile("".join(_VALUES[part] if i % 2 else re.escape(part) for i, part in enumerate(parts)))


def parse_table(text: str) -> Table:
    data = read_yaml(text)
    rows = []
    for entry in data["layers"]:
        given = ((name, value) for name, value in entry.items() if name not in _KEYS)
        names = {name: tuple(value) if isinstance(value, list) else (value,) for name, value in given}
        rows.append(Row(names=names, **{key: entry[key] for key in _KEYS & entry.keys()}))
    return Table(data["family"], tuple(rows))


@cache
def _texts() -> Mapping[Path, str]:
    """Each file, with its text without what varies. To read them all as YAML would take seconds."""
    files = sorted((schema_folder() / "names").glob("*.yaml"))
    return {file: _VARIES.sub("", read_text(file)) for file in files}


@cache
def _table(file: Path) -> Table:
    return parse_table(read_text(file))


def tables() -> Iterator[Table]:
    """All that are shipped."""
    return map(_table, _texts())


def table_of(family: str) -> Table:
    """Raises ConversionError for a family that has none."""
    known = {file.stem: file for file in _texts()}
    if family not in known:
        raise ConversionError(f"there is no table of names of '{family}'. {near_miss(family, known)}")
    return _table(known[family])


def tables_for(*nets: Iterable[str], least: float) -> Iterator[Table]:
    """Those that may know at least this part of the names of each net."""
    plain = [{_VARIES.sub("", path) for path in paths} for paths in nets]
    for file, text in _texts().items():
        if all(paths and sum(path in text for path in paths) >= least * len(paths) for paths in plain):
            yield _table(file)
