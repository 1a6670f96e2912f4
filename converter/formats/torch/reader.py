"""What the readers of all PyTorch files share: a description of tensors, storages that hold their data."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from pathlib import Path

from converter.core.contents import Contents
from converter.core.tensors import Array
from converter.formats.base import Reader, ReadOptions
from converter.formats.torch.objects import Weights, find_weights
from converter.formats.torch.tensors import TORCH_DTYPES, TorchFile

__all__ = ["TorchReader"]


class TorchReader(Reader):
    """A subclass says in `open` what kind of `TorchFile` it reads."""

    takes = frozenset({"key"})

    dtypes = tuple(TORCH_DTYPES)

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self.file = self.open()

    @abstractmethod
    def open(self) -> TorchFile:
        """The file of `path`, with the `options`. Raises FormatError."""

    @cached_property
    def weights(self) -> Weights:
        return find_weights(self.file.load(), self.path, self.options.key)

    @cached_property
    def contents(self) -> Contents:
        return self.weights.contents(self.path, self.file)

    def read(self, name: str) -> Array:
        return self.weights.read(name, self.path, self.file)

    def close(self) -> None:
        self.file.close()
