"""What sizes tell of a flatten where neither side keeps the order in which the net was built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from converter.flattening.walk import IMAGE, INPUTS, OUTPUTS, Node, Tip, Walk, either, open_sizes


class Unordered(Walk):
    """Only the numbers of input and output channels count."""

    def run(self) -> None:
        layers = [node for node in self.nodes if node.sizes.flow in ("features", "recurrent")]
        convs = [node for node in self.nodes if node.sizes.flow == "channels"]
        plain = [node for node in convs if not node.sizes.transposed]
        self.channels = {size for node in convs for size in (node.sizes.inputs, node.sizes.outputs)}
        sizes = open_sizes(plain) or {node.sizes.outputs for node in plain}
        self.tips = [Tip(self._layer_with(size), size) for size in sorted(sizes)]
        for node in self.nodes:
            if node.sizes.flow not in ("channels", "norm") and node.sizes.outputs:
                self.outs.setdefault(node.sizes.outputs, node.path)
        # what no layer of features gives comes first, so that the rest can be told from it; then what is pooled
        for node in sorted(layers, key=lambda n: (n.sizes.inputs in self.outs, n.sizes.inputs not in sizes)):
            if not self._is_stated(node, INPUTS):
                self._guess(node)
        for node in layers:
            if node.sizes.flow == "features":
                self._unflatten(node, 0)
        self._norms({item.features: item.channels for item in self.decisions if item.channels})

    def _norms(self, flat: Mapping[int, int]) -> None:
        for node in self.nodes:
            features = node.sizes.inputs
            if node.sizes.flow != "norm" or self._is_stated(node, INPUTS):
                continue
            if features in flat and features not in self.channels:
                self._decide(node, INPUTS, flat[features], "as the linear layer of that size; it rests on sizes alone")
            elif features not in self.channels and features not in self.outs:
                self._guess(node)

    def _layer_with(self, channels: int) -> str:
        return next(node.path for node in self.nodes if node.sizes.outputs == channels)

    def _candidates(self) -> Sequence[Tip]:
        return self.tips

    def _exact(self, features: int) -> tuple[str, bool]:
        if features in self.outs:
            return f"what {self.outs[features]} gives", False
        if any(tip.channels == features for tip in self.tips):
            return "pooled channels", False
        convs = [node.sizes for node in self.nodes if node.sizes.flow == "channels"]
        outputs = {sizes.outputs for sizes in convs}
        joined = any(c.inputs > IMAGE and c.inputs not in outputs and not c.transposed for c in convs)
        return ("channels of several layers side by side", False) if joined else ("", False)

    def _concatenated(self, features: int) -> set[int]:
        return set()

    def _goes_on(self, node: Node, channels: int) -> bool:
        return False

    def _unflatten(self, node: Node, position: int) -> None:
        """The outputs become channels that a convolution takes and none outputs, but for those that were flattened."""
        features = node.sizes.outputs
        if self._is_stated(node, OUTPUTS):
            return
        used = [tip.channels for tip in self.tips if tip.features is not None]
        balance: Counter[int] = Counter(used)
        for other in self.nodes:
            if other.sizes.flow == "channels":
                balance[other.sizes.inputs] += 1
                balance[other.sizes.outputs] -= 1
        transposed = {other.sizes.inputs for other in self.nodes if other.sizes.transposed}
        options = {size for size, count in balance.items() if count > 0 and (size > IMAGE or size in transposed)}
        options = {size for size in options if 1 < size < features and not features % size}
        taken = {other.sizes.inputs for other in self.nodes if other.sizes.flow in ("features", "recurrent")}
        if not options or features in taken:
            return
        if len(options) > 1 or not options <= transposed:
            self._ask(node, OUTPUTS, f"the {features} outputs of '{node.path}' may become {either(options)} channels.")
        else:
            self._decide(node, OUTPUTS, options.pop(), "those that a convolution takes; it rests on sizes alone")
