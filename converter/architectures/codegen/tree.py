"""The tree of modules of a clone, steps grouped by their names, and names in code."""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import msgspec

from converter.architectures.units import Fork, Unit, layers_in
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


StepList = list["Unit | Fork"]


class NamedSteps(msgspec.Struct):
    """Steps that share the first part of their names; "" for steps without weights."""

    name: str
    steps: StepList


def runs_by_name(row: StepList, names: Mapping[str, tuple[str, ...]], depth: int) -> list[NamedSteps] | None:
    """The steps grouped by the next part of their names; None if the steps of one name are not consecutive."""
    parts: list[NamedSteps] = []
    for step in row:
        paths = layers_in([step])
        deepest = depth + 1 if isinstance(step, Fork) else depth  # a branch is not a layer itself
        if any(len(names[path]) <= deepest for path in paths):
            return None
        next_names = {names[path][depth] for path in paths}
        if len(next_names) > 1:
            return None
        name = next_names.pop() if next_names else ""
        known = next((i for i, part in enumerate(parts) if part.name and part.name == name), None)
        if known is None:
            parts.append(NamedSteps(name, [step]))
        elif any(part.name for part in parts[known + 1 :]):
            return None
        else:
            between = [inner for part in parts[known + 1 :] for inner in part.steps]
            parts[known].steps += [*between, step]
            del parts[known + 1 :]
    return parts


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
