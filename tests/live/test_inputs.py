"""Inputs in whatever way a net takes them: by position, by name, None for what is left out; each net in its own way."""

from __future__ import annotations

from typing import Any

import jax
import keras
import numpy as np
import pytest
import torch
from flax import linen, nnx
from mxnet.gluon import nn as gluon

import converter
from tests.live.test_example_input import forward
from tests.live.test_lockstep import assert_same, randomised
from tests.live.test_lockstep_layers import randomised_norm

SIZE, WORDS = 6, 9
TOKENS = np.random.default_rng(5).integers(0, WORDS, (4, 5)).astype(np.int32)
MASK = (np.arange(5) < 3 + np.arange(4)[:, None] % 3).astype(np.float32)


class Torch(torch.nn.Module):
    """Gives a dict, and one array more than the others."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(WORDS, SIZE)
        self.one, self.two = (torch.nn.Linear(SIZE, SIZE) for _ in range(2))

    def forward(self, tokens: Any, cache: Any = None, *, mask: Any) -> Any:
        assert cache is None
        hidden = torch.tanh(self.one(self.words(tokens)) * mask[..., None])
        return {"kept": hidden[:, :2], "last": self.two(hidden), "scale": torch.tensor(3.0)}


class TorchByPosition(Torch):
    def forward(self, tokens: Any, cache: Any, mask: Any) -> Any:
        return super().forward(tokens, cache, mask=mask)


def functional() -> Any:
    """Takes a dict as its only argument."""
    tokens, mask = keras.Input((5,), dtype="int32", name="token_ids"), keras.Input((5,), name="padding_mask")
    hidden = keras.layers.Dense(SIZE)(keras.layers.Embedding(WORDS, SIZE)(tokens))
    hidden = keras.ops.tanh(hidden * keras.ops.expand_dims(mask, -1))
    return keras.Model({"token_ids": tokens, "padding_mask": mask}, {"out": keras.layers.Dense(SIZE)(hidden)})


class KerasByName(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.table = keras.layers.Embedding(WORDS, SIZE)
        self.a, self.b = (keras.layers.Dense(SIZE) for _ in range(2))

    def call(self, tokens: Any, mask: Any = None) -> Any:
        return self.b(keras.ops.tanh(self.a(self.table(tokens)) * mask[..., None]))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, tokens: Any, mask: Any, deterministic: bool) -> Any:
        assert deterministic
        hidden = linen.Dense(SIZE, name="y")(linen.Embed(WORDS, SIZE, name="z")(tokens))
        return linen.Dense(SIZE, name="x")(jax.numpy.tanh(hidden * mask[..., None]))


class Nnx(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.z = nnx.Embed(WORDS, SIZE, rngs=rngs)
        self.y, self.x = (nnx.Linear(SIZE, SIZE, rngs=rngs) for _ in range(2))

    def __call__(self, tokens: Any, mask: Any) -> Any:
        return self.x(jax.numpy.tanh(self.y(self.z(tokens)) * mask[..., None]))


class Gluon(gluon.HybridBlock):
    def __init__(self) -> None:
        super().__init__()
        self.z = gluon.Embedding(WORDS, SIZE)
        self.y, self.x = (gluon.Dense(SIZE, in_units=SIZE, flatten=False) for _ in range(2))
        self.initialize()

    def hybrid_forward(self, F: Any, tokens: Any, mask: Any) -> Any:  # noqa: N803
        return self.x(F.tanh(F.broadcast_mul(self.y(self.z(tokens)), F.expand_dims(mask, -1))))


def built() -> Any:
    net = KerasByName()
    net(TOKENS, mask=MASK)
    return net


BY_NAME = {"tokens": TOKENS, "mask": MASK}
CLONES = {
    "keras functional": (functional, {"token_ids": TOKENS, "padding_mask": MASK}),
    "keras": (built, BY_NAME),
    "linen": (Linen, BY_NAME),
    "linen, by position": (Linen, (TOKENS, MASK)),
    "nnx": (Nnx, BY_NAME),
    "gluon": (Gluon, (TOKENS, MASK)),
    "torch": (TorchByPosition, (TOKENS, None, MASK)),
}


@pytest.mark.parametrize("clone", CLONES)
def test_each_net_takes_its_own_inputs(clone: str) -> None:
    make, inputs = CLONES[clone]
    net = randomised(Torch())
    filled = converter.load_into(make(), net, example_input=inputs, source_input=BY_NAME)
    back = converter.load_into(Torch(), filled, example_input=BY_NAME, source_input=inputs)
    expected = net(*map(torch.tensor, (TOKENS,)), mask=torch.tensor(MASK))["last"].detach().numpy()
    given = back(torch.tensor(TOKENS), mask=torch.tensor(MASK))["last"].detach().numpy()
    assert_same(given, expected)


def test_what_no_net_takes_is_said() -> None:
    net = randomised(Torch())
    with pytest.raises(converter.ConversionError, match=r"does not run on tokens: int32 \(4, 5\), masks: None: "):
        converter.load_into(Torch(), net, example_input={"tokens": TOKENS, "masks": None}, source_input=BY_NAME)
    with pytest.raises(converter.ConversionError, match="gluon calls its blocks by position: give"):
        converter.load_into(Gluon(), net, example_input=BY_NAME)


def test_an_input_of_a_source_that_is_a_file(tmp_path: Any) -> None:
    net = Torch()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    with pytest.raises(converter.ConversionError, match="this is for a live source, and it is a file"):
        converter.load_into(net, tmp_path / "net.pt", source_input=BY_NAME)


def test_inputs_by_name_are_verified() -> None:
    net, clone = randomised(Torch()), randomised(TorchByPosition())
    clone.load_state_dict(net.state_dict())
    assert converter.verify(net, clone, BY_NAME, x_b=(TOKENS, None, MASK)).ok


class One(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Linear(SIZE, SIZE)

    def forward(self, x: Any) -> Any:
        return {"logits": self.one(x)}


class Two(One):
    """Gives something else beside what it keeps."""

    def forward(self, x: Any) -> Any:
        return {"last": torch.tanh(self.one(x)), "kept": x}


def test_an_output_that_the_other_net_does_not_give() -> None:
    net, x = randomised(One()), np.random.default_rng(3).normal(size=(4, SIZE)).astype(np.float32)
    assert not converter.verify(net, Two(), x).ok
    clone = converter.load_into(TwoAlike(), net, example_input=x)
    assert_same(clone.one.weight.detach().numpy(), net.one.weight.detach().numpy())


class TwoAlike(One):
    def forward(self, x: Any) -> Any:
        return {"kept": x, "last": self.one(x)}


class NoOutput(torch.nn.Linear):
    def forward(self, x: Any) -> Any:
        return torch.tensor(1.0), super().forward(x).sum()


def test_no_outputs_to_compare_are_said() -> None:
    with pytest.raises(converter.ConversionError, match="a gives 1 arrays and b 2; they cannot be compared"):
        converter.verify(torch.nn.Linear(5, 4), NoOutput(5, 4), np.ones((1, 5), np.float32))


# -- channels -------------------------------------------------------------------------------------------------------


class Pooling(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.out = torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 4)

    def forward(self, x: Any) -> Any:
        return self.out(torch.tanh(self.norm(x)).mean((2, 3)))


def keras_pooling(data_format: str) -> Any:
    """Without a GPU TensorFlow has no convolutions of channels first, but for those of oneDNN."""
    is_first = data_format == "channels_first"
    image = keras.Input((3, 9, 8) if is_first else (9, 8, 3))
    x = keras.ops.tanh(keras.layers.BatchNormalization(1 if is_first else -1, epsilon=1e-5)(image))
    return keras.Model(image, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D(data_format)(x)))


def test_a_keras_net_with_its_channels_first() -> None:
    first = np.random.default_rng(6).normal(size=(3, 3, 9, 8)).astype(np.float32)
    last = np.ascontiguousarray(np.moveaxis(first, 1, -1))
    net = converter.load_into(Pooling(), randomised_norm(keras_pooling("channels_last")), example_input=first)
    clone = converter.load_into(keras_pooling("channels_first"), net.eval(), example_input=first)
    assert_same(forward(clone, first), forward(net, first))
    assert_same(forward(converter.load_into(Pooling().eval(), clone, example_input=first), first), forward(net, first))
    other = converter.load_into(keras_pooling("channels_last"), clone, example_input=last)
    assert_same(forward(other, last), forward(net, first))
    assert converter.verify(clone, net, first).ok and converter.verify(other, clone, last).ok
