"""The weights and the slots of one file as one reader, for the plan that has both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from converter.core.contents import Contents
from converter.core.tensors import Array
from converter.errors import ConversionError
from converter.formats import Reader
from converter.formats.base import Opening, StateTensor


class StateReader(Reader):
    """The tensors of ``reader``, and those of ``states`` by the names that the steps have for them."""

    def __init__(self, reader: Reader, states: Mapping[str, StateTensor]) -> None:
        super().__init__(reader.path, reader.options)
        self._reader, self._states = reader, states
        self.parallel = reader.parallel

    @property
    def contents(self) -> Contents:
        return self._reader.contents

    @property
    def files(self) -> tuple[Path, ...]:
        return self._reader.files

    def read(self, name: str) -> Array:
        return self._states[name].read() if name in self._states else self._reader.read(name)

    def raw(self, name: str) -> Array:
        return self.read(name) if name in self._states else self._reader.raw(name)

    @property
    def opening(self) -> Opening:
        raise ConversionError("a training is carried in one process: leave out the shards, or the training.")
