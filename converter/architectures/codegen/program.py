"""The program of a clone, before it is written down: its classes, and what makes the net."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from converter.architectures.codegen.code import CallExpression, Expression, Value


class ModuleCall(msgspec.Struct, frozen=True):
    """``x = self.name(x)``, as the module's ``use`` says; "" for the Sequential that the class itself is."""

    name: str
    use: str = "{m}({x})"


class FunctionCall(msgspec.Struct, frozen=True):
    """A plain function on what passes."""

    call: CallExpression


class Branch(msgspec.Struct, frozen=True):
    """flag: the parameter that says whether there are these steps; "" where there always are."""

    steps: Statements
    flag: str = ""


class Join(msgspec.Struct, frozen=True):
    """joined: ``add`` or ``concat`` of what the branches make of the same. last: as of `Fork`."""

    joined: str
    last: bool
    branches: tuple[Branch, ...]


Statements: TypeAlias = "tuple[ModuleCall | FunctionCall | Join, ...]"


class Attribute(msgspec.Struct, frozen=True):
    """A module inside of a class. flag: as of `Branch`."""

    name: str
    made: Expression
    flag: str = ""


class ClassParameter(msgspec.Struct, frozen=True):
    """A parameter of a class. sample: one of its values. always: whether it must be given."""

    name: str
    sample: Value
    always: bool


class Class(msgspec.Struct, frozen=True):
    """is_line: whether it is a Sequential; is_net: whether it is the net.

    trains: whether it is told that the net trains. called: the name that files need, where another class has it, too.
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
    """The classes, each behind those that it uses, and what makes the net."""

    classes: tuple[Class, ...]
    net: Expression
