"""The forms in which programs save an optimizer: Lightning's checkpoints, and optax's states within others."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from safetensors import safe_open

from tests.command import ok, refused
from tests.training.test_order_torch import Square, momenta, trained


def lightning(net: torch.nn.Module, *optimizers: torch.optim.Optimizer) -> dict[str, Any]:
    """What ``Trainer.save_checkpoint`` hands to ``torch.save``."""
    return {
        "epoch": 1,
        "global_step": 2,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": net.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"completed": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "", "current_score": None}},
        "optimizer_states": [optimizer.state_dict() for optimizer in optimizers],
        "lr_schedulers": [{"base_lrs": [0.1], "last_epoch": 1, "_last_lr": [0.1], "lr_lambdas": [None]}],
    }


def test_a_checkpoint_of_lightning(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    net = Square()
    optimizer = trained(net, torch.optim.SGD(net.named_parameters(), 0.1, 0.9))
    torch.save(lightning(net, optimizer), tmp_path / "last.ckpt")
    out = ok(capsys, "torch->flax", tmp_path / "last.ckpt", "-o", tmp_path / "net.msgpack", "--training")
    assert "known at the source: the names in the state itself" in out
    found = momenta(tmp_path / "net.msgpack")
    assert found.keys() == dict(net.named_parameters()).keys()
    for name, value in net.named_parameters():
        assert np.array_equal(found[name], optimizer.state[value]["momentum_buffer"])


def test_two_optimizers_of_lightning(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    net = Square()
    each = [trained(net, torch.optim.SGD(part.named_parameters(), 0.1, 0.9)) for part in (net.first, net.last)]
    torch.save(lightning(net, *each), tmp_path / "last.ckpt")
    said = refused(capsys, "torch->flax", tmp_path / "last.ckpt", "-o", tmp_path / "net.msgpack", "--training")
    assert "holds 2 optimizers, 'optimizer_states/0', 'optimizer_states/1': only the state of one is carried" in said
    assert not (tmp_path / "net.msgpack").exists()


#: Name -> what wraps AdamW, and where its state is.
WRAPPED: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "clipped": (
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.25)),
        lambda state: state[1][0],
    ),
    "masked": (
        lambda: optax.masked(optax.adamw(0.25), {"first": True, "second": False}),
        lambda state: state.inner_state[0],
    ),
    "injected": (
        lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=0.25),
        lambda state: state.inner_state[0],
    ),
    "accumulating": (
        lambda: optax.MultiSteps(optax.adamw(0.25), 2).gradient_transformation(),
        lambda state: state.inner_opt_state[0],
    ),
}
#: Of the optimizer that is in all of them.
SAID = ("--optimizer", "adamw", "--training")


def state_of(make: Callable[[], Any], steps: int) -> TrainState:
    """After so many random gradients of two layers of one shape."""
    rng = np.random.default_rng(steps)

    def random() -> dict[str, Any]:
        one = {"kernel": rng.normal(size=(4, 4)), "bias": rng.normal(size=4)}
        return {name: {leaf: jnp.asarray(one[leaf] + place) for leaf in one} for place, name in enumerate(LAYERS)}

    state = TrainState.create(apply_fn=None, params=random(), tx=make())
    for _ in range(steps):
        state = state.apply_gradients(grads=random())
    return state


LAYERS = ("first", "second")


def saved(state: TrainState, path: Path) -> Path:
    path.write_bytes(flax.serialization.to_bytes(state))
    return path


@pytest.mark.parametrize("name", WRAPPED)
def test_a_state_within_another_is_read(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    make, inner = WRAPPED[name]
    state = state_of(make, 4)
    ok(capsys, "flax->neutral", saved(state, tmp_path / "a.msgpack"), "-o", tmp_path / "a.safetensors", *SAID)
    own = inner(state.opt_state)
    layers = LAYERS[:1] if name == "masked" else LAYERS
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        held = {key: file.get_tensor(key) for key in file.offset_keys() if key.startswith("opt/")}
        training = json.loads(file.metadata()["converter_training"])
    assert held.keys() == {
        f"opt/{slot}/{layer}.{leaf}"
        for slot in ("moment1", "moment2")
        for layer in layers
        for leaf in ("weight", "bias")
    }
    for layer in layers:
        assert np.array_equal(held[f"opt/moment1/{layer}.weight"].T, own.mu[layer]["kernel"])
        assert np.array_equal(held[f"opt/moment2/{layer}.bias"], own.nu[layer]["bias"])
    assert training["step"] == (2 if name == "accumulating" else 4)
    rates = [group["hyper"].get("learning_rate") for group in training["groups"]]
    assert rates == [0.25 if name == "injected" else None]


@pytest.mark.parametrize("name", WRAPPED)
def test_a_state_is_written_within_another(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    make, inner = WRAPPED[name]
    source, clone = state_of(lambda: optax.adamw(0.25), 3), state_of(make, 0)
    files = saved(source, tmp_path / "a.msgpack"), saved(clone, tmp_path / "b.msgpack")
    hyper = ("--hyper", "learning_rate=0.25")
    ok(capsys, "flax->flax", files[0], "-o", tmp_path / "c.msgpack", "--like", files[1], *SAID, *hyper)
    loaded = flax.serialization.from_bytes(clone, (tmp_path / "c.msgpack").read_bytes())
    assert jax.tree.structure(loaded.opt_state) == jax.tree.structure(clone.opt_state)
    own, given = inner(loaded.opt_state), source.opt_state[0]
    layers = LAYERS[:1] if name == "masked" else LAYERS
    for layer in layers:
        assert jax.tree.all(
            jax.tree.map(np.array_equal, (own.mu[layer], own.nu[layer]), (given.mu[layer], given.nu[layer]))
        )
    assert (int(own.count), int(loaded.step)) == (3, 3)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded.params, source.params))


def test_gradients_that_are_half_accumulated(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = saved(state_of(WRAPPED["accumulating"][0], 3), tmp_path / "a.msgpack")
    said = refused(capsys, "flax->neutral", path, "-o", tmp_path / "a.safetensors", *SAID)
    assert "stands between two updates (mini_step 1); save at one" in said
