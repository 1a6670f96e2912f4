"""Which numbered variable of a Keras optimizer is whose, and what stands before them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from tests.command import ok, refused

RATE = 0.5


def trained(net: Any, optimizer: Any, *inputs: Any, steps: int = 1) -> Any:
    net.compile(optimizer)
    keras.utils.set_random_seed(1)
    for _ in range(steps):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(net(*inputs) ** 2)
        variables = net.trainable_variables
        net.optimizer.apply(tape.gradient(loss, variables), variables)
    return net


def momenta(capsys: Any, net: Any, path: Path, *options: object) -> dict[str, Any]:
    """Neutral name -> the momentum in units of the gradient."""
    net.save(path) if path.suffix == ".keras" else net.save_weights(path)
    output = path.with_name("net.safetensors")
    ok(capsys, "keras->neutral", path, "-o", output, "--force", "--training", *options)
    held = safetensors.numpy.load_file(output)
    return {name.removeprefix("opt/momentum/"): value for name, value in held.items() if name.startswith("opt/")}


def slot(net: Any, variable: Any) -> Any:
    """The momentum as Keras itself finds it, by the variable."""
    return net.optimizer.momentums[net.optimizer._get_variable_index(variable)].numpy() / -RATE


def squares(*names: str, frozen: str = "") -> Any:
    layers = [keras.layers.Dense(4, name=name, trainable=name != frozen) for name in names]
    return keras.Sequential([keras.Input((4,)), *layers])


def right(net: Any, found: dict[str, Any]) -> None:
    for layer in net.layers:
        if layer.trainable:
            np.testing.assert_array_equal(found[f"{layer.name}.weight"].T, slot(net, layer.kernel))
            np.testing.assert_array_equal(found[f"{layer.name}.bias"], slot(net, layer.bias))


X = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")


def momentum() -> Any:
    return keras.optimizers.SGD(RATE, 0.9)


def test_the_order_of_the_layers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    net = trained(squares("z", "y", "a"), momentum(), X, steps=2)
    right(net, momenta(capsys, net, tmp_path / "net.keras", "--strict"))
    right(net, momenta(capsys, net, tmp_path / "net.weights.h5", "--hyper", "momentum=0.9"))


def test_weights_alone_are_no_proof(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trained(squares("z", "y"), momentum(), X).save_weights(tmp_path / "net.weights.h5")
    args = ("keras->neutral", tmp_path / "net.weights.h5", "-o", tmp_path / "n.safetensors", "--training")
    assert "nothing says which number is which" in refused(capsys, *args, "--strict", "--hyper", "momentum=0.9")


def test_frozen_layers_have_no_number(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    net = trained(squares("z", "y", "a", frozen="y"), momentum(), X)
    found = momenta(capsys, net, tmp_path / "net.keras", "--strict")
    right(net, found)
    assert "y.weight" not in found


def test_a_schedule_shifts_the_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(RATE, 10, 0.5)
    net = trained(squares("z", "y"), keras.optimizers.SGD(schedule, 0.9), X, steps=2)
    right(net, momenta(capsys, net, tmp_path / "net.keras", "--hyper", f"learning_rate={RATE}"))


def test_a_nested_model_stands_where_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    inner = squares("inside")
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="z"), inner, keras.layers.Dense(4, name="a")])
    found = momenta(capsys, trained(net, momentum(), X), tmp_path / "net.keras")
    for name, layer in (("z", net.layers[0]), ("inside", inner.layers[0]), ("a", net.layers[2])):
        (own,) = [key for key in found if key.endswith(f"{name}.weight")]
        np.testing.assert_array_equal(found[own].T, slot(net, layer.kernel))


def test_an_attention_is_not_in_the_order_of_its_groups(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """In the file they are key, output, query, value."""
    x = keras.Input((3, 4))
    net = keras.Model(x, keras.layers.MultiHeadAttention(2, 2, name="attend")(x, x))
    trained(net, momentum(), np.stack([X[:3]] * 2))
    found = momenta(capsys, net, tmp_path / "net.keras")
    attend = net.get_layer("attend")
    for name, dense in (("query", attend.query_dense), ("key", attend.key_dense), ("value", attend.value_dense)):
        ours = next(value for key, value in found.items() if name in key and value.ndim > 1)
        np.testing.assert_array_equal(np.sort(ours, None), np.sort(slot(net, dense.kernel), None))


@keras.saving.register_keras_serializable()
class Own(keras.Model):  # type: ignore[misc]
    def __init__(self, **others: Any) -> None:
        super().__init__(**others)
        self.second = keras.layers.Dense(4)
        self.first = keras.layers.Dense(4)

    def call(self, x: Any) -> Any:
        return self.first(self.second(x))


def test_a_class_of_ones_own_is_asked_about(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    net = Own()
    net(X)
    trained(net, momentum(), X)
    net.save_weights(tmp_path / "net.weights.h5")
    args = ("keras->neutral", tmp_path / "net.weights.h5", "-o", tmp_path / "n.safetensors", "--training")
    said = refused(capsys, *args, "--hyper", "momentum=0.9")
    assert "nothing says which number is which" in said and "--parameter-order FILE" in said
    order = tmp_path / "order.txt"
    order.write_text("\n".join(f"{layer}/vars/{number}" for layer in ("layers/dense", "first") for number in (0, 1)))
    ok(capsys, *args, "--hyper", "momentum=0.9", "--parameter-order", order)
    held = safetensors.numpy.load_file(tmp_path / "n.safetensors")
    np.testing.assert_array_equal(held["opt/momentum/dense.weight"].T, slot(net, net.second.kernel))


def test_half_accumulated_gradients_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    net = trained(squares("z"), keras.optimizers.SGD(RATE, 0.9, gradient_accumulation_steps=3), X, steps=4)
    net.save(tmp_path / "net.keras")
    args = ("keras->neutral", tmp_path / "net.keras", "-o", tmp_path / "n.safetensors", "--training")
    assert "1 of 3 gradients of an update are accumulated; save at one" in refused(capsys, *args)
