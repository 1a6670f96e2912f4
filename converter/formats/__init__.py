"""The table of formats, and the two doors: `open_reader` (by content) and `open_writer` (by format name)."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from types import ModuleType

import msgspec

from converter.core.contents import Contents, LeftOut
from converter.errors import FormatError
from converter.formats.base import Probe, Reader, ReadOptions, Writer
from converter.formats.io.atomic import disk, former_paths
from converter.formats.io.locations import is_url, reading

__all__ = [
    "FORMATS",
    "Contents",
    "Format",
    "LeftOut",
    "ReadOptions",
    "Reader",
    "Writer",
    "detect",
    "open_reader",
    "open_writer",
]


class Format(msgspec.Struct, frozen=True):
    """One row of the table.

    module: the file in this package, with ``detect(Probe) -> bool``, a class ``FileReader`` and, where
        the format can be written, a class ``FileWriter``.
    frameworks: who writes such files; () when any of them may.
    shards: the row that writes the same in files of a limited size; "" where there is none.
    extensions: endings that choose this format for an output, the usual one first; () for a format
        that is only read.
    checksums: what the file itself carries, and what is compared when a tensor is read.
    """

    name: str
    title: str
    module: str
    frameworks: tuple[str, ...]
    extensions: tuple[str, ...]
    shards: str = ""
    checksums: str = ""

    def load(self) -> ModuleType:
        return importlib.import_module(f"converter.formats.{self.module}")


#: In the order of detection: the first whose ``detect`` agrees reads the file.
FORMATS: tuple[Format, ...] = (
    Format(
        "torch",
        "PyTorch file",
        "torch.zip",
        ("torch",),
        (".pt", ".pth", ".bin", ".ckpt"),
        "torch-sharded",
        checksums="CRC-32",
    ),
    Format("torch-legacy", "PyTorch file before 1.6", "torch.legacy", ("torch",), (".legacy.pt",)),
    Format("torch-script", "TorchScript before 1.4", "torch.script", ("torch",), (), checksums="CRC-32"),
    Format("torch-export", "PyTorch exported program", "torch.exported", ("torch",), (), checksums="CRC-32"),
    Format(
        "torch-sharded",
        "PyTorch shards with an index",
        "torch.sharded",
        ("torch",),
        (".bin.index.json",),
        checksums="CRC-32",
    ),
    Format(
        "torch-distributed", "PyTorch distributed checkpoint", "torch.distributed", ("torch",), (), checksums="CRC-32"
    ),
    Format(
        "torch-distributed-safetensors",
        "PyTorch distributed checkpoint in safetensors",
        "torch.distributed_safetensors",
        ("torch",),
        (),
    ),
    Format("keras", "Keras 3 model", "keras.zip", ("tensorflow",), (".keras",), checksums="CRC-32"),
    Format("keras-h5", "Keras 3 weights", "keras.h5", ("tensorflow",), (".weights.h5",)),
    Format("keras-sharded", "Keras 3 weights in shards", "keras.sharded", ("tensorflow",), ()),
    Format("keras2-h5", "Keras 2 weights", "keras.legacy_h5", ("tensorflow",), (".h5", ".hdf5")),
    Format(
        "tf-saved-model", "TensorFlow SavedModel", "tensorflow.saved_model", ("tensorflow",), (), checksums="CRC-32C"
    ),
    Format(
        "tf-checkpoint",
        "TensorFlow checkpoint",
        "tensorflow.checkpoint",
        ("tensorflow",),
        (".ckpt",),
        checksums="CRC-32C",
    ),
    Format(
        "tf-checkpoint-v1",
        "TensorFlow checkpoint of the first format",
        "tensorflow.checkpoint_v1",
        ("tensorflow",),
        (),
        checksums="CRC-32C",
    ),
    Format("mxnet", "MXNet parameters", "mxnet.params", ("mxnet",), (".params",)),
    Format(
        "safetensors",
        "safetensors",
        "safetensors.file",
        (),
        (".safetensors",),
        "safetensors-sharded",
        checksums="xxh3-128 (ours)",
    ),
    Format(
        "safetensors-sharded",
        "safetensors shards",
        "safetensors.sharded",
        (),
        (".safetensors.index.json",),
        checksums="xxh3-128 (ours)",
    ),
    Format("mxnet2", "MXNet 2 parameters", "mxnet.mxnet2", ("mxnet",), (".params",), checksums="CRC-32"),
    Format("npz", "NumPy archive", "numpy.npz", (), (".npz",), checksums="CRC-32"),
    Format("npy", "NumPy array", "numpy.npy", (), (".npy",)),
    Format("flax-checkpoint", "Flax checkpoint folder", "flax.checkpoint", ("flax",), ()),
    Format("orbax", "Orbax checkpoint", "flax.orbax", ("flax",), (".orbax",), "orbax", "CRC-32C (OCDBT)"),
    Format("pickle", "pickle of arrays", "pickle.file", (), ()),
    Format("flax-msgpack", "Flax msgpack", "flax.msgpack", ("flax",), (".msgpack",)),
)


def by_name(name: str) -> Format:
    """The row of that name. Raises KeyError."""
    return next(row for row in FORMATS if row.name == name)


def detect(path: Path) -> Format:
    """Which format the file, folder or checkpoint prefix has, by its content. Raises FormatError."""
    probe = Probe(path)
    try:
        row = recognised(probe)
        if row is None:
            raise FormatError(path, _otherwise(probe))
        return row
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror or error}") from None


def recognised(probe: Probe) -> Format | None:
    """The first row that takes it for its own; None where none does. Raises OSError."""
    return next((row for row in FORMATS if row.load().detect(probe)), None)


def _otherwise(probe: Probe) -> str:
    if not probe.path.exists():
        if is_url(probe.path):
            return "nothing is there, or these credentials may not see it"
        return f"no such file or folder{_former(probe.path)}"
    if probe.is_file and not probe.head:
        return "the file is empty"
    from converter.formats.unknown import described

    return described(probe)


def _former(path: Path) -> str:
    """What is left of it after a kill in the moment of its replacement; see `publish`."""
    left = [former.name for name in (path.name, path.name + ".index") for former in former_paths(path.with_name(name))]
    if not left:
        return ""
    token = left[0].split(".")[-2]
    return f". A write that was cut off left the former one as '{left[0]}'; rename all files of '{token}' back"


def open_reader(path: Path, options: ReadOptions = ReadOptions()) -> tuple[Format, Reader]:
    """Open a file by its content. Raises FormatError when it is of no known format, or damaged."""
    with reading(path):
        row = detect(path)
        reader: Reader = row.load().FileReader(path, options)
    return row, reader


def open_writer(
    row: Format, path: Path, contents: Contents, max_shard_bytes: int | None = None, resume: str | None = None
) -> Writer:
    """Start a file of that format; see `Writer`. The last two are for rows that write shards: see `ShardWriter`."""
    given = {"max_shard_bytes": max_shard_bytes, "resume": resume}
    options = {name: value for name, value in given.items() if value is not None}
    make = partial(row.load().FileWriter, **options)
    with disk(path):
        if is_url(path):
            from converter.formats.io.upload import Upload

            return Upload(make, path, contents)
        writer: Writer = make(path, contents)
        return writer
