"""A live net and its optimizer: filled from a file of another framework, and saved; the next updates are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax.training.train_state import TrainState

import converter
from converter.live import torch as live_torch
from tests.training.sides import PLACES, WIDTH, Linen, Torch, apart, float64, start, updates
from tests.training.test_order_torch import Square, trained

FLATTEN: Any = {"hidden": f"{WIDTH}x{PLACES}+{WIDTH}"}


def adamw(net: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), 0.01, weight_decay=0.1)


def in_linen(side: Linen) -> Any:
    return {"params": side.state.params, "batch_stats": side.state.batch_stats}


def copied(optimizer: torch.optim.Optimizer) -> Any:
    """All of its state, to be compared with `same`."""
    document = optimizer.state_dict()
    state = {number: {key: value.clone() for key, value in of.items()} for number, of in document["state"].items()}
    return state, [dict(group) for group in document["param_groups"]]


def same(one: Any, other: Any) -> bool:
    equal = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), one[0], other[0])
    return one[1] == other[1] and one[0].keys() == other[0].keys() and all(jax.tree.leaves(equal))


def test_a_file_of_torch_into_live_optax(tmp_path: Path) -> None:
    source, target = Torch(adamw, start()), Linen(lambda: optax.adamw(0.01, weight_decay=0.1))
    before = source.train(0, 5)
    stopped = source.save(tmp_path / "stopped.pt")
    truth = updates(before, source.train(5, 3))
    old = target.state.opt_state
    with float64():
        filled, state = converter.load_training_into(in_linen(target), old, stopped, flatten=FLATTEN)
    assert int(old[0].count) == 0
    assert int(state[0].count) == 5
    assert jax.tree.structure(state) == jax.tree.structure(old)
    target.state = target.state.replace(**filled, opt_state=state)
    assert apart(updates(before, target.train(5, 3)), truth) < 1e-6


def test_a_file_of_optax_into_a_live_torch_optimizer(tmp_path: Path) -> None:
    source = Linen(lambda: optax.adamw(0.01, 0.8, 0.95, 1e-7, weight_decay=0.1), start())
    target = Torch(lambda net: torch.optim.AdamW(net.parameters(), 0.5, foreach=False))
    before = source.train(0, 5)
    stopped = source.save(tmp_path / "stopped.msgpack")
    truth = updates(before, source.train(5, 3))
    said = {"learning_rate": 0.01, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-7, "weight_decay": 0.1}
    filled = converter.load_training_into(
        target.net, target.optimizer, stopped, flatten=FLATTEN, optimizer="adamw", hyper=said
    )
    assert filled[0] is target.net
    assert filled[1] is target.optimizer
    group = target.optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"], group["foreach"]) == (0.01, (0.8, 0.95), 0.1, False)
    assert apart(updates(before, target.train(5, 3)), truth) < 1e-6


def test_groups_frozen_and_tied_ones_need_no_proof(tmp_path: Path) -> None:
    """The live optimizer holds the parameters themselves, so its numbers are no question, whatever the shapes are."""

    def made() -> tuple[Any, Any]:
        net = Square(tied=True)
        net.last.bias.requires_grad_(False)
        matrices = [value for value in net.parameters() if value.ndim == 2]
        others = [value for value in net.parameters() if value.ndim != 2]
        groups = [{"params": others, "weight_decay": 0.0}, {"params": matrices, "weight_decay": 0.1}]
        return net, torch.optim.AdamW(groups, 0.02)

    (net, optimizer), (new, fresh) = made(), made()
    trained(net, optimizer)
    converter.save_training(net, optimizer, tmp_path / "net.pt")
    document = torch.load(tmp_path / "net.pt", weights_only=True)
    assert same(copied(optimizer), (document["optimizer"]["state"], document["optimizer"]["param_groups"]))
    names = {id(value): name for name, value in net.named_parameters()}
    order = [names[id(value)] for group in optimizer.param_groups for value in group["params"]]
    (tmp_path / "order.txt").write_text("\n".join(order))
    said = str(tmp_path / "order.txt")
    converter.load_training_into(new, fresh, tmp_path / "net.pt", parameter_order=said, strict=True)
    assert same(copied(fresh), copied(optimizer))
    assert all(torch.equal(value, net.get_parameter(name)) for name, value in new.named_parameters())


def test_a_live_optax_state_is_saved_for_flax_and_for_torch(tmp_path: Path) -> None:
    params = {
        "first": {"kernel": jnp.asarray(np.random.default_rng(1).normal(size=(4, 4)), jnp.float32)},
        "second": {"kernel": jnp.asarray(np.random.default_rng(2).normal(size=(4, 4)), jnp.float32)},
    }
    tx = optax.adam(0.01)
    gradient = jax.tree.map(lambda one: one * 2 + 1, params)
    _, state = tx.update(gradient, tx.init(params), params)
    said = {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
    converter.save_training(params, state, tmp_path / "net.msgpack", optimizer="adam", hyper=said)
    fresh = TrainState.create(apply_fn=None, params=jax.tree.map(jnp.zeros_like, params), tx=tx)
    loaded = flax.serialization.from_bytes(fresh, (tmp_path / "net.msgpack").read_bytes())
    assert loaded.step == 1
    assert jax.tree.all(jax.tree.map(np.array_equal, (loaded.params, loaded.opt_state), (params, state)))

    net = torch.nn.Sequential()
    net.add_module("second", torch.nn.Linear(4, 4, bias=False))
    net.add_module("first", torch.nn.Linear(4, 4, bias=False))
    optimizer = torch.optim.Adam(net.named_parameters())
    clone = tmp_path / "clone.pt"
    torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, clone)
    converter.save_training(params, state, tmp_path / "net.pt", like=clone, optimizer="adam", hyper=said)
    moments = torch.load(tmp_path / "net.pt", weights_only=True)["optimizer"]["state"]
    for number, name in enumerate(("second", "first")):
        assert np.array_equal(moments[number]["exp_avg"], np.asarray(state[0].mu[name]["kernel"]).T)


@pytest.mark.parametrize("refused", ["another optimizer", "weights that do not fit", "a net that fails"])
def test_what_is_refused_changes_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    net, optimizer = Square(), None
    converter.save_training(net, trained(net, torch.optim.Adam(net.parameters())), tmp_path / "net.pt")
    new = Square()
    if refused == "weights that do not fit":
        new.last = torch.nn.Linear(4, 2)
    made = torch.optim.RMSprop if refused == "another optimizer" else torch.optim.Adam
    optimizer = trained(new, made(new.parameters()))
    before, weights = copied(optimizer), {name: value.clone() for name, value in new.state_dict().items()}

    def fails(self: Any, tensors: Any) -> Any:
        raise ZeroDivisionError

    if refused == "a net that fails":
        monkeypatch.setattr(live_torch.Adapter, "fill", fails)
    with pytest.raises((converter.ConversionError, ZeroDivisionError)):
        converter.load_training_into(new, optimizer, tmp_path / "net.pt")
    assert same(copied(optimizer), before)
    assert all(torch.equal(value, weights[name]) for name, value in new.state_dict().items())


def test_what_is_no_optimizer_of_the_net(tmp_path: Path) -> None:
    net, other = Square(), Square()
    converter.save_training(net, trained(net, torch.optim.Adam(net.parameters())), tmp_path / "net.pt")
    with pytest.raises(converter.ConversionError, match=r"shape \(4, 4\) that the net does not have"):
        converter.load_training_into(net, torch.optim.Adam(other.parameters()), tmp_path / "net.pt")
    with pytest.raises(converter.ConversionError, match="is no optimizer of a net of PyTorch"):
        converter.load_training_into(net, optax.adam(0.1).init({}), tmp_path / "net.pt")


def test_what_is_likely_is_said(tmp_path: Path) -> None:
    net, new = Square(), Square()
    optimizer = trained(net, torch.optim.Adam(net.parameters()))
    torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "net.pt")
    fresh = torch.optim.Adam(new.parameters())
    with pytest.warns(UserWarning, match="which state is whose is likely, and what is likely is no proof"):
        converter.load_training_into(new, fresh, tmp_path / "net.pt")
    assert same(copied(fresh), copied(optimizer))
    with pytest.raises(converter.ConversionError, match="nothing says which number is which"):
        converter.load_training_into(new, fresh, tmp_path / "net.pt", strict=True)
