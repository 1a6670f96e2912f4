"""docs/fuzz.md: the figures of a long run."""

from __future__ import annotations

from tests.fuzz.harness import Outcome
from tests.places import ROOT

PAGE = ROOT / "docs" / "fuzz.md"
HEAD = """# Fuzzing

Written by `make fuzz` (`FUZZ_SECONDS=600 make fuzz` goes on for that long with each reader). Hypothesis draws a real
small file and damage to it (bits flipped, lengths made extreme, bytes removed, repeated and mixed, ends cut off;
inside archives also with the CRC made right again), or takes it apart and changes its structure (items doubled,
dropped, swapped, copied elsewhere, nested and given extreme values; those of the tables of OCDBT too), with all sizes
and checksums right; and a process of its own reads it. `schema` and `certificate` are files of strangers without
weights, read as `--schema` and `converter verify` do. Each input must end in data or in an error that names the file.
`other` counts all else: another exception, a crash, more than 10 s, more than 500 MB, a file written; such a failure is
shrunk to its smallest damage and printed with the command that repeats it. `refusals` are the lines of code that
refused an input. The peak is that of the process that reads. What is promised is in [SECURITY.md](../SECURITY.md).

| reader | inputs tried | data | errors | other | refusals | slowest, s | peak, MB |
|---|--:|--:|--:|--:|--:|--:|--:|
"""


def page(outcomes: list[Outcome]) -> str:
    return HEAD + "".join(map(_line, [*outcomes, _sum(outcomes)]))


def _sum(outcomes: list[Outcome]) -> Outcome:
    total = Outcome("all")
    for outcome in outcomes:
        for count in ("tried", "data", "errors", "other"):
            setattr(total, count, getattr(total, count) + getattr(outcome, count))
        total.refusals |= outcome.refusals
        total.slowest = max(total.slowest, outcome.slowest)
        total.peak_mb = max(total.peak_mb, outcome.peak_mb)
    return total


def _line(o: Outcome) -> str:
    cells = (f"`{o.row}`", o.tried, o.data, o.errors, o.other, len(o.refusals), f"{o.slowest:.3f}", o.peak_mb)
    return f"| {' | '.join(map(str, cells))} |\n"
