"""A PyTorch state_dict of dense layers into Flax msgpack, with both frameworks."""

from common import TARGET, as_flax, load_torch, nested
from flax.serialization import to_bytes

with open(TARGET, "wb") as file:
    file.write(to_bytes({"params": nested(as_flax(load_torch()))}))
