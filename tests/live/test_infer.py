"""A schema that lockstep wrote: it converts files of these nets, in both directions, where files alone do not tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

import converter
from tests.live.test_example_input import forward
from tests.live.test_lockstep import assert_same, randomised

CHANNELS, SIZE = 4, 5


class Branches(torch.nn.Module):
    """Two branches that could as well be each other, and features that are flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.left = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.right = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.last = torch.nn.Linear(CHANNELS * SIZE * SIZE, 6)

    def forward(self, x: Any) -> Any:
        return self.last((torch.tanh(self.left(x)) - self.right(x)).flatten(1))


def keras_branches() -> Any:
    """Made the other way round."""
    image = keras.Input((SIZE, SIZE, CHANNELS))
    subtracted = keras.layers.Conv2D(CHANNELS, 3, padding="same", name="one")(image)
    taken = keras.layers.Conv2D(CHANNELS, 3, padding="same", activation="tanh", name="two")(image)
    flat = keras.layers.Flatten()(keras.layers.subtract([taken, subtracted]))
    return keras.Model(image, keras.layers.Dense(6, name="three")(flat))


@pytest.fixture(name="last")
def images_with_channels_last() -> Any:
    return np.random.default_rng(1).normal(size=(3, SIZE, SIZE, CHANNELS)).astype(np.float32)


def test_both_directions(tmp_path: Path, last: Any) -> None:
    first = np.ascontiguousarray(np.moveaxis(last, -1, 1))
    net, other = randomised(Branches()), keras_branches()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    schema = tmp_path / "mine.yaml"
    schema.write_text(converter.infer_schema(net, other, example_input=last))
    written = tmp_path / "there.weights.h5"
    keras_branches().save_weights(tmp_path / "clone.weights.h5")
    with pytest.raises(converter.MatchError):
        converter.convert("torch->keras", tmp_path / "net.pt", written, like=tmp_path / "clone.weights.h5")
    converter.convert(
        "torch->keras", tmp_path / "net.pt", written, like=tmp_path / "clone.weights.h5", schema=str(schema)
    )
    other.load_weights(written)
    assert_same(forward(other, last), forward(net, first))
    converter.convert("keras->torch", written, tmp_path / "back.pt", schema=str(schema))
    back = Branches()
    back.load_state_dict(torch.load(tmp_path / "back.pt"))
    assert_same(forward(back, first), forward(net, first))


def test_an_example_input_for_two_files_is_refused(tmp_path: Path, last: Any) -> None:
    torch.save(Branches().state_dict(), tmp_path / "net.pt")
    keras_branches().save_weights(tmp_path / "clone.weights.h5")
    with pytest.raises(converter.ConversionError, match="this is for a live net, and both are files"):
        converter.infer_schema(tmp_path / "net.pt", tmp_path / "clone.weights.h5", example_input=last)


class Turned(Branches):
    """Its features are in an order of their own before they are flattened."""

    def forward(self, x: Any) -> Any:
        return self.last((torch.tanh(self.left(x)) - self.right(x)).flip(1).transpose(1, 2).flatten(1))


def test_an_order_that_no_schema_can_say(last: Any) -> None:
    with pytest.raises(converter.ConversionError, match="'last' are in an order of their own"):
        converter.infer_schema(randomised(Turned()), keras_branches(), example_input=last)


def test_the_net_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, last: Any) -> None:
    from converter.cli import main

    net, first = randomised(Branches()), np.ascontiguousarray(np.moveaxis(last, -1, 1))
    monkeypatch.chdir(tmp_path)
    torch.save(net.state_dict(), "net.pt")
    words = "schema infer net.pt tests.live.test_infer:keras_branches --net tests.live.test_infer:Branches"
    with pytest.raises(SystemExit) as end:
        main([*words.split(), "--example-input", f"3,{CHANNELS},{SIZE},{SIZE}"])
    assert not end.value.code
    Path("mine.yaml").write_text(capsys.readouterr().out)
    converter.convert("torch->keras", "net.pt", "there.weights.h5", schema="mine.yaml")
    other = keras_branches()
    other.load_weights("there.weights.h5")
    assert_same(forward(other, last), forward(net, first))
