"""Files are taken apart and put together again: what is changed between is the structure alone."""

from __future__ import annotations

import json

import pytest

from tests.fuzz.child import Child, read_all
from tests.fuzz.damage import Case
from tests.fuzz.grammars import GRAMMARS, made, tree_of
from tests.fuzz.harness import judged
from tests.fuzz.seeds import EVERY_ROW, seeds_of
from tests.fuzz.structure import KINDS, Change, changed

#: Readers of which no file is taken apart: those of OCDBT, which tensorstore reads in a process of its own.
SEEDS = {(row, seed.name): seed for row in EVERY_ROW for seed in seeds_of(row).values()}


def test_every_grammar_knows_a_file() -> None:
    files = [data for seed in SEEDS.values() for data in seed.files.values()]
    met = {tree[0] for data in files if isinstance(tree := tree_of(data), list)}
    assert met == {grammar.name for grammar in GRAMMARS}


@pytest.mark.parametrize("row", EVERY_ROW)
def test_what_is_made_again_is_read(row: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is changed, so all must be right."""
    kept = 0
    with Child(read_all, patience=20) as child:
        for seed in list(seeds_of(row).values())[:4]:
            for name, data in seed.files.items():
                tree = tree_of(data)
                if isinstance(tree, list):
                    same = type(seed)(seed.name, seed.entry, {**seed.files, name: made(tree)})
                    case = Case(row, seed.name, name, "", (), verify=False, directly=False)
                    verdict = judged(case, same, child, tmp_path_factory.mktemp("case"))
                    assert verdict.kind == "data", (seed.name, name, tree[0], verdict)
                    kept += 1
    assert kept


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_changes(kind: str) -> None:
    data = json.dumps({"a": {"b": [1, 2]}, "c": "d"}).encode()
    several = {changed(data, [Change(kind, at, other)]) for at in range(12) for other in range(3)}
    assert len(several - {data}) > 3


def test_a_changed_case_is_repeated_from_its_text() -> None:
    case = Case("npz", "written", "x.npz", "", (), verify=True, directly=False, changes=(Change("drop", 4, 0),))
    seed = seeds_of("npz")["written"]
    again = Case.from_json(case.as_json())
    assert again == case and again.files(seed) == case.files(seed) != dict(seed.files)
