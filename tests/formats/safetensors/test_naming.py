"""What the metadata of a safetensors file says of its names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.core.contents import Contents
from converter.errors import ConversionError
from converter.formats.safetensors.file import FileReader, FileWriter
from converter.formats.safetensors.naming import named, ties
from tests.frameworks.test_mlx import random, written


def tied_net() -> Any:
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(7, 4)
            self.block = torch.nn.Linear(4, 4)
            self.lm_head = torch.nn.Linear(4, 7, bias=False)
            self.lm_head.weight = self.embed.weight

    return Net()


def test_what_save_model_left_out_is_there(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_model, save_model

    net = tied_net()
    save_model(net, str(tmp_path / "net.safetensors"))
    with FileReader(tmp_path / "net.safetensors") as reader:
        names = [spec.name for spec in reader.contents.specs]
        assert names == ["block.bias", "block.weight", "embed.weight", "lm_head.weight"]  # sorted as the file is
        for name, tensor in net.state_dict().items():
            np.testing.assert_array_equal(reader.read(name), tensor.numpy())
            np.testing.assert_array_equal(reader.peek(name).reshape(tensor.shape), tensor.numpy())
    converter.convert("torch->torch", tmp_path / "net.safetensors", tmp_path / "net.pt")
    assert torch.load(tmp_path / "net.pt").keys() == net.state_dict().keys()
    # a clone that was saved so gets its weights as it was saved, and the library loads them
    other = tied_net()
    save_model(other, str(tmp_path / "clone.safetensors"))
    converter.convert(
        "torch->torch", tmp_path / "net.pt", tmp_path / "out.safetensors", like=tmp_path / "clone.safetensors"
    )
    load_model(other, str(tmp_path / "out.safetensors"), strict=True)
    assert torch.equal(other.lm_head.weight, net.lm_head.weight)
    # untied weights do not fit it
    state = {**net.state_dict(), "lm_head.weight": torch.randn(7, 4)}
    torch.save(state, tmp_path / "untied.pt")
    with pytest.raises(ConversionError, match=r"is tied to '.*' in the clone, and has other values"):
        converter.convert(
            "torch->torch", tmp_path / "untied.pt", tmp_path / "x.safetensors", like=tmp_path / "clone.safetensors"
        )
    assert not list(tmp_path.glob("*x.safetensors*"))


def test_shards_hold_each_tensor(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_model

    net = tied_net()
    save_model(net, str(tmp_path / "net.safetensors"))
    out, clone = tmp_path / "out.safetensors.index.json", tmp_path / "net.safetensors"
    converter.convert("torch->torch", clone, out, like=clone, max_shard_size=100)
    stored = [name for file in tmp_path.glob("out-*") for name in load_file(file)]
    assert sorted(stored) == sorted(net.state_dict())


def test_a_flax_tree_joined_with_dots(tmp_path: Path) -> None:
    tree = {"model.layers.0.kernel": random(3, 5), "model.layers.0.bias": random(5), "norm.scale": random(5)}
    source = written(tmp_path / "net.safetensors", tree, "flax")
    with FileReader(source) as reader:
        assert {spec.name for spec in reader.contents.specs} == {name.replace(".", "/") for name in tree}
    converter.convert("flax->torch", source, tmp_path / "net.npz")
    np.testing.assert_array_equal(
        np.load(tmp_path / "net.npz")["model.layers.0.weight"], tree["model.layers.0.kernel"].T
    )
    # and back into it as a clone, with its own names
    converter.convert("torch->flax", tmp_path / "net.npz", tmp_path / "out.safetensors", like=source)
    from safetensors.numpy import load_file

    back = load_file(tmp_path / "out.safetensors")
    assert back.keys() == tree.keys()
    for name, array in tree.items():
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize("form", ["np", "numpy", "pt", "unheard of"])
def test_a_format_that_the_names_do_not_fit_is_passed_over(tmp_path: Path, form: str) -> None:
    """Whoever saves arrays of JAX by the library's functions for NumPy, or with its usual metadata."""
    source = written(tmp_path / "net.safetensors", {"a/kernel": random(3, 5), "a/bias": random(5)}, form)
    with converter.open(source) as weights:
        assert weights.framework == "flax"


def test_metadata_that_name_no_tensor_are_no_aliases(tmp_path: Path) -> None:
    array = random(3)
    specs = tuple(FileReader(written(tmp_path / "x.safetensors", {"a": array, "b": array})).contents.specs)
    assert list(named(specs, {"format": "pt", "note": "nothing", "c": "a"})) == ["a", "b", "c"]
    assert list(named(specs, {"b": "a"})) == ["a", "b"]
    assert ties({"a": "b", "b": "a"}, {"a", "b"}) == {}
    with FileWriter(tmp_path / "y.safetensors", Contents(specs, metadata={"a": "b", "b": "a"})) as writer:
        for name in "ab":
            writer.write(name, array)
    with FileReader(tmp_path / "y.safetensors") as reader:
        assert {spec.name for spec in reader.contents.specs} == {"a", "b"}
