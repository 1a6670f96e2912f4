"""The options of `converter reuse`, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import flax.linen
import keras
import mxnet
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import converter
from converter.live import open_net
from tests.command import ok, refused
from tests.commands.reuse_nets import Embedding, Linear, load, save
from tests.parity.sides import SIDES, assert_same, gluon_net, linen_net, to_numpy


def test_a_pattern_and_a_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, ours = save(tmp_path, "old.pt", encoder__a=Linear(3, 4), encoder__0=Linear(4, 5), head=Linear(5, 6))
    new, theirs = save(tmp_path, "new.pt", encoder__a=Linear(3, 4), stem=Linear(4, 5), head=Linear(5, 6))
    words = ("--layers", "encoder.*", "--map", "encoder.0=stem", "-o", tmp_path / "merged.pt", "--strict")
    said = ok(capsys, "reuse", old, "--into", new, *words)
    assert "encoder.0" in said and "  map\n" in said and "not used of the old net: head" in said
    expected = {
        **theirs,
        **{key: ours[key] for key in ours if key.startswith("encoder.a")},
        **{f"stem.{leaf}": ours[f"encoder.0.{leaf}"] for leaf in ("weight", "bias")},
    }
    found = load(tmp_path / "merged.pt")
    assert list(found) == list(theirs) and all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_map_alone_says_what_to_take(tmp_path: Path) -> None:
    old, ours = save(tmp_path, "old.pt", a=Linear(3, 4), b=Linear(4, 5))
    new, theirs = save(tmp_path, "new.pt", x=Linear(3, 4), y=Linear(4, 5))
    report = converter.reuse(old, new, map={"b": "y"})
    assert report.output == str(tmp_path / "reused-new.pt")
    found = load(tmp_path / "reused-new.pt")
    assert torch.equal(found["y.weight"], ours["b.weight"]) and torch.equal(found["x.weight"], theirs["x.weight"])


def test_what_does_not_fit_is_an_error_or_skipped_or_sliced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, ours = save(tmp_path, "old.pt", embed=Embedding(7, 4), body=Linear(4, 5), head=Linear(5, 9))
    new, theirs = save(tmp_path, "new.pt", embed=Embedding(11, 4), body=Linear(4, 5), head=Linear(5, 6))
    words = ("reuse", old, "--into", new, "--first", 3, "-o", tmp_path / "out.pt")
    said = refused(capsys, *words)
    assert "'embed.weight' has shape (7, 4); the clone's 'embed.weight' is (11, 4)" in said
    assert "'head.weight' has shape (9, 5)" in said  # all problems at once
    assert "--skip-mismatch leaves it as it is in the new net; --slice takes the part that overlaps." in said
    assert not (tmp_path / "out.pt").exists()
    told = json.loads(ok(capsys, *words, "--skip-mismatch", "--json"))
    assert [one["layer"] for one in told["skipped"]] == ["embed", "head"]
    assert "has shape (7, 4)" in told["skipped"][0]["reason"] and told["skipped"][0]["into"] == "embed"
    assert told["freeze"] == ["body.weight", "body.bias"]
    found = load(tmp_path / "out.pt")
    body = [key for key in theirs if key.startswith("body")]
    assert all(torch.equal(found[key], (ours if key in body else theirs)[key]) for key in theirs)
    told = json.loads(ok(capsys, *words, "--slice", "--force", "--json"))
    assert [one["how"] for one in told["taken"]] == ["sliced", "whole", "sliced"]
    assert told["in_part"] == ["embed", "head"] and told["freeze"] == ["body.weight", "body.bias"]
    found = load(tmp_path / "out.pt")
    assert torch.equal(found["embed.weight"], torch.cat([ours["embed.weight"], theirs["embed.weight"][7:]]))
    assert torch.equal(found["head.weight"], ours["head.weight"][:6])
    assert torch.equal(found["head.bias"], ours["head.bias"][:6])


def test_slices_are_of_neutral_axes_gate_by_gate(tmp_path: Path) -> None:
    old, ours = save(tmp_path, "old.pt", rnn=torch.nn.LSTM(3, 5))
    net = keras.Sequential([keras.Input((None, 4)), keras.layers.LSTM(7, name="rnn")])
    before = [np.array(value) for value in net.get_weights()]
    report = converter.reuse(old, into=net, layers="rnn", slice=True)
    assert report.in_part == ("rnn",) and report.freeze == ()
    kernels = {"weight_ih_l0": 0, "weight_hh_l0": 1}
    for name, place in kernels.items():
        expected = before[place].reshape(-1, 4, 7).copy()
        gates = ours[f"rnn.{name}"].numpy().reshape(4, 5, -1).transpose(2, 0, 1)
        expected[: gates.shape[0], :, :5] = gates
        assert np.array_equal(net.get_weights()[place], expected.reshape(-1, 28))
    expected = before[2].reshape(4, 7).copy()
    expected[:, :5] = (ours["rnn.bias_ih_l0"] + ours["rnn.bias_hh_l0"]).numpy().reshape(4, 5)
    np.testing.assert_allclose(net.get_weights()[2], expected.reshape(28), rtol=1e-6)


def test_heads_are_not_sliced(tmp_path: Path) -> None:
    old, _ = save(tmp_path, "old.pt", attention=torch.nn.MultiheadAttention(4, 2))
    new, _ = save(tmp_path, "new.pt", attention=torch.nn.MultiheadAttention(6, 2))
    with pytest.raises(converter.MatchError, match=r"skip_mismatch=True leaves it as it is in the new net\.$"):
        converter.reuse(old, new, layers="attention", slice=True)


def test_flattened_inputs_are_not_sliced() -> None:
    def net(places: int) -> Any:
        layers = [keras.layers.Conv2D(4, 2, name="conv"), keras.layers.Flatten(), keras.layers.Dense(7, name="dense")]
        return keras.Sequential([keras.Input((places + 1, 3, 1)), *layers])

    for old in (net(3), torch.nn.Sequential()):
        if isinstance(old, torch.nn.Module):
            old.add_module("conv", torch.nn.Conv2d(1, 4, 2))
            old.add_module("dense", Linear(4 * 3 * 2, 7))
        with pytest.raises(converter.MatchError, match=r"24 inputs that are 4 flattened .* has 40: their first"):
            converter.reuse(old, into=net(5), layers="dense", slice=True)


@pytest.mark.parametrize("flavour", ["torch", "keras", "linen", "gluon"])
def test_inflated_kernels_answer_to_a_still_film_as_to_its_frame(flavour: str) -> None:
    flat = SIDES["torch"].randomise(torch.nn.Sequential(torch.nn.Conv2d(2, 3, (4, 5))), np.random.default_rng(1))
    frame = np.random.default_rng(2).normal(size=(2, 2, 6, 8)).astype(np.float32)
    film = np.repeat(frame[:, :, None], 7, 2)
    last = np.moveaxis(film, 1, -1)
    deep: dict[str, Any] = {
        "torch": lambda: torch.nn.Sequential(torch.nn.Conv3d(2, 3, (7, 4, 5))),
        "keras": lambda: keras.Sequential([keras.Input(last.shape[1:]), keras.layers.Conv3D(3, (7, 4, 5))]),
        "linen": linen_net(lambda: flax.linen.Conv(3, (7, 4, 5), padding="VALID", name=None), last),
        "gluon": gluon_net(lambda: _in_sequence(mxnet.gluon.nn.Conv3D(3, (7, 4, 5))), film),
    }
    net, side = deep[flavour](), SIDES[flavour]
    (path,) = side_paths(flavour, net)
    with pytest.raises(converter.MatchError, match=r"inflate=True makes 3-d kernels of the 2-d ones\.$"):
        converter.reuse(flat, into=side.live(net), map={"0": path})
    report = converter.reuse(flat, into=side.live(net), map={"0": path}, inflate=True)
    assert report.to_dict()["taken"][0]["how"] == "inflated" and len(report.freeze) == 2
    found = to_numpy(side.run(side.back(net, report.net), last if side.last else film))
    found = np.moveaxis(found, -1, 1) if side.last else found
    assert_same(found[:, :, 0], SIDES["torch"].run(flat, frame).numpy())


def _in_sequence(layer: Any) -> Any:
    net = mxnet.gluon.nn.Sequential()
    net.add(layer)
    return net


def side_paths(flavour: str, net: Any) -> tuple[str, ...]:
    live = open_net(SIDES[flavour].live(net))
    return tuple(layer.path for layer in live.framework.net(live.contents()).layers)


# -- refusals -------------------------------------------------------------------------------------------------------


def square_nets(tmp_path: Path, new: tuple[str, ...]) -> tuple[Path, Path]:
    old, _ = save(tmp_path, "old.pt", first=Linear(4, 4), second=Linear(4, 4), third=Linear(4, 4))
    return old, save(tmp_path, "new.pt", **{name: Linear(4, 4) for name in new})[0]


@pytest.mark.parametrize("words", [("--first", 1), ("--layers", "second")])
def test_equal_shapes_under_other_names_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[object, ...]
) -> None:
    old, new = square_nets(tmp_path, ("a", "b", "c"))
    name = "first" if words[0] == "--first" else words[1]
    said = refused(capsys, "reuse", old, "--into", new, *words, "--skip-mismatch")
    assert f"'{name}' could go into 'a', 'b', 'c'. Say --map {name}=a, --map {name}=b or --map {name}=c." in said


@pytest.mark.parametrize("new", [("third", "b", "first"), ("b", "first", "second", "third", "e")])
def test_names_win_over_the_order_of_the_file(tmp_path: Path, new: tuple[str, ...]) -> None:
    report = converter.reuse(*square_nets(tmp_path, new), layers=("first", "third"))
    assert [(one.taking.source.path, one.taking.target.path) for one in report.reused] == [
        ("first", "first"),
        ("third", "third"),
    ]


def test_numbers_of_sequentials_tell_the_order(tmp_path: Path) -> None:
    old, ours = save(tmp_path, "old.pt", **{"0": Linear(4, 4), "2": Linear(4, 4), "4": Linear(4, 4)})
    new, theirs = save(tmp_path, "new.pt", **{str(i): Linear(4, 4) for i in (0, 1, 2, 10)})
    report = converter.reuse(old, new, first=2)
    assert "as their numbers tell" in str(report)
    assert [one.taking.reason for one in report.reused] == ["position", "position"]
    found = load(Path(report.output))
    assert torch.equal(found["1.weight"], ours["2.weight"]) and torch.equal(found["2.weight"], theirs["2.weight"])
    with pytest.raises(converter.MatchError, match="strict=True: '0' -> '0' rests on: position"):
        converter.reuse(old, new, first=2, strict=True, force=True)


@given(st.permutations(["0", "3", "a", "b", "deep.x", "deep.y", "dense", "dense_1"]), st.integers(1, 4), st.data())
@settings(max_examples=60, deadline=None)
def test_any_names_and_order_are_paired_rightly_or_refused(names: list[str], first: int, data: st.DataObject) -> None:
    """The layers of a square net under any names: what is taken goes by equal names or by numbers, or nothing is."""
    old = {name: np.full((3, 3), i, np.float32) for i, name in enumerate(names[:4])}
    kept = data.draw(st.permutations(names[:4])) if data.draw(st.booleans()) else names[4:]
    new = {name: np.full((3, 3), -1, np.float32) for name in kept}
    try:
        report = converter.reuse(tree(old), into=tree(new), first=first)
    except converter.MatchError as error:
        assert "map={" in str(error)
        return
    for one in report.reused:
        ours, theirs, reason = one.taking.source.path, one.taking.target.path, one.taking.reason
        counted = [sorted(filter(str.isdecimal, side), key=int) for side in (old, new)]
        assert ours == theirs if reason == "same name" else reason in ("position", "only one with this shape"), reason
        if reason == "position" and ours.isdecimal():
            assert counted[0].index(ours) == counted[1].index(theirs)


def tree(kernels: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, kernel in kernels.items():
        *around, last = name.split(".")
        inner = nested
        for part in around:
            inner = inner.setdefault(part, {})
        inner[last] = {"kernel": kernel}
    return {"params": nested}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--first", 4), "--first 4: the old net has 3 layers with parameters"),
        (
            ("--layers", "enc*"),
            "--layers 'enc*': the old net has no layer 'enc*'. It has 'first', 'second', 'third'.",
        ),
        (("--map", "x=a"), "--map x=a: the source has no layer 'x'"),
        (("--map", "first=x"), "--map first=x: 'x' is not in the new net. Free there: 'a', 'b'."),
        (("--map", "first=a", "--map", "third=a"), "--map third=a: 'a' is taken already"),
        (
            ("--first", 1, "--map", "third=b"),
            "--map third=b: 'third' is not among the layers to take, which are",
        ),
        (("--map", "first=a", "-o", "new.pt"), "new.pt: this is the source itself; choose another path."),
        (("--map", "first=a", "-o", "old.pt"), "old.pt: this is the source itself; choose another path."),
        (("--map", "first=a", "-o", "there.pt"), "there.pt: exists already; choose another path. --force replaces it."),
    ],
)
def test_refusals(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[object, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    old, new = square_nets(tmp_path, ("a", "b"))
    (tmp_path / "there.pt").write_bytes(b"x")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert message in refused(capsys, "reuse", old, "--into", new, *words)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(("words", "message"), [((), "say what to take"), (("--first", 1, "--layers", "a"), "one of")])
def test_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[object, ...], message: str
) -> None:
    old, new = square_nets(tmp_path, ("a", "b"))
    assert message in refused(capsys, "reuse", old, "--into", new, *words, code=2)


def test_the_library_refuses_as_the_command_line(tmp_path: Path) -> None:
    old, new = square_nets(tmp_path, ("a", "b"))
    with pytest.raises(converter.ConversionError, match="'first' and 'layers' both say what to take"):
        converter.reuse(old, new, first=1, layers="a")
    with pytest.raises(converter.MatchError, match="nothing says which layers to take"):
        converter.reuse(old, new)
    with pytest.raises(converter.ConversionError, match="a live net is filled in place, so 'output' is of no use"):
        converter.reuse(old, torch.nn.Linear(4, 4), first=1, output=tmp_path / "out.pt")


def test_a_refusal_leaves_a_live_net_as_it_was(tmp_path: Path) -> None:
    old, _ = save(tmp_path, "old.pt", a=Linear(3, 4), b=Linear(4, 5))
    net = torch.nn.ModuleDict({"a": Linear(3, 4), "b": Linear(4, 6)})
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(converter.MatchError):
        converter.reuse(old, into=net, first=2)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
