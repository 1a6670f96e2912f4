"""`converter reuse`: layers of an old net in a new one, across frameworks; the rest bit for bit as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

import converter
from tests.command import ok, refused
from tests.commands.reuse_nets import FAMILIES, PAIRS, Family, Linear, load, save
from tests.parity.sides import SIDES, assert_same

CASES = [
    pytest.param(family, first, old, new, id=f"{family.name}-{first}-{old}-{new}")
    for family in FAMILIES.values()
    for first in family.first
    for old, new in PAIRS
]


def assert_reused(family: Family, first: int, old: tuple[str, Any], new: tuple[str, Any], found: Any) -> None:
    """By value, and by running the merged net beside the same net made by hand in PyTorch."""
    ours, theirs, flavour = family.weights(*old), family.weights(*new), new[0]
    expected = list(theirs)
    for source, target in family.first[first].items():
        expected[2 * target : 2 * target + 2] = ours[2 * source : 2 * source + 2]
    for value, wanted in zip(family.weights(flavour, found), expected, strict=True):
        assert value.tobytes() == wanted.tobytes()
    reference = family.random("new", "torch", 0)
    for parameter, wanted in zip(reference.parameters(), expected, strict=True):
        parameter.data.copy_(torch.tensor(wanted))
    assert_same(family.run(flavour, found), family.run("torch", reference))


@pytest.mark.parametrize(("family", "first", "old", "new"), CASES)
def test_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: Family, first: int, old: str, new: str
) -> None:
    ours, theirs = SIDES[old], SIDES[new]
    trained, fresh = family.random("old", old, 1), family.random("new", new, 2)
    paths = [tmp_path / f"{name}{side.ending}" for name, side in (("old", ours), ("new", theirs), ("out", theirs))]
    ours.save(trained, paths[0])
    theirs.save(fresh, paths[1])
    before = paths[1].read_bytes()
    words = ["reuse", paths[0], "--into", paths[1], "--first", first, "-o", paths[2], "--json"]
    if family.name == "mlp" and first == 2 and old == new == "keras":  # this file keeps `hidden`, but not `out`
        said = refused(capsys, *words[:-1])
        assert "'dense_1' has the position of 'dense_1', and does not fit there" in said
        words += said.partition(" Say ")[2].split(". ")[0].split()
    told = ok(capsys, *words)
    assert len(json.loads(told)["taken"]) == first
    assert paths[1].read_bytes() == before
    found = theirs.load(family.random("new", new, 3), paths[2])
    assert_reused(family, first, (old, trained), (new, fresh), found)


@pytest.mark.parametrize(("family", "first", "old", "new"), CASES)
def test_live_nets(family: Family, first: int, old: str, new: str) -> None:
    trained, fresh = family.random("old", old, 4), family.random("new", new, 5)
    untouched = family.random("new", new, 5)
    live = SIDES[new].live(fresh)
    report = converter.reuse(SIDES[old].live(trained), into=live, first=first)
    assert report.output == "" and (report.net is live) == (new != "linen")
    found = SIDES[new].back(fresh, report.net)
    assert_reused(family, first, (old, trained), (new, untouched), found)


def test_counters_and_statistics_of_the_rest_stay(tmp_path: Path) -> None:
    norm = torch.nn.BatchNorm1d(4)
    old, ours = save(tmp_path, "old.pt", a=Linear(3, 4), norm=norm)
    new, theirs = save(tmp_path, "new.pt", a=Linear(3, 4), norm=norm, last=torch.nn.BatchNorm1d(4))
    theirs |= {"norm.num_batches_tracked": torch.tensor(41), "last.num_batches_tracked": torch.tensor(43)}
    torch.save(theirs, new)
    report = converter.reuse(old, new, first=2)
    found = load(Path(report.output))
    assert list(found) == list(theirs)
    taken = ("a.weight", "a.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    assert all(torch.equal(found[key], (ours if key in taken else theirs)[key]) for key in theirs)
    assert report.freeze == taken[:4]


def test_what_is_not_carried_over_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, _ = save(tmp_path, "old.pt", dense=Linear(3, 4))
    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="dense"), keras.layers.Dense(5, name="l")])
    net.compile("adam", "mse")
    net.fit(np.ones((2, 3)), np.ones((2, 5)), verbose=0)
    net.save(tmp_path / "new.keras")
    said = ok(capsys, "reuse", old, "--into", tmp_path / "new.keras", "--first", 1, "-o", tmp_path / "merged.keras")
    assert f"not carried over from {tmp_path / 'new.keras'}: optimizer" in said
    merged = keras.saving.load_model(tmp_path / "merged.keras")
    assert np.array_equal(merged.layers[0].get_weights()[0], load(old)["dense.weight"].numpy().T)
    assert np.array_equal(merged.layers[1].get_weights()[0], net.layers[1].get_weights()[0])


@pytest.mark.parametrize("ending", [".weights.h5", ".h5", ".npz"])
def test_the_merged_file_may_have_another_format(tmp_path: Path, ending: str) -> None:
    old, ours = save(tmp_path, "old.pt", dense=Linear(3, 4))
    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="dense"), keras.layers.Dense(5, name="last")])
    net.save_weights(tmp_path / "new.weights.h5")
    report = converter.reuse(old, tmp_path / "new.weights.h5", map={"dense": "dense"}, output=tmp_path / f"out{ending}")
    with converter.read(report.output, framework="tensorflow") as found:
        values = [found[spec.name] for layer in found.layers for spec in layer.tensors if len(spec.shape) == 2]
    assert np.array_equal(values[0], ours["dense.weight"].numpy().T)
    assert np.array_equal(values[1], net.layers[1].get_weights()[0])


def test_into_the_neutral_file_whose_checksums_are_renewed(tmp_path: Path) -> None:
    old, ours = save(tmp_path, "old.pt", a=Linear(3, 4))
    new, theirs = save(tmp_path, "new.pt", a=Linear(3, 4), b=Linear(4, 5))
    converter.convert("torch->neutral", new, tmp_path / "new.safetensors")
    report = converter.reuse(old, tmp_path / "new.safetensors", first=1)
    with converter.read(report.output) as found:
        assert found.framework == "neutral"
        assert np.array_equal(found["a.weight"], ours["a.weight"]) and np.array_equal(found["b.bias"], theirs["b.bias"])


def test_the_report(tmp_path: Path) -> None:
    old, _ = save(tmp_path, "old.pt", a=Linear(3, 4), b=Linear(4, 5))
    new, _ = save(tmp_path, "new.pt", a=Linear(3, 4), c=Linear(4, 5))
    report = converter.reuse(old, new, first=1, output=tmp_path / "out.pt")
    assert report.to_dict() == {
        "old": {"path": str(old), "format": "PyTorch file"},
        "into": {"path": str(new), "format": "PyTorch file"},
        "output": {"path": str(tmp_path / "out.pt"), "format": "PyTorch file"},
        "order": "their order in the old net, which need not be that in which they are called",
        "taken": [
            {
                "layer": "a",
                "into": "a",
                "kind": "linear",
                "how": "whole",
                "reason": "same name",
                "freeze": ["a.weight", "a.bias"],
                "tensors": [
                    {
                        "sources": [{"name": f"a.{leaf}", "shape": shape, "dtype": "float32"}],
                        "target": {"name": f"a.{leaf}", "shape": shape, "dtype": "float32"},
                        "done": [],
                    }
                    for leaf, shape in (("weight", [4, 3]), ("bias", [4]))
                ],
            }
        ],
        "skipped": [],
        "unused": ["b"],
        "kept": ["c.weight", "c.bias"],
        "not_carried": [],
        "flattened": [],
        "freeze": ["a.weight", "a.bias"],
        "in_part": [],
        "overflow": {},
        "underflow": {},
        "checklist": [],
        "written": True,
    }
    assert str(report).splitlines() == [
        f"{old} (PyTorch file) into {new} (PyTorch file)",
        "first: by their order in the old net, which need not be that in which they are called",
        "",
        "old layer  new layer  kind    old                 new              done   paired by",
        "a          a          linear  a.weight (4, 3)  →  a.weight (4, 3)  moved  same name",
        "                              a.bias (4,)      →  a.bias (4,)      moved",
        "",
        "not used of the old net: b",
        "as they were in the new net: c.weight, c.bias",
        "to freeze: a.weight, a.bias",
        f"2 tensors of the old net, 2 of the new one, written to {tmp_path / 'out.pt'} (PyTorch file)",
    ]


def test_a_live_keras_net_is_taken_in_its_order_and_not_that_of_the_alphabet() -> None:
    old = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="z"), keras.layers.Dense(5, name="a")])
    new = torch.nn.ModuleDict({"a": Linear(4, 5), "z": Linear(3, 4)})
    report = converter.reuse(old, into=new, first=1)
    assert [one.taking.source.path for one in report.reused] == ["z"] and report.order.startswith("their order in")
    assert torch.equal(new["z"].weight, torch.tensor(np.array(old.layers[0].kernel).T))
