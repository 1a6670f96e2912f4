"""What a live gluon block computes: by the symbol that it makes of a variable."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from converter.architectures.capture.gluon_operators import OPERATORS, Operator, joins
from converter.architectures.capture.graph import Graph, TracedTensor, outside
from converter.architectures.capture.settings import RefusedError
from converter.architectures.document import Input
from converter.live import LiveNet

#: Of the variable that is the input; no parameter is called so.
_INPUT = "the input of the net"


def graph(live: LiveNet, paths: Mapping[str, str], input: Input) -> tuple[Graph, TracedTensor, Input]:
    """As `converter.architectures.capture.torch.graph`."""
    import mxnet

    with live.inference():
        try:
            output = live.net(mxnet.sym.var(_INPUT))
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise outside(f"a {type(live.net).__name__} takes no symbols", f"for it says '{reason}'") from error
    if not hasattr(output, "tojson") or len(output.list_outputs()) != 1:
        raise outside(f"a {type(live.net).__name__} gives {type(output).__name__}", "which is not one tensor")
    walk = _SymbolReader(live, paths)
    return walk.graph, walk.walk(json.loads(output.tojson())), ()


class _SymbolReader:
    def __init__(self, live: LiveNet, paths: Mapping[str, str]) -> None:
        found = live.net._collect_params_with_prefix()
        self.graph = Graph()
        #: Name in the symbol -> neutral path of the layer, and the shape.
        self.parameters = {
            parameter.name: (paths.get(live.module(name), live.module(name)), tuple(parameter.shape))
            for name, parameter in found.items()
        }

    def walk(self, symbol: Any) -> TracedTensor:
        """The place of its output."""
        nodes = symbol["nodes"]
        places: dict[int, TracedTensor] = {}
        for number, node in enumerate(nodes):
            if node["op"] != "null":
                given = [entry[0] for entry in node["inputs"]]
                weights = [nodes[i]["name"] for i in given if i not in places]
                places[number] = self._behind(node, [places[i] for i in given if i in places], weights)
            elif node["name"] == _INPUT:
                places[number] = self.graph.input
        return places[symbol["heads"][0][0]]

    def _behind(self, node: Any, sources: Sequence[TracedTensor], weights: Sequence[str]) -> TracedTensor:
        unknown = next((name for name in weights if name not in self.parameters), None)
        paths = [self.parameters[name][0] for name in weights if name in self.parameters]
        name = paths[0] if paths else node["name"]
        shapes = [self.parameters[name][1] for name in weights if name in self.parameters]
        call = Operator(node["op"], name, node.get("attrs", {}), shapes)
        try:
            if unknown is not None:
                raise RefusedError(f"which takes '{unknown}', and that is no parameter of the net")
            joined, claim = joins(call)
            if joined and len(sources) > 1 and not weights:
                return self.graph.join(joined, sources, claim)
            if call.kind not in OPERATORS:
                raise RefusedError("which is none of its steps")
            if len(sources) != 1:
                raise RefusedError(f"which is called on {len(sources)} tensors")
            steps, claim = OPERATORS[call.kind](call)
            return self.graph.then(sources[0], *steps, claim=claim)
        except RefusedError as refusal:
            raise outside(f"'{name}' calls the operator {call.kind}", str(refusal)) from None
