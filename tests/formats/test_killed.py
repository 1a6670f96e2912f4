"""What happens to the files when a writer is killed, or the disk is full: the old one stays, nothing new appears."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.errors import OutputError
from converter.formats import Contents, by_name, open_reader, open_writer
from converter.tensors import TensorSpec
from tests.formats.every import FILES, names


def specs(row: str) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, (300, 1000), np.dtype("float32")) for name in names(row, 4))


CHILD = """
import sys, time, numpy as np
from pathlib import Path
from converter.formats import Contents, by_name, open_writer
from converter.tensors import TensorSpec
specs = tuple(TensorSpec(name, (300, 1000), np.dtype("float32")) for name in sys.argv[4:])
with open_writer(by_name(sys.argv[1]), Path(sys.argv[2]), Contents(specs)) as writer:
    for spec in specs:
        writer.write(spec.name, np.ones(spec.shape, spec.dtype))
        print("wrote", flush=True)
    time.sleep(float(sys.argv[3]))
print("done", flush=True)
time.sleep(5)
"""


def write(row: str, path: Path, value: float) -> None:
    with open_writer(by_name(row), path, Contents(specs(row))) as writer:
        for spec in specs(row):
            writer.write(spec.name, np.full(spec.shape, value, spec.dtype))


def values(path: Path) -> set[float]:
    _, reader = open_reader(path)
    with reader:
        return {float(value) for spec in reader.contents.specs for value in np.unique(reader.read(spec.name))}


def killed(row: str, path: Path, lines: int, wait: float, pause: float) -> None:
    """Write ones over the file in another process, which waits before it commits; kill it after so many lines."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, row, str(path), str(wait), *names(row, 4)], stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        for _ in range(lines):
            child.stdout.readline()
        time.sleep(pause)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()


@pytest.mark.parametrize("row", FILES)
@pytest.mark.parametrize("lines", [2, 4])
def test_a_kill_before_the_commit_leaves_the_old_file(tmp_path: Path, row: str, lines: int) -> None:
    path = tmp_path / FILES[row]
    write(row, path, 7)
    killed(row, path, lines, wait=60, pause=0)
    assert values(path) == {7.0}


@pytest.mark.parametrize("row", FILES)
@pytest.mark.parametrize("pause", [0.0, 0.002])
def test_a_kill_during_the_commit_leaves_the_old_file_or_the_new_one(tmp_path: Path, row: str, pause: float) -> None:
    path = tmp_path / FILES[row]
    write(row, path, 7)
    killed(row, path, 4, wait=0, pause=pause)
    assert values(path) in ({7.0}, {1.0})


@pytest.mark.parametrize("row", FILES)
def test_a_full_disk_is_a_clear_error(tmp_path: Path, row: str) -> None:
    path = tmp_path / FILES[row]
    write(row, path, 7)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    former: Any = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(OutputError, match="cannot be written: "):
            write(row, path, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, former)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("row", FILES)
def test_a_missing_folder_is_a_clear_error(tmp_path: Path, row: str) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        write(row, tmp_path / "missing" / FILES[row], 1)
    assert not list(tmp_path.iterdir())
