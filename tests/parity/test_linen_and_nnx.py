"""`linen` and `nnx` as directions: a new file has the names of that library of Flax, and its joined cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import linen, nnx
from flax.serialization import msgpack_restore, to_bytes
from flax.traverse_util import flatten_dict

import converter
from converter.errors import ConversionError
from tests.parity.sides import random_values


class InLinen(linen.Module):
    cell: Any

    def setup(self) -> None:
        self.conv, self.norm = linen.Conv(4, (3, 3)), linen.BatchNorm(use_running_average=True)
        self.rnn, self.attn = linen.RNN(self.cell(5)), linen.MultiHeadDotProductAttention(2, qkv_features=6)

    def __call__(self, x: Any) -> Any:
        return self.attn(self.rnn(self.norm(self.conv(x)).reshape(1, -1, 4)))


class InNnx(nnx.Module):
    def __init__(self, cell: Any) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.rnn = nnx.RNN(cell(4, 5, rngs=rngs), rngs=rngs)
        self.attn = nnx.MultiHeadAttention(2, 5, qkv_features=6, rngs=rngs, decode=False)

    def __call__(self, x: Any) -> Any:
        return self.attn(self.rnn(self.norm(self.conv(x)).reshape(1, -1, 4)))


X = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype(np.float32)
LSTM = linen.OptimizedLSTMCell, nnx.OptimizedLSTMCell
GRU = linen.GRUCell, nnx.GRUCell


def random_linen(cell: Any) -> tuple[Any, Any]:
    module, rng = InLinen(cell), np.random.default_rng(1)
    variables = jax.eval_shape(module.init, jax.random.key(0), X)
    return module, jax.tree.map(lambda leaf: random_values(leaf.shape, rng), variables)


@pytest.mark.parametrize(("theirs", "ours"), [LSTM, GRU])
def test_linen_into_a_state_of_nnx_and_back(tmp_path: Path, theirs: Any, ours: Any) -> None:
    module, variables = random_linen(theirs)
    if theirs is linen.GRUCell:  # the one bias that nnx.GRUCell does not have
        variables["params"]["rnn"]["cell"]["hn"]["bias"] = np.zeros(5, np.float32)
    (tmp_path / "linen.msgpack").write_bytes(to_bytes(variables))
    converter.convert("linen->nnx", tmp_path / "linen.msgpack", tmp_path / "nnx.msgpack")
    state = msgpack_restore((tmp_path / "nnx.msgpack").read_bytes())
    net = InNnx(ours)
    names = {name for name in flatten_dict(nnx.to_pure_dict(nnx.state(net))) if "rngs" not in name}
    assert set(flatten_dict(state)) == names
    nnx.update(net, state)
    np.testing.assert_allclose(net(X), module.apply(variables, X), rtol=1e-5, atol=1e-5)
    converter.convert("nnx->linen", tmp_path / "nnx.msgpack", tmp_path / "back.msgpack")
    back = flatten_dict(msgpack_restore((tmp_path / "back.msgpack").read_bytes()))
    assert set(back) == set(flatten_dict(variables))
    for name, value in flatten_dict(variables).items():
        np.testing.assert_array_equal(back[name], value)


def test_a_bias_that_nnx_has_not_is_refused(tmp_path: Path) -> None:
    _, variables = random_linen(linen.GRUCell)
    (tmp_path / "linen.msgpack").write_bytes(to_bytes(variables))
    with pytest.raises(ConversionError, match="recurrent bias"):
        converter.convert("linen->nnx", tmp_path / "linen.msgpack", tmp_path / "nnx.msgpack")


def test_from_another_framework(tmp_path: Path) -> None:
    net = torch.nn.Sequential()
    net.fc, net.norm = torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    for direction, expected in (
        ("torch->nnx", {"fc/kernel", "fc/bias", "norm/scale", "norm/bias", "norm/mean", "norm/var"}),
        ("torch->linen", {"params/fc/kernel", "batch_stats/norm/mean"}),
    ):
        converter.convert(direction, tmp_path / "net.pt", tmp_path / "net.msgpack", force=True)
        names = set(flatten_dict(msgpack_restore((tmp_path / "net.msgpack").read_bytes()), sep="/"))
        assert expected <= names and len(names) == 6
