"""The tree of modules that a clone is, and how a framework names what is in it."""

from __future__ import annotations

import keyword
from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from converter.architectures.units import Fork, Unit
from converter.architectures.vocabulary import snake


class SingleModule(msgspec.Struct, frozen=True):
    """A single layer or step."""

    unit: Unit


class SequentialModule(msgspec.Struct, frozen=True):
    """A Sequential: modules with their names in it. named: whether these are said, and not given by itself."""

    items: tuple[tuple[str, ModuleNode], ...]
    named: bool = False


class UseChild(msgspec.Struct, frozen=True):
    """Call a child; "" for the Sequential that the block itself is."""

    name: str


class DoStep(msgspec.Struct, frozen=True):
    """A step without weights."""

    unit: Unit


class SplitSteps(msgspec.Struct, frozen=True):
    """Several bodies that take the same, and how their results are joined (as of `Fork`)."""

    joined: str
    last: bool
    branches: tuple[Body, ...]


Body: TypeAlias = "tuple[UseChild | DoStep | SplitSteps, ...]"


class ClassModule(msgspec.Struct, frozen=True):
    """A class. hint: what it may be called; counted: what it must be, for a Sequential counts it by its class.

    line: where the block is a Sequential that does more with its result.
    """

    children: tuple[tuple[str, ModuleNode], ...]
    body: Body
    hint: str
    line: SequentialModule | None = None
    counted: bool = False


ModuleNode: TypeAlias = "SingleModule | SequentialModule | ClassModule"


def is_attribute(name: str) -> bool:
    """Whether it can be written behind a dot."""
    return name.isidentifier() and name.isascii() and not keyword.iskeyword(name) and not name.startswith("_")


def step_name(step: Unit | Fork) -> str:
    return snake(type(step.step).__name__) if isinstance(step, Unit) else step.joined


def free(name: str, taken: Iterable[str], join: str = "_") -> str:
    """The name, with a number where it is taken."""
    names = set(taken)
    return next(n for n in (name, *(f"{name}{join}{i}" for i in range(2, 10_000))) if n not in names)


def camel(name: str) -> str:
    """``res_ne_xt_block`` -> ``ResNeXtBlock``."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))
