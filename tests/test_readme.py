"""What the README says is true today."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

from tests.command import ok
from tests.places import ROOT

README = (ROOT / "README.md").read_text()


def test_the_generated_tables_are_current() -> None:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "tools" / "tables.py")
    assert spec and spec.loader
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    for page in tables.TABLES:
        assert tables.current(page) == page.read_text(), "run: python tools/tables.py"
    assert tables.layers() == (ROOT / "docs" / "layers.md").read_text(), "run: python tools/tables.py"
    assert tables.json_schema() == (ROOT / "schemas" / "schema.json").read_text(), "run: python tools/tables.py"


def test_the_first_output_shown_is_what_the_command_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "examples" / "mlp.params", tmp_path)
    monkeypatch.chdir(tmp_path)
    shown = re.search(r"```\n(mlp\.params .*?)```", README, re.DOTALL)
    assert shown and ok(capsys, "torch->flax", "mlp.params") == shown[1]


def test_the_code_shown_is_what_the_commands_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "examples" / "mlp.params", tmp_path)
    monkeypatch.chdir(tmp_path)
    shown = re.search(r'```python\n("""mlp in Flax.*?)```', README, re.DOTALL)
    ok(capsys, "torch->neutral", "mlp.params", "--schema", "mlp")
    assert shown and ok(capsys, "scaffold", "mlp.safetensors", "--to", "flax") == shown[1]


def test_every_option_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    options = set(re.findall(r"--[a-z-]+", ok(capsys, "convert", "--help"))) - {"--help"}
    assert options
    assert not [option for option in options if option not in README]
