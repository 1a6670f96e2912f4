"""Run a live net once, in inference mode, and see what its layers take and give. Afterwards the net is as it was."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np

from converter.core.tensors import Array
from converter.errors import ConversionError

if TYPE_CHECKING:
    from converter.live.base import LiveNet

#: Arguments by which users' nets are told that they do not train, and what they are given.
INFERENCE = {
    "training": False,
    "train": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}


class Record(Protocol):
    """Takes what a module was given and what it gave, at each of its calls."""

    def __call__(self, module: str, given: Any, output: Any) -> None: ...


class Call(msgspec.Struct, frozen=True):
    """One call of a module: the arrays that it took (where they were asked for) and gave."""

    given: tuple[Array, ...]
    outputs: tuple[Array, ...]


class Run(msgspec.Struct):
    """What came out: the arrays of the net's output, each with its key or place; and of each watched module.

    calls: module -> each of its calls, in the order in which the modules were first done.
    """

    outputs: dict[str, Array] = msgspec.field(default_factory=dict)
    calls: dict[str, list[Call]] = msgspec.field(default_factory=dict)


def run(
    live: LiveNet,
    inputs: Sequence[Array],
    watched: Collection[str],
    *,
    before_activation: bool = False,
    with_inputs: bool = False,
) -> Run:
    """The outputs, as copies. Raises ConversionError when the net does not take these inputs.

    before_activation: a layer that ends in an activation of its own gives what it had before, as where that is a
    layer of its own. with_inputs: keep what the modules take, too.
    """
    found = Run()

    def record(module: str, given: Any, output: Any) -> None:
        arrays = tuple(value for _, value in arrays_in(output, live.to_numpy))
        taken = tuple(value for _, value in arrays_in(given, live.to_numpy)) if with_inputs else ()
        if arrays:
            found.calls.setdefault(module, []).append(Call(taken, arrays))

    with ExitStack() as stack:
        stack.enter_context(live.inference())
        stack.enter_context(live.watching(watched, record, before_activation))
        with running(live, inputs):
            output = live.forward(inputs)
        found.outputs = dict(arrays_in(output, live.to_numpy))
    return found


@contextmanager
def running(live: LiveNet, inputs: Sequence[Array]) -> Iterator[None]:
    """Whatever the net raises within becomes a ConversionError."""
    try:
        yield
    except ConversionError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{x.dtype.name} {x.shape}" for x in inputs)
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConversionError(f"the {live.framework.title} net does not run on {shapes}: {reason}") from error


def module_of(name: str) -> str:
    """``a.b.weight`` is in ``a.b``; names of other frameworks have ``/`` instead."""
    return name[: max(name.rfind("."), name.rfind("/"), 0)]


def upwards(module: str) -> list[str]:
    """The module and those around it, up to the net itself, which is ""."""
    found = [module]
    while found[-1]:
        found.append(module_of(found[-1]))
    return found


def arrays_in(value: Any, to_numpy: Callable[[Any], Array | None], key: str = "") -> Iterator[tuple[str, Array]]:
    """The arrays in nested tuples, lists and dicts, under their keys or places."""
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


def as_arrays(x: Any) -> list[Array]:
    """One input or several, from tensors of any framework."""
    items = x if isinstance(x, tuple | list) else [x]
    return [_array(item) for item in items]


def _array(item: Any) -> Array:
    if hasattr(item, "asnumpy"):  # MXNet
        return np.asarray(item.asnumpy())
    return np.asarray(item.detach().cpu() if hasattr(item, "detach") else item)


def inference_options(function: Callable[..., Any]) -> dict[str, bool]:
    """What tells this net that it does not train."""
    return {name: INFERENCE[name] for name in inspect.signature(function).parameters if name in INFERENCE}


@contextmanager
def attributes(changes: Iterable[tuple[Any, str, Any]]) -> Iterator[None]:
    """Attributes (owner, name, value) as they shall be within, and as they were behind."""
    missing = object()
    with ExitStack() as undo:
        for owner, name, value in changes:
            undo.callback(_restore, owner, name, vars(owner).get(name, missing), missing)
            setattr(owner, name, value)
        yield


def _restore(owner: Any, name: str, value: Any, missing: object) -> None:
    if value is missing:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


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

    def activated(self, module: str, given: Any, output: Any) -> None:
        self._last[module] = (given, output)

    def __call__(self, module: str, given: Any, output: Any) -> None:
        before, activated = self._last.pop(module, (None, None))
        self._record(module, given, before if output is activated and output is not None else output)
