"""Sample files of old releases: every one has ``FILE.expected.npz`` beside it, the arrays as its framework
reports them. bfloat16 and float8 stand there as unsigned integers, their real dtype in ``__dtypes__``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from converter.core.tensors import DTYPES
from converter.formats import open_reader
from tests.formats.contract import same_bits
from tests.places import SAMPLES


def sample_files(folder: str) -> list[Path]:
    """The samples under tests/samples/FOLDER. Never empty: a test over them must assert something."""
    found = sorted(
        path
        for path in (SAMPLES / folder).rglob("*")
        if path.is_file() and path.with_name(path.name + ".expected.npz").exists()
    )
    assert found, folder
    return found


def expected_of(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(path.with_name(path.name + ".expected.npz")) as file:
        arrays = {name: file[name] for name in file.files}
    dtypes = json.loads(str(arrays.pop("__dtypes__"))) if "__dtypes__" in arrays else {}
    return {name: array.view(DTYPES[dtypes[name]]) if name in dtypes else array for name, array in arrays.items()}


def assert_reads_as_expected(path: Path, row: str) -> None:
    """Bit for bit, under the same names but for the separator of nested containers."""
    found_row, reader = open_reader(path)
    assert found_row.name == row
    with reader:
        found = {spec.name.replace("/", "."): reader.read(spec.name) for spec in reader.contents.specs}
    expected = {name.replace("/", "."): array for name, array in expected_of(path).items()}
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert same_bits(found[name], array), (name, found[name], array)
