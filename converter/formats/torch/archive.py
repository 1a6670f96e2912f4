"""The description and the storages inside of one zip archive of PyTorch, which may be a part of another file.

A folder inside of the archive holds ``data.pkl`` (the description), ``data/KEY`` (the storages, stored and
aligned), ``byteorder`` and ``version``. Upstream: ``torch/serialization.py`` (_save, _load) and
``caffe2/serialize/inline_container.cc``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType

from converter.core.tensors import Array
from converter.errors import FormatError
from converter.formats.io.budget import Loan
from converter.formats.pickle.load import Opaque, PickleError, inert_class, load
from converter.formats.torch.rebuild import TENSOR_GLOBALS
from converter.formats.torch.tensors import Storage, StridedTensor, TorchFile, storage_of
from converter.formats.zip.members import Member, ZipMembers

__all__ = ["TorchArchive"]

#: Where the storages of KEY stand, in the order of preference: 1.6 and later, 1.4 (opt-in).
_STORAGE_FOLDERS = ("data/", "tensors/")
#: What the pickles of TorchScript call to give containers their types (``torch/jit/_pickle.py``).
_TAGS = "build_intlist build_tensorlist build_doublelist build_boollist restore_type_tag".split()
_GLOBALS = MappingProxyType(
    {**TENSOR_GLOBALS} | {f"torch.jit._pickle {name}": lambda value, *_: value for name in _TAGS}
)


class TorchArchive(TorchFile):
    """``state_dict`` s, tensors, whole modules, checkpoints, TorchScript's modules."""

    def __init__(self, members: ZipMembers) -> None:
        self.zip = members
        self.path = members.path
        self.budget = members.source.budget
        pickles = [name for name in members.members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise FormatError(self.path, f"the archive has {len(pickles)} members 'data.pkl' in a folder, not one")
        self.folder = pickles[0].removesuffix("data.pkl")
        self.big_endian = self._is_big_endian()

    def load(self, loan: Loan) -> object:
        data = self.zip.rest(self.folder + "data.pkl", 0)
        value, _ = load(data, self.path, _GLOBALS, _storage, _unknown, loan=loan)
        return value

    def size(self, key: str) -> int:
        return self._member(key).size

    def raw(self, key: str, begin: int, length: int) -> Array:
        return self.zip.part(self._member(key), begin, length)

    def crc(self, tensor: StridedTensor) -> int | None:
        """The CRC of a tensor that is a whole storage, unchanged in the file; None for others."""
        member = self._member(tensor.storage.key)
        is_whole = tensor.nbytes == member.size and not (tensor.offset or tensor.storage.begin)
        return member.crc or None if is_whole and self._is_plain(tensor, member) else None

    def ends(self, tensor: StridedTensor, what: str) -> Array | None:
        """See `Source.ends`; None for a tensor that is not stored contiguously and unchanged."""
        member = self._member(tensor.storage.key)
        if not self._is_plain(tensor, member):
            return None
        start = self.zip.begin + member.offset + tensor.storage.begin + tensor.offset * tensor.dtype.itemsize
        return self.zip.source.ends(start, math.prod(tensor.shape), tensor.dtype, what)

    def _is_plain(self, tensor: StridedTensor, member: Member) -> bool:
        """Whether the elements are stored contiguously and unchanged."""
        is_other = self.big_endian or tensor.problem or tensor.conjugated or tensor.negated
        return not is_other and member.stored and tensor.is_contiguous

    def close(self) -> None:
        self.zip.close()

    def _member(self, key: str) -> Member:
        usual, other = (f"{self.folder}{folder}{key}" for folder in _STORAGE_FOLDERS)
        return self.zip.member(other if other in self.zip and usual not in self.zip else usual)

    def _is_big_endian(self) -> bool:
        if self.folder + "byteorder" not in self.zip:
            return False
        order = self.zip.read(self.folder + "byteorder").strip()
        if order not in (b"little", b"big"):
            raise FormatError(self.path, f"'{self.folder}byteorder' says {order[:20]!r}, not little or big")
        return order == b"big"


def _unknown(name: str) -> Callable[..., object]:
    if name.startswith("__torch__"):  # a class of TorchScript, whose code is in the archive
        return lambda *args: Opaque(name, args)
    return inert_class(name)


def _storage(identity: object) -> Storage:
    """``('storage', class, key, device, count)``."""
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
        raise PickleError("a persistent id that is not a storage")
    return storage_of(identity[1], identity[2], identity[4])
