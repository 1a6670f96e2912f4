"""Several layers that one framework keeps as one: blocks of a language model in tensors with an axis for the blocks.

``nn.scan`` and ``nn.vmap`` of Flax, MaxText (``scan_layers``, along axis 1), nnx, Haiku and Equinox have one
``layers.query`` [layers, in, out]. It is taken as the layers in it, ``layers.0.query`` and so on, each with its place
in the tensor: layers like any other, on both sides. Which modules are stacked is seen where the layers in them fit the
other net and they themselves do not, or it is said (``stacked``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from converter.core.axes import Axes, wild_axes
from converter.core.contents import Contents
from converter.core.layers import Layer, Leaf, Net, Reading, Stored, join_path, split_path
from converter.core.tensors import TensorSpec
from converter.errors import MatchError, Problem, Remedy, listed, unknown_name
from converter.frameworks import framework
from converter.matching.looks import Fitting

#: Along which axis layers are stacked.
_AXES = (0, 1)


class _Stack(msgspec.Struct, frozen=True):
    """The layers of ``module`` (all of the net for "") are ``count`` layers in one, along that axis."""

    module: str
    axis: int
    count: int


def unstacked(net: Net, stated: Mapping[str, int]) -> Net:
    """The net of a file alone, with the layers that are said to be several in one as these.

    stated: module -> the axis of its tensors along which its layers are. Raises MatchError where it has no such axis.
    """
    (parts,) = _stated((net,), stated)
    return parts.apart()


def both_unstacked(source: Net, target: Net, stated: Mapping[str, int]) -> tuple[Net, Net]:
    """Both nets with the layers that are several in one as these, by what is said (see `unstacked`), or seen where
    nothing is.
    """
    ours, theirs = _stated((source, target), stated) if stated else _seen(source, target)
    return ours.apart(), theirs.apart()


def _stated(nets: Sequence[Net], stated: Mapping[str, int]) -> list[_Parts]:
    parts = [_Parts(net, _stacks_said(net, stated)) for net in nets]
    met = {stack.module for own in parts for stack in own.stacks}
    if lost := [module for module in stated if module not in met]:
        raise MatchError([_no_stack(nets, module, stated[module]) for module in lost])
    return parts


def _seen(source: Net, target: Net) -> list[_Parts]:
    """Stacks are seen where layers of either net fit none of the other, and those in them do."""
    ours, theirs = (_Parts(net, _possible(net)) for net in (source, target))
    if not ours.stacks and not theirs.stacks:
        return [ours, theirs]
    fitting = Fitting(source.framework == target.framework)
    return [
        ours.where(theirs, fitting.fits, fitting),
        theirs.where(ours, lambda one, other: fitting.fits(other, one), fitting),
    ]


class _Parts:
    """A net, and the layers in its stacks."""

    def __init__(self, net: Net, stacks: Sequence[_Stack]) -> None:
        self.net, self.stacks = net, stacks
        self._modules = {stack.module: stack for stack in stacks}
        self._whole = {spec.name: spec for layer in net.layers for spec in layer.tensors} if stacks else {}
        self._stack_of = {
            spec.name: stack
            for layer in net.layers
            if (stack := self._stack_around(layer.path)) is not None
            for spec in layer.tensors
        }
        self._inside: dict[str, list[Layer]] = {stack.module: [] for stack in stacks}
        for layer in self._as_one() if stacks else ():
            if layer.tensors[0].name in self._stack_of:
                self._inside[self._stack_of[layer.tensors[0].name].module].append(layer)

    def _stack_around(self, path: str) -> _Stack | None:
        """The stack that a layer is in."""
        names = _around(path) if self._modules else ()
        return next((self._modules[name] for name in names if name in self._modules), None)

    def _as_one(self) -> Sequence[Layer]:
        """The layers of the net, had each stack one layer alone."""
        specs = []
        for spec in self._whole.values():
            stack = self._stack_of.get(spec.name)
            axis = stack.axis if stack is not None else len(spec.shape)
            specs.append(replace(spec, shape=(*spec.shape[:axis], *spec.shape[axis + 1 :])))
        return framework(self.net.framework).net(Contents(tuple(specs))).layers

    def where(self, other: _Parts, fits: Callable[[Layer, Layer], bool], fitting: Fitting) -> _Parts:
        """With those stacks alone of which not all layers fit the other net as they are, and the layers in them do."""
        plain = fitting.unlike(other.net.layers)
        every = [*plain, *fitting.unlike(layer for stack in other.stacks for layer in other.at(stack, 0))]
        whole: dict[str, list[Layer]] = {stack.module: [] for stack in self.stacks}
        for layer in self.net.layers:
            if (stack := self._stack_around(layer.path)) is not None:
                whole[stack.module].append(layer)
        chosen = [
            stack
            for stack in self.stacks
            if not all(any(fits(layer, one) for one in plain) for layer in whole[stack.module])
            and all(any(fits(layer, one) for one in every) for layer in self.at(stack, 0))
        ]
        return _Parts(self.net, chosen)

    def at(self, stack: _Stack, place: int) -> list[Layer]:
        """The layers at this place of a stack. Those of no readings have gates or parts in a tensor of their own."""
        depth = len(split_path(stack.module))
        layers = []
        for layer in self._inside[stack.module]:
            parts = split_path(layer.path)
            readings = (_placed(reading, stack, place, self._whole) for reading in layer.readings)
            path = join_path((*parts[:depth], str(place), *parts[depth:]))
            layers.append(Layer(path, tuple(filter(None, readings))))
        return layers

    def apart(self) -> Net:
        """The net with the layers in place of the stacks. Raises MatchError for those of no readings."""
        if not self.stacks:
            return self.net
        layers: list[Layer] = []
        done: set[str] = set()
        for layer in self.net.layers:
            stack = self._stack_around(layer.path)
            if stack is None:
                layers.append(layer)
            elif stack.module not in done:
                done.add(stack.module)
                layers += [one for place in range(stack.count) for one in self.at(stack, place)]
        if unread := [layer.path for layer in layers if not layer.readings]:
            text = f"have several gates or parts in a tensor already: {listed(unread)}"
            raise MatchError([Problem(f"the layers stacked here {text}.", "stack", unread[0])])
        return replace(self.net, layers=tuple(layers))


def _around(path: str) -> Iterator[str]:
    """The modules that a path is in, the outermost first, and itself."""
    yield ""
    yield from (path[:end] for end, letter in enumerate(path) if letter == ".")
    yield path


def _modules(net: Net) -> Mapping[str, Sequence[TensorSpec]]:
    """The tensors in each module of every depth, the outer ones first; with no module ("") all."""
    inside: dict[tuple[str, ...], list[TensorSpec]] = {}
    for layer in net.layers:
        parts = split_path(layer.path)
        for depth in range(len(parts) + 1):
            inside.setdefault(parts[:depth], []).extend(layer.tensors)
    return {join_path(name): inside[name] for name in sorted(inside, key=lambda name: (len(name), name))}


def _possible(net: Net) -> list[_Stack]:
    """The outermost modules of which all tensors have one size along one axis, and more axes than that.

    A neutral file lists its layers, which are each one.
    """
    if net.framework == "neutral" or not any(len(spec.shape) > 2 for layer in net.layers for spec in layer.tensors):
        return []
    apart = {spec.name for layer in net.layers for spec in layer.tensors if _is_apart(layer)}
    found: dict[str, _Stack] = {}
    for module, specs in _modules(net).items():
        is_open = not any(name in found for name in _around(module)) and not any(spec.name in apart for spec in specs)
        stack = _told(module, specs) if is_open else None
        if stack is not None:
            found[module] = stack
    return list(found.values())


def _is_apart(layer: Layer) -> bool:
    """Whether it is one of several in a tensor already, as experts are."""
    return any("g" in item.leaf.axes.split() for reading in layer.readings for item in reading.stored)


def _stack(module: str, specs: Sequence[TensorSpec], axis: int) -> _Stack | None:
    """The module as layers in one along that axis; None where not all tensors have as many there."""
    counts = {spec.shape[axis] if len(spec.shape) > max(axis, 1) else 0 for spec in specs}
    count = counts.pop() if len(counts) == 1 else 0
    return _Stack(module, axis, count) if count > 1 else None


def _told(module: str, specs: Sequence[TensorSpec]) -> _Stack | None:
    """The module as layers in one along the first axis that could be it. Matrices alone do not tell: they have one size
    along an axis wherever they have the same inputs.
    """
    ranks = {len(spec.shape) for spec in specs}
    tells = len(ranks) > 1 or min(ranks) > 2
    return next(filter(None, (_stack(module, specs, axis) for axis in _AXES)), None) if tells else None


def as_stack(layer: Layer) -> tuple[Remedy, ...]:
    """The way to take a layer for several in one, where its tensors could be that."""
    stack = _told(layer.path, layer.tensors)
    return (Remedy("stacked", (stack.module, stack.axis), f"takes it for {stack.count} in one"),) if stack else ()


def _stacks_said(net: Net, stated: Mapping[str, int]) -> list[_Stack]:
    inside = _modules(net) if stated and net.framework != "neutral" else {}
    stacks = (_stack(module, inside[module], axis) for module, axis in stated.items() if module in inside)
    return [stack for stack in stacks if stack]


def _no_stack(nets: Sequence[Net], module: str, axis: int) -> Problem:
    about = Remedy("stacked", (module, axis))
    known: dict[str, list[TensorSpec]] = {}
    for net in nets:
        for name, specs in _modules(net).items():
            known.setdefault(name, []).extend(specs)
    if module not in known:
        where = "neither net has a module" if len(nets) > 1 else "the source has no module"
        return unknown_name(about, module, where, known)
    shapes = listed(f"{spec.name} {spec.shape}" for spec in known[module])
    return Problem(
        f"the tensors of '{module}' have no one size along axis {axis}: {shapes}.", "option", module, about=about
    )


def _placed(reading: Reading, stack: _Stack, place: int, whole: Mapping[str, TensorSpec]) -> Reading | None:
    stored = [_at(item, stack, place, whole[item.spec.name]) for item in reading.stored]
    parts = tuple(item for item in stored if item is not None)
    return replace(reading, stored=parts) if len(parts) == len(stored) else None


def _at(item: Stored, stack: _Stack, place: int, spec: TensorSpec) -> Stored | None:
    """The tensor that holds it, of which it is one of several parts; None for what has parts already."""
    axes = _axes(item.leaf, len(item.spec.shape), stack.axis)
    if len(item.leaf.roles) > 1 or item.sources or item.fold or axes is None:
        return None
    none = frozenset[str]()
    roles = (none,) * place + item.leaf.roles + (none,) * (stack.count - place - 1)
    return replace(item, spec=spec, leaf=replace(item.leaf, roles=roles, axes=axes[0], neutral=axes[1]))


def _axes(leaf: Leaf, ndim: int, place: int) -> tuple[Axes, Axes] | None:
    """The axes of the whole tensor, of which that of the layers is at this place, and those in neutral; None where
    spatial axes, of whatever number, come before it.
    """
    tokens, neutral = re.findall(r"\(.*?\)|\S+", leaf.axes), leaf.neutral
    if tokens[:1] == ["*"] and place:
        named = [f"axis{number}" for number in range(wild_axes(leaf.axes, ndim))]
        tokens[:1], neutral = named, neutral.replace("*", " ".join(named))
    if any(token in ("+", "~+", "*", "1*") for token in tokens[:place]):
        return None
    return " ".join([*tokens[:place], "g", *tokens[place:]]), f"g {neutral}"
