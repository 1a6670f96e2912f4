"""The table of file formats: one row each, in the order of detection."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType

import msgspec

from converter.formats.base import Probe

__all__ = ["FORMATS", "Format", "by_name", "recognised"]

_TORCH, _TENSORFLOW, _FLAX, _MXNET = ("torch",), ("tensorflow",), ("flax",), ("mxnet",)


class Format(msgspec.Struct, frozen=True):
    """One row of the table.

    module: the module below ``converter.formats`` with ``detect(Probe) -> bool``, a class ``FileReader`` and,
        for a format that can be written, a class ``FileWriter``.
    frameworks: who writes such files; () for any.
    extensions: file extensions that choose this format for an output, the usual one first; () for a read-only format.
    shards: the row that writes the same format as files of limited size; "" for none.
    checksums: the checksum stored in the file, which is compared when a tensor is read.
    tensor_name: what names of tensors look like; ``{0}`` is a number. Tests write files with such names.
    metadata: `Contents.metadata` without which no such file can be written.
    """

    name: str
    title: str
    module: str
    frameworks: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    shards: str = ""
    checksums: str = ""
    tensor_name: str = "layer{0}.weight"
    metadata: Mapping[str, str] = {}

    def load(self) -> ModuleType:
        return importlib.import_module(f"converter.formats.{self.module}")


#: The first row whose ``detect`` accepts a file reads it.
FORMATS: tuple[Format, ...] = (
    Format(
        "torch",
        "PyTorch file",
        "torch.zip",
        _TORCH,
        (".pt", ".pth", ".bin", ".ckpt"),
        shards="torch-sharded",
        checksums="CRC-32",
    ),
    Format("torch-legacy", "PyTorch file before 1.6", "torch.legacy", _TORCH, (".legacy.pt",)),
    Format("torch-script", "TorchScript before 1.4", "torch.script", _TORCH, checksums="CRC-32"),
    Format("torch-export", "PyTorch exported program", "torch.exported", _TORCH, checksums="CRC-32"),
    Format(
        "torch-sharded",
        "PyTorch shards with an index",
        "torch.sharded",
        _TORCH,
        (".bin.index.json",),
        checksums="CRC-32",
    ),
    Format("torch-distributed", "PyTorch distributed checkpoint", "torch.distributed", _TORCH, checksums="CRC-32"),
    Format(
        "torch-distributed-safetensors",
        "PyTorch distributed checkpoint in safetensors",
        "torch.distributed_safetensors",
        _TORCH,
    ),
    Format(
        "keras",
        "Keras 3 model",
        "keras.zip",
        _TENSORFLOW,
        (".keras",),
        checksums="CRC-32",
        tensor_name="layers/dense_{0}/vars/0",
        metadata={"config.json": "{}", "metadata.json": "{}"},
    ),
    Format(
        "keras-h5",
        "Keras 3 weights",
        "keras.h5",
        _TENSORFLOW,
        (".weights.h5",),
        tensor_name="layers/dense_{0}/vars/0",
    ),
    Format("keras-sharded", "Keras 3 weights in shards", "keras.sharded", _TENSORFLOW),
    Format(
        "keras2-h5",
        "Keras 2 weights",
        "keras.legacy_h5",
        _TENSORFLOW,
        (".h5", ".hdf5"),
        tensor_name="dense_{0}/dense_{0}/kernel:0",
    ),
    Format("tf-saved-model", "TensorFlow SavedModel", "tensorflow.saved_model", _TENSORFLOW, checksums="CRC-32C"),
    Format(
        "tf-checkpoint",
        "TensorFlow checkpoint",
        "tensorflow.checkpoint",
        _TENSORFLOW,
        (".ckpt",),
        checksums="CRC-32C",
        tensor_name="dense_{0}/kernel/.ATTRIBUTES/VARIABLE_VALUE",
    ),
    Format(
        "tf-checkpoint-v1",
        "TensorFlow checkpoint of the first format",
        "tensorflow.checkpoint_v1",
        _TENSORFLOW,
        checksums="CRC-32C",
    ),
    Format("mxnet", "MXNet parameters", "mxnet.params", _MXNET, (".params",)),
    Format("gguf", "GGUF", "gguf.file", _TORCH, (".gguf",), tensor_name="blk.{0}.weight"),
    Format(
        "safetensors",
        "safetensors",
        "safetensors.file",
        extensions=(".safetensors",),
        shards="safetensors-sharded",
        checksums="xxh3-128 (ours)",
    ),
    Format(
        "safetensors-sharded",
        "safetensors shards",
        "safetensors.sharded",
        extensions=(".safetensors.index.json",),
        checksums="xxh3-128 (ours)",
    ),
    Format("mxnet2", "MXNet 2 parameters", "numpy.mxnet2", _MXNET, (".params",), checksums="CRC-32"),
    Format("npz", "NumPy archive", "numpy.npz", extensions=(".npz",), checksums="CRC-32"),
    Format("npy", "NumPy array", "numpy.npy", extensions=(".npy",)),
    Format("flax-checkpoint", "Flax checkpoint folder", "flax.checkpoint", _FLAX),
    Format("orbax", "Orbax checkpoint", "flax.orbax", _FLAX, (".orbax",), shards="orbax", checksums="CRC-32C (OCDBT)"),
    Format("pickle", "pickle of arrays", "pickled.file"),
    Format("flax-msgpack", "Flax msgpack", "flax.msgpack", _FLAX, (".msgpack",)),
)


def by_name(name: str) -> Format:
    """The row of that name. Raises KeyError."""
    for row in FORMATS:
        if row.name == name:
            return row
    raise KeyError(name)


def recognised(probe: Probe) -> Format | None:
    """The first row that accepts the file; None if none does. Raises OSError."""
    return next((row for row in FORMATS if row.load().detect(probe)), None)
