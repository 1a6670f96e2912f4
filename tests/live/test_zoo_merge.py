"""Answers of several runs of the zoo become one page."""

from __future__ import annotations

import json
from pathlib import Path

from tests.zoo.page import merged, page


def row(name: str, **answers: str) -> dict[str, object]:
    family, source, clone = name.split("--")
    plain = {"questions": 0, "advised": "", "difference": None}
    told = {way: {"result": result, **plain} for way, result in answers.items()}
    return {"row": name, "family": family, "status": "tuned", "source": source, "clone": clone, "patched": {}} | told


def test_each_way_of_a_row_is_that_of_the_last_run(tmp_path: Path) -> None:
    one, other, gone = "alexnet--torchvision--gluon", "bert--KerasHub--transformers", "alexnet--nobody--gluon"
    runs = [
        [row(one, files="asked", live="failed"), row(gone, files="wrong")],
        [row(one, live="right"), row(other, live="right")],
    ]
    files = [tmp_path / f"{number}.json" for number in range(len(runs))]
    for file, rows in zip(files, runs, strict=True):
        file.write_text(json.dumps(rows))
    rows = merged(files)
    assert [(row["row"], row["live"]["result"]) for row in rows] == [(other, "right"), (one, "right")]
    assert rows[1]["files"]["result"] == "asked"
    text = page(rows, ["files", "live"])
    assert "| torchvision | gluon | asked 0, then  | right |  |" in text
    assert "| tuned | files | 1 |" in text and "| **all** | live | 2 | 2 |" in text
