"""How the four files of this folder were made: one MLP with random weights, saved by each real framework.

Needs all four frameworks (`make test` installs them); the files are in the repository, so you need not run it.
"""

import file_io_mxnet
import file_io_tensorflow
import file_io_torch
import flax.serialization
import jax.numpy as jnp
import mxnet
import numpy as np
import torch

if __name__ == "__main__":
    rng = np.random.default_rng(0)
    shapes = {"hidden": (20, 256), "output": (256, 10)}
    kernels = {layer: rng.normal(0, 0.2, shape).astype(np.float32) for layer, shape in shapes.items()}
    biases = {layer: rng.normal(0, 0.2, shape[1]).astype(np.float32) for layer, shape in shapes.items()}

    torch_net = file_io_torch.MLP()
    for layer in shapes:
        getattr(torch_net, layer).weight.data = torch.tensor(kernels[layer].T.copy())
        getattr(torch_net, layer).bias.data = torch.tensor(biases[layer])
    torch.save(torch_net.state_dict(), "mlp.params")

    keras_net = file_io_tensorflow.MLP()
    keras_net(np.zeros((1, 20), np.float32))
    keras_net.set_weights([kernels["hidden"], biases["hidden"], kernels["output"], biases["output"]])
    keras_net.save_weights("mlp.weights.h5")

    tree = {layer: {"kernel": jnp.asarray(kernels[layer]), "bias": jnp.asarray(biases[layer])} for layer in shapes}
    with open("mlp.msgpack", "wb") as file:
        file.write(flax.serialization.to_bytes({"params": tree}))

    gluon_net = file_io_mxnet.MLP()
    gluon_net.initialize()
    gluon_net(mxnet.np.zeros((1, 20)))
    for layer in shapes:
        getattr(gluon_net, layer).weight.set_data(mxnet.np.array(kernels[layer].T.copy()))
        getattr(gluon_net, layer).bias.set_data(mxnet.np.array(biases[layer]))
    gluon_net.save_parameters("mlp-mxnet.params")
