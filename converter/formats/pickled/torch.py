"""PyTorch's tensors inside of plain pickles and of ``.npy`` files, where each storage is a whole legacy file.

Upstream: ``torch/storage.py`` (TypedStorage.__reduce__, _load_from_bytes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from converter.formats.io.budget import Loan
from converter.formats.pickle.load import PickleError
from converter.formats.torch.legacy import LegacyStream
from converter.formats.torch.quantized import QuantizedTensor
from converter.formats.torch.rebuild import TENSOR_GLOBALS
from converter.formats.torch.sparse import SparseTensor
from converter.formats.torch.tensors import Storage, StridedTensor

__all__ = ["torch_globals"]


class _HeldStorage(Storage, frozen=True, eq=False):
    """A storage together with the file that it stands in."""

    file: LegacyStream | None = None


def torch_globals(path: Path, loan: Loan) -> Mapping[str, Callable[..., object] | None]:
    """For `known` of `load`, once for each file: containers, NumPy, and tensors as read-only arrays.

    path: for messages. loan: what pays for the objects inside. Quantized and sparse tensors are refused.
    """
    opened: dict[int, tuple[object, _HeldStorage]] = {}  # a pickle may name the same bytes again and again

    def load_from_bytes(raw: object) -> object:
        if id(raw) not in opened:
            opened[id(raw)] = (raw, _storage_in(raw, path, loan))
        return opened[id(raw)][1]

    read = {
        name: _reading(make, loan)
        for name, make in TENSOR_GLOBALS.items()
        if make is not None and name.startswith("torch._utils _rebuild")
    }
    return {**TENSOR_GLOBALS, **read, "torch.storage _load_from_bytes": load_from_bytes}


def _storage_in(raw: object, path: Path, loan: Loan) -> _HeldStorage:
    if isinstance(raw, str):  # bytes of Python 2
        loan.charge(len(raw), "the bytes of a storage")
        raw = raw.encode("latin-1")
    if not isinstance(raw, (bytes, memoryview)):
        raise PickleError("a storage without its bytes")
    file = LegacyStream(np.frombuffer(raw, np.uint8), path, loan.budget)
    storage = file.load(loan)
    if not isinstance(storage, Storage):
        raise PickleError("the bytes of a storage hold something else")
    return _HeldStorage(storage.key, storage.dtype, storage.count, storage.begin, file)


def _reading(make: Callable[..., object], loan: Loan) -> Callable[..., object]:
    """The same function, but a tensor that it describes is read at once."""

    def read(*args: object) -> object:
        made = make(*args)
        if isinstance(made, SparseTensor):
            raise PickleError("a sparse tensor; make it dense in PyTorch first (to_dense())")
        if isinstance(made, QuantizedTensor):
            raise PickleError("a quantized tensor; make it a plain tensor in PyTorch first (dequantize())")
        if not isinstance(made, StridedTensor):
            return made
        if not isinstance(made.storage, _HeldStorage) or made.storage.file is None:
            raise PickleError("a tensor without its storage")
        made.check(made.storage.file)
        loan.charge(made.beyond, "the whole of a tensor")
        array = made.read(made.storage.file)
        array.flags.writeable = False
        return array

    return read
