"""`python -m tests.fuzz 20` tries each reader for 20 s and on 2000 inputs or more, `python -m tests.fuzz 20 100` on 100
inputs at least; it writes docs/fuzz.md. `--again` repeats one input."""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tests.fuzz.child import Request, read_all
from tests.fuzz.damage import Case
from tests.fuzz.harness import HANG_SECONDS, fuzz
from tests.fuzz.page import PAGE, page
from tests.fuzz.seeds import EVERY_ROW, seeds_of, write_files

#: Also for a reader that is slow.
TRIES = 2000


def again(case: Case) -> int:
    """In this process, so that a traceback, or the stack of a crash or hang, is seen."""
    faulthandler.enable()
    faulthandler.dump_traceback_later(6 * HANG_SECONDS, exit=True)
    seed = seeds_of(case.row)[case.seed]
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), case.files(seed))
        read_all(Request(case.row, Path(folder), seed.entry, case.verify, case.directly))
    return 0


def main(arguments: list[str]) -> int:
    if arguments[0] == "--again":
        return again(Case.from_json(arguments[1]))
    tries = int(arguments[1]) if arguments[1:] else TRIES
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        one = partial(fuzz, tries=tries, seconds=float(arguments[0]), seed=int(time.time()))
        outcomes = list(pool.map(one, EVERY_ROW))
    PAGE.write_text(page(outcomes))
    failures = [outcome.failure for outcome in outcomes if outcome.failure]
    print(*failures, f"{len(failures)} readers failed; the figures are in {PAGE}", sep="\n\n")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
