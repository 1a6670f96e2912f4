"""A PyTorch state_dict of dense layers into an Orbax checkpoint, with both frameworks."""

import os

import orbax.checkpoint as ocp
from common import TARGET, as_flax, load_torch, nested

with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(os.path.abspath(TARGET), nested(as_flax(load_torch())), force=True)
