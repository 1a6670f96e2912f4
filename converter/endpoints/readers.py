"""Several sources read as one: the tensors of each under its own word, ``old:hidden.weight``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from threading import Lock

from msgspec.structs import replace

from converter.core.tensors import Array, TensorSpec
from converter.errors import ConversionError
from converter.formats import Contents, Reader
from converter.formats.base import Opening
from converter.live import LiveNet


class LiveReader(Reader):
    """A live net as if it were a file; its path is the name of its class."""

    def __init__(self, live: LiveNet) -> None:
        super().__init__(Path(type(live.net).__name__))
        self._live = live

    @cached_property
    def contents(self) -> Contents:
        return self._live.described()

    def read(self, name: str) -> Array:
        return self._live.read(name)

    @property
    def opening(self) -> Opening:
        raise ConversionError(f"'{self.path}' is a net in the memory of this process. Save it to a file first.")


class WithClone(Reader):
    """A source, and behind it the clone, whose tensors are called as `converter.planning.plan.kept` says."""

    def __init__(self, source: Reader, clone: Callable[[str], Array]) -> None:
        super().__init__(source.path)
        self._source, self._clone = source, clone
        self._one = Lock()
        self.parallel = source.parallel

    @cached_property
    def contents(self) -> Contents:
        return self._source.contents

    def read(self, name: str) -> Array:
        if not name.startswith("\0"):
            return self._source.read(name)
        with self._one:
            return self._clone(name[1:])


class JoinedReader(Reader):
    """The tensors of several readers, which stay the caller's to close. Its path is that of the last."""

    def __init__(self, readers: Mapping[str, Reader]) -> None:
        super().__init__(list(readers.values())[-1].path)
        self._readers = readers
        self.parallel = all(reader.parallel for reader in readers.values())

    @cached_property
    def contents(self) -> Contents:
        specs = ((word, spec) for word, reader in self._readers.items() for spec in reader.contents.specs)
        return Contents(tuple(of(word, spec) for word, spec in specs))

    def read(self, name: str) -> Array:
        word, _, rest = name.partition(":")
        return self._readers[word].read(rest)


def of(word: str, spec: TensorSpec) -> TensorSpec:
    """The tensor as `JoinedReader` calls it."""
    return replace(spec, name=f"{word}:{spec.name}")
