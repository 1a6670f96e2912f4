"""The flatten trap: between channels-first and channels-last nets the first layer after a flatten needs its
inputs in another order.

Only the channels C of the tensor that was flattened matter: its features are (C, k) in PyTorch and MXNet,
(k, C) in TensorFlow and Flax. C comes from the user (`--flatten`, a schema, a live net) or follows from the
sizes of the layers before; where two answers are possible the conversion is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from converter.axes import Sizes
from converter.frameworks import framework
from converter.layers import Layer, Leaf, Net, Reading, Stored
from converter.matching import Pair, Rules

#: Where a layer keeps what comes in, by kind: the axis of the features, and of what goes on.
_FEATURES = {"linear": "in", "batch_norm": "c", "norm": "c"}
GIVEN, FOLLOWS = "as said", "follows from the layers before it"


@dataclass(frozen=True)
class Flattened:
    """A layer whose input features change places: those of ``channels`` channels, ``features`` in all."""

    path: str
    channels: int
    features: int
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.path}: its {self.features} inputs are {self.channels} channels that were flattened "
            f"({self.reason}); they were put into the order of the other framework"
        )


def flattened(
    source: Net, target: Net, pairs: Sequence[Pair], rules: Rules
) -> tuple[tuple[Flattened, ...], tuple[Pair, ...], list[str]]:
    """The pairs with the flatten accounted for, what was done, and what cannot be decided."""
    ours, theirs = (framework(net.framework).channels_last for net in (source, target))
    if ours == theirs or not rules.flatten_fix:
        return (), tuple(pairs), []
    ordered = source if source.ordered or not target.ordered else target
    chain = [pair.source for pair in pairs]
    if ordered is target:
        order = {layer.path: i for i, layer in enumerate(target.layers)}
        chain = [pair.source for pair in sorted(pairs, key=lambda pair: order[pair.target.path])]
    elif source.ordered:
        order = {layer.path: i for i, layer in enumerate(source.layers)}
        chain.sort(key=lambda layer: order[layer.path])
    found, problems = _found(chain, rules, ordered.ordered)
    fixed = {item.path: item for item in found}
    return (
        tuple(found),
        tuple(_fixed(pair, fixed[pair.source.path], ours) if pair.source.path in fixed else pair for pair in pairs),
        problems,
    )


def _fixed(pair: Pair, item: Flattened, source_last: bool) -> Pair:
    return replace(
        pair,
        source=_split_features(pair.source, item.channels, source_last),
        target=_split_features(pair.target, item.channels, not source_last),
    )


def _split_features(layer: Layer, channels: int, channels_last: bool) -> Layer:
    """The layer with its features taken apart into channels and places."""
    readings = tuple(
        replace(
            reading, stored=tuple(_split(s, _FEATURES[reading.kind], channels, channels_last) for s in reading.stored)
        )
        for reading in layer.readings
        if reading.kind in _FEATURES
    )
    return replace(layer, readings=readings)


def _split(stored: Stored, axis: str, channels: int, channels_last: bool) -> Stored:
    leaf: Leaf = stored.leaf
    if axis not in leaf.axes.split():
        return stored
    here = "(places channels)" if channels_last else "(channels places)"
    swap = {axis: here}
    axes = " ".join(swap.get(word, word) for word in leaf.axes.split())
    neutral = " ".join("(channels places)" if word == axis else word for word in leaf.neutral.split())
    sizes: Sizes = (*stored.sizes, ("channels", channels))
    return replace(stored, leaf=replace(leaf, axes=axes, neutral=neutral), sizes=sizes)


@dataclass
class _State:
    """What the layers so far hand on.

    tips: path -> channels of each layer whose output no later convolution has taken up.
    flat: number of features that came out of a flatten -> its channels.
    last: features that the layer before hands on; None after a convolution. norm: size of the last norm.
    through_norms: whether only norms stand between here and the flatten, so that the order is still its own.
    """

    tips: dict[str, int]
    flat: dict[int, int]
    last: int | None = None
    norm: int = 0
    through_norms: bool = False


def _found(chain: Sequence[Layer], rules: Rules, ordered: bool) -> tuple[list[Flattened], list[str]]:
    """Walk the layers and decide for each that may stand behind a flatten."""
    if not ordered:  # there is no "before" to go by: convolutions come first, as they do in nets
        chain = [*(x for x in chain if _channels(x)), *(x for x in chain if not _channels(x))]
    state = _State({}, {})
    found: list[Flattened] = []
    problems: list[str] = []
    for place, layer in enumerate(chain):
        channels, features = _channels(layer), _features(layer)
        given = rules.flatten_of(layer.path)
        if channels is not None:
            _take_up(state, layer.path, *channels)
        if features is None:
            continue
        answer: int | str = given if given is not None else 0
        if given is None and rules.schema is None:
            answer = _decide(state, layer, features, chain[place + 1 :])
        if isinstance(answer, str):
            problems.append(answer)
        elif answer and features % answer:
            problems.append(f"--flatten {layer.path}={answer}: its input size {features} is no multiple of {answer}")
        elif answer:
            found.append(Flattened(layer.path, answer, features, FOLLOWS if given is None else GIVEN))
            state.flat[features] = answer
        state.last = _out(layer, features)
        state.through_norms = layer.readings[0].kind != "linear" and (bool(answer) or state.through_norms)
    return found, problems


def _take_up(state: _State, path: str, taken: int, given: int) -> None:
    """A convolution consumes what has as many channels as it takes, or all there is side by side."""
    if taken == sum(state.tips.values()):
        state.tips = {}
    state.tips = {path: size for path, size in state.tips.items() if size != taken}
    state.tips[path] = given
    state.last = None


def _decide(state: _State, layer: Layer, features: int, later: Sequence[Layer]) -> int | str:
    """The channels of the flatten before this layer; 0 for none; a text when it cannot be told."""
    tips = state.tips.values()
    if layer.readings[0].kind != "linear":
        norm, state.norm = state.norm, features
        if (
            _next_channels(later) == features
            or features in tips
            or features in [norm + size for size in tips]
            or features == sum(tips)
        ):
            state.tips = {layer.path: features} if features not in tips else state.tips
            return 0
    if features == state.last:
        return state.flat.get(features, 0) if state.through_norms else 0
    options = {size for size in tips if features > size and features % size == 0}
    if not options or features == sum(tips):
        return 0
    if len(options) > 1 or features in tips:
        sizes = " or ".join(map(str, sorted(options)))
        return (
            f"'{layer.path}' has {features} inputs, which may be {sizes} channels that were flattened"
            f"{', or no flatten' if features in tips else ''}. "
            f"Say --flatten {layer.path}=CHANNELS (0 for none), or --no-flatten-fix."
        )
    return options.pop()


def _next_channels(later: Sequence[Layer]) -> int | None:
    """The channels that the next convolution takes, if one comes before the next layer of features."""
    for layer in later:
        channels = _channels(layer)
        if channels is not None:
            return channels[0]
        if layer.readings[0].kind == "linear":
            return None
    return None


def _channels(layer: Layer) -> tuple[int, int] | None:
    """Channels that come in and go out of a layer that works on channels; None for others."""
    for reading in layer.readings:
        if reading.kind in ("conv", "conv_transpose"):
            shape = _weight(reading)
            if shape is not None:
                return (shape[1], shape[0]) if reading.kind == "conv" else (shape[0], shape[1])
    return None


def _features(layer: Layer) -> int | None:
    """The number of features that come into a layer that may stand behind a flatten."""
    for reading in layer.readings:
        shape = _weight(reading)
        if reading.kind in _FEATURES and shape is not None:
            return shape[-1]
    return None


def _out(layer: Layer, features: int) -> int:
    for reading in layer.readings:
        shape = _weight(reading)
        if reading.kind == "linear" and shape is not None:
            return shape[0]
    return features


def _weight(reading: Reading) -> tuple[int, ...] | None:
    """The neutral shape of what a layer has most of: its kernel, or its scale."""
    for role in ("weight", "scale", "offset", "mean"):
        found = reading.roles.get(frozenset((role,)))
        if found is not None:
            return found[0].neutral_shape()
    return None
