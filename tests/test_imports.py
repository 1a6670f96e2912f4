"""No framework is imported, and none is needed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.places import ROOT

FRAMEWORKS = ("torch", "tensorflow", "keras", "tf_keras", "jax", "jaxlib", "flax", "orbax", "mxnet")


def python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def test_importing_the_package_imports_no_framework() -> None:
    printed = python(
        "import converter, converter.cli, converter.live, converter.commands.convert", "-X", "importtime"
    ).stderr
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in printed.splitlines()}
    assert {"converter", "numpy"} <= imported
    assert not imported & {*FRAMEWORKS, "h5py", "tensorstore", "rich", "fsspec", "upath", "dask", "distributed"}


#: Every conversion of the chapter's MLP in one process in which no framework can be imported.
WITHOUT_FRAMEWORKS = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FRAMEWORKS}:
            raise ImportError(name + " is not installed here")
sys.meta_path.insert(0, Absent())

import itertools, pathlib, shutil, tempfile
import converter
from converter.formats import FORMATS
folder = pathlib.Path(tempfile.mkdtemp())
shutil.copy("examples/mlp.params", folder / "torch")
names = ["torch", "tensorflow", "flax", "mxnet", "neutral"]
outputs = {{"torch": [".pt", ".safetensors", ".npz"], "tensorflow": [".weights.h5", ".ckpt", ".npz"],
           "flax": [".msgpack", ".orbax", ".safetensors", ".npz"], "mxnet": [".params"], "neutral": [".safetensors"]}}
files = [("torch", folder / "torch")]
for name, endings in outputs.items():
    for ending in endings:
        path = folder / (name + "-made" + ending)
        converter.convert("torch->" + name, folder / "torch", path, schema="mlp")
        files.append((name, path))
done = 0
for (source, path), target in itertools.product(files, names):
    for ending in outputs[target]:
        result = folder / f"{{path.name}}-to-{{target}}{{ending}}"
        converter.convert(source + "->" + target, path, result, schema="mlp")
        with converter.read(result, framework=target) as weights:
            assert sorted(a.size for a in weights.values()) == [10, 256, 2560, 5120], result
        done += 1
print(done)
shutil.rmtree(folder)
"""


def test_every_conversion_of_the_chapter_without_any_framework() -> None:
    assert int(python(WITHOUT_FRAMEWORKS).stdout) == 13 * 12


HOSTILE = """
    import io, pathlib, pickle, sys, zipfile
    import numpy as np

    class Payload:
        def __reduce__(self):
            return (eval, ("__import__('pathlib').Path('PWNED').write_text('x')",))

    pickled = pickle.dumps({{"weight": Payload()}}, protocol=2)
    if {form!r} == "zip":
        with zipfile.ZipFile("hostile.pt", "w") as archive:
            archive.writestr("archive/data.pkl", pickled)
            archive.writestr("archive/version", "3\\n")
    elif {form!r} == "legacy":
        head = [pickle.dumps(v, protocol=2) for v in (0x1950A86A20F9469CFC6C, 1001, {{"little_endian": True}})]
        pathlib.Path("hostile.pt").write_bytes(b"".join(head) + pickled + pickle.dumps([], protocol=2))
    else:
        array = np.empty((), object)
        array[()] = {{"weight": Payload()}}
        np.save(open("hostile.pt", "wb"), array)
"""


@pytest.mark.parametrize("form", ["zip", "legacy", "npy"])
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path, form: str) -> None:
    subprocess.run([sys.executable, "-c", textwrap.dedent(HOSTILE.format(form=form))], cwd=tmp_path, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "converter", "torch->flax", "hostile.pt"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "hostile.pt" in done.stderr and "eval" in done.stderr and "Traceback" not in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["hostile.pt"]
