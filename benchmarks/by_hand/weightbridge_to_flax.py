"""A PyTorch state_dict of dense layers into Flax msgpack by weightbridge, which is given the names and shapes there."""

import numpy as np
import weightbridge
from common import TARGET, as_flax, load_torch, nested
from flax.serialization import to_bytes

state = {name: tensor.numpy() for name, tensor in load_torch().items()}
wanted = {name: np.empty(value.shape, value.dtype) for name, value in as_flax(load_torch()).items()}
options = {"in_format": "pytorch", "in_separator": ".", "out_format": "flax", "out_separator": "."}
with open(TARGET, "wb") as file:
    file.write(to_bytes({"params": nested(weightbridge.adapt(state, wanted, **options))}))
