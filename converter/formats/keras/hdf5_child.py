"""libhdf5 in another process, with limits of memory and time, for files that are not laid out in the plain way.

The library crashes on some damaged files (1.14.6: about one in 2,000 of the new layout; every one whose scale-offset
filter claims a wrong number of elements), never comes to an end with others, and unpacks whatever a chunk unpacks to.
Here that is a FormatError. The process is asked for one thing at a time: a line of JSON goes in, frames come out.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from io import FileIO
from pathlib import Path
from typing import IO, Any, cast

import msgspec
import numpy as np

from converter.core.contents import LeftOut
from converter.core.tensors import DTYPES, Array, TensorSpec
from converter.errors import FormatError, MissingLibraryError
from converter.formats.io.budget import LIMIT
from converter.formats.io.child import Process, addresses, answer, limit_seconds
from converter.formats.io.files import FileSource
from converter.formats.io.source import Part, Source, SourceFile, frozen
from converter.formats.keras.hdf5_tree import Content, Dataset, Tree

__all__ = ["ChildFile", "serve"]

_BLOCK = 1 << 20
#: The process imports from where this one does, and not from the folder in which it was started.
_START = "import sys; sys.path[:] = {path}; from converter.formats.keras.hdf5_child import serve; serve(*{words})"


class ChildFile(Content):
    """The same as `hdf5_library.LibraryFile`, which the process has."""

    def __init__(self, source: Source) -> None:
        if find_spec("h5py") is None:
            raise MissingLibraryError(f"{source.path}: this HDF5 file needs h5py: pip install h5py")
        self._source = source
        self._copy: IO[bytes] | None = None
        descriptor, start = self._descriptor(source)
        words = (descriptor, start, source.size)
        self._process = _Library(_START.format(path=sys.path, words=words), [descriptor])

    def close(self) -> None:
        self._process.close()
        if self._copy is not None:
            self._copy.close()

    def tree(self) -> Tree:
        answer = msgspec.json.decode(self._answer("tree"), type=_TreeAnswer)
        return answer.tree()

    def read(self, spec: TensorSpec) -> Array:
        whole = np.empty(spec.shape, spec.dtype)
        memory, filled = whole.reshape(-1).view(np.uint8).data, 0
        for size in self._process.frames(self._source.path, "read", spec.name, list(spec.shape), spec.dtype.name):
            if size > len(memory) - filled:
                raise FormatError(self._source.path, f"'{spec.name}' has more elements than its shape")
            self._process.receive(self._source.path, memory[filled : filled + size])
            filled += size
        if filled != len(memory):
            raise FormatError(self._source.path, f"'{spec.name}' has fewer elements than its shape")
        return frozen(whole)

    def texts(self, path: str, attribute: str) -> list[str]:
        return msgspec.json.decode(self._answer("texts", path, attribute), type=list[str])

    def has(self, path: str) -> bool:
        return msgspec.json.decode(self._answer("has", path), type=bool)

    def attributes(self, path: str) -> list[str]:
        return msgspec.json.decode(self._answer("attributes", path), type=list[str])

    def _descriptor(self, source: Source) -> tuple[int, int]:
        """An open file with the bytes, and where they start in it."""
        start, inner = 0, source
        while isinstance(inner, Part):
            start, inner = start + inner.start, inner.outer
        if isinstance(inner, FileSource):
            return inner.fileno(), start
        self._copy = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this
        shutil.copyfileobj(SourceFile(source), self._copy, _BLOCK)
        self._copy.flush()
        return self._copy.fileno(), 0

    def _answer(self, question: str, *words: object) -> bytes:
        answer = b""
        for size in self._process.frames(self._source.path, question, *words):
            self._source.budget.charge(size, "the list of what is in it")
            answer += self._process.received(self._source.path, size)
        return answer


class _Library(Process):
    endless = "damaged HDF5: the library does not come to an end with it"
    crashed = "damaged HDF5: the library crashes on it"


class _TreeAnswer(msgspec.Struct):
    """A `Tree` as JSON: datasets as (name, shape, dtype, age), what is left out as (name, reason)."""

    datasets: list[tuple[str, list[int], str, int]]
    groups: list[str]
    links: dict[str, str]
    left_out: list[tuple[str, str]]

    @classmethod
    def of(cls, tree: Tree) -> _TreeAnswer:
        datasets = [(d.spec.name, list(d.spec.shape), d.spec.dtype.name, d.age) for d in tree.datasets]
        return cls(datasets, tree.groups, tree.links, [(left.name, left.reason) for left in tree.left_out])

    def tree(self) -> Tree:
        datasets = [
            Dataset(TensorSpec(name, tuple(shape), DTYPES[dtype]), age) for name, shape, dtype, age in self.datasets
        ]
        return Tree(datasets, self.groups, self.links, [LeftOut(name, why) for name, why in self.left_out])


# -- in the other process ---------------------------------------------------------------------------------------------


def serve(descriptor: int, start: int, size: int) -> None:
    """Answer the questions on stdin until it ends."""
    from converter.formats.keras.hdf5_library import LibraryFile

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if before := addresses():
        resource.setrlimit(resource.RLIMIT_AS, (before + LIMIT, before + LIMIT))
    limit_seconds(size)
    output = FileIO(os.dup(1), "w")
    source = Part(FileSource(Path("the file"), file=FileIO(descriptor)), start, size, "the file")
    library: list[LibraryFile] = []
    sent = 0

    def asked(line: bytes) -> Iterator[memoryview]:
        nonlocal sent
        if not library:
            library.append(LibraryFile(source))
        question, *words = json.loads(line)
        for data in _ANSWERS[question](library[0], *words):
            view = memoryview(data) if isinstance(data, bytes) else data.reshape(-1).view(np.uint8).data
            sent += view.nbytes
            limit_seconds(size + sent)  # of all that was done and will be
            yield view

    for line in sys.stdin.buffer:
        answer(output, partial(asked, line), _told)


def _told(error: Exception) -> FormatError | str:
    if isinstance(error, FormatError):
        return error
    text = str(error).strip("'\"") or type(error).__name__
    return f"damaged or incomplete HDF5 ({text[:200]})"


def _read(file: Any, name: str, shape: list[int], dtype: str) -> Iterator[Array]:
    return cast(Iterator[Array], file.pieces(TensorSpec(name, tuple(shape), DTYPES[dtype])))


_ANSWERS: dict[str, Callable[..., Iterator[bytes | Array]]] = {
    "tree": lambda file: iter([msgspec.json.encode(_TreeAnswer.of(file.tree()))]),
    "read": _read,
    "texts": lambda file, path, name: iter([msgspec.json.encode(file.texts(path, name))]),
    "has": lambda file, path: iter([msgspec.json.encode(file.has(path))]),
    "attributes": lambda file, path: iter([msgspec.json.encode(file.attributes(path))]),
}
