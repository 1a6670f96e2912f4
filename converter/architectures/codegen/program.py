"""The program of a clone, before it is written down: its classes, and what makes the net."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from converter.architectures.codegen.code import CallExpression, Expression, Value


class ModuleCall(msgspec.Struct, frozen=True):
    """``x = self.name(x)``. name: "" for the base class, where the class is a Sequential. use: see `CallExpression`."""

    name: str
    use: str = "{m}({x})"


class FunctionCall(msgspec.Struct, frozen=True):
    """``x = function(x)``."""

    call: CallExpression


class Branch(msgspec.Struct, frozen=True):
    """flag: the parameter of the class that enables these steps; "" if they always run."""

    steps: Statements
    flag: str = ""


class Join(msgspec.Struct, frozen=True):
    """joined: ``add`` or ``concat`` of branches of the same input. last: see `Fork`."""

    joined: str
    last: bool
    branches: tuple[Branch, ...]


Statements: TypeAlias = "tuple[ModuleCall | FunctionCall | Join, ...]"


class Attribute(msgspec.Struct, frozen=True):
    """A module inside a class. flag: see `Branch`."""

    name: str
    made: Expression
    flag: str = ""


class ClassParameter(msgspec.Struct, frozen=True):
    """A parameter of a class. sample: one of its values. always: whether it is required."""

    name: str
    sample: Value
    always: bool


class Class(msgspec.Struct, frozen=True):
    """is_line: whether it is a Sequential; is_net: whether it is the net itself.

    trains: whether it has a parameter ``train``. called: the name that files need, where another class has it as well.
    """

    name: str
    parameters: tuple[ClassParameter, ...]
    flags: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    statements: Statements
    is_line: bool = False
    is_net: bool = False
    trains: bool = False
    called: str = ""


class Program(msgspec.Struct, frozen=True):
    """The classes, each after those that it uses, and the expression that makes the net."""

    classes: tuple[Class, ...]
    net: Expression
