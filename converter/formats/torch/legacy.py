"""PyTorch's files before 1.6, and of ``_use_new_zipfile_serialization=False``: pickles, then the storages.

In order: the pickles of a magic number, of the protocol 1001, of a dict about the machine, of the object, of the
list of storage keys; then for each key a count of elements (int64) and its data, always little-endian. Upstream:
``torch/serialization.py`` (_legacy_save, _legacy_load), ``torch/csrc/serialization.cpp``.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

from converter.core.contents import Contents
from converter.core.tensors import DTYPES, Array
from converter.errors import FormatError, OutputError
from converter.formats.base import Probe
from converter.formats.io.budget import Budget, Loan
from converter.formats.io.files import open_source
from converter.formats.io.in_place import InPlaceWriter
from converter.formats.io.source import Parsed
from converter.formats.pickle.load import PickleError, inert_class, load
from converter.formats.torch.description import check_dtypes, described
from converter.formats.torch.objects import TorchReader
from converter.formats.torch.rebuild import TENSOR_GLOBALS
from converter.formats.torch.tensors import Storage, TorchFile, storage_of

__all__ = ["FileReader", "FileWriter", "LegacyStream", "detect"]

MAGIC = 0x1950A86A20F9469CFC6C
#: The magic number as protocols 2 to 5 write it (LONG1, ten bytes); and as text, in protocols 0 and 1.
_MAGIC_BYTES = b"\x8a\x0a" + MAGIC.to_bytes(10, "little")
_MAGIC_TEXT = str(MAGIC).encode()
_PROTOCOL = 1001
_COUNT = struct.Struct("<q")
#: Before 0.1.10 (2017) the file was a tar archive of these. It is told apart only to be refused with its name.
_TAR_MEMBERS = (b"sys_info", b"pickle", b"tensors", b"storages")

#: The bytes before the description in a new file.
_HEAD = (
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number
    b"\x80\x02M\xe9\x03."  # the protocol, 1001
    b"\x80\x02}(X\x10\x00\x00\x00protocol_versionM\xe9\x03X\x0d\x00\x00\x00little_endian\x88"
    b"X\x0a\x00\x00\x00type_sizes}(X\x05\x00\x00\x00shortK\x02X\x03\x00\x00\x00intK\x04X\x04\x00\x00\x00longK\x04uu."
)


def detect(probe: Probe) -> bool:
    head = probe.head[:64]
    return _MAGIC_BYTES in head or head.startswith(b"L" + _MAGIC_TEXT) or _is_tar(probe.head)


def _is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar" and head[:100].rstrip(b"\0") in _TAR_MEMBERS


class LegacyStream(TorchFile):
    """The bytes of such a file, on disk or inside of another pickle, and its storages."""

    def __init__(self, data: Array, path: Path, budget: Budget) -> None:
        self.data = data
        self.path = path
        self.budget = budget
        self.position = 0
        self._roots: dict[str, Storage] = {}
        self._extents: dict[str, tuple[int, int]] = {}

    def load(self, loan: Loan) -> object:
        """The object; afterwards the positions of all storages are known. Raises FormatError."""
        if self._next(loan) != MAGIC:
            raise FormatError(self.path, "the magic number of PyTorch's files before 1.6 is missing")
        protocol = self._next(loan)
        if protocol != _PROTOCOL:
            raise FormatError(self.path, f"the protocol of the file is {str(protocol)[:20]}, not {_PROTOCOL}")
        self._next(loan)  # about the machine that wrote it
        value = self._next(loan, described=True)
        keys = self._next(loan)
        if not isinstance(keys, list):
            raise FormatError(self.path, "the list of the storages is missing")
        for key in keys:
            self._skip_storage(str(key))
        return value

    def size(self, key: str) -> int:
        if key not in self._extents:
            raise FormatError(self.path, f"the storage '{key}' is not in the file")
        return self._extents[key][1]

    def raw(self, key: str, begin: int, length: int) -> Array:
        start, size = self._extents[key]
        if begin < 0 or length < 0 or begin + length > size:
            raise FormatError(self.path, f"the storage '{key}' has {size} bytes, not {begin + length}")
        return self.part(start + begin, length)

    def part(self, start: int, length: int) -> Array:
        """Bytes of the whole."""
        return self.data[start : start + length]

    def rest(self, start: int) -> memoryview | Parsed:
        """All bytes from there on."""
        return self.data[start:].data

    def _next(self, loan: Loan, described: bool = False) -> object:
        rest = self.rest(self.position)
        unknown = inert_class if described else None
        value, used = load(rest, self.path, TENSOR_GLOBALS, self._persistent if described else None, unknown, loan=loan)
        self.position += used
        return value

    def _skip_storage(self, key: str) -> None:
        root = self._roots.get(key)
        if root is None or key in self._extents:
            raise FormatError(self.path, f"the storage '{key[:40]}' is not used, or occurs twice")
        begin = self.position + _COUNT.size
        if begin > len(self.data):
            raise FormatError(self.path, f"the file ends before the storage '{key}'")
        (count,) = _COUNT.unpack(self.part(self.position, _COUNT.size).tobytes())
        size = count * root.dtype.itemsize
        if count != root.count or begin + size > len(self.data):
            raise FormatError(
                self.path,
                f"the storage '{key}' should have {root.count} elements; {count} are announced at byte "
                f"{self.position}, of the file {len(self.data) - begin} bytes are left",
            )
        self._extents[key] = (begin, size)
        self.position = begin + size

    def _persistent(self, identity: object) -> object:
        """``('storage', class, key, device, count, view)`` or ``('module', class, file, source)``."""
        if not isinstance(identity, tuple) or len(identity) < 2:
            raise PickleError("a persistent id that is not a storage")
        if identity[0] == "module":
            return identity[1]
        if identity[0] != "storage" or len(identity) < 5:
            raise PickleError("a persistent id that is not a storage")
        storage = storage_of(identity[1], identity[2], identity[4])
        root = self._roots.setdefault(storage.key, storage)
        view = identity[5] if len(identity) > 5 else None
        return storage if view is None else _part_of(root, view)


def _part_of(root: Storage, view: object) -> Storage:
    """A view on a storage: ``(key, offset, count)``, in elements."""
    if not isinstance(view, tuple) or len(view) != 3 or not all(isinstance(number, int) for number in view[1:]):
        raise PickleError("a view on a storage without its position")
    _, offset, count = view
    if offset < 0 or count < 0 or offset + count > root.count:
        raise PickleError(f"a view on more than the {root.count} elements of a storage")
    return Storage(root.key, root.dtype, count, offset * root.dtype.itemsize)


class _LegacyFile(LegacyStream):
    """On disk: the pickles are read piece by piece, each tensor through a map of its own."""

    def __init__(self, path: Path, budget: Budget | None) -> None:
        self._source = open_source(path, budget)
        super().__init__(self._source.view(0, self._source.size, "the file"), path, self._source.budget)
        if _is_tar(self._source.take(0, min(512, self._source.size), "the file")):
            self.close()
            raise FormatError(
                path,
                "a tar archive of PyTorch before 0.1.10, which is not read. If you trust it, load it with PyTorch "
                "(torch.load(path, weights_only=False)) and torch.save its state_dict",
            )

    def part(self, start: int, length: int) -> Array:
        return self._source.array(start, (length,), DTYPES["uint8"], "a storage")

    def rest(self, start: int) -> Parsed:
        return Parsed(self._source, start, "the file")

    def close(self) -> None:
        self._source.close()


class FileReader(TorchReader):
    """The same contents as in the zip form; large storages are mapped, not copied."""

    parallel = True

    def open(self) -> TorchFile:
        return _LegacyFile(self.path, self.budget)


class FileWriter(InPlaceWriter):
    """A tensor, a list, or a dict of tensors. Memory: one tensor, if it is not contiguous."""

    def __init__(self, path: Path, contents: Contents) -> None:
        check_dtypes(path, contents.specs, legacy=True)
        if sys.byteorder != "little":
            raise OutputError(f"{path}: this form is little-endian, this machine is not. Write the zip form.")
        keys = b"".join(b"X" + struct.pack("<I", len(key)) + key for key in _keys(len(contents.specs)))
        head = _HEAD + described(contents.specs, contents.container, legacy=True) + b"\x80\x02](" + keys + b"e."
        pieces, end = {0: head}, len(head)
        self._offsets: dict[str, int] = {}
        for spec in contents.specs:
            pieces[end] = struct.pack("<q", spec.size)
            self._offsets[spec.name] = end + 8
            end += 8 + spec.nbytes
        super().__init__(path, contents, pieces)

    def write(self, name: str, array: Array) -> None:
        self.checked(name, array)
        self.fill(self._offsets[name], array)


def _keys(count: int) -> list[bytes]:
    return [b"%d" % key for key in range(count)]
