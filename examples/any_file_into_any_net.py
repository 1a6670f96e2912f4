"""Any file into any net: one net as three authors wrote it, with names that have nothing in common.

What files leave open (is a square kernel that of a convolution? what is flattened? which layer is which?) the live nets
tell, when they get an example input. `converter.verify` then runs both and shows that it is right.
"""

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import torch
from flax import linen
from torch import nn

import converter


class TorchNet(nn.Module):
    """Layers without a shape yet, defined in another order than they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.LazyLinear(5)
        self.body = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.LazyConv2d(8, 3), nn.ReLU(), nn.MaxPool2d(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).flatten(1))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        for name in ("stem", "trunk"):
            x = linen.relu(linen.Conv(8, (3, 3), padding="VALID", name=name)(x))
        x = linen.max_pool(x, (2, 2), (2, 2))
        return linen.Dense(5, name="classifier")(x.reshape((len(x), -1)))


def keras_net() -> keras.Model:
    layers = keras.layers
    first, second = layers.Conv2D(8, 3, activation="relu", name="one"), layers.Conv2D(8, 3, activation="relu")
    return keras.Sequential([first, second, layers.MaxPool2D(), layers.Flatten(), layers.Dense(5)])


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    images = np.random.default_rng(0).normal(size=(2, 3, 12, 12)).astype(np.float32)
    channels_last = np.moveaxis(images, 1, -1)

    # A file of the first author: a PyTorch net, saved as Flax saves its own
    torch_net = TorchNet()
    torch_net(torch.tensor(images))
    report = converter.save(torch_net, folder / "net.msgpack", example_input=images)
    print("\n".join(line for line in str(report).splitlines() if line.startswith("flatten")))

    # ... into the net of the second, which has no variables yet
    module, variables = converter.load_into(LinenNet(), folder / "net.msgpack", example_input=channels_last)
    print("PyTorch, Flax:", "equal" if converter.verify(torch_net, (module, variables), images).ok else "different")

    # ... from there into that of the third, without a file in between
    keras_clone = converter.load_into(keras_net(), (module, variables), example_input=channels_last)
    found = converter.verify((module, variables), keras_clone, channels_last)
    print("Flax, Keras:", "equal" if found.ok else "different")

    # And back into the first, from a file of Keras
    keras_clone.save_weights(folder / "net.weights.h5")
    again = converter.load_into(TorchNet(), folder / "net.weights.h5", example_input=images)
    assert torch.equal(again.head.weight, torch_net.head.weight)
    found = converter.verify(again, keras_clone, images)
    print("Keras, PyTorch:", "equal" if found.ok else "different")

    # One other weight is found in its layer
    with torch.no_grad():
        again.body[2].bias[3] += 0.1
    print("the first layer that differs:", converter.verify(again, keras_clone, images).first.a)


if __name__ == "__main__":
    main()
