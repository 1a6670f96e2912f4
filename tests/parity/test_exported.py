"""Nets that MXNet exported as graph and parameters, into every framework and back; gammas that fix_gamma replaces."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import mxnet
import numpy as np
import pytest

import converter
from converter.errors import ConversionError
from tests.command import ok, refused
from tests.parity import conv_cases, norm_cases, simple_cases
from tests.parity.chains import chain, normal
from tests.parity.conv_cases import conv, transposed
from tests.parity.norm_cases import CHANNELS, batch_norm
from tests.parity.sides import SIDES, Case, assert_same


def case(gluon_scale: bool = True) -> Case:
    """Square kernels, whose kind only the graph tells; all biases have another size, so that each layer is known."""
    return chain(
        "exported",
        normal(2, 2, 7, 6),
        conv("conv", 2, 4),
        transposed("up", 4, CHANNELS),
        batch_norm("norm", gluon_scale=gluon_scale),
        conv("square", CHANNELS, CHANNELS, bias=False),
        conv("last", CHANNELS, 3),
    )


SQUARE = case()


def exported(net: Any, folder: Path, x: Any) -> Path:
    net.hybridize()
    net(mxnet.nd.array(x))
    net.export(str(folder / "net"))
    return folder / "net-0000.params"


def imported(folder: Path, params: Path) -> Any:
    return mxnet.gluon.SymbolBlock.imports(str(folder / "net-symbol.json"), ["data"], str(params))


def saved_clone(flavour: str, made: Case, folder: Path) -> Path:
    side = SIDES[flavour]
    path = folder / f"like{side.ending}"
    side.save(side.randomise(made.fresh(flavour), np.random.default_rng(2)), path)
    return path


@pytest.mark.parametrize("gluon_scale", [True, False], ids=["scale", "fix_gamma"])
@pytest.mark.parametrize("target", SIDES)
def test_an_export_becomes_every_framework(
    target: str, gluon_scale: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, side = case(gluon_scale), SIDES[target]
    net = SIDES["gluon"].randomise(made.fresh("gluon"), np.random.default_rng(1))
    expected = made.run("gluon", net)
    params = exported(net, tmp_path, made.inputs[0])
    like, result = saved_clone(target, case(), tmp_path), tmp_path / f"result{side.ending}"
    said = ok(capsys, f"mxnet->{side.framework}", params, "--like", like, "-o", result)
    assert_same(case().run(target, side.load(case().fresh(target), result)), expected)
    assert ("with fix_gamma the scale is one" in said) == (not gluon_scale)


@pytest.mark.parametrize("source", SIDES)
def test_every_framework_becomes_an_export(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    side = SIDES[source]
    net = side.randomise(SQUARE.fresh(source), np.random.default_rng(1))
    side.save(net, tmp_path / f"source{side.ending}")
    clone = SIDES["gluon"].randomise(SQUARE.fresh("gluon"), np.random.default_rng(2))
    like = exported(clone, tmp_path, SQUARE.inputs[0])
    result = tmp_path / "result.params"
    ok(capsys, f"{side.framework}->mxnet", tmp_path / f"source{side.ending}", "--like", like, "-o", result)
    assert_same(SQUARE.run("gluon", imported(tmp_path, result)), SQUARE.run(source, net))


def test_the_graph_tells_the_order_of_the_layers(tmp_path: Path) -> None:
    params = exported(
        SIDES["gluon"].randomise(SQUARE.fresh("gluon"), np.random.default_rng(1)), tmp_path, SQUARE.inputs[0]
    )
    with converter.read(params) as weights:
        kinds = [layer.kind for layer in weights.layers]
    assert kinds == ["conv", "conv_transpose", "batch_norm", "conv", "conv"]


def test_a_damaged_graph_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = SIDES["gluon"].randomise(SQUARE.fresh("gluon"), np.random.default_rng(1))
    params = exported(net, tmp_path, SQUARE.inputs[0])
    for damage in ("{", "[]", json.dumps({"nodes": [{"op": "x", "inputs": [[7, 0, 0]]}]})):
        (tmp_path / "net-symbol.json").write_text(damage)
        message = refused(capsys, "mxnet->torch", params, "-o", tmp_path / "net.pt")
        assert "net-symbol.json" in message and "is not a graph of MXNet" in message


def _scaled_to(value: float) -> Callable[[Any], Any]:
    def change(net: Any) -> Any:
        net.norm.weight.data.fill_(value)
        return net

    return change


def test_a_live_gluon_net_with_fix_gamma_takes_only_a_scale_of_one(tmp_path: Path) -> None:
    made = case(gluon_scale=False)
    net = SIDES["torch"].randomise(made.fresh("torch"), np.random.default_rng(1))
    clone = SIDES["gluon"].randomise(made.fresh("gluon"), np.random.default_rng(2))
    SIDES["torch"].save(net, tmp_path / "net.pt")
    with pytest.raises(ConversionError, match=r"no place for 'scale' of 'norm.weight'.* are not 1"):
        converter.load_into(clone, tmp_path / "net.pt")
    SIDES["torch"].save(_scaled_to(1.0)(net), tmp_path / "net.pt")
    assert_same(made.run("gluon", converter.load_into(clone, tmp_path / "net.pt")), made.run("torch", net))


# --- every kind of layer


class Named(mxnet.name.NameManager):  # type: ignore[misc]
    """Blocks made under it get these names one after the other, which their exported tensors begin with."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = iter(names)

    def get(self, name: str | None, hint: str) -> str:
        return name or next(self.names, None) or str(super().get(name, hint))


CASES = [
    made
    for module in (simple_cases, conv_cases, norm_cases)
    for made in module.CASES
    if made.layers and {"torch", "gluon"} <= made.nets.keys() and made.name != "linear" and "bias" not in made.name
]


def named(made: Case) -> Any:
    """The gluon net, whose layers are called in the export as everywhere else."""
    with Named(["net", *(layer["path"] for layer in made.layers)]):
        return made.fresh("gluon")


#: Every case, with one framework after the other.
OTHERS = [
    (made, others[i % len(others)])
    for i, made in enumerate(CASES)
    if (others := [flavour for flavour in ("torch", "keras", "linen") if flavour in made.nets])
]
IDS = [f"{made.name}-{other}".replace(" ", "_") for made, other in OTHERS]


@pytest.mark.parametrize(("made", "other"), OTHERS, ids=IDS)
@pytest.mark.parametrize("back", [False, True], ids=["from export", "into export"])
def test_every_kind_of_layer(
    made: Case, other: str, back: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    side, words = SIDES[other], made.words("gluon", other)
    ours = SIDES["gluon"].randomise(named(made), np.random.default_rng(1))
    theirs = side.randomise(made.fresh(other), np.random.default_rng(2))
    params, given = exported(ours, tmp_path, made.inputs[0]), tmp_path / f"other{side.ending}"
    side.save(theirs, given)
    if back:
        ok(capsys, f"{side.framework}->mxnet", given, "--like", params, "-o", tmp_path / "result.params", *words)
        assert_same(made.run("gluon", imported(tmp_path, tmp_path / "result.params")), made.run(other, theirs))
        return
    result = tmp_path / f"result{side.ending}"
    ok(capsys, f"mxnet->{side.framework}", params, "--like", given, "-o", result, *words)
    assert_same(made.run(other, side.load(made.fresh(other), result)), made.run("gluon", ours))
