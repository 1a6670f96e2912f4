"""Which part of a PyTorch file are the weights, and what they are called."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import enum
import functools
import io
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.errors import FormatError
from tests.formats.torch.test_zip import BOTH, assert_same, contents, net, random_tensor, read, save


def left_out(path: Path, **options: Any) -> dict[str, str]:
    return {item.name: item.reason for item in contents(path, **options).left_out}


def training_checkpoint(key: str) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    state = dict(model.state_dict())
    return {
        "epoch": 5,
        key: model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "rng_state": torch.get_rng_state(),
        "best": 0.25,
        "args": argparse.Namespace(lr=0.1, when=datetime.datetime(2024, 1, 2), where=Path("/x")),
    }, state


@BOTH
@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "module", "net", "ema"])
def test_the_weights_of_a_training_checkpoint(tmp_path: Path, key: str, zipped: bool) -> None:
    value, state = training_checkpoint(key)
    path = save(tmp_path / "a.ckpt", value, _use_new_zipfile_serialization=zipped)
    assert_same(read(path), state)
    beside = left_out(path)
    assert set(beside) == {"epoch", "optimizer", "lr_scheduler", "rng_state", "best", "args"}
    assert beside["optimizer"] == "state of the training, not weights"
    assert beside["epoch"] == "not a tensor: 5"


def test_a_lightning_checkpoint_says_its_writer(tmp_path: Path) -> None:
    value, state = training_checkpoint("state_dict")
    value |= {"pytorch-lightning_version": "2.1.0", "hyper_parameters": {"n": 3}, "callbacks": {}, "loops": {"a": 1}}
    value["optimizer_states"] = [value.pop("optimizer")]
    path = save(tmp_path / "a.ckpt", value)
    assert_same(read(path), state)
    assert contents(path).writer == "PyTorch Lightning 2.1.0"
    assert left_out(path)["optimizer_states"] == "state of the training, not weights"


def test_other_weights_are_chosen_with_a_key(tmp_path: Path) -> None:
    value, state = training_checkpoint("model")
    averaged = {name: random_tensor(tuple(t.shape), "float32", 9) for name, t in state.items()}
    value["model_ema"] = {"inner": averaged}
    path = save(tmp_path / "a.ckpt", value)
    assert_same(read(path), state)
    assert left_out(path)["model_ema"] == "other tensors; --key model_ema reads them instead"
    assert_same(read(path, key="model_ema/inner"), averaged)
    assert set(read(path, key="optimizer/state/0")) == {"step", "exp_avg", "exp_avg_sq"}
    with pytest.raises(FormatError, match="no 'modle' of the key 'modle' in it; there is 'epoch', 'model'"):
        read(path, key="modle")


def test_a_key_inside_of_a_key(tmp_path: Path) -> None:
    tensors = {"w": random_tensor((2,), "float32", 1)}
    path = save(tmp_path / "a", {"model": {"state_dict": tensors, "n": 3}, "step": 1})
    assert_same(read(path), tensors)
    assert left_out(path) == {"step": "not a tensor: 1", "model/n": "not a tensor: 3"}


def test_dicts_of_several_nets_stay_whole(tmp_path: Path) -> None:
    x, y = random_tensor((2,), "float32", 1), random_tensor((3,), "float32", 2)
    path = save(
        tmp_path / "a", {"encoder": {"w": x}, "decoder": {"w": y}, "optimizer_e": torch.optim.SGD([x]).state_dict()}
    )
    assert_same(read(path), {"encoder/w": x, "decoder/w": y})
    path = save(tmp_path / "b", {"model": {"w": x}, "scale": y})
    assert_same(read(path), {"model/w": x, "scale": y})


def test_only_an_optimizer(tmp_path: Path) -> None:
    value, _ = training_checkpoint("model")
    for key, saved in {
        "state": value["optimizer"],
        "0/state": [value["optimizer"]],
        "optimizer": {"optimizer": value["optimizer"], "epoch": 3},
        "rng_state": {"rng_state": torch.get_rng_state()},
    }.items():
        path = save(tmp_path / "optimizer.pt", saved)
        with pytest.raises(FormatError, match="the state of a training") as raised:
            read(path)
        assert raised.value.problems[0].remedies[0].value == key
        assert read(path, key=key)


class Inner(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.scale = torch.nn.Parameter(random_tensor((2,), "float64", 4))
        self.register_buffer("table", random_tensor((4, 2), "int16", 5))
        self.register_buffer("cache", torch.ones(2), persistent=False)
        self.register_parameter("nothing", None)
        self.loose = torch.ones(3)
        self.activation = torch.nn.functional.relu
        self.pair = collections.namedtuple("Pair", "a b")._make([1, 2])._asdict()


class Outer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = Inner()
        self.tied = self.first
        self.blocks = torch.nn.ModuleList([torch.nn.BatchNorm1d(2), torch.nn.LSTM(2, 3)])
        self.names = torch.nn.ModuleDict({"x": torch.nn.PReLU()})
        self.values = torch.nn.ParameterList([torch.nn.Parameter(random_tensor((2,), "bfloat16", 6))])


@BOTH
def test_whole_modules_give_their_state_dict(tmp_path: Path, zipped: bool, recwarn: Any) -> None:
    module = Outer()
    path = save(tmp_path / "net.pt", module, _use_new_zipfile_serialization=zipped)
    assert_same(read(path), dict(module.state_dict()))
    beside = left_out(path)
    assert beside["first.cache"] == "a buffer that the module does not save"
    assert beside["first.loose"] == "neither a parameter nor a buffer of its module"


def test_a_module_inside_of_a_checkpoint(tmp_path: Path) -> None:
    module = Outer()
    path = save(tmp_path / "net.pt", {"epoch": 3, "model": module, "ema": None})
    assert_same(read(path), dict(module.state_dict()))


def test_wrapped_and_compiled_modules(tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in net().state_dict().items()}
    assert_same(read(save(tmp_path / "a", state)), state)


class Colour(enum.Enum):
    RED = 1


class Method(torch.nn.Module):
    """Its bound method is pickled as a call of ``getattr``, its partial class as one of ``functools.partial``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.act = self.do
        self.norm = functools.partial(torch.nn.LayerNorm, eps=1e-3)
        self.state = io.BytesIO(b"extra")
        self.part = slice(1, 2)

    def do(self) -> None:
        pass


def test_modules_that_hold_their_own_methods(tmp_path: Path) -> None:
    module = Method()
    assert_same(read(save(tmp_path / "a", module)), dict(module.state_dict()))


class Config:
    def __init__(self) -> None:
        self.weight = random_tensor((2,), "float32", 1)
        self.me = self
        self.name = "n"


def test_objects_of_unknown_classes(tmp_path: Path) -> None:
    config = Config()
    path = save(tmp_path / "a", {"config": config, "colour": Colour.RED})
    assert_same(read(path), {"config.weight": config.weight})
    assert left_out(path)["colour"].endswith("Colour")


@dataclasses.dataclass
class Settings:
    rate: float = 0.1


def in_a_notebook(thing: type) -> type:
    """The class as one of the program that is run, which no other program can import."""
    thing.__module__ = "__main__"
    setattr(sys.modules["__main__"], thing.__qualname__, thing)
    return thing


@BOTH
def test_things_of_a_notebook_beside_the_weights(tmp_path: Path, zipped: bool) -> None:
    net_class = in_a_notebook(type("my_net", (Inner,), {}))
    colour = in_a_notebook(enum.Enum("Tone", "DARK LIGHT"))  # type: ignore[arg-type]
    value = {
        "model": net_class(),
        "config": in_a_notebook(Settings)(),
        "tone": colour.DARK,  # type: ignore[attr-defined]
        "range": range(3),
        "slice": slice(1, 2),
        "partial": functools.partial(torch.nn.functional.gelu, approximate="tanh"),
        "generator": np.random.default_rng(1),
        "old_generator": np.random.RandomState(1),
        "random": random.Random(3),
    }
    path = save(tmp_path / "a", value, _use_new_zipfile_serialization=zipped)
    assert_same(read(path), dict(value["model"].state_dict()))  # type: ignore[attr-defined]
    assert left_out(path).keys() >= value.keys() - {"model"}


def test_a_module_of_torch_fx(tmp_path: Path) -> None:
    traced = torch.fx.symbolic_trace(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1)))
    assert_same(read(save(tmp_path / "a", traced)), dict(traced.state_dict()))
    weights = {"w": random_tensor((2,), "float32", 1)}
    path = save(tmp_path / "b", {"state_dict": weights, "graph": traced})
    assert_same(read(path), weights)
    assert left_out(path) == {"graph": "other tensors; --key graph reads them instead"}


def test_what_is_beside_the_tensors(tmp_path: Path) -> None:
    value = {
        "w": torch.ones(2),
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "meta": torch.empty(2, device="meta"),
        "vocabulary": {f"word{i}": i for i in range(1000)},
        "long": "x" * 1000,
        "huge": 1 << 5000,
        "numpy": np.float32(2.5),
        "nothing": None,
    }
    path = save(tmp_path / "a", value)
    assert list(read(path)) == ["w", "numpy"]
    beside = left_out(path)
    assert list(beside) == "size dtype device meta vocabulary long huge nothing".split()
    assert beside["vocabulary"] == "holds no weights" and beside["meta"] == "a tensor without data (device meta)"
    assert len(beside["long"]) < 100 and beside["dtype"] == "not a tensor: torch.float16"


def test_tensors_with_attributes_and_of_subclasses(tmp_path: Path) -> None:
    plain, parameter = random_tensor((3,), "float32", 1), torch.nn.Parameter(random_tensor((2,), "float32", 2))
    plain.note, parameter.note = "a", "b"  # type: ignore[attr-defined]
    assert_same(read(save(tmp_path / "a", {"x": plain, "y": parameter})), {"x": plain, "y": parameter})


def test_two_tensors_of_one_name(tmp_path: Path) -> None:
    path = save(tmp_path / "a", {"a/b": torch.ones(1), "a": {"b": torch.ones(1)}})
    with pytest.raises(FormatError, match="'a/b' occurs twice"):
        read(path)


def test_nothing_but_numbers(tmp_path: Path) -> None:
    path = save(tmp_path / "a", {"x": 3})
    assert read(path) == {} and left_out(path) == {"x": "not a tensor: 3"}
    path = save(tmp_path / "a", 3)
    assert read(path) == {} and left_out(path) == {"0": "not a tensor: 3"}
