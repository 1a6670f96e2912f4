"""Runs the command line of these arguments in this process, and writes what it took into the file named first.

Peak memory is asked for from inside: `ru_maxrss` of a new process starts from that of its parent.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import sys
import time
from pathlib import Path

#: A machine that runs the tests is not to be filled, whatever an attack achieves.
MOST_ADDRESSES = 8 << 30


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    report, *words = sys.argv[1:]
    from converter.cli import main as command

    code: object = 0
    with contextlib.suppress(BrokenPipeError):
        try:
            command(words)
        except SystemExit as end:
            code = end.code
    peak = int(re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[0]) << 10
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    times = time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    Path(report).write_text(json.dumps({"peak": max(peak, child), "seconds": times}))
    sys.exit(code)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
