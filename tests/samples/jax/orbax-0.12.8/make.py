"""How the checkpoints here were made: ``python make.py OUT``, with jax 0.10.2 and orbax-checkpoint 0.12.8.

devices-*: arrays split over 8 devices of one process; processes-*: over two processes with two devices each.
Left away afterwards: ``commit_success.txt``, which names the folder.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

ROLES = {"devices": 1, "processes": 2}


def start(out: str) -> None:
    for role, count in ROLES.items():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        running = [subprocess.Popen([sys.executable, __file__, out, role, str(i), port]) for i in range(count)]
        if any(process.wait() for process in running):
            raise SystemExit(f"{role} failed")


def run(out: str, role: str, index: int, port: str) -> None:
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={8 if role == 'devices' else 2}"
    import jax
    import numpy as np

    if role == "processes":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", 2, index)
    import orbax.checkpoint as ocp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    rng = np.random.default_rng(5)
    arrays = {"w": rng.random((16, 6), np.float32), "r": rng.random((8,), np.float32)}
    arrays["b"] = rng.random((8, 4), np.float32).astype(jax.numpy.bfloat16)
    devices = np.array(jax.devices())
    mesh = Mesh(devices.reshape(-1, 2), ("x", "y"))
    axes = {"w": PartitionSpec("x", "y"), "r": PartitionSpec(), "b": PartitionSpec("y", None)}

    def place(name: str) -> jax.Array:
        array = arrays[name]
        return jax.make_array_from_callback(array.shape, NamedSharding(mesh, axes[name]), lambda index: array[index])

    tree = {"params": {name: place(name) for name in arrays}}
    small = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=32), tree)
    ways = {
        "zarr2": ({"use_ocdbt": False}, None),
        "zarr3": ({"use_ocdbt": False, "use_zarr3": True}, None),
        "ocdbt": ({}, None),
        "ocdbt-zarr3": ({"use_zarr3": True}, None),
        "small-chunks": ({}, small),
    }
    for way, (options, save_args) in ways.items():
        ocp.PyTreeCheckpointer(**options).save(f"{out}/{role}-{way}", tree, save_args=save_args)
    if index == 0:
        raw = {f"params/{name}": a.view(np.uint16) if name == "b" else a for name, a in arrays.items()}
        np.savez(f"{out}/expected.npz", __dtypes__='{"params/b": "bfloat16"}', **raw)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        start(os.path.abspath(sys.argv[1]))
    else:
        run(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
