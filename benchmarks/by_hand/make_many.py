"""A state_dict of so many tensors of 16 numbers."""

import sys

import torch

path, count = sys.argv[1], int(sys.argv[2])
state = {}
for index in range(count // 2):
    state[f"{index}.weight"] = torch.randn(16, 1)
    state[f"{index}.bias"] = torch.randn(16)
torch.save(state, path)
