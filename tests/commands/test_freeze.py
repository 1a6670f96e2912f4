"""`converter.freeze`: after it, a training step with a real optimizer changes what was not taken, and nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import mxnet
import numpy as np
import optax
import pytest
import tf_keras
import torch
from flax import linen, nnx

import converter
from tests.commands.reuse_nets import FAMILIES, HEADS, MLP, Linear, LinenLeNet, LinenMLP, save
from tests.parity.sides import SIDES, Array

Batch = tuple[Array, Array]


def train_torch(net: torch.nn.Module, x: Array, y: Array) -> None:
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(torch.tensor(x)), torch.tensor(y)).backward()
        optimizer.step()


def train_keras(net: Any, x: Array, y: Array) -> None:
    library = tf_keras if isinstance(net, tf_keras.Model) else keras
    net.compile(library.optimizers.AdamW(0.1, weight_decay=0.1), "mse")
    net.fit(x, y, epochs=2, verbose=0)


def train_gluon(net: Any, x: Array, y: Array) -> None:
    trainer = mxnet.gluon.Trainer(net.collect_params(), "adam", {"learning_rate": 0.1, "wd": 0.1})
    for _ in range(2):
        with mxnet.autograd.record():
            loss = mxnet.gluon.loss.L2Loss()(net(mxnet.nd.array(x)), mxnet.nd.array(y))
        loss.backward()
        trainer.step(len(x))


def train_linen(module: Any, params: Any, labels: Any, x: Array, y: Array) -> Any:
    optimizer = optax.multi_transform({True: optax.adamw(0.1), False: optax.set_to_zero()}, labels)

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any]:
        gradient = jax.grad(lambda p: jnp.mean((module.apply(p, x) - y) ** 2))(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(optimizer.init)(params)
    for _ in range(2):
        params, state = step(params, state)
    return params


def train_nnx(net: Any, trained: Any, x: Array, y: Array) -> None:
    optimizer = nnx.Optimizer(net, optax.adamw(0.1), wrt=trained)

    @nnx.jit
    def step(net: Any, optimizer: Any) -> None:
        gradient = nnx.grad(lambda n: jnp.mean((n(x) - y) ** 2), argnums=nnx.DiffState(0, trained))(net)
        optimizer.update(net, gradient)

    for _ in range(2):
        step(net, optimizer)


TRAIN: dict[str, Callable[..., None]] = {"torch": train_torch, "keras": train_keras, "gluon": train_gluon}
MODULES = {"mlp": LinenMLP(MLP["new"]), "lenet": LinenLeNet(HEADS["new"])}


def changed(before: list[Array], after: list[Array]) -> list[bool]:
    """For each layer, a kernel and a bias, whether either is another; both must agree."""
    found = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert found[::2] == found[1::2]
    return found[::2]


@pytest.mark.parametrize(
    ("name", "flavour"), [(name, flavour) for name, family in FAMILIES.items() for flavour in family.nets["new"]]
)
def test_a_training_step_changes_only_what_is_not_frozen(name: str, flavour: str) -> None:
    family = FAMILIES[name]
    side = SIDES[flavour]
    first = max(family.first)
    net = family.random("new", flavour, 1)
    report = converter.reuse(family.random("old", "torch", 2), into=side.live(net), first=first)
    net = side.back(net, report.net)
    before = family.weights(flavour, net)
    x = np.moveaxis(family.input, 1, -1) if side.last and family.input.ndim > 2 else family.input
    y = np.asarray(family.run(flavour, net)) + 1
    if flavour == "linen":
        labels = converter.freeze(net.variables, report)
        assert jax.tree.structure(labels) == jax.tree.structure(net.variables)
        net = side.back(net, train_linen(MODULES[name], net.variables, labels, x, y))
    elif flavour == "nnx":
        train_nnx(net, converter.freeze(net, report), x, y)
    else:
        assert converter.freeze(net, report) is net
        TRAIN[flavour](net, x, y)
    taken = set(family.first[first].values())
    assert changed(before, family.weights(flavour, net)) == [i not in taken for i in range(len(before) // 2)]


# -- statistics -----------------------------------------------------------------------------------------------------


def norms(kind: str) -> Any:
    """A net of two linear layers with a BatchNorm behind each, and its tensors by name."""
    if kind == "torch":
        layers = [torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5)]
        return SIDES[kind].randomise(torch.nn.Sequential(*layers), np.random.default_rng(1))
    if kind == "gluon":
        net = mxnet.gluon.nn.HybridSequential()
        net.add(*(layer for n in (4, 5) for layer in (mxnet.gluon.nn.Dense(n), mxnet.gluon.nn.BatchNorm())))
        net.initialize()
        net.hybridize()
        net(mxnet.nd.ones((2, 3)))
        return SIDES[kind].randomise(net, np.random.default_rng(1))
    of = (keras if kind == "keras" else tf_keras).layers
    library = keras if kind == "keras" else tf_keras
    layers = [layer for n in (4, 5) for layer in (of.Dense(n), of.BatchNormalization())]
    return SIDES["keras"].randomise(library.Sequential([library.Input((3,)), *layers]), np.random.default_rng(1))


def tensors(net: Any) -> list[Array]:
    if isinstance(net, torch.nn.Module):
        return [value.numpy().copy() for key, value in net.state_dict().items() if "batches" not in key]
    if hasattr(net, "get_weights"):
        return [np.array(value) for layer in net.layers for value in layer.get_weights()]
    return [value.data().asnumpy() for value in net._collect_params_with_prefix().values()]


@pytest.mark.parametrize("kind", ["torch", "keras", "tf_keras", "gluon"])
def test_the_statistics_of_a_frozen_batch_norm_stay(kind: str) -> None:
    net, old = norms(kind), torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    paths = ("0", "1") if kind in ("torch", "gluon") else ("dense", "batch_normalization")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", converter.CloneWarning)  # of the epsilon, which weights do not carry
        report = converter.reuse(old, into=net, map=dict(zip(("0", "1"), paths, strict=True)))
    assert len(report.freeze) == 4 and not [name for name in report.freeze if "mean" in name or "var" in name]
    converter.freeze(net, report)
    before = tensors(net)
    x = np.random.default_rng(3).normal(size=(6, 3)).astype(np.float32)
    TRAIN[kind.removeprefix("tf_")](net, x, np.ones((6, 5), np.float32))
    assert [not np.array_equal(a, b) for a, b in zip(before, tensors(net), strict=True)] == [False] * 6 + [True] * 6


# -- what is said ---------------------------------------------------------------------------------------------------


def test_a_layer_that_was_taken_in_part_stays_trainable(tmp_path: Path) -> None:
    old, _ = save(tmp_path, "old.pt", a=Linear(3, 4), head=Linear(4, 5))
    net = torch.nn.ModuleDict({"a": Linear(3, 4), "head": Linear(4, 6)})
    report = converter.reuse(old, into=net, first=2, slice=True)
    with pytest.warns(UserWarning, match="'head' was taken in part, so it stays trainable"):
        converter.freeze(net, report)
    assert [name for name, value in net.named_parameters() if not value.requires_grad] == ["a.weight", "a.bias"]
    assert report.freeze == ("a.weight", "a.bias")


def test_a_keras_layer_of_which_only_one_half_was_taken_stays_trainable(tmp_path: Path) -> None:
    net = keras.Sequential([keras.Input((6, 7, 3)), keras.layers.SeparableConv2D(4, 2, name="sep")])
    old, _ = save(tmp_path, "old.pt", sep=torch.nn.Conv2d(3, 4, 1))
    report = converter.reuse(old, into=net, map={"sep": "sep.pointwise"})
    with pytest.warns(UserWarning, match="stays trainable: its Keras layer has variables that are not frozen"):
        converter.freeze(net, report)
    assert net.layers[0].trainable


def test_a_gradient_that_was_gathered_before_is_not_applied(tmp_path: Path) -> None:
    net = torch.nn.ModuleDict({"a": Linear(3, 4), "b": Linear(4, 5)})
    old, _ = save(tmp_path, "old.pt", a=Linear(3, 4))
    report = converter.reuse(old, into=net, first=1)
    net["b"](net["a"](torch.ones(2, 3))).sum().backward()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    converter.freeze(net, report)
    before = net["a"].weight.detach().clone()
    optimizer.step()
    assert torch.equal(net["a"].weight, before)


def test_a_merged_file_is_loaded_and_frozen_under_the_names_of_the_live_net(tmp_path: Path) -> None:
    """Keras files call the layers otherwise (`dense_1`) than the live net does (`mid`)."""
    family = FAMILIES["mlp"]
    fresh = family.random("new", "keras", 1)
    fresh.save_weights(tmp_path / "new.weights.h5")
    old, _ = save(tmp_path, "old.pt", hidden=Linear(20, 256), output=Linear(256, 10))
    report = converter.reuse(old, tmp_path / "new.weights.h5", first=2)
    assert report.reused[1].taking.target.path not in ("out", "output")
    net = family.nets["new"]["keras"]()
    net.load_weights(report.output)
    converter.freeze(net, report)
    assert [layer.trainable for layer in (net.hidden, net.mid, net.out)] == [False, True, False]


def test_another_net_is_refused(tmp_path: Path) -> None:
    old, _ = save(tmp_path, "old.pt", a=Linear(3, 4), b=Linear(4, 5))
    new, _ = save(tmp_path, "new.pt", a=Linear(3, 4), b=Linear(4, 5))
    report = converter.reuse(old, new, first=1)
    with pytest.raises(converter.MatchError):
        converter.freeze(torch.nn.ModuleDict({"x": Linear(3, 6), "b": Linear(6, 5)}), report)


def test_the_params_alone_are_labelled_as_well() -> None:
    module = linen.Dense(4)
    variables = module.init(jax.random.PRNGKey(0), jnp.zeros((2, 3)))
    params = {
        "dense": variables["params"],
        "rest": linen.Dense(5).init(jax.random.PRNGKey(1), jnp.zeros((2, 4)))["params"],
    }
    old = torch.nn.ModuleDict({"dense": Linear(3, 4)})
    report = converter.reuse(old, into={"params": params}, first=1)
    expected = {"dense": {"kernel": False, "bias": False}, "rest": {"kernel": True, "bias": True}}
    assert converter.freeze(report.net["params"], report) == expected
