"""The layers of a net one after the other, as they were defined, and what their sizes tell of a flatten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from converter.core.layers import LayerSizes
from converter.matching.held import held_in
from converter.option_values import ChannelGroups, channels_text

INPUTS, OUTPUTS = "inputs", "outputs"
#: The reason of what the user or the schema states.
STATED = "as specified"
#: Images have no more channels than these, and enter the net from outside.
IMAGE = 4


class Flattened(msgspec.Struct, frozen=True):
    """The decision for the ``features`` of one side of a layer: so many flattened channels (0: they keep their order).

    problem: why it cannot be decided. parts: of features that are several tensors side by side, what each of them is.
    """

    path: str
    side: str
    features: int
    channels: int
    reason: str
    problem: str = ""
    parts: ChannelGroups = ()

    def __str__(self) -> str:
        features = f"flatten: the {self.features} {self.side} of {self.path}"
        if self.parts:
            return (
                f"{features} are {channels_text(self.parts)}, tensors side by side ({self.reason}); each takes the "
                "order of the other framework"
            )
        if self.channels:
            return (
                f"{features} are {self.channels} flattened channels ({self.reason}); they take the order of the other "
                "framework"
            )
        return f"{features} keep their order ({self.reason})"


class Node(msgspec.Struct, frozen=True):
    path: str
    sizes: LayerSizes

    def features(self, side: str) -> int:
        return self.sizes.inputs if side == INPUTS else self.sizes.outputs


def open_sizes(nodes: Iterable[Node]) -> set[int]:
    """Numbers of channels that more convolutions give than take: in a chain, those of the last one."""
    balance: Counter[int] = Counter()
    for node in nodes:
        if node.sizes.flow == "channels":
            balance[node.sizes.outputs] += 1
            balance[node.sizes.inputs] -= 1
    return {size for size, count in balance.items() if count > 0}


def either(sizes: Iterable[int]) -> str:
    return " or ".join(map(str, sorted(sizes)))


class Tip(msgspec.Struct):
    """A convolution whose outputs no later one has taken yet. features: as many as a layer has made of them."""

    path: str
    channels: int
    features: int | None = None


class Walk(msgspec.Struct):
    """The layers one after the other, as they were defined.

    stated: (path, side) -> the channels that the user, the schema or a forward states. handed: the outputs of the layer
    before; part: of a layer that holds several (queries, keys, values), those of one of them. stream: channels of the
    features that a norm handed on in flattened order. outs: every number of output features, and the first layer with
    it. channels: every number of channels seen. bundle: the sum of the branches that were taken up last.
    """

    nodes: Sequence[Node]
    stated: Mapping[tuple[str, str], int]
    basis: str
    decisions: list[Flattened] = msgspec.field(default_factory=list)
    tips: list[Tip] = msgspec.field(default_factory=list)
    outs: dict[int, str] = msgspec.field(default_factory=dict)
    channels: set[int] = msgspec.field(default_factory=set)
    handed: int = 0
    part: int = 0
    stream: int = 0
    bundle: int = 0

    def run(self) -> None:
        for position, node in enumerate(self.nodes):
            role = node.sizes.flow
            if role == "channels":
                self._channels(node)
            elif role == "norm":
                self._norm(node, position)
            elif role in ("features", "recurrent"):
                self._features(node, position)
            elif node.sizes.outputs:
                self.outs.setdefault(node.sizes.outputs, node.path)
                self.handed = node.sizes.outputs
        self._orphans()

    def _orphans(self) -> None:
        """A transposed convolution whose channels no layer gives has them from a linear layer, wherever that is."""
        outputs = {n.sizes.outputs for n in self.nodes if n.sizes.flow == "channels"}
        outputs |= {item.channels for item in self.decisions if item.side == OUTPUTS}
        wanted = {n.sizes.inputs for n in self.nodes if n.sizes.transposed} - outputs
        known = {item.path for item in self.decisions if item.side == OUTPUTS}
        for node in self.nodes:
            features = node.sizes.outputs
            options = {size for size in wanted if 1 < size < features and not features % size}
            if node.sizes.flow == "features" and options and node.path not in known and not self._is_taken(features):
                text = f"the {features} outputs of '{node.path}' may become {either(options)} channels"
                self._ask(node, OUTPUTS, f"{text}, which a transposed convolution takes and no convolution gives.")

    def _channels(self, node: Node) -> None:
        taken = node.sizes.inputs
        last = self.tips[-1].channels if self.tips else 0
        if taken == last:
            self.tips.pop()
        elif taken != self.bundle:  # another branch of the same input takes up nothing
            branches = next((n for n in range(2, len(self.tips) + 1) if self._sum(n) == taken), 0)
            if branches:
                del self.tips[-branches:]
                self.bundle = taken
        self.channels |= {taken, node.sizes.outputs}
        self.tips.append(Tip(node.path, node.sizes.outputs))
        self.handed, self.part, self.stream = node.sizes.outputs, 0, 0

    def _sum(self, count: int) -> int:
        return sum(tip.channels for tip in self.tips[-count:])

    def _norm(self, node: Node, position: int) -> None:
        features = node.sizes.inputs
        if self._is_stated(node, INPUTS):
            pass
        elif features == self.handed:
            if self.stream:
                self._decide(node, INPUTS, self.stream, f"as what {self._before(position)} gives")
            return
        elif features in self.channels or self._next_channels(position) == features:
            return
        elif channels := self._channels_of_outputs(features):
            self._decide(node, INPUTS, channels, f"as what {self.outs[features]} gives")
        else:
            self._guess(node)
        channels = self._answer(node, INPUTS)
        self.handed, self.stream = features, channels

    def _features(self, node: Node, position: int) -> None:
        features, outputs = node.sizes.inputs, node.sizes.outputs
        if self._is_stated(node, INPUTS):
            pass
        elif features in (self.handed, self.part):
            self._use(features, features)
            if self.stream and features == self.handed:
                self._decide(node, INPUTS, self.stream, f"as what {self._before(position)} gives")
        else:
            self._guess(node)
        held = held_in(node.path)
        self.part = outputs // len(held) if held else 0
        self.outs.setdefault(outputs, node.path)
        if node.sizes.flow == "recurrent":  # both directions side by side
            self.outs.setdefault(2 * outputs, node.path)
        self.handed, self.stream = outputs, 0
        if node.sizes.flow == "features":
            self._unflatten(node, position)

    def _channels_of_outputs(self, features: int) -> int:
        """The channels that so many features become, where a layer before gives them so; else 0."""
        giver = self.outs.get(features)
        return next((item.channels for item in self.decisions if (item.path, item.side) == (giver, OUTPUTS)), 0)

    def _before(self, position: int) -> str:
        return self.nodes[position - 1].path

    def _guess(self, node: Node) -> None:
        """Propose, ask, or leave as it is; the layer before does not give what comes in."""
        features = node.sizes.inputs
        fitting = [tip for tip in self._candidates() if 1 < tip.channels < features and not features % tip.channels]
        free = [tip for tip in fitting if tip.features in (None, features)]
        exact, certain = self._exact(features)
        options = {tip.channels for tip in free or ([] if exact else fitting)}
        options |= self._concatenated(features) if options and not exact else set()
        channels = either(options)
        if exact and (not options or certain or all(self._goes_on(node, size) for size in options)):
            if options:
                self._decide(node, INPUTS, 0, f"they are {exact}, not {channels} flattened channels")
            self._use(features, features)
        elif exact or len(options) > 1 or (options and node.sizes.flow == "recurrent"):
            self._ask_inputs(node, options, f", or {exact}" if exact else "")
        elif options and self._taken_up(node, *options):
            self._ask_inputs(node, options, ", though a convolution after it takes these channels")
        elif options and self._side_by_side(node, *options):
            also = either({tip.channels for tip in self._unused()})
            self._ask_inputs(
                node, options, f", or several tensors side by side, for nothing else takes {also} channels"
            )
        elif options:
            size = options.pop()
            tip = next(tip for tip in reversed(fitting) if tip.channels == size)
            self._decide(node, INPUTS, size, f"those of {tip.path}; it rests on {self.basis or 'sizes alone'}")
            for tip in fitting:
                if tip.channels == size:
                    tip.features = features
        else:
            self._unexplained(node)

    def _unexplained(self, node: Node) -> None:
        """No layer before gives what comes in. Where layers after it could, the order is not to be trusted."""
        features = node.sizes.inputs
        if any(1 < tip.channels < features for tip in self._unused()) and not self._convolves(node):
            also = either({tip.channels for tip in self._unused()})
            text = f"'{node.path}' has {features} inputs, and nothing else takes the {also} channels before it"
            self._ask(node, INPUTS, f"{text}: they may be among these inputs, beside something else.")
            return
        if self.tips:
            self._decide(node, INPUTS, 0, "no layer before gives so many, nor do its channels divide them")
            return
        options = {size for size in open_sizes(self.nodes) if IMAGE < size < features and not features % size}
        if options:
            self._ask_inputs(node, options, ", though it is before the convolutions")

    def _candidates(self) -> Sequence[Tip]:
        """The convolutions whose outputs may have been flattened: those before that no other has taken."""
        if not self.tips:
            return ()
        still = open_sizes(self.nodes[: self._position(self.tips[-1].path) + 1])
        return [tip for tip in self.tips if tip.channels in still or tip is self.tips[-1]]

    def _unused(self) -> list[Tip]:
        """Those of them of which no layer has made features yet."""
        return [tip for tip in self._candidates() if tip.features is None]

    def _side_by_side(self, node: Node, channels: int) -> bool:
        """Whether other convolutions are left over that no layer after this one can take."""
        others = {tip.channels for tip in self._unused()} - {channels}
        outputs = {other.sizes.outputs for other in self.nodes if other.sizes.flow != "channels"}
        takers = [n for n in self._after(node) if n.sizes.flow == "features" and n.sizes.inputs not in outputs]
        return len(others) > len(takers) and not self._convolves(node)

    def _after(self, node: Node) -> Sequence[Node]:
        return self.nodes[self._position(node.path) + 1 :]

    def _convolves(self, node: Node) -> bool:
        """Whether a convolution follows this layer, which may take what is left over."""
        return any(other.sizes.flow == "channels" for other in self._after(node))

    def _position(self, path: str) -> int:
        return next(i for i, node in enumerate(self.nodes) if node.path == path)

    def _exact(self, features: int) -> tuple[str, bool]:
        """What gives just so many features, and whether nothing else would be believed."""
        if self.tips:
            sums = {self._sum(count) for count in range(2, len(self.tips) + 1)}
            convs = [node.sizes for node in self.nodes if node.sizes.flow == "channels"]
            joined = {sizes.inputs for sizes in convs} - {sizes.outputs for sizes in convs}  # as in a DenseNet
            beside = features - self.tips[-1].channels in joined
            if features in sums or beside:
                return "the channels of several layers side by side", True
        if features in self.outs:
            return f"what {self.outs[features]} gives", False
        tip = next((tip for tip in self.tips if tip.channels == features), None)
        return (f"the pooled channels of {tip.path}", False) if tip else ("", False)

    def _concatenated(self, features: int) -> set[int]:
        """The channels of branches side by side that may have been flattened together."""
        tips = [tip.channels for tip in self._candidates() if tip.features is None]
        sums = {sum(tips[-count:]) for count in range(2, len(tips) + 1)}
        return {size for size in sums if size < features and not features % size}

    def _goes_on(self, node: Node, channels: int) -> bool:
        """Whether a convolution after this layer takes those channels, so that they were not flattened."""
        return any(n.sizes.flow == "channels" and n.sizes.inputs == channels for n in self._after(node))

    def _taken_up(self, node: Node, channels: int) -> bool:
        """Whether a convolution after this layer takes those channels, and nothing there gave them first."""
        before = node
        for other in self._after(node):
            if other.sizes.flow == "channels" and other.sizes.inputs == channels and not other.sizes.transposed:
                return before.sizes.flow != "features" or before.sizes.outputs % channels != 0
            if other.sizes.flow == "channels" and other.sizes.outputs == channels:
                return False
            before = other if other.sizes.flow in ("features", "channels") else before
        return False

    def _use(self, channels: int, features: int) -> None:
        for tip in self.tips:
            if tip.channels == channels:
                tip.features = features

    def _unflatten(self, node: Node, position: int) -> None:
        """The outputs become channels where a convolution follows that takes up no other's."""
        features = node.sizes.outputs
        if self._is_stated(node, OUTPUTS):
            self.stream = self.stated[node.path, OUTPUTS]
            return
        channels = self._next_channels(position)
        if not 1 < channels < features or features % channels or self._explained(channels):
            return
        of_image = channels <= IMAGE  # which rather comes from outside
        # where a layer before takes what this one gives, a net of another input may begin here
        doubtful = not self._is_taken(features) if of_image else self._was_taken(position, features)
        if doubtful:
            self._ask(node, OUTPUTS, f"the {features} outputs of '{node.path}' may become {channels} channels.")
        elif not of_image:
            self._decide(node, OUTPUTS, channels, f"those that the next convolution takes; it rests on {self.basis}")
            self.stream = channels

    def _is_taken(self, features: int) -> bool:
        """Whether some layer takes so many features as they are, or they may be added to as many channels."""
        return any(
            features == (n.sizes.outputs if n.sizes.flow == "channels" else n.sizes.inputs)
            for n in self.nodes
            if n.sizes.flow in ("features", "recurrent", "channels")
        )

    def _was_taken(self, position: int, features: int) -> bool:
        """Whether a layer before took so many features as they are, not as flattened channels."""
        before = [n for n in self.nodes[:position] if n.sizes.flow in ("features", "recurrent")]
        return any(n.sizes.inputs == features and not self._answer(n, INPUTS) for n in before)

    def _explained(self, channels: int) -> bool:
        """Whether convolutions before give these channels and nothing has been made of them yet."""
        return any(
            self._sum(count) == channels and self.tips[-1].features is None for count in range(1, len(self.tips) + 1)
        )

    def _next_channels(self, position: int) -> int:
        """The channels that the next layer takes, norms aside, if it is a convolution."""
        following = next(
            (node for node in self.nodes[position + 1 :] if node.sizes.flow not in ("norm", "other")), None
        )
        return following.sizes.inputs if following and following.sizes.flow == "channels" else 0

    def _decide(self, node: Node, side: str, channels: int, reason: str) -> None:
        self.decisions.append(Flattened(node.path, side, node.features(side), channels, reason))
        if side == INPUTS and channels:
            self._use(channels, node.sizes.inputs)

    def _is_stated(self, node: Node, side: str) -> bool:
        """Whether it is stated how many channels were flattened; then that is the decision."""
        channels = self.stated.get((node.path, side))
        if channels is not None:
            self._decide(node, side, channels, STATED)
        return channels is not None

    def _ask(self, node: Node, side: str, problem: str) -> None:
        self.decisions.append(Flattened(node.path, side, node.features(side), 0, "", problem))

    def _ask_inputs(self, node: Node, options: Iterable[int], doubt: str) -> None:
        channels = f"{either(options)} channels that were flattened{doubt}"
        self._ask(node, INPUTS, f"'{node.path}' has {node.sizes.inputs} inputs, which may be {channels}.")

    def _answer(self, node: Node, side: str) -> int:
        return next((item.channels for item in self.decisions if (item.path, item.side) == (node.path, side)), 0)
