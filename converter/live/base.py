"""The contract of a live net: what tensors it has, and how they are set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from converter.formats.base import Contents
from converter.frameworks import Framework, framework
from converter.tensors import Array


class LiveNet(ABC):
    """A net in memory. It is to the converter what a clone's file is: a template, and a place to write to."""

    framework_name: ClassVar[str]

    def __init__(self, net: Any) -> None:
        self.net = net

    @property
    def framework(self) -> Framework:
        return framework(self.framework_name)

    @abstractmethod
    def contents(self) -> Contents:
        """Names, shapes and dtypes, in the order of the net; a size of -1 is still unknown (gluon)."""

    @abstractmethod
    def fill(self, tensors: Iterable[tuple[str, Array]]) -> Any:
        """Set each named tensor, and return the net (a new tree for linen)."""
