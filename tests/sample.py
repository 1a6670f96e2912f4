"""Tests that cost what they are worth: `make test` runs each slow test in some of its runs, and `make test-all` all.

A test that takes n times `SHARE` seconds is in one of n samples, at most in one of `FEWEST`; those marked ``always``
are in each, and so is what is quick. How long tests take is in durations.json, which `make test-all` writes: the
seconds for a case of each function, where that is more than `SHARE`.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

SHARE, FEWEST = 0.1, 30
DURATIONS = Path(__file__).parent / "durations.json"


def is_in(item: pytest.Item, sample: int, seconds: dict[str, float]) -> bool:
    """Whether a test is in this sample."""
    if item.get_closest_marker("always"):
        return True
    every = min(FEWEST, int(seconds.get(_function(item.nodeid), 0.0) / SHARE) + 1)
    return (zlib.crc32(item.nodeid.encode()) + sample) % every == 0


def durations() -> dict[str, float]:
    return dict(json.loads(DURATIONS.read_text()))


def _function(name: str) -> str:
    """Of the id of a test: without the case."""
    return name.partition("[")[0]


def main(report: str) -> None:
    """Write the durations that a report of pytest (``--junitxml``) tells."""
    times = defaultdict[str, list[float]](list)
    for case in ElementTree.parse(report).iter("testcase"):
        *modules, last = case.get("classname", "").split(".")
        path = Path(*modules, last)
        inside = ""
        if not path.with_suffix(".py").exists():  # the last is a class
            path, inside = path.parent, f"{last}::"
        times[f"{path}.py::{inside}{_function(case.get('name', ''))}"].append(float(case.get("time", "0")))
    means = {name: round(sum(each) / len(each), 2) for name, each in sorted(times.items())}
    slow = {name: mean for name, mean in means.items() if mean > SHARE}
    DURATIONS.write_text(json.dumps(slow, indent=0) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
