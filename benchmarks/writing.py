"""How fast one file can be written at all: the floor under every conversion into one file.

    python -m benchmarks.writing FILE [FOLDER]

Writes as many bytes as FILE has, in several ways, next to ``cp FILE``; seconds, the least of three runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

BLOCK = 4 << 20


def from_a_buffer(source: int, target: int, size: int) -> None:
    """The same 4 MB again and again, which stay in the cache: nothing is read."""
    block = np.random.default_rng(0).integers(0, 255, BLOCK, dtype=np.uint8)
    for offset in range(0, size, BLOCK):
        os.pwrite(target, block[: size - offset], offset)


def read_and_write(source: int, target: int, size: int) -> None:
    block = bytearray(256 << 10)
    for offset in range(0, size, len(block)):
        got = os.preadv(source, [block], offset)
        os.pwrite(target, memoryview(block)[:got], offset)


def in_the_kernel(source: int, target: int, size: int) -> None:
    """``copy_file_range``: the bytes never come into the program."""
    offset = 0
    while offset < size:
        offset += os.copy_file_range(source, target, BLOCK, offset, offset)


def with_cp(source: int, target: int, size: int) -> None:
    subprocess.run(["cp", sys.argv[1], f"/proc/self/fd/{target}"], check=True, pass_fds=[target])


def seconds(way: Callable[[int, int, int], None], path: Path, copy: Path) -> float:
    times = []
    for _ in range(3):
        with path.open("rb") as source, copy.open("wb") as target:
            start = time.perf_counter()
            way(source.fileno(), target.fileno(), path.stat().st_size)
            times.append(time.perf_counter() - start)
        copy.unlink()
    return min(times)


def main() -> None:
    path = Path(sys.argv[1])
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else path.parent
    for way in (with_cp, in_the_kernel, read_and_write, from_a_buffer):
        print(f"{way.__name__.replace('_', ' '):16} {seconds(way, path, folder / 'writing.tmp'):.2f} s")


if __name__ == "__main__":
    main()
