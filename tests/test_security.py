"""SECURITY.md names a test for each promise; each of them is there."""

from __future__ import annotations

import ast
import re

import pytest

from tests.places import ROOT

TEXT = (ROOT / "SECURITY.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+(?:\.py)?(?:::\w+)?)/?`", TEXT)))
ROWS = re.findall(r"^\| (?!promise|-)(.+?) \| (.+?) \|$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("name", NAMED)
def test_what_is_named_exists(name: str) -> None:
    file, _, test = name.partition("::")
    path = ROOT / file
    assert path.exists()
    if test:
        tree = ast.parse(path.read_text())
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_each_promise_has_a_test() -> None:
    assert len(ROWS) > 15
    for promise, shown in ROWS:
        assert re.search(r"`tests/[\w/]+\.py", shown), promise
