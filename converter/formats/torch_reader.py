"""What the readers of all PyTorch files share: a pickle that describes, storages that hold."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property

from converter.formats.base import Contents, Reader
from converter.formats.torch_objects import Weights, find_weights
from converter.tensors import Array


class TorchReader(Reader):
    """A subclass gives `load`, which reads the pickle, and the storages (see `StorageBytes`)."""

    big_endian = False

    @abstractmethod
    def load(self) -> object:
        """What the pickle of the file describes. Raises FormatError."""

    @abstractmethod
    def size(self, key: str) -> int:
        """Bytes of that storage in the file. Raises FormatError."""

    @abstractmethod
    def raw(self, key: str, begin: int, length: int) -> Array:
        """That part of the storage: a flat array of uint8. Raises FormatError."""

    @cached_property
    def weights(self) -> Weights:
        return find_weights(self.load(), self.path, self.options.key)

    @cached_property
    def contents(self) -> Contents:
        return self.weights.contents(self.path, self)

    def read(self, name: str) -> Array:
        return self.weights.read(name, self.path, self)
