"""Run a live net once, in inference mode, and see what its layers take and give. Afterwards the net is as it was."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import msgspec
import numpy as np

from converter.core.inputs import Inputs
from converter.core.tensors import Array
from converter.live.base import LiveNet


class Call(msgspec.Struct, frozen=True):
    """One call of a module: the arrays that it took (where they were asked for) and gave."""

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]


class Run(msgspec.Struct):
    """What came out: the arrays of the net's output, each with its key or place; and of each watched module.

    calls: module -> each of its calls, in the order in which the modules were first done.
    """

    outputs: dict[str, Array] = msgspec.field(default_factory=dict)
    calls: dict[str, list[Call]] = msgspec.field(default_factory=dict)


def run(
    live: LiveNet,
    example: Inputs,
    watched: Collection[str],
    *,
    before_activation: bool = False,
    with_inputs: bool = False,
) -> Run:
    """The outputs, as copies. Raises ConversionError when the net does not take these inputs.

    before_activation: a layer that ends in an activation of its own gives what it had before, as where that is a
    layer of its own. with_inputs: keep what the modules take, too.
    """
    seen = Run()

    def record(module: str, inputs: Any, output: Any) -> None:
        arrays = tuple(value for _, value in arrays_in(output, live.to_numpy))
        taken = tuple(value for _, value in arrays_in(inputs, live.to_numpy)) if with_inputs else ()
        if arrays:
            seen.calls.setdefault(module, []).append(Call(taken, arrays))

    with ExitStack() as stack:
        stack.enter_context(live.inference())
        stack.enter_context(live.watching(watched, record, before_activation))
        with live.running(example):
            output = live.forward(example)
        seen.outputs = dict(arrays_in(output, live.to_numpy))
    return seen


def arrays_in(value: Any, to_numpy: Callable[[Any], Array | None], key: str = "") -> Iterator[tuple[str, Array]]:
    """The arrays in nested tuples, lists and dicts, under their keys or positions."""
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, tuple | list):
        items = zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    else:
        array = to_numpy(value)
        if array is not None:
            yield key, array
        return
    for name, item in items:
        yield from arrays_in(item, to_numpy, f"{key}.{name}" if key else str(name))


def as_inputs(x: Any) -> Inputs:
    """One input, several in a tuple or a list, or a dict of them by name; of tensors of any framework."""
    if isinstance(x, Mapping):
        return Inputs(keywords=_value(x))
    return Inputs(tuple(map(_value, x if isinstance(x, tuple | list) else [x])))


def _value(item: Any) -> Any:
    """An array, or a dict of them; None, a bool or a word as it is."""
    if isinstance(item, Mapping):
        return {str(name): _value(value) for name, value in item.items()}
    if item is None or isinstance(item, bool | str):
        return item
    if hasattr(item, "asnumpy"):  # MXNet
        return np.asarray(item.asnumpy())
    return np.asarray(item.detach().cpu() if hasattr(item, "detach") else item)
