"""What a reader of the chapter would write: mlp.params of PyTorch into a Flax msgpack, with both frameworks."""

import sys

import flax.serialization
import jax.numpy as jnp
import torch

state = torch.load(sys.argv[1], weights_only=True)
params = {
    layer: {
        "kernel": jnp.asarray(state[f"{layer}.weight"].numpy().T),
        "bias": jnp.asarray(state[f"{layer}.bias"].numpy()),
    }
    for layer in ("hidden", "output")
}
with open(sys.argv[2], "wb") as file:
    file.write(flax.serialization.to_bytes({"params": params}))
