"""One fuzzer for every reader: Hypothesis draws damage, and shrinks what ends in neither data nor an error."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis.errors import Flaky

from tests.fuzz.child import Child, Read, Request, Verdict, read_all
from tests.fuzz.damage import Case, cases
from tests.fuzz.seeds import Seed, seeds_of, write_files
from tests.places import ROOT

KEPT = ROOT / "build" / "fuzz"
HANG_SECONDS = 10
#: Hypothesis remembers all it drew, so a long run is many of these.
ROUND = 1000


class WrongError(Exception):
    """Neither data nor an error came of an input."""


@dataclass
class Outcome:
    """What came of the inputs of one reader up to the first that went wrong.

    refusals: the lines of code that refused one. smallest: the damage that is left of the failure after shrinking.
    """

    row: str
    tried: int = 0
    data: int = 0
    errors: int = 0
    other: int = 0
    refusals: set[str] = field(default_factory=set)
    slowest: float = 0.0
    peak_mb: int = 0
    smallest: Case | None = None
    told: str = ""

    def add(self, case: Case, verdict: Verdict) -> None:
        if verdict.kind == "other":  # the last that Hypothesis tries is the smallest
            self.smallest, self.told = case, verdict.told
        if self.other:
            return  # shrinking
        self.tried += 1
        self.data += verdict.kind == "data"
        self.errors += verdict.kind == "error"
        self.other += verdict.kind == "other"
        self.refusals.update([verdict.told] if verdict.kind == "error" else [])
        self.slowest = max(self.slowest, verdict.seconds)
        self.peak_mb = max(self.peak_mb, verdict.peak_mb)

    @property
    def failure(self) -> str:
        """What went wrong, with what damage, and how to see it again; "" where all went well."""
        if not self.smallest:
            return ""
        damage = "\n".join(f"  {each}" for each in (*self.smallest.changes, *self.smallest.edits))
        command = f"python -m tests.fuzz --again {shlex.quote(self.smallest.as_json())}"
        part = f"{self.smallest.file} {self.smallest.member}".strip()
        return f"{self.row}: {self.told}\n{part} of {self.smallest.seed}, with\n{damage}\nAgain: {command}"


def fuzz(
    row: str,
    tries: int,
    seconds: float = 0,
    seed: int = 0,
    read: Read = read_all,
    patience: float = HANG_SECONDS,
    kept: Path = KEPT,
) -> Outcome:
    """At least so many inputs and so long, until one goes wrong; the smallest like it lies in ``kept``/ROW then."""
    outcome, end = Outcome(row), time.monotonic() + seconds
    while not outcome.other and (outcome.tried < tries or time.monotonic() < end):
        with tempfile.TemporaryDirectory() as folder, Child(read, patience) as child:
            _round(outcome, child, Path(folder), min(tries, ROUND), seed)
        seed += 1
    if outcome.smallest:
        place = kept / row
        shutil.rmtree(place, ignore_errors=True)
        write_files(place, outcome.smallest.files(seeds_of(row)[outcome.smallest.seed]))
    return outcome


def _round(outcome: Outcome, child: Child, folder: Path, tries: int, seed: int) -> None:
    seeds = seeds_of(outcome.row)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=tries,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(cases(outcome.row, seeds))
    def ends_in_data_or_an_error(case: Case) -> None:
        verdict = judged(case, seeds[case.seed], child, folder)
        outcome.add(case, verdict)
        if verdict.kind == "other":
            raise WrongError(verdict.told)

    with suppress(WrongError, Flaky):
        ends_in_data_or_an_error()


def judged(case: Case, seed: Seed, child: Child, folder: Path) -> Verdict:
    """The input lies in a folder two below ``folder`` before it is read, and is alone there and above afterwards."""
    place = folder / "upper" / "case"
    shutil.rmtree(folder)
    files = case.files(seed)
    write_files(place, files)
    verdict = child.judge(Request(case.row, place, seed.entry, case.verify, case.directly))
    found = {os.path.relpath(path, place) for path in folder.rglob("*") if not path.is_dir()}
    written = sorted(found - set(files))
    return Verdict("other", f"wrote {written}") if written else verdict
