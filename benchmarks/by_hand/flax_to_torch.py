"""Flax msgpack of dense layers into a PyTorch state_dict, with both frameworks."""

import torch
from common import SOURCE, TARGET, as_torch, flattened
from flax.serialization import msgpack_restore

with open(SOURCE, "rb") as file:
    params = msgpack_restore(file.read())["params"]
torch.save(as_torch(dict(flattened(params))), TARGET)
