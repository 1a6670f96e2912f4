"""`converter.save`: live nets in any format, loaded strictly by real frameworks; and `--like package.module:Net`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import keras
import mxnet
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch

import converter
from tests.chapter import (
    INPUTS,
    SIDES,
    FlaxMLP,
    GluonMLP,
    KerasMLP,
    TorchMLP,
    example_input,
    random_weights,
)
from tests.command import ok, refused
from tests.live.nets import TfKerasMLP, built, keras_functional, keras_sequential
from tests.live.test_example_input import forward, randomised
from tests.parity.chains import chain, normal
from tests.parity.conv_cases import conv, transposed
from tests.parity.flatten_cases import row
from tests.parity.graphs import linear, norm
from tests.parity.mixed_cases import CASES as MIXED
from tests.parity.sequence_cases import CASES as SEQUENCES
from tests.parity.sides import SIDES as FLAVOURS
from tests.parity.sides import Case, Linen, assert_same, every, one_of
from tests.parity.transformer_cases import CASES as TRANSFORMERS


def as_given(net: Any) -> Any:
    return (net.module, net.variables) if isinstance(net, Linen) else net


def own(case: Case) -> list[tuple[str, str]]:
    return [(flavour, flavour) for flavour in case.nets]


def across(case: Case) -> list[tuple[str, str]]:
    flavours = list(case.nets)
    return list(zip(flavours, flavours[1:] + flavours[:1], strict=True))


@pytest.mark.parametrize(
    ("case", "source", "target"),
    one_of(3, every([*MIXED, *SEQUENCES, *TRANSFORMERS], lambda case: own(case) + across(case))),
)
def test_a_live_net_is_saved_as_a_file_of_any_framework(case: Case, source: str, target: str, tmp_path: Path) -> None:
    """Into its own framework's format with nothing said; into another's like a live clone."""
    net, path = case.random(source, 1, target), tmp_path / f"net{FLAVOURS[target].ending}"
    if source == target:
        converter.save(as_given(net), path)
    else:
        clone = as_given(case.random(target, 2))
        converter.save(as_given(net), path, to=FLAVOURS[target].framework, like=clone)
    found = case.run(target, FLAVOURS[target].load(case.fresh(target), path))
    assert_same(found, case.run(source, net), case.tolerance)


# -- formats --------------------------------------------------------------------------------------------------------


def mlp() -> TorchMLP:
    return SIDES["torch"].make(random_weights(7))


def from_torch(path: Path) -> np.ndarray:
    net = TorchMLP()
    net.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return forward(net, example_input())


def from_flax(path: Path) -> np.ndarray:
    tree = FlaxMLP().init(jax.random.PRNGKey(0), jnp.ones((1, INPUTS)))
    return forward((FlaxMLP(), flax.serialization.from_bytes(tree, path.read_bytes())), example_input())


def from_mxnet(path: Path) -> np.ndarray:
    net = GluonMLP()
    net.load_parameters(str(path))
    return forward(net, example_input())


@pytest.mark.parametrize(
    ("name", "load"),
    [("x.pt", from_torch), ("x.legacy.pt", from_torch), ("x.msgpack", from_flax), ("x.params", from_mxnet)],
)
def test_the_ending_says_whose_file_it_becomes(name: str, load: Any, tmp_path: Path) -> None:
    net = mlp()
    report = converter.save(net, tmp_path / name)
    np.testing.assert_allclose(load(tmp_path / name), forward(net, example_input()), rtol=1e-5, atol=1e-6)
    assert report.source == "TorchMLP" and report.source_format == "live net"


def test_safetensors_are_neutral_unless_the_user_says_so(tmp_path: Path) -> None:
    converter.save(mlp(), tmp_path / "neutral.safetensors")
    converter.save(mlp(), tmp_path / "torch.safetensors", to="torch")
    with (
        converter.read(tmp_path / "neutral.safetensors") as neutral,
        converter.read(tmp_path / "torch.safetensors") as t,
    ):
        assert (neutral.framework, neutral.origin, t.framework) == ("neutral", "torch", "torch")
        assert np.array_equal(neutral["hidden.weight"], t["hidden.weight"])
    back = converter.load_into(TorchMLP(), tmp_path / "neutral.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), mlp().state_dict().values(), strict=True))


def filled(net: Any) -> Any:
    rng = np.random.default_rng(5)
    net.set_weights([rng.normal(size=w.shape).astype(np.float32) for w in net.get_weights()])
    return net


KERAS = {
    "subclassed": lambda: built(KerasMLP()),
    "sequential": keras_sequential,
    "functional": keras_functional,
    "tf_keras": lambda: built(TfKerasMLP()),
}


def restored(made: str, ending: str, path: Path) -> Any:
    """What the library itself makes of the file."""
    library = tf_keras if made == "tf_keras" else keras
    if ending == ".keras":
        return library.models.load_model(path, custom_objects={"TfKerasMLP": TfKerasMLP})
    net = KERAS[made]()
    if ending == ".ckpt" and library is keras:
        tf.train.Checkpoint(model=net).restore(str(path)).assert_existing_objects_matched()
    else:
        net.load_weights(str(path))
    return net


@pytest.mark.parametrize("ending", [".weights.h5", ".h5", ".keras", ".ckpt"])
@pytest.mark.parametrize("made", KERAS)
def test_keras_loads_each_of_its_formats(made: str, ending: str, tmp_path: Path) -> None:
    if (made, ending) == ("subclassed", ".keras"):
        made = "functional"  # Keras itself makes no subclassed net again that has no config
    net, x, path = filled(KERAS[made]()), example_input(), tmp_path / f"net{ending}"
    before = [w.copy() for w in net.get_weights()]
    converter.save(net, path, to="tensorflow")
    assert all(np.array_equal(a, b) for a, b in zip(before, net.get_weights(), strict=True)), "the net is as it was"
    np.testing.assert_array_equal(np.asarray(restored(made, ending, path)(x)), np.asarray(net(x)))


def test_shards_and_dtypes(tmp_path: Path) -> None:
    converter.save(mlp(), tmp_path / "x.safetensors", max_shard_size="8KB", dtype="float16")
    with converter.read(tmp_path / "x.safetensors.index.json") as weights:
        assert {array.dtype.name for array in weights.values()} == {"float16"}


def test_an_output_that_exists_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_text("mine")
    with pytest.raises(converter.ConversionError, match="exists already"):
        converter.save(mlp(), tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_text() == "mine"
    converter.save(mlp(), tmp_path / "x.pt", force=True)
    assert from_torch(tmp_path / "x.pt").shape == (4, 10)


# -- a clone by its name in the user's code -------------------------------------------------------------------------

CODE = """
import flax.linen, keras, torch
from mxnet.gluon import nn

class Torch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = torch.nn.LazyConv2d(4, 3), torch.nn.LazyLinear(5)
    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).flatten(1))

class Linen(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        x = flax.linen.relu(flax.linen.Conv(4, (3, 3), padding="VALID", name="conv")(x))
        return flax.linen.Dense(5, name="fc")(x.reshape(len(x), -1))

class Keras(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv, self.out = keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Dense(5)
        self.flatten = keras.layers.Flatten()
    def call(self, x):
        return self.out(self.flatten(self.conv(x)))

class Gluon(nn.Block):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2D(4, 3, activation="relu"), nn.Dense(5)
    def forward(self, x):
        return self.fc(self.conv(x))

def factory():
    return Torch()

class nested:
    Net = Torch

def broken():
    raise ValueError("no such thing")

number = 42
"""
IMAGE = normal(2, 4, 5, 6)  # as many channels as the convolution gives: its kernel is square


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module ``mynets`` in the current folder, and what was in it."""
    (tmp_path / "mynets.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mynets", raising=False)
    import importlib

    found = importlib.import_module("mynets") if (sys.path.insert(0, str(tmp_path)) or True) else None
    yield found
    sys.modules.pop("mynets", None)


LIKE = {
    "flax": ("Linen", "2,5,6,4", "out.msgpack"),
    "tensorflow": ("Keras", "2,5,6,4", "out.weights.h5"),
    "mxnet": ("Gluon", "2,4,5,6", "out.params"),
    "torch": ("Torch", "2,4,5,6", "out.pt"),
}


def source(code: Any, folder: Path) -> torch.nn.Module:
    net = code.Torch()
    net(torch.tensor(IMAGE))
    torch.save(randomised(net).state_dict(), folder / "net.pt")
    return net


@pytest.mark.parametrize("target", LIKE)
def test_a_class_of_the_user_s_code_is_a_clone(
    target: str, code: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = source(code, tmp_path)
    name, shape, output = LIKE[target]
    ok(capsys, f"torch->{target}", "net.pt", "--like", f"mynets:{name}", "--example-input", shape, "-o", output)
    clone = getattr(code, name)()
    last = np.moveaxis(IMAGE, 1, -1)
    x = last if target in ("flax", "tensorflow") else IMAGE
    if target == "flax":
        tree = clone.init(jax.random.PRNGKey(1), x)
        found = forward((clone, flax.serialization.from_bytes(tree, (tmp_path / output).read_bytes())), x)
    elif target == "tensorflow":
        clone(x)
        clone.load_weights(tmp_path / output)
        found = forward(clone, x)
    elif target == "mxnet":
        clone.load_parameters(output)
        found = clone(mxnet.nd.array(x)).asnumpy()
    else:
        clone(torch.tensor(x))
        clone.load_state_dict(torch.load(output, weights_only=True), strict=True)
        found = forward(clone, x)
    np.testing.assert_allclose(found, forward(net, IMAGE), rtol=1e-4, atol=1e-5)


def test_a_factory_and_what_is_inside_of_a_class(code: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source(code, tmp_path)
    for i, name in enumerate(("factory", "nested.Net")):
        words = ("--like", f"mynets:{name}", "--example-input", "2,4,5,6", "-o", f"{i}.pt", "--json")
        report = json.loads(ok(capsys, "torch->torch", "net.pt", *words))
        assert len(report["tensors"]) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--like", "mynets:broken"), "mynets:broken: ValueError: no such thing"),
        (("--like", "mynets:Missing"), "mynets:Missing: AttributeError: module 'mynets' has no attribute 'Missing'"),
        (("--like", "nonets:Net"), "nonets:Net: ModuleNotFoundError: No module named 'nonets'"),
        (("--like", "mynets:number"), "mynets:number: TypeError: 'int' object is not callable"),
        (("--like", "mynets:Gluon", "--example-input", "2,4,5,6"), "a Gluon is a net of MXNet, not of flax"),
        (("--like", "mynets:Linen"), "a Flax linen module alone has no weights"),
        (
            ("--like", "mynets:Linen", "--example-input", "2x3"),
            "'2x3' is no example input. Give its shape, like 2,20",
        ),
        (("--like", "mynets:Linen", "--example-input", "2"), "the Flax net does not run on float32 (2,)"),
    ],
)
def test_what_goes_wrong_in_the_user_s_code_is_one_sentence(
    words: tuple[str, ...], message: str, code: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source(code, tmp_path)
    assert message in refused(capsys, "torch->flax", "net.pt", "-o", "x.msgpack", *words)
    assert not Path("x.msgpack").exists()


def test_shapes_alone_tell_no_square_kernel_and_the_class_does(
    code: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source(code, tmp_path)
    tree = code.Linen().init(jax.random.PRNGKey(1), np.moveaxis(IMAGE, 1, -1))
    (tmp_path / "like.msgpack").write_bytes(flax.serialization.to_bytes(tree))
    message = refused(capsys, "torch->flax", "net.pt", "-o", "x.msgpack", "--like", "like.msgpack", "--strict")
    assert "could be conv, conv_transpose or transpose_kernel" in message


def test_a_net_of_nothing_but_square_layers_needs_no_option(tmp_path: Path) -> None:
    """Conv, transposed conv, norm and linear of the same sizes: live nets on both sides tell all."""
    case = row("square", normal(2, 4, 7, 7), conv("a", 4, 4), norm("n", 4), "!flatten", linear("fc", 120, 4, flatten=4))
    up = chain("up", normal(2, 4, 5, 5), transposed("a", 4, 4), transposed("b", 4, 4))
    for each in (case, up):
        for source_flavour, target in (("torch", "linen"), ("linen", "gluon"), ("gluon", "nnx"), ("nnx", "torch")):
            net, clone = each.random(source_flavour, 1), each.random(target, 2)
            xs = [np.moveaxis(x, 1, -1) if FLAVOURS[target].last else x for x in each.inputs]
            loaded = converter.load_into(as_given(clone), as_given(net), example_input=xs)
            result = Linen(*loaded) if isinstance(clone, Linen) else loaded
            assert_same(each.run(target, result), each.run(source_flavour, net))
