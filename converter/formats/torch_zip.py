"""PyTorch's zip files, those of ``torch.save`` since 1.6: reading (also of 1.4's first form) and writing.

A folder inside of the archive holds ``data.pkl`` (the description), ``data/KEY`` (the storages, stored and
aligned), ``byteorder`` and ``version``. Upstream: ``torch/serialization.py`` (_save, _load) and
``caffe2/serialize/inline_container.cc``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from converter.errors import FormatError
from converter.formats.base import Probe, ReadOptions
from converter.formats.pickles import Opaque, PickleError, inert_class, load
from converter.formats.torch_reader import TorchReader
from converter.formats.torch_tensors import TENSOR_GLOBALS, Storage, storage_of
from converter.formats.torch_zip_writer import TorchZipWriter
from converter.formats.zip_members import ZipMembers
from converter.tensors import Array

__all__ = ["FileReader", "FileWriter", "detect"]

FileWriter = TorchZipWriter
#: Where the storages of KEY stand, in the order of preference: 1.6 and later, 1.4 (opt-in).
_STORAGE_PLACES = ("data/", "tensors/")


def detect(probe: Probe) -> bool:
    """A zip with a member ``FOLDER/data.pkl``; for a cut one, such a name at its start."""
    if not probe.head.startswith(b"PK\x03\x04"):
        return False
    if probe.entries:
        return any(name.endswith("/data.pkl") and name.count("/") == 1 for name in probe.entries)
    return b"/data.pkl" in probe.head[:256]


class FileReader(TorchReader):
    """``state_dict`` s, tensors, whole modules, checkpoints, TorchScript archives."""

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self.zip = ZipMembers(path, options.verify)
        try:
            pickles = [name for name in self.zip.members if name.endswith("/data.pkl") and name.count("/") == 1]
            if len(pickles) != 1:
                raise FormatError(path, f"the archive has {len(pickles)} members 'data.pkl' in a folder, not one")
            self.folder = pickles[0].removesuffix("data.pkl")
            self.big_endian = self._is_big_endian()
        except BaseException:
            self.zip.close()
            raise

    def load(self) -> object:
        data = self.zip.read(self.folder + "data.pkl")
        value, _ = load(data, self.path, self.globals, self._storage, self.unknown)
        return value

    @cached_property
    def globals(self) -> dict[str, Callable[..., object] | None]:
        return {**TENSOR_GLOBALS, **SCRIPT_GLOBALS}

    @staticmethod
    def unknown(name: str) -> Callable[..., object]:
        if name.startswith("__torch__"):  # a class of a TorchScript archive, whose code is in the archive
            return lambda *args: Opaque(name, args)
        return inert_class(name)

    def size(self, key: str) -> int:
        return self.zip.member(self._member(key)).size

    def raw(self, key: str, begin: int, length: int) -> Array:
        return self.zip.array(self._member(key), begin, length)

    def close(self) -> None:
        self.zip.close()

    def _member(self, key: str) -> str:
        for place in _STORAGE_PLACES:
            if self.folder + place + key in self.zip:
                return self.folder + place + key
        return f"{self.folder}{_STORAGE_PLACES[0]}{key}"

    def _is_big_endian(self) -> bool:
        if self.folder + "byteorder" not in self.zip:
            return False
        order = self.zip.read(self.folder + "byteorder").strip()
        if order not in (b"little", b"big"):
            raise FormatError(self.path, f"'{self.folder}byteorder' says {order[:20]!r}, not little or big")
        return order == b"big"

    def _storage(self, identity: object) -> Storage:
        """``('storage', class, key, device, count)``."""
        if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
            raise PickleError("a persistent id that is not a storage")
        return storage_of(identity[1], identity[2], identity[4])


def _tagged(value: object, *_: object) -> object:
    return value


#: What the pickles of TorchScript call (``torch/jit/_pickle.py``).
SCRIPT_GLOBALS = {
    "torch.jit._pickle build_intlist": _tagged,
    "torch.jit._pickle build_tensorlist": _tagged,
    "torch.jit._pickle build_doublelist": _tagged,
    "torch.jit._pickle build_boollist": _tagged,
    "torch.jit._pickle restore_type_tag": _tagged,
}
