"""What watches the layers of a live net while it runs, and leaves the net as it was."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Protocol

#: Arguments by which users' nets are told that they do not train, and the values of these.
INFERENCE = {
    "training": False,
    "train": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}


class Record(Protocol):
    """Takes the inputs and the output of each call of a module."""

    def __call__(self, module: str, inputs: Any, output: Any) -> None: ...


def module_of(name: str) -> str:
    """``a.b.weight`` is in ``a.b``; names of other frameworks have ``/`` instead."""
    return name[: max(name.rfind("."), name.rfind("/"), 0)]


def upwards(module: str) -> list[str]:
    """The module and those around it, up to the net itself, which is ""."""
    modules = [module]
    while modules[-1]:
        modules.append(module_of(modules[-1]))
    return modules


def inference_options(function: Callable[..., Any]) -> dict[str, bool]:
    """What tells this net that it does not train."""
    return {name: INFERENCE[name] for name in inspect.signature(function).parameters if name in INFERENCE}


@contextmanager
def attributes(changes: Iterable[tuple[Any, str, Any]]) -> Iterator[None]:
    """A context in which attributes (owner, name, value) have these values; afterwards they are as before."""
    with ExitStack() as undo:
        for owner, name, value in changes:
            if name in vars(owner):
                undo.callback(setattr, owner, name, vars(owner)[name])
            else:
                undo.callback(delattr, owner, name)
            setattr(owner, name, value)
        yield


def recorded(call: Callable[..., Any], names: Mapping[int, str], record: Record) -> Callable[..., Any]:
    """A ``__call__`` that also records; once, though the class may call that of its base class."""
    active: set[int] = set()

    @wraps(call)
    def recorded_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if id(self) not in names or id(self) in active:
            return call(self, *args, **kwargs)
        active.add(id(self))
        try:
            output = call(self, *args, **kwargs)
        finally:
            active.discard(id(self))
        record(names[id(self)], args, output)
        return output

    return recorded_call


class BeforeActivation:
    """A `Record` of layers that end in an activation: of what they had before it."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._last: dict[str, tuple[Any, Any]] = {}

    def activated(self, module: str, inputs: Any, output: Any) -> None:
        self._last[module] = (inputs, output)

    def __call__(self, module: str, inputs: Any, output: Any) -> None:
        before, activated = self._last.pop(module, (None, None))
        self._record(module, inputs, before if output is activated and output is not None else output)
