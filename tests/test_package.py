"""The wheel: what it holds, and that it works where nothing of the checkout is."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from converter.schema.loader import schema_folder
from tests.places import ROOT


def test_a_checkout_finds_the_schemas_beside_the_package() -> None:
    assert schema_folder() == ROOT / "schemas"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in tracked.stdout.splitlines():  # a copy, so that no build folder appears in the checkout
        if name.startswith(("converter/", "schemas/")) or "/" not in name:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(copy)]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_module_and_schema(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "converter").rglob("*.py")}
    files = (ROOT / "schemas").rglob("*.yaml")
    schemas = {f"converter/schemas/{file.relative_to(ROOT / 'schemas').as_posix()}" for file in files}
    page = {f"converter/reports/page/page.{kind}" for kind in ("html", "css", "js")}
    assert schemas and modules | schemas | page | {"converter/py.typed"} <= held
    assert not [name for name in held if name.startswith("tests")]


def test_the_installed_wheel_converts_with_a_schema(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True)
    (tmp_path / "mlp.params").write_bytes((ROOT / "examples" / "mlp.params").read_bytes())
    code = (
        "import converter, converter.schema.loader\n"
        f"assert converter.__file__.startswith({str(site)!r}), converter.__file__\n"
        f"assert str(converter.schema.loader.schema_folder()).startswith({str(site)!r})\n"
        "converter.convert('torch->tensorflow', 'mlp.params', schema='mlp')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(site)}, check=True)
    assert (tmp_path / "mlp.weights.h5").is_file()
    assert {script.name for script in (site / "bin").iterdir()} == {"convert", "converter"}
