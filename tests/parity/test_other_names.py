"""Files with the names and shapes of libraries that build upon the frameworks, and of older versions of these."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from safetensors.numpy import save_file

import converter
from tests.parity.sides import Array


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).uniform(0.1, 0.9, shape).astype(np.float32)


def saved(tensors: Mapping[str, Array], path: Path) -> Path:
    np.savez(path, **tensors)
    return path


def of_torch(net: torch.nn.Module, x: Array) -> Array:
    with torch.no_grad():
        found: Any = net.eval()(torch.tensor(x))
    return np.asarray(found[0] if isinstance(found, tuple) else found)


# --- Haiku: names, shapes and functions of dm-haiku 0.0.16 (haiku/_src/basic.py, conv.py, batch_norm.py, recurrent.py)


HAIKU: dict[str, tuple[dict[str, Array], torch.nn.Module]] = {
    "linear": (
        {"mlp/~/linear_0/w": random(3, 4), "mlp/~/linear_0/b": random(4)},
        torch.nn.ModuleDict({"mlp": torch.nn.ModuleDict({"linear_0": torch.nn.Linear(3, 4)})}),
    ),
    "square, with names of the user's": (
        {"net/~/fc/w": random(4, 4)},
        torch.nn.ModuleDict({"fc": torch.nn.Linear(4, 4, bias=False)}),
    ),
    "conv2_d": (
        {"conv2_d/w": random(3, 3, 2, 5), "conv2_d/b": random(5)},
        torch.nn.ModuleDict({"conv2_d": torch.nn.Conv2d(2, 5, 3)}),
    ),
    "embed": ({"embed/embeddings": random(7, 4)}, torch.nn.ModuleDict({"embed": torch.nn.Embedding(7, 4)})),
    "layer_norm": (
        {"block/~/layer_norm/scale": random(4), "block/~/layer_norm/offset": random(4, seed=1)},
        torch.nn.ModuleDict({"layer_norm": torch.nn.LayerNorm(4)}),
    ),
    "batch_norm": (
        {
            "net/~/embed/embeddings": random(6, 4),
            "batch_norm/scale": random(1, 1, 1, 4),
            "batch_norm/offset": random(1, 1, 1, 4, seed=1),
            **{
                f"batch_norm/~/{name}_ema/{leaf}": random(1, 1, 1, 4, seed=seed)
                for seed, (name, leaf) in enumerate([("mean", "average"), ("var", "average"), ("var", "hidden")], 2)
            },
            "batch_norm/~/var_ema/counter": np.array(3, np.int32),
        },
        torch.nn.ModuleDict({"embed": torch.nn.Embedding(6, 4), "norm": torch.nn.BatchNorm2d(4)}),
    ),
    "lstm": ({"lstm/linear/w": random(8, 20), "lstm/linear/b": random(20)}, torch.nn.LSTM(3, 5, batch_first=True)),
}


def function_of_haiku(name: str, tensors: Mapping[str, Array], x: Array) -> Any:
    held = {key.rpartition("/")[2]: value for key, value in tensors.items()}
    if name == "embed":
        return held["embeddings"][x]
    if name == "conv2_d":
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, held["w"], (1, 1), "VALID", dimension_numbers=dimensions) + held["b"]
    if name == "layer_norm":
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-5) * held["scale"] + held["offset"]
    if name == "batch_norm":
        mean, variance = (tensors[f"batch_norm/~/{which}_ema/average"] for which in ("mean", "var"))
        return (x - mean) / np.sqrt(variance + 1e-5) * held["scale"] + held["offset"]
    if name == "lstm":
        hidden = cell = jnp.zeros((len(x), 5))
        outputs = []
        for step in range(x.shape[1]):
            i, g, f, o = jnp.split(jnp.concatenate([x[:, step], hidden], -1) @ held["w"] + held["b"], 4, -1)
            cell = jax.nn.sigmoid(f + 1) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
            outputs.append(hidden)
        return jnp.stack(outputs, 1)
    return x @ held["w"] + held.get("b", 0)


@pytest.mark.parametrize("name", HAIKU)
def test_haiku(tmp_path: Path, name: str) -> None:
    tensors, net = HAIKU[name]
    source = saved(tensors, tmp_path / "haiku.npz")
    with converter.open(source) as opened:
        assert opened.framework == "flax"
    converter.load_into(net, source)
    inner = next(layer for layer in reversed(list(net.modules())) if list(layer.parameters(recurse=False)))
    x = np.array([[1, 2], [0, 3]]) if name == "embed" else random(2, 6, 6, {"conv2_d": 2, "linear": 3}.get(name, 4))
    x = random(2, 6, 3) if name == "lstm" else x
    turned = x.ndim == 4 and name in ("conv2_d", "batch_norm")
    found = of_torch(inner, np.moveaxis(x, -1, 1) if turned else x)
    found = np.moveaxis(found, 1, -1) if turned else found
    np.testing.assert_allclose(found, np.asarray(function_of_haiku(name, tensors, x)), rtol=1e-5, atol=1e-5)


def test_a_clone_of_haiku_keeps_its_shapes(tmp_path: Path) -> None:
    tensors, net = HAIKU["batch_norm"]
    torch.save(net.state_dict(), tmp_path / "net.pt")
    clone = saved({name: value * 0 for name, value in tensors.items()}, tmp_path / "clone.npz")
    converter.convert("torch->flax", tmp_path / "net.pt", tmp_path / "m.npz", like=clone)
    with converter.open(tmp_path / "m.npz") as made:
        np.testing.assert_array_equal(made["batch_norm/scale"].ravel(), net["norm"].weight.detach().numpy())
        assert made["batch_norm/~/mean_ema/average"].shape == (1, 1, 1, 4)


# --- PyTorch's names, with other shapes or older words


def test_the_bias_of_a_convolution_of_equinox(tmp_path: Path) -> None:
    """equinox/nn/_conv.py: ``bias`` is (out, 1, 1), for it is added to what has no batch."""
    tensors = {"conv.weight": random(5, 2, 3, 3), "conv.bias": random(5, 1, 1)}
    save_file(tensors, tmp_path / "eqx.safetensors")
    net = torch.nn.ModuleDict({"conv": torch.nn.Conv2d(2, 5, 3)})
    converter.load_into(net, tmp_path / "eqx.safetensors")
    x = random(2, 2, 6, 6)
    dimensions = ("NCHW", "OIHW", "NCHW")
    expected = jax.lax.conv_general_dilated(x, tensors["conv.weight"], (1, 1), "VALID", dimension_numbers=dimensions)
    found = of_torch(net["conv"], x)
    np.testing.assert_allclose(found, np.asarray(expected) + tensors["conv.bias"], rtol=1e-5, atol=1e-5)
    with converter.plan(tmp_path / "eqx.safetensors", to="flax") as plan:
        assert {step.target.shape for step in plan.tensors.steps} == {(5,), (3, 3, 2, 5)}


def test_gamma_and_beta_of_old_files_of_bert(tmp_path: Path) -> None:
    tensors = {"LayerNorm.gamma": random(4), "LayerNorm.beta": random(4, seed=1), "scale.gamma": random(4)}
    save_file(tensors, tmp_path / "old.safetensors")
    with converter.open(tmp_path / "old.safetensors", framework="torch") as source:
        kinds = {layer.path: layer.kind for layer in source.layers}
    assert kinds == {"LayerNorm": "norm", "scale.gamma": "parameter"}
    net = torch.nn.ModuleDict({"LayerNorm": torch.nn.LayerNorm(4)})
    del tensors["scale.gamma"]
    save_file(tensors, tmp_path / "old.safetensors")
    converter.load_into(net, tmp_path / "old.safetensors")
    np.testing.assert_array_equal(net["LayerNorm"].weight.detach().numpy(), tensors["LayerNorm.gamma"])
    np.testing.assert_array_equal(net["LayerNorm"].bias.detach().numpy(), tensors["LayerNorm.beta"])


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"])
def test_wrappers_anywhere_in_a_name(tmp_path: Path, wrapper: str) -> None:
    """All layers are alike, so that nothing but their names tells them apart."""
    names = [f"blocks.{i}.{layer}" for i in range(2) for layer in "qk"]
    net = {f"{name}.weight": random(4, 4, seed=seed) for seed, name in enumerate(names)}
    inside = {f"{wrapper}.{name.replace('.q', f'.{wrapper}.q')}": value for name, value in net.items()}
    save_file(inside, tmp_path / "wrapped.safetensors")
    save_file({name: value * 0 for name, value in net.items()}, tmp_path / "clone.safetensors")
    source, clone = tmp_path / "wrapped.safetensors", tmp_path / "clone.safetensors"
    converter.convert("torch->torch", source, tmp_path / "m.safetensors", like=clone, strict=True)
    with converter.open(tmp_path / "m.safetensors") as made:
        assert all(np.array_equal(made[name], value) for name, value in net.items())
    if wrapper != "module":
        kind = {"*": "linear"}
        with converter.plan(source, to="flax", strip=[wrapper], kind=kind) as plan:
            targets = {step.target.name for step in plan.tensors.steps}
        assert targets == {f"params/{name.replace('.', '/')}/kernel" for name in names}


# --- TensorFlow: variables that no attribute leads to


@pytest.mark.parametrize("how", ["export", "list"])
def test_variables_in_lists_have_the_names_of_the_program(tmp_path: Path, how: str) -> None:
    """``variables/0`` of `model.export` of Keras 3, which has each variable twice; the object graph names it."""
    layers = [keras.layers.Dense(4, name="first"), keras.layers.BatchNormalization(epsilon=1e-5, name="norm")]
    net = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(4, name="last")])
    rng = np.random.default_rng(0)
    net.set_weights([rng.uniform(0.1, 0.9, value.shape).astype("f") for value in net.get_weights()])
    if how == "export":
        net.export(tmp_path / "net", verbose=False)
    else:
        tf.train.Checkpoint(weights=net.variables).write(str(tmp_path / "net"))
    clone = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4)).eval()
    converter.load_into(clone, tmp_path / "net")
    x = rng.normal(size=(5, 3)).astype("f")
    with torch.no_grad():
        np.testing.assert_allclose(clone(torch.tensor(x)).numpy(), np.asarray(net(x)), rtol=1e-5, atol=1e-5)
