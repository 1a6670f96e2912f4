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
    """The graph of a net, its output, and the sizes of its input, if the net itself has them.

    paths: name of a module -> neutral path of its layer. input: sizes as in `capture`. Raises ConversionError.
    """
    import torch

    net = live.net

    class Tracer(torch.fx.Tracer):  # type: ignore[misc]
        def is_leaf_module(self, module: Any, name: str) -> bool:
            return bool(super().is_leaf_module(module, name)) or bool(list(module.parameters(recurse=False)))

    try:
        traced = Tracer().trace(net)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise outside(f"a {type(net).__name__} cannot be traced by torch.fx", f"which fails with '{reason}'") from error
    return (*_FxReader(net, paths).walk(traced), ())


class _FxReader:
    """From nodes of torch.fx to tensors. Nodes that hold no tensor (sizes) have none."""

    def __init__(self, net: Any, paths: Mapping[str, str]) -> None:
        self.modules = dict(net.named_modules())
        self.paths = paths
        self.graph = Graph()
        self.tensors: dict[Any, TracedTensor] = {}

    def walk(self, traced: Any) -> tuple[Graph, TracedTensor]:
        used = _used(traced)
        for node in traced.nodes:
            if node not in used and node.op != "placeholder":
                continue
            if node.op == "placeholder":
                if self.tensors:
                    raise outside(f"the net takes '{node.target}' as well", "which is a second input")
                self.tensors[node] = self.graph.input
            elif node.op == "output":
                (output,) = node.args
                if output not in self.tensors:
                    raise outside(f"the net returns {output}", "which is not a single tensor")
                return self.graph, self.tensors[output]
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
            raise outside(f"'{node.target}' is a {kind}", "which has its own tensors and is not a layer of torch.nn")
        if kind == "MultiheadAttention":
            source = self._only_source(node, 3)
            if any(value not in (None, True, False) for value in node.kwargs.values()):
                raise RefusedError("which is called with a mask")
        else:
            source = self._only_source(node, 1)
        if kind in LAYERS:
            path = self.paths.get(node.target, node.target)
            self.tensors[node] = self.graph.then(source, LAYERS[kind](module, path))
        elif kind in STEPS:
            step = STEPS[kind](module)
            claim = Claim(axes=(1 if module.dim is None else module.dim,)) if kind == "Softmax" else None
            self.tensors[node] = self.graph.then(source, *([step] if step is not None else []), claim=claim)
        else:
            raise RefusedError("which has no counterpart")

    def _only_source(self, node: Any, count: int) -> TracedTensor:
        """The tensor on which a module is called, once or (attention) several times."""
        sources = {self.tensors.get(arg) for arg in node.args[:count]}
        if len(node.args) != count or len(sources) != 1 or None in sources:
            raise RefusedError("which is called on several tensors")
        (source,) = sources
        assert source is not None
        return source

    def _function(self, node: Any) -> None:
        name = called(node.target)
        sources = [self.tensors[arg] for arg in node.args if _is_node(arg) and arg in self.tensors]
        if name in ("add", "add_", "iadd") and len(node.args) == 2 and not node.kwargs:
            if len(sources) != 2:
                raise RefusedError("which adds a number")
            self.tensors[node] = self.graph.join("add", sources)
        elif name in ("cat", "concat", "concatenate"):
            self._concat(node)
        elif name in ("size", "getattr") or (name == "getitem" and not sources):
            return  # a size
        elif name == "getitem":
            self._item(node, sources[0])
        elif name in FUNCTIONS and len(sources) == 1:
            steps, claim = FUNCTIONS[name](arguments_of(node))
            self.tensors[node] = self.graph.then(sources[0], *steps, claim=claim)
        else:
            raise RefusedError("which has no counterpart")

    def _concat(self, node: Any) -> None:
        nodes = node.args[0] if node.args else node.kwargs.get("tensors", ())
        if not all(tensor in self.tensors for tensor in nodes) or len(nodes) < 2:
            raise RefusedError("which takes something other than tensors of the net")
        axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        self.tensors[node] = self.graph.join("concat", [self.tensors[tensor] for tensor in nodes], Claim(axes=(axis,)))

    def _item(self, node: Any, source: TracedTensor) -> None:
        """``rnn(x)[0]`` is the output of the layer, ``x[:, -1]`` the last time step."""
        index = node.args[1]
        source_node = node.args[0]
        of_module = source_node.op == "call_module" and type(self.modules[source_node.target]).__name__ in _TUPLES
        if index == 0 and of_module:
            self.tensors[node] = source
        elif index == (slice(None, None, None), -1) and not of_module:
            self.tensors[node] = self.graph.then(source, v.Last())
        else:
            raise RefusedError(f"which takes the part [{index}]")


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


#: Layers that return more than one tensor.
_TUPLES = frozenset({"RNN", "LSTM", "GRU", "MultiheadAttention"})


def _is_node(value: Any) -> bool:
    return hasattr(value, "op") and hasattr(value, "target")
