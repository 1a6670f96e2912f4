"""docs/zoo.md: every row of a run, and its sums."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.zoo.families import FAMILIES
from tests.zoo.net import MEASURED, OTHER_SIZE, TUNED, row_name
from tests.zoo.rows import ASKED, DIFFERS, FAILED, RIGHT, WRONG

RESULTS = (RIGHT, ASKED, WRONG, DIFFERS, FAILED)
HEAD = """# The zoo

Written by `make zoo`. Each row is one architecture in two code bases that different people wrote: the net of the first
with every tensor random is saved by its framework, converted with the file of a fresh net of the second
(`convert --like CLONE`) and nothing else, loaded strictly by the real framework, and run on the same input: by evidence
alone (*files*, with `--schema none`), and where tables of known names may tell (*names*, the default).

*right*: the outputs agree (1e-3 of the largest). *asked*: refused, with so many questions; behind it, what comes of the
remedies that the questions name, taken up to ten times: of several the one whose two names are most alike. *wrong*: not
refused, and not right. *differs*: the two code bases compute something else, for the reason in the row. *failed*: the
row could not be run. *live*: the same by `converter.load_into(clone, net, example_input=x, source_input=y)`,
where x and y are the same input as either net takes it.

Families are *tuned* or *measured*: failures of the tuned were looked at while the pairing was written, those of the
measured were not. *Other sizes* are of families whose tables of known names were written from the smaller nets.

"""


def merged(files: Sequence[Path]) -> list[dict[str, Any]]:
    """The rows of several runs, in the order of the zoo. Rows that it has no more are left out."""
    known: dict[str, dict[str, Any]] = {}
    for file in files:
        for row in json.loads(file.read_text()):
            known.setdefault(row["row"], {}).update(row)
    names = ((family, row_name(family, *pair)) for family in FAMILIES for pair in family.pairs())
    return [known[name] | {"status": family.status} for family, name in names if name in known]


def page(rows: Sequence[dict[str, Any]], ways: Sequence[str]) -> str:
    """Sums by status and way, the rows by family, then what was patched in the nets."""
    heads = ["families", "way", "rows", *RESULTS, "right with the advice"]
    lines = [f"| {' | '.join(heads)} |", "|---|---" + "|--:" * (len(heads) - 2) + "|"]
    for status in (TUNED, MEASURED, OTHER_SIZE):
        for way in ways:
            lines.append(f"| {status} | {way} | {_sums([row for row in rows if row['status'] == status], way)} |")
    for way in ways:
        lines.append(f"| **all** | {way} | {_sums(rows, way)} |")
    for family in dict.fromkeys(row["family"] for row in rows):
        members = [row for row in rows if row["family"] == family]
        lines += ["", f"## {family} ({members[0]['status']})", ""]
        lines += ["| from | to | " + " | ".join(ways) + " | |", "|---|---|" + "---|" * len(ways) + "---|"]
        lines += [
            f"| {row['source']} | {row['clone']} | {' | '.join(_cell(row.get(way)) for way in ways)} | {_note(row)} |"
            for row in members
        ]
        patched = {net: what for row in members for net, what in row["patched"].items() if what}
        lines += [""] * bool(patched)
        lines += [f"- {net}: {what}." for net, what in patched.items()]
    return HEAD + "\n".join(lines) + "\n"


def _sums(rows: Sequence[dict[str, Any]], way: str) -> str:
    answers = [row[way] for row in rows if way in row]
    found = Counter(answer["result"] for answer in answers)
    helped = sum(answer["advised"] == RIGHT for answer in answers)
    return " | ".join(map(str, [len(answers), *(found[result] for result in RESULTS), helped]))


def _cell(answer: dict[str, Any] | None) -> str:
    if answer is None:
        return ""
    if answer["result"] != ASKED:
        return str(answer["result"])
    return f"asked {answer['questions']}, then {answer['advised'].split(':')[0]}"


def _note(row: dict[str, Any]) -> str:
    """Why the row cannot be right, or what was said to live nets, of which nothing is guessed."""
    live = row.get("live") or {}
    said = live.get("message", "").partition(" Left in the source")[0][:200] if live.get("result") == ASKED else ""
    return str(row.get("why") or row.get("failed") or said).replace("|", "\\|")
