"""Files that old releases of TensorFlow and Keras wrote, and hostile ones: bit for bit, or refused.

``tests/samples/*/manifest.json`` says who wrote each file; the arrays beside it are what that release
reported itself (bfloat16 and float8 as unsigned integers, their dtype in ``__dtypes__``).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from converter.core.tensors import DTYPES
from converter.errors import FormatError
from converter.formats import open_reader
from tests.formats.contract import same_bits
from tests.places import SAMPLES

ENTRIES = [
    (SAMPLES / folder, entry)
    for folder in ("tensorflow", "keras")
    for entry in json.loads((SAMPLES / folder / "manifest.json").read_text())
]


def expected_arrays(path: Path):
    with np.load(path) as archive:
        dtypes = json.loads(str(archive["__dtypes__"])) if "__dtypes__" in archive.files else {}
        arrays = {name: archive[name] for name in archive.files if name != "__dtypes__"}
    native = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in arrays.items()}
    return {name: array.view(DTYPES[dtypes[name]]) if name in dtypes else array for name, array in native.items()}


@pytest.mark.parametrize(("folder", "entry"), ENTRIES, ids=[entry["path"] for _, entry in ENTRIES])
def test_sample(folder: Path, entry) -> None:
    if entry["expected"] is None:
        with pytest.raises(FormatError):
            everything(folder / entry["path"])
        return
    found, contents = everything(folder / entry["path"])
    expected = expected_arrays(folder / entry["expected"])
    assert set(expected) - set(found) <= set(entry["optional"])
    assert set(found) <= set(expected)
    assert all(same_bits(array, expected[name]) for name, array in found.items())
    left_out = {left.name for left in contents.left_out}
    assert set(expected) - set(found) - {"layer/soft", "layer/hard"} <= left_out


def everything(path: Path):
    _, reader = open_reader(path)
    with reader:
        return {spec.name: np.array(reader.read(spec.name)) for spec in reader.contents.specs}, reader.contents


def test_names_of_layers_come_from_the_config_of_old_models() -> None:
    _, contents = everything(SAMPLES / "keras/3.0.5/nested_seq.keras")
    assert contents.writer == "keras 3.0.5"
    assert contents.labels["layers/dense/vars"] == "a"
    assert contents.labels["layers/sequential/vars"] == "inner"
    assert contents.labels["layers/sequential/layers/dense_1/vars"] == "b"
    _, old = everything(SAMPLES / "keras/2.13.1/rec.keras")
    assert old.labels["_layer_checkpoint_dependencies/gru/vars"].startswith("gru")


def test_keras_2_files_come_in_the_order_of_the_model() -> None:
    found, contents = everything(SAMPLES / "keras/2.13.1/conv.h5")
    assert list(dict.fromkeys(name.split("/")[0] for name in found)) == ["conv", "bn", "dw", "fc"]
    assert list(found)[:2] == ["conv/conv/kernel:0", "conv/conv/bias:0"]
    assert contents.writer == "keras 2.13.1"


def test_the_optimizer_of_a_whole_model_is_left_out_and_reported() -> None:
    _, contents = everything(SAMPLES / "keras/2.21.0/conv_full.h5")
    reasons = {left.name: left.reason for left in contents.left_out}
    assert reasons["optimizer_weights/Adam/m/conv/kernel:0"] == "state of the optimizer"


def test_a_saved_model_says_who_wrote_it() -> None:
    assert everything(SAMPLES / "tensorflow/2.8.4/sm_module")[1].writer == "tensorflow 2.8.4"


@pytest.mark.parametrize("given", ["", "checkpoint", "model.ckpt-5", "model.ckpt-5-00001-of-00002"])
def test_every_way_to_name_a_checkpoint_of_the_first_format(given: str) -> None:
    assert len(everything(SAMPLES / "tensorflow/2.8.4/saver_v1_sharded" / given)[0]) == 12


def test_a_missing_shard_of_the_first_format_is_an_error(tmp_path: Path) -> None:
    source = SAMPLES / "tensorflow/2.8.4/saver_v1_sharded/model.ckpt-5-00000-of-00002"
    (tmp_path / source.name).write_bytes(source.read_bytes())
    with pytest.raises(FormatError, match="shards are missing"):
        everything(tmp_path / source.name)
