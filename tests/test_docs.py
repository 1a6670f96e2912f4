"""The pages of formats, of the design and of the Python functions say what the code does; the site has every page."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import converter
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

    def read(checksums: bool) -> bytes:
        _, reader = open_reader(path, ReadOptions(checksums=checksums))
        with reader:
            return reader.read(reader.contents.specs[0].name).tobytes()

    if row.checksums and "OCDBT" not in row.checksums:
        with pytest.raises(FormatError):
            read(checksums=True)
    assert read(checksums=False) != array.tobytes()


def test_the_walk_of_one_conversion_is_current() -> None:
    """In a process of its own: what was called before is not called again where it is cached."""
    code = "from tools import walk; print(walk.page(walk.PAGE.read_text()), end='')"
    walked = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    page = (ROOT / "docs" / "design.md").read_text()
    assert walked.stdout == page, "run: python tools/walk.py --page"
    stops = re.findall(r"^\| (\d+) \| `[\w.]+` \|", page, re.MULTILINE)
    assert 10 < len(stops) <= 30


def test_every_public_name_has_its_place_on_the_page_of_python() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    shown = re.findall(r"^::: converter\.(\w+)$", page, re.MULTILINE)
    assert sorted(shown) == sorted(set(converter.__all__) - {"read"})


def _pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for item in (nav.values() if isinstance(nav, dict) else nav) for page in _pages(item)]


def test_the_site_has_every_page_and_loads_nothing_from_elsewhere() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    docs = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    pages = _pages(site["nav"])
    assert len(pages) == len(set(pages))
    assert set(pages) == docs | {"CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"}
    assert site["strict"] and site["theme"]["font"] is False
    assert not {"extra_css", "extra_javascript", "extra_templates"} & set(site)


def test_the_links_of_the_pages_lead_somewhere() -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
