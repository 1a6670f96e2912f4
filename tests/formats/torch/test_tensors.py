"""Descriptions of tensors that no honest file has end in an error, before memory is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.core.tensors import DTYPES, Array
from converter.errors import FormatError
from converter.formats.io.budget import Budget, Loan
from converter.formats.pickle.load import PickleError
from converter.formats.torch.rebuild import TENSOR_GLOBALS
from converter.formats.torch.tensors import FileTensor, Storage, TorchFile

FLOAT, LONG, UNSIGNED = (DTYPES[name] for name in ("float32", "int64", "uint8"))


class InMemory(TorchFile):
    path = Path("memory")
    budget = Budget(path)

    def __init__(self, **arrays: Array) -> None:
        self.arrays = {name: np.ascontiguousarray(array).reshape(-1).view(np.uint8) for name, array in arrays.items()}

    def load(self, loan: Loan) -> object:
        return None

    def size(self, key: str) -> int:
        if key not in self.arrays:
            raise FormatError(self.path, "no such storage")
        return len(self.arrays[key])

    def raw(self, key: str, begin: int, length: int) -> Array:
        assert begin >= 0 and begin + length <= self.size(key)
        return self.arrays[key][begin : begin + length]


FILE = InMemory(s=np.arange(6, dtype="f4"))


def make(name: str, *args: object) -> Any:
    function = TENSOR_GLOBALS[f"torch._utils _rebuild_{name}"]
    assert function is not None
    return function(*args)


def strided(offset: Any, shape: Any, stride: Any, count: int = 6, key: str = "s") -> Any:
    return make("tensor_v2", Storage(key, FLOAT, count), offset, shape, stride, False, {})


def read(leaf: FileTensor, file: TorchFile = FILE) -> list[Any]:
    leaf.check(file)
    found: list[Any] = leaf.read(file).tolist()
    return found


def test_what_fits_is_read() -> None:
    assert read(strided(1, (2, 2), (3, 1))) == [[1, 2], [4, 5]]
    assert read(strided(0, (2, 3), (1, 2))) == [[0, 2, 4], [1, 3, 5]]
    assert read(strided(2, (3, 2), (0, 1))) == [[2, 3]] * 3
    assert read(strided(5, (1, 1), (1 << 61, 1 << 61))) == [[5]]
    assert read(strided(6, (0, 4), (4, 1))) == []
    assert read(strided(5, (), ())) == 5


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (0, (2, 4), (3, 1)),
        (7, (0,), (1,)),
        (0, (1 << 40,), (0,)),
        (0, (1 << 61, 1 << 61), (0, 0)),
        (0, (0, 1 << 61, 1 << 61), (1, 1, 1)),
        (0, (0, 1 << 61), (1, 1)),
        (0, (2,), (1 << 61,)),
        (0, (-1,), (1,)),
        (0, (2,), (-1,)),
        (-1, (2,), (1,)),
        (1 << 70, (2,), (1,)),
        (0, (2,), (1, 1)),
        (0, (1,) * 40, (1,) * 40),
        (0, (2.0,), (1,)),
        (0, "2", "1"),
        (None, (2,), (1,)),
    ],
)
def test_what_does_not_fit_is_an_error(offset: Any, shape: Any, stride: Any) -> None:
    with pytest.raises((PickleError, FormatError)):
        read(strided(offset, shape, stride))


def test_storages_that_are_not_there_or_too_small() -> None:
    with pytest.raises(PickleError, match="its storage has 28 bytes, the file 24"):
        read(strided(0, (2,), (1,), count=7))
    with pytest.raises(FormatError, match="no such storage"):
        read(strided(0, (2,), (1,), key="t"))


def sparse(layout: str, shape: Any, *parts: Any) -> list[Any]:
    arrays = {f"p{index}": np.asarray(part) for index, part in enumerate(parts)}
    described = tuple(
        make(
            "tensor_v2",
            Storage(key, array.dtype, array.size),
            0,
            array.shape,
            tuple(step // array.itemsize for step in np.ascontiguousarray(array).reshape(array.shape).strides),
        )
        for key, array in arrays.items()
    )
    return read(make("sparse_tensor", layout, (*described, shape)), InMemory(**arrays))


ONE, NONE = np.ones(1, "f4"), np.zeros((0, 0), "f4")


def test_sparse_tensors_that_fit() -> None:
    assert sparse("sparse_coo", (2, 2), [[1], [0]], ONE) == [[0, 0], [1, 0]]
    assert sparse("sparse_csr", (2, 2), [0, 0, 1], [1], ONE) == [[0, 0], [0, 1]]
    assert sparse("sparse_bsc", (2, 2), [0, 0, 1], [0], np.ones((1, 2, 1), "f4")) == [[0, 1], [0, 1]]
    assert sparse("sparse_coo", (), np.zeros((0, 1), "i8"), ONE) == 1


@pytest.mark.parametrize(
    ("layout", "shape", "parts"),
    [
        ("sparse_coo", (2, 2), ([[2], [0]], ONE)),
        ("sparse_coo", (2, 2), ([[-1], [0]], ONE)),
        ("sparse_coo", (2, 2), ([[1], [0], [0]], ONE)),
        ("sparse_coo", (2, 2), ([[1, 0], [0, 0]], ONE)),
        ("sparse_coo", (2, 2), ([[1.5], [0.5]], ONE)),
        ("sparse_coo", (2, 2), (1, ONE)),
        ("sparse_coo", (1 << 30, 1 << 30), ([[1], [0]], ONE)),
        ("sparse_coo", (0, 1 << 61), ([[1], [0]], ONE)),
        ("sparse_csr", (2, 2), (1, [1], ONE)),
        ("sparse_csr", (2, 2), (np.zeros(0, "i8"), [1], ONE)),
        ("sparse_csr", (2, 2), ([0, 0, 2], [1], ONE)),
        ("sparse_csr", (2, 2), ([0, 1, 0], [1], ONE)),
        ("sparse_csr", (2, 2), ([0, 1 << 62, 1], [1], ONE)),
        ("sparse_csr", (2, 2), ([0.0, 0.0, 1.0], [1], ONE)),
        ("sparse_csr", (2, 2), ([False, False, True], [1], ONE)),
        ("sparse_csr", (1, 2), ([0, 0, 1], [1], ONE)),
        ("sparse_bsr", (2, 2), ([0, 0, 1], [1], ONE)),
        ("sparse_bsr", (3, 2), ([0, 0, 1], [0], np.ones((1, 2, 1), "f4"))),
        ("sparse_magic", (2, 2), ([0, 0, 1], [1], ONE)),
    ],
)
def test_sparse_tensors_that_do_not_fit(layout: str, shape: Any, parts: tuple[Any, ...]) -> None:
    with pytest.raises(PickleError):
        sparse(layout, shape, *parts)
