"""Damaged MXNet, NumPy, pickle and safetensors files end in data or in an error, whatever was changed.

``FUZZ_SECONDS=600 pytest -s tests/formats/test_array_fuzz.py`` goes on for that long with each, and says how many.
"""

from __future__ import annotations

import os
import random
import resource
import time
from pathlib import Path

import pytest

from converter.errors import ConversionError
from converter.formats import open_reader
from tests.formats.old_files import sample_files

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
TRIES = 1500
#: What counts, sizes and tags of the formats are made of.
WORDS = [
    *(value.to_bytes(8, "little") for value in (0, 1, 2, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)),
    *(value.to_bytes(4, "little") for value in (1, 2, 12, (1 << 31) - 1, 0xF993FAC8, 0xF993FAC9, 0xF993FACA)),
    *(b"().0}]tRbQcqhu\x81\x85\x86\x87\x8e\x93\x94\x96KJX\x8c"[i : i + 1] for i in range(22)),
    *(b"-1", b"99999999999", b'":', b"[", b"{", b"'|O'", b"<V1", b"True"),
]


def damaged(seeds: list[bytes], rng: random.Random) -> bytes:
    """A seed with bits flipped, words put in, bytes removed, repeated, or taken from another one."""
    made = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        place = rng.randrange(len(made) + 1)
        kind = rng.randrange(6)
        if kind == 0 and place < len(made):
            made[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            word = rng.choice(WORDS)
            made[place : place + len(word) * rng.randrange(2)] = word
        elif kind == 2:
            del made[place : place + rng.randrange(1, 20)]
        elif kind == 3:
            other = rng.choice(seeds)
            start = rng.randrange(len(other))
            made[place:place] = other[start : start + rng.randrange(1, 60)]
        elif kind == 4:
            made[place:place] = made[place : place + rng.randrange(1, 40)] * rng.randrange(1, 5)
        elif rng.random() < 0.3:
            del made[place:]
    return bytes(made) or b"\0"


@pytest.mark.parametrize("folder", ["mxnet", "numpy", "safetensors"])
def test_damaged_files_end_in_data_or_an_error(tmp_path: Path, folder: str) -> None:
    seeds = [path.read_bytes() for path in sample_files(folder)]
    rng, path = random.Random(0), tmp_path / "damaged"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end, slowest, outcomes = time.monotonic() + SECONDS, 0.0, {"data": 0, "error": 0}
    while sum(outcomes.values()) < TRIES or time.monotonic() < end:
        data = damaged(seeds, rng)
        path.write_bytes(data)
        start = time.monotonic()
        try:
            _, reader = open_reader(path)
            with reader:
                for spec in reader.contents.specs:
                    array = reader.read(spec.name)
                    assert array.shape == spec.shape and array.dtype == spec.dtype and not array.flags.writeable
            outcomes["data"] += 1
        except ConversionError as error:
            assert str(error).startswith(str(path))
            outcomes["error"] += 1
        slowest = max(slowest, time.monotonic() - start)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) // 1024
    print(f"{folder}: {outcomes}, slowest {slowest:.3f} s, {grown} MB more at the peak")
    assert outcomes["data"] > 10 and outcomes["error"] > 100 and slowest < 5 and grown < 500
    assert [file.name for file in tmp_path.iterdir()] == ["damaged"]
