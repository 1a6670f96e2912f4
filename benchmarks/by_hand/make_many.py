"""A state_dict of so many tensors of 16 numbers."""

import sys

import torch

path, count = sys.argv[1], int(sys.argv[2])
torch.save({f"{index}.weight": torch.randn(16) for index in range(count)}, path)
