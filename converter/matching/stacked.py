"""Several layers that one framework keeps as one: blocks of a language model in tensors with an axis for the blocks.

``nn.scan`` and ``nn.vmap`` of Flax, MaxText (``scan_layers``, along axis 1), nnx, Haiku and Equinox have one
``layers.query`` [layers, in, out]. It is taken as the layers in it, ``layers.0.query`` and so on, each with its place
in the tensor: layers like any other, on both sides. Which modules are stacked is seen where the layers in them fit the
other net and they themselves do not, or it is said (``stacked``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from converter.core.axes import Axes, wild_axes
from converter.core.contents import Contents
from converter.core.layers import Layer, Leaf, Net, Reading, Stored, join_path, split_path
from converter.core.tensors import TensorSpec
from converter.errors import MatchError, Problem, Remedy, unknown_name
from converter.frameworks import framework
from converter.matching.looks import Fitting

#: Along which axis layers are stacked.
_AXES = (0, 1)


class _Stack(msgspec.Struct, frozen=True):
    """The layers of ``module`` (all of the net for "") are ``count`` layers in one, along that axis."""

    module: str
    axis: int
    count: int


def unstacked(source: Net, target: Net | None, stated: Mapping[str, int]) -> tuple[Net, Net | None]:
    """Both nets with the layers that are several in one as these. target: None where there is no clone.

    stated: module -> the axis of its tensors along which its layers are. Raises MatchError where it has no such axis.
    """
    nets = [net for net in (source, target) if net is not None]
    found = [_stated(net, stated) for net in nets]
    met = {stack.module for stacks in found for stack in stacks}
    if lost := [module for module in stated if module not in met]:
        known = dict.fromkeys(module for net in nets for module in _modules(net))
        raise MatchError([_no_stack(nets, module, stated[module], known) for module in lost])
    apart = [_taken_apart(net, stacks) for net, stacks in zip(nets, found, strict=True)]
    if len(nets) == 2 and not stated:
        apart = _seen(*nets)
    return apart[0], apart[1] if target is not None else None


def _seen(source: Net, target: Net) -> list[Net]:
    """Stacks are seen where layers of either net fit none of the other, and those in them do."""
    nets = source, target
    possible = [_possible(net) for net in nets]
    if not any(possible):
        return list(nets)
    fitting = Fitting(source.framework == target.framework)
    apart = [_taken_apart(net, stacks) for net, stacks in zip(nets, possible, strict=True)]
    chosen = [
        [stack for stack in stacks if _fits(stack, net, whole, (other, other_whole), fitting, turned)]
        for net, whole, other, other_whole, stacks, turned in (
            (source, apart[0], target, apart[1], possible[0], False),
            (target, apart[1], source, apart[0], possible[1], True),
        )
    ]
    return [_taken_apart(net, stacks) for net, stacks in zip(nets, chosen, strict=True)]


def _fits(stack: _Stack, net: Net, apart: Net, others: tuple[Net, Net], fitting: Fitting, turned: bool) -> bool:
    """turned: whether the net is the target."""

    def fits(layer: Layer, known: Sequence[Layer]) -> bool:
        return any(fitting.fits(*((other, layer) if turned else (layer, other))) for other in known)

    plain, every = (_unlike(fitting, layers) for layers in (others[0].layers, [*others[0].layers, *others[1].layers]))
    whole = _below(stack.module, net.layers)
    inside = _below(join_path((*split_path(stack.module), "0")), apart.layers)
    return not all(fits(layer, plain) for layer in whole) and all(fits(layer, every) for layer in inside)


def _unlike(fitting: Fitting, layers: Iterable[Layer]) -> Sequence[Layer]:
    return list({fitting.look(layer): layer for layer in layers}.values())


def _below(module: str, layers: Iterable[Layer]) -> list[Layer]:
    return [layer for layer in layers if _is_below(layer.path, module)]


def _is_below(path: str, module: str) -> bool:
    return not module or path == module or path.startswith(f"{module}.")


def _modules(net: Net) -> Iterable[str]:
    """Of every depth, the outer ones first."""
    parts = [split_path(layer.path) for layer in net.layers]
    names = {part[:depth] for part in parts for depth in range(len(part) + 1)}
    return [join_path(name) for name in sorted(names, key=lambda name: (len(name), name))]


def _possible(net: Net) -> list[_Stack]:
    """The outermost modules of which all tensors have one size along one axis, and more axes than that."""
    found: list[_Stack] = []
    if not any(len(spec.shape) > 2 for layer in net.layers for spec in layer.tensors):
        return found
    for module in _modules(net):
        if not any(_is_below(module, stack.module) for stack in found):
            stacks = (_stack(net, module, axis) for axis in _AXES)
            found += [stack for stack in [next(filter(None, stacks), None)] if stack]
    return found


def _stack(net: Net, module: str, axis: int) -> _Stack | None:
    shapes = [spec.shape for layer in _below(module, net.layers) for spec in layer.tensors]
    counts = {shape[axis] if len(shape) > axis and len(shape) > 1 else 0 for shape in shapes}
    count = counts.pop() if len(counts) == 1 else 0
    several = len({len(shape) for shape in shapes}) > 1 or all(len(shape) > 2 for shape in shapes)
    return _Stack(module, axis, count) if count > 1 and several else None


def _stated(net: Net, stated: Mapping[str, int]) -> list[_Stack]:
    stacks = (_stack(net, module, axis) for module, axis in stated.items() if _below(module, net.layers))
    return [stack for stack in stacks if stack]


def _no_stack(nets: Sequence[Net], module: str, axis: int, known: Iterable[str]) -> Problem:
    about = Remedy("stacked", (module, axis))
    layers = [layer for net in nets for layer in _below(module, net.layers)]
    if not layers:
        return unknown_name(
            about, module, "neither net has a module" if len(nets) > 1 else "the source has no module", known
        )
    shapes = ", ".join(f"{spec.name} {spec.shape}" for layer in layers for spec in layer.tensors[:3])
    text = f"the tensors of '{module}' have no one size along axis {axis}: {shapes}."
    return Problem(text, "option", module, about=about)


def _taken_apart(net: Net, stacks: Sequence[_Stack]) -> Net:
    """Raises MatchError for a layer that holds several roles in a tensor already (an LSTM)."""
    if not stacks:
        return net
    of_tensor = {
        spec.name: stack for stack in stacks for layer in _below(stack.module, net.layers) for spec in layer.tensors
    }
    specs = [spec for layer in net.layers for spec in layer.tensors]
    one = framework(net.framework).net(Contents(tuple(_one(spec, of_tensor.get(spec.name)) for spec in specs)))
    whole = {spec.name: spec for spec in specs}
    inside: dict[str, list[Layer]] = {stack.module: [] for stack in stacks}
    for layer in one.layers:
        stack = of_tensor.get(layer.tensors[0].name)
        if stack is not None:
            inside[stack.module].append(layer)
    blocks = {stack.module: _blocks(stack, inside[stack.module], whole) for stack in stacks}
    layers: list[Layer] = []
    for layer in net.layers:
        stack = of_tensor.get(layer.tensors[0].name) if layer.tensors else None
        layers += [layer] if stack is None else blocks.pop(stack.module, [])
    return replace(net, layers=tuple(layers))


def _one(spec: TensorSpec, stack: _Stack | None) -> TensorSpec:
    """A tensor of one of the layers."""
    if stack is None:
        return spec
    return replace(spec, shape=(*spec.shape[: stack.axis], *spec.shape[stack.axis + 1 :]))


def _blocks(stack: _Stack, inside: Sequence[Layer], whole: Mapping[str, TensorSpec]) -> list[Layer]:
    depth = len(split_path(stack.module))
    layers = []
    for place in range(stack.count):
        for layer in inside:
            parts = split_path(layer.path)
            path = join_path((*parts[:depth], str(place), *parts[depth:]))
            readings = tuple(filter(None, (_placed(reading, stack, place, whole) for reading in layer.readings)))
            if not readings:
                raise MatchError([f"'{layer.path}' has several gates or parts in a tensor of each layer stacked in it"])
            layers.append(Layer(path, readings))
    return layers


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
