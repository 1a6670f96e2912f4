"""PyTorch's tensors in plain pickles, and in the ``.npy`` files that ``np.save`` of a dict makes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.errors import FormatError, UnsafeFileError
from converter.formats.io.budget import Budget, Loan
from converter.formats.pickle.load import load
from converter.formats.pickle.nested import flatten
from converter.formats.pickled.torch import torch_globals
from converter.formats.torch.tensors import TORCH_DTYPES
from tests.formats.contract import same_bits
from tests.formats.pickle.test_load import Call
from tests.formats.torch.test_zip import random_tensor, read, to_numpy

PATH = Path("some.pkl")


def arrays(data: bytes) -> dict[str, Any]:
    value, used = load(data, PATH, torch_globals(PATH, Loan(Budget(PATH))))
    assert used == len(data)
    return {entry.name: entry.value for entry in flatten(value, PATH).kept}


@pytest.mark.parametrize("protocol", range(2, 6))
def test_tensors_of_every_dtype(protocol: int) -> None:
    tensors = {name: random_tensor((3, 2), name, seed) for seed, name in enumerate(TORCH_DTYPES)}
    found = arrays(pickle.dumps({"net": tensors}, protocol))
    assert list(found) == [f"net/{name}" for name in tensors]
    for name, tensor in tensors.items():
        assert same_bits(found[f"net/{name}"], to_numpy(tensor)) and not found[f"net/{name}"].flags.writeable, name


def test_views_parameters_and_tied_tensors() -> None:
    base = random_tensor((4, 6), "float32", 1)
    tensors = {"whole": base, "turned": base.T, "part": base[1:3, ::2], "tied": base, "empty": base[4:]}
    tensors |= {"parameter": torch.nn.Parameter(base[0]), "scalar": torch.tensor(2.5)}
    found = arrays(pickle.dumps(tensors))
    assert all(same_bits(found[name], to_numpy(tensor)) for name, tensor in tensors.items())


def test_an_npy_of_a_dict_of_tensors(tmp_path: Path) -> None:
    tensors = {"x": random_tensor((3,), "float32", 1), "y": [random_tensor((2, 2), "int64", 2)]}
    np.save(tmp_path / "a.npy", np.array(tensors, dtype=object))
    found = read(tmp_path / "a.npy")
    assert list(found) == ["x", "y/0"]
    assert same_bits(found["x"], to_numpy(tensors["x"]))  # type: ignore[arg-type]
    assert same_bits(found["y/0"], to_numpy(tensors["y"][0]))


def test_a_storage_whose_bytes_are_hostile(tmp_path: Path) -> None:
    victim = tmp_path / "PWNED"
    data = pickle.dumps(torch.ones(2))
    assert b"torch.storage" in data
    inner = pickle.dumps(Call(open, str(victim), "w"), 2)
    outer = b"\x80\x02ctorch.storage\n_load_from_bytes\n(B" + len(inner).to_bytes(4, "little") + inner + b"tR."
    with pytest.raises((UnsafeFileError, FormatError)):
        arrays(outer)
    assert not victim.exists()


def test_what_is_not_a_plain_tensor_is_refused() -> None:
    with pytest.raises(FormatError, match="quantized"):
        arrays(pickle.dumps(torch.quantize_per_tensor(torch.ones(3), 0.1, 2, torch.qint8)))
    with pytest.raises(FormatError, match="sparse"):
        arrays(pickle.dumps(torch.eye(3).to_sparse()))
