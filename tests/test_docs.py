"""The page of formats says what the code does."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from converter.errors import FormatError
from converter.formats import FORMATS, Format, ReadOptions, open_reader
from tests.places import ROOT

WRITTEN = [row for row in FORMATS if row.extensions]


@pytest.fixture(scope="module")
def capabilities() -> ModuleType:
    spec = importlib.util.spec_from_file_location("capabilities", ROOT / "tools" / "capabilities.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_formats_is_current(capabilities: ModuleType) -> None:
    assert capabilities.PAGE.read_text() == capabilities.page(), "run: python tools/capabilities.py"


@pytest.mark.parametrize("row", WRITTEN, ids=lambda row: row.name)
def test_declared_checksums_are_compared_unless_told_not_to(
    tmp_path: Path, capabilities: ModuleType, row: Format
) -> None:
    array = capabilities.array_of("float32")
    path = capabilities.write(row, tmp_path, array)
    (file,) = [file for file in tmp_path.rglob("*") if file.is_file() and array.tobytes() in file.read_bytes()]
    data = bytearray(file.read_bytes())
    data[data.index(array.tobytes()) + array.nbytes - 2] ^= 0x40
    file.write_bytes(data)

    def read(verify: bool) -> bytes:
        _, reader = open_reader(path, ReadOptions(checksums=verify))
        with reader:
            return reader.read(reader.contents.specs[0].name).tobytes()

    if row.checksums and "OCDBT" not in row.checksums:
        with pytest.raises(FormatError):
            read(checksums=True)
    assert read(checksums=False) != array.tobytes()
