"""Large files: listing touches headers only, and reading or writing takes the memory of one tensor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.formats.every import FILES, names
from tests.formats.read_only import MAKERS

TENSOR = 4_000_000  # bytes; 30 of them make 120 MB
LIBRARIES = 20_000_000  # what importing h5py takes

COMMON = """
import json, sys
import numpy as np
from pathlib import Path
from converter.formats import Contents, by_name, open_reader, open_writer
from converter.core.tensors import TensorSpec
specs = tuple(TensorSpec(name, (1000, 1000), np.dtype("float32")) for name in sys.argv[3:])
row, path = sys.argv[1], Path(sys.argv[2])
def peak():  # of this program alone: ru_maxrss would start from that of its parent
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
start = peak()
"""
WRITE = """
array = np.random.default_rng(0).normal(size=(1000, 1000)).astype(np.float32)
start = peak()
with open_writer(by_name(row), path, Contents(specs, metadata=by_name(row).metadata)) as writer:
    for index, spec in enumerate(specs):
        array[0, 0] = index
        writer.write(spec.name, array)
print(json.dumps({"memory": peak() - start}))
"""
READ = """
form, reader = open_reader(path)
assert form.name == row and len(reader.contents.specs) == 30
listed = peak() - start
assert reader.read(specs[29].name)[0, 0] == 29
one = peak() - start
for index, spec in enumerate(specs):
    array = reader.read(spec.name)
    assert array[0, 0] == index and np.isfinite(array.sum())
    del array
print(json.dumps({"listed": listed, "one": one, "memory": peak() - start}))
"""


def run(code: str, row: str, path: Path, names: list[str]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", COMMON + code, row, str(path), *names],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    return found


def assert_is_read_bit_by_bit(row: str, path: Path, names: list[str]) -> None:
    found = run(READ, row, path, names)
    assert found["listed"] < LIBRARIES + 2 * TENSOR, found
    assert found["one"] < LIBRARIES + 4 * TENSOR and found["memory"] < LIBRARIES + 5 * TENSOR, found


@pytest.mark.parametrize("row", FILES)
def test_120_mb_are_listed_at_once_and_moved_one_tensor_at_a_time(tmp_path: Path, row: str) -> None:
    path = tmp_path / FILES[row]
    written = run(WRITE, row, path, names(row, 30))
    assert written["memory"] < LIBRARIES + 4 * TENSOR
    assert_is_read_bit_by_bit(row, path, names(row, 30))


@pytest.mark.parametrize("row", MAKERS)
def test_120_mb_of_a_real_framework_are_listed_at_once_and_read_one_tensor_at_a_time(tmp_path: Path, row: str) -> None:
    base = np.random.default_rng(0).normal(size=(1000, 1000)).astype(np.float32)
    arrays = []
    for index in range(30):
        arrays.append(base.copy())
        arrays[-1][0, 0] = index
    path, named = MAKERS[row](tmp_path, arrays)
    assert_is_read_bit_by_bit(row, path, list(named))
