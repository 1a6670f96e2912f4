"""File I/O in TensorFlow (Dive into Deep Learning, 6.6), and the files of the three other frameworks in its clone."""

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import converter

HERE = Path(__file__).parent


class MLP(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.flatten = keras.layers.Flatten()
        self.hidden = keras.layers.Dense(units=256, activation="relu")
        self.out = keras.layers.Dense(units=10)

    def call(self, inputs: Any) -> Any:
        x = self.flatten(inputs)
        x = self.hidden(x)
        return self.out(x)


def built() -> MLP:
    """A fresh clone: Keras makes the variables when it sees the first input."""
    net = MLP()
    net(tf.zeros((2, 20)))
    return net


def main() -> None:
    folder = Path(tempfile.mkdtemp())

    # Loading and saving tensors
    x = tf.range(4)
    np.save(folder / "x-file.npy", x)
    assert np.array_equal(np.load(folder / "x-file.npy", allow_pickle=True), x)
    y = tf.zeros(4)
    np.save(folder / "xy-files.npy", [x, y])
    x2, y2 = np.load(folder / "xy-files.npy", allow_pickle=True)
    assert np.array_equal(x2, x) and np.array_equal(y2, y)
    np.save(folder / "mydict.npy", {"x": x, "y": y})
    assert np.array_equal(np.load(folder / "mydict.npy", allow_pickle=True).item()["x"], x)

    # The same files without TensorFlow, and without running the pickle inside of them
    assert converter.read(folder / "x-file.npy")["0"].tolist() == [0, 1, 2, 3]
    assert converter.read(folder / "mydict.npy")["x"].tolist() == [0, 1, 2, 3]

    # Loading and saving model parameters
    net = built()
    net.load_weights(HERE / "mlp.weights.h5")
    X = tf.random.uniform((2, 20))
    Y = net(X)
    net.save_weights(folder / "mlp.weights.h5")
    clone = built()
    clone.load_weights(folder / "mlp.weights.h5")
    assert np.array_equal(clone(X), Y)

    # The same net as the other frameworks saved it, in a clone of this one
    for file in ("mlp.params", "mlp.msgpack", "mlp-mxnet.params"):
        clone = converter.load_into(built(), HERE / file, schema="mlp")
        np.testing.assert_allclose(clone(X), Y, rtol=1e-6, atol=1e-6)
        print(f"{file}: Y_clone == Y")

    # ... or as a file that Keras loads by itself
    converter.convert("torch->tensorflow", HERE / "mlp.params", folder / "from_torch.weights.h5", schema="mlp")
    clone = built()
    clone.load_weights(folder / "from_torch.weights.h5")
    assert np.array_equal(clone(X), Y)


if __name__ == "__main__":
    main()
