"""What a live PyTorch net computes: by symbolic tracing (torch.fx), module by module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converter.architectures import vocabulary as v
from converter.architectures.capture.graph import Claim, Graph, TracedTensor, outside
from converter.architectures.capture.settings import RefusedError
from converter.architectures.capture.torch_functions import FUNCTIONS, arguments_of, called
from converter.architectures.capture.torch_modules import LAYERS, STEPS
from converter.architectures.document import Input
from converter.live import LiveNet


def graph(live: LiveNet, paths: Mapping[str, str], input: Input) -> tuple[Graph, TracedTensor, Input]:
    """The graph of a net, its output, and the sizes of its input, if it tells them.

    paths: name of a module -> neutral path of its layer. input: sizes as in `capture`. Raises ConversionError.
    """
    import torch

    net = live.net

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module: Any, name: str) -> bool:
            return bool(super().is_leaf_module(module, name)) or bool(list(module.parameters(recurse=False)))

    try:
        traced = Tracer().trace(net)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise outside(f"a {type(net).__name__} cannot be traced by torch.fx", f"which says '{reason}'") from error
    return (*_FxReader(net, paths).walk(traced), ())


class _FxReader:
    """From nodes of torch.fx to places. Nodes that are no tensors of the net (its sizes) have none."""

    def __init__(self, net: Any, paths: Mapping[str, str]) -> None:
        self.modules = dict(net.named_modules())
        self.paths = paths
        self.graph = Graph()
        self.places: dict[Any, TracedTensor] = {}

    def walk(self, traced: Any) -> tuple[Graph, TracedTensor]:
        used = _used(traced)
        for node in traced.nodes:
            if node not in used and node.op != "placeholder":
                continue
            if node.op == "placeholder":
                if self.places:
                    raise outside(f"the net takes '{node.target}', too", "which is a second input")
                self.places[node] = self.graph.input
            elif node.op == "output":
                (output,) = node.args
                if output not in self.places:
                    raise outside(f"the net gives {output}", "which is not one tensor")
                return self.graph, self.places[output]
            else:
                self._node(node)
        raise AssertionError("a graph of torch.fx has an output")

    def _node(self, node: Any) -> None:
        if node.op == "get_attr":
            raise outside(f"'{node.target}' is a tensor that the net uses by itself", "which belongs to no layer")
        try:
            if node.op == "call_module":
                self._module(node)
            else:
                self._function(node)
        except RefusedError as refusal:
            target = self.modules[node.target] if node.op == "call_module" else node.target
            what = f"torch.nn.{type(target).__name__}" if node.op == "call_module" else called(target)
            name = f"'{node.target}' is" if node.op == "call_module" else f"'{node.name}' calls"
            raise outside(f"{name} {what}", str(refusal)) from None

    def _module(self, node: Any) -> None:
        module, kind = self.modules[node.target], type(self.modules[node.target]).__name__
        if not type(module).__module__.startswith("torch.nn."):
            raise outside(f"'{node.target}' is a {kind}", "which has tensors of its own and is no layer of torch.nn")
        if kind == "MultiheadAttention":
            source = self._only_source(node, 3)
            if any(value not in (None, True, False) for value in node.kwargs.values()):
                raise RefusedError("which is called with a mask")
        else:
            source = self._only_source(node, 1)
        if kind in LAYERS:
            path = self.paths.get(node.target, node.target)
            self.places[node] = self.graph.then(source, LAYERS[kind](module, path))
        elif kind in STEPS:
            step = STEPS[kind](module)
            claim = Claim(axes=(1 if module.dim is None else module.dim,)) if kind == "Softmax" else None
            self.places[node] = self.graph.then(source, *([step] if step is not None else []), claim=claim)
        else:
            raise RefusedError("which is none of its layers")

    def _only_source(self, node: Any, count: int) -> TracedTensor:
        """What a module is called on: one tensor, or the same several times."""
        sources = {self.places.get(arg) for arg in node.args[:count]}
        if len(node.args) != count or len(sources) != 1 or None in sources:
            raise RefusedError("which is called on several tensors")
        (source,) = sources
        assert source is not None
        return source

    def _function(self, node: Any) -> None:
        name = called(node.target)
        tensors = [self.places[arg] for arg in node.args if _is_node(arg) and arg in self.places]
        if name in ("add", "add_", "iadd") and len(node.args) == 2 and not node.kwargs:
            if len(tensors) != 2:
                raise RefusedError("which adds a number")
            self.places[node] = self.graph.join("add", tensors)
        elif name in ("cat", "concat", "concatenate"):
            self._concat(node)
        elif name in ("size", "getattr") or (name == "getitem" and not tensors):
            return  # a size
        elif name == "getitem":
            self._item(node, tensors[0])
        elif name in FUNCTIONS and len(tensors) == 1:
            steps, claim = FUNCTIONS[name](arguments_of(node))
            self.places[node] = self.graph.then(tensors[0], *steps, claim=claim)
        else:
            raise RefusedError("which is none of its steps")

    def _concat(self, node: Any) -> None:
        tensors = node.args[0] if node.args else node.kwargs.get("tensors", ())
        if not all(tensor in self.places for tensor in tensors) or len(tensors) < 2:
            raise RefusedError("which takes something else than tensors of the net")
        axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        self.places[node] = self.graph.join("concat", [self.places[tensor] for tensor in tensors], Claim(axes=(axis,)))

    def _item(self, node: Any, source: TracedTensor) -> None:
        """``rnn(x)[0]`` is what the layer gives; ``x[:, -1]`` the last step."""
        index = node.args[1]
        given = node.args[0]
        of_module = given.op == "call_module" and type(self.modules[given.target]).__name__ in _TUPLES
        if index == 0 and of_module:
            self.places[node] = source
        elif index == (slice(None, None, None), -1) and not of_module:
            self.places[node] = self.graph.then(source, v.Last())
        else:
            raise RefusedError(f"which takes the part {index} of it")


def _used(traced: Any) -> set[Any]:
    """The nodes on which the output depends."""
    waiting = [node for node in traced.nodes if node.op == "output"]
    used: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node not in used:
            used.add(node)
            waiting += node.all_input_nodes
    return used


#: Layers that give more than one tensor.
_TUPLES = frozenset({"RNN", "LSTM", "GRU", "MultiheadAttention"})


def _is_node(value: Any) -> bool:
    return hasattr(value, "op") and hasattr(value, "target")
