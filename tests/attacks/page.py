"""docs/attacks.md: the time and the peak memory of each attack."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tests.attacks.limits import MOST_BYTES, MOST_SECONDS
from tests.places import ROOT

PAGE = ROOT / "docs" / "attacks.md"
HEAD = f"""# Attacks

Written by `make attacks`: every test of `tests/attacks` that runs the command line on something made to do harm, each
run in a process of its own. Allowed are {MOST_SECONDS} s of processor time, with its children, and
{MOST_BYTES // 10**6} MB of memory at the peak, of it or of the largest of them; a test fails beyond. Where a test runs
several commands, the worst are shown. What is promised is in [SECURITY.md](../SECURITY.md).

| attack | commands | most seconds | peak, MB |
|---|--:|--:|--:|
"""


def page(lines: Iterable[str]) -> str:
    """lines: of the log of `limits.converter`."""
    taken: dict[str, list[tuple[float, int]]] = {}
    for test, seconds, peak in map(json.loads, lines):
        taken.setdefault(test, []).append((seconds, peak))
    rows = [_row(test, runs) for test, runs in sorted(taken.items())]
    everything = [run for runs in taken.values() for run in runs]
    return HEAD + "".join([*rows, _row("all", everything)])


def _row(test: str, runs: list[tuple[float, int]]) -> str:
    file, _, name = test.partition("::")
    shown = f"{Path(file).stem.removeprefix('test_')}: {name.removeprefix('test_').replace('_', ' ')}" if name else test
    worst, peak = max(seconds for seconds, _ in runs), max(peak for _, peak in runs)
    return f"| {shown.replace('|', '/')} | {len(runs)} | {worst:.1f} | {peak // 10**6} |\n"
