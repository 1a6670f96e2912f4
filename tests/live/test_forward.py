"""`converter.verify`: live nets of all frameworks on one input, and the first layer where they part."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import mxnet
import numpy as np
import pytest
import tf_keras
import torch
from flax import linen, nnx
from mxnet.gluon import nn as gluon

import converter
from converter.commands.verify_nets import ForwardComparison
from tests.chapter import FlaxMLP, example_input, flax_net, gluon_net, keras_net, random_weights, torch_net
from tests.live.nets import TfKerasMLP, built
from tests.parity.attention_cases import ONE
from tests.parity.chains import Link, chain, normal
from tests.parity.conv_cases import conv
from tests.parity.recurrent_cases import CASES as RECURRENT
from tests.parity.sides import SIDES, Case, Linen, channels_last

FLAVOURS = ("torch", "keras", "tf_keras", "linen", "nnx", "gluon")
LAYERS = ["first", "norm", "second", "third"]


def batch_norm(epsilon: float) -> Link:
    return Link(
        "norm",
        "batch_norm",
        lambda: torch.nn.BatchNorm2d(4, epsilon),
        lambda layers, own: layers.BatchNormalization(epsilon=epsilon, name=own),
        lambda own: linen.BatchNorm(use_running_average=True, epsilon=epsilon, name=own),
        lambda rngs: nnx.BatchNorm(4, epsilon=epsilon, rngs=rngs),
        lambda: gluon.BatchNorm(epsilon=epsilon, in_channels=4),
    )


def four_layers(epsilon: float = 0.01) -> Case:
    x = normal(2, 3, 11, 12)
    return chain("net", x, conv("first", 3, 4), batch_norm(epsilon), conv("second", 4, 5), conv("third", 5, 2))


#: Of one set of random weights; "disturbed" has one other number in the middle.
STATE = {name: value.clone() for name, value in four_layers().random("torch", 1).state_dict().items()}
DISTURBED = {name: value.clone() for name, value in STATE.items()}
DISTURBED["second.weight"][2, 3, 1, 0] += 0.25


def filled(case: Case, flavour: str, state: Any, folder: Path) -> Any:
    """A net of that flavour with those weights, as `converter.verify` takes it."""
    path = folder / "weights.pt"
    torch.save(state, path)
    net, side = case.random(flavour, 2), SIDES[flavour]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", converter.CloneWarning)  # of what these nets are made to differ in
        return as_given(side.back(net, converter.load_into(side.live(net), path, framework="torch")))


def as_given(net: Any) -> Any:
    return (net.module, net.variables) if isinstance(net, Linen) else net


def given(case: Case, flavour: str) -> Any:
    xs = tuple(channels_last(x) if case.spatial and SIDES[flavour].last else x for x in case.inputs)
    return xs if len(xs) > 1 else xs[0]


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("nets")
    return {flavour: filled(four_layers(), flavour, STATE, folder) for flavour in FLAVOURS}


def agree(found: ForwardComparison, layers: list[str]) -> None:
    assert found.ok and found.first is None, str(found)
    assert not found.unpaired and not found.unseen
    assert [layer.a for layer in found.layers] == layers
    assert all(layer.ok and layer.relative < 1e-5 for layer in (*found.layers, *found.outputs))


@pytest.mark.parametrize("a", FLAVOURS)
@pytest.mark.parametrize("b", FLAVOURS)
def test_equal_nets_agree_in_every_layer(nets: dict[str, Any], a: str, b: str) -> None:
    found = converter.verify(nets[a], nets[b], given(four_layers(), a))
    agree(found, LAYERS)
    if a == b:
        assert all(layer.absolute == 0 for layer in (*found.layers, *found.outputs))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_one_other_weight_is_found_in_its_layer(nets: dict[str, Any], tmp_path: Path, flavour: str) -> None:
    other = filled(four_layers(), flavour, DISTURBED, tmp_path)
    for a, b in (("torch", other), ("keras", other)):
        found = converter.verify(nets[a], b, given(four_layers(), a))
        assert not found.ok and found.first is not None and found.first.a == "second"
        assert [layer.ok for layer in found.layers] == [True, True, False, False]
        assert found.first.absolute > 0.01
        assert "differ beyond the relative tolerance (1e-05 for float32); they part first at 'second'" in str(found)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_another_epsilon_shows_at_the_batch_norm(nets: dict[str, Any], tmp_path: Path, flavour: str) -> None:
    other = filled(four_layers(0.05), flavour, STATE, tmp_path)
    found = converter.verify(nets["torch"], other, given(four_layers(), "torch"))
    assert not found.ok and found.first is not None and found.first.a == "norm"
    if flavour == "linen":  # its settings are in its code
        assert found.settings == ()
    else:
        assert len(found.settings) == 1 and "'norm': BatchNorm epsilon is 0.05 in the clone" in found.settings[0]


# -- the nets are left as they were ---------------------------------------------------------------------------------


def state_of(net: Any) -> list[Any]:
    """Modes and values of all that a net has."""
    if isinstance(net, torch.nn.Module):
        modes = [(m.training, len(m._forward_hooks)) for m in net.modules()]
        return [
            *modes,
            torch.backends.mha.get_fastpath_enabled(),
            [v.numpy().tobytes() for v in net.state_dict().values()],
        ]
    if isinstance(net, nnx.Module):
        modes = [vars(m).get("use_running_average") for _, m in nnx.iter_modules(net)]
        calls = [vars(type(m)).get("__call__") for _, m in nnx.iter_modules(net)]
        return [modes, calls, [np.asarray(v).tobytes() for v in jax.tree.leaves(nnx.state(net))]]
    if isinstance(net, gluon.Block):
        blocks = [net, *net._children.values()]
        values = [p.data().asnumpy().tobytes() for p in net.collect_params().values()]
        return [[b._active for b in blocks], [len(b._forward_hooks) for b in blocks], values]
    if isinstance(net, tuple):
        return [np.asarray(v).tobytes() for v in jax.tree.leaves(net[1])]
    classes = [keras.layers.Layer.__call__, tf_keras.layers.Layer.__call__]
    return [classes, [vars(layer).get("activation") for layer in net.layers], [v.tobytes() for v in net.get_weights()]]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_nets_run_in_inference_mode_and_keep_their_own(tmp_path: Path, flavour: str) -> None:
    net = filled(four_layers(), flavour, STATE, tmp_path)
    if isinstance(net, torch.nn.Module):
        net.train()
        net.second.eval()
    elif isinstance(net, nnx.Module):
        net.train()
    elif isinstance(net, gluon.Block):
        net.hybridize()
        net(mxnet.nd.array(four_layers().inputs[0]))  # makes the graph in which no layer is called
    before = state_of(net)
    agree(converter.verify(net, net, given(four_layers(), flavour)), LAYERS)
    assert state_of(net) == before
    with pytest.raises(converter.ConversionError, match="does not run on"):
        converter.verify(net, net, np.zeros((1, 2), np.float32))
    assert state_of(net) == before
    if isinstance(net, torch.nn.Module):
        assert net.training and not net.second.training


class TrainLinen(linen.Module):
    """As users write it: whether it trains is an argument."""

    @linen.compact
    def __call__(self, x: Any, train: bool = True) -> Any:
        x = linen.BatchNorm(use_running_average=not train, epsilon=0.01, name="norm")(x)
        return linen.Dropout(0.5, deterministic=not train)(x)


class TrainKeras(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.norm = keras.layers.BatchNormalization(epsilon=0.01)
        self.dropout = keras.layers.Dropout(0.5)

    def call(self, x: Any, training: bool = True) -> Any:
        return self.dropout(self.norm(x, training=training), training=training)


def test_nets_that_are_told_by_an_argument_that_they_train_are_told_that_they_do_not() -> None:
    x, rng = np.random.default_rng(3).normal(size=(4, 5)).astype(np.float32), np.random.default_rng(4)
    variables = TrainLinen().init(jax.random.PRNGKey(0), jnp.asarray(x), train=False)
    variables = jax.tree.map(lambda v: jnp.asarray(rng.uniform(0.1, 0.9, v.shape), jnp.float32), variables)
    net = TrainKeras()
    net(x, training=False)
    converter.load_into(net, variables)
    agree(converter.verify((TrainLinen(), variables), net, x), ["norm"])
    agree(converter.verify(TrainLinen().bind(variables), net, x), ["norm"])


# -- layers that are put together otherwise -------------------------------------------------------------------------


@pytest.mark.parametrize("make", [keras_net, lambda weights: keras_net(weights, TfKerasMLP()), gluon_net])
def test_layers_are_compared_before_the_activation_that_they_bring_with_them(make: Callable[[Any], Any]) -> None:
    weights = random_weights(5)
    weights["hidden.bias"][7] = -100  # a unit that is off
    other = {name: value.copy() for name, value in weights.items()}
    other["hidden.bias"][7] = -90
    net, x = make(weights), example_input()
    agree(converter.verify(torch_net(weights), net, x), ["hidden", "output"])
    for a, b in ((torch_net(other), net), (net, torch_net(other)), (make(other), (FlaxMLP(), flax_net(weights)))):
        found = converter.verify(a, b, x)
        assert found.ok and found.first is not None and found.first.a == "hidden", str(found)
        assert found.first.absolute == pytest.approx(10, rel=1e-4)
        assert "agree within the relative tolerance (1e-05 for float32), though 'hidden' differs" in str(found)


@pytest.mark.parametrize("case", [ONE, *RECURRENT[:2]], ids=lambda case: case.name.replace(" ", "_"))
def test_layers_that_are_one_module_here_and_several_there(case: Case, tmp_path: Path) -> None:
    flavours = list(case.nets)
    for a, b in zip(flavours, flavours[1:] + flavours[:1], strict=True):
        net, path = case.random(a, 6, b), tmp_path / f"{a}{SIDES[a].ending}"
        SIDES[a].save(net, path)
        clone = case.random(b, 7)
        loaded = converter.load_into(SIDES[b].live(clone), path, framework=SIDES[a].framework)
        other = as_given(SIDES[b].back(clone, loaded))
        found = converter.verify(as_given(net), other, given(case, a), move_channels=case.spatial)
        assert found.ok and found.first is None and not found.unpaired, str(found)
        disturbed = as_given(case.random(b, 8))
        found = converter.verify(as_given(net), disturbed, given(case, a), move_channels=case.spatial)
        assert not found.ok and (found.first or found.unseen), str(found)


class TorchAttention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = torch.nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.attn(x, x, x, need_weights=False)[0])


class KerasAttention(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.attn = keras.layers.MultiHeadAttention(2, 3)
        self.head = keras.layers.Dense(3)

    def call(self, x: Any) -> Any:
        return self.head(self.attn(x, x))


def test_an_attention_is_compared_as_a_whole() -> None:
    x = np.random.default_rng(8).normal(size=(2, 4, 6)).astype(np.float32)
    net, clone = SIDES["torch"].randomise(TorchAttention(), np.random.default_rng(9)), KerasAttention()
    clone(x)
    converter.load_into(clone, net)
    found = converter.verify(net, clone, x)
    agree(found, ["attn", "head"])
    with torch.no_grad():
        net.attn.in_proj_weight[13, 2] += 0.5
    found = converter.verify(clone, net, x)
    assert found.first is not None and (found.first.a, found.first.b) == ("attn", "attn") and not found.ok


class Twice(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared, self.last = torch.nn.Linear(5, 5), torch.nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> Any:
        y = torch.nn.functional.relu_(self.shared(self.shared(x)))  # in place: outputs have to be copies
        return {"logits": self.last(y), "features": (y, None)}


def test_a_layer_that_is_called_twice_and_outputs_with_names() -> None:
    net = SIDES["torch"].randomise(Twice(), np.random.default_rng(10))
    other = Twice().eval()
    other.load_state_dict(net.state_dict())
    x = np.random.default_rng(11).normal(size=(3, 5)).astype(np.float32)
    found = converter.verify(net, other, x)
    agree(found, ["shared", "last"])
    assert [output.a for output in found.outputs] == ["logits", "features.0"]
    with torch.no_grad():
        other.last.bias[1] += 1
    found = converter.verify(net, other, x)
    assert [output.ok for output in found.outputs] == [False, True] and not found.ok
    assert found.first is not None and found.first.a == "last"


# -- layout, tolerance, names ---------------------------------------------------------------------------------------


def test_three_axes_are_turned_when_the_caller_says_so(tmp_path: Path) -> None:
    case = chain("net", normal(2, 3, 11), conv("first", 3, 4, space=1), conv("second", 4, 5, space=1))
    net = case.random("torch", 1)
    clone = filled(case, "nnx", net.state_dict(), tmp_path)
    x = case.inputs[0]
    agree(converter.verify(net, clone, x, move_channels=True), ["first", "second"])
    agree(converter.verify(net, clone, x, x_b=channels_last(x)), ["first", "second"])
    with pytest.raises(converter.ConversionError, match=r"the Flax net does not run on float32 \(2, 3, 11\): "):
        converter.verify(net, clone, x)


def test_four_axes_are_not_turned_when_the_caller_says_so(nets: dict[str, Any]) -> None:
    with pytest.raises(converter.ConversionError, match=r"the Flax net does not run on float32 \(2, 3, 11, 12\): "):
        converter.verify(nets["torch"], nets["nnx"], four_layers().inputs[0], move_channels=False)


def test_outputs_of_one_framework_are_not_turned() -> None:
    class Turned(torch.nn.Module):
        def __init__(self, turned: bool) -> None:
            super().__init__()
            self.turned, self.conv = turned, torch.nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).movedim(1, -1) if self.turned else self.conv(x)

    net = SIDES["torch"].randomise(Turned(False), np.random.default_rng(0))
    other = Turned(True).eval()
    other.load_state_dict(net.state_dict())
    found = converter.verify(net, other, normal(2, 3, 3, 3))
    assert not found.ok and found.first is None and [layer.a for layer in found.layers] == ["conv"]


def test_the_tolerance_is_that_of_the_dtype_unless_the_caller_says_so() -> None:
    net = SIDES["torch"].randomise(
        torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)).double(), np.random.default_rng(2)
    )
    other = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)).double().eval()
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        other[1].bias += 1e-8
    x = np.random.default_rng(3).normal(size=(2, 5))
    found = converter.verify(net, other, x)
    assert not found.ok and found.first is not None and found.first.a == "1"
    assert 1e-10 < found.first.relative < 1e-7
    assert converter.verify(net, other, x, rtol=1e-5).ok
    half = [n.to(torch.bfloat16) for n in (net, other)]
    assert converter.verify(*half, x.astype(np.float32).astype(jnp.bfloat16)).ok


def test_values_that_are_no_numbers_are_equal_to_themselves_alone() -> None:
    net = SIDES["torch"].randomise(torch.nn.Sequential(torch.nn.Linear(3, 3)), np.random.default_rng(2))
    other = torch.nn.Sequential(torch.nn.Linear(3, 3)).eval()
    other.load_state_dict(net.state_dict())
    x = np.random.default_rng(3).normal(size=(2, 3)).astype(np.float32)
    x[1, 1] = np.nan
    assert converter.verify(net, other, x).ok
    with torch.no_grad():
        other[0].weight[2, 2] = float("inf")
    found = converter.verify(net, other, x)
    assert not found.ok and found.outputs[0].absolute == np.inf


class Two(torch.nn.Module):
    def __init__(self, names: tuple[str, str]) -> None:
        super().__init__()
        self.names = names
        for name in names:
            self.add_module(name, torch.nn.Linear(5, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, self.names[1])(getattr(self, self.names[0])(x))


def test_layers_that_cannot_be_paired_do_not_keep_the_nets_from_being_compared() -> None:
    net, other = (
        SIDES["torch"].randomise(Two(n), np.random.default_rng(4)) for n in (("up", "down"), ("left", "right"))
    )
    x = np.random.default_rng(3).normal(size=(2, 5)).astype(np.float32)
    found = converter.verify(net, other, x)
    assert found.ok and found.layers == () and "Say map={'up': 'left'} or map={'down': 'left'}." in found.unpaired
    assert f"layers were not compared: {found.unpaired}" in str(found)
    agree(converter.verify(net, other, x, map={"up": "left", "down": "right"}), ["up", "down"])
    with pytest.raises(converter.MatchError, match="the source has no layer 'upp'"):
        converter.verify(net, other, x, map={"upp": "left"})


def test_the_result_is_data() -> None:
    weights = random_weights(1)
    found = converter.verify(torch_net(weights), gluon_net(weights), example_input())
    data = json.loads(json.dumps(found.to_dict()))
    assert data["ok"] is True and data["first"] is None and data["frameworks"] == ["PyTorch", "MXNet"]
    assert [layer["a"] for layer in data["layers"]] == ["hidden", "output"]


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (42, "a builtins.int is not a live net of a known framework"),
        (flax_net(random_weights(1)), "give the pair (module, variables), or the bound module"),
        (FlaxMLP(), "a Flax linen module alone has no weights: give the pair (module, variables)"),
        (torch.nn.ReLU(), "the PyTorch net has no weights; there is nothing to verify"),
    ],
    ids=["number", "tree", "module", "no weights"],
)
def test_what_cannot_be_run_is_said(net: Any, message: str) -> None:
    for a, b in ((net, built(TfKerasMLP())), (built(TfKerasMLP()), net)):
        with pytest.raises(converter.ConversionError) as error:
            converter.verify(a, b, example_input())
        assert message in str(error.value)
