"""TensorFlow checkpoints against the real TensorFlow, tf_keras and Keras 3."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from converter.errors import FormatError, OutputError
from converter.formats import Contents, ReadOptions, by_name, open_reader, open_writer
from converter.formats.tensorflow.types import DTYPE_OF_CODE
from tests.formats.contract import FormatContract, random_array, same_bits, specs_of

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
SHAPES = {"hidden/kernel": (20, 256), "hidden/bias": (256,), "out/kernel": (256, 10), "out/bias": (10,)}
MLP = {
    path + SUFFIX: np.random.default_rng(seed).normal(size=shape).astype("float32")
    for seed, (path, shape) in enumerate(SHAPES.items())
}
#: One file for nets that call the same variables otherwise: `tf.train.Checkpoint(model=net)`, the layers of a
#: tf_keras Sequential or Functional, Keras 3's ``_kernel``, and its Sequential of [Flatten, Dense, Dense].
LINKS = {
    "model": "",
    "layer_with_weights-0": "hidden",
    "layer_with_weights-1": "out",
    "hidden/_kernel": "hidden/kernel",
    "out/_kernel": "out/kernel",
    "_functional/_operations/2": "hidden",
    "_functional/_operations/3": "out",
    "_operations/2": "hidden",
    "_operations/3": "out",
}


class TestContract(FormatContract):
    format = "tf-checkpoint"
    file_name = "mlp.ckpt"
    names = (f"hidden/kernel{SUFFIX}", f"hidden/bias{SUFFIX}")
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


def contents_of(path: Path, **options):
    row, reader = open_reader(path, ReadOptions(**options))
    with reader:
        assert row.name.startswith("tf-")
        return reader.contents


def read(path: Path, **options):
    row, reader = open_reader(path, ReadOptions(**options))
    with reader:
        assert row.name.startswith("tf-")
        return {spec.name: np.array(reader.read(spec.name)) for spec in reader.contents.specs}


def subclassed(lib):
    class MLPNet(lib.Model):
        def __init__(self):
            super().__init__()
            self.flatten = lib.layers.Flatten()
            self.hidden = lib.layers.Dense(256, activation="relu")
            self.out = lib.layers.Dense(10)

        def call(self, x):
            return self.out(self.hidden(self.flatten(x)))

    return MLPNet()


def sequential(lib):
    return lib.Sequential([lib.layers.Flatten(), lib.layers.Dense(256, activation="relu"), lib.layers.Dense(10)])


def functional(lib):
    inputs = lib.Input((20,))
    hidden = lib.layers.Dense(256, activation="relu", name="hidden")(lib.layers.Flatten()(inputs))
    return lib.Model(inputs, lib.layers.Dense(10, name="out")(hidden))


def built(build, lib):
    net = build(lib)
    net(np.zeros((1, 20), "float32"))
    return net


def holds_mlp(net) -> bool:
    return all(same_bits(np.asarray(a), b) for a, b in zip(net.get_weights(), MLP.values(), strict=True))


@pytest.fixture(scope="module")
def linked(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("linked") / "mlp.params", MLP, LINKS)


@pytest.mark.parametrize("build", [subclassed, sequential, functional])
def test_tf_keras_loads_weights(linked: Path, build) -> None:
    net = built(build, tf_keras)
    net.load_weights(str(linked)).assert_consumed().assert_existing_objects_matched()
    assert holds_mlp(net)


@pytest.mark.parametrize("build", [subclassed, functional])
def test_tf_keras_loads_weights_before_it_is_built(linked: Path, build) -> None:
    net = build(tf_keras)
    status = net.load_weights(str(linked))
    net(np.zeros((1, 20), "float32"))
    status.assert_consumed()
    assert holds_mlp(net)


@pytest.mark.parametrize("method", ["read", "restore"])
@pytest.mark.parametrize(
    "wrap", [tf.train.Checkpoint, lambda net: tf.train.Checkpoint(model=net)], ids=["root", "model"]
)
@pytest.mark.parametrize("build", [subclassed, sequential, functional])
@pytest.mark.parametrize("lib", [keras, tf_keras], ids=["keras3", "tf_keras"])
def test_train_checkpoint_restores_all(linked: Path, lib, build, wrap, method) -> None:
    net = built(build, lib)
    status = getattr(wrap(net), method)(str(linked))
    status.assert_existing_objects_matched()
    status.assert_consumed()
    assert holds_mlp(net)


def test_train_checkpoint_restores_plain_variables_of_every_dtype(tmp_path: Path) -> None:
    dtypes = [name for name in TestContract.dtypes if name not in ("float4_e2m1fn", "float8_e4m3b11fnuz")]
    tensors = {f"v/{name}{SUFFIX}": random_array((2, 3), name, 5) for name in dtypes}
    prefix = write(tmp_path / "x", tensors)
    loaded = tf.train.load_checkpoint(str(prefix))
    for name, array in tensors.items():
        assert loaded.get_tensor(name).tobytes() == array.tobytes(), name


def test_plain_names_are_read_by_tensorflow_as_by_version_1(tmp_path: Path) -> None:
    tensors = {"dense/kernel": random_array((3, 2), "float32"), "x y/é": random_array((), "int64", 2)}
    loaded = tf.train.load_checkpoint(str(write(tmp_path / "model.ckpt-5", tensors)))
    assert set(loaded.get_variable_to_shape_map()) == set(tensors)
    assert all(loaded.get_tensor(name).tobytes() == array.tobytes() for name, array in tensors.items())


def test_plain_names_come_in_natural_order(tmp_path: Path) -> None:
    tensors = {f"layer_{i}/kernel": random_array((i % 7, 3), "float32", i) for i in range(200)}
    names = list(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "theirs"), tensor_names=names, shape_and_slices=[""] * 200, tensors=list(tensors.values())
    )
    theirs = read(tmp_path / "theirs")
    assert list(theirs) == sorted(tensors, key=lambda name: int(name.split("/")[0][6:]))
    assert all(same_bits(theirs[name], array) for name, array in tensors.items())


@pytest.mark.parametrize("lib", [keras, tf_keras], ids=["keras3", "tf_keras"])
@pytest.mark.parametrize("build", [subclassed, sequential, functional])
def test_what_train_checkpoint_wrote_is_read(tmp_path: Path, lib, build) -> None:
    net = built(build, lib)
    prefix = tf.train.Checkpoint(model=net).save(str(tmp_path / "ckpt"))
    back = read(Path(prefix))
    assert all(same_bits(a, np.asarray(b)) for a, b in zip(back.values(), net.get_weights(), strict=True))
    assert {left.name: left.reason for left in contents_of(Path(prefix)).left_out} == {
        GRAPH: "the object graph of the checkpoint",
        "save_counter" + SUFFIX: "counts how often the checkpoint was saved",
    }


def test_what_tf_keras_wrote_is_read_with_names_and_layers(tmp_path: Path) -> None:
    net = built(functional, tf_keras)
    net.save_weights(str(tmp_path / "mlp.params"))
    contents = contents_of(tmp_path / "mlp.params")
    assert [spec.name for spec in contents.specs] == [
        f"layer_with_weights-{i}/{leaf}{SUFFIX}" for i in (0, 1) for leaf in ("kernel", "bias")
    ]
    assert contents.labels == {"layer_with_weights-0": "hidden", "layer_with_weights-1": "out"}
    assert contents.links == {"layer-2": "layer_with_weights-0", "layer-3": "layer_with_weights-1"}


@pytest.mark.parametrize("given", ["", ".index", ".data-00000-of-00001", "folder", "state"])
def test_every_way_to_name_a_checkpoint(tmp_path: Path, given: str) -> None:
    built(subclassed, tf_keras).save_weights(str(tmp_path / "mlp.params"))
    paths = {"folder": tmp_path, "state": tmp_path / "checkpoint"}
    assert len(read(paths.get(given, tmp_path / f"mlp.params{given}"))) == 4


def test_a_folder_gives_its_newest_checkpoint_or_the_step_asked_for(tmp_path: Path) -> None:
    net = tf.train.Checkpoint(v=tf.Variable(1.0))
    for value in range(1, 12):
        net.v.assign(value)
        net.save(str(tmp_path / "ckpt"))
    assert read(tmp_path)["v" + SUFFIX] == 11
    assert read(tmp_path, step=9)["v" + SUFFIX] == 9
    (tmp_path / "checkpoint").unlink()
    assert read(tmp_path)["v" + SUFFIX] == 11  # as a number: 11 comes after 9
    with pytest.raises(FormatError, match="the folder holds no checkpoint of step 40, only 'ckpt-1'"):
        read(tmp_path, step=40)


def test_the_state_file_may_name_a_folder_that_is_gone(tmp_path: Path) -> None:
    write(tmp_path / "a", MLP)
    write(tmp_path / "b", {"x": np.float32(1)})
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/gone/b"\nall_model_checkpoint_paths: "/gone/a"\n')
    assert list(read(tmp_path)) == ["x"]


def test_several_checkpoints_and_no_rule_are_listed(tmp_path: Path) -> None:
    write(tmp_path / "best", MLP)
    write(tmp_path / "last", MLP)
    with pytest.raises(FormatError, match="several checkpoints: 'best', 'last'"):
        read(tmp_path)


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "m", MLP)
    (tmp_path / "m.data-00000-of-00001").unlink()
    with pytest.raises(FormatError, match=r"m\.data-00000-of-00001: there is no such file beside"):
        read(tmp_path / "m")


def test_a_wrong_checksum_is_an_error_unless_verifying_is_off(tmp_path: Path) -> None:
    write(tmp_path / "m", MLP)
    data = tmp_path / "m.data-00000-of-00001"
    raw = bytearray(data.read_bytes())
    raw[-5] ^= 1
    data.write_bytes(raw)
    with pytest.raises(FormatError, match=r"'out/kernel.*' is damaged: wrong checksum"):
        read(tmp_path / "m")
    assert len(read(tmp_path / "m", checksums=False)) == 4


def test_other_files_of_the_folder_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_text("mine")
    write(tmp_path / "m", MLP)
    assert (tmp_path / "checkpoint").read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint", "m.data-00000-of-00001", "m.index"]


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="a link leads to 'nothing', which holds no tensor"):
        write(tmp_path / "m", MLP, {"a": "nothing"})
    assert not list(tmp_path.iterdir())


def test_odd_attribute_names_are_escaped(tmp_path: Path) -> None:
    root = tf.Module()
    root.d = {"x/y": tf.Variable([1, 2]), "z.": tf.Variable([3.5]), ".S": tf.Variable(7.0)}
    tf.train.Checkpoint(root).write(str(tmp_path / "theirs"))
    back = read(tmp_path / "theirs")
    assert set(back) == {f"d/x.Sy{SUFFIX}", f"d/z..{SUFFIX}", f"d/..S{SUFFIX}"}
    write(tmp_path / "ours", back)
    clone = tf.Module()
    clone.d = {name: tf.Variable(tf.zeros_like(value)) for name, value in root.d.items()}
    tf.train.Checkpoint(clone).read(str(tmp_path / "ours")).assert_consumed()
    assert all(same_bits(clone.d[name].numpy(), root.d[name].numpy()) for name in root.d)


OPTIMIZER = "state of the optimizer"


def trained(lib):
    net = built(subclassed, lib)
    net.compile("adam", "mse", metrics=["mae"])
    net.fit(np.ones((4, 20), "float32"), np.ones((4, 10), "float32"), verbose=0)
    return net


@pytest.mark.parametrize("name", ["optimizer", "opt"])
@pytest.mark.parametrize("lib", [keras, tf_keras], ids=["keras3", "tf_keras"])
def test_optimizers_are_left_out_whatever_they_are_called(tmp_path: Path, lib, name: str) -> None:
    net = trained(lib)
    prefix = tf.train.Checkpoint(model=net, **{name: net.optimizer}).save(str(tmp_path / "ck"))
    assert all(same_bits(a, np.asarray(b)) for a, b in zip(read(Path(prefix)).values(), net.get_weights(), strict=True))
    left_out = contents_of(Path(prefix)).left_out
    assert {left.name.split("/")[0] for left in left_out if left.reason == OPTIMIZER} == {name}


def test_slots_of_old_optimizers_are_left_out(tmp_path: Path) -> None:
    net = built(subclassed, tf_keras)
    net.compile(tf_keras.optimizers.legacy.Adam(), "mse")
    net.fit(np.ones((4, 20), "float32"), np.ones((4, 10), "float32"), verbose=0)
    net.save_weights(str(tmp_path / "m"))
    contents = contents_of(tmp_path / "m")
    assert len(contents.specs) == 4
    slot = f"hidden/kernel/.OPTIMIZER_SLOT/optimizer/m{SUFFIX}"
    assert {left.name: left.reason for left in contents.left_out}[slot] == OPTIMIZER


def test_a_saved_model_of_tf_keras_is_read_without_metrics_and_optimizer(tmp_path: Path) -> None:
    net = trained(tf_keras)
    net.save(str(tmp_path / "saved"), save_format="tf")
    contents = contents_of(tmp_path / "saved")
    assert len(contents.specs) == 4 and contents.writer == f"tensorflow {tf.__version__}"
    assert {left.reason for left in contents.left_out} >= {OPTIMIZER, "state of a metric"}
    back = read(tmp_path / "saved")
    assert all(same_bits(a, np.asarray(b)) for a, b in zip(back.values(), net.get_weights(), strict=True))


@pytest.mark.parametrize("version", [1, 2])
def test_partitioned_variables_of_graphs_are_joined_and_their_slots_left_out(tmp_path: Path, version: int) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default():
        with v1.variable_scope("net", partitioner=v1.fixed_size_partitioner(3)):
            kernel = v1.get_variable("w", (7, 4), initializer=v1.random_normal_initializer())
        bias = v1.get_variable("b", (4,), initializer=v1.random_normal_initializer())
        step = v1.train.get_or_create_global_step()
        loss = tf.reduce_sum(tf.matmul(tf.ones((2, 7)), kernel) + bias)
        train = v1.train.AdamOptimizer().minimize(loss, global_step=step)
        saver = v1.train.Saver(write_version=version)
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            session.run(train)
            saver.save(session, str(tmp_path / "m"), global_step=step)
            expected = {"b": session.run(bias), "net/w": session.run(tf.convert_to_tensor(kernel))}
    for path in (tmp_path, tmp_path / "m-1"):
        back = read(path)
        assert set(back) == set(expected)
        assert all(same_bits(back[name], array) for name, array in expected.items())
    assert {left.name for left in contents_of(tmp_path).left_out} >= {"b/Adam", "net/w/Adam_1", "global_step"}


def test_several_data_files_are_read(tmp_path: Path) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default():
        for device in (0, 1):
            with tf.device(f"/cpu:{device}"):
                v1.get_variable(f"v{device}", initializer=tf.constant(MLP["out/bias" + SUFFIX]) + device)
        config = v1.ConfigProto(device_count={"CPU": 2}, allow_soft_placement=True)
        with v1.Session(config=config) as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver(sharded=True).save(session, str(tmp_path / "m"))
    expected = {f"v{device}": MLP["out/bias" + SUFFIX] + np.float32(device) for device in (0, 1)}
    assert len(list(tmp_path.glob("m.data-*-of-00002"))) == 2
    back = read(tmp_path / "m")
    assert set(back) == set(expected)
    assert all(same_bits(back[name], array) for name, array in expected.items())
