"""The object graph of a TensorFlow checkpoint: which Python object held which variable.

A `TrackableObjectGraph` lists nodes; a node has named children, the checkpoint keys of its variables,
and, for an optimizer, its slots. Restoring walks the children of the live objects by name, so a second
edge to the same node is a second name of the variable.
Source: tensorflow/core/protobuf/trackable_object_graph.proto, tensorflow/python/trackable/trackable_utils.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping

import msgspec

from converter.formats.io.budget import Budget
from converter.formats.tensorflow.protowire import Message, WireError, put_all, put_bytes, put_integer, put_text

GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_ATTRIBUTE = "VARIABLE_VALUE"
#: `Checkpoint.restore` makes this variable and its assertions ask for it; an empty node is enough, and unlike
#: a value it does not trouble `Checkpoint.read` and tf_keras, which do not know it.
_SAVE_COUNTER = "save_counter"
#: has_checkpoint_values = 5 {value = 1}
_HAS_VALUES = put_bytes(5, put_integer(1, 1))

#: A node with a child of each column is an optimizer, whatever it is called.
_RATES = frozenset({"learning_rate", "_learning_rate"})
_STEPS = frozenset({"iter", "iterations", "_iterations"})

#: What a node, an edge or a path takes beside its text.
_OBJECT = 400


class TrackableObject(msgspec.Struct):
    """children: name -> node. keys: checkpoint key -> the variable's name in the program. slots: nodes.

    expected: written for a node without values, so that an object which comes later is still matched.
    """

    children: dict[str, int] = msgspec.field(default_factory=dict)
    keys: dict[str, str] = msgspec.field(default_factory=dict)
    slots: list[int] = msgspec.field(default_factory=list)
    expected: bool = False


class ObjectGraph:
    """A graph read from its proto; node 0 is the root. Raises WireError."""

    def __init__(self, data: bytes, budget: Budget) -> None:
        self._budget = budget
        self.nodes = [self._node(message) for message in Message(data).messages(1)] or [TrackableObject()]
        for node in self.nodes:
            for number in [*node.children.values(), *node.slots]:
                if number >= len(self.nodes):
                    raise WireError(f"a graph of {len(self.nodes)} nodes refers to node {number}")
        self._paths = self._shortest_paths()

    def keys_in_order(self) -> Iterator[tuple[str, str]]:
        """(key, variable name), each object's parts after it: the order of the program."""
        for number in self._walk(frozenset()):
            yield from self.nodes[number].keys.items()

    def optimizer_keys(self) -> set[str]:
        """The keys of optimizers, and of what the root reaches only through them: slots, steps, rates."""
        optimizers = {number for number, node in enumerate(self.nodes) if node.slots or _is_optimizer(node)}
        slots = {slot for node in self.nodes for slot in node.slots}
        kept = set(self._walk(optimizers | slots))
        return {key for number, node in enumerate(self.nodes) if number not in kept for key in node.keys}

    def other_paths(self) -> dict[str, str]:
        """Second names of objects and variables: path -> the path that the keys are spelled with."""
        others = {}
        for number, path in self._paths.items():
            for name, child in self.nodes[number].children.items():
                if self._paths[child] != (other := self._path(path, name)):
                    others[other] = self._paths[child]
        return others

    def _walk(self, closed: set[int] | frozenset[int]) -> Iterator[int]:
        """Depth first from the root, not entering ``closed``."""
        seen = set(closed)
        stack = [0]
        while stack:
            number = stack.pop()
            if number not in seen:
                seen.add(number)
                yield number
                stack.extend(child for child in reversed(self.nodes[number].children.values()) if child not in seen)

    def _shortest_paths(self) -> dict[int, str]:
        """Node -> its path, breadth first: the first path is the one that TensorFlow makes keys of."""
        paths = {0: ""}
        queue = [0]
        for number in queue:  # grows while it is walked
            for name, child in self.nodes[number].children.items():
                if child not in paths:
                    paths[child] = self._path(paths[number], name)
                    queue.append(child)
        return paths

    def _path(self, parent: str, name: str) -> str:
        path = f"{parent}/{escape(name)}" if parent else escape(name)
        self._budget.charge(len(path) + _OBJECT, "the paths in its object graph")
        return path

    def _node(self, message: Message) -> TrackableObject:
        """children = 1 {node_id = 1, local_name = 2}, attributes = 2 {full_name = 2, checkpoint_key = 3},
        slot_variables = 3 {slot_variable_node_id = 3}."""
        parts = sum(len(message.values(number)) for number in (1, 2, 3))
        self._budget.charge(_OBJECT * (1 + parts), "its object graph")
        return TrackableObject(
            {child.text(2): child.integer(1) for child in message.messages(1)},
            {attribute.text(3): attribute.text(2) for attribute in message.messages(2)},
            [slot.integer(3) for slot in message.messages(3)],
        )


def _is_optimizer(node: TrackableObject) -> bool:
    return not _RATES.isdisjoint(node.children) and not _STEPS.isdisjoint(node.children)


def escape(name: str) -> str:
    """A child's name as a part of a key."""
    return name.replace(".", "..").replace("/", ".S")


def unescape(part: str) -> str:
    """The inverse of `escape`."""
    return ".".join(piece.replace(".S", "/") for piece in part.split(".."))


def build_graph(keys: Iterable[str], links: Mapping[str, str]) -> bytes:
    """The proto of the graph in which every key ``a/b/.ATTRIBUTES/VARIABLE_VALUE`` is reached by its path.

    links: another path -> the path of the object or variable that it also names ("" is the root).
    Raises KeyError, with the path, when a link leads to nothing.
    """
    builder = _Builder()
    for key in keys:
        path = key.removesuffix(SUFFIX)
        builder.nodes[builder.ensure(path)].keys[key] = path
    for other, path in sorted(links.items(), key=lambda link: link[1] == ""):  # the root has to be complete
        builder.link(other, path)
    builder.nodes[builder.ensure(_SAVE_COUNTER)].expected = True
    return put_all(1, map(_serialized, builder.nodes))


class _Builder:
    def __init__(self) -> None:
        self.nodes = [TrackableObject()]

    def ensure(self, path: str) -> int:
        """The node of a path, made where it is missing."""
        number = 0
        for name in _names(path):
            children = self.nodes[number].children
            if name not in children:
                children[name] = len(self.nodes)
                self.nodes.append(TrackableObject())
            number = children[name]
        return number

    def link(self, other: str, path: str) -> None:
        if not path:
            # A node stands for one object only, so the root under a second name is a node of its own.
            children = dict(self.nodes[0].children)
            self.nodes[self.ensure(other)].children.update(children)
            return
        target = 0
        for name in _names(path):
            if name not in self.nodes[target].children:
                raise KeyError(path)
            target = self.nodes[target].children[name]
        parent, _, last = other.rpartition("/")
        self.nodes[self.ensure(parent)].children.setdefault(unescape(last), target)


def _names(path: str) -> list[str]:
    return [unescape(part) for part in path.split("/")] if path else []


def _serialized(node: TrackableObject) -> bytes:
    children = put_all(1, (put_integer(1, number) + put_text(2, name) for name, number in node.children.items()))
    attributes = put_all(
        2, (put_text(1, _ATTRIBUTE) + put_text(2, name) + put_text(3, key) for key, name in node.keys.items())
    )
    return children + attributes + (_HAS_VALUES if node.expected else b"")


# -- variables that are not weights, by their names: where there is no graph, or the graph does not show it ------

OPTIMIZER = "state of the optimizer"
_RANDOM = "state of a random generator"
_METRIC = "state of a metric"
_STEP = "the number of training steps"

_EXACT = {
    GRAPH_KEY: "the object graph of the checkpoint",
    "save_counter" + SUFFIX: "counts how often the checkpoint was saved",
    "global_step": _STEP,
    "beta1_power": OPTIMIZER,
    "beta2_power": OPTIMIZER,
}
_PATTERNS = (
    (re.compile(r"/\.OPTIMIZER_SLOT/|(^|/)_?optimizer/"), OPTIMIZER),
    (re.compile(r"(^|/)(keras_api/metrics|_?compile_metrics|_loss_tracker)/"), _METRIC),
    (re.compile(r"(^|/)_?(seed_generator|random_generator)s?/"), _RANDOM),
    (re.compile(r"(^|/)(global_step|beta[12]_power(_\d+)?)$"), OPTIMIZER),
)
#: ``dense/kernel/Adam``: a slot of the variable ``dense/kernel`` in a checkpoint by names.
_SLOT = re.compile(
    r"(.+)/(Adam|Adamax|Nadam|Momentum|RMSProp|Adagrad|AdagradDA|Adadelta|Ftrl|ProximalAdagrad|"
    r"adam_[mv]|lamb_[mv]|v[rc]?|m)(_\d+)?"
)


#: What `tf.train.ExponentialMovingAverage` calls its averages, unless it is told otherwise.
AVERAGE = "ExponentialMovingAverage"


def averages(names: Collection[str], suffix: str) -> dict[str, str]:
    """The variables of a checkpoint by names that have such an average -> this."""
    return {own: name for name in names if name.endswith(f"/{suffix}") and (own := name[: -len(suffix) - 1]) in names}


def why_left_out(name: str, names: Container[str]) -> str | None:
    """Why the variable of that name is left out; None for a weight. ``names``: all of the checkpoint."""
    if name in _EXACT:
        return _EXACT[name]
    for pattern, why in _PATTERNS:
        if pattern.search(name):
            return why
    slot = _SLOT.fullmatch(name)
    return OPTIMIZER if slot and slot[1] in names else None
