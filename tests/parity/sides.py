"""The flavours of nets that are converted into each other: how each is made random, saved, loaded strictly and run.

A *case* holds a fresh net of the same architecture for each flavour that can express it, and an input. Every
weight, bias and statistic is random; whoever stores several things under one name would be found out.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import keras
import mxnet
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from flax import nnx

import converter

Array = np.ndarray[Any, Any]


def random_values(shape: tuple[int, ...], rng: np.random.Generator, dtype: Any = np.float32) -> Array:
    """Positive, because it may be a variance; of a size that keeps activations away from saturation."""
    return rng.uniform(0.1, 0.9, shape).astype(dtype)


def channels_last(x: Array) -> Array:
    """(batch, channels, *space) -> (batch, *space, channels); what has no space stays as it is."""
    return np.moveaxis(x, 1, -1) if x.ndim > 2 else x


def channels_first(x: Array) -> Array:
    return np.moveaxis(x, -1, 1) if x.ndim > 2 else x


@dataclass(frozen=True)
class Linen:
    """A linen module with its variables, so that it is one object as in the other frameworks.

    compiled: the whole module as one program for all values; each step by itself would be compiled, too.
    """

    module: Any
    variables: Any
    compiled: Callable[..., Any] | None = None

    @property
    def apply(self) -> Callable[..., Any]:
        return self.compiled or _compiled(self.module)


def _compiled(module: Any) -> Callable[..., Any]:
    """In a function of its own: not all modules have a hash, which `jax.jit` asks for."""
    compiled: Callable[..., Any] = jax.jit(lambda variables, *xs: module.apply(variables, *xs))  # noqa: PLW0108
    return compiled


@dataclass(frozen=True)
class Side:
    """One flavour. ``framework`` is its name on the command line, ``ending`` that of its files.

    live: what `converter.load_into` takes, and back: how the filled thing becomes a net again. fresh: a net of what
    makes one; its values do not matter.
    """

    framework: str
    ending: str
    randomise: Callable[[Any, np.random.Generator], Any]
    save: Callable[[Any, Path], object]
    load: Callable[[Any, Path], Any]
    run: Callable[..., Any]
    last: bool = False
    live: Callable[[Any], Any] = lambda net: net
    back: Callable[[Any, Any], Any] = lambda net, filled: filled
    fresh: Callable[[Callable[[], Any]], Any] = lambda make: make()


def _torch_random(net: torch.nn.Module, rng: np.random.Generator) -> torch.nn.Module:
    with torch.no_grad():
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.tensor(random_values(tuple(value.shape), rng, value.numpy().dtype)))
    return net.eval()


def _torch_load(net: torch.nn.Module, path: Path) -> torch.nn.Module:
    net.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return net.eval()


def _torch_run(net: torch.nn.Module, *xs: Array) -> Any:
    with torch.no_grad():
        return net(*(torch.tensor(x) for x in xs))


def _keras_random(net: Any, rng: np.random.Generator) -> Any:
    net.set_weights([random_values(value.shape, rng, value.dtype) for value in net.get_weights()])
    return net


def _keras_load(net: Any, path: Path) -> Any:
    net.load_weights(str(path))
    return net


def _keras_run(net: Any, *xs: Array) -> Any:
    return net(*(tf.constant(x) for x in xs)) if len(xs) == 1 else net([tf.constant(x) for x in xs])


def _linen_random(net: Linen, rng: np.random.Generator) -> Linen:
    return replace(
        net, variables=jax.tree.map(lambda v: jnp.asarray(random_values(v.shape, rng, v.dtype)), net.variables)
    )


def _linen_load(net: Linen, path: Path) -> Linen:
    variables = flax.serialization.from_bytes(net.variables, path.read_bytes())
    shapes = jax.tree.map(lambda new, old: np.shape(new) == np.shape(old), variables, net.variables)
    assert all(jax.tree.leaves(shapes)), "from_bytes checks the names only"
    return replace(net, variables=jax.tree.map(jnp.asarray, variables))


@functools.cache
def _nnx_abstract(make: Callable[[], Any]) -> tuple[Any, Any, Any]:
    """The structure of a module, its random keys and its values, as shapes alone."""
    graph, *states = nnx.split(nnx.eval_shape(make), nnx.RngState, ...)
    return graph, states[0], states[1]


def _nnx_fresh(make: Callable[[], Any]) -> Any:
    """The module without the values of its initializers: to compile these takes seconds for every shape."""
    graph, keys, values = _nnx_abstract(make)
    return nnx.merge(graph, jax.tree.map(_zeros, keys), jax.tree.map(_zeros, values))


@nnx.jit  # type: ignore[untyped-decorator]
def _nnx_compiled(net: Any, *xs: Any) -> Any:
    """As one program, for all modules of one structure."""
    return net(*xs)


def _zeros(value: Any) -> Any:
    is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    return jax.random.key(0) if is_key else np.zeros(value.shape, value.dtype)


def _nnx_state(net: nnx.Module) -> Any:
    return nnx.state(net, nnx.Not(nnx.RngState))


def _nnx_random(net: nnx.Module, rng: np.random.Generator) -> nnx.Module:
    nnx.update(net, jax.tree.map(lambda v: jnp.asarray(random_values(v.shape, rng, v.dtype)), _nnx_state(net)))
    net.eval()
    return net


def _nnx_save(net: nnx.Module, path: Path) -> None:
    tree = jax.tree_util.tree_map_with_path(lambda _, v: np.asarray(v), nnx.to_pure_dict(_nnx_state(net)))
    path.write_bytes(flax.serialization.msgpack_serialize(_text_keys(tree)))


def _text_keys(tree: Any) -> Any:
    return {str(key): _text_keys(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def _nnx_load(net: nnx.Module, path: Path) -> nnx.Module:
    flat = dict(nnx.to_flat_state(_nnx_state(net)))
    given = flax.traverse_util.flatten_dict(flax.serialization.msgpack_restore(path.read_bytes()))
    assert {tuple(map(str, key)) for key in flat} == set(given)
    for key, variable in flat.items():
        value = given[tuple(map(str, key))]
        assert variable.get_value().shape == value.shape, key
        flat[key] = variable.replace(jnp.asarray(value))
    nnx.update(net, nnx.from_flat_state(flat))
    net.eval()
    return net


def _gluon_random(net: Any, rng: np.random.Generator) -> Any:
    for parameter in net.collect_params().values():
        values = random_values(parameter.shape, rng, parameter.dtype)
        parameter.set_data(mxnet.nd.array(values, dtype=parameter.dtype))
    return net


def _gluon_load(net: Any, path: Path) -> Any:
    net.load_parameters(str(path))
    return net


def _gluon_run(net: Any, *xs: Array) -> Any:
    return net(*(mxnet.nd.array(x, dtype=x.dtype) for x in xs))


SIDES: Mapping[str, Side] = {
    "torch": Side(
        "torch", ".pt", _torch_random, lambda net, path: torch.save(net.state_dict(), path), _torch_load, _torch_run
    ),
    "keras": Side(
        "tensorflow",
        ".weights.h5",
        _keras_random,
        lambda net, path: net.save_weights(path),
        _keras_load,
        _keras_run,
        last=True,
    ),
    "tf_keras": Side(
        "tensorflow",
        ".h5",
        _keras_random,
        lambda net, path: net.save_weights(str(path)),
        _keras_load,
        _keras_run,
        last=True,
    ),
    "linen": Side(
        "flax",
        ".msgpack",
        _linen_random,
        lambda net, path: path.write_bytes(flax.serialization.to_bytes(net.variables)),
        _linen_load,
        lambda net, *xs: net.apply(net.variables, *xs),
        last=True,
        live=lambda net: net.variables,
        back=lambda net, filled: replace(net, variables=filled),
    ),
    "nnx": Side(
        "flax",
        ".msgpack",
        _nnx_random,
        _nnx_save,
        _nnx_load,
        lambda net, *xs: _nnx_compiled(net, *map(jnp.asarray, xs)),
        last=True,
        fresh=_nnx_fresh,
    ),
    "gluon": Side(
        "mxnet",
        ".params",
        _gluon_random,
        lambda net, path: net.save_parameters(str(path)),
        _gluon_load,
        _gluon_run,
    ),
}


def to_numpy(value: Any) -> Array:
    return value.asnumpy() if isinstance(value, mxnet.nd.NDArray) else np.asarray(value)


MAIN = ("torch", "keras", "linen", "gluon")


#: A flavour that is converted, and the one that it is converted into.
Pair = tuple[str, str]


def ring(flavours: Sequence[str]) -> list[Pair]:
    """Each flavour into the next, and the last into the first."""
    return [(flavour, flavours[(i + 1) % len(flavours)]) for i, flavour in enumerate(flavours)]


@dataclass(frozen=True)
class Case:
    """One architecture in several flavours.

    nets: flavour -> a fresh net with allocated (uninitialised) weights. inputs: channels first.
    layers: the entries of its schema (path, kind, heads, flatten …), for the form without a template. Where a
        framework forces another name, ``names`` as in a schema file.
    options: further words of the command line, by target flavour ("" for every one).
    kinds: ``--kind`` words for what no file tells, where there is neither a clone nor ``layers``.
    givers: the flavours that can be a source; none: all of them.
    names: flavour -> what it calls the layers, one after the other, where that must be told (``--map``).
    spatial: whether inputs and outputs have channels and space, which the sides order differently.
    tolerance: of the relative error.
    """

    name: str
    nets: Mapping[str, Callable[[], Any]]
    inputs: tuple[Array, ...]
    layers: tuple[Mapping[str, Any], ...] = ()
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    givers: tuple[str, ...] = ()
    spatial: bool = False
    tolerance: float = 1e-5

    def pairs(self) -> list[Pair]:
        """Every flavour into every flavour, itself among them."""
        return [(source, target) for source in self.givers or self.nets for target in self.nets]

    def edges(self) -> list[Pair]:
        """Each flavour once as the source and once as the target: all ways into the neutral file and out of it."""
        return [(source, target) for source, target in ring(list(self.nets)) if source in (self.givers or self.nets)]

    def schema_edges(self) -> list[Pair]:
        """The same for one flavour of each framework: a new file is written alike for all flavours of its framework."""
        return ring([flavour for flavour in MAIN if flavour in self.nets and self.layers])

    def live_pairs(self) -> list[Pair]:
        """Into a live net of every flavour, from a channels-first and a channels-last file in turn."""
        sources = [flavour for flavour in ("torch", "linen") if flavour in (self.givers or self.nets)]
        return [(sources[i % len(sources)], target) for i, target in enumerate(self.nets) if sources]

    def fresh(self, flavour: str) -> Any:
        return SIDES[flavour].fresh(self.nets[flavour])

    def anew(self, flavour: str, net: Any, seed: int) -> Any:
        """The net with other random weights."""
        return SIDES[flavour].randomise(net, np.random.default_rng(seed))

    def random(self, flavour: str, seed: int, target: str = "") -> Any:
        """A net of random weights; ``target``: the flavour that it is going to be converted into."""
        return self.anew(flavour, self.fresh(flavour), seed)

    def run(self, flavour: str, net: Any) -> Array:
        """The output, channels first."""
        side = SIDES[flavour]
        turned = side.last and self.spatial
        result = to_numpy(side.run(net, *(channels_last(x) if turned else x for x in self.inputs)))
        return channels_first(result) if turned else result

    def words(self, source: str, target: str) -> tuple[str, ...]:
        return (*self.options.get("", ()), *self.options.get(target, ()), *self.maps(source, target))

    def maps(self, source: str, target: str) -> Sequence[str]:
        return renamed(self.names[source], self.names[target]) if self.names else ()


def renamed(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    """The ``--map`` lines from the names of one net to those of another."""
    return [word for pair in zip(ours, theirs, strict=True) for word in ("--map", "=".join(pair))]


def assert_same(found: Array, expected: Array, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert np.isfinite(expected).all() and np.ptp(expected) > 0, "an output that tells nothing"
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def by_clone(case: Case, source: str, target: str, folder: Path, run: Callable[..., object]) -> None:
    """Save, convert with a clone's file as template, load strictly, compare the outputs."""
    ours, theirs = SIDES[source], SIDES[target]
    net = case.random(source, 1, target)
    given = folder / f"source{ours.ending}"
    ours.save(net, given)
    like, result = folder / f"like{theirs.ending}", folder / f"result{theirs.ending}"
    clone = case.random(target, 2)
    theirs.save(clone, like)
    run(f"{ours.framework}->{theirs.framework}", given, "--like", like, "-o", result, *case.words(source, target))
    found = case.run(target, theirs.load(clone, result))
    assert_same(found, case.run(source, net), case.tolerance)


def by_neutral(case: Case, source: str, target: str, folder: Path, run: Callable[..., object]) -> None:
    """The same by way of a neutral file: one way into the hub, and one way out of it.

    A case that says nothing of its kinds goes directly: without a clone or a schema, files do not tell them.
    """
    if not case.layers and not case.kinds:
        by_clone(case, source, target, folder, run)
        return
    ours, theirs = SIDES[source], SIDES[target]
    net = case.random(source, 1, target)
    given, middle = folder / f"source{ours.ending}", folder / "middle.safetensors"
    ours.save(net, given)
    schema, kinds = schema_of(case, folder), case.kinds or case.options.get("", ())
    run(f"{ours.framework}->neutral", given, "-o", middle, *kinds, *schema)
    like, result = folder / f"like{theirs.ending}", folder / f"result{theirs.ending}"
    clone = case.random(target, 2)
    theirs.save(clone, like)
    words = (*kinds, *case.maps(source, target), *schema)
    run(f"neutral->{theirs.framework}", middle, "--like", like, "-o", result, *words)
    found = case.run(target, theirs.load(clone, result))
    assert_same(found, case.run(source, net), case.tolerance)


def schema_of(case: Case, folder: Path) -> tuple[object, ...]:
    """The words that name a schema of the case; none where it has none."""
    path = folder / "net.yaml"
    path.write_text(json.dumps({"name": "net", "layers": [dict(layer) for layer in case.layers]}))  # JSON is YAML
    return ("--schema", path) if case.layers else ()


def by_schema(case: Case, source: str, target: str, folder: Path, run: Callable[..., object]) -> None:
    """The same with no template: a schema names the layers and their kinds."""
    ours, theirs = SIDES[source], SIDES[target]
    net = case.random(source, 3, target)
    given, result = folder / f"source{ours.ending}", folder / f"result{theirs.ending}"
    ours.save(net, given)
    words = (*schema_of(case, folder), *case.words(source, target))
    run(f"{ours.framework}->{theirs.framework}", given, "-o", result, *words)
    found = case.run(target, theirs.load(case.fresh(target), result))
    assert_same(found, case.run(source, net), case.tolerance)


def by_hand_over(case: Case, source: str, target: str, folder: Path) -> None:
    """A file into a live net."""
    ours, theirs = SIDES[source], SIDES[target]
    net = case.random(source, 4, target)
    given = folder / f"source{ours.ending}"
    ours.save(net, given)
    clone = case.random(target, 5)
    filled = theirs.back(clone, converter.load_into(theirs.live(clone), given, framework=ours.framework))
    assert_same(case.run(target, filled), case.run(source, net), case.tolerance)


def every(cases: Iterable[Case], pairs: Callable[[Case], list[Pair]]) -> list[Any]:
    """The parameters (case, source, target) of a test, with names."""
    return [
        pytest.param(case, source, target, id=f"{case.name}-{source}-{target}".replace(" ", "_"))
        for case in cases
        for source, target in pairs(case)
    ]


def one_of(count: int, parameters: Sequence[Any]) -> list[Any]:
    """One of so many, always the same ones."""
    return random.Random(11).sample(parameters, -(-len(parameters) // count))


def keras_net(make: Callable[[Any], Any], *shapes: tuple[int, ...], library: Any = keras) -> Callable[[], Any]:
    """A functional model for inputs of these shapes (without the batch); ``make`` gets the layers module."""

    def build() -> Any:
        inputs = [library.Input(shape) for shape in shapes]
        return library.Model(inputs[0] if len(inputs) == 1 else inputs, make(library.layers)(*inputs))

    return build


def tf_keras_net(make: Callable[[Any], Any], *shapes: tuple[int, ...]) -> Callable[[], Any]:
    return keras_net(make, *shapes, library=tf_keras)


def linen_net(module: Callable[[], Any], *inputs: Array) -> Callable[[], Linen]:
    """A linen module with variables for these inputs (channels last). It is never changed, so one is enough.

    Their values are zero: to compile an initializer for every shape takes minutes for a deep net.
    """

    @functools.cache
    def build() -> Linen:
        made = module()
        variables = jax.eval_shape(made.init, jax.random.PRNGKey(0), *map(jnp.asarray, inputs))
        zeros = jax.tree.map(lambda v: np.zeros(v.shape, v.dtype), variables)
        return Linen(made, zeros, _compiled(made))

    return build


def gluon_net(block: Callable[[], Any], *inputs: Array) -> Callable[[], Any]:
    """A gluon block that has seen these inputs, so that every size is known."""

    def build() -> Any:
        made = block()
        made.initialize()
        made(*(mxnet.nd.array(x, dtype=x.dtype) for x in inputs))
        return made

    return build
