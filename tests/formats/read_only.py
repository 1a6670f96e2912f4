"""The formats that are only read: how their real frameworks write given arrays."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import flax
import keras
import numpy as np
import tensorflow as tf
import torch
import torch.distributed.checkpoint as dcp
from flax.training import checkpoints
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

Array: TypeAlias = np.ndarray[Any, Any]
#: (a new folder, arrays of float32) -> (what is opened, the arrays by the names that the file has for them)
Make: TypeAlias = Callable[[Path, Sequence[Array]], tuple[Path, Mapping[str, Array]]]


def _numbered(arrays: Sequence[Array], name: str) -> dict[str, Array]:
    return {name.format(number): array for number, array in enumerate(arrays)}


def torch_script(folder: Path, arrays: Sequence[Array]) -> tuple[Path, Mapping[str, Array]]:
    """As PyTorch 1.0 lays it out (tests/samples/torch/1.0.0/jit_trace_mlp.pt); no later one writes it."""
    tensors, parameters = [], []
    with zipfile.ZipFile(folder / "net.pt", "w") as archive:
        for number, array in enumerate(arrays):
            archive.writestr(f"net/tensors/{number}", array.tobytes())
            strides = [str(stride // array.itemsize) for stride in array.strides]
            place = {"data": {"key": f"tensors/{number}"}, "offset": "0", "dataType": "FLOAT"}
            tensors.append({"dims": list(map(str, array.shape)), "strides": strides, **place})
            parameters.append({"tensorId": str(number), "name": f"w{number}"})
        model = {"mainModule": {"parameters": parameters, "submodules": []}, "tensors": tensors}
        archive.writestr("net/model.json", json.dumps(model))
    return folder / "net.pt", _numbered(arrays, "w{}")


class _Holder(torch.nn.Module):
    def __init__(self, arrays: Sequence[Array]) -> None:
        super().__init__()
        for number, array in enumerate(arrays):
            self.register_parameter(f"w{number}", torch.nn.Parameter(torch.from_numpy(array)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + sum(tensor.sum() for tensor in self.parameters())


def torch_export(folder: Path, arrays: Sequence[Array]) -> tuple[Path, Mapping[str, Array]]:
    torch.export.save(torch.export.export(_Holder(arrays), (torch.ones(1),)), folder / "net.pt2")
    return folder / "net.pt2", _numbered(arrays, "w{}")


def torch_distributed(folder: Path, arrays: Sequence[Array]) -> tuple[Path, Mapping[str, Array]]:
    named = _numbered(arrays, "w{}")
    dcp.save({name: torch.from_numpy(array) for name, array in named.items()}, checkpoint_id=folder / "net")
    return folder / "net", named


def torch_distributed_safetensors(folder: Path, arrays: Sequence[Array]) -> tuple[Path, Mapping[str, Array]]:
    named = _numbered(arrays, "w{}")
    state = {name: torch.from_numpy(array) for name, array in named.items()}
    dcp.save(state, storage_writer=HuggingFaceStorageWriter(str(folder / "net"), save_distributed=True))
    return folder / "net", named


class Held(keras.layers.Layer):
    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.w = self.add_weight(shape=shape, initializer="zeros")

    def call(self, x: Any) -> Any:
        return x

    def get_config(self) -> dict[str, Any]:
        return {"shape": self.w.shape}


def _keras_net(arrays: Sequence[Array]) -> tuple[Any, Mapping[str, Array]]:
    net = keras.Sequential([keras.layers.Input((1,)), *(Held(array.shape) for array in arrays)])
    net.set_weights(list(arrays))
    paths = [f"layers/held_{number}" if number else "layers/held" for number in range(len(arrays))]
    return net, {f"{path}/vars/0": array for path, array in zip(paths, arrays, strict=True)}


def keras_model(folder: Path, arrays: Sequence[Array]) -> tuple[Path, Mapping[str, Array]]:
    net, named = _keras_net(arrays)
    net.save(folder / "net.keras")
    return folder / "net.keras", named


def keras_sharded(folder: Path, arrays: Sequence[Array]) -> tuple[Path, Mapping[str, Array]]:
    net, named = _keras_net(arrays)
    net.save_weights(folder / "net.weights.json", max_shard_size=sum(array.nbytes for array in arrays) / 2**30 / 1.5)
    assert len(list(folder.iterdir())) > 2
    return folder / "net.weights.json", named


def tf_saved_model(folder: Path, arrays: Sequence[Array]) -> tuple[Path, Mapping[str, Array]]:
    module = tf.Module()
    named = _numbered(arrays, "w{}")
    for name, array in named.items():
        setattr(module, name, tf.Variable(array))
    tf.saved_model.save(module, str(folder / "net"))
    return folder / "net", {f"{name}/.ATTRIBUTES/VARIABLE_VALUE": array for name, array in named.items()}


def tf_checkpoint_v1(folder: Path, arrays: Sequence[Array]) -> tuple[Path, Mapping[str, Array]]:
    named = _numbered(arrays, "w{}")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        feeds = {name: tf.compat.v1.placeholder(array.dtype, array.shape) for name, array in named.items()}
        variables = [tf.compat.v1.get_variable(name, initializer=feed) for name, feed in feeds.items()]
        session.run([v.initializer for v in variables], {feeds[name]: array for name, array in named.items()})
        saver = tf.compat.v1.train.Saver(write_version=tf.compat.v1.train.SaverDef.V1)
        saver.save(session, str(folder / "net"), write_meta_graph=False)
    return folder / "net", named


def flax_checkpoint(folder: Path, arrays: Sequence[Array]) -> tuple[Path, Mapping[str, Array]]:
    named = _numbered(arrays, "w{}")
    flax.config.update("flax_use_orbax_checkpointing", False)
    try:
        checkpoints.save_checkpoint(folder / "net", {"params": named}, 3)
    finally:
        flax.config.update("flax_use_orbax_checkpointing", True)
    return folder / "net", {f"params/{name}": array for name, array in named.items()}


def plain_pickle(folder: Path, arrays: Sequence[Array]) -> tuple[Path, Mapping[str, Array]]:
    named = _numbered(arrays, "w{}")
    (folder / "net.pkl").write_bytes(pickle.dumps(named))
    return folder / "net.pkl", named


#: format -> its maker
MAKERS: Mapping[str, Make] = {
    "torch-script": torch_script,
    "torch-export": torch_export,
    "torch-distributed": torch_distributed,
    "torch-distributed-safetensors": torch_distributed_safetensors,
    "keras": keras_model,
    "keras-sharded": keras_sharded,
    "tf-saved-model": tf_saved_model,
    "tf-checkpoint-v1": tf_checkpoint_v1,
    "flax-checkpoint": flax_checkpoint,
    "pickle": plain_pickle,
}
