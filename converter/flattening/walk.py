"""The layers of a net one after the other, as they were defined, and what their sizes tell of a flatten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from converter.core.layers import LayerSizes
from converter.flattening.decision import INPUTS, OUTPUTS, Flattened

GIVEN = "as said"
#: Images have no more channels than these, and enter the net from outside.
IMAGE = 4


class Node(msgspec.Struct, frozen=True):
    path: str
    sizes: LayerSizes


def open_sizes(nodes: Iterable[Node]) -> set[int]:
    """Numbers of channels that more convolutions give than take: in a chain, those of the last one."""
    given: Counter[int] = Counter()
    for node in nodes:
        if node.sizes.flow == "channels":
            given[node.sizes.outputs] += 1
            given[node.sizes.inputs] -= 1
    return {size for size, count in given.items() if count > 0}


def either(sizes: Iterable[int]) -> str:
    return " or ".join(map(str, sorted(sizes)))


class Tip(msgspec.Struct):
    """A convolution whose outputs no later one has taken yet. features: as many as a layer has made of them."""

    path: str
    channels: int
    features: int | None = None


class Walk(msgspec.Struct):
    """The layers one after the other, as they were defined.

    handed: the size that the layer before gives. stream: channels of the features that a norm handed on in
    flattened order. outs: every size of features that was given, and by whom. channels: every size of channels
    seen. bundle: the sum of the branches that were taken up last.
    """

    nodes: Sequence[Node]
    said: Mapping[tuple[str, str], int]
    basis: str
    found: list[Flattened] = msgspec.field(default_factory=list)
    tips: list[Tip] = msgspec.field(default_factory=list)
    outs: dict[int, str] = msgspec.field(default_factory=dict)
    channels: set[int] = msgspec.field(default_factory=set)
    handed: int = 0
    stream: int = 0
    bundle: int = 0

    def run(self) -> None:
        for place, node in enumerate(self.nodes):
            role = node.sizes.flow
            if role == "channels":
                self._channels(node)
            elif role == "norm":
                self._norm(node, place)
            elif role in ("features", "recurrent"):
                self._features(node, place)
            elif node.sizes.outputs:
                self.outs.setdefault(node.sizes.outputs, node.path)
                self.handed = node.sizes.outputs
        self._orphans()

    def _orphans(self) -> None:
        """A transposed convolution whose channels no layer gives has them from a linear layer, wherever that stands."""
        given = {n.sizes.outputs for n in self.nodes if n.sizes.flow == "channels"}
        given |= {item.channels for item in self.found if item.side == OUTPUTS}
        wanted = {n.sizes.inputs for n in self.nodes if n.sizes.transposed} - given
        known = {item.path for item in self.found if item.side == OUTPUTS}
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
        self.handed, self.stream = node.sizes.outputs, 0

    def _sum(self, count: int) -> int:
        return sum(tip.channels for tip in self.tips[-count:])

    def _norm(self, node: Node, place: int) -> None:
        features = node.sizes.inputs
        if (node.path, INPUTS) in self.said:
            self._decide(node, INPUTS, self.said[node.path, INPUTS], GIVEN)
        elif features == self.handed:
            if self.stream:
                self._decide(node, INPUTS, self.stream, f"as what {self._before(place)} gives")
            return
        elif features in self.channels or self._next_channels(place) == features:
            return
        elif channels := self._given_as(features):
            self._decide(node, INPUTS, channels, f"as what {self.outs[features]} gives")
        else:
            self._guess(node)
        channels = self._answer(node, INPUTS)
        self.handed, self.stream = features, channels

    def _features(self, node: Node, place: int) -> None:
        features, outputs = node.sizes.inputs, node.sizes.outputs
        if (node.path, INPUTS) in self.said:
            self._decide(node, INPUTS, self.said[node.path, INPUTS], GIVEN)
        elif features == self.handed:
            self._use(features, features)
            if self.stream:
                self._decide(node, INPUTS, self.stream, f"as what {self._before(place)} gives")
        else:
            self._guess(node)
        self.outs.setdefault(outputs, node.path)
        if node.sizes.flow == "recurrent":  # both directions side by side
            self.outs.setdefault(2 * outputs, node.path)
        self.handed, self.stream = outputs, 0
        if node.sizes.flow == "features":
            self._unflatten(node, place)

    def _given_as(self, features: int) -> int:
        """The channels that so many features become, where a layer before gives them so; else 0."""
        giver = self.outs.get(features)
        return next((item.channels for item in self.found if (item.path, item.side) == (giver, OUTPUTS)), 0)

    def _before(self, place: int) -> str:
        return self.nodes[place - 1].path

    # -- inputs -----------------------------------------------------------------------------------------------------

    def _guess(self, node: Node) -> None:
        """Propose, ask, or leave as it is; the layer before does not give what comes in."""
        features = node.sizes.inputs
        fitting = [tip for tip in self._candidates() if 1 < tip.channels < features and not features % tip.channels]
        free = [tip for tip in fitting if tip.features in (None, features)]
        exact, certain = self._exact(features)
        options = {tip.channels for tip in free or ([] if exact else fitting)}
        options |= self._concatenated(features) if options and not exact else set()
        if exact and (not options or certain or all(self._goes_on(node, size) for size in options)):
            if options:
                self._decide(node, INPUTS, 0, f"they are {exact}, not {either(options)} flattened channels")
            self._use(features, features)
        elif exact or len(options) > 1 or (options and node.sizes.flow == "recurrent"):
            also = f", or {exact}" if exact else ""
            text = f"'{node.path}' has {features} inputs, which may be {either(options)} channels that were flattened"
            self._ask(node, INPUTS, f"{text}{also}.")
        elif len(options) == 1 and self._taken_up(node, *options):
            text = f"'{node.path}' has {features} inputs, which may be {either(options)} channels that were flattened"
            self._ask(node, INPUTS, f"{text}, though a convolution after it takes these channels.")
        elif len(options) == 1 and self._side_by_side(node, *options):
            also = either({tip.channels for tip in self._unused()})
            text = f"'{node.path}' has {features} inputs, which may be {either(options)} channels that were flattened"
            self._ask(node, INPUTS, f"{text}, or several tensors side by side, for nothing else takes {also} channels.")
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
            text = f"'{node.path}' has {features} inputs, which may be {either(options)} channels that were flattened"
            self._ask(node, INPUTS, f"{text}, though it stands before the convolutions.")

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
        given = {other.sizes.outputs for other in self.nodes if other.sizes.flow != "channels"}
        takers = [n for n in self._after(node) if n.sizes.flow == "features" and n.sizes.inputs not in given]
        return len(others) > len(takers) and not self._convolves(node)

    def _after(self, node: Node) -> Sequence[Node]:
        return self.nodes[self._position(node.path) + 1 :]

    def _convolves(self, node: Node) -> bool:
        """Whether a convolution stands after this layer, which may take what is left over."""
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

    # -- outputs ----------------------------------------------------------------------------------------------------

    def _unflatten(self, node: Node, place: int) -> None:
        """The outputs become channels where a convolution follows that takes up no other's."""
        features = node.sizes.outputs
        if (node.path, OUTPUTS) in self.said:
            channels = self.said[node.path, OUTPUTS]
            self._decide(node, OUTPUTS, channels, GIVEN)
            self.stream = channels
            return
        channels = self._next_channels(place)
        if not 1 < channels < features or features % channels or self._explained(channels):
            return
        of_image = channels <= IMAGE  # which rather comes from outside
        # where a layer before takes what this one gives, a net of another input may begin here
        doubtful = not self._is_taken(features) if of_image else self._was_taken(place, features)
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

    def _was_taken(self, place: int, features: int) -> bool:
        """Whether a layer before took so many features as they are, not as flattened channels."""
        before = [n for n in self.nodes[:place] if n.sizes.flow in ("features", "recurrent")]
        return any(n.sizes.inputs == features and not self._answer(n, INPUTS) for n in before)

    def _explained(self, channels: int) -> bool:
        """Whether convolutions before give these channels and nothing has been made of them yet."""
        return any(
            self._sum(count) == channels and self.tips[-1].features is None for count in range(1, len(self.tips) + 1)
        )

    def _next_channels(self, place: int) -> int:
        """The channels that the next layer takes, norms aside, if it is a convolution."""
        following = next((node for node in self.nodes[place + 1 :] if node.sizes.flow not in ("norm", "other")), None)
        return following.sizes.inputs if following and following.sizes.flow == "channels" else 0

    # -- answers ----------------------------------------------------------------------------------------------------

    def _decide(self, node: Node, side: str, channels: int, reason: str) -> None:
        features = node.sizes.inputs if side == INPUTS else node.sizes.outputs
        self.found.append(Flattened(node.path, side, features, channels, reason))
        if side == INPUTS and channels:
            self._use(channels, features)

    def _ask(self, node: Node, side: str, problem: str) -> None:
        features = node.sizes.inputs if side == INPUTS else node.sizes.outputs
        self.found.append(Flattened(node.path, side, features, 0, "", problem))

    def _answer(self, node: Node, side: str) -> int:
        return next((item.channels for item in self.found if (item.path, item.side) == (node.path, side)), 0)
