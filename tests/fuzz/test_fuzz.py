"""Damaged files of every format end in data or in an error; `make fuzz` goes on for longer."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.child import Child, Read, read_all
from tests.fuzz.damage import Case, Edit
from tests.fuzz.harness import HANG_SECONDS, ROOT, Outcome, fuzz, judged
from tests.fuzz.page import PAGE
from tests.fuzz.planted import BUGS, hangs
from tests.fuzz.seeds import EVERY_ROW, seeds_of

TRIES = 40
#: Where small files are nearly all header, few inputs are still read.
MOST_ROUNDS = 20


@pytest.mark.parametrize("row", EVERY_ROW)
def test_damage_ends_in_data_or_an_error(row: str) -> None:
    for seed in range(MOST_ROUNDS):
        outcome = fuzz(row, TRIES, seed=seed)
        assert not outcome.failure, outcome.failure
        assert outcome.tried == outcome.data + outcome.errors == TRIES
        if outcome.data and len(outcome.refusals) > 2:
            return
    pytest.fail("the damage is too heavy or too light to tell anything")


@pytest.mark.parametrize(("read", "told"), BUGS, ids=[read.__name__ for read, _ in BUGS])
def test_a_bug_is_found_and_shrinks_to_one_damage(read: Read, told: str, tmp_path: Path) -> None:
    outcome = fuzz("npy", tries=300, read=read, patience=0.3 if read is hangs else HANG_SECONDS, kept=tmp_path)
    assert outcome.other == 1 and outcome.told.startswith(told)
    assert outcome.smallest is not None, outcome.told
    assert len(outcome.smallest.edits) + len(outcome.smallest.changes) == 1, outcome.failure
    assert not outcome.smallest.verify and not outcome.smallest.directly
    seed = seeds_of("npy")[outcome.smallest.seed]
    assert b"{" not in (tmp_path / "npy" / seed.entry).read_bytes()
    assert len(re.findall(r"(?:Edit|Change)\(", outcome.failure)) == 1
    assert outcome.smallest.as_json() in shlex.split(outcome.failure)


def test_the_command_of_a_failure_repeats_it() -> None:
    case = Case("npy", "written", "x.npy", "", (Edit(6, 1, "63"),), verify=True, directly=False)
    command = shlex.split(Outcome("npy", smallest=case).failure.splitlines()[-1])[2:]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(r"FormatError: .*x\.npy: ", done.stderr)
    assert Case.from_json(command[-1]) == case


def test_a_member_of_an_archive_is_damaged_with_its_checksum_right(tmp_path: Path) -> None:
    seed = seeds_of("npz")["written"]
    member = "layer0.weight.npy"
    changed = Case("npz", "written", seed.entry, member, (Edit(130, 1, "ff"),), verify=True, directly=False)
    broken = Case("npz", "written", seed.entry, "", (Edit(200, 1, "ff"),), verify=True, directly=False)
    with Child(read_all, patience=10) as child:
        assert judged(changed, seed, child, tmp_path).kind == "data"
        assert judged(broken, seed, child, tmp_path).kind == "error"


def test_the_page_has_every_reader_and_its_sums_are_right() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    assert [name for name, *_ in rows] == [*EVERY_ROW, "all"]
    for _, tried, data, errors, other in rows:
        assert int(tried) == int(data) + int(errors) and int(other) == 0
