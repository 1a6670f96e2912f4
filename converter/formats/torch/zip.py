"""PyTorch's zip files, those of ``torch.save`` since 1.6 (and of 1.4's first form) and of TorchScript."""

from __future__ import annotations

from collections.abc import Hashable

from converter.core.tensors import Array
from converter.formats.base import Probe
from converter.formats.torch.archive import TorchArchive
from converter.formats.torch.reader import TorchReader
from converter.formats.torch.tensors import StridedTensor, TorchFile
from converter.formats.torch.zip_writer import TorchZipWriter
from converter.formats.zip.members import ZipMembers

__all__ = ["FileReader", "FileWriter", "detect"]

FileWriter = TorchZipWriter
#: Names of members near the start of such files, which tell one whose directory was cut off.
_FIRST_NAMES = (b"/data.pkl", b"/constants.pkl", b"/code/__torch__", b"/.format_version")


def detect(probe: Probe) -> bool:
    """A zip with a member ``FOLDER/data.pkl``; for a cut one, such a name at its start. No part of a `torch_dcp`."""
    if not probe.is_zip or probe.path.suffix == ".distcp":
        return False
    if _is_pickle(probe.first_member):
        return True
    if probe.entries:
        return any(map(_is_pickle, probe.entries))
    return any(name in probe.head for name in _FIRST_NAMES)


def _is_pickle(name: str) -> bool:
    return name.endswith("/data.pkl") and name.count("/") == 1


class FileReader(TorchReader):
    """See `TorchArchive`. Large storages are mapped, not copied; CRCs are verified."""

    lazy = "tensor, or its zip member if packed"
    parallel = True

    def open(self) -> TorchFile:
        return ZipMembers.opened(self.path, self.options.checksums, TorchArchive)

    def peek(self, name: str) -> Array:
        assert isinstance(self.file, TorchArchive)
        leaf = self.weights.tensors[name]
        if isinstance(leaf, StridedTensor) and (found := self.file.ends(leaf, f"'{name}'")) is not None:
            return found
        with self.file.zip.unverified():
            return self.read(name)

    def digest(self, name: str) -> Hashable:
        assert isinstance(self.file, TorchArchive)
        leaf = self.weights.tensors[name]
        return self.file.crc(leaf) if isinstance(leaf, StridedTensor) else None
