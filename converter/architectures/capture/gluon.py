"""What a live gluon block computes: by its symbol, the result of a call on a variable."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from converter.architectures.capture.gluon_operators import OPERATORS, Operator, joins
from converter.architectures.capture.graph import Graph, TracedTensor, outside
from converter.architectures.capture.settings import RefusedError
from converter.architectures.document import Input
from converter.live import LiveNet

#: Name of the input variable; no parameter can have it.
_INPUT = "the input of the net"


def graph(live: LiveNet, paths: Mapping[str, str], input: Input) -> tuple[Graph, TracedTensor, Input]:
    """As `converter.architectures.capture.torch.graph`."""
    import mxnet

    with live.inference():
        try:
            output = live.net(mxnet.sym.var(_INPUT))
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise outside(
                f"a {type(live.net).__name__} cannot be called on symbols", f"which fails with '{reason}'"
            ) from error
    if not hasattr(output, "tojson") or len(output.list_outputs()) != 1:
        raise outside(f"a {type(live.net).__name__} returns {type(output).__name__}", "which is not a single tensor")
    walk = _SymbolReader(live, paths)
    return walk.graph, walk.walk(json.loads(output.tojson())), ()


class _SymbolReader:
    def __init__(self, live: LiveNet, paths: Mapping[str, str]) -> None:
        parameters = live.net._collect_params_with_prefix()
        self.graph = Graph()
        #: Name in the symbol -> neutral path of the layer, and the shape.
        self.parameters = {
            parameter.name: (paths.get(live.module(name), live.module(name)), tuple(parameter.shape))
            for name, parameter in parameters.items()
        }

    def walk(self, symbol: Any) -> TracedTensor:
        """The tensor of its output."""
        nodes = symbol["nodes"]
        tensors: dict[int, TracedTensor] = {}
        for number, node in enumerate(nodes):
            if node["op"] != "null":
                sources = [entry[0] for entry in node["inputs"]]
                weights = [nodes[i]["name"] for i in sources if i not in tensors]
                tensors[number] = self._result(node, [tensors[i] for i in sources if i in tensors], weights)
            elif node["name"] == _INPUT:
                tensors[number] = self.graph.input
        return tensors[symbol["heads"][0][0]]

    def _result(self, node: Any, sources: Sequence[TracedTensor], weights: Sequence[str]) -> TracedTensor:
        unknown = next((name for name in weights if name not in self.parameters), None)
        paths = [self.parameters[name][0] for name in weights if name in self.parameters]
        name = paths[0] if paths else node["name"]
        shapes = [self.parameters[name][1] for name in weights if name in self.parameters]
        call = Operator(node["op"], name, node.get("attrs", {}), shapes)
        try:
            if unknown is not None:
                raise RefusedError(f"which takes '{unknown}', which is not a parameter of the net")
            joined, claim = joins(call)
            if joined and len(sources) > 1 and not weights:
                return self.graph.join(joined, sources, claim)
            if call.kind not in OPERATORS:
                raise RefusedError("which has no counterpart")
            if len(sources) != 1:
                raise RefusedError(f"which is called on {len(sources)} tensors")
            steps, claim = OPERATORS[call.kind](call)
            return self.graph.then(sources[0], *steps, claim=claim)
        except RefusedError as refusal:
            raise outside(f"'{name}' calls the operator {call.kind}", str(refusal)) from None
