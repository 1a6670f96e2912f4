"""Linear layers that take or give several axes: `DenseGeneral` of Flax and `EinsumDense` of Keras, both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np
import pytest
from flax import linen
from flax.serialization import from_bytes, to_bytes

import converter

IN, OUT = (2, 3, 4), (5, 6, 7)


def random(tree: Any) -> Any:
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), tree)


def of_keras(inputs: int, outputs: int) -> Any:
    taken, given = "bcd"[:inputs], "xyz"[:outputs]
    equation = f"a{taken},{taken}{given}->a{given}"
    x = keras.Input(IN[:inputs])
    return keras.Model(x, keras.layers.EinsumDense(equation, OUT[:outputs], bias_axes=given, name="dense")(x))


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 3), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3)])
def test_there_and_back(tmp_path: Path, inputs: int, outputs: int) -> None:
    x = np.random.default_rng(2).normal(size=(2, *IN[:inputs])).astype(np.float32)
    module = linen.DenseGeneral(OUT[:outputs], axis=tuple(range(-inputs, 0)))
    variables = random(module.init(jax.random.key(0), x))
    variables = {"params": {"dense": variables["params"]}}
    (tmp_path / "source.msgpack").write_bytes(to_bytes(variables))
    of_keras(inputs, outputs).save_weights(tmp_path / "clone.weights.h5")
    result = tmp_path / "there.weights.h5"
    converter.convert("flax->keras", tmp_path / "source.msgpack", result, like=tmp_path / "clone.weights.h5")
    net = of_keras(inputs, outputs)
    net.load_weights(result)
    expected = np.asarray(module.apply({"params": variables["params"]["dense"]}, x))
    np.testing.assert_allclose(np.asarray(net(x)), expected, rtol=1e-5, atol=1e-5)
    converter.convert("keras->flax", result, tmp_path / "back.msgpack", like=tmp_path / "source.msgpack")
    back = from_bytes(variables, (tmp_path / "back.msgpack").read_bytes())
    jax.tree.map(np.testing.assert_array_equal, back, variables)
