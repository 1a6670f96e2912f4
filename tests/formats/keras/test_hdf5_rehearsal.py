"""HDF5 files of the new layout, which the library may crash on when they are damaged."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from converter.errors import FormatError
from converter.formats import open_reader
from converter.formats.keras import hdf5_rehearsal as h5_rehearsal


def new_layout(path: Path) -> np.ndarray:
    array = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("layers/dense/vars/0", data=array)
    return array


def test_the_new_layout_is_read(tmp_path: Path) -> None:
    array = new_layout(tmp_path / "m.weights.h5")
    _, reader = open_reader(tmp_path / "m.weights.h5")
    with reader:
        assert np.array_equal(reader.read("layers/dense/vars/0"), array)


@pytest.mark.parametrize(
    ("code", "message"),
    [("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashes on it"), ("while True: pass", "to an end")],
)
def test_a_crash_or_a_hang_of_the_library_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    new_layout(tmp_path / "m.weights.h5")
    h5_rehearsal._run.cache_clear()
    monkeypatch.setattr(h5_rehearsal, "_READ_ALL", code)
    monkeypatch.setattr(h5_rehearsal, "_SECONDS", 1)
    with (tmp_path / "m.weights.h5").open("rb") as source, pytest.raises(FormatError, match=message):
        h5_rehearsal.rehearse(tmp_path / "m.weights.h5", source)


def test_damaged_files_of_the_new_layout_never_crash_the_reader(tmp_path: Path) -> None:
    new_layout(tmp_path / "whole.weights.h5")
    whole = (tmp_path / "whole.weights.h5").read_bytes()
    rng = random.Random(1)
    for number in range(25):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.randrange(12, len(damaged))] = rng.randrange(256)
        (tmp_path / f"{number:02}.weights.h5").write_bytes(damaged)
    code = (
        "import sys, pathlib\nfrom converter.errors import ConversionError\nfrom converter.formats import open_reader\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).glob('*.weights.h5')):\n"
        "    try:\n"
        "        with open_reader(path)[1] as reader:\n"
        "            [reader.read(spec.name) for spec in reader.contents.specs]\n"
        "    except ConversionError:\n        print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "refused" in done.stdout
