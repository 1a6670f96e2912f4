"""What the scripts by hand share: a network of dense layers, names as nested dicts."""

from __future__ import annotations

import sys

SOURCE, TARGET = sys.argv[1:3]


def nested(flat):
    """``{"blocks.0.q.weight": ...}`` as a dict of dicts of dicts."""
    tree = {}
    for name, value in flat.items():
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def flattened(tree, prefix=""):
    """The reverse."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def load_torch():
    """The state_dict, mapped: PyTorch's own way to hold no more of it than is used."""
    import torch

    return torch.load(SOURCE, weights_only=True, mmap=True)


def as_flax(state):
    """Kernels transposed and renamed, as NumPy arrays."""
    return {
        name.removesuffix("weight") + "kernel" if name.endswith("weight") else name: tensor.numpy().T
        for name, tensor in state.items()
    }


def as_torch(flat):
    """The reverse, as tensors."""
    import numpy as np
    import torch

    return {
        name.removesuffix("kernel") + "weight" if name.endswith("kernel") else name: torch.from_numpy(
            np.ascontiguousarray(np.asarray(array).T)
        )
        for name, array in flat.items()
    }
