"""The source of the benchmarks: a state_dict of 24 blocks of dense layers, of about so many bytes."""

import sys

import torch

path, size = sys.argv[1], int(sys.argv[2])
width = max(8, int((size / 24 / 12 / 4) ** 0.5) // 8 * 8)
generator = torch.Generator().manual_seed(0)
sizes = {"query": (1, 1), "key": (1, 1), "value": (1, 1), "out": (1, 1), "up": (4, 1), "down": (1, 4)}
state = {}
for block in range(24):
    for name, (rows, columns) in sizes.items():
        state[f"blocks.{block}.{name}.weight"] = torch.randn(rows * width, columns * width, generator=generator)
        state[f"blocks.{block}.{name}.bias"] = torch.randn(rows * width, generator=generator)
torch.save(state, path)
