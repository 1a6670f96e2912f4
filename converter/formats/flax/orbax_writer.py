"""Writing an Orbax checkpoint without Orbax: one folder a parameter (zarr v2, raw chunks), and ``_METADATA``.

Format: what ``PyTreeCheckpointer(use_ocdbt=False)`` of orbax-checkpoint 0.12 writes, uncompressed and
without times, so that the same tensors give the same bytes. A parameter is one chunk, which is a file; with a limit,
as many as keep below it (``chunk_byte_size`` of Orbax). Accepted by ``StandardCheckpointer``,
``PyTreeCheckpointer`` and ``flax.training.checkpoints.restore_checkpoint``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from converter.core.contents import Contents
from converter.core.tensors import DTYPES, Array, TensorSpec
from converter.core.transposing import Joined, blocks
from converter.errors import OutputError
from converter.formats.atomic import discard, partial_path, publish
from converter.formats.base import Writer
from converter.formats.flax.orbax_folder import stranger_in
from converter.formats.flax.zarr_arrays import grid
from converter.formats.locations import exists

#: What tensorstore's zarr driver cannot hold (its ``zarr/dtype.cc``).
UNKNOWN = ("float8_e4m3", "float6_e2m3fn", "float6_e3m2fn", "uint4")
#: A tensor may be cut into so many.
MOST_FILES = 100_000
_RESERVED = ("d", "array_metadatas", "manifest.ocdbt", "checkpoint")
_HANDLER = "orbax.checkpoint._src.handlers.standard_checkpoint_handler.StandardCheckpointHandler"


class FileWriter(Writer):
    """Streams: every tensor is in files of its own. Raises OutputError for what Orbax cannot hold.

    max_shard_bytes: no file of data is larger. resume: refused, it is for shards that stand beside each other.
    """

    def __init__(
        self, path: Path, contents: Contents, max_shard_bytes: int | None = None, resume: str | None = None
    ) -> None:
        super().__init__(path, contents)
        if resume is not None:
            raise OutputError(f"{path}: an Orbax checkpoint cannot be resumed. Leave --resume out.")
        self._chunks = {spec.name: _chunk_shape(path, spec, max_shard_bytes) for spec in contents.specs}
        self._folders = _folders(path, contents)
        self._partial = partial_path(path)
        try:
            self._start()
        except BaseException:
            self.abort()
            raise

    def takes_joined(self, name: str) -> bool:
        return True

    def write(self, name: str, array: Array | Joined) -> None:
        spec, chunk = self.checked(name, array), self._chunks[name]
        for cell in grid(spec.shape, chunk) if spec.size else ():
            with (self._partial / self._folders[name] / cell.name).open("wb") as file:
                for piece in blocks(array[cell.region]):
                    file.write(piece.data)
                file.truncate(math.prod(chunk) * spec.dtype.itemsize)  # what lies over the edge is zero

    @classmethod
    def stranger(cls, path: Path) -> Path | None:
        return stranger_in(path) if path.is_dir() else path

    def commit(self) -> None:
        self.check_complete()
        if exists(self.path) and (stranger := self.stranger(self.path)) is not None:  # since the conversion began
            raise OutputError(f"{self.path}: '{stranger}' appeared there, and would be lost. Choose another path.")
        publish([(self._partial, self.path)])

    def abort(self) -> None:
        discard(self._partial)

    def _start(self) -> None:
        self._partial.mkdir()
        for spec in self.contents.specs:
            folder = self._partial / self._folders[spec.name]
            folder.mkdir()
            _write_json(folder / ".zarray", _zarray(spec, self._chunks[spec.name]))
        is_list = self.contents.container == "list"
        tree = dict(_entry(spec, is_list) for spec in self.contents.specs)
        options = {"use_ocdbt": False, "use_zarr3": False, "store_array_data_equal_to_fill_value": True}
        _write_json(self._partial / "_METADATA", {"tree_metadata": tree, **options, "custom_metadata": None})
        times = {"init_timestamp_nsecs": 0, "commit_timestamp_nsecs": 0}
        about = {"item_handlers": _HANDLER, "metrics": {}, "performance_metrics": {}, **times, "custom_metadata": {}}
        _write_json(self._partial / "_CHECKPOINT_METADATA", about)


def _folders(path: Path, contents: Contents) -> dict[str, str]:
    """Name -> folder, keys joined with dots as Orbax does."""
    if contents.container == "tensor":
        raise OutputError(f"{path}: Orbax holds no bare tensor. Choose another format, or give it a name.")
    folders: dict[str, str] = {}
    taken: dict[str, str] = {}
    inner = {"/".join(parts[:depth]) for parts in _split(contents) for depth in range(1, len(parts))}
    for spec in contents.specs:
        parts = spec.name.split("/")
        folder = ".".join(parts)
        if not all(parts) or folder in (".", "..") or folder.startswith("_") or folder in _RESERVED or "\0" in folder:
            raise OutputError(f"{path}: Orbax cannot hold the name '{spec.name}'. Rename it.")
        if folder in taken or spec.name in inner:
            other = taken.get(folder, f"{spec.name}/...")
            raise OutputError(f"{path}: '{spec.name}' and '{other}' would have the same folder. Rename one.")
        if spec.dtype.name in UNKNOWN:
            raise OutputError(f"{path}: '{spec.name}' is {spec.dtype}, which Orbax cannot hold. Cast it.")
        folders[spec.name], taken[folder] = folder, spec.name
    return folders


def _split(contents: Contents) -> Iterator[list[str]]:
    return (spec.name.split("/") for spec in contents.specs)


def _entry(spec: TensorSpec, is_list: bool) -> tuple[str, dict[str, Any]]:
    parts = spec.name.split("/")
    kinds = [1 if is_list and depth == 0 else 2 for depth in range(len(parts))]
    keys = [{"key": part, "key_type": kind} for part, kind in zip(parts, kinds, strict=True)]
    return str(tuple(parts)), {
        "key_metadata": keys,
        "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
    }


def _chunk_shape(path: Path, spec: TensorSpec, most: int | None) -> tuple[int, ...]:
    """Of chunks of at most so many bytes (None: of one), each a run of elements in C order."""
    whole = tuple(max(1, side) for side in spec.shape)
    sides, nbytes = list(whole), spec.dtype.itemsize
    for axis in reversed(range(len(whole))):
        fitting = whole[axis] if most is None else min(max(1, most // nbytes), whole[axis])
        count = -(-whole[axis] // fitting)
        sides[axis] = -(-whole[axis] // count)
        nbytes *= whole[axis]
    files = math.prod(-(-side // part) for side, part in zip(whole, sides, strict=True))
    if files > MOST_FILES:
        raise OutputError(f"{path}: '{spec.name}' would be cut into {files} files. Choose a larger --max-shard-size.")
    return tuple(sides)


def _zarray(spec: TensorSpec, chunk: tuple[int, ...]) -> dict[str, Any]:
    native = spec.dtype.isbuiltin == 1 and spec.dtype == DTYPES.get(spec.dtype.name)
    return {
        "chunks": list(chunk),
        "compressor": None,
        "dimension_separator": ".",
        "dtype": spec.dtype.str if native else spec.dtype.name,
        "fill_value": None,
        "filters": None,
        "order": "C",
        "shape": list(spec.shape),
        "zarr_format": 2,
    }


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, separators=(",", ":")))
