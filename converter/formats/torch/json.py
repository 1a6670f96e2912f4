"""The JSON documents inside of PyTorch's archives, read without trust."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from converter.core.tensors import DType
from converter.errors import FormatError
from converter.formats.io.files import read_whole
from converter.formats.io.json import MAX_JSON, parse_json
from converter.formats.torch.tensors import MAX_AXES

__all__ = ["Document"]


class Document:
    """A value of a JSON document and where it stands; every access checks the type. Raises FormatError."""

    def __init__(self, value: object, path: Path, place: str) -> None:
        self.value = value
        self.path = path
        self.place = place

    @classmethod
    def parse(cls, data: bytes, path: Path, place: str) -> Document:
        return cls(parse_json(path, data, place), path, place)

    @classmethod
    def read(cls, path: Path, place: str) -> Document:
        """A whole file."""
        return cls.parse(read_whole(path, MAX_JSON), path, place)

    def get(self, key: str) -> Document:
        return Document(self.mapping().get(key), self.path, f"{self.place}, '{key}'")

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
        return [Document(item, self.path, f"{self.place}, item {index}") for index, item in enumerate(self.value)]

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
        return FormatError(self.path, f"{self.place} is {str(self.value)[:40]!r}, not {expected}")
