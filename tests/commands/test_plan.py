"""A plan is a value: made once, printed, written in any format, loaded into live nets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

import converter
from converter.commands import make_plan
from converter.matching import matcher
from converter.planning import plan as tensor_planning
from tests.chapter import (
    SIDES,
    FlaxMLP,
    KerasMLP,
    TorchMLP,
    example_input,
    keras_net,
    keras_weights,
    random_weights,
    torch_net,
    torch_weights,
)
from tests.command import ok
from tests.live.nets import NnxMLP, built, seen_gluon
from tests.places import ROOT

EXAMPLE = ROOT / "examples" / "mlp.params"


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    return Path(shutil.copy(EXAMPLE, tmp_path / "mlp.params"))


@pytest.fixture
def matches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An entry for each time that two nets are matched."""
    calls: list[str] = []

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def match(source: Any, target: Any, hints: Any) -> Any:
            calls.append(f"{source.framework} {target.framework}")
            return original(source, target, hints)

        return match

    monkeypatch.setattr(matcher, "match", counted(matcher.match))
    monkeypatch.setattr(tensor_planning, "match", counted(tensor_planning.match))
    return calls


# -- files ----------------------------------------------------------------------------------------------------------


def test_the_walk_of_the_design(mlp: Path) -> None:
    with converter.open(mlp) as source:
        plan = converter.plan(source, to="flax", map={"output": "out"})
        assert {pair.source.path: (pair.target.path, pair.reason) for pair in plan.pairs} == {
            "hidden": ("hidden", "same name"),
            "output": ("out", "map"),
        }
        assert "4 tensors would be written to" in str(plan) and "transposed, renamed" in str(plan)
        assert sorted(file.name for file in mlp.parent.iterdir()) == ["mlp.params"]
        report = plan.write(mlp.parent / "m.msgpack", dtype="bfloat16")
        assert report.written and str(report).endswith("(Flax msgpack)")
    with converter.open(mlp.parent / "m.msgpack") as written:
        assert written["params/out/kernel"].dtype.name == "bfloat16"
        assert written["params/out/kernel"].shape == (256, 10)


@pytest.mark.parametrize(("to", "output"), [("flax", "mlp.msgpack"), ("tensorflow", "mlp.weights.h5"), ("mxnet", "")])
def test_a_dry_run_prints_the_plan_and_a_conversion_writes_it(
    mlp: Path, capsys: pytest.CaptureFixture[str], to: str, output: str
) -> None:
    dry = ok(capsys, f"torch->{to}", mlp, "--dry-run", "--schema", "mlp")
    with converter.plan(mlp, to, schema="mlp") as plan:
        assert dry == f"{plan}\n"
        assert json.loads(ok(capsys, f"torch->{to}", mlp, "--dry-run", "--json", "--schema", "mlp")) == json.loads(
            json.dumps(plan.to_dict())
        )
        report = plan.write()
    assert Path(report.output).name == (output or "mlp.mxnet.params")
    assert str(plan).replace("would be written", "written") == str(report)
    converter.convert(f"torch->{to}", mlp, mlp.parent / f"again-{Path(report.output).name}", schema="mlp")
    again = mlp.parent / f"again-{Path(report.output).name}"
    assert again.read_bytes() == Path(report.output).read_bytes()


def test_the_options_of_writing_change_the_written_file_and_not_the_plan(mlp: Path) -> None:
    with converter.plan(mlp, "flax") as plan:
        before = plan.to_dict()
        half = plan.write(mlp.parent / "half.msgpack", dtype="float16")
        whole = plan.write(mlp.parent / "whole.msgpack")
        assert plan.to_dict() == before
    assert {step.target.dtype.name for step in half.plan.steps} == {"float16"}
    assert {step.target.dtype.name for step in whole.plan.steps} == {"float32"}


@pytest.mark.parametrize(
    ("to", "names"),
    [
        ("flax", ("a.msgpack", "a.orbax", "a.npz", "a.safetensors")),
        ("tensorflow", ("a.weights.h5", "a.h5", "a.ckpt")),
        ("torch", ("a.pt", "a.safetensors", "a.legacy.pt")),
    ],
)
def test_one_plan_is_written_in_several_formats(mlp: Path, to: str, names: tuple[str, ...]) -> None:
    with converter.plan(mlp, to, schema="mlp") as plan:
        for name in names:
            plan.write(mlp.parent / name)
    for name in names:
        alone = mlp.parent / f"alone-{name}"
        converter.convert(f"torch->{to}", mlp, alone, schema="mlp")
        assert converter.verify(mlp, mlp.parent / name, target_framework=to, schema="mlp").ok
        if (mlp.parent / name).is_file() and not name.endswith("h5"):  # HDF5 files hold times
            assert (mlp.parent / name).read_bytes() == alone.read_bytes()


# -- nothing is matched twice -----------------------------------------------------------------------------------------


def test_two_nets_are_matched_once(mlp: Path, matches: list[str]) -> None:
    clone = mlp.parent / "clone.msgpack"
    converter.convert("torch->flax", mlp, clone, map={"output": "out"})
    matches.clear()
    with converter.plan(mlp, like=clone) as plan:
        assert matches == ["torch flax"]
        assert plan.target.name == "flax" and len(plan.pairs) == 2
        str(plan), plan.to_dict(), plan.report
        plan.write(mlp.parent / "one.msgpack")
        plan.write(mlp.parent / "two.npz")  # names are spelled alike there
        plan.write(mlp.parent / "three.msgpack", dtype="float16")
    assert matches == ["torch flax"]
    converter.convert("torch->flax", mlp, mlp.parent / "four.msgpack", like=clone)
    assert matches == ["torch flax"] * 2
    converter.convert("torch->flax", mlp, mlp.parent / "five.msgpack", like=clone, dry_run=True)
    assert matches == ["torch flax"] * 3
    converter.infer_schema(mlp, clone)
    assert matches == ["torch flax"] * 4
    converter.verify(mlp, clone)
    assert matches == ["torch flax"] * 5
    assert (mlp.parent / "one.msgpack").read_bytes() == (mlp.parent / "four.msgpack").read_bytes()


def test_a_live_net_is_matched_once(mlp: Path, matches: list[str]) -> None:
    net = TorchMLP()
    with converter.plan(mlp, like=net) as plan:
        assert matches == ["torch torch"]
        str(plan)
        assert plan.load_into(net) is net
    assert matches == ["torch torch"]
    converter.load_into(net, mlp)
    assert matches == ["torch torch"] * 2


# -- live nets --------------------------------------------------------------------------------------------------------


def flax_variables() -> Any:
    return FlaxMLP().init(jax.random.PRNGKey(0), example_input())


def leaves(net: Any) -> list[np.ndarray[Any, Any]]:
    """The two kernels of any of these nets, as (outputs, inputs)."""
    if isinstance(net, torch.nn.Module):
        arrays = [value.numpy() for value in net.state_dict().values()]
    elif hasattr(net, "collect_params"):
        arrays = [value.data().asnumpy() for value in net.collect_params().values()]
    elif hasattr(net, "get_weights"):
        arrays = [array.T for array in net.get_weights()]
    elif isinstance(net, NnxMLP):
        arrays = [np.asarray(layer.kernel[...]).T for layer in (net.hidden, net.output)]
    else:
        arrays = [np.asarray(net["params"][name]["kernel"]).T for name in ("hidden", "output")]
    return [array for array in arrays if array.ndim == 2]


def nnx_net() -> Any:
    from flax import nnx

    return NnxMLP(nnx.Rngs(0))


LIVE: dict[str, Callable[[], Any]] = {
    "torch": TorchMLP,
    "keras": lambda: built(KerasMLP()),
    "linen": flax_variables,
    "nnx": nnx_net,
    "gluon": seen_gluon,
}


@pytest.mark.parametrize("flavour", LIVE)
def test_a_plan_for_a_live_net_fills_it_and_others_of_its_layers(mlp: Path, flavour: str) -> None:
    net, other = LIVE[flavour](), LIVE[flavour]()
    expected = [value.numpy() for value in torch.load(mlp, weights_only=True).values() if value.ndim == 2]
    with converter.plan(mlp, like=net, schema="mlp") as plan:
        assert "4 tensors would be written to" in str(plan) and "(live net)" in str(plan)
        assert [pair.source.path for pair in plan.pairs] == ["hidden", "output"]
        assert not all(map(np.array_equal, leaves(net), expected))
        filled = plan.load_into(net)
        also = plan.load_into(other)
    if flavour == "linen":  # a new tree
        assert not all(map(np.array_equal, leaves(net), expected))
    else:
        assert filled is net and also is other
    for one in (filled, also):
        found = leaves(one)
        assert len(found) == 2 and all(map(np.array_equal, found, expected))


@pytest.mark.parametrize("flavour", LIVE)
def test_a_plan_for_a_file_fills_live_nets_too(mlp: Path, flavour: str) -> None:
    with converter.plan(mlp, "flax", schema="mlp") as plan:
        plan.write(mlp.parent / "mlp.msgpack")
        filled = plan.load_into(LIVE[flavour]())
    expected = [value.numpy() for value in torch.load(mlp, weights_only=True).values() if value.ndim == 2]
    assert all(map(np.array_equal, leaves(filled), expected))


def test_a_plan_for_a_live_net_is_written_as_a_file_of_it(mlp: Path) -> None:
    net = built(KerasMLP())
    with converter.plan(mlp, like=net, schema="mlp") as plan:
        report = plan.write(mlp.parent / "like.weights.h5")
        plan.write(mlp.parent / "like.h5")
    assert "(Keras 3 weights)" in str(report)
    clone = built(KerasMLP())
    clone.load_weights(mlp.parent / "like.weights.h5")
    assert torch.equal(torch.tensor(clone.get_weights()[0].T), torch.load(mlp, weights_only=True)["hidden.weight"])
    assert converter.verify(mlp, mlp.parent / "like.h5", schema="mlp").ok


def test_a_plan_of_a_live_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = random_weights(3)
    with converter.plan(torch_net(weights), "flax") as plan:
        assert str(plan).startswith("TorchMLP (live net)")
        report = plan.write()
        assert Path(report.output).name == "TorchMLP.msgpack"
        filled = plan.load_into(flax_variables())
    assert np.array_equal(np.asarray(filled["params"]["hidden"]["kernel"]).T, weights["hidden.weight"])
    loaded = SIDES["flax"].load(tmp_path / "TorchMLP.msgpack")
    assert np.array_equal(SIDES["flax"].weights(loaded)["output.weight"], weights["output.weight"])
    with converter.plan(keras_net(weights), like=TorchMLP(), schema="mlp") as plan:
        assert np.array_equal(torch_weights(plan.load_into(TorchMLP()))["hidden.weight"], weights["hidden.weight"])


def test_a_live_net_goes_into_one_of_another_framework() -> None:
    weights, clone = random_weights(4), built(KerasMLP())
    with converter.plan(torch_net(weights), like=clone, schema="mlp") as plan:
        assert plan.load_into(clone) is clone
    assert np.array_equal(keras_weights(clone)["output.weight"], weights["output.weight"])


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_nothing_says_what_the_result_is_for(mlp: Path) -> None:
    with pytest.raises(converter.ConversionError) as error:
        converter.plan(mlp)
    assert str(error.value) == "nothing says which framework the result is for. Say to=NAME or like=CLONE."


def test_what_is_refused_leaves_nothing_behind(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = mlp.parent / "other.pt"
    torch.save({"hidden.weight": torch.zeros(3, 4), "hidden.bias": torch.zeros(3)}, other)
    closed: list[str] = []
    original = make_plan.Weights.close
    monkeypatch.setattr(make_plan.Weights, "close", lambda self: (closed.append(self.path.name), original(self))[1])
    with pytest.raises(converter.MatchError) as error:
        converter.plan(mlp, like=other)
    assert str(error.value).startswith(f"{mlp}: ") and sorted(closed) == ["mlp.params", "other.pt"]
    with converter.plan(mlp, "flax") as plan:
        (mlp.parent / "there.msgpack").write_text("precious")
        for path, message in (
            ("there.msgpack", "exists already; choose another path. force=True replaces it."),
            ("mlp.params", "this is the source itself; choose another path."),
            ("no/where.msgpack", "does not exist"),
            ("x.pt", "this is the extension of the format 'torch'"),
        ):
            with pytest.raises(converter.ConversionError) as refusal:
                plan.write(mlp.parent / path)
            assert message in str(refusal.value)
        with pytest.raises(converter.MatchError, match=r"nothing in the source fits '0' of the clone"):
            plan.load_into(torch.nn.Sequential(torch.nn.Linear(3, 4)))
    assert (mlp.parent / "there.msgpack").read_text() == "precious"
    assert sorted(file.name for file in mlp.parent.iterdir()) == ["mlp.params", "other.pt", "there.msgpack"]


def test_a_plan_closes_what_it_opened_itself(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    original = make_plan.Weights.close
    monkeypatch.setattr(make_plan.Weights, "close", lambda self: (closed.append(self.path.name), original(self))[1])
    plan = converter.plan(mlp, "flax")
    assert closed == []
    plan.close()
    assert closed == ["mlp.params"]
    with converter.open(mlp) as source:
        with converter.plan(source, "flax") as plan:
            plan.write(mlp.parent / "a.msgpack")
        assert closed == ["mlp.params"]  # the caller's stays open
        assert source["hidden.bias"].shape == (256,)
