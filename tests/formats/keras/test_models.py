"""Keras files other than ``.weights.h5``: whole models, shards, Keras 2; against Keras 3 and tf_keras."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tf_keras

from converter.errors import FormatError, OutputError, UnsafeFileError
from converter.formats import Contents, ReadOptions, by_name, open_reader, open_writer
from tests.formats.contract import FormatContract, random_array, same_bits, specs_of

OPTIMIZER = "state of the optimizer"


class TestContractOfKeras2(FormatContract):
    format = "keras2-h5"
    file_name = "mlp.h5"
    names = ("dense/mlp/dense/kernel:0", "dense/mlp/dense/bias:0")
    dtypes = tuple("float32 float64 float16 bfloat16 bool int32 int64 uint8 complex64".split())


class TestContractOfModels(FormatContract):
    format = "keras"
    file_name = "mlp.keras"
    names = ("layers/dense/vars/0", "layers/dense/vars/1")
    dtypes = tuple("float32 float64 float16 bfloat16 bool int32 int64 uint8 complex64".split())


def net(lib):
    return lib.Sequential(
        [
            lib.layers.Input((6, 6, 3)),
            lib.layers.Conv2D(4, 3, name="zebra"),
            lib.layers.BatchNormalization(name="norm"),
            lib.layers.Flatten(),
            lib.layers.Dropout(0.5),
            lib.layers.Dense(5, name="ape"),
            lib.layers.Dense(2),
        ]
    )


def randomised(model, seed=5):
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=w.shape).astype(np.asarray(w).dtype) for w in model.get_weights()])
    return model


def trained(lib):
    model = net(lib)
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(np.ones((4, 6, 6, 3)), np.ones((4, 2)), verbose=0)
    return randomised(model)


def read(path: Path, name: str, **options):
    row, reader = open_reader(path, ReadOptions(**options))
    with reader:
        assert row.name == name
        return reader.contents, {spec.name: np.array(reader.read(spec.name)) for spec in reader.contents.specs}


def weights_by_layer(model):
    """In the order of the files: trainable variables first."""
    return [np.asarray(v) for layer in model.layers for v in layer.trainable_weights + layer.non_trainable_weights]


def same(tensors, model) -> bool:
    return all(same_bits(a, b) for a, b in zip(tensors.values(), weights_by_layer(model), strict=True))


def test_a_keras_model_gives_weights_names_and_leaves_the_optimizer(tmp_path: Path) -> None:
    model = trained(keras)
    model.save(tmp_path / "m.keras")
    contents, tensors = read(tmp_path / "m.keras", "keras")
    assert same(tensors, model)
    assert contents.writer == f"keras {keras.__version__}"
    assert contents.labels["layers/conv2d/vars"] == "zebra" and contents.labels["layers/dense/vars"] == "ape"
    assert {left.reason for left in contents.left_out} == {OPTIMIZER}
    assert all(left.name.startswith("optimizer/vars/") for left in contents.left_out)


def test_an_unzipped_and_a_compressed_model_are_read_alike(tmp_path: Path) -> None:
    model = trained(keras)
    model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        archive.extractall(tmp_path / "folder")
        with zipfile.ZipFile(tmp_path / "packed.keras", "w", zipfile.ZIP_DEFLATED) as packed:
            for name in archive.namelist():
                packed.writestr(name, archive.read(name))
    contents, tensors = read(tmp_path / "m.keras", "keras")
    for other in ("folder", "packed.keras"):
        again, arrays = read(tmp_path / other, "keras")
        assert again.labels == contents.labels
        assert list(arrays) == list(tensors)
        assert all(same_bits(arrays[name], array) for name, array in tensors.items())


def test_a_keras_model_of_tf_keras_is_read(tmp_path: Path) -> None:
    model = trained(tf_keras)
    model.save(tmp_path / "m.keras")
    contents, tensors = read(tmp_path / "m.keras", "keras")
    assert sorted(a.tobytes() for a in tensors.values()) == sorted(a.tobytes() for a in weights_by_layer(model))
    assert contents.labels["layers/conv2d/vars"] == "zebra" and contents.writer == f"keras {tf_keras.__version__}"
    assert {left.reason for left in contents.left_out} == {OPTIMIZER, "state of a metric"}


def test_the_checksum_of_a_model_is_verified_before_a_tensor_is_read(tmp_path: Path) -> None:
    model = randomised(net(keras))
    model.save(tmp_path / "m.keras")
    needle = np.asarray(model.layers[-1].kernel).tobytes()
    raw = bytearray((tmp_path / "m.keras").read_bytes())
    raw[raw.index(needle) + 2] ^= 4
    (tmp_path / "m.keras").write_bytes(raw)
    with pytest.raises(FormatError, match=r"'model.weights.h5' is damaged: its CRC is"):
        read(tmp_path / "m.keras", "keras")
    read(tmp_path / "m.keras", "keras", checksums=False)


def test_a_zip_that_claims_too_much_or_lacks_the_weights_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "none.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", "{}")
    with pytest.raises(FormatError, match=r"'model.weights.h5' is missing"):
        read(tmp_path / "none.keras", "keras")
    with zipfile.ZipFile(tmp_path / "deep.keras", "w") as archive:
        archive.writestr("config.json", "[" * 100_000)
        archive.writestr("metadata.json", "{}")
        with h5py.File(tmp_path / "w.h5", "w") as file:
            file["layers/dense/vars/0"] = np.ones(3)
        archive.write(tmp_path / "w.h5", "model.weights.h5")
    with pytest.raises(FormatError, match=r"'config.json' is not JSON"):
        read(tmp_path / "deep.keras", "keras")


def test_shards_are_put_together_in_the_order_of_the_map(tmp_path: Path) -> None:
    model = randomised(net(keras))
    model.save_weights(tmp_path / "m.weights.json", max_shard_size=1.3e-6)
    assert len(list(tmp_path.glob("*.weights.h5"))) == 2
    contents, tensors = read(tmp_path / "m.weights.json", "keras-sharded")
    assert same(tensors, model)
    assert contents.labels["layers/conv2d/vars"] == "zebra"


def test_shards_elsewhere_or_missing_are_refused(tmp_path: Path) -> None:
    randomised(net(keras)).save_weights(tmp_path / "m.weights.json", max_shard_size=1.3e-6)
    document = json.loads((tmp_path / "m.weights.json").read_text())
    for bad in ("../m_00000.weights.h5", "/etc/m_00000.weights.h5", "..\\m.weights.h5"):
        changed = {**document, "weight_map": {**document["weight_map"], "/layers/dense/vars": bad}}
        (tmp_path / "bad.weights.json").write_text(json.dumps(changed))
        with pytest.raises(UnsafeFileError, match="outside of the folder"):
            read(tmp_path / "bad.weights.json", "keras-sharded")
    (tmp_path / "m_00001.weights.h5").unlink()
    with pytest.raises(FormatError, match=r"m_00001.weights.h5: there is no such file beside"):
        read(tmp_path / "m.weights.json", "keras-sharded")


def test_a_shard_with_surplus_variables_is_refused(tmp_path: Path) -> None:
    randomised(net(keras)).save_weights(tmp_path / "m.weights.json", max_shard_size=1.3e-6)
    shutil.copy(tmp_path / "m_00000.weights.h5", tmp_path / "m_00001.weights.h5")
    with pytest.raises(FormatError, match=r"but the map does not say so|occurs twice"):
        read(tmp_path / "m.weights.json", "keras-sharded")


@pytest.mark.parametrize("whole", [False, True], ids=["weights", "model"])
def test_keras_2_files_are_read_in_the_order_of_the_model(tmp_path: Path, whole: bool) -> None:
    model = trained(tf_keras)
    (model.save if whole else model.save_weights)(tmp_path / "m.h5")
    contents, tensors = read(tmp_path / "m.h5", "keras2-h5")
    assert same(tensors, model)
    root = "model_weights/" if whole else ""
    assert list(tensors)[:3] == [f"{root}zebra/zebra/kernel:0", f"{root}zebra/zebra/bias:0", f"{root}norm/norm/gamma:0"]
    assert contents.writer == f"keras {tf_keras.__version__}"
    assert {left.reason for left in contents.left_out} == ({OPTIMIZER} if whole else set())


def write(path: Path, tensors) -> Path:
    with open_writer(by_name("keras2-h5"), path, Contents(specs_of(tensors))) as writer:
        for name, array in tensors.items():
            writer.write(name, array)
    return path


@pytest.mark.parametrize("lib", [keras, tf_keras], ids=["keras3", "tf_keras"])
@pytest.mark.parametrize("root", ["", "model_weights/"])
def test_what_is_written_as_keras_2_loads(tmp_path: Path, lib, root: str) -> None:
    model = randomised(net(tf_keras))
    model.save_weights(tmp_path / "theirs.h5")
    _, tensors = read(tmp_path / "theirs.h5", "keras2-h5")
    write(tmp_path / "ours.h5", {root + name: array for name, array in tensors.items()})
    clone = net(lib)
    clone.load_weights(str(tmp_path / "ours.h5"))
    assert same(tensors, clone)


def test_long_lists_of_names_are_cut_as_hdf5_wants(tmp_path: Path) -> None:
    tensors = {f"{'block' * 12}_{i}/kernel_{'x' * 60}:0": random_array((2,), "float32", i) for i in range(1500)}
    _, back = read(write(tmp_path / "m.h5", tensors), "keras2-h5")
    assert list(back) == list(tensors)
    with h5py.File(tmp_path / "m.h5") as file:
        assert "layer_names1" in file.attrs and "layer_names" not in file.attrs


def test_a_name_of_another_spelling_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="'weight' is not a Keras 2 name"):
        write(tmp_path / "m.h5", {"weight": np.ones(2)})
    assert not list(tmp_path.iterdir())
