"""Nets and documents whose ways double at each level: read, or refused in a sentence, in time that does not double."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from converter.architectures import vocabulary as v
from converter.architectures.capture.graph import Graph, OutsideError, TracedTensor
from converter.architectures.document import DEEPEST, Architecture, decoded, walk
from converter.architectures.instance import resolve


def residual_chain(graph: Graph, depth: int) -> TracedTensor:
    """As that of ResNet: each block adds what it makes to what it takes."""
    tensor = graph.input
    for number in range(depth):
        made = graph.then(tensor, v.Linear(path=f"fc{number}"), v.Relu())
        tensor = graph.then(graph.join("add", [made, tensor]), v.Relu())
    return tensor


def dense_chain(graph: Graph, depth: int) -> TracedTensor:
    """As that of DenseNet: each layer takes the outputs of all before it."""
    tensors = [graph.input]
    for number in range(depth):
        tensors.append(graph.then(graph.join("concat", list(tensors)), v.Linear(path=f"fc{number}")))
    return graph.join("concat", tensors)


def quickly(call: Callable[[], Any]) -> Any:
    before = time.process_time()
    result = call()
    assert time.process_time() - before < 10
    return result


def test_a_deep_chain_of_residual_blocks_is_read() -> None:
    graph = Graph()
    end = residual_chain(graph, 400)
    steps = quickly(lambda: ({end, graph.input}, repr(end), graph.steps(end))[-1])
    assert len([step for step in walk(steps) if isinstance(step, v.Linear)]) == 400
    assert len(repr(end)) < 40


@pytest.mark.parametrize("depth", [3, 10, 200])
def test_a_dense_one_is_refused_in_a_sentence(depth: int) -> None:
    graph = Graph()
    end = dense_chain(graph, depth)

    def refused() -> str:
        with pytest.raises(OutsideError) as error:
            graph.steps(end)
        return str(error.value)

    assert "branches that are not nested" in (said := quickly(refused)) and len(said) < 300


def nested(depth: int) -> str:
    return '{"kind":"residual","body":[' * depth + '"relu"' + ',"relu"]}' * depth


def test_forks_in_forks_are_resolved_once() -> None:
    document = decoded(b'{"steps":[' + nested(DEEPEST - 1).encode() + b"]}")
    architecture, _ = quickly(lambda: resolve(document, None))
    assert isinstance(architecture, Architecture)
