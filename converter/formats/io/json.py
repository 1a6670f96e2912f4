"""JSON in weight files, read without trust: an object of a bounded size in which no name occurs twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from converter.core.tensors import DType
from converter.errors import FormatError
from converter.formats.io.budget import Budget
from converter.formats.io.files import Beside
from converter.formats.io.source import MAX_AXES

__all__ = ["MAX_JSON", "Document", "parse_json", "read_json"]

#: That of the header of safetensors; real indices and configurations have some megabytes.
MAX_JSON = 100_000_000
#: What each of these marks begins takes: a dict, a list, a name, a value.
_OBJECTS = {b"{": 232, b"[": 88, b":": 90, b",": 40}
#: Of a text with any letter that has no place in two bytes.
_WIDEST_LETTER = 5


def read_json(path: Path, files: Beside | None = None) -> dict[str, Any]:
    """The object that a whole file holds. files: of the checkpoint that it belongs to. Raises FormatError."""
    with closing((files or Beside(path)).open(path)) as source:
        if source.size > MAX_JSON:
            raise FormatError(path, f"{source.size} bytes of JSON; at most {MAX_JSON} are allowed")
        return parse_json(path, source.take(0, source.size, "it"), "it", source.budget)


def parse_json(path: Path, text: bytes, what: str, budget: Budget | None = None) -> dict[str, Any]:
    """``what``, a part of the file or "it", says errors apart. Raises FormatError for anything but an object.

    budget: of the checkpoint; by default that of a file that stands alone.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        parsed = dict(pairs)
        if len(parsed) != len(pairs):
            raise FormatError(path, f"a name occurs twice in {what}, among {[name for name, _ in pairs][:5]}")
        return parsed

    if len(text) > MAX_JSON:
        raise FormatError(path, f"{what} has {len(text)} bytes of JSON; at most {MAX_JSON} are allowed")
    (budget or Budget(path)).check(_parsed_size(text) - len(text), f"the JSON of {what}")
    try:
        parsed = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(path, f"{what} is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise FormatError(path, f"{what} is not a JSON object")
    return parsed


def _parsed_size(text: bytes) -> int:
    """At most so many bytes of memory: ``[],`` is three in the file, and a list of 56 and its place in another."""
    objects = sum(size * text.count(mark) for mark, size in _OBJECTS.items())
    return objects + len(text) * (1 if text.isascii() else _WIDEST_LETTER)


class Document:
    """A value of a JSON document and where it stands; every access checks the type. Raises FormatError."""

    def __init__(self, value: object, path: Path, where: str) -> None:
        self.value = value
        self.path = path
        self.where = where

    @classmethod
    def parse(cls, data: bytes, path: Path, where: str) -> Document:
        return cls(parse_json(path, data, where), path, where)

    def get(self, key: str) -> Document:
        return Document(self.mapping().get(key), self.path, f"{self.where}, '{key}'")

    def mapping(self) -> Mapping[str, object]:
        if not isinstance(self.value, dict):
            raise self.error("an object")
        return self.value

    def items(self) -> list[tuple[str, Document]]:
        return [(key, self.get(key)) for key in self.mapping()]

    def list(self) -> list[Document]:
        """The items of a list; none where the key is missing."""
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            raise self.error("a list")
        return [Document(item, self.path, f"{self.where}, item {index}") for index, item in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.error("a text")
        return self.value

    def count(self) -> int:
        """A number that is not negative; protobuf writes its large ones as text."""
        value = int(self.value) if isinstance(self.value, str) and self.value[:20].isdecimal() else self.value
        if not isinstance(value, int) or not 0 <= value < 1 << 60:
            raise self.error("a number that is not negative")
        return value

    def dtype(self, names: Mapping[object, DType]) -> DType:
        if not isinstance(self.value, (str, int)) or self.value not in names:
            raise self.error("a known dtype")
        return names[self.value]

    def sizes(self) -> tuple[int, ...]:
        sizes = tuple(item.count() for item in self.list())
        if len(sizes) > MAX_AXES:
            raise self.error(f"at most {MAX_AXES} sizes")
        return sizes

    def error(self, expected: str) -> FormatError:
        return FormatError(self.path, f"{self.where} is {str(self.value)[:40]!r}, not {expected}")
