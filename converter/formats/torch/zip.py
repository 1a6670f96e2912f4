"""PyTorch's zip files: of ``torch.save`` since 1.6 (in 1.4 and 1.5 an option), and of TorchScript since 1.4.

They are written such that ``torch.load(weights_only=True)`` reads them.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated

import msgspec

from converter.core.contents import Contents
from converter.core.tensors import Array
from converter.formats.base import Probe
from converter.formats.torch.archive import TorchArchive
from converter.formats.torch.description import check_dtypes, described
from converter.formats.torch.objects import TorchReader
from converter.formats.torch.tensors import VERSIONS, StridedTensor, TorchFile
from converter.formats.zip.members import ZipMembers
from converter.formats.zip.writer import ALIGNMENT, ZipLayout, ZipWriter

__all__ = ["FileReader", "FileWriter", "detect"]

_Version = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
#: Names of members near the start of such files, which tell one whose directory was cut off.
_FIRST_NAMES = (b"/data.pkl", b"/constants.pkl", b"/code/__torch__", b"/.format_version")


def detect(probe: Probe) -> bool:
    """A zip with a member ``FOLDER/data.pkl``; if it was cut off, with such a name at its start. Files of distributed
    checkpoints have their own reader."""
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
        return ZipMembers.opened(self.path, self.options.checksums, TorchArchive, self.budget)

    def peek(self, name: str) -> Array:
        assert isinstance(self.file, TorchArchive)
        leaf = self.weights.tensors[name]
        if isinstance(leaf, StridedTensor) and (ends := self.file.ends(leaf, f"'{name}'")) is not None:
            return ends
        with self.file.zip.unverified():
            return self.read(name)

    def digest(self, name: str) -> Hashable:
        assert isinstance(self.file, TorchArchive)
        leaf = self.weights.tensors[name]
        return self.file.crc(leaf) if isinstance(leaf, StridedTensor) else None


class FileWriter(ZipWriter):
    """A tensor, a list, or a dict of tensors."""

    def __init__(self, path: Path, contents: Contents) -> None:
        check_dtypes(path, contents.specs)
        layout = ZipLayout(padding=(b"FB", b"Z"))  # as PyTorch pads
        small = {
            "data.pkl": described(contents.specs, contents.container, False, _versions(contents), contents.tree),
            ".format_version": b"1",
            ".storage_alignment": b"%d" % ALIGNMENT,
            "byteorder": sys.byteorder.encode(),
        }
        pieces = dict(layout.add_whole(f"archive/{name}", data) for name, data in small.items())
        tensors = {spec.name: layout.add(f"archive/data/{key}", spec.nbytes) for key, spec in enumerate(contents.specs)}
        pieces |= [layout.add_whole("archive/version", b"3\n")]
        super().__init__(path, contents, layout, tensors, pieces)


def _versions(contents: Contents) -> dict[str, int]:
    """Of the modules of a clone; the header of a safetensors file may say anything under this name.

    A norm whose count of batches is not written has none: from version 2 on it must be there, before it may be missing.
    """
    try:
        versions = msgspec.json.decode(contents.metadata.get(VERSIONS, "{}"), type=dict[str, _Version])
    except msgspec.MsgspecError:
        return {}
    inside = {name.rpartition(".")[0] for name in contents.by_name if name.endswith("running_mean")}
    uncounted = {module for module in inside if f"{module}.num_batches_tracked".lstrip(".") not in contents.by_name}
    return {module: version for module, version in versions.items() if module not in uncounted}
