"""What happens to the files when a writer is killed, or the disk is full: the old one stays, nothing new appears."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.core.tensors import TensorSpec
from converter.errors import FormatError, OutputError
from converter.formats import Contents, by_name, open_reader, open_writer
from tests.formats.every import FILES, names


def specs(row: str) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, (300, 1000), np.dtype("float32")) for name in names(row, 4))


CHILD = """
import sys, time, numpy as np
from pathlib import Path
from converter.formats import Contents, by_name, open_writer
from converter.core.tensors import TensorSpec
specs = tuple(TensorSpec(name, (300, 1000), np.dtype("float32")) for name in sys.argv[4:])
row = by_name(sys.argv[1])
with open_writer(row, Path(sys.argv[2]), Contents(specs, metadata=row.metadata)) as writer:
    for spec in specs:
        writer.write(spec.name, np.ones(spec.shape, spec.dtype))
        print("wrote", flush=True)
    time.sleep(float(sys.argv[3]))
print("done", flush=True)
time.sleep(5)
"""


def write(row: str, path: Path, value: float) -> None:
    limit = 3_000_000 if row.endswith("-sharded") else None  # two shards
    with open_writer(by_name(row), path, Contents(specs(row), metadata=by_name(row).metadata), limit) as writer:
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


#: What consists of several files, or of a folder: file name.
SEVERAL = {row: FILES[row] for row in ("torch-sharded", "safetensors-sharded", "tf-checkpoint", "orbax")}
#: Writes ones over the file in FOLDER/N for each N, and dies at the N-th rename, before it.
DIES = """
import os, signal, sys
from pathlib import Path
from tests.formats import test_killed

def dying(call, count=iter(range(99))):
    def rename(*args):
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        call(*args)
    return rename

for folder in sorted(Path(sys.argv[2]).iterdir()):
    number = int(folder.name)
    if not os.fork():
        os.rename, os.replace = dying(os.rename), dying(os.replace)
        test_killed.write(sys.argv[1], folder / test_killed.FILES[sys.argv[1]], 1)
        os._exit(0)
    os.wait()
"""


@pytest.mark.parametrize("row", SEVERAL)
def test_a_kill_at_any_rename_leaves_the_old_one_or_the_new_one_or_says_where_the_old_one_is(
    tmp_path: Path, row: str
) -> None:
    for number in range(12):
        (tmp_path / str(number)).mkdir()
        write(row, tmp_path / str(number) / SEVERAL[row], 7)
    subprocess.run([sys.executable, "-c", DIES, row, str(tmp_path)], check=True, timeout=120)
    outcomes = []
    for number in range(12):
        folder = tmp_path / str(number)
        try:
            outcomes.append(f"{values(folder / SEVERAL[row])}")
        except FormatError as error:
            found = re.search(r"left the former one as '\..*\.(\w{8})\.former'", str(error))
            assert found, error
            outcomes.append("aside")
            for file in folder.iterdir():
                if file.name.endswith(f"{found[1]}.former"):
                    file.replace(folder / file.name[1:].removesuffix(f".{found[1]}.former"))
            assert values(folder / SEVERAL[row]) == {7.0}
    at = {"torch-sharded": 5, "safetensors-sharded": 5, "tf-checkpoint": 3, "orbax": 1}[row]
    assert outcomes == ["{7.0}", *["aside"] * at, *["{1.0}"] * (11 - at)]
    assert [file.name for file in (tmp_path / "11").iterdir() if file.name.startswith(".")] == []


@pytest.mark.parametrize("row", SEVERAL)
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_an_error_at_any_rename_leaves_the_old_one_alone(
    tmp_path: Path, row: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / SEVERAL[row]
    write(row, path, 7)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    failures = 0
    while values(path) == {7.0}:
        left = failures
        with monkeypatch.context() as patch:
            for name in ("rename", "replace"):

                def failing(*args: Path, call: Any = getattr(os, name)) -> None:
                    nonlocal left
                    left -= 1
                    if left == -1:
                        raise error
                    call(*args)

                patch.setattr(os, name, failing)
            try:
                write(row, path, 1)
            except (OutputError, KeyboardInterrupt):
                failures += 1
                assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert values(path) == {1.0} and failures == {"tf-checkpoint": 4, "orbax": 2}.get(row, 6)
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_shards_that_do_not_clash_with_the_old_ones_appear_with_their_index_in_one_rename(tmp_path: Path) -> None:
    path = tmp_path / FILES["safetensors-sharded"]
    for value, limit in ((7, 3_000_000), (1, 2_000_000)):
        contents = Contents(specs("safetensors-sharded"))
        with open_writer(by_name("safetensors-sharded"), path, contents, limit) as writer:
            for spec in contents.specs:
                writer.write(spec.name, np.full(spec.shape, value, spec.dtype))
            assert value == 7 or values(path) == {7.0}
    assert values(path) == {1.0}


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
