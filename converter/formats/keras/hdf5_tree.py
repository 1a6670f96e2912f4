"""What an HDF5 file holds, whoever reads it: our own code (`hdf5_plain`) or the library (`hdf5_library`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from converter.core.contents import LeftOut
from converter.core.natural_order import natural_key
from converter.core.tensors import Array, TensorSpec
from converter.errors import ConversionError, FormatError

__all__ = ["Content", "Dataset", "Tree", "Unusual", "damaged_means_format_error", "in_order"]


class Unusual(Exception):  # noqa: N818 - no error: the file may be right
    """A file, right or wrong, of which something is not laid out in the plain way: the library has to read it."""


class Dataset(msgspec.Struct, frozen=True):
    """A numeric dataset. ``age`` grows with the time of its writing.

    Where a group does not keep the order of creation, the age tells it nearly always: objects go to the end of the
    file, or into a gap left earlier, so of all objects of a group the one with the highest address shows when the
    group was written.
    """

    spec: TensorSpec
    age: int


class Tree(msgspec.Struct):
    """The objects of a file; paths have no leading slash. links: a second name -> the first."""

    datasets: list[Dataset] = msgspec.field(default_factory=list)
    groups: list[str] = msgspec.field(default_factory=list)
    links: dict[str, str] = msgspec.field(default_factory=dict)
    left_out: list[LeftOut] = msgspec.field(default_factory=list)


class Content(ABC):
    """An open file. ``path``: of a group or dataset, without a leading slash; "" is the root."""

    @abstractmethod
    def tree(self) -> Tree:
        """Every object once, under its first name; ``layers`` goes before the other names of a group."""

    @abstractmethod
    def read(self, spec: TensorSpec) -> Array:
        """A dataset of `tree`, read-only."""

    @abstractmethod
    def texts(self, path: str, attribute: str) -> list[str]:
        """A text attribute of one or several values, [] when there is none."""

    @abstractmethod
    def has(self, path: str) -> bool: ...

    @abstractmethod
    def attributes(self, path: str) -> list[str]:
        """The names of all."""

    @abstractmethod
    def close(self) -> None: ...


def in_order(names: Sequence[str]) -> list[str]:
    """Those of a group that does not keep the order of creation."""
    return sorted(names, key=lambda name: (name != "layers", natural_key(name)))


@contextmanager
def damaged_means_format_error(path: Path, what: str) -> Iterator[None]:
    """Damage surfaces as nearly any exception, of h5py above all: all become FormatError."""
    try:
        yield
    except (ConversionError, Unusual):
        raise
    except Exception as error:
        text = str(error).strip("'\"") or type(error).__name__
        raise FormatError(path, f"{what}: damaged or incomplete HDF5 ({text[:200]})") from None
