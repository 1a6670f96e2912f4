"""Transposing a matrix on one core: plain NumPy, tiles of 64 x 64, and the blocks of `converter.core.transposing`.

    python -m benchmarks.transposing

Figures are GB/s of the matrix, the best of several runs, into memory that is used again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np

from converter.core.tensors import Array
from converter.core.transposing import blocks

#: Rows that are a multiple of 4 KiB are the usual case, and the worst for caches.
SHAPES = ((768, 3072), (4096, 1024), (4096, 4096), (11008, 4096), (1344, 5376))
DTYPES = (np.float32, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn)


def plain(source: Array, result: Array) -> None:
    result[...] = source.T


def tiled(source: Array, result: Array, side: int = 64) -> None:
    rows, columns = source.shape
    for row in range(0, rows, side):
        for column in range(0, columns, side):
            result[column : column + side, row : row + side] = source[row : row + side, column : column + side].T


def ours(source: Array, result: Array) -> None:
    """Block by block, as it is written to a file."""
    for _ in blocks(source.T):
        pass


WAYS: Mapping[str, Callable[[Array, Array], None]] = {"NumPy": plain, "64 x 64": tiled, "this program": ours}


def rate(way: Callable[[Array, Array], None], source: Array, runs: int = 5) -> float:
    """GB/s."""
    result = np.empty(source.shape[::-1], source.dtype)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        way(source, result)
        times.append(time.perf_counter() - start)
    return float(source.nbytes / min(times) / 1e9)


def table() -> list[str]:
    """Lines of Markdown."""
    lines = [f"| matrix | {' | '.join(WAYS)} |", "|---" * (1 + len(WAYS)) + "|"]
    cases = [(shape, DTYPES[0]) for shape in SHAPES] + [(SHAPES[2], dtype) for dtype in DTYPES[1:]]
    for shape, dtype in cases:
        source = np.random.default_rng(0).random(shape, dtype=np.float32).astype(dtype)
        rates = " | ".join(f"{rate(way, source):.1f}" for way in WAYS.values())
        lines.append(f"| {shape[0]} x {shape[1]} {np.dtype(dtype).name} | {rates} |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
