"""The flatten trap: between channels-first and channels-last nets the first layer after a flatten needs its
inputs in another order.

Only the channels C of the tensor that was flattened matter: its features are (C, positions) in PyTorch and MXNet,
(positions, C) in TensorFlow and Flax. The same holds for the outputs of a linear layer that become channels again
(the generator of a GAN, a decoder). C comes from the user (`flatten`, `unflatten`), from a schema, or follows
from the sizes of the layers around (`converter.flattening.guesses`); where two answers are possible the conversion is
refused, and whatever was decided is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from msgspec.structs import replace

from converter.core.axes import groups
from converter.core.kinds import KINDS
from converter.core.layers import Layer, Net, Stored, sizes_of
from converter.core.ops import Op, Take, Turn
from converter.errors import ConversionError, Placeholder, Problem, Remedy
from converter.flattening.guesses import guesses
from converter.flattening.walk import INPUTS, OUTPUTS, Flattened
from converter.frameworks import framework
from converter.matching.hints import Hints
from converter.matching.pairs import Pair
from converter.option_values import ChannelGroups, channels_text

#: The axis of a layer that holds the features, by kind and side.
_AXES: Mapping[tuple[str, str], str] = {
    (name, side): axis
    for name, kind in KINDS.items()
    for side, axis in zip((INPUTS, OUTPUTS), kind.flattened, strict=True)
    if axis
}
_OPTIONS = {INPUTS: "flatten", OUTPUTS: "unflatten"}
_SEEN = "as a forward of the net showed"


def flattened(
    source: Net, target: Net, pairs: Sequence[Pair], hints: Hints
) -> tuple[tuple[Flattened, ...], tuple[Pair, ...], list[Problem]]:
    """What was decided, the pairs with it accounted for, and what cannot be decided.

    Between frameworks that order channels alike there is nothing to do, unless lockstep found an order.
    """
    orders = {path: found.order for path, found in hints.found.items() if found.order}
    pairs = [_taken(pair, orders[pair.source.path]) if pair.source.path in orders else pair for pair in pairs]
    ours, theirs = (framework(net.framework).channels_last for net in (source, target))
    otherwise = _permuted_otherwise(source, target, pairs, hints, ours == theirs)
    if ours == theirs:
        return (), tuple(pairs), otherwise
    chain, basis = _chain(source, target, pairs)
    stated, parts, problems = _stated(chain, hints)
    problems += otherwise
    seen = {key: channels for key, channels in _seen(source, target, pairs).items() if key not in stated}
    decided, doubts = guesses(chain, stated | seen, basis, bool(parts))
    decided = [replace(item, reason=_SEEN) if (item.path, item.side) in seen else item for item in decided]
    decided = [replace(item, parts=parts.get(item.path, ()) if item.side == INPUTS else ()) for item in decided]
    if hints.options.flatten_fix:
        problems += map(doubtful, doubts)
    else:
        decided = [_declined(item) for item in (*decided, *doubts)]
    decided = [item for item in decided if not hints.knows_order(item.path)]
    by_path: dict[str, list[Flattened]] = {}
    for item in decided:
        if item.parts or 0 < item.channels < item.features:  # of one position each order is the same
            by_path.setdefault(item.path, []).append(item)
    fixed = (_fixed(pair, by_path.get(pair.source.path, ()), ours) for pair in pairs)
    return tuple(dict.fromkeys(decided)), tuple(fixed), problems


def _chain(source: Net, target: Net, pairs: Sequence[Pair]) -> tuple[Sequence[Layer], str]:
    """The source's layers in the order in which the net was built, and what that order rests on ("": none is known).

    PyTorch and MXNet keep the order of definition. Keras does so for functional nets and sorts the attributes of
    others, so that it is asked only when the other side keeps none.
    """
    nets = {"source": source, "clone": target}
    for side, net in nets.items():
        calls = net.observed.calls if net.observed else {}
        layers = [pair.source if side == "source" else pair.target for pair in pairs]
        if net.observed and calls.keys() >= {layer.path for layer in layers if layer.kind != "parameter"}:
            called = sorted((calls.get(layer.path, -1), i) for i, layer in enumerate(layers))
            return [_of_both(pairs[i]) for _, i in called], f"the order in which the {side} calls its layers"
    first = sorted(nets, key=lambda name: framework(nets[name].framework).channels_last)
    side = next((name for name in first if nets[name].ordered), "")
    positions = {spec.name: i for i, layer in enumerate(nets[side or "source"].layers) for spec in layer.tensors}
    order = sorted(pairs, key=lambda pair: positions[(pair.target if side == "clone" else pair.source).tensors[0].name])
    return [_of_both(pair) for pair in order], f"the order of the layers in the {side}" if side else ""


def _seen(source: Net, target: Net, pairs: Sequence[Pair]) -> Mapping[tuple[str, str], int]:
    """(path, side) -> the channels that a forward of either net showed (0: none)."""
    channels: dict[tuple[str, str], int] = {}
    for pair in pairs:
        for net, layer in ((source, pair.source), (target, pair.target)):
            if net.observed is None or not any((reading.kind, INPUTS) in _AXES for reading in pair.source.readings):
                continue
            if layer.path in net.observed.permuted:  # the one net has the order of the other
                channels[pair.source.path, INPUTS] = 0
            if layer.path in net.observed.flattened:
                channels.setdefault((pair.source.path, INPUTS), net.observed.flattened[layer.path])
            if layer.path in net.observed.unflattened and layer.kind == "linear":
                channels.setdefault((pair.source.path, OUTPUTS), net.observed.unflattened[layer.path])
    return channels


def _permuted_otherwise(source: Net, target: Net, pairs: Sequence[Pair], hints: Hints, alike: bool) -> list[Problem]:
    """Layers whose inputs one net permutes before it flattens them, so that the other has them in an order that no
    number of channels tells. alike: whether the frameworks order channels alike.
    """
    problems = []
    for pair in pairs:
        sides = ((source, pair.source), (target, pair.target))
        seen = [(net.observed, layer.path) for net, layer in sides if net.observed is not None]
        orders = [observed.permuted.get(path) for observed, path in seen if path in observed.calls]
        fits = len(set(orders)) < 2 if alike else "otherwise" not in orders and orders.count("as there") < 2
        if not fits and hints.flatten_of(pair.source.path) is None:
            problems.append(_reordered(pair.source))
    return problems


def _reordered(layer: Layer) -> Problem:
    return Problem(
        f"a forward showed that the axes of the {sizes_of(layer).inputs} inputs of '{layer.path}' are permuted before "
        "they are flattened, and not in the same way in the two nets.",
        "permuted",
        layer.path,
        remedies=(Remedy("flatten", (layer.path, 0), "keeps their order"),),
    )


def _of_both(pair: Pair) -> Layer:
    """The source layer as what its counterpart can be, too (a convolution, or a transposed one)."""
    kinds = {reading.kind for reading in pair.target.readings}
    common = tuple(reading for reading in pair.source.readings if reading.kind in kinds)
    return replace(pair.source, readings=common or pair.source.readings)


def _stated(
    chain: Sequence[Layer], hints: Hints
) -> tuple[dict[tuple[str, str], int], dict[str, ChannelGroups], list[Problem]]:
    """(path, side) -> the channels that the user or the schema states (0: none); path -> the tensors side by side that
    are its inputs, if the user states them; and the statements that do not fit.
    """
    stated: dict[tuple[str, str], int] = {}
    parts: dict[str, ChannelGroups] = {}
    problems = []
    for layer in chain:
        sizes = sizes_of(layer)
        for side, features, channels in (
            (INPUTS, sizes.inputs, hints.flatten_of(layer.path)),
            (OUTPUTS, sizes.outputs, hints.unflatten_of(layer.path)),
        ):
            if channels is None or not any((reading.kind, side) in _AXES for reading in layer.readings):
                continue
            text = ""
            if not isinstance(channels, int):
                total = sum(one * positions for one, positions in channels)
                text = f"'{layer.path}' has {features} inputs, and these are {total}." if total != features else ""
                parts[layer.path], stated[layer.path, side] = channels, 0
            elif channels and features % channels:
                text = f"the {features} {side} of '{layer.path}' are not a multiple of {channels}."
            else:
                stated[layer.path, side] = channels
            if text:
                value = channels if isinstance(channels, int) else channels_text(channels)
                problems.append(Problem(text, "flatten", layer.path, about=Remedy(_OPTIONS[side], (layer.path, value))))
    return stated, parts, problems


def _declined(item: Flattened) -> Flattened:
    stays = not item.channels and not item.parts and not item.problem
    return item if stays else replace(item, channels=0, parts=(), reason="as flatten_fix is off", problem="")


def doubtful(item: Flattened) -> Problem:
    """A doubt as a question: how many channels?"""
    sums = "; 64x49+4 for 64 channels in 49 positions with 4 features beside them" if item.side == INPUTS else ""
    return Problem(
        f"{item.problem} How many were flattened (0: none{sums})?",
        f"flatten {item.side}",
        item.path,
        met=str(item.features),
        remedies=(
            Remedy(_OPTIONS[item.side], (item.path, Placeholder("CHANNELS"))),
            Remedy("flatten_fix", False, "leaves the order as it is"),
        ),
        summary=f"the {item.side} of {{count}} layers may be flattened channels.",
        wide=(Remedy("flatten_fix", False),),
    )


def _fixed(pair: Pair, items: Sequence[Flattened], source_last: bool) -> Pair:
    for item in items:
        pair = replace(pair, source=_rearranged(pair.source, item, source_last))
        if not item.parts:
            pair = replace(pair, target=_rearranged(pair.target, item, not source_last))
    return pair


def _rearranged(layer: Layer, item: Flattened, channels_last: bool) -> Layer:
    """The layer with the features of one side as channels and positions; those of several tensors side by side in the
    order of the other framework.

    Raises ConversionError for a kernel that is made of pieces (weight normalisation) with such inputs.
    """
    if not item.parts:
        return _changed(layer, item.side, partial(_split, item, channels_last))
    parts = tuple((positions, channels) for channels, positions in item.parts) if channels_last else item.parts
    return _changed(layer, item.side, partial(_folded, lambda axis: Turn(axis, parts)))


def _taken(pair: Pair, order: tuple[int, ...]) -> Pair:
    """The pair with the inputs of the source in the order that lockstep found."""
    in_order = partial(_folded, lambda axis: Take(axis, order))
    return replace(pair, source=_changed(pair.source, INPUTS, in_order))


def _changed(layer: Layer, side: str, change: Callable[[str, Stored], Stored]) -> Layer:
    """The layer with its tensors changed so. change: takes the axis of the features of that side, too."""
    readings = (
        reading.with_tensors(partial(change, _AXES[reading.kind, side]))
        for reading in layer.readings
        if (reading.kind, side) in _AXES
    )
    return replace(layer, readings=tuple(readings))


def _folded(op: Callable[[int], Op], axis: str, stored: Stored) -> Stored:
    """The tensor with that op on the position of this axis, if it has the axis."""
    axes = groups(stored.leaf.axes, len(stored.spec.shape)) or ()
    if (axis,) not in axes:
        return stored
    if stored.fold is not None:
        raise ConversionError(f"'{stored.spec.name}' is kept in pieces, whose inputs cannot be put in another order")
    return replace(stored, sources=stored.specs, fold=op(axes.index((axis,))))


def _split(item: Flattened, channels_last: bool, axis: str, stored: Stored) -> Stored:
    words = stored.leaf.axes.split()
    if axis not in words:
        return stored
    channels, positions = f"{item.side}_channels", f"{item.side}_positions"
    first = f"({channels} {positions})"
    here = f"({positions} {channels})" if channels_last else first
    axes = " ".join(here if word == axis else word for word in words)
    neutral = " ".join(first if word == axis else word for word in stored.leaf.neutral.split())
    return replace(
        stored,
        leaf=replace(stored.leaf, axes=axes, neutral=neutral),
        sizes=(*stored.sizes, (channels, item.channels)),
    )
