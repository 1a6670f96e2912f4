"""Blocks that one framework keeps in one tensor each, and the other apart: both directions, files of real nets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from flax.serialization import from_bytes, to_bytes

import converter
from converter.execution import jobs
from tests.live.test_lockstep import assert_same, randomised

LAYERS, SIZE, INNER = 5, 8, 12
X = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)


class Block(linen.Module):
    @linen.compact
    def __call__(self, x: Any, _: Any) -> Any:
        y = linen.Dense(INNER, name="up")(linen.LayerNorm(name="norm")(x))
        return x + linen.Dense(SIZE, name="down")(jnp.tanh(y)), None


class Scanned(linen.Module):
    axis: int

    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = linen.Dense(SIZE, name="embed")(x)
        axes, split = {"params": self.axis}, {"params": True}
        x, _ = linen.scan(Block, variable_axes=axes, split_rngs=split, length=LAYERS)(name="layers")(x, None)
        return linen.Dense(3, name="head")(x)


class TorchBlock(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up = torch.nn.LayerNorm(SIZE, eps=1e-6), torch.nn.Linear(SIZE, INNER)
        self.down = torch.nn.Linear(INNER, SIZE)

    def forward(self, x: Any) -> Any:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Torch(torch.nn.Module):
    """names: what the author calls the embedding, the blocks and the head."""

    def __init__(self, names: tuple[str, str, str] = ("embed", "layers", "head")) -> None:
        super().__init__()
        self.names = names
        blocks = torch.nn.ModuleList(TorchBlock() for _ in range(LAYERS))
        for name, module in zip(names, (torch.nn.Linear(4, SIZE), blocks, torch.nn.Linear(SIZE, 3)), strict=True):
            self.add_module(name, module)

    def forward(self, x: Any) -> Any:
        first, blocks, last = (self.get_submodule(name) for name in self.names)
        x = first(x)
        for block in blocks:  # type: ignore[attr-defined]
            x = block(x)
        return last(x)


class NnxBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm, self.up = nnx.LayerNorm(SIZE, rngs=rngs), nnx.Linear(SIZE, INNER, rngs=rngs)
        self.down = nnx.Linear(INNER, SIZE, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return x + self.down(jnp.tanh(self.up(self.norm(x))))


class NnxScanned(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        @nnx.split_rngs(splits=LAYERS)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def blocks(rngs: nnx.Rngs) -> NnxBlock:
            return NnxBlock(rngs)

        self.embed, self.head = nnx.Linear(4, SIZE, rngs=rngs), nnx.Linear(SIZE, 3, rngs=rngs)
        self.layers = blocks(rngs)

    def __call__(self, x: Any) -> Any:
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def through(block: NnxBlock, x: Any) -> Any:
            return block(x)

        return self.head(through(self.layers, self.embed(x)))


def values(tree: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), tree)


def of_torch(net: Any) -> Any:
    return net(torch.tensor(X)).detach().numpy()


NAMES = (("embed", "layers", "head"), ("stem", "blocks", "classifier"))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[1])
def test_scanned_layers(tmp_path: Path, axis: int, names: tuple[str, str, str]) -> None:
    module = Scanned(axis)
    variables = values(module.init(jax.random.key(0), X), axis)
    stacked, apart, result = tmp_path / "scanned.msgpack", tmp_path / "apart.pt", tmp_path / "result.pt"
    stacked.write_bytes(to_bytes(variables))
    net = randomised(Torch(names))
    torch.save(net.state_dict(), apart)
    converter.convert("flax->torch", stacked, result, like=apart)
    filled = Torch(names)
    filled.load_state_dict(torch.load(result))
    assert_same(of_torch(filled), module.apply(variables, X))
    assert converter.verify(stacked, result).ok
    back = tmp_path / "back.msgpack"
    converter.convert("torch->flax", apart, back, like=stacked)
    assert_same(module.apply(from_bytes(variables, back.read_bytes()), X), of_torch(net))


def test_layers_of_nnx_live() -> None:
    net = randomised(Torch())
    clone = converter.load_into(NnxScanned(nnx.Rngs(0)), net)
    assert_same(clone(X), of_torch(net))
    assert_same(of_torch(converter.load_into(Torch(), clone)), clone(X))


def test_without_a_clone_it_is_asked_and_said(tmp_path: Path) -> None:
    module = Scanned(0)
    variables = values(module.init(jax.random.key(0), X), 3)
    (tmp_path / "scanned.msgpack").write_bytes(to_bytes(variables))
    with pytest.raises(converter.MatchError, match=r"several layers in one"):
        converter.convert("flax->torch", tmp_path / "scanned.msgpack", tmp_path / "no.pt")
    converter.convert("flax->torch", tmp_path / "scanned.msgpack", tmp_path / "yes.pt", stacked={"layers": 0})
    net = Torch()
    net.load_state_dict(torch.load(tmp_path / "yes.pt"))
    assert_same(of_torch(net), module.apply(variables, X))


def test_layers_of_a_stack_are_reused(tmp_path: Path) -> None:
    variables = values(Scanned(0).init(jax.random.key(0), X), 6)
    (tmp_path / "scanned.msgpack").write_bytes(to_bytes(variables))
    torch.save(Torch().state_dict(), tmp_path / "new.pt")
    ends = tmp_path / "scanned.msgpack", tmp_path / "new.pt", tmp_path / "merged.pt"
    converter.reuse(ends[0], into=ends[1], output=ends[2], layers="layers.1", stacked={"layers": 0})
    merged, new = torch.load(ends[2]), torch.load(ends[1])
    kernel = variables["params"]["layers"]["up"]["kernel"]
    np.testing.assert_array_equal(merged["layers.1.up.weight"], kernel[1].T)
    assert torch.equal(merged["layers.2.up.weight"], new["layers.2.up.weight"])
    with pytest.raises(converter.ConversionError, match="neither net has a module 'blocks'"):
        converter.reuse(ends[0], into=ends[1], output=ends[2], layers="layers.1", stacked={"blocks": 0}, force=True)


def test_the_second_axis_is_offered_where_it_could_be(tmp_path: Path) -> None:
    module = Scanned(1)
    (tmp_path / "scanned.msgpack").write_bytes(to_bytes(module.init(jax.random.key(0), X)))
    with pytest.raises(converter.MatchError) as error:
        converter.convert("flax->torch", tmp_path / "scanned.msgpack", tmp_path / "no.pt")
    ways = {way.value for problem in error.value.problems for way in problem.remedies if way.option == "stacked"}
    assert ways == {("layers.up", 1), ("layers.down", 1)}  # of a matrix alone either axis could be it
    converter.convert("flax->torch", tmp_path / "scanned.msgpack", tmp_path / "yes.pt", stacked={"layers": 1})


@pytest.mark.parametrize(
    ("stacked", "message"),
    [({"layer": 0}, "module 'layer'. Did you mean 'layers'"), ({"layers": 1}, "no one size along axis 1")],
)
def test_what_is_said_wrongly(tmp_path: Path, stacked: dict[str, int], message: str) -> None:
    variables = Scanned(0).init(jax.random.key(0), X)
    (tmp_path / "scanned.msgpack").write_bytes(to_bytes(variables))
    with pytest.raises(converter.ConversionError, match=message):
        converter.convert("flax->torch", tmp_path / "scanned.msgpack", tmp_path / "no.pt", stacked=stacked)


class Wide(linen.Module):
    """Of large layers; only their shapes matter."""

    @linen.compact
    def __call__(self, x: Any, _: Any) -> Any:
        return linen.Dense(WIDTH, use_bias=False, name="dense")(x), None


WIDTH, DEEP = 1200, 3  # 5.8 MB a layer


@pytest.mark.parametrize("ending", ["msgpack", "safetensors", "orbax"])
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_large_layers_are_written_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, dtype: str | None
) -> None:
    """No tensor that is read or computed on the way is as large as the whole."""
    rng = np.random.default_rng(5)
    apart = {f"layers.{place}.dense.weight": rng.random((WIDTH, WIDTH), np.float32) for place in range(DEEP)}
    torch.save({name: torch.tensor(array) for name, array in apart.items()}, tmp_path / "apart.pt")
    scanned = linen.scan(Wide, variable_axes={"params": 0}, split_rngs={"params": True}, length=DEEP)
    shapes = jax.eval_shape(scanned(name="layers").init, jax.random.key(0), np.zeros((1, WIDTH), np.float32), None)
    clone = {"params": {"layers": jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes["params"])}}
    (tmp_path / "clone.msgpack").write_bytes(to_bytes(clone))
    seen: list[int] = []
    transformed = jobs._transformed

    def watched(*arguments: Any) -> Any:
        array = transformed(*arguments)
        seen.append(array.nbytes)
        return array

    monkeypatch.setattr(jobs, "_transformed", watched)
    output = tmp_path / f"out.{ending}"
    converter.convert("torch->flax", tmp_path / "apart.pt", output, like=tmp_path / "clone.msgpack", dtype=dtype)
    assert len(seen) == DEEP and max(seen) <= WIDTH * WIDTH * 4
    with converter.open(output, framework="flax") as weights:
        (name,) = weights
        expected = np.stack([array.T for array in apart.values()]).astype(dtype or np.float32)
        np.testing.assert_array_equal(weights[name], expected)
