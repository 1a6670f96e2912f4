"""Whole Keras 3 models: ``.keras``, a zip of ``model.weights.h5``, ``config.json`` and ``metadata.json``.

Also the same as a folder (``keras.saving.save_model(..., zipped=False)``). Only the weights are handed
on; the config gives the names of layers and is never run. Source: keras/src/saving/saving_lib.py.
"""

from __future__ import annotations

import io
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from converter.errors import ConversionError, FormatError
from converter.formats.base import Contents, Probe, Reader, ReadOptions
from converter.formats.expansion import most_unpacked
from converter.formats.h5_file import H5File
from converter.formats.json_objects import MAX_JSON, parse_json
from converter.formats.keras_config import gru_classes, layer_names
from converter.formats.keras_h5 import VARS, keras_contents
from converter.formats.keras_zip_writer import CONFIG, METADATA, WEIGHTS, FileWriter
from converter.formats.regular_file import open_regular
from converter.tensors import Array

__all__ = ["FileReader", "FileWriter", "detect"]

_OLD_CONTAINER = "_layer_checkpoint_dependencies"
_LOCAL_HEADER = struct.Struct("<4s22xHH")


def detect(probe: Probe) -> bool:
    try:
        return (WEIGHTS in probe.entries and CONFIG in probe.entries) or {CONFIG, METADATA} <= probe.entries
    except OSError:
        return False


class FileReader(Reader):
    """Reads the weights in place; a compressed member is unpacked to a temporary file first.

    A zip has one checksum for all weights: it is verified before the first tensor is read, unless
    ``options.verify`` is False.
    """

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self._members: _Folder | _Zip = _Folder(path) if path.is_dir() else _Zip(path)
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
        if self.options.verify:
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
        file, size = open_regular(self._path / name)
        with file:
            if size > MAX_JSON:
                raise FormatError(self._path / name, f"{size} bytes of JSON")
            return file.read(size)

    def verify(self) -> None:
        """HDF5 has no checksum of its own."""

    def close(self) -> None:
        """Nothing is open."""


class _Zip:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file, self._size = open_regular(path)
        self._verified = False
        with self._damaged("the zip directory"):
            self._zip = zipfile.ZipFile(self._file)

    def close(self) -> None:
        self._file.close()

    def weights(self) -> H5File:
        with self._damaged(f"'{WEIGHTS}'"):
            info = self._info(WEIGHTS)
            source: Any = self._window(info) if info.compress_type == zipfile.ZIP_STORED else self._unpacked(info)
            return H5File(self._path, source, info.file_size)

    def read(self, name: str) -> bytes:
        with self._damaged(f"'{name}'"):
            info = self._info(name)
            if info.file_size > MAX_JSON:
                raise FormatError(self._path, f"'{name}' claims {info.file_size} bytes")
            return self._zip.read(info)

    def verify(self) -> None:
        if self._verified:
            return
        with self._damaged(f"'{WEIGHTS}'"):
            info = self._info(WEIGHTS)
            if info.compress_type == zipfile.ZIP_STORED and _crc(self._window(info)) != info.CRC:
                raise FormatError(self._path, f"'{WEIGHTS}' is damaged: wrong checksum")
        self._verified = True

    def _info(self, name: str) -> zipfile.ZipInfo:
        if name not in self._zip.NameToInfo:
            raise FormatError(self._path, f"'{name}' is missing: not a Keras model, or one without HDF5 weights")
        info = self._zip.getinfo(name)
        if info.file_size > most_unpacked(info.compress_size, self._size) or info.compress_size > self._size:
            raise FormatError(
                self._path, f"'{name}' claims {info.file_size} bytes out of {min(info.compress_size, self._size)}"
            )
        return info

    def _window(self, info: zipfile.ZipInfo) -> _Window:
        """A stored member, in place."""
        header = os.pread(self._file.fileno(), _LOCAL_HEADER.size, info.header_offset)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
            raise FormatError(self._path, f"'{info.filename}' has no header at offset {info.header_offset}")
        _, name, extra = _LOCAL_HEADER.unpack(header)
        start = info.header_offset + _LOCAL_HEADER.size + name + extra
        if start + info.file_size > self._size:
            raise FormatError(self._path, f"'{info.filename}' claims {info.file_size} bytes, over the end of the file")
        return _Window(self._file.fileno(), start, info.file_size)

    def _unpacked(self, info: zipfile.ZipInfo) -> BinaryIO:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the reader
        with self._zip.open(info) as member:
            while chunk := member.read(1 << 20):
                file.write(chunk)
        file.seek(0)
        return file

    @contextmanager
    def _damaged(self, place: str) -> Iterator[None]:
        """zipfile meets damage with half a dozen exceptions."""
        try:
            yield
        except ConversionError:
            raise
        except (zipfile.BadZipFile, zlib.error, OSError, ValueError, NotImplementedError, RuntimeError) as error:
            raise FormatError(self._path, f"{place} is damaged: {error}") from None
        except (struct.error, EOFError, UnicodeError, KeyError, IndexError) as error:
            raise FormatError(self._path, f"{place} is damaged: {error}") from None


class _Window(io.RawIOBase):
    """A part of an open file, as a file."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor = descriptor
        self._start = start
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """All of the buffer, as far as the window goes."""
        view = memoryview(buffer).cast("B")
        view = view[: max(0, self._size - self._position)]
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], self._start + self._position)
            if not count:
                break
            done += count
            self._position += count
        return done


def _crc(file: _Window) -> int:
    crc = 0
    buffer = bytearray(1 << 20)
    while count := file.readinto(buffer):
        crc = zlib.crc32(memoryview(buffer)[:count], crc)
    return crc
