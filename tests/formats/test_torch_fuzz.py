"""Damaged PyTorch files of every kind end in data or in an error, whatever was changed.

``FUZZ_SECONDS=600 pytest tests/formats/test_torch_fuzz.py`` goes on for that long.
"""

from __future__ import annotations

import io
import os
import random
import resource
import shutil
import time
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from converter.errors import ConversionError
from converter.formats import ReadOptions, torch_dcp, torch_legacy, torch_script, torch_zip
from converter.formats.base import Probe

SAMPLES = Path(__file__).parents[1] / "samples" / "torch"
SEEDS: list[tuple[ModuleType, str]] = [
    (torch_legacy, "1.0.0/module.legacy.pt"),
    (torch_legacy, "1.0.0/special.legacy.pt"),
    (torch_legacy, "1.12.1/quant_tensor.legacy.pt"),
    (torch_zip, "1.12.1/module.zip.pt"),
    (torch_zip, "1.12.1/non_tensors.zip.pt"),
    (torch_zip, "1.4.0/jit_trace_lstm.pt"),
    (torch_script, "1.0.0/jit_trace_mlp.pt"),
    (torch_dcp, "two_ranks"),
]
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
TRIES = 150
TELLING = b"\x00\x01\x7f\x80\xff().0}]tRbQcqhu\x81\x85\x86\x87\x94K"
SIZES = (0, 1, 1 << 16, (1 << 31) - 1, (1 << 32) - 1)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped, bytes set, removed, added, repeated; numbers made extreme."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        place = rng.randrange(len(made)) if made else 0
        kind = rng.randrange(6)
        if kind == 0 and made:
            made[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and made:
            made[place] = rng.choice(TELLING)
        elif kind == 2:
            del made[place : place + rng.randrange(1, 12)]
        elif kind == 3:
            made[place:place] = rng.randbytes(rng.randrange(1, 6))
        elif kind == 4 and made:
            other = rng.randrange(len(made))
            made[place:place] = made[other : other + rng.randrange(1, 60)]
        else:
            width = rng.choice((4, 8))
            made[place : place + width] = rng.choice(SIZES).to_bytes(width, "little")
    return bytes(made)


def damaged_copy(whole: Path, path: Path, rng: random.Random) -> Path:
    """Of an archive mostly a description inside, with its CRC made right again; of a folder mostly its metadata."""
    if whole.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(whole, path)
        victim = rng.choice(sorted(path.iterdir())) if rng.random() < 0.3 else path / ".metadata"
        victim.write_bytes(damaged(victim.read_bytes(), rng))
        return path
    data = whole.read_bytes()
    if not data.startswith(b"PK") or rng.random() < 0.2:
        path.write_bytes(damaged(data, rng))
        return path
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    victim_name = rng.choice([name for name in members if name.endswith((".pkl", ".json", "byteorder"))])
    members[victim_name] = damaged(members[victim_name], rng)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def outcome(module: ModuleType, path: Path, verify: bool) -> str:
    """ "data" or "error"; any other exception is a failure of the test."""
    module.detect(Probe(path))
    try:
        with module.FileReader(path, ReadOptions(verify=verify)) as reader:
            for spec in reader.contents.specs:
                array = reader.read(spec.name)
                assert array.shape == spec.shape and array.dtype == spec.dtype
    except ConversionError as error:
        assert str(error)
        return "error"
    return "data"


def _peak() -> int:
    """Most memory that the process ever had, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize(("module", "name"), SEEDS, ids=[name for _, name in SEEDS])
def test_damage_ends_in_data_or_an_error(tmp_path: Path, module: ModuleType, name: str) -> None:
    before = _peak()
    rng = random.Random(f"{name} {SECONDS}")
    outcomes = {"data": 0, "error": 0}
    end = time.monotonic() + SECONDS / len(SEEDS)
    while sum(outcomes.values()) < TRIES or time.monotonic() < end:
        path = damaged_copy(SAMPLES / name, tmp_path / "bad", rng)
        start = time.monotonic()
        outcomes[outcome(module, path, verify=rng.random() < 0.5)] += 1
        assert time.monotonic() - start < 30
    assert outcomes["error"] > TRIES // 10
    assert _peak() - before < 500 << 10
    print(name, outcomes)
