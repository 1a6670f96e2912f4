"""The contract of a live net: what tensors it has, and how they are set."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

from converter.core.contents import Contents
from converter.core.inputs import Inputs
from converter.core.tensors import Array
from converter.errors import ConversionError
from converter.formats import Format
from converter.frameworks import Framework, framework
from converter.frameworks.defaults import Value
from converter.live.watching import Record, module_of, upwards

#: Class of layers -> property of `converter.frameworks.defaults` -> its value there (None: it does not count).
Hyperparameters = Mapping[str, Mapping[str, Callable[[Any], Value | None]]]

EPSILON = "LayerNorm, GroupNorm, InstanceNorm epsilon"
#: Of Keras and Flax.
BATCH_NORM: Mapping[str, Callable[[Any], Value | None]] = {
    "BatchNorm epsilon": lambda layer: layer.epsilon,
    "BatchNorm momentum (for training)": lambda layer: layer.momentum,
}


class Template(msgspec.Struct, frozen=True):
    """What a file of a live net holds. names: name of each tensor in the file -> its name in the net."""

    contents: Contents
    names: Mapping[str, str]


class LiveNet(ABC):
    """A net in memory. It is to the converter what a clone's file is: a template, and a place to write to."""

    framework_name: ClassVar[str]
    #: Whether `contents` has the order in which the layers were made, though files of the framework may not.
    in_order: ClassVar[bool] = False
    #: The format in which schemas know its layers, where that is not by the names of `contents`.
    file_format: str = ""

    def __init__(self, net: Any) -> None:
        self.net = net

    @property
    def framework(self) -> Framework:
        return framework(self.framework_name)

    @property
    def channels_last(self) -> bool:
        """Where the net has the channels of images."""
        return self.framework.channels_last

    @abstractmethod
    def contents(self) -> Contents:
        """Names, shapes and dtypes, in the order of the net; a size of -1 is still unknown (gluon)."""

    def described(self) -> Contents:
        """`contents`, with the classes of the layers: what names and shapes leave open, a live net knows."""
        contents = self.contents()
        modules = dict(self.modules())
        owners = {spec.name: modules.get(self.module(spec.name)) for spec in contents.specs}
        classes = {name: self.class_of(owner) for name, owner in owners.items() if owner is not None}
        return replace(contents, classes={name: known for name, known in classes.items() if known})

    def template(self, form: Format) -> Template:
        """What the framework would write of this net in that format, with the classes of the layers."""
        contents = self.described()
        return Template(contents, {spec.name: spec.name for spec in contents.specs})

    def class_of(self, module: Any) -> str:
        """The class of a layer under which `Framework.classes` has it; "" for one that it has not."""
        names = (self.spelled(base.__name__) for base in type(module).__mro__)
        return next((name for name in names if name in self.framework.classes), "")

    def spelled(self, class_name: str) -> str:
        """A class name as files of the framework spell it."""
        return class_name

    @abstractmethod
    def read(self, name: str) -> Array:
        """A copy of one tensor of `contents`."""

    def values(self) -> list[tuple[str, Array]]:
        """A copy of every tensor of `contents`, as `fill` puts it back."""
        return [(spec.name, self.read(spec.name)) for spec in self.contents().specs]

    @abstractmethod
    def fill(self, tensors: Iterable[tuple[str, Array]]) -> Any:
        """Set each named tensor, and return the net (a new tree for linen)."""

    @abstractmethod
    def freeze(self, names: frozenset[str]) -> Any:
        """Exempt these tensors of `contents` from training; see `converter.freeze`."""

    def modules(self) -> Iterable[tuple[str, Any]]:
        """Every layer, with what stands before the names of its tensors; none where the net is tensors alone."""
        return ()

    # -- running (see `converter.live.run`)

    @contextmanager
    def running(self, inputs: Inputs) -> Iterator[None]:
        """Whatever the net raises within becomes a ConversionError."""
        try:
            yield
        except ConversionError:
            raise
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ConversionError(f"the {self.framework.title} net does not run on {inputs}: {reason}") from error

    def make_concrete(self, inputs: Inputs) -> None:  # noqa: B027 - most nets are
        """Give every tensor its shape, where the net needs an input for that."""

    def module(self, name: str) -> str:
        """The innermost module that holds the tensor of this name."""
        return module_of(name)

    @abstractmethod
    def forward(self, inputs: Inputs) -> Any:
        """Call the net."""

    @abstractmethod
    def to_numpy(self, value: Any) -> Array | None:
        """A copy of a tensor, which later layers may change in place; None for what holds no values yet."""

    @abstractmethod
    def watching(
        self, watched: Collection[str], record: Record, before_activation: bool
    ) -> AbstractContextManager[object]:
        """A context in which ``record`` takes the inputs and the output of each call of these modules.

        before_activation: of a layer that ends in one, what it had before.
        """

    def inference(self) -> AbstractContextManager[object]:
        """A context in which the net does not train."""
        return ExitStack()

    def watched_modules(self, watched: Collection[str]) -> Iterator[tuple[str, Any]]:
        return ((name, module) for name, module in self.modules() if name in watched)

    # -- settings

    #: What is read of each class of layers, and the package in which those classes are.
    hyperparameters: ClassVar[Hyperparameters] = {}
    package: ClassVar[str | tuple[str, ...]] = ""

    def settings(self) -> dict[str, dict[str, Value]]:
        """Path of each layer -> property -> value: what the weights do not carry (`converter.frameworks.defaults`).

        Layers with tensors are under their neutral paths, the others under their own. Empty for the params tree of
        linen, which has no layers.
        """
        by_module = {prefix: _settings(module, self.hyperparameters, self.package) for prefix, module in self.modules()}
        settings: dict[str, dict[str, Value]] = {}
        owners = set()
        for layer in self.framework.net(self.described()).layers:
            around = {owner for spec in layer.tensors for owner in upwards(self.module(spec.name))}
            settings[layer.path] = {
                property: value
                for owner in sorted(around, key=len)  # of an LSTM and its cell, the cell's
                for property, value in by_module.get(owner, {}).items()
            }
            owners |= around
        alone = {prefix.replace("/", "."): of for prefix, of in by_module.items() if prefix not in owners}
        return {path: of for path, of in {**alone, **settings}.items() if of}


def _settings(module: Any, table: Hyperparameters, package: str | tuple[str, ...]) -> dict[str, Value]:
    """The settings of a layer, by the most special class of it that the table knows."""
    for base in type(module).__mro__:
        if base.__name__ in table and base.__module__.startswith(package):
            values = {property: value(module) for property, value in table[base.__name__].items()}
            return {property: value for property, value in values.items() if value is not None}
    return {}


def is_dense(equation: str) -> bool:
    """Whether an einsum of input and kernel is a dense layer whose kernel has the inputs first, then the outputs.

    Those are the axes of every form of a linear layer in Keras and Flax; ``ab,cb->ac`` has them the other way.
    """
    operand, kernel, result = re.split(",|->", equation.replace(" ", "").replace("...", ""))
    inputs = [axis for axis in kernel if axis in operand]
    outputs = [axis for axis in kernel if axis not in operand]
    around = operand.removesuffix("".join(inputs))
    return around != operand and kernel == "".join(inputs + outputs) and result == around + "".join(outputs)


def named(function: Any) -> str:
    """The name of an activation function."""
    return function if isinstance(function, str) else str(getattr(function, "__name__", type(function).__name__))


def gates(kind: str, activation: str, gate: str) -> Mapping[str, Callable[[Any], Value | None]]:
    """The two activations of a gated cell, which keeps them in these attributes."""
    return {
        f"{kind} activation": lambda layer: named(getattr(layer, activation)),
        f"{kind} recurrent activation": lambda layer: named(getattr(layer, gate)),
    }
