"""Which layers stand behind a flatten, as the sizes of the layers before them tell it.

A layer with F inputs may take a flattened tensor of C channels where C divides F; it may as well take the F
outputs of an earlier linear layer, or C = F channels that were pooled. When sizes allow one answer it is
proposed; when they allow two, the user is asked; when one is an exact size and the other a mere divisor that
something else uses, the exact one is taken, and the other is mentioned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from converter.flatten_sizes import Sizes, sizes_of
from converter.layers import Layer

INPUTS, OUTPUTS = "inputs", "outputs"
GIVEN = "as said"
#: Images have no more channels than these, and enter the net from outside.
_IMAGE = 4


@dataclass(frozen=True)
class Flattened:
    """What was decided for the ``features`` of one side of a layer: they are so many flattened channels (0: they
    stay in their order), and why. ``problem``: why it cannot be decided.
    """

    path: str
    side: str
    features: int
    channels: int
    reason: str
    problem: str = ""

    def __str__(self) -> str:
        if self.channels:
            return (
                f"flatten: the {self.features} {self.side} of {self.path} are {self.channels} flattened channels "
                f"({self.reason}); they take the order of the other framework"
            )
        return f"flatten: the {self.features} {self.side} of {self.path} keep their order ({self.reason})"


def guesses(
    chain: Sequence[Layer], said: Mapping[tuple[str, str], int], basis: str
) -> tuple[list[Flattened], list[Flattened]]:
    """What is decided for the layers of the chain, and what is left in doubt.

    basis: what the order of the chain rests on; "" when it is not that in which the net was built.
    """
    nodes = _with_groups([_Node(layer.path, sizes_of(layer)) for layer in chain])
    if not any(node.sizes.role == "channels" for node in nodes) and not any(said.values()):
        return [], []
    walk = _Walk(nodes, said, basis) if basis else _Unordered(nodes, said, basis)
    walk.run()
    return [item for item in walk.found if not item.problem], [item for item in walk.found if item.problem]


@dataclass(frozen=True)
class _Node:
    path: str
    sizes: Sizes


def _with_groups(nodes: Sequence[_Node]) -> list[_Node]:
    """A convolution in groups shows the channels of one; it takes as many groups as the one before it gives.

    One with as many as the first convolution takes is rather a second branch on the image, unless it is depthwise.
    """
    result: list[_Node] = []
    last = image = 0
    for node in nodes:
        sizes = node.sizes
        if sizes.role == "channels" and sizes.inputs:
            groups, rest = divmod(last, sizes.inputs)
            fits = groups > 1 and not rest and not sizes.outputs % groups
            image = image or sizes.inputs
            last = sizes.outputs
            if fits and (sizes.inputs == 1 or sizes.inputs != image):
                sizes = replace(sizes, inputs=groups * sizes.inputs)
        result.append(_Node(node.path, sizes))
    return result


def _open(nodes: Iterable[_Node]) -> set[int]:
    """Numbers of channels that more convolutions give than take: in a chain, those of the last one."""
    given: Counter[int] = Counter()
    for node in nodes:
        if node.sizes.role == "channels":
            given[node.sizes.outputs] += 1
            given[node.sizes.inputs] -= 1
    return {size for size, count in given.items() if count > 0}


def _either(sizes: Iterable[int]) -> str:
    return " or ".join(map(str, sorted(sizes)))


@dataclass
class _Tip:
    """A convolution whose outputs no later one has taken yet. features: as many as a layer has made of them."""

    path: str
    channels: int
    features: int | None = None


@dataclass
class _Walk:
    """The layers one after the other, as they were defined.

    handed: the size that the layer before gives. stream: channels of the features that a norm handed on in
    flattened order. outs: every size of features that was given, and by whom. channels: every size of channels
    seen. bundle: the sum of the branches that were taken up last.
    """

    nodes: Sequence[_Node]
    said: Mapping[tuple[str, str], int]
    basis: str
    found: list[Flattened] = field(default_factory=list)
    tips: list[_Tip] = field(default_factory=list)
    outs: dict[int, str] = field(default_factory=dict)
    channels: set[int] = field(default_factory=set)
    handed: int = 0
    stream: int = 0
    bundle: int = 0

    def run(self) -> None:
        for place, node in enumerate(self.nodes):
            role = node.sizes.role
            if role == "channels":
                self._channels(node)
            elif role == "norm":
                self._norm(node, place)
            elif role in ("features", "recurrent"):
                self._features(node, place)
            elif node.sizes.outputs:
                self.outs.setdefault(node.sizes.outputs, node.path)
                self.handed = node.sizes.outputs

    def _channels(self, node: _Node) -> None:
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
        self.tips.append(_Tip(node.path, node.sizes.outputs))
        self.handed, self.stream = node.sizes.outputs, 0

    def _sum(self, count: int) -> int:
        return sum(tip.channels for tip in self.tips[-count:])

    def _norm(self, node: _Node, place: int) -> None:
        features = node.sizes.inputs
        if (node.path, INPUTS) in self.said:
            self._decide(node, INPUTS, self.said[node.path, INPUTS], GIVEN)
        elif features == self.handed:
            if self.stream:
                self._decide(node, INPUTS, self.stream, f"as what {self._before(place)} gives")
            return
        elif features in self.channels or self._next_channels(place) == features:
            return
        else:
            self._guess(node)
        channels = self._answer(node, INPUTS)
        self.handed, self.stream = features, channels

    def _features(self, node: _Node, place: int) -> None:
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
        if node.sizes.role == "recurrent":  # both directions side by side
            self.outs.setdefault(2 * outputs, node.path)
        self.handed, self.stream = outputs, 0
        if node.sizes.role == "features":
            self._unflatten(node, place)

    def _before(self, place: int) -> str:
        return self.nodes[place - 1].path

    # -- inputs -----------------------------------------------------------------------------------------------------

    def _guess(self, node: _Node) -> None:
        """Propose, ask, or leave as it is; the layer before does not give what comes in."""
        features = node.sizes.inputs
        fitting = [tip for tip in self._candidates() if 1 < tip.channels < features and not features % tip.channels]
        free = [tip for tip in fitting if tip.features in (None, features)]
        exact, certain = self._exact(features)
        options = {tip.channels for tip in free or ([] if exact else fitting)}
        options |= self._concatenated(features) if options and not exact else set()
        if exact and (not options or certain or all(self._goes_on(node, size) for size in options)):
            if options:
                self._decide(node, INPUTS, 0, f"they are {exact}, not {_either(options)} flattened channels")
            self._use(features, features)
        elif exact or len(options) > 1 or (options and node.sizes.role == "recurrent"):
            also = f", or {exact}" if exact else ""
            text = f"'{node.path}' has {features} inputs, which may be {_either(options)} channels that were flattened"
            self._ask(node, INPUTS, f"{text}{also}.")
        elif options:
            size = options.pop()
            tip = next(tip for tip in reversed(fitting) if tip.channels == size)
            self._decide(node, INPUTS, size, f"those of {tip.path}; it rests on {self.basis or 'sizes alone'}")
            for tip in fitting:
                if tip.channels == size:
                    tip.features = features
        else:
            self._unexplained(node)

    def _unexplained(self, node: _Node) -> None:
        """No layer before gives what comes in. Where layers behind it could, the order is not to be trusted."""
        features = node.sizes.inputs
        if self.tips:
            self._decide(node, INPUTS, 0, "no layer before gives so many, nor do its channels divide them")
            return
        options = {size for size in _open(self.nodes) if _IMAGE < size < features and not features % size}
        if options:
            text = f"'{node.path}' has {features} inputs, which may be {_either(options)} channels that were flattened"
            self._ask(node, INPUTS, f"{text}, though it stands before the convolutions.")

    def _candidates(self) -> Sequence[_Tip]:
        """The convolutions whose outputs may have been flattened: those before that no other has taken."""
        if not self.tips:
            return ()
        still = _open(self.nodes[: self._place(self.tips[-1].path) + 1])
        return [tip for tip in self.tips if tip.channels in still or tip is self.tips[-1]]

    def _place(self, path: str) -> int:
        return next(i for i, node in enumerate(self.nodes) if node.path == path)

    def _exact(self, features: int) -> tuple[str, bool]:
        """What gives just so many features, and whether nothing else would be believed."""
        if self.tips:
            sums = {self._sum(count) for count in range(2, len(self.tips) + 1)}
            if features in sums or features - self.tips[-1].channels in self.channels:
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

    def _goes_on(self, node: _Node, channels: int) -> bool:
        """Whether a convolution behind this layer takes those channels, so that they were not flattened."""
        behind = self.nodes[self._place(node.path) :]
        return any(other.sizes.role == "channels" and other.sizes.inputs == channels for other in behind)

    def _use(self, channels: int, features: int) -> None:
        for tip in self.tips:
            if tip.channels == channels:
                tip.features = features

    # -- outputs ----------------------------------------------------------------------------------------------------

    def _unflatten(self, node: _Node, place: int) -> None:
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
        if self.tips and channels <= _IMAGE:
            self._ask(node, OUTPUTS, f"the {features} outputs of '{node.path}' may become {channels} channels.")
            return
        self._decide(node, OUTPUTS, channels, f"those that the next convolution takes; it rests on {self.basis}")
        self.stream = channels

    def _explained(self, channels: int) -> bool:
        """Whether convolutions before give these channels and nothing has been made of them yet."""
        return any(
            self._sum(count) == channels and self.tips[-1].features is None for count in range(1, len(self.tips) + 1)
        )

    def _next_channels(self, place: int) -> int:
        """The channels that the next layer takes, norms aside, if it is a convolution."""
        behind = next((node for node in self.nodes[place + 1 :] if node.sizes.role not in ("norm", "other")), None)
        return behind.sizes.inputs if behind and behind.sizes.role == "channels" else 0

    # -- answers ----------------------------------------------------------------------------------------------------

    def _decide(self, node: _Node, side: str, channels: int, reason: str) -> None:
        features = node.sizes.inputs if side == INPUTS else node.sizes.outputs
        self.found.append(Flattened(node.path, side, features, channels, reason))
        if side == INPUTS and channels:
            self._use(channels, features)

    def _ask(self, node: _Node, side: str, problem: str) -> None:
        features = node.sizes.inputs if side == INPUTS else node.sizes.outputs
        self.found.append(Flattened(node.path, side, features, 0, "", problem))

    def _answer(self, node: _Node, side: str) -> int:
        return next((item.channels for item in self.found if (item.path, item.side) == (node.path, side)), 0)


class _Unordered(_Walk):
    """The same where neither side keeps an order: only the numbers of channels that are given and taken count."""

    def run(self) -> None:
        layers = [node for node in self.nodes if node.sizes.role in ("features", "recurrent")]
        convs = [node for node in self.nodes if node.sizes.role == "channels"]
        plain = [node for node in convs if not node.sizes.transposed]
        self.channels = {size for node in convs for size in (node.sizes.inputs, node.sizes.outputs)}
        sizes = _open(plain) or {node.sizes.outputs for node in plain}
        self.tips = [_Tip(self._giver(size), size) for size in sorted(sizes)]
        for node in self.nodes:
            if node.sizes.role not in ("channels", "norm") and node.sizes.outputs:
                self.outs.setdefault(node.sizes.outputs, node.path)
        # what no layer of features gives comes first, so that the rest can be told from it; then what is pooled
        for node in sorted(layers, key=lambda n: (n.sizes.inputs in self.outs, n.sizes.inputs not in sizes)):
            if (node.path, INPUTS) in self.said:
                self._decide(node, INPUTS, self.said[node.path, INPUTS], GIVEN)
            else:
                self._guess(node)
        for node in layers:
            if node.sizes.role == "features":
                self._unflatten(node, 0)
        self._norms({item.features: item.channels for item in self.found if item.channels})

    def _norms(self, flat: Mapping[int, int]) -> None:
        for node in self.nodes:
            features = node.sizes.inputs
            if node.sizes.role != "norm":
                continue
            if (node.path, INPUTS) in self.said:
                self._decide(node, INPUTS, self.said[node.path, INPUTS], GIVEN)
            elif features in flat and features not in self.channels:
                self._decide(node, INPUTS, flat[features], "as the linear layer of that size; it rests on sizes alone")
            elif features not in self.channels and features not in self.outs:
                self._guess(node)

    def _giver(self, channels: int) -> str:
        return next(node.path for node in self.nodes if node.sizes.outputs == channels)

    def _candidates(self) -> Sequence[_Tip]:
        return self.tips

    def _exact(self, features: int) -> tuple[str, bool]:
        if features in self.outs:
            return f"what {self.outs[features]} gives", False
        if any(tip.channels == features for tip in self.tips):
            return "pooled channels", False
        given = {node.sizes.outputs for node in self.nodes if node.sizes.role == "channels"}
        joined = any(size > _IMAGE and size not in given for size in self._taken_by_plain())
        return ("channels of several layers side by side", False) if joined else ("", False)

    def _taken_by_plain(self) -> set[int]:
        return {n.sizes.inputs for n in self.nodes if n.sizes.role == "channels" and not n.sizes.transposed}

    def _concatenated(self, features: int) -> set[int]:
        return set()

    def _goes_on(self, node: _Node, channels: int) -> bool:
        return False

    def _unflatten(self, node: _Node, place: int) -> None:
        """The outputs become channels that a convolution takes and none gives, but for those that were flattened."""
        features = node.sizes.outputs
        if (node.path, OUTPUTS) in self.said:
            self._decide(node, OUTPUTS, self.said[node.path, OUTPUTS], GIVEN)
            return
        used = [tip.channels for tip in self.tips if tip.features is not None]
        balance: Counter[int] = Counter(used)
        for other in self.nodes:
            if other.sizes.role == "channels":
                balance[other.sizes.inputs] += 1
                balance[other.sizes.outputs] -= 1
        transposed = {other.sizes.inputs for other in self.nodes if other.sizes.transposed}
        options = {size for size, count in balance.items() if count > 0 and (size > _IMAGE or size in transposed)}
        options = {size for size in options if 1 < size < features and not features % size}
        taken = {other.sizes.inputs for other in self.nodes if other.sizes.role in ("features", "recurrent")}
        if not options or features in taken:
            return
        if len(options) > 1 or not options <= transposed:
            self._ask(node, OUTPUTS, f"the {features} outputs of '{node.path}' may become {_either(options)} channels.")
        else:
            self._decide(node, OUTPUTS, options.pop(), "those that a convolution takes; it rests on sizes alone")
