"""Whole Keras 3 models: ``.keras``, a zip of ``model.weights.h5``, ``config.json`` and ``metadata.json``.

Also the same as a folder (``keras.saving.save_model(..., zipped=False)``). Only the weights are handed
on; the config gives the names of layers and is never run. Source: keras/src/saving/saving_lib.py.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from converter.core.contents import Contents
from converter.core.tensors import Array
from converter.errors import FormatError, OutputError
from converter.formats.atomic import discard, partial_path, publish
from converter.formats.base import Probe, Reader, ReadOptions, Writer
from converter.formats.io.budget import Budget
from converter.formats.io.checksums import Crc32
from converter.formats.io.files import Beside, FileSource
from converter.formats.io.json import MAX_JSON, parse_json
from converter.formats.io.source import Part, Source
from converter.formats.keras import h5 as keras_h5
from converter.formats.keras.config import below, gru_classes, layer_names, own_classes
from converter.formats.keras.h5 import VARS, keras_contents
from converter.formats.keras.hdf5_file import H5File
from converter.formats.keras.training import training_in
from converter.formats.zip.members import Member, ZipMembers
from converter.formats.zip.writer import ZipLayout

__all__ = ["FileReader", "FileWriter", "detect"]

WEIGHTS, CONFIG, METADATA = "model.weights.h5", "config.json", "metadata.json"
_BLOCK = 1 << 20
_OLD_CONTAINER = "_layer_checkpoint_dependencies"


def detect(probe: Probe) -> bool:
    try:
        return (WEIGHTS in probe.entries and CONFIG in probe.entries) or {CONFIG, METADATA} <= probe.entries
    except OSError:
        return False


class FileReader(Reader):
    """Reads the weights in place; a compressed member is unpacked to a temporary file first.

    A zip has one checksum for all weights: it is verified before the first tensor is read, unless
    ``options.checksums`` is False.
    """

    lazy = "tensor, or all if packed"

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self._members: _Folder | _Zip = _Folder(path) if path.is_dir() else _Zip(path, options.checksums)
        try:
            self._file = self._members.weights()
        except BaseException:
            self._members.close()
            raise

    def close(self) -> None:
        try:
            self._file.close()
        finally:
            self._members.close()

    @cached_property
    def contents(self) -> Contents:
        contents = keras_contents(self._file)
        old = any(spec.name.startswith(f"{_OLD_CONTAINER}/") for spec in contents.specs)
        container = _OLD_CONTAINER if old else "layers"
        config, budget = self._json(CONFIG), self._file.budget
        names = layer_names(config, budget, container)
        told = own_classes(config, budget, container) | gru_classes(config, budget, container)
        labels = {f"{path}/{VARS}": name for path, name in names.items()}
        version = self._json(METADATA).get("keras_version", "")
        return replace(
            contents,
            labels={**labels, **contents.labels},
            classes={**contents.classes, **below((spec.name for spec in contents.specs), told)},
            writer=f"keras {version}" if version else "",
            metadata={name: self._members.read(name).decode("utf-8", "replace") for name in (CONFIG, METADATA)},
        )

    def read(self, name: str) -> Array:
        self._members.verify()
        return self._file.read(self.contents.by_name[name])

    def training(self) -> Mapping[str, Any]:
        self._members.verify()
        return training_in(self._file, self._json(CONFIG))

    def _json(self, name: str) -> dict[str, Any]:
        return parse_json(self.path, self._members.read(name) or b"{}", f"'{name}'")


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = Beside(path)

    def weights(self) -> H5File:
        return H5File(self._path / WEIGHTS, self._files.open(self._path / WEIGHTS))

    def read(self, name: str) -> bytes:
        return self._files.read(self._path / name, MAX_JSON)

    def verify(self) -> None:
        """HDF5 has no checksum of its own."""

    def close(self) -> None:
        """Nothing is open."""


class _Zip:
    def __init__(self, path: Path, verify: bool) -> None:
        self._zip = ZipMembers(path, verify)

    def close(self) -> None:
        self._zip.close()

    def weights(self) -> H5File:
        member = self._member(WEIGHTS)
        zipped = self._zip.source
        if not member.stored:
            return H5File(self._zip.path, self._unpacked(zipped.budget))
        return H5File(self._zip.path, Part(zipped, member.offset, member.size, f"'{WEIGHTS}'"))

    def read(self, name: str) -> bytes:
        if self._member(name).size > MAX_JSON:
            raise FormatError(self._zip.path, f"'{name}' claims {self._member(name).size} bytes")
        return self._zip.read(name)

    def verify(self) -> None:
        if self._member(WEIGHTS).stored:  # a packed one was verified when it was unpacked
            self._zip.verify_member(WEIGHTS)

    def _member(self, name: str) -> Member:
        if name not in self._zip:
            raise FormatError(self._zip.path, f"'{name}' is missing: not a Keras model, or one without HDF5 weights")
        return self._zip.member(name)

    def _unpacked(self, budget: Budget) -> Source:
        with tempfile.TemporaryFile() as file:
            for piece in self._zip.unpacked_pieces(WEIGHTS):
                file.write(piece)
            file.flush()
            return FileSource(self._zip.path, budget, FileIO(os.dup(file.fileno())))


class FileWriter(Writer):
    """Streams: the weights go to a hidden file, and from there into the zip when all are written.

    ``contents.metadata`` holds the texts of ``config.json`` and ``metadata.json``, as the reader of a
    ``.keras`` gives them. Raises OutputError without them: weights alone are not a model.
    """

    def __init__(self, path: Path, contents: Contents) -> None:
        super().__init__(path, contents)
        if not {CONFIG, METADATA} <= contents.metadata.keys():
            raise OutputError(f"{path}: a .keras holds the model's config too. Give the clone with --like clone.keras.")
        self._weights = partial_path(path)
        self._zip = partial_path(path)
        self._inner = keras_h5.FileWriter(self._weights, contents)

    def write(self, name: str, array: Array) -> None:
        self._inner.write(name, array)

    def commit(self) -> None:
        self._inner.commit()
        layout = ZipLayout()
        texts = [layout.add_whole(name, self.contents.metadata[name].encode()) for name in (METADATA, CONFIG)]
        member, crc = layout.add(WEIGHTS, self._weights.stat().st_size), Crc32()
        with self._weights.open("rb") as source, self._zip.open("xb") as archive:
            for _, text in texts:
                archive.write(text)
            archive.seek(member.data)
            while block := source.read(_BLOCK):
                crc.update(block)
                archive.write(block)
            member.crc = crc.value
            archive.write(layout.directory())
            archive.seek(member.start)
            archive.write(layout.header(member))
        publish([(self._zip, self.path)])
        discard(self._weights)

    def abort(self) -> None:
        self._inner.abort()
        discard(self._weights)
        discard(self._zip)
