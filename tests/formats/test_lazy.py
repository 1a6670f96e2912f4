"""Large files: listing touches headers only, and reading or writing takes the memory of one tensor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.formats.every import FILES, names

TENSOR = 10_000_000  # bytes; 30 of them make 300 MB

COMMON = """
import json, sys, time
import numpy as np
from pathlib import Path
from converter.formats import Contents, by_name, open_reader, open_writer
from converter.tensors import TensorSpec
specs = tuple(TensorSpec(name, (1000, 2500), np.dtype("float32")) for name in sys.argv[3:])
row, path = sys.argv[1], Path(sys.argv[2])
def peak():  # of this program alone: ru_maxrss would start from that of its parent
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
start, time_start = peak(), time.perf_counter()
"""
WRITE = """
with open_writer(by_name(row), path, Contents(specs)) as writer:
    for index, spec in enumerate(specs):
        writer.write(spec.name, np.full(spec.shape, index, spec.dtype))
print(json.dumps({"memory": peak() - start}))
"""
READ = """
_, reader = open_reader(path)
assert len(reader.contents.specs) == 30
listed, seconds = peak() - start, time.perf_counter() - time_start
assert float(reader.read(specs[29].name).sum()) == 29 * 2_500_000
one = peak() - start
for index, spec in enumerate(specs):
    array = reader.read(spec.name)
    assert array.min() == array.max() == index
    del array
print(json.dumps({"listed": listed, "seconds": seconds, "one": one, "memory": peak() - start}))
"""


def run(code: str, row: str, path: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", COMMON + code, row, str(path), *names(row, 30)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("row", FILES)
def test_300_mb_are_listed_at_once_and_moved_one_tensor_at_a_time(tmp_path: Path, row: str) -> None:
    path = tmp_path / FILES[row]
    written = run(WRITE, row, path)
    assert written["memory"] < 4 * TENSOR
    found = run(READ, row, path)
    assert found["seconds"] < 0.3 and found["listed"] < 2 * TENSOR
    assert found["one"] < 4 * TENSOR and found["memory"] < 5 * TENSOR
