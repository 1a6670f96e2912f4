"""Optimizers in memory: what they have done so far, as a file of their framework would hold it, and set anew."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from converter.core.contents import Contents, Ref
from converter.core.tensors import DTYPES, Array, TensorSpec
from converter.errors import ConversionError, Problem
from converter.formats.base import StateTensor
from converter.live.base import LiveNet
from converter.live.linen import Adapter as Linen

#: Base class and the package that it is in -> the module here that knows it.
_CLASSES = {("Optimizer", "torch.optim"): "torch"}
#: What is taken, for an error.
_SHOWN = "an optimizer of torch.optim, or what optimizer.init(params) of optax gives"


class LiveOptimizer(ABC):
    """The optimizer of a live net. Like a file it has values, and it takes those that are laid out for one.

    form: the name of the format that has its state in the same way.
    """

    form: ClassVar[str]

    def __init__(self, optimizer: Any, live: LiveNet) -> None:
        self.optimizer, self.live = optimizer, live

    @property
    def title(self) -> str:
        return type(self.optimizer).__name__

    @abstractmethod
    def values(self) -> Mapping[str, Any]:
        """What `Reader.training` gives of a file of this form. Raises ConversionError."""

    def order(self) -> Sequence[str]:
        """The names of the net's parameters as it numbers them; none where it has no numbers. Raises ConversionError
        for a parameter that the net does not have.
        """
        return ()

    @abstractmethod
    def prepared(self, contents: Contents, arrays: Mapping[str, Array]) -> Callable[[], Any]:
        """What sets the state, all of it or nothing, and gives it back. contents: as a file would be written;
        arrays: by the names there.
        """

    @abstractmethod
    def undo(self) -> Callable[[], Any]:
        """What sets the state that it has now."""


def open_optimizer(optimizer: object, live: LiveNet) -> LiveOptimizer:
    """Raises ConversionError for what is none, or is not of the framework of the net."""
    name = next((own for base in type(optimizer).__mro__ if (own := _module(base))), "")
    if not name and isinstance(live, Linen) and isinstance(optimizer, tuple):
        name = "optax"
    frameworks = {"torch": "torch", "optax": "flax"}
    if frameworks.get(name) != live.framework_name:
        what = f"a {type(optimizer).__module__}.{type(optimizer).__qualname__}"
        text = f"{what} is no optimizer of a net of {live.framework.title} that is read: expected {_SHOWN}."
        raise ConversionError(Problem(text, "optimizer"))
    made: type[LiveOptimizer] = importlib.import_module(f"converter.live.optimizer_{name}").Adapter
    return made(optimizer, live)


def _module(base: type) -> str:
    return next(
        (own for (name, at), own in _CLASSES.items() if base.__name__ == name and base.__module__.startswith(at)), ""
    )


def state_tensor(name: str, value: Any, live: LiveNet) -> StateTensor | None:
    """A tensor of the framework; None for one of a dtype that no file holds, such as a key of random numbers."""
    dtype = DTYPES.get(str(value.dtype).removeprefix("torch."))
    if dtype is None:
        return None
    return StateTensor(TensorSpec(name, tuple(value.shape), dtype), partial(_read, value, live))


def _read(value: Any, live: LiveNet) -> Array:
    array = live.to_numpy(value)
    assert array is not None
    return array


def resolved(tree: Any, arrays: Mapping[str, Array]) -> Any:
    """A tree of a file with its tensors in their places."""
    if isinstance(tree, Ref):
        return arrays[tree.name]
    if isinstance(tree, dict):
        return {key: resolved(item, arrays) for key, item in tree.items()}
    return tree
