"""Makes `two_ranks/`, a distributed checkpoint that two processes wrote, with sharded and replicated tensors, and
`two_ranks_safetensors/`, the same state in safetensors.

python tests/samples/torch/make_two_ranks.py        (torch 2.13; a second run gives other process identifiers)
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

FOLDER = Path(__file__).with_name("two_ranks")


def whole() -> dict[str, torch.Tensor]:
    torch.manual_seed(11)
    return {
        "rows": torch.randn(5, 3),
        "columns": torch.randn(3, 5),
        "few": torch.randn(1, 4),
        "replicated": torch.randn(4),
        "half": torch.randn(6).to(torch.bfloat16),
        "plain": torch.arange(4),
    }


def save(rank: int) -> None:
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29611"}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    places = {"rows": Shard(0), "columns": Shard(1), "few": Shard(0), "replicated": Replicate(), "half": Shard(0)}
    state = {
        name: distribute_tensor(tensor, mesh, [places[name]]) if name in places else tensor
        for name, tensor in whole().items()
    }
    dcp.save({"model": state, "step": 7}, checkpoint_id=FOLDER)
    folder = FOLDER.with_name("two_ranks_safetensors")
    dcp.save(state, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(save, nprocs=2)
    arrays = {name: tensor.view(torch.uint16) if name == "half" else tensor for name, tensor in whole().items()}
    np.savez(FOLDER.with_name("two_ranks.expected.npz"), **{name: array.numpy() for name, array in arrays.items()})
