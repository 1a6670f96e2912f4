"""`converter.load_into`: live nets of every framework, filled from the files of every framework."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import converter
from tests.chapter import (
    SIDES,
    GluonMLP,
    KerasMLP,
    TorchMLP,
    example_input,
    flax_forward,
    flax_template,
    gluon_forward,
    keras_forward,
    random_weights,
    torch_forward,
)
from tests.live.nets import NnxMLP, TfKerasMLP, built, keras_functional, keras_sequential, seen_gluon

#: A fresh net of each sort, and how it is run.
NETS = {
    "torch": (TorchMLP, torch_forward),
    "keras subclassed": (lambda: built(KerasMLP()), keras_forward),
    "keras sequential": (keras_sequential, keras_forward),
    "keras functional": (keras_functional, keras_forward),
    "tf_keras": (lambda: built(TfKerasMLP()), keras_forward),
    "linen": (flax_template, flax_forward),
    "linen frozen": (lambda: flax.core.freeze(flax_template()), flax_forward),
    "nnx": (lambda: NnxMLP(nnx.Rngs(0)), lambda net, x: np.asarray(net(jnp.asarray(x)))),
    "gluon": (seen_gluon, gluon_forward),
    "gluon that saw no input": (GluonMLP, gluon_forward),
}


@pytest.mark.parametrize("source", SIDES)
@pytest.mark.parametrize("net", NETS)
def test_any_file_into_any_live_net(tmp_path: Path, net: str, source: str) -> None:
    weights, x = random_weights(1), example_input()
    original = SIDES[source].make(weights)
    path = tmp_path / SIDES[source].file
    SIDES[source].save(original, path)
    make, forward = NETS[net]
    clone = converter.load_into(make(), path, schema="mlp")
    expected = SIDES[source].forward(original, x)
    np.testing.assert_allclose(forward(clone, x), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("net", NETS)
def test_names_differ_and_shapes_settle_it(tmp_path: Path, net: str) -> None:
    path = tmp_path / "mlp.params"
    SIDES["torch"].save(SIDES["torch"].make(random_weights(2)), path)
    make, forward = NETS[net]
    x = example_input()
    expected = torch_forward(SIDES["torch"].make(random_weights(2)), x)
    found = forward(converter.load_into(make(), path), x)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_the_net_is_changed_in_place_and_a_tree_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "mlp.params"
    SIDES["torch"].save(SIDES["torch"].make(random_weights(3)), path)
    net, tree = TorchMLP(), flax_template()
    before = jax.tree.map(np.asarray, tree)
    assert converter.load_into(net, path) is net
    new = converter.load_into(tree, path)
    assert jax.tree.structure(new) == jax.tree.structure(tree)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, tree, before)))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(new))


def test_a_refused_file_leaves_the_net_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "mlp.params"
    SIDES["torch"].save(SIDES["torch"].make(random_weights(3)), path)
    net = TorchMLP(inputs=30)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(converter.MatchError, match=r"Is the input size of the clone 30\?"):
        converter.load_into(net, path)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def values_of(net: Any) -> list[bytes]:
    """The bytes of every tensor of a live net of any sort."""
    if isinstance(net, torch.nn.Module):
        return [value.numpy().tobytes() for value in net.state_dict().values()]
    if isinstance(net, nnx.Module):
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(nnx.state(net, nnx.Param))]
    if hasattr(net, "collect_params"):
        return [value.data().asnumpy().tobytes() for value in net.collect_params().values()]
    weights = net.weights if hasattr(net, "weights") else jax.tree.leaves(net)
    return [np.asarray(leaf).tobytes() for leaf in weights]


@pytest.mark.parametrize("net", [net for net in NETS if net != "gluon that saw no input"])
@pytest.mark.parametrize("last", ["hidden", "output"])
def test_a_file_that_is_damaged_in_one_tensor_leaves_the_net_as_it_was(tmp_path: Path, net: str, last: str) -> None:
    path, whole = tmp_path / "mlp.safetensors", tmp_path / "mlp.params"
    SIDES["torch"].save(SIDES["torch"].make(random_weights(4)), whole)
    converter.convert("torch->torch", whole, path, schema="mlp")
    data = bytearray(path.read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    end = header[f"{last}.weight"]["data_offsets"][1]
    data[8 + int.from_bytes(data[:8], "little") + end - 1] ^= 1
    path.write_bytes(data)
    filled = NETS[net][0]()
    before = values_of(filled)
    with pytest.raises(converter.FormatError, match=f"the data of '{last}.weight' was changed"):
        converter.load_into(filled, path, schema="mlp")
    assert len(before) == 4 and values_of(filled) == before
    converter.load_into(filled, path, schema="mlp", checksums=False)  # the file holds what the net takes


def test_every_dtype_of_torch_is_filled_bit_for_bit(tmp_path: Path) -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2):
        net, clone = TorchMLP().to(dtype), TorchMLP().to(dtype)
        torch.save(net.state_dict(), tmp_path / "net.pt")
        converter.load_into(clone, tmp_path / "net.pt")
        for name, value in clone.state_dict().items():
            assert value.view(torch.uint8).equal(net.state_dict()[name].view(torch.uint8)), (dtype, name)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (KerasMLP, "has no variables yet. Build it first: call it once on an example input"),
        (lambda: torch.nn.Sequential(torch.nn.LazyLinear(3)), "'0.weight' of the net has no shape yet"),
        (lambda: 42, "a builtins.int is not a live net of a known framework: expected a torch.nn.Module"),
    ],
)
def test_what_is_no_net_or_not_built_is_said(tmp_path: Path, net: Any, message: str) -> None:
    path = tmp_path / "mlp.params"
    SIDES["torch"].save(SIDES["torch"].make(random_weights(3)), path)
    with pytest.raises(converter.ConversionError) as error:
        converter.load_into(net(), path)
    assert message in str(error.value)
