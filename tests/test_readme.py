"""What the README and the pages of the docs show is what happens today."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.places import ROOT
from tools import pages

README = (ROOT / "README.md").read_text()


def tool(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tools" / f"{name}.py"))


def test_the_generated_tables_are_current() -> None:
    tables = tool("tables")
    for page in tables["TABLES"]:
        assert tables["current"](page) == page.read_text(), "run: python tools/tables.py"
    assert tables["layers"]() == (ROOT / "docs" / "layers.md").read_text(), "run: python tools/tables.py"
    assert tables["json_schema"]() == (ROOT / "schemas" / "schema.json").read_text(), "run: python tools/tables.py"


def test_the_page_of_options_is_current() -> None:
    options = tool("options")
    assert options["page"]() == options["PAGE"].read_text(), "run: python tools/options.py"


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
def test_every_command_and_example_prints_what_is_shown(page: Path) -> None:
    text = page.read_text()
    assert any(block.language == "console" for block in pages.blocks(text))
    assert pages.current(text) == text, f"run: python tools/pages.py {page.relative_to(ROOT)}"


def test_an_output_that_is_not_printed_is_seen() -> None:
    text = "<!-- files: a.params = examples/mlp.params -->\n```console\n$ converter verify a.params a.params\n{}```\n"
    right = pages.current(text.format(""))
    assert "hold the same weights" in right
    assert pages.current(right) == right
    assert pages.current(text.format("a.params is wrong\n")) == right
    assert pages.current(text.format("wrong\n…\n")) == right
    assert pages.current(text.format("…\n")) == text.format("…\n")


@pytest.mark.parametrize(
    "block",
    [
        "```console\n$ convert 'torch->flax' missing.pt --unknown 1\nUsage: convert\n```\n",
        "```console\n$ converter verify\n```\n",
        "```python\nprint(1)\n```\n",
        "```console\n$ rm file\n```\n",
    ],
)
def test_a_block_that_fails_or_says_nothing_is_refused(block: str) -> None:
    with pytest.raises(AssertionError):
        pages.current(block)


def test_options_in_blocks_that_are_not_run_exist() -> None:
    with pytest.raises(Exception, match="unknwon"):
        pages.current("```sh\nconvert 'torch->flax' s3://a/b.pt --unknwon 3\n```\n")


def test_the_readme_is_short_and_shows_each_command() -> None:
    assert len(README.splitlines()) < 150
    for command in ("convert 'torch->flax'", "converter verify", "converter reuse", "converter scaffold"):
        assert f"$ {command}" in README
    for function in ("load_into", "save", "open", "plan"):
        assert f"converter.{function}(" in README


def test_the_links_of_the_readme_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text()):
            assert (ROOT / link).exists(), f"{name}: {link}"
