"""`python -m tests.wild` reads the weight files of other people's packages; writes docs/wild.md."""

from __future__ import annotations

import argparse
import sys

from rich.progress import Progress

from tests.wild.compared import Outcome, outcomes
from tests.wild.packages import PACKAGES, fetched, weight_files
from tests.wild.page import PAGE, page


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.wild", description=__doc__)
    parser.add_argument("--only", metavar="TEXT", default="", help="packages with it in their name; writes no page")
    only = parser.parse_args().only
    packages = [package for package in PACKAGES if only in package]
    found: list[Outcome] = []
    with Progress() as progress:
        task = progress.add_task("", total=len(packages))
        for package in packages:
            progress.update(task, description=package)
            folder = fetched(package)
            found += outcomes(package, folder, weight_files(folder))
            progress.advance(task)
    if not only:
        PAGE.write_text(page(found))
    failed = [one for one in found if (not one.rightly if one.refused else one.lost or one.wrong or one.loader)]
    for one in failed:
        print(f"{one.package} {one.file}: {one.refused} {one.loader} lost: {one.lost} wrong: {one.wrong}")
    return len(failed) > 0


if __name__ == "__main__":
    sys.exit(main())
