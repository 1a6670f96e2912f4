"""Exercise 3 of File I/O (Dive into Deep Learning, 6.6): the architecture of a net is saved beside its weights.

The file alone then becomes the net that it was, in any of the four frameworks, and code of one's own.
"""

import runpy
import tempfile
from pathlib import Path

import flax.serialization
import keras
import numpy as np
import torch
from torch import nn

import converter

import converter.mxnet_numpy2  # isort: skip
import mxnet


class MLP(nn.Module):
    """As in the chapter."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(20, 256)
        self.output = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(nn.functional.relu(self.hidden(x)))


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    net = MLP()
    X = np.random.default_rng(0).normal(size=(2, 20)).astype(np.float32)
    Y = net(torch.tensor(X)).detach().numpy()

    # What the net computes is data, and goes into the file.
    architecture = converter.architecture(net, example_input=X)
    print(architecture)
    converter.save(net, folder / "mlp.safetensors", architecture=architecture)

    # The file alone is a net in every framework.
    clone = converter.build(folder / "mlp.safetensors", "torch")
    assert np.array_equal(clone(torch.tensor(X)).detach().numpy(), Y)
    print("PyTorch: Y_clone == Y")
    clone = converter.build(folder / "mlp.safetensors", "tensorflow")
    assert np.allclose(keras.ops.convert_to_numpy(clone(X)), Y, rtol=1e-5, atol=1e-5)
    print("Keras: Y_clone == Y")
    module, variables = converter.build(folder / "mlp.safetensors", "flax")
    assert np.allclose(module.apply(variables, X), Y, rtol=1e-5, atol=1e-5)
    print("Flax: Y_clone == Y")
    clone = converter.build(folder / "mlp.safetensors", "mxnet")
    assert np.allclose(clone(mxnet.nd.array(X)).asnumpy(), Y, rtol=1e-5, atol=1e-5)
    print("MXNet: Y_clone == Y")

    # Or code, which needs no converter any more, and the weights for it.
    (folder / "clone.py").write_text(converter.scaffold(folder / "mlp.safetensors", "flax"))
    converter.convert("neutral->flax", folder / "mlp.safetensors", folder / "mlp.msgpack")
    make_net = runpy.run_path(str(folder / "clone.py"))["make_net"]
    variables = flax.serialization.msgpack_restore((folder / "mlp.msgpack").read_bytes())
    assert np.allclose(make_net().apply(variables, X), Y, rtol=1e-5, atol=1e-5)
    print("the code for Flax: Y_clone == Y")


if __name__ == "__main__":
    main()
