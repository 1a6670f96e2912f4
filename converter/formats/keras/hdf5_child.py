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
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from io import FileIO
from pathlib import Path
from typing import IO, Any, cast

import msgspec
import numpy as np

from converter.core.contents import LeftOut
from converter.core.tensors import DTYPES, Array, TensorSpec
from converter.errors import FormatError, MissingLibraryError, UnsafeFileError
from converter.formats.io.budget import LIMIT
from converter.formats.io.files import FileSource
from converter.formats.io.source import Part, Source, SourceFile, frozen
from converter.formats.keras.hdf5_tree import Content, Dataset, Tree

__all__ = ["ChildFile", "serve"]

#: Of processor time, for the file as a whole and for each of its bytes that is read or comes out.
_SECONDS, _BYTES_PER_SECOND = 8, 20_000_000
_DATA, _DONE, _FAILED = 0, 1, 2
_FRAME = struct.Struct("<BQ")
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
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START.format(path=sys.path, words=words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(descriptor,),
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        if self._copy is not None:
            self._copy.close()

    def tree(self) -> Tree:
        answer = msgspec.json.decode(self._answer("tree"), type=_TreeAnswer)
        return answer.tree()

    def read(self, spec: TensorSpec) -> Array:
        whole = np.empty(spec.shape, spec.dtype)
        memory, filled = whole.reshape(-1).view(np.uint8).data, 0
        for kind, size in self._frames("read", spec.name, list(spec.shape), spec.dtype.name):
            if kind != _DATA:
                continue
            if size > len(memory) - filled:
                raise FormatError(self._source.path, f"'{spec.name}' has more elements than its shape")
            self._receive(memory[filled : filled + size])
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
        for kind, size in self._frames(question, *words):
            if kind == _DATA:
                self._source.budget.charge(size, "the list of what is in it")
                data = bytearray(size)
                self._receive(memoryview(data))
                answer += data
        return answer

    def _frames(self, question: str, *words: object) -> Iterator[tuple[int, int]]:
        """(kind, size) of each, whose bytes the caller receives. Raises FormatError."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([question, *words]).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        kind = _DATA
        while kind == _DATA:
            head = bytearray(_FRAME.size)
            self._receive(memoryview(head))
            kind, size = _FRAME.unpack(head)
            if kind == _FAILED:
                text = bytearray(min(size, _BLOCK))
                self._receive(memoryview(text))
                raise _error(self._source.path, json.loads(text))
            yield kind, size

    def _receive(self, memory: memoryview) -> None:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while memory:
            got = os.readv(pipe, [memory[:_BLOCK]])
            if not got:
                raise self._ended()
            memory = memory[got:]

    def _ended(self) -> FormatError:
        code = self._process.wait()
        if code == -signal.SIGXCPU:
            return FormatError(self._source.path, "damaged HDF5: the library does not come to an end with it")
        return FormatError(self._source.path, f"damaged HDF5: the library crashes on it (exit code {code})")


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


_KINDS: dict[str, type[FormatError]] = {kind.__name__: kind for kind in (FormatError, UnsafeFileError)}


def _error(path: Path, told: list[str]) -> FormatError:
    kind, reason = told
    return _KINDS.get(kind, FormatError)(path, reason)


# -- in the other process ---------------------------------------------------------------------------------------------


def serve(descriptor: int, start: int, size: int) -> None:
    """Answer the questions on stdin until it ends."""
    from converter.formats.keras.hdf5_library import LibraryFile

    _limit_memory()
    _limit_time(size)
    output = FileIO(os.dup(1), "w")
    source = Part(FileSource(Path("the file"), file=FileIO(descriptor)), start, size, "the file")
    library: list[LibraryFile] = []
    sent = 0
    for line in sys.stdin.buffer:
        try:
            if not library:
                library.append(LibraryFile(source))
            question, *words = json.loads(line)
            for data in _ANSWERS[question](library[0], *words):
                sent += len(data) if isinstance(data, bytes) else data.nbytes
                _limit_time(size + sent)
                _send(output, _DATA, data)
            _send(output, _DONE, b"")
        except Exception as error:
            _send(output, _FAILED, json.dumps(_told(error)).encode())


def _limit_memory() -> None:
    """What is in memory already, and `LIMIT`. No file of a crash."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # no Linux
        return
    most = pages * resource.getpagesize() + LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _limit_time(nbytes: int) -> None:
    """Of all that was done and will be."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    seconds = _SECONDS + nbytes // _BYTES_PER_SECOND
    resource.setrlimit(resource.RLIMIT_CPU, (seconds if hard < 0 else min(seconds, hard), hard))


def _send(output: FileIO, kind: int, data: bytes | Array) -> None:
    view = memoryview(data) if isinstance(data, bytes) else data.reshape(-1).view(np.uint8).data
    output.write(_FRAME.pack(kind, len(view)))
    while view:
        view = view[output.write(view) or 0 :]


def _told(error: Exception) -> list[str]:
    if isinstance(error, FormatError):
        return [type(error).__name__, error.reason]
    text = str(error).strip("'\"") or type(error).__name__
    return [FormatError.__name__, f"damaged or incomplete HDF5 ({text[:200]})"]


def _read(file: Any, name: str, shape: list[int], dtype: str) -> Iterator[Array]:
    return cast(Iterator[Array], file.pieces(TensorSpec(name, tuple(shape), DTYPES[dtype])))


_ANSWERS: dict[str, Callable[..., Iterator[bytes | Array]]] = {
    "tree": lambda file: iter([msgspec.json.encode(_TreeAnswer.of(file.tree()))]),
    "read": _read,
    "texts": lambda file, path, name: iter([msgspec.json.encode(file.texts(path, name))]),
    "has": lambda file, path: iter([msgspec.json.encode(file.has(path))]),
    "attributes": lambda file, path: iter([msgspec.json.encode(file.attributes(path))]),
}
