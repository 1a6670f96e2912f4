"""Where the seconds of one conversion go: from the start of the program to its last byte.

python -m benchmarks.phases 'torch->flax' model.pt out.msgpack
"""

from __future__ import annotations

import gc
import time

START = time.perf_counter()

import numpy as np  # noqa: E402, F401  # what its import takes is a phase

NUMPY = time.perf_counter()

import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from itertools import pairwise  # noqa: E402
from typing import Any  # noqa: E402

from converter.commands import convert as api  # noqa: E402
from converter.execution import jobs  # noqa: E402

PROGRAM = time.perf_counter()


def main() -> None:
    gc.disable()  # as the command line does
    marks = [("start", START), ("import of NumPy", NUMPY), ("import of this program", PROGRAM)]

    def marked(module: Any, name: str, before: str, after: str) -> None:
        """Mark what ended when the function was called, and what when it returned."""
        function: Callable[..., Any] = getattr(module, name)

        def timed(*args: Any, **options: Any) -> Any:
            marks.append((before, time.perf_counter()))
            result = function(*args, **options)
            marks.append((after, time.perf_counter()))
            return result

        setattr(module, name, timed)

    marked(api, "opened", "arguments", "opening, headers and layers")
    marked(jobs, "_run", "plan, and opening the output", "tensors: read, transformed, written")
    direction, source, output = sys.argv[1:4]
    api.convert(direction, source, output, force=True)
    marks.append(("finishing the file", time.perf_counter()))
    for (_, begin), (phase, end) in pairwise(marks):
        print(f"{phase:36} {1000 * (end - begin):6.0f} ms")


if __name__ == "__main__":
    main()
