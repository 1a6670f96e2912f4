"""One zarr array of an Orbax checkpoint: its metadata, checked, and its data.

Formats: the zarr v2 and v3 specifications; dtypes beyond NumPy's by name, as tensorstore writes them
(``"bfloat16"``). An array of uncompressed chunks is read here; any other, and everything inside of OCDBT, by
tensorstore in another process, whose memory is limited by what the metadata says and the files justify.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeGuard

import msgspec
import numpy as np

from converter.core.tensors import DTYPES, Array, DType, TensorSpec
from converter.errors import FormatError, MissingLibraryError, UnsafeFileError
from converter.formats.io.budget import LIMIT, Budget
from converter.formats.io.child import SLACK, Child, child_for
from converter.formats.io.files import beside, open_source, read_whole
from converter.formats.io.json import MAX_JSON, parse_json
from converter.formats.io.source import check_shape, frozen
from converter.formats.locations import is_url

__all__ = ["Store", "ZarrArray", "grid"]

#: How often the bytes of an array are in memory while it is unpacked.
_COPIES = 3
#: For the metadata of a small checkpoint.
FREE_BYTES = 64 << 20
#: Chunks that are missing (all of them the fill value) may be so many; a stored one takes 16 bytes at least.
FREE_CHUNKS = 1_000
MIN_CHUNK = 16
#: Of what is compressed or in OCDBT.
_COPY_IT = "tensorstore reads this checkpoint, and needs it on a disk. Copy the folder to one first"
_V2_NUMBER = re.compile(r"[<>|=][biufc]\d{1,2}")


class Chunk(msgspec.Struct, frozen=True):
    """index: its number along each axis. region: what of the array is in it; at an edge that is less than its shape."""

    index: tuple[int, ...]
    region: tuple[slice, ...]

    @property
    def name(self) -> str:
        return ".".join(map(str, self.index)) or "0"


def grid(shape: Sequence[int], chunk: Sequence[int]) -> Iterator[Chunk]:
    """The chunks of an array."""
    counts = (range(-(-side // part)) for side, part in zip(shape, chunk, strict=True))
    for index in itertools.product(*counts):
        starts = [(number * part, part) for number, part in zip(index, chunk, strict=True)]
        region = (slice(start, min(start + part, side)) for (start, part), side in zip(starts, shape, strict=True))
        yield Chunk(index, tuple(region))


class ZarrArray(msgspec.Struct, frozen=True):
    """What the metadata of one array says. chunks: the shape of one chunk (in v3 of one shard). is_raw: whether
    these are uncompressed."""

    spec: TensorSpec
    storage: str
    version: int
    chunks: tuple[int, ...]
    is_raw: bool

    @property
    def is_one_chunk(self) -> bool:
        return self.chunks == tuple(max(1, side) for side in self.spec.shape)


class Store:
    """The arrays of one tree: folders beside each other, or the keys of one OCDBT database."""

    def __init__(self, root: Path, *, zarr3: bool, whole: bool, budget: Budget | None = None) -> None:
        self.root = root
        self.budget = budget or Budget(root)
        self.whole = whole  # every chunk must be there, even one that holds the fill value only
        self.driver = "zarr3" if zarr3 else "zarr"
        self.metadata = "zarr.json" if zarr3 else ".zarray"
        self.is_ocdbt = (root / "manifest.ocdbt").exists()
        if self.is_ocdbt and is_url(root):
            raise FormatError(root, _COPY_IT)

    def arrays(self, storages: Sequence[tuple[str, str]]) -> list[ZarrArray]:
        """The arrays of these (name, subpath in the store). Raises FormatError."""
        for _, storage in storages:
            _check_storage(self.root, storage)
        if self.is_ocdbt:
            self.disk_bytes  # noqa: B018  # checks every file before tensorstore opens any
        texts = self._ocdbt_texts(storages) if self.is_ocdbt else self._folder_texts(storages)
        return [self._parse(name, storage, text) for (name, storage), text in zip(storages, texts, strict=True)]

    def read(self, array: ZarrArray) -> Array:
        if not self.is_ocdbt:
            _file_sizes(self.root, array.storage)
            if array.is_raw and array.is_one_chunk:
                return self._read_raw(array)
        count = self._justify(array)
        if array.is_raw and self.whole and not self.is_ocdbt:
            return self._read_raw_chunks(array)
        if is_url(self.root):
            raise FormatError(self.root, _COPY_IT)
        return self._unpacked(array, count)

    def _unpacked(self, array: ZarrArray, count: int) -> Array:
        """By tensorstore, which unpacks whatever a chunk unpacks to."""
        spec = array.spec
        values = np.empty(spec.shape, spec.dtype)
        store = self.driver, self._kvstore(array.storage + "/"), list(spec.shape), spec.dtype.name
        least_keys = count + 1 if self.whole else 0  # the chunks, and the metadata
        memory = self._memory(array)
        try:
            with (
                self.budget.lent(max(0, memory + SLACK - _COPIES * self.disk_bytes), f"'{spec.name}'"),
                _tensorstore(self.root) as child,
            ):
                child.fill(values.reshape(-1).view(np.uint8).data, self.root, memory, "array", *store, least_keys)
        except FormatError as error:
            raise FormatError(self.root, f"'{spec.name}' cannot be read: {error.reason}") from None
        return frozen(values)

    @cached_property
    def disk_bytes(self) -> int:
        """Bytes of all files of the checkpoint, after making sure that none lies elsewhere."""
        return _file_sizes(self.root)

    def _kvstore(self, subpath: str) -> dict[str, Any]:
        folder = os.path.abspath(self.root)
        if self.is_ocdbt:
            return {"driver": "ocdbt", "base": {"driver": "file", "path": folder + "/"}, "path": subpath}
        return {"driver": "file", "path": f"{folder}/{subpath}"}

    def _folder_texts(self, storages: Iterable[tuple[str, str]]) -> Iterator[bytes]:
        for name, storage in storages:
            file = self.root / storage / self.metadata
            _check_link(self.root, f"{storage}/{self.metadata}")
            if not file.is_file():
                if next(self.root.glob("ocdbt.process_*"), None):
                    raise FormatError(
                        self.root, "its processes' OCDBT databases were never merged: the save was cut off"
                    )
                raise FormatError(self.root, f"'{name}' is announced, but there is no '{storage}/{self.metadata}'")
            yield read_whole(file, MAX_JSON)

    def _ocdbt_texts(self, storages: Sequence[tuple[str, str]]) -> Iterator[bytes]:
        keys = [f"{storage}/{self.metadata}" for _, storage in storages]
        memory = min(LIMIT - SLACK, _COPIES * self.disk_bytes + FREE_BYTES)
        try:
            with _tensorstore(self.root) as child:
                texts = child.ask(self.root, memory, "texts", self._kvstore(""), keys)
        except FormatError as error:
            raise FormatError(self.root, f"its OCDBT database cannot be read: {error.reason}") from None
        for (name, storage), text in zip(storages, texts, strict=True):
            if not text:
                raise FormatError(self.root, f"'{name}' is announced, but the database has no '{storage}'")
            yield text

    def _parse(self, name: str, storage: str, text: bytes) -> ZarrArray:
        where = self.root if self.is_ocdbt else self.root / storage / self.metadata
        metadata = parse_json(where, text, f"the metadata of '{name}'")
        version = metadata.get("zarr_format")
        v3 = self.driver == "zarr3"
        if version != (3 if v3 else 2):
            raise FormatError(where, f"the metadata of '{name}' has zarr_format {version!r}")
        grid = metadata.get("chunk_grid") if v3 else {"configuration": {"chunk_shape": metadata.get("chunks")}}
        inner = grid.get("configuration") if isinstance(grid, dict) else None
        shape, chunks = metadata.get("shape"), inner.get("chunk_shape") if isinstance(inner, dict) else None
        if not _are_sizes(shape, 0) or not _are_sizes(chunks, 1) or len(shape) != len(chunks):
            raise FormatError(where, f"'{name}' has the shape {str(shape)[:60]} and the chunks {str(chunks)[:60]}")
        text_of = metadata.get("data_type" if v3 else "dtype")
        dtype = _dtype(text_of)
        if dtype is None:
            raise FormatError(where, f"'{name}' has the unknown dtype {str(text_of)[:60]!r}")
        spec = TensorSpec(name, check_shape(where, shape, dtype, f"'{name}'"), dtype)
        sizes = check_shape(where, chunks, dtype, f"the chunks of '{name}'")
        is_raw = (
            not v3
            and metadata.get("compressor") is None
            and not metadata.get("filters")
            and metadata.get("order") == "C"
        )
        is_raw = is_raw and not str(text_of).startswith(">")
        return ZarrArray(spec, storage, int(version), sizes, is_raw)

    def _read_raw(self, array: ZarrArray) -> Array:
        spec = array.spec
        if not spec.size:
            return frozen(np.empty(spec.shape, spec.dtype))
        (only,) = grid(spec.shape, array.chunks)
        return self._read_chunk(array, only)

    def _read_raw_chunks(self, array: ZarrArray) -> Array:
        whole = np.empty(array.spec.shape, array.spec.dtype)
        for chunk in grid(whole.shape, array.chunks):
            inside = tuple(slice(part.stop - part.start) for part in chunk.region)
            whole[chunk.region] = self._read_chunk(array, chunk)[inside]
        return frozen(whole)

    def _read_chunk(self, array: ZarrArray, chunk: Chunk) -> Array:
        """All of its elements, those over an edge of the array among them."""
        spec, folder = array.spec, self.root / array.storage
        files = (folder / name for name in (chunk.name, chunk.name.replace(".", "/")))
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise FormatError(folder, f"the data of '{spec.name}' is missing: there is no '{chunk.name}'")
        source = open_source(file)
        try:
            nbytes = math.prod(array.chunks) * spec.dtype.itemsize
            if source.size != nbytes:
                raise FormatError(file, f"'{spec.name}' needs {nbytes} bytes, but the file has {source.size}")
            return source.array(0, array.chunks, spec.dtype, f"'{spec.name}'")
        finally:
            source.close()

    def _justify(self, array: ZarrArray) -> int:
        """The number of chunks, after refusing an array that claims more than its files can hold."""
        spec = array.spec
        count = math.prod(-(-size // chunk) for size, chunk in zip(spec.shape, array.chunks, strict=True))
        nbytes = self._memory(array)
        self.budget.check(max(0, nbytes - _COPIES * self.disk_bytes), f"'{spec.name}'")
        if count > FREE_CHUNKS + self.disk_bytes // MIN_CHUNK:
            raise FormatError(
                self.root,
                f"'{spec.name}' claims {spec.nbytes} bytes in {count} chunks, and all files have {self.disk_bytes}",
            )
        return count

    def _memory(self, array: ZarrArray) -> int:
        """The result, and a chunk that is unpacked, piece by piece and then in one."""
        return array.spec.nbytes + (_COPIES - 1) * math.prod(array.chunks) * array.spec.dtype.itemsize


def _dtype(text: object) -> DType | None:
    if not isinstance(text, str):
        return None
    if text in DTYPES:
        return DTYPES[text]
    if not _V2_NUMBER.fullmatch(text):
        return None
    try:
        return DTYPES.get(np.dtype(text).name)
    except TypeError:
        return None


def _are_sizes(values: object, least: int) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= least for value in values)


def _check_storage(root: Path, storage: str) -> None:
    parts = storage.split("/")
    if "\0" in storage or any(part in ("", ".", "..") for part in parts):
        raise UnsafeFileError(root, f"names the subpath {storage[:80]!r} outside of itself")


def _check_link(root: Path, subpath: str) -> None:
    """Refuse a subpath below the root that a link takes out of it. Where there is no link, nothing is resolved."""
    if is_url(root):  # where there are no links
        return
    file = str(root)
    for part in subpath.split("/"):
        file = f"{file}/{part}"
        if os.path.islink(file):
            beside(root, Path(file))


def _file_sizes(root: Path, subpath: str = "") -> int:
    """Bytes of all files below. Raises UnsafeFileError for a link out of the root, or something other than a file."""
    if subpath:
        _check_link(root, subpath)
    if is_url(root):
        return sum(file.stat().st_size for file in (root / subpath).rglob("*") if file.is_file())
    total = 0
    for folder, folders, names in os.walk(root / subpath):
        for name in (*folders, *names):
            file = os.path.join(folder, name)
            status = os.lstat(file)
            if stat.S_ISLNK(status.st_mode):
                _check_link(root, os.path.relpath(file, root))
                status = os.stat(file)
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                raise UnsafeFileError(file, "is not a regular file")
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


@contextmanager
def _tensorstore(root: Path) -> Iterator[Child]:
    """The process that has it."""
    if find_spec("tensorstore") is None:
        raise MissingLibraryError(
            f"{root}: this Orbax checkpoint is compressed, which tensorstore reads: "
            "pip install 'weights-converter[orbax]'"
        )
    with child_for("converter.formats.flax.tensorstore_child") as child:
        yield child
