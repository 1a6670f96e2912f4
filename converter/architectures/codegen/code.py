"""Python code as data: what a module is made of, until it is written down.

No text of a file becomes a part of it, but names that are checked to be names (see `document.check_names`); numbers
are numbers, and printed as such.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

#: Characters of a line.
WIDTH = 100


class Parameter(msgspec.Struct, frozen=True):
    """An argument of the class that is being written."""

    name: str


class Training(msgspec.Struct, frozen=True):
    """Whether the net trains, where that is an argument; negated: whether it does not."""

    negated: bool = True


class Argument(msgspec.Struct, frozen=True):
    """role: what it is, which gives a parameter its name; also the keyword, where it is passed by one.

    usual: the default of the framework, which is not written.
    """

    role: str
    value: Value
    keyword: bool = False
    usual: Value | None = None

    @property
    def is_usual(self) -> bool:
        return self.usual is not None and self.usual == self.value and type(self.usual) is type(self.value)


class Option(msgspec.Struct, frozen=True):
    """A value for `call`, and the default of the framework."""

    value: Value
    usual: Value | None


class CallExpression(msgspec.Struct, frozen=True):
    """What makes a module: ``nn.Linear(20, 256)``; or a function that is a step itself: ``nn.relu``.

    use: how the module is called on what passes. plain: whether it is a function, and no module.
    """

    function: str
    arguments: tuple[Argument, ...] = ()
    use: str = "{m}({x})"
    plain: bool = False

    @property
    def is_unary(self) -> bool:
        """Whether it can stand in a Sequential."""
        return self.use == "{m}({x})"


class SequentialExpression(msgspec.Struct, frozen=True):
    """A Sequential: its modules with their names in it. named: whether the names must be said."""

    items: tuple[tuple[str, Expression], ...]
    named: bool = False


class UnwrittenClass(msgspec.Struct, frozen=True):
    """The class of a block that is not written yet; its number in the order of the net."""

    number: int


Expression: TypeAlias = "CallExpression | SequentialExpression | UnwrittenClass | Parameter"
Value: TypeAlias = "Expression | Training | int | float | bool | str | tuple[Value, ...]"


def call(function: str, /, *positional: tuple[str, Value], **keywords: Value | Option) -> CallExpression:
    """``call("nn.Linear", ("inputs", 20), ("outputs", 256), bias=Option(False, True))``"""
    arguments = [Argument(role, value) for role, value in positional]
    for role, value in keywords.items():
        option = value if isinstance(value, Option) else Option(value, None)
        arguments.append(Argument(role, option.value, True, option.usual))
    return CallExpression(function, tuple(arguments))


def plain(function: str, /, **keywords: Value | Option) -> CallExpression:
    """A function that is a step itself."""
    return replace(call(function, **keywords), plain=True)


class ExpressionWriter(msgspec.Struct, frozen=True):
    """How expressions are written.

    row: a Sequential of these texts (name, module), the names being said or not. parameter: a parameter by its name.
    training: what says that the net trains. applied: a plain function as a value.
    """

    row: Callable[[Sequence[tuple[str, str]], bool], tuple[str, Sequence[str], str]]
    parameter: Callable[[str], str] = str
    training: str = "train"

    def text(self, value: Value, indent: int = 0, before: int = 0) -> str:
        """The expression; on several lines where one is too long. before: the characters in front of it."""
        flat = self._flat(value)
        if indent + before + len(flat) <= WIDTH or not isinstance(value, CallExpression | SequentialExpression):
            return flat
        opening, parts, closing = self._parts(value, indent + 4)
        if not parts:
            return flat
        pad = " " * (indent + 4)
        return f"{opening}\n" + "".join(f"{pad}{part},\n" for part in parts) + f"{' ' * indent}{closing}"

    def _parts(self, value: CallExpression | SequentialExpression, indent: int) -> tuple[str, Sequence[str], str]:
        if isinstance(value, SequentialExpression):
            named = [(name, self.text(item, indent, len(name) + 10 * value.named)) for name, item in value.items]
            return self.row(named, value.named)
        function, arguments = _as_value(value)
        texts = [_keyword(a) + self.text(a.value, indent, len(_keyword(a)) + 1) for a in arguments]
        return f"{function}(", texts, ")"

    def _flat(self, value: Value) -> str:
        if isinstance(value, Parameter):
            return self.parameter(value.name)
        if isinstance(value, Training):
            return f"not {self.training}" if value.negated else self.training
        if isinstance(value, SequentialExpression):
            opening, parts, closing = self.row([(name, self._flat(item)) for name, item in value.items], value.named)
            return opening + ", ".join(parts) + closing
        if isinstance(value, CallExpression):
            function, arguments = _as_value(value)
            if value.plain and not arguments:
                return function
            return f"{function}({', '.join(_keyword(a) + self._flat(a.value) for a in arguments)})"
        if isinstance(value, tuple):
            inner = ", ".join(map(self._flat, value))
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        return literal(value)

    def arguments(self, call: CallExpression) -> str:
        """Those of a plain function, behind what it is applied to."""
        said = (argument for argument in call.arguments if not argument.is_usual)
        return "".join(f", {_keyword(a)}{self._flat(a.value)}" for a in said)


def _as_value(call: CallExpression) -> tuple[str, tuple[Argument, ...]]:
    """A plain function as a value waits for what it is applied to."""
    said = tuple(argument for argument in call.arguments if not argument.is_usual)
    if call.plain and said:
        return "partial", (Argument("function", CallExpression(call.function, plain=True)), *said)
    return call.function, said


def _keyword(argument: Argument) -> str:
    return f"{argument.role}=" if argument.keyword else ""


def literal(value: object) -> str:
    """A number, a truth value, or one of our own words. Raises ValueError for anything else."""
    if isinstance(value, bool) or (isinstance(value, int) and not isinstance(value, bool)):
        return repr(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, str) and value.isascii() and value.isprintable():
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    raise ValueError(f"{value!r} is nothing that code may hold")


def calls_in(value: Value) -> Iterator[CallExpression]:
    """Every call inside of it, itself among them."""
    if isinstance(value, CallExpression):
        yield value
        for argument in value.arguments:
            yield from calls_in(argument.value)
    elif isinstance(value, SequentialExpression):
        for _, item in value.items:
            yield from calls_in(item)
    elif isinstance(value, tuple):
        for part in value:
            yield from calls_in(part)


def says_training(value: Value) -> bool:
    """Whether it depends on whether the net trains."""
    if isinstance(value, CallExpression):
        return any(says_training(argument.value) for argument in value.arguments)
    if isinstance(value, SequentialExpression):
        return any(says_training(item) for _, item in value.items)
    return isinstance(value, Training)
