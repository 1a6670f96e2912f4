"""What the code of all frameworks has in common: classes, Sequentials, and the statements of a forward method."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from converter.architectures import vocabulary as v
from converter.architectures.codegen import code
from converter.architectures.codegen import program as p
from converter.architectures.codegen.tree import free, is_attribute
from converter.architectures.units import Unit, Units, axes
from converter.architectures.vocabulary import label
from converter.errors import ConversionError


class Dialect:
    """How one framework constructs each step, and how its code is written."""

    name: ClassVar[str]
    title: ClassVar[str]
    #: Whether its Sequential names modules by class and count (Keras).
    counted: ClassVar[bool] = False
    #: Whether its Sequential accepts names for its modules (PyTorch).
    says_names: ClassVar[bool] = False
    #: Whether a class can be a Sequential and do more with the result.
    subclassed: ClassVar[bool] = False
    #: Whether its linear layer flattens its input (gluon).
    flattens: ClassVar[bool] = False
    channels_last: ClassVar[bool] = False

    #: The import lines of the code -> a pattern of the code that needs the line.
    imports: ClassVar[Mapping[str, str]]
    #: Name -> a function or class that the code needs where it uses that name.
    helpers: ClassVar[Mapping[str, str]] = {}
    #: Example in the docstring of the code: make the net and load the weights that `convert` wrote.
    loading: ClassVar[str]
    #: The forward method; the base classes of a block, of the net itself, and of a class that is a Sequential.
    forward: ClassVar[str]
    base: ClassVar[str]
    net: ClassVar[str]
    line: ClassVar[str]

    #: What constructs each step.
    modules: ClassVar[Mapping[type[v.NetStep], Callable[[Unit], code.CallExpression]]]
    #: Activations that a layer before them can have as an option -> its value.
    activations: ClassVar[Mapping[type[v.NetStep], str]] = {}
    #: Tensors concatenated along an axis: the channels (1), or the last one.
    concatenation: ClassVar[str]
    #: The code around the modules of a Sequential; around a module whose name cannot be an attribute; of such a module.
    sequential: ClassVar[tuple[str, str]]
    setting: ClassVar[tuple[str, str]] = ('setattr(self, "{}", ', ")")
    getting: ClassVar[str] = 'getattr(self, "{}")'

    def expression(self, unit: Unit) -> code.CallExpression:
        """The code that constructs a step. Raises ConversionError for a step that the framework does not have."""
        return self.modules[type(unit.step)](unit)

    def number(self, name: str) -> int | None:
        """The index in a Sequential that a name stands for; None for other names."""
        return int(name) if name.isdigit() and str(int(name)) == name else None

    def fused(self, unit: Unit) -> str:
        """The activation as an option of the layer before it; "" where it cannot be one."""
        return self.activations.get(type(unit.step), "")

    def lowered(self, unit: Unit) -> tuple[Unit, ...]:
        """The step as the steps that the framework has."""
        return (unit,)

    def refused(self, step: v.NetStep, reason: str) -> ConversionError:
        return ConversionError(f"{label(step)} cannot be built in {self.title}: {reason}")

    # -- writing

    def net_text(self, net: code.Expression, units: Units) -> str:
        """The function ``make_net``."""
        return f"def make_net():\n    return {self.writing().text(net, 4, 7)}"

    def writing(self, parameter: str = "{}", training: str = "train") -> code.ExpressionWriter:
        return code.ExpressionWriter(self.row, parameter.format, training)

    def row(self, items: Sequence[tuple[str, str]], named: bool) -> tuple[str, Sequence[str], str]:
        """A Sequential as opening, parts and closing."""
        opening, closing = self.sequential
        return opening, [text for _, text in items], closing

    def written(self, program: p.Program, units: Units, name: str) -> str:
        """The whole code. name: of the architecture."""
        made = [program.net, *(attribute.made for each in program.classes for attribute in each.attributes)]
        used = {call.function for value in made for call in code.calls_in(value)}
        used |= {call.function for each in program.classes for call in _applied(each.statements)}
        texts = [*map(self.class_text, program.classes), self.net_text(program.net, units)]
        words = {word for text in texts for word in re.findall(r"\w+", text)}
        helpers = [text.strip("\n") for name, text in self.helpers.items() if name in used | words]
        texts = [*helpers, *texts]
        imports = [
            line for line, word in self.imports.items() if any(re.search(rf"\b{word}\b", text) for text in texts)
        ]
        head = f'"""{name or "A net"} in {self.title}, written by `converter scaffold`.\n\n{self._takes(units)}'
        head += textwrap.indent(self.loading.format(name=name or "net"), "    ") + '\n"""\n'
        return "\n".join([head, *imports, *(f"\n\n{text}" for text in texts), ""])

    def _takes(self, units: Units) -> str:
        shape = ["?" if size is None else str(size) for size in units.input_of(self.channels_last)]
        numbers = "whole numbers" if units.takes_numbers else "numbers"
        return f"It takes (batch, {', '.join(shape)}) {numbers}.\n\n" if units.input else ""

    def class_text(self, made: p.Class) -> str:
        lines = [f"class {made.name}({self.line if made.is_line else self.net if made.is_net else self.base}):"]
        lines += self.sequential_constructor() if made.is_line else self.constructor(made)
        lines += [*self.signature(made), *self._forward(made)]
        if made.called:
            lines += ["", "", f'{made.name}.__name__ = "{made.called}"  # by which its Sequential counts it']
        return "\n".join(lines)

    def sequential_constructor(self) -> list[str]:
        """The constructor of a class that is a Sequential, if it needs one."""
        return []

    def constructor(self, made: p.Class) -> list[str]:
        listed = [each.name for each in made.parameters if each.always]
        listed += [f"{each.name}=None" for each in made.parameters if not each.always]
        listed += [f"{flag}=False" for flag in made.flags]
        lines = [*_defined(["self", *listed]), "        super().__init__()"]
        lines += self.attributes(made.attributes, self.writing())
        lines += [f"        self.{flag} = {flag}" for flag in made.flags]
        return [*lines, ""]

    def attributes(self, inside: Sequence[p.Attribute], writing: code.ExpressionWriter, flag: str = "{}") -> list[str]:
        """The modules of a class; those of an optional branch inside a condition."""
        lines: list[str] = []
        former = ""
        for each in inside:
            if each.flag and each.flag != former:
                lines.append(f"        if {flag.format(each.flag)}:")
            former = each.flag
            lines.append(self.assigned(each.name, each.made, writing, 12 if each.flag else 8))
        return lines

    def assigned(self, name: str, made: code.Expression, writing: code.ExpressionWriter, indent: int) -> str:
        """``self.name = made``."""
        pad = " " * indent
        if is_attribute(name):
            return f"{pad}self.{name} = {writing.text(made, indent, len(name) + 8)}"
        opening, closing = (text.format(name) for text in self.setting)
        return f"{pad}{opening}{writing.text(made, indent, len(opening) + len(closing))}{closing}"

    def signature(self, made: p.Class) -> list[str]:
        return [f"    def {self.forward}(self, x):"]

    def _forward(self, made: p.Class) -> list[str]:
        lines, expression = self._steps(made.statements, "x", "x", {"x"}, 8)
        return [*lines, f"        return {expression}"]

    def _steps(self, steps: p.Statements, name: str, start: str, taken: set[str], indent: int) -> tuple[list[str], str]:
        """Lines that make ``name`` out of ``start``, and what is left to be done, as an expression."""
        lines: list[str] = []
        pad, expression = " " * indent, start
        for step in steps:
            if isinstance(step, p.Join):
                if not expression.isidentifier():
                    lines.append(f"{pad}{name} = {expression}")
                    expression = name
                more, expression = self._join(step, expression, taken, indent)
                lines += more
                continue
            longer = self._applied(step, expression)
            if not expression.isidentifier() and indent + len(name) + 3 + len(longer) > code.WIDTH:
                lines.append(f"{pad}{name} = {expression}")
                longer = self._applied(step, name)
            expression = longer
        return lines, expression

    def _applied(self, step: p.ModuleCall | p.FunctionCall, x: str) -> str:
        if isinstance(step, p.FunctionCall):
            return f"{step.call.function}({x}{self.writing().arguments(step.call)})"
        if not step.name:
            return self.inner(x)
        module = f"self.{step.name}" if is_attribute(step.name) else self.getting.format(step.name)
        return step.use.format(m=module, x=x)

    def inner(self, x: str) -> str:
        """What the Sequential that a class is makes of it."""
        return f"super().{self.forward}({x})"

    def _join(self, step: p.Join, x: str, taken: set[str], indent: int) -> tuple[list[str], str]:
        pad = " " * indent
        lines: list[str] = []
        parts = []
        words = ("y", "z") if step.joined == "add" else tuple("abcdefghijklmnopqrstuvw")
        for word, branch in zip((*words, *"y" * len(step.branches)), step.branches, strict=False):
            if not branch.steps:
                parts.append(x)
                continue
            name = free(word, taken)
            taken.add(name)
            parts.append(name)
            inside = indent + 4 if branch.flag else indent
            if branch.flag:
                lines += [f"{pad}{name} = {x}", f"{pad}if self.{branch.flag}:"]
            inner, last = self._steps(branch.steps, name, x, taken, inside)
            lines += [*inner, f"{' ' * inside}{name} = {last}"]
        if step.joined == "add":
            return lines, " + ".join(parts)
        return lines, self.concatenation.format(", ".join(parts), axis=-1 if step.last else 1)


def _defined(parameters: Sequence[str]) -> list[str]:
    """The head of a constructor, with one parameter per line if it is long."""
    line = f"    def __init__({', '.join(parameters)}):"
    if len(line) <= code.WIDTH:
        return [line]
    return ["    def __init__(", *(f"        {parameter}," for parameter in parameters), "    ):"]


def _applied(statements: p.Statements) -> list[code.CallExpression]:
    calls: list[code.CallExpression] = []
    for step in statements:
        if isinstance(step, p.FunctionCall):
            calls.append(step.call)
        elif isinstance(step, p.Join):
            calls += [call for branch in step.branches for call in _applied(branch.steps)]
    return calls


# -- arguments that layers of several frameworks have in common -------------------------------------------------------


def outputs(unit: Unit, role: str = "outputs") -> tuple[str, code.Value]:
    assert unit.outputs is not None
    return role, unit.outputs


def bias(unit: Unit) -> code.Option:
    return code.Option("bias" in unit.roles, True)


def activation(unit: Unit) -> dict[str, code.Option]:
    """The fused activation of a layer as its option."""
    return {"activation": code.Option(unit.activation, "")}


def window(step: v.MaxPool | v.AveragePool) -> tuple[tuple[str, code.Value], tuple[str, code.Value]]:
    """The size and the stride of a pool; the stride is the size by default."""
    stride = step.size if step.stride is None else step.stride
    return ("size", axes(step.size)), ("stride", axes(stride))


def channel_axis(unit: Unit) -> int:
    """The axis of the channels where they come first, or the last axis for features."""
    return 1 if unit.input_shape is None or unit.input_shape.space is not False else -1
