"""Writing PyTorch's form before 1.6, which every version of PyTorch reads; see `torch_legacy` for the layout."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

from converter.core.contents import Contents
from converter.core.tensors import Array
from converter.errors import OutputError
from converter.formats.io.in_place import InPlaceWriter
from converter.formats.torch.description import check_dtypes, described

__all__ = ["TorchLegacyWriter"]

_HEAD = (
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number
    b"\x80\x02M\xe9\x03."  # the protocol, 1001
    b"\x80\x02}(X\x10\x00\x00\x00protocol_versionM\xe9\x03X\x0d\x00\x00\x00little_endian\x88"
    b"X\x0a\x00\x00\x00type_sizes}(X\x05\x00\x00\x00shortK\x02X\x03\x00\x00\x00intK\x04X\x04\x00\x00\x00longK\x04uu."
)


class TorchLegacyWriter(InPlaceWriter):
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
