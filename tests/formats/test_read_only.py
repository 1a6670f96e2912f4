"""The suite of readers for the formats that are only read, on files of their real frameworks."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from converter.errors import FormatError
from converter.formats import FORMATS, ReadOptions, by_name, open_reader
from tests.formats.contract import Array, FormatContract, ReadContract, random_array
from tests.formats.every import FILES
from tests.formats.read_only import MAKERS, Make
from tests.places import ROOT


def arrays() -> list[Array]:
    """Random bits but no NaN, which some frameworks compare with."""
    return [np.nan_to_num(random_array(shape, "float32", seed)) for seed, shape in enumerate([(3, 2), (4,), (2, 3, 2)])]


class OnlyRead(ReadContract):
    def make(self, folder: Path) -> tuple[Path, Mapping[str, Array]]:
        return MAKERS[self.format](folder, arrays())


#: One suite for each maker.
globals().update({f"Test_{name}": type(f"Test_{name}", (OnlyRead,), {"format": name}) for name in MAKERS})


def test_every_format_is_in_one_of_the_suites() -> None:
    assert {row.name for row in FORMATS} == {*FILES, *MAKERS}


def test_every_format_that_is_written_is_in_the_suite_of_writers() -> None:
    for file in Path(__file__).parent.rglob("test_*.py"):
        importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    assert {suite.format for suite in FormatContract.__subclasses__()} == set(FILES)


@pytest.mark.parametrize(("row", "make"), MAKERS.items(), ids=list(MAKERS))
def test_declared_checksums_are_compared_unless_told_not_to(tmp_path: Path, row: str, make: Make) -> None:
    path, named = make(tmp_path, arrays())
    array = arrays()[2]
    (file,) = [file for file in tmp_path.rglob("*") if file.is_file() and array.tobytes() in file.read_bytes()]
    data = bytearray(file.read_bytes())
    data[data.index(array.tobytes()) + array.nbytes - 2] ^= 0x40
    file.write_bytes(data)
    name = list(named)[2]

    def read(checksums: bool) -> bytes:
        with open_reader(path, ReadOptions(checksums=checksums))[1] as reader:
            return bytes(reader.read(name).tobytes())

    if by_name(row).checksums:
        with pytest.raises(FormatError):
            read(checksums=True)
    assert read(checksums=False) != array.tobytes()
