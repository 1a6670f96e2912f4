"""Multi-head attention in all flavours: the framework's own layer, and hand-made ones of four dense layers.

An output here is that of the net, with all its biases of keys beside it: softmax takes them away, so that no
forward could tell whether they were converted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import keras
import mxnet
import numpy as np
import tensorflow as tf
import tf_keras
import torch
from flax import linen, nnx
from flax.traverse_util import flatten_dict
from mxnet.gluon import nn as gluon

from tests.parity.sides import SIDES, Array, Case, gluon_net, linen_net, to_numpy

BATCH, QUERIES, KEYS = 2, 3, 4


@dataclass(frozen=True)
class Shape:
    """Sizes: of what comes in as queries, keys and values, of a head, of a head's value (0: the same), of the output.

    groups: number of heads of keys and values, where it is not that of queries. names: of the four dense layers of
    a hand-made attention. normed: whether queries and keys go through a layer norm.
    """

    heads: int = 2
    model: int = 6
    key_in: int = 6
    value_in: int = 6
    head: int = 3
    value_head: int = 0
    out: int = 6
    groups: int = 0
    bias: bool = True
    normed: bool = False

    @property
    def key_heads(self) -> int:
        return self.groups or self.heads

    @property
    def value_size(self) -> int:
        return self.value_head or self.head

    def inputs(self) -> tuple[Array, ...]:
        """Queries, keys and values; one for all three where they may be the same."""
        rng = np.random.default_rng(0)
        if self.model == self.key_in == self.value_in:
            return (rng.normal(size=(BATCH, QUERIES, self.model)).astype(np.float32),)
        sizes = ((QUERIES, self.model), (KEYS, self.key_in), (KEYS, self.value_in))
        return tuple(rng.normal(size=(BATCH, *size)).astype(np.float32) for size in sizes)

    def widths(self, names: Sequence[str]) -> Mapping[str, tuple[int, int]]:
        """Sizes in and out of the four projections, or of the two where one makes queries, keys and values."""
        four = (
            (self.model, self.heads * self.head),
            (self.key_in, self.key_heads * self.head),
            (self.value_in, self.key_heads * self.value_size),
            (self.heads * self.value_size, self.out),
        )
        two = ((self.model, sum(made for _, made in four[:3])), four[3])
        return dict(zip(names, four if len(names) == 4 else two, strict=True))


class Signed(np.random.Generator):
    """Weights of both signs, so that the softmax neither saturates nor levels out."""

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        return super().uniform(-high, high, size)


@dataclass(frozen=True)
class AttentionCase(Case):
    #: The part of a tensor's name that marks the layer of keys.
    key: str = "key"

    def random(self, flavour: str, seed: int, target: str = "") -> Any:
        return SIDES[flavour].randomise(self.fresh(flavour), Signed(np.random.PCG64(seed)))

    def run(self, flavour: str, net: Any) -> Array:
        output = to_numpy(SIDES[flavour].run(net, *self.inputs)).ravel()
        biases = key_biases(flavour, net, self.key)
        assert np.ptp(output) > 0.01, "weights that tell nothing"
        return np.concatenate([output, *biases])


def key_biases(flavour: str, net: Any, key: str) -> list[Array]:
    """The biases of keys in the net, flat."""
    found = []
    for name, value in named(flavour, net).items():
        if name.endswith("bias") and any(fused in name for fused in ("in_proj", "qkv", "c_attn")):
            found.append(np.split(value, 3)[1])
        elif key in name.replace("key_ln", "") and name.endswith("bias"):
            found.append(value.ravel())
    return found


def named(flavour: str, net: Any) -> Mapping[str, Array]:
    """Every tensor of a net under a name that tells its layer and its leaf."""
    if flavour == "torch":
        return {name: value.numpy() for name, value in net.state_dict().items()}
    if flavour in ("keras", "tf_keras"):
        return {(v.path if flavour == "keras" else v.name).removesuffix(":0"): np.asarray(v) for v in net.weights}
    if flavour == "gluon":
        return {name: p.data().asnumpy() for name, p in net._collect_params_with_prefix().items()}
    tree = net.variables if flavour == "linen" else nnx.to_pure_dict(nnx.state(net, nnx.Not(nnx.RngState)))
    return {"/".join(map(str, path)): np.asarray(value) for path, value in flatten_dict(tree).items()}


# --- the framework's own layer


def given(inputs: Sequence[Any]) -> Sequence[Any]:
    return inputs if len(inputs) == 3 else (inputs[0],) * 3


class OwnTorch(torch.nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        sizes = {"kdim": shape.key_in, "vdim": shape.value_in}
        self.attn = torch.nn.MultiheadAttention(shape.model, shape.heads, bias=shape.bias, batch_first=True, **sizes)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.attn(*given(inputs), need_weights=False)[0]
        return output


def own_keras(shape: Shape, library: Any) -> Callable[[], Any]:
    def build() -> Any:
        inputs = [library.Input(x.shape[1:]) for x in shape.inputs()]
        query, key, value = given(inputs)
        if shape.groups:
            layer = library.layers.GroupQueryAttention(
                shape.head, shape.heads, shape.groups, use_bias=shape.bias, name="attn"
            )
        else:
            layer = library.layers.MultiHeadAttention(
                shape.heads,
                shape.head,
                shape.value_head or None,
                use_bias=shape.bias,
                output_shape=None if shape.groups else shape.out,
                name="attn",
            )
        return library.Model(inputs[0] if len(inputs) == 1 else inputs, layer(query, value, key))

    return build


class OwnLinen(linen.Module):
    shape: Shape

    @linen.compact
    def __call__(self, *inputs: Any) -> Any:
        shape = self.shape
        return linen.MultiHeadDotProductAttention(
            shape.heads,
            qkv_features=shape.heads * shape.head,
            out_features=shape.out,
            use_bias=shape.bias,
            normalize_qk=shape.normed,
            name="attn",
        )(*given(inputs))


class OwnNnx(nnx.Module):
    def __init__(self, shape: Shape) -> None:
        self.attn = nnx.MultiHeadAttention(
            shape.heads,
            shape.model,
            shape.heads * shape.head,
            shape.out,
            in_kv_features=shape.key_in,
            use_bias=shape.bias,
            normalize_qk=shape.normed,
            decode=False,
            rngs=nnx.Rngs(0),
        )

    def __call__(self, *inputs: Any) -> Any:
        return self.attn(*given(inputs))


# --- hand-made, of four dense layers


class Mixed:
    """What happens between the projections, in terms of the few functions that each framework calls otherwise."""

    def __init__(
        self, shape: Shape, reshape: Any, transpose: Any, softmax: Any, matmul: Any, repeat: Any, split: Any
    ) -> None:
        self.shape, self.repeat, self.split = shape, repeat, split
        self.reshape, self.transpose, self.softmax, self.matmul = reshape, transpose, softmax, matmul

    def heads(self, x: Any, number: int, length: int) -> Any:
        """(batch, length, heads * size) -> (batch, heads, length, size); shared heads stand side by side."""
        split = self.transpose(self.reshape(x, (BATCH, length, number, -1)), (0, 2, 1, 3))
        return split if number == self.shape.heads else self.repeat(split, self.shape.heads // number)

    def __call__(
        self, layers: Sequence[Callable[[Any], Any]], inputs: Sequence[Any], norms: Sequence[Callable[[Any], Any]] = ()
    ) -> Any:
        """The output of the layers, of which the first makes all three projections where there are only two."""
        if len(layers) == 2:
            return layers[1](self.mixed(*self.split(layers[0](inputs[0]))))
        projected = [layer(x) for layer, x in zip(layers, given(inputs), strict=False)]
        return layers[3](self.mixed(*projected, norms))

    def mixed(self, query: Any, key: Any, value: Any, norms: Sequence[Callable[[Any], Any]] = ()) -> Any:
        shape = self.shape
        length, width = (QUERIES, KEYS) if len(shape.inputs()) == 3 else (QUERIES, QUERIES)
        q = self.heads(query, shape.heads, length)
        k, v = (self.heads(x, shape.key_heads, width) for x in (key, value))
        if norms:
            q, k = norms[0](q), norms[1](k)
        weights = self.softmax(self.matmul(q, self.transpose(k, (0, 1, 3, 2))) / shape.head**0.5)
        mixed = self.transpose(self.matmul(weights, v), (0, 2, 1, 3))
        return self.reshape(mixed, (BATCH, length, shape.heads * shape.value_size))


def in_torch(shape: Shape) -> Mixed:
    return Mixed(
        shape,
        torch.reshape,
        torch.permute,
        lambda x: torch.softmax(x, -1),
        torch.matmul,
        lambda x, n: x.repeat_interleave(n, 1),
        lambda x: x.chunk(3, -1),
    )


def in_jax(shape: Shape) -> Mixed:
    return Mixed(
        shape,
        jnp.reshape,
        jnp.transpose,
        jax.nn.softmax,
        jnp.matmul,
        lambda x, n: jnp.repeat(x, n, 1),
        lambda x: jnp.split(x, 3, -1),
    )


def in_tensorflow(shape: Shape) -> Mixed:
    return Mixed(
        shape,
        tf.reshape,
        tf.transpose,
        tf.nn.softmax,
        tf.matmul,
        lambda x, n: tf.repeat(x, n, 1),
        lambda x: tf.split(x, 3, -1),
    )


def in_gluon(shape: Shape) -> Mixed:
    nd = mxnet.nd
    return Mixed(
        shape,
        nd.reshape,
        nd.transpose,
        nd.softmax,
        nd.linalg.gemm2,
        lambda x, n: nd.repeat(x, n, 1),
        lambda x: nd.split(x, 3, axis=-1),
    )


def at(module: Any, path: str) -> Any:
    """The module of that name, below others."""
    for name in path.split("."):
        module = getattr(module, name)
    return module


def grown(module: Any, holder: Callable[[], Any], layers: Mapping[str, Any]) -> None:
    """Put each layer where its path says, below holders made as needed."""
    for path, layer in layers.items():
        *parents, name = path.split(".")
        inside = module
        for parent in parents:
            if not hasattr(inside, parent):
                setattr(inside, parent, holder())
            inside = getattr(inside, parent)
        setattr(inside, name, layer)


class Conv1D(torch.nn.Module):
    """The linear layer of the GPT-2 code, stored the other way round."""

    def __init__(self, given: int, made: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(given, made))
        self.bias = torch.nn.Parameter(torch.empty(made)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + (self.bias if self.bias is not None else 0)


class MadeTorch(torch.nn.Module):
    def __init__(self, shape: Shape, names: Sequence[str], dense: Callable[..., Any] = torch.nn.Linear) -> None:
        super().__init__()
        self.shape, self.names = shape, names
        layers = {name: dense(*width, bias=shape.bias) for name, width in shape.widths(names).items()}
        if shape.normed:
            parent = names[0].rpartition(".")[0]
            norms = {
                f"{parent}.{name}_ln": torch.nn.LayerNorm(shape.head, 1e-6, bias=False) for name in ("query", "key")
            }
            layers |= norms
        self.norms = list(norms) if shape.normed else []
        grown(self, torch.nn.Module, layers)

    def forward(self, *inputs: torch.Tensor) -> Any:
        layers, norms = ([at(self, name) for name in names] for names in (self.names, self.norms))
        return in_torch(self.shape)(layers, inputs, norms)


def made_keras(shape: Shape, names: Sequence[str], library: Any) -> Callable[[], Any]:
    class Mixing(library.layers.Layer):  # type: ignore[misc,name-defined]
        def call(self, projected: Any) -> Any:
            mixed = in_tensorflow(shape)
            return mixed.mixed(*(projected if isinstance(projected, list) else mixed.split(projected)))

        def compute_output_shape(self, shapes: Any) -> Any:
            length = shape.inputs()[0].shape[1]
            return (BATCH, length, shape.heads * shape.value_size)

    def build() -> Any:
        inputs = [library.Input(x.shape[1:], batch_size=BATCH) for x in shape.inputs()]
        *dense, output = (
            library.layers.Dense(width[1], use_bias=shape.bias, name=name)
            for name, width in shape.widths(names).items()
        )
        projected = [layer(x) for layer, x in zip(dense, given(inputs), strict=False)]
        mixed = Mixing(name="mixing")(projected if len(projected) > 1 else projected[0])
        return library.Model(inputs[0] if len(inputs) == 1 else inputs, output(mixed))

    return build


Tree = Mapping[str, Any]


def tree_of(layers: Mapping[str, Any]) -> Tree:
    """``{"a.b": x}`` -> ``{"a": {"b": x}}``."""
    tree: dict[str, Any] = {}
    for path, layer in layers.items():
        *parents, name = path.split(".")
        inside = tree
        for parent in parents:
            inside = inside.setdefault(parent, {})
        inside[name] = layer
    return tree


class LinenTree(linen.Module):
    """Layers and modules of layers, by name."""

    tree: Any

    def setup(self) -> None:
        for name, child in self.tree.items():
            setattr(self, name, child() if callable(child) else LinenTree(child))


class MadeLinen(linen.Module):
    shape: Shape
    names: tuple[str, ...]

    def setup(self) -> None:
        dense = {
            name: lambda width=width: linen.Dense(width[1], use_bias=self.shape.bias)
            for name, width in self.shape.widths(self.names).items()
        }
        for name, child in tree_of(dense).items():
            setattr(self, name, child() if callable(child) else LinenTree(child))

    def __call__(self, *inputs: Any) -> Any:
        return in_jax(self.shape)([at(self, name) for name in self.names], inputs)


class NnxHolder(nnx.Module):
    """A module of modules."""


class MadeNnx(nnx.Module):
    def __init__(self, shape: Shape, names: Sequence[str]) -> None:
        self.shape, self.names = shape, tuple(names)
        rngs = nnx.Rngs(0)
        grown(
            self,
            NnxHolder,
            {name: nnx.Linear(*width, use_bias=shape.bias, rngs=rngs) for name, width in shape.widths(names).items()},
        )

    def __call__(self, *inputs: Any) -> Any:
        return in_jax(self.shape)([at(self, name) for name in self.names], inputs)


class MadeGluon(gluon.Block):
    def __init__(self, shape: Shape, names: Sequence[str]) -> None:
        super().__init__()
        self.shape, self.names = shape, names
        dense = {
            name: gluon.Dense(width[1], flatten=False, use_bias=shape.bias, in_units=width[0])
            for name, width in shape.widths(names).items()
        }
        grown(self, gluon.Block, dense)

    def forward(self, *inputs: Any) -> Any:
        return in_gluon(self.shape)([at(self, name) for name in self.names], inputs)


# --- the cases

NEUTRAL = ("attn.query", "attn.key", "attn.value", "attn.output")


def own(name: str, shape: Shape) -> AttentionCase:
    """The framework's own layer ``attn`` wherever it can be of these sizes; four dense layers in gluon."""
    square = shape.heads * shape.head == shape.model == shape.out and not shape.groups
    one_size = not shape.value_head and not shape.groups
    x = shape.inputs()
    nets: dict[str, Callable[[], Any]] = {}
    if square and one_size and not shape.normed:
        nets["torch"] = lambda: OwnTorch(shape)
    else:
        nets["torch"] = lambda: MadeTorch(shape, NEUTRAL)
    if not shape.normed:
        nets["keras"] = own_keras(shape, keras)
        nets["gluon"] = gluon_net(lambda: MadeGluon(shape, NEUTRAL), *x)
        if not shape.groups:
            nets["tf_keras"] = own_keras(shape, tf_keras)
    if one_size:
        nets["linen"] = linen_net(lambda: OwnLinen(shape), *x)
        if shape.key_in == shape.value_in:
            nets["nnx"] = lambda: OwnNnx(shape)
    entries = [
        {"path": path, "kind": "from_heads" if path.endswith("output") else "to_heads", "heads": heads}
        for path, heads in zip(NEUTRAL, (shape.heads, shape.key_heads, shape.key_heads, shape.heads), strict=True)
    ]
    if shape.normed:
        entries += [{"path": f"attn.{name}_ln", "kind": "norm"} for name in ("query", "key")]
    return AttentionCase(name, nets, x, tuple(entries))


def made(
    name: str, shape: Shape, names: tuple[str, ...], key: str, dense: Callable[..., Any] = torch.nn.Linear
) -> AttentionCase:
    """Four dense layers of these names in every framework; Keras has no place for names of several parts."""
    x = shape.inputs()
    nets: dict[str, Callable[[], Any]] = {
        "torch": lambda: MadeTorch(shape, names, dense),
        "linen": linen_net(lambda: MadeLinen(shape, names), *x),
        "nnx": lambda: MadeNnx(shape, names),
        "gluon": gluon_net(lambda: MadeGluon(shape, names), *x),
    }
    if not any("." in name for name in names):
        nets |= {"keras": made_keras(shape, names, keras), "tf_keras": made_keras(shape, names, tf_keras)}
    kind = "linear" if dense is torch.nn.Linear else "linear_in_out"
    return AttentionCase(name, nets, x, tuple({"path": name, "kind": kind} for name in names), key=key)


OWN = (
    own("attention", Shape()),
    own("attention without bias", Shape(heads=3, head=2, bias=False)),
    own("attention with other keys and values", Shape(key_in=5, value_in=7)),
    own("attention with other keys without bias", Shape(key_in=5, value_in=5, bias=False)),
    own("attention of other sizes", Shape(model=5, key_in=5, value_in=5, out=7)),
    own("attention with larger values", Shape(model=5, key_in=5, value_in=5, value_head=4, out=7)),
    own("attention of shared heads", Shape(heads=4, groups=2, model=5, key_in=5, value_in=5, out=5)),
    own("attention with normed keys", Shape(normed=True)),
)
D2L = ("W_q", "W_k", "W_v", "W_o")
PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
BERT = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
MADE = (
    made("hand-made attention", Shape(model=5, key_in=5, value_in=5, out=7), D2L, "W_k"),
    made("hand-made attention without bias", Shape(key_in=5, value_in=7, bias=False), D2L, "W_k"),
    made("attention with names of projections", Shape(), PROJECTIONS, "k_proj"),
    made("attention with names of BERT", Shape(), BERT, "key"),
)

THREE = made("attention of three", Shape(), ("query", "key", "value", "proj"), "key")
ONE = made("attention of one", Shape(), ("qkv", "proj"), "qkv")
GPT2 = made("attention of GPT-2", Shape(out=7), ("c_attn", "c_proj"), "c_attn", Conv1D)
#: Its second layer is square: nothing in the file tells that it is stored the other way round.
SQUARE_GPT2 = made("square attention of GPT-2", Shape(), ("c_attn", "c_proj"), "c_attn", Conv1D)
CASES = (*OWN, *MADE, GPT2)
