"""Python code as data: the expressions that make modules, and how they are written.

No text of a file becomes code except names that were checked (see `document.check_names`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

#: Characters in a line of the code.
WIDTH = 100


class Parameter(msgspec.Struct, frozen=True):
    """A parameter of the class that is being written."""

    name: str


class Training(msgspec.Struct, frozen=True):
    """The argument that enables training; negated: ``not train``."""

    negated: bool = True


class Argument(msgspec.Struct, frozen=True):
    """role: its meaning, which names a parameter, and the keyword if it is a keyword argument.

    usual: the default of the framework, which is omitted.
    """

    role: str
    value: Value
    keyword: bool = False
    usual: Value | None = None

    @property
    def is_usual(self) -> bool:
        return self.usual is not None and self.usual == self.value and type(self.usual) is type(self.value)


class Option(msgspec.Struct, frozen=True):
    """A value for `call` with the default of the framework."""

    value: Value
    usual: Value | None


class CallExpression(msgspec.Struct, frozen=True):
    """The construction of a module, ``nn.Linear(20, 256)``, or a function that is a step itself, ``nn.relu``.

    use: how the module is called. plain: whether it is a function and not a module.
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
    """A Sequential: its modules with their names. named: whether the code sets the names."""

    items: tuple[tuple[str, Expression], ...]
    named: bool = False


class UnwrittenClass(msgspec.Struct, frozen=True):
    """A class that is not written yet. number: of its block in the order of the net."""

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

    row: a Sequential of (name, module) texts, with or without the names, as opening, parts and closing.
    parameter: the text of a parameter. training: the text of the argument that enables training.
    """

    row: Callable[[Sequence[tuple[str, str]], bool], tuple[str, Sequence[str], str]]
    parameter: Callable[[str], str] = str
    training: str = "train"

    def text(self, value: Value, indent: int = 0, before: int = 0) -> str:
        """The expression, on several lines if it is too long for one. before: the characters in front of it."""
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
        """The arguments of a plain function after its input."""
        written = (argument for argument in call.arguments if not argument.is_usual)
        return "".join(f", {_keyword(a)}{self._flat(a.value)}" for a in written)


def _as_value(call: CallExpression) -> tuple[str, tuple[Argument, ...]]:
    """The call as a value: a plain function with options becomes a ``partial``."""
    written = tuple(argument for argument in call.arguments if not argument.is_usual)
    if call.plain and written:
        return "partial", (Argument("function", CallExpression(call.function, plain=True)), *written)
    return call.function, written


def _keyword(argument: Argument) -> str:
    return f"{argument.role}=" if argument.keyword else ""


def literal(value: object) -> str:
    """A number, a boolean, or a printable ASCII string. Raises ValueError for anything else."""
    if isinstance(value, bool) or (isinstance(value, int) and not isinstance(value, bool)):
        return repr(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, str) and value.isascii() and value.isprintable():
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    raise ValueError(f"{value!r} cannot be written as code")


def calls_in(value: Value) -> Iterator[CallExpression]:
    """Every call inside a value, including itself."""
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
    """Whether a value depends on the argument that enables training."""
    if isinstance(value, CallExpression):
        return any(says_training(argument.value) for argument in value.arguments)
    if isinstance(value, SequentialExpression):
        return any(says_training(item) for _, item in value.items)
    return isinstance(value, Training)
