"""A net of the book in its four frameworks, with inputs in which every word, segment and place counts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf

from tests.book.sequence_nets import in_gluon, in_keras, in_linen, in_torch
from tests.book.sequence_nets.between import Sizes
from tests.parity.attention_cases import Signed
from tests.parity.sides import SIDES, Array, Case, Linen, channels_last, gluon_net, to_numpy


@dataclass(frozen=True)
class BookCase(Case):
    """Several inputs and outputs; ``unseen``: flavour -> tensors of a net that no output depends on (the biases of
    keys), to be compared by value.
    """

    unseen: Mapping[str, Callable[[Any], list[Any]]] = field(default_factory=dict)

    def random(self, flavour: str, seed: int, target: str = "") -> Any:
        """Weights of both signs."""
        return self.anew(flavour, self.fresh(flavour), seed)

    def anew(self, flavour: str, net: Any, seed: int) -> Any:
        """The net with other random weights."""
        return SIDES[flavour].randomise(net, Signed(np.random.PCG64(seed)))

    def run(self, flavour: str, net: Any) -> Array:
        """All outputs in a row, and what none of them tells."""
        inputs = [channels_last(x) if SIDES[flavour].last else x for x in self.inputs]
        outputs = _RUN[flavour](net, inputs) if flavour in _RUN else SIDES[flavour].run(net, *inputs)
        found = [*(outputs if isinstance(outputs, list) else [outputs])]
        found += self.unseen[flavour](net) if self.unseen else []
        return np.concatenate([to_numpy(item).ravel() for item in found])


def _keras_run(net: Any, inputs: list[Array]) -> Any:
    return net(*(tf.constant(x) for x in inputs))


@functools.cache
def _compiled(module: Any) -> Any:
    return jax.jit(module.apply)


_RUN = {
    "keras": _keras_run,
    "linen": lambda net, inputs: _compiled(net.module)(net.variables, *map(jnp.asarray, inputs)),
}


def _keras_net(name: str, s: Sizes, inputs: tuple[Array, ...]) -> Any:
    net = in_keras.NETS[name](s)
    _keras_run(net, [channels_last(x) for x in inputs])
    return net


def _linen_net(name: str, s: Sizes, inputs: tuple[Array, ...]) -> Linen:
    module = in_linen.NETS[name](s)
    shapes = jax.eval_shape(module.init, jax.random.PRNGKey(0), *(jnp.asarray(channels_last(x)) for x in inputs))
    return Linen(module, jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), shapes))


def book_case(
    name: str,
    *inputs: Array,
    sizes: Sizes = Sizes(),
    unseen: Mapping[str, Callable[[Any], list[Any]]] | None = None,
) -> BookCase:
    """The net of that name. inputs: the batch first of all, then the channels."""
    nets = {
        "torch": lambda: in_torch.NETS[name](sizes),
        "keras": lambda: _keras_net(name, sizes, inputs),
        "linen": functools.cache(lambda: _linen_net(name, sizes, inputs)),
        "gluon": gluon_net(lambda: in_gluon.NETS[name](sizes), *inputs),
    }
    return BookCase(name, nets, inputs, unseen=unseen or {})
