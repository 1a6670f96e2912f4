"""Readers of what is no file of its own: a live net, tensors that are computed, and the names of another file."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from converter.core.tensors import Array
from converter.errors import ConversionError, FormatError
from converter.formats import Contents, Reader
from converter.formats.base import Opening
from converter.formats.io.budget import Budget
from converter.formats.locations import location
from converter.options import ReadOptions

if TYPE_CHECKING:
    from converter.live import LiveNet


class LiveReader(Reader):
    """A live net as if it were a file; its path is the name of its class."""

    def __init__(self, live: LiveNet) -> None:
        super().__init__(Path(type(live.net).__name__))
        self._live = live

    @property
    def files(self) -> tuple[Path, ...]:
        return ()

    @cached_property
    def contents(self) -> Contents:
        return self._live.described()

    def read(self, name: str) -> Array:
        return self._live.read(name)

    @property
    def opening(self) -> Opening:
        raise ConversionError(f"'{self.path}' is a net in the memory of this process. Save it to a file first.")


class ComputingReader(Reader):
    """The tensors of ``reader``, some of which are computed when they are read; ``_made`` has their names."""

    _made: Mapping[str, Any]
    _contents: Contents

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader.path, reader.options)
        self._reader = reader
        self.parallel = reader.parallel
        self._budget = Budget(reader.path)

    @property
    def contents(self) -> Contents:
        return self._contents

    @property
    def files(self) -> tuple[Path, ...]:
        return self._reader.files

    def peek(self, name: str) -> Array:
        return self.read(name) if name in self._made else self._reader.peek(name)

    def digest(self, name: str) -> Hashable:
        return None if name in self._made else self._reader.digest(name)

    @cached_property
    def _stored(self) -> int:
        """Bytes of the files: what is expanded in a view of few bytes justifies no more."""
        return sum(file.stat().st_size for file in self._reader.files if file.is_file())

    def close(self) -> None:
        self._reader.close()


class RenamedReader(Reader):
    """The tensors of ``reader``, each with the name that ``names`` has in the same position.

    Raises FormatError unless both have as many tensors, with the same shape in each position.
    """

    def __init__(self, reader: Reader, names: Contents) -> None:
        super().__init__(reader.path, reader.options)
        self._reader, self._names = reader, names
        self.parallel = reader.parallel
        specs, named = reader.contents.specs, names.specs
        if len(specs) != len(named):
            raise FormatError(reader.path, f"has {len(specs)} tensors, and the file that is to name them {len(named)}")
        both = list(zip(specs, named, strict=True))
        for spec, name in both:
            if spec.shape != name.shape:
                there = f"at the same position, '{name.name}' is {name.shape}"
                raise FormatError(reader.path, f"tensor '{spec.name}' has shape {spec.shape}; {there}")
        self._places = {name.name: spec.name for spec, name in both}
        renamed = tuple(replace(spec, name=name.name) for spec, name in both)
        self._contents = replace(reader.contents, specs=renamed, container="dict")

    @property
    def contents(self) -> Contents:
        return self._contents

    @property
    def files(self) -> tuple[Path, ...]:
        named = self.options.names_from
        return (*self._reader.files, *([location(named)] if named is not None else []))

    def read(self, name: str) -> Array:
        return self._reader.read(self._places[name])

    @property
    def opening(self) -> Opening:
        opening = self._reader.opening
        return replace(opening, reader=partial(_renamed, opening.reader, self._names))

    def close(self) -> None:
        self._reader.close()


def _renamed(
    reader: Callable[[Path, ReadOptions], Reader], names: Contents, path: Path, options: ReadOptions
) -> RenamedReader:
    return RenamedReader(reader(path, options), names)
