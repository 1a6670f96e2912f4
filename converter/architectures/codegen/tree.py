"""The tree of modules of a clone, and rules for names in code."""

from __future__ import annotations

import keyword
from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from converter.architectures.units import Fork, Unit
from converter.architectures.vocabulary import snake


class SingleModule(msgspec.Struct, frozen=True):
    """A module for a single step."""

    unit: Unit


class SequentialModule(msgspec.Struct, frozen=True):
    """A Sequential: modules with their names in it. named: whether the code sets the names."""

    items: tuple[tuple[str, ModuleNode], ...]
    named: bool = False


class UseChild(msgspec.Struct, frozen=True):
    """Call a child; "" for the base class, where the class is itself a Sequential."""

    name: str


class DoStep(msgspec.Struct, frozen=True):
    """Run a step without weights."""

    unit: Unit


class SplitSteps(msgspec.Struct, frozen=True):
    """Run several bodies on the same input and join their results (see `Fork`)."""

    joined: str
    last: bool
    branches: tuple[Body, ...]


Body: TypeAlias = "tuple[UseChild | DoStep | SplitSteps, ...]"


class ClassModule(msgspec.Struct, frozen=True):
    """A class of its own. hint: its name; counted: whether it must have that name, by which a Sequential counts it.

    line: its modules, where the class is a Sequential that does more with the result.
    """

    children: tuple[tuple[str, ModuleNode], ...]
    body: Body
    hint: str
    line: SequentialModule | None = None
    counted: bool = False


ModuleNode: TypeAlias = "SingleModule | SequentialModule | ClassModule"


def is_attribute(name: str) -> bool:
    """Whether the name can be an attribute in code."""
    return name.isidentifier() and name.isascii() and not keyword.iskeyword(name) and not name.startswith("_")


def step_name(step: Unit | Fork) -> str:
    return snake(type(step.step).__name__) if isinstance(step, Unit) else step.joined


def free(name: str, taken: Iterable[str], join: str = "_") -> str:
    """The name, with a number appended if it is taken."""
    names = set(taken)
    return next(n for n in (name, *(f"{name}{join}{i}" for i in range(2, 10_000))) if n not in names)


def camel(name: str) -> str:
    """``res_ne_xt_block`` -> ``ResNeXtBlock``."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))
