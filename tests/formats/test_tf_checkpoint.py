"""TensorFlow checkpoints against the real TensorFlow, tf_keras and Keras 3."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from converter.errors import FormatError
from converter.formats import Contents, ReadOptions, by_name, open_reader, open_writer
from converter.formats.tf_types import DTYPE_OF_CODE
from converter.tensors import TensorSpec
from tests.formats.contract import FormatContract, random_array, same_bits, specs_of

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
MLP = {
    f"{layer}/{leaf}{SUFFIX}": random_array(shape, "int8", seed).astype("float32")
    for seed, (layer, leaf, shape) in enumerate(
        [("hidden", "kernel", (20, 256)), ("hidden", "bias", (256,)), ("out", "kernel", (256, 10)), ("out", "bias", (10,))]
    )
}
LINKS = {
    "model": "",
    "root": "",
    "layer_with_weights-0": "hidden",
    "layer_with_weights-1": "out",
    "hidden/_kernel": "hidden/kernel",
    "out/_kernel": "out/kernel",
}


class TestContract(FormatContract):
    format = "tf-checkpoint"
    file_name = "mlp.ckpt"
    names = (f"hidden/bias{SUFFIX}", f"hidden/kernel{SUFFIX}")
    dtypes = tuple(dtype.name for dtype in DTYPE_OF_CODE.values())


class TestContractOfPlainNames(FormatContract):
    format = "tf-checkpoint"
    file_name = "model.ckpt-7"
    names = ("hidden/bias", "hidden/kernel")
    dtypes = ("float32", "int64")


def write(prefix: Path, tensors, links=None) -> Path:
    contents = Contents(specs_of(tensors), links=links or {})
    with open_writer(by_name("tf-checkpoint"), prefix, contents) as writer:
        for name, array in tensors.items():
            writer.write(name, array)
    return prefix


def read(path: Path, **options):
    row, reader = open_reader(path, ReadOptions(**options))
    with reader:
        assert row.name.startswith("tf-")
        return {spec.name: np.array(reader.read(spec.name)) for spec in reader.contents.specs}
