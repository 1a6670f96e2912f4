"""Whole Keras 3 models: ``.keras``, a zip of ``model.weights.h5``, ``config.json`` and ``metadata.json``.

Also the same as a folder (``keras.saving.save_model(..., zipped=False)``). Only the weights are handed
on; the config gives the names of layers and is never run. Source: keras/src/saving/saving_lib.py.
"""

from __future__ import annotations

import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from msgspec.structs import replace

from converter.core.contents import Contents
from converter.core.tensors import Array
from converter.errors import FormatError
from converter.formats.base import Probe, Reader, ReadOptions
from converter.formats.io.files import read_whole
from converter.formats.io.json import MAX_JSON, parse_json
from converter.formats.io.source import SourceFile
from converter.formats.keras.config import gru_classes, layer_names
from converter.formats.keras.h5 import VARS, keras_contents
from converter.formats.keras.hdf5_file import H5File
from converter.formats.keras.zip_writer import CONFIG, METADATA, WEIGHTS, FileWriter
from converter.formats.zip.members import Member, ZipMembers

__all__ = ["FileReader", "FileWriter", "detect"]

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
        names = layer_names(self._json(CONFIG), container)
        grus = gru_classes(self._json(CONFIG), container)
        labels = {f"{path}/{VARS}": name for path, name in names.items()}
        version = self._json(METADATA).get("keras_version", "")
        return replace(
            contents,
            labels={**labels, **contents.labels},
            classes={
                spec.name: kind
                for spec in contents.specs
                for path, kind in grus.items()
                if spec.name.startswith(f"{path}/")
            },
            writer=f"keras {version}" if version else "",
            metadata={name: self._members.read(name).decode("utf-8", "replace") for name in (CONFIG, METADATA)},
        )

    def read(self, name: str) -> Array:
        self._members.verify()
        return self._file.read(self.contents.by_name[name])

    def _json(self, name: str) -> dict[str, Any]:
        return parse_json(self.path, self._members.read(name) or b"{}", f"'{name}'")


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def weights(self) -> H5File:
        return H5File(self._path / WEIGHTS)

    def read(self, name: str) -> bytes:
        return read_whole(self._path / name, MAX_JSON)

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
        file: Any = SourceFile(zipped, member.offset, member.size) if member.stored else self._unpacked()
        return H5File(self._zip.path, file, member.size)

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

    def _unpacked(self) -> BinaryIO:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the reader
        for piece in self._zip.unpacked_pieces(WEIGHTS):
            file.write(piece)
        file.seek(0)
        return file
