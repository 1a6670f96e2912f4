"""An Orbax checkpoint of dense layers into a PyTorch state_dict, with both frameworks."""

import os

import orbax.checkpoint as ocp
import torch
from common import SOURCE, TARGET, as_torch, flattened

with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore(os.path.abspath(SOURCE))
torch.save(as_torch(dict(flattened(tree))), TARGET)
