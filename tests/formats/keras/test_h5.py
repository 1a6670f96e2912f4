"""Keras 3 weights against the real Keras 3."""

from __future__ import annotations

from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from converter.errors import FormatError, OutputError, UnsafeFileError
from converter.formats import Contents, by_name, open_reader, open_writer
from tests.formats.contract import FormatContract, random_array, same_bits, specs_of


class TestContract(FormatContract):
    format = "keras-h5"
    file_name = "mlp.weights.h5"
    names = ("layers/dense/vars/0", "layers/dense/vars/1")
    dtypes = tuple(
        "float32 float64 float16 bfloat16 bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 complex64 complex128 "
        "float8_e4m3fn float8_e5m2 int4".split()
    )


DEFAULT = ("layers/dense", "layers/dense_1")
ATTRIBUTES = ("hidden", "out")
LINKS = {"hidden": "layers/dense", "out": "layers/dense_1"}
SHAPES = ((20, 256), (256,), (256, 10), (10,))


class MLP(keras.Model):
    def __init__(self):
        super().__init__()
        self.flatten = keras.layers.Flatten()
        self.hidden = keras.layers.Dense(256, activation="relu")
        self.out = keras.layers.Dense(10)

    def call(self, x):
        return self.out(self.hidden(self.flatten(x)))


class Reversed(MLP):
    """The same attributes, made in another order, which swaps the counters of ``layers/dense``."""

    def __init__(self):
        keras.Model.__init__(self)
        self.out = keras.layers.Dense(10)
        self.hidden = keras.layers.Dense(256, activation="relu")
        self.flatten = keras.layers.Flatten()


class OutputLayer(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(256, activation="relu")
        self.output_layer = keras.layers.Dense(10)

    def call(self, x):
        return self.output_layer(self.hidden(x))


def sequential():
    return keras.Sequential(
        [keras.layers.Flatten(), keras.layers.Dense(256, activation="relu"), keras.layers.Dense(10)]
    )


def functional():
    inputs = keras.Input((20,))
    hidden = keras.layers.Dense(256, activation="relu", name="hidden")(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.Dense(10, name="out")(hidden))


def write(path: Path, tensors, **contents) -> Path:
    with open_writer(by_name("keras-h5"), path, Contents(specs_of(tensors), **contents)) as writer:
        for name, array in tensors.items():
            writer.write(name, array)
    return path


def read(path: Path):
    row, reader = open_reader(path)
    with reader:
        assert row.name == "keras-h5"
        return reader.contents, {spec.name: np.array(reader.read(spec.name)) for spec in reader.contents.specs}


def mlp_tensors(groups):
    names = [f"{group}/vars/{i}" for group in groups for i in (0, 1)]
    rng = np.random.default_rng(11)
    return {name: rng.normal(size=shape).astype("float32") for name, shape in zip(names, SHAPES, strict=True)}


def randomised(model):
    model(np.zeros((1, 20), "float32")) if not model.built else None
    rng = np.random.default_rng(5)
    model.set_weights([rng.normal(size=w.shape).astype(np.asarray(w).dtype) for w in model.get_weights()])
    return model


@pytest.mark.parametrize("build", [sequential, functional, MLP, Reversed])
@pytest.mark.parametrize(
    ("groups", "links"),
    [
        (DEFAULT, LINKS),
        (ATTRIBUTES, {path: name for name, path in LINKS.items()}),
    ],
    ids=["default layout", "by attributes"],
)
def test_one_file_with_links_loads_into_every_kind_of_model(tmp_path: Path, build, groups, links) -> None:
    tensors = mlp_tensors(groups)
    path = write(tmp_path / "mlp.weights.h5", tensors, links=links)
    model = build()
    model(np.zeros((1, 20), "float32"))
    model.load_weights(path)
    found = {array.shape: array for array in model.get_weights()}
    assert all(same_bits(found[array.shape], array) for array in tensors.values())


@pytest.mark.parametrize(
    ("groups", "build", "loads"),
    [
        (DEFAULT, sequential, True),
        (DEFAULT, functional, True),
        (DEFAULT, MLP, True),
        (DEFAULT, OutputLayer, True),
        (DEFAULT, Reversed, False),
        (ATTRIBUTES, MLP, True),
        (ATTRIBUTES, Reversed, True),
        (ATTRIBUTES, sequential, False),
        (ATTRIBUTES, functional, False),
        (ATTRIBUTES, OutputLayer, False),
    ],
)
def test_without_links_a_layout_loads_only_where_keras_looks_for_it(tmp_path: Path, groups, build, loads) -> None:
    tensors = mlp_tensors(groups)
    path = write(tmp_path / "mlp.weights.h5", tensors)
    model = build()
    model(np.zeros((1, 20), "float32"))
    if not loads:
        with pytest.raises(ValueError, match="could not be loaded"):
            model.load_weights(path)
        return
    model.load_weights(path)
    found = {array.shape: array for array in model.get_weights()}
    assert all(same_bits(found[array.shape], array) for array in tensors.values())


@pytest.mark.parametrize("build", [sequential, functional, MLP])
def test_what_keras_wrote_is_read_in_its_order(tmp_path: Path, build) -> None:
    model = randomised(build())
    model.save_weights(tmp_path / "mlp.weights.h5")
    contents, tensors = read(tmp_path / "mlp.weights.h5")
    assert all(same_bits(a, b) for a, b in zip(tensors.values(), model.get_weights(), strict=True))
    assert contents.labels["vars"] == model.name
    assert {name for group, name in contents.labels.items() if group != "vars"} == {
        layer.name for layer in model.layers
    }


def test_labels_are_the_names_of_the_layers_and_are_written_as_keras_does(tmp_path: Path) -> None:
    model = randomised(functional())
    model.save_weights(tmp_path / "keras.weights.h5")
    contents, tensors = read(tmp_path / "keras.weights.h5")
    assert contents.labels["layers/dense/vars"] == "hidden" and contents.labels["layers/dense_1/vars"] == "out"
    write(tmp_path / "ours.weights.h5", tensors, labels=contents.labels)
    assert read(tmp_path / "ours.weights.h5")[0].labels == contents.labels
    assert described(tmp_path / "ours.weights.h5") == described(tmp_path / "keras.weights.h5")


def described(path: Path):
    """Every object with its type and its attributes."""
    found = {}

    def visit(name, item):
        data = item[()].tobytes() if isinstance(item, h5py.Dataset) else None
        kinds = {key: (value, str(item.attrs.get_id(key).dtype)) for key, value in item.attrs.items()}
        found[name] = (type(item).__name__, getattr(item, "dtype", None), data, kinds)

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def test_bfloat16_is_written_as_keras_does(tmp_path: Path) -> None:
    def build():
        model = keras.Sequential([keras.layers.Dense(3, dtype="bfloat16")])
        model.build((None, 2))
        return model

    model = build()
    model.save_weights(tmp_path / "keras.weights.h5")
    contents, tensors = read(tmp_path / "keras.weights.h5")
    assert {str(array.dtype) for array in tensors.values()} == {"bfloat16"}
    write(tmp_path / "ours.weights.h5", tensors, labels=contents.labels)
    assert described(tmp_path / "ours.weights.h5") == described(tmp_path / "keras.weights.h5")
    clone = build()
    clone.load_weights(tmp_path / "ours.weights.h5")
    assert all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(clone.get_weights(), model.get_weights(), strict=True)
    )


def test_layers_come_in_the_order_of_the_model_not_of_their_names(tmp_path: Path) -> None:
    layers = [keras.layers.Input((8, 8, 3))]
    for i in range(40):
        layers += [keras.layers.Conv2D(4 + i % 3, 1, use_bias=i % 2 == 0), keras.layers.BatchNormalization()]
    model = randomised(keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(70)]))
    model.save_weights(tmp_path / "deep.weights.h5")
    _, tensors = read(tmp_path / "deep.weights.h5")
    assert [a.tobytes() for a in tensors.values()] == [
        a.tobytes() for layer in model.layers for a in layer.get_weights()
    ]


def test_variables_are_ordered_by_number_and_links_are_listed_once(tmp_path: Path) -> None:
    tensors = {f"layers/many/vars/{i}": random_array((2,), "float32", i) for i in range(12)}
    contents, back = read(write(tmp_path / "m.weights.h5", tensors, links={"a": "layers/many"}))
    assert list(back) == list(tensors)
    assert contents.links == {"a": "layers/many"}


def test_a_link_to_nothing_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the link 'out' leads to 'layers/dense_1', which holds no tensor"):
        write(tmp_path / "m.weights.h5", mlp_tensors((*DEFAULT[:1], "x")), links=LINKS)
    assert not list(tmp_path.iterdir())


def test_what_leads_outside_is_refused(tmp_path: Path) -> None:
    def made(name, make):
        with h5py.File(tmp_path / name, "w") as file:
            make(file)
        return tmp_path / name

    layout = h5py.VirtualLayout((2,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (2,))
    unsafe = {
        "external.h5": lambda f: f.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/x")),
        "virtual.h5": lambda f: f.create_virtual_dataset("x", layout),
        "storage.h5": lambda f: f.create_dataset("x", (4,), "u1", external=[("/etc/passwd", 0, 4)]),
    }
    for name, make in unsafe.items():
        with pytest.raises(UnsafeFileError, match="'x'"):
            read(made(name, make))


def test_what_is_no_array_of_numbers_is_refused_and_what_is_harmless_left_out(tmp_path: Path) -> None:
    kinds = {"compound": [("a", "f4"), ("b", "i4")], "array": ("f4", (3,)), "object": h5py.ref_dtype}
    for name, kind in kinds.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset("x", (2,), kind)
        with pytest.raises(FormatError, match="'x' has the type"):
            read(tmp_path / f"{name}.h5")
    with h5py.File(tmp_path / "left.h5", "w") as file:
        file["w"] = np.arange(3)
        file["note"] = "text"
        file["soft"] = h5py.SoftLink("/w")
        file["loop"] = file
    contents, tensors = read(tmp_path / "left.h5")
    assert list(tensors) == ["w"]
    assert {left.name: left.reason for left in contents.left_out} == {
        "note": "holds text or nothing, not numbers",
        "soft": "a soft link to '/w'",
    }


def test_a_shape_without_bytes_behind_it_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    for name, options in {"late": {}, "chunked": {"chunks": (1 << 20,), "compression": "gzip"}}.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset("x", (1 << 40,), "f4", **options)
        with pytest.raises(FormatError, match=r"would take|takes 4398046511104 bytes"):
            read(tmp_path / f"{name}.h5")
