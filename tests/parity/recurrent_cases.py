"""RNN, LSTM and GRU layers in all flavours: one or several, in one direction or two, of other sizes, alone as cells.

Every net gives its outputs and, behind them, the final states: the hidden ones by layer and direction, then
those of the LSTM's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import keras
import mxnet
import numpy as np
import tf_keras
import torch
from flax import linen, nnx
from jax.tree_util import DictKey
from mxnet.gluon import nn as gluon
from mxnet.gluon import rnn as gluon_rnn

from tests.parity.sides import SIDES, Array, Case, gluon_net, linen_net, to_numpy

BATCH, STEPS = 2, 4


@dataclass(frozen=True)
class Shape:
    """What the nets of a case have in common. ``both``: two directions. size: of the input."""

    kind: str
    layers: int = 1
    both: bool = False
    bias: bool = True
    size: int = 3
    hidden: int = 5
    projection: int = 0

    @property
    def memory(self) -> bool:
        return self.kind == "lstm"

    def input(self) -> Array:
        return np.random.default_rng(0).normal(size=(BATCH, STEPS, self.size)).astype(np.float32)

    def input_size(self, layer: int) -> int:
        return self.size if layer == 0 else (self.projection or self.hidden) * (2 if self.both else 1)


class Signed(np.random.Generator):
    """Weights of both signs: what is summed over steps and layers would else saturate, and tell nothing."""

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        return super().uniform(-high, high, size)


@dataclass(frozen=True)
class RecurrentCase(Case):
    """Outputs and states side by side, one row for each member of the batch."""

    #: Nets that were converted, and what they give: one is enough for all targets, and they take long.
    sources: dict[tuple[str, bool], tuple[Any, Array]] = field(default_factory=dict)

    def random(self, flavour: str, seed: int, target: str = "") -> Any:
        """Where the clone is an `nnx.GRUCell`, without the bias that it does not have."""
        without = target == "nnx" and flavour != "nnx" and "gru" in self.name
        if (flavour, without) in self.sources and target:
            return self.sources[flavour, without][0]
        net = SIDES[flavour].randomise(self.fresh(flavour), Signed(np.random.PCG64(seed)))
        if without:
            net = WITHOUT_CANDIDATE_BIAS[flavour](net)
        if target:
            self.sources[flavour, without] = net, self.run(flavour, net)
        return net

    def run(self, flavour: str, net: Any) -> Array:
        for known, output in self.sources.values():
            if known is net:
                return output
        found = [to_numpy(item) for item in SIDES[flavour].run(net, *self.inputs)]
        return np.concatenate([item.reshape(BATCH, -1) for item in found], 1)


def in_order(states: Sequence[Any], memory: bool) -> list[Any]:
    """Carries by layer and direction -> all hidden states, then all of the memory. ``(memory, hidden)`` as in Flax."""
    return [*(state[1] for state in states), *(state[0] for state in states)] if memory else list(states)


# --- nets whose candidate gate has no recurrent bias (the last third of it)


def _torch_without(net: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if "bias_hh" in name:
                value[2 * len(value) // 3 :] = 0
    return net


def _keras_without(net: Any) -> Any:
    for value in net.weights:
        if value.shape[0] == 2:
            old = np.array(value)
            old[1, 2 * old.shape[1] // 3 :] = 0
            value.assign(old)
    return net


def _linen_without(net: Any) -> Any:
    zero = lambda path, v: v * 0 if path[-2:] == (DictKey("hn"), DictKey("bias")) else v  # noqa: E731
    return replace(net, variables=jax.tree_util.tree_map_with_path(zero, net.variables))


def _gluon_without(net: Any) -> Any:
    for name, parameter in net.collect_params().items():
        if name.endswith("h2h_bias"):
            old = parameter.data().asnumpy()
            old[2 * len(old) // 3 :] = 0
            parameter.set_data(mxnet.nd.array(old))
    return net


WITHOUT_CANDIDATE_BIAS: Mapping[str, Callable[[Any], Any]] = {
    "torch": _torch_without,
    "keras": _keras_without,
    "tf_keras": _keras_without,
    "linen": _linen_without,
    "gluon": _gluon_without,
}


# --- PyTorch

_TORCH = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
_TORCH_CELLS = {"rnn": torch.nn.RNNCell, "lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}


class TorchLayers(torch.nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        more: dict[str, Any] = {"proj_size": shape.projection} if shape.projection else {}
        self.rnn = _TORCH[shape.kind](
            shape.size,
            shape.hidden,
            shape.layers,
            bias=shape.bias,
            batch_first=True,
            bidirectional=shape.both,
            **more,
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        y, state = self.rnn(x)
        return [y, *(item for part in (state if isinstance(state, tuple) else (state,)) for item in part)]


class TorchCell(torch.nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.cell = _TORCH_CELLS[shape.kind](shape.size, shape.hidden, bias=shape.bias)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        state, outputs = None, []
        for step in x.unbind(1):
            state = self.cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return [torch.stack(outputs, 1), *(state if isinstance(state, tuple) else (state,))]


# --- Keras


def keras_layer(layers: Any, shape: Shape, **more: Any) -> Any:
    make = {"rnn": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}[shape.kind]
    return make(shape.hidden, use_bias=shape.bias, return_sequences=True, return_state=True, **more)


def keras_cell(layers: Any, shape: Shape, **more: Any) -> Any:
    make = {"rnn": layers.SimpleRNNCell, "lstm": layers.LSTMCell, "gru": layers.GRUCell}[shape.kind]
    return make(shape.hidden, use_bias=shape.bias, **more)


def keras_layers(library: Any, shape: Shape, **more: Any) -> Any:
    """A functional model of layers ``rnn``, or ``l0``, ``l1`` … where there are several."""
    x = y = library.Input((STEPS, shape.size))
    hidden, memory = [], []
    for number in range(shape.layers):
        name = "rnn" if shape.layers == 1 else f"l{number}"
        if shape.both:
            layer = keras_layer(library.layers, shape, **more)
            y, *states = library.layers.Bidirectional(layer, name=name)(y)
        else:
            y, *states = keras_layer(library.layers, shape, name=name, **more)(y)
        hidden += states[::2] if shape.memory else states
        memory += states[1::2] if shape.memory else []
    return library.Model(x, [y, *hidden, *memory])


def keras_cells(library: Any, shape: Shape) -> Any:
    """One layer ``RNN`` around a cell, or around a stack of them."""
    x = library.Input((STEPS, shape.size))
    cells = [keras_cell(library.layers, shape) for _ in range(shape.layers)]
    name = "cell" if shape.layers == 1 else "rnn"
    given = cells[0] if shape.layers == 1 else cells
    y, *states = library.layers.RNN(given, return_sequences=True, return_state=True, name=name)(x)
    if shape.layers > 1:  # [hidden, memory] of each cell
        states = [*(s[0] for s in states), *(s[1] for s in states)] if shape.memory else states
    return library.Model(x, [y, *states])


# --- Flax

LINEN_CELLS = {"rnn": linen.SimpleCell, "lstm": linen.OptimizedLSTMCell, "gru": linen.GRUCell}


class LinenLayers(linen.Module):
    """Made in ``setup``: ``rnn``, or ``l0``, ``l1`` …"""

    shape: Shape
    cell: Callable[..., Any]

    def setup(self) -> None:
        one = lambda: linen.RNN(self.cell(self.shape.hidden), return_carry=True)  # noqa: E731
        for number in range(self.shape.layers):
            layer = linen.Bidirectional(one(), one(), return_carry=True) if self.shape.both else one()
            setattr(self, "rnn" if self.shape.layers == 1 else f"l{number}", layer)

    def __call__(self, x: Any) -> Any:
        states: list[Any] = []
        for number in range(self.shape.layers):
            carry, x = getattr(self, "rnn" if self.shape.layers == 1 else f"l{number}")(x)
            states += carry if self.shape.both else [carry]
        return [x, *in_order(states, self.shape.memory)]


class LinenCompact(linen.Module):
    """The same made in ``__call__``, where the cells belong to this module and name themselves."""

    shape: Shape
    cell: Callable[..., Any]

    @linen.compact
    def __call__(self, x: Any) -> Any:
        states: list[Any] = []
        for _ in range(self.shape.layers):
            one = lambda: linen.RNN(self.cell(self.shape.hidden), return_carry=True)  # noqa: E731
            layer = linen.Bidirectional(one(), one(), return_carry=True) if self.shape.both else one()
            carry, x = layer(x)
            states += carry if self.shape.both else [carry]
        return [x, *in_order(states, self.shape.memory)]


class LinenCell(linen.Module):
    shape: Shape

    def setup(self) -> None:
        self.cell = LINEN_CELLS[self.shape.kind](self.shape.hidden)

    def __call__(self, x: Any) -> Any:
        zeros = jnp.zeros((BATCH, self.shape.hidden))
        carry: Any = (zeros, zeros) if self.shape.memory else zeros
        outputs = []
        for step in range(STEPS):
            carry, y = self.cell(carry, x[:, step])
            outputs.append(y)
        return [jnp.stack(outputs, 1), *in_order([carry], self.shape.memory)]


_NNX = {"rnn": nnx.SimpleCell, "lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell}


class NnxLayers(nnx.Module):
    def __init__(self, shape: Shape, cell: Callable[..., Any]) -> None:
        self.shape = shape
        rngs = nnx.Rngs(0)
        for number in range(shape.layers):
            one = lambda size: nnx.RNN(cell(size, shape.hidden, rngs=rngs), return_carry=True)  # noqa: E731
            size = shape.input_size(number)
            layer = nnx.Bidirectional(one(size), one(size), return_carry=True) if shape.both else one(size)
            setattr(self, "rnn" if shape.layers == 1 else f"l{number}", layer)

    def __call__(self, x: Any) -> Any:
        states: list[Any] = []
        for number in range(self.shape.layers):
            carry, x = getattr(self, "rnn" if self.shape.layers == 1 else f"l{number}")(x)
            states += carry if self.shape.both else [carry]
        return [x, *in_order(states, self.shape.memory)]


class NnxCell(nnx.Module):
    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.cell = _NNX[shape.kind](shape.size, shape.hidden, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        zeros = jnp.zeros((BATCH, self.shape.hidden))
        carry: Any = (zeros, zeros) if self.shape.memory else zeros
        outputs = []
        for step in range(STEPS):
            carry, y = self.cell(carry, x[:, step])
            outputs.append(y)
        return [jnp.stack(outputs, 1), *in_order([carry], self.shape.memory)]


# --- Gluon


class GluonLayers(gluon.Block):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        make = {"rnn": gluon_rnn.RNN, "lstm": gluon_rnn.LSTM, "gru": gluon_rnn.GRU}[shape.kind]
        more: dict[str, Any] = {"activation": "tanh"} if shape.kind == "rnn" else {}
        more |= {"projection_size": shape.projection} if shape.projection else {}
        self.rnn = make(
            shape.hidden, shape.layers, layout="NTC", bidirectional=shape.both, input_size=shape.size, **more
        )

    def forward(self, x: Any) -> Any:
        y, states = self.rnn(x, self.rnn.begin_state(BATCH))
        return [y, *(item for state in states for item in state)]


_GLUON_CELLS = {"rnn": gluon_rnn.RNNCell, "lstm": gluon_rnn.LSTMCell, "gru": gluon_rnn.GRUCell}


class GluonCell(gluon.Block):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.cell = _GLUON_CELLS[shape.kind](shape.hidden, input_size=shape.size)

    def forward(self, x: Any) -> Any:
        y, states = self.cell.unroll(STEPS, x, layout="NTC", merge_outputs=True)
        return [y, *states]


class GluonStack(gluon.Block):
    """The layers as cells in a `SequentialRNNCell`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.rnn = gluon_rnn.SequentialRNNCell()
        for number in range(shape.layers):
            size = shape.input_size(number)
            cell, other = (_GLUON_CELLS[shape.kind](shape.hidden, input_size=size) for _ in range(2))
            self.rnn.add(gluon_rnn.BidirectionalCell(cell, other) if shape.both else cell)
        self.every = 2 if shape.memory else 1

    def forward(self, x: Any) -> Any:
        y, states = self.rnn.unroll(STEPS, x, layout="NTC", merge_outputs=True)
        return [y, *(state for start in range(self.every) for state in states[start :: self.every])]


# --- the cases


def schema_layers(shape: Shape) -> tuple[Mapping[str, Any], ...]:
    """The layers as PyTorch calls them; where there are several, Keras and Flax have a layer for each."""
    found = []
    for number in range(shape.layers):
        for side in ("", "_reverse")[: 2 if shape.both else 1]:
            if shape.layers == 1:
                found.append({"path": f"rnn.l0{side}" if shape.both else "rnn", "kind": shape.kind})
            else:
                apart = [f"l{number}{side}"]
                names = {"tensorflow": apart, "flax": apart}
                found.append({"path": f"rnn.l{number}{side}", "kind": shape.kind, "names": names})
    return tuple(found)


def layers(shape: Shape, name: str) -> RecurrentCase:
    x = shape.input()
    nets: dict[str, Callable[[], Any]] = {
        "torch": lambda: TorchLayers(shape),
        "keras": lambda: keras_layers(keras, shape),
        "tf_keras": lambda: keras_layers(tf_keras, shape),
        "linen": linen_net(lambda: LinenLayers(shape, LINEN_CELLS[shape.kind]), x),
        "nnx": lambda: NnxLayers(shape, _NNX[shape.kind]),
        "gluon": gluon_net(lambda: GluonLayers(shape), x),
    }
    return RecurrentCase(f"{name} {shape.kind}", nets, (x,), schema_layers(shape))


def only(case: RecurrentCase, *flavours: str) -> RecurrentCase:
    return replace(case, nets={flavour: case.nets[flavour] for flavour in flavours})


def cells(shape: Shape) -> RecurrentCase:
    x = shape.input()
    nets: dict[str, Callable[[], Any]] = {
        "torch": lambda: TorchCell(shape),
        "keras": lambda: keras_cells(keras, shape),
        "tf_keras": lambda: keras_cells(tf_keras, shape),
        "linen": linen_net(lambda: LinenCell(shape), x),
        "nnx": lambda: NnxCell(shape),
        "gluon": gluon_net(lambda: GluonCell(shape), x),
    }
    return RecurrentCase(f"cell {shape.kind}", nets, (x,), ({"path": "cell", "kind": shape.kind},))


KINDS = ("rnn", "lstm", "gru")
PROJECTED = (
    only(layers(Shape("lstm", projection=2), "projected"), "torch", "gluon"),
    only(layers(Shape("lstm", projection=2, layers=2, both=True), "projected two layers two ways"), "torch", "gluon"),
)
CASES = (
    *(layers(Shape(kind), "one layer") for kind in KINDS),
    *(layers(Shape(kind, layers=3, size=5), "three square layers") for kind in KINDS),
    layers(Shape("lstm", both=True), "two ways"),
    *(layers(Shape(kind, layers=2, both=True), "two layers two ways") for kind in KINDS),
    *(cells(Shape(kind)) for kind in KINDS),
    *PROJECTED,
)
