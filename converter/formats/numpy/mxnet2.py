"""MXNet 2's ``.params`` and ``.npz``: a zip of ``.npy`` members, of ``npx.savez`` and ``Block.save_parameters``.

Format: ``src/serialization/cnpy.cc`` of MXNet 2. It differs from NumPy's in the date of its members, which
is zero (month 0), in the name that it gives to bfloat16, and in sparse arrays; `numpy.npz` reads all of these.
"""

from __future__ import annotations

from functools import cached_property

from converter.core.contents import Contents
from converter.formats.base import Probe
from converter.formats.numpy import npz


def detect(probe: Probe) -> bool:
    return probe.head[12:14] == b"\0\0" and npz.detect(probe)


class FileReader(npz.FileReader):
    @cached_property
    def contents(self) -> Contents:
        contents = super().contents
        return Contents(contents.specs, left_out=contents.left_out, writer="MXNet 2")


class FileWriter(npz.FileWriter):
    """As `npz.FileWriter`. bfloat16 is refused: MXNet 2.0.0b1 saves it, but fails to load its own file."""

    date = 0
    unknown_dtypes = frozenset({"bfloat16"})
