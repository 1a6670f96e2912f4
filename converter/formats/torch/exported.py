"""``torch.export`` programs (``.pt2``): their state dict, without the program.

Since 2.7: ``FOLDER/data/weights/model_weights_config.json`` names raw weights beside it. Before: a whole
``torch.save`` file inside, ``serialized_state_dict.pt`` (or, in 2.1, ``.json``). Upstream:
``torch/export/pt2_archive/_package.py``, ``torch/_export/serde/schema.py``, ``torch/export/__init__.py`` (save).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from converter.core.tensors import Array, DType
from converter.errors import FormatError
from converter.formats.base import Probe
from converter.formats.io.budget import Loan
from converter.formats.io.json import Document
from converter.formats.torch.archive import TorchArchive
from converter.formats.torch.objects import TorchReader
from converter.formats.torch.tensors import TORCH_DTYPES, NotATensor, Storage, StridedTensor, TorchFile
from converter.formats.zip.members import ZipMembers

__all__ = ["ExportedProgram", "FileReader", "detect"]

_WEIGHTS, _CONSTANTS = "data/weights/", "data/constants/"
_WEIGHTS_CONFIG, _CONSTANTS_CONFIG = "_weights_config.json", "_constants_config.json"
_VERSION = re.compile(rb'"torch_version": ?"([\w.+-]{1,40})"')
#: Bytes at the end of a program in which its version is looked for.
_LAST = 1 << 20
_OLD_NAMES = ("serialized_state_dict.pt", "serialized_state_dict.json")
_FIRST_NAMES = (b"/data/weights/weight_", b"serialized_exported_program.json")
_STRIDED = 7
#: Tensors too, but none that a net loads: literals of the code, buffers that were not to be saved, attributes.
_CONSTANT = "a constant of the program, which its state_dict does not have"
#: ``ScalarType`` of the schema.
_DTYPES: Mapping[object, DType] = {
    code: TORCH_DTYPES[name]
    for code, name in {
        1: "uint8",
        2: "int8",
        3: "int16",
        4: "int32",
        5: "int64",
        6: "float16",
        7: "float32",
        8: "float64",
        10: "complex64",
        11: "complex128",
        12: "bool",
        13: "bfloat16",
        28: "uint16",
        29: "float8_e4m3fn",
        30: "float8_e5m2",
        31: "float8_e4m3fnuz",
        32: "float8_e5m2fnuz",
        33: "float8_e8m0fnu",
        34: "uint32",
        35: "uint64",
    }.items()
    if name in TORCH_DTYPES
}


def detect(probe: Probe) -> bool:
    """By the members; of a file whose directory was cut off, by the names near its start."""
    if not probe.entries:
        return probe.is_zip and any(name in probe.head for name in _FIRST_NAMES)
    return any(
        name.endswith((*_OLD_NAMES, "/archive_format")) or (f"/{_WEIGHTS}" in name and name.endswith("_config.json"))
        for name in probe.entries
    )


class ExportedProgram(TorchFile):
    """The weights of the program, as raw members of the archive; of several programs, below the name of each."""

    def __init__(self, members: ZipMembers) -> None:
        self.zip = members
        self.path = members.path
        self.budget = members.source.budget
        configs = [name for name in members.members if f"/{_WEIGHTS}" in name and name.endswith(_WEIGHTS_CONFIG)]
        if not configs:
            raise FormatError(self.path, "the archive describes the weights of no program")
        self.folder = configs[0][: configs[0].index(_WEIGHTS)]
        prefix = self.folder + _WEIGHTS
        self.programs = [
            name[len(prefix) :].removesuffix(_WEIGHTS_CONFIG) for name in configs if name.startswith(prefix)
        ]
        order = self.folder + "byteorder"
        self.big_endian = order in members and members.read(order).strip() == b"big"

    def load(self, loan: Loan) -> object:
        self.writer = self._torch_version()
        programs = {program: self._tensors(program) for program in self.programs}
        return programs if len(programs) > 1 else programs[self.programs[0]]

    def _tensors(self, program: str) -> dict[str, object]:
        weights = self._described(f"{self.folder}{_WEIGHTS}{program}{_WEIGHTS_CONFIG}")
        constants = f"{self.folder}{_CONSTANTS}{program}{_CONSTANTS_CONFIG}"
        left_out = self._described(constants) if constants in self.zip else ()
        return {name: self._tensor(item) for name, item in weights} | {
            name: NotATensor(_CONSTANT) for name, _ in left_out
        }

    def _torch_version(self) -> str:
        """The version of PyTorch, which stands after the graph; that may be long and is not parsed."""
        name = f"{self.folder}models/{self.programs[0]}.json"
        if name not in self.zip or not self.zip.member(name).stored:
            return ""
        begin = max(0, self.zip.member(name).size - _LAST)
        version = _VERSION.search(self.zip.array(name, begin, self.zip.member(name).size - begin).tobytes())
        return f"PyTorch {version[1].decode()}" if version else ""

    def size(self, key: str) -> int:
        return self.zip.member(self.folder + _WEIGHTS + key).size

    def raw(self, key: str, begin: int, length: int) -> Array:
        return self.zip.array(self.folder + _WEIGHTS + key, begin, length)

    def close(self) -> None:
        self.zip.close()

    def _described(self, config: str) -> list[tuple[str, Document]]:
        return Document.parse(self.zip.read(config), self.path, config).get("config").items()

    def _tensor(self, item: Document) -> object:
        if item.get("use_pickle").value is not False:
            return NotATensor("a tensor of a subclass, which the program keeps as a pickle")
        meta = item.get("tensor_meta")
        dtype = meta.get("dtype").dtype(_DTYPES)
        if meta.get("layout").value != _STRIDED:
            raise meta.get("layout").error("strided")
        shape, strides = (tuple(_integer(size) for size in meta.get(key).list()) for key in ("sizes", "strides"))
        if len(shape) != len(strides) or len(shape) > 32:
            raise meta.get("strides").error(f"{len(shape)} strides")
        key = item.get("path_name").text()
        storage = Storage(key, dtype, self.size(key) // dtype.itemsize)
        return StridedTensor(storage, dtype, _integer(meta.get("storage_offset")), shape, strides)


def _integer(size: Document) -> int:
    return size.get("as_int").count()


class _OldProgram(TorchArchive):
    """A ``torch.save`` file that is a member of the program's archive."""

    def __init__(self, outer: ZipMembers, name: str) -> None:
        member = outer.member(name)
        if not member.stored:
            raise FormatError(outer.path, f"the member '{name}' is packed")
        outer.verify_member(name)
        inner = ZipMembers(outer.path, outer.verify, outer.begin + member.offset, member.size, outer.source.budget)
        outer.close()
        try:
            super().__init__(inner)
        except BaseException:
            inner.close()
            raise


def _opened(members: ZipMembers) -> TorchFile:
    old = [name for name in members.members if name.endswith(_OLD_NAMES)]
    return _OldProgram(members, old[0]) if old else ExportedProgram(members)


class FileReader(TorchReader):
    """See `ExportedProgram`. Constants and buffers that the program does not save are left out."""

    dtypes = tuple(dtype.name for dtype in _DTYPES.values())
    lazy = "tensor, or its zip member if packed"

    def open(self) -> TorchFile:
        return ZipMembers.opened(self.path, self.options.checksums, _opened)
