"""The classes of a clone: blocks that differ in nothing but numbers are one class, and the numbers its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec
from msgspec.structs import replace

from converter.architectures.codegen.code import Argument, Call, ClassOf, Expression, Items, Training, says_training
from converter.architectures.codegen.grouping import Draft, Flags, groups
from converter.architectures.codegen.parameters import Parameters, UnlikeError, with_names
from converter.architectures.codegen.program import (
    Applied,
    Attribute,
    Branch,
    Called,
    Class,
    Joined,
    Needed,
    Program,
    Statements,
)
from converter.architectures.codegen.tree import Block, Body, Do, Leaf, Line, Node, Split, camel, free, step_name
from converter.architectures.units import Unit


class Leaves(Protocol):
    """What a framework makes of a single step."""

    def leaf(self, unit: Unit) -> Call: ...


def program(net: Node, leaves: Leaves, name: str = "Net") -> Program:
    """The classes of a net. name: that of its own class, if it has one."""
    return _Classes(leaves, name).program(net)


class _Classes(msgspec.Struct):
    leaves: Leaves
    name: str
    drafts: list[Draft] = msgspec.field(default_factory=list)
    classes: list[Class] = msgspec.field(default_factory=list)
    made: dict[int, Call] = msgspec.field(default_factory=dict)
    is_class: bool = False

    def program(self, net: Node) -> Program:
        root = self._expression(net)
        self.is_class = isinstance(root, ClassOf)
        last = root.number if isinstance(root, ClassOf) else -1
        for height in sorted({draft.height for draft in self.drafts}):
            level = [draft for draft in self.drafts if draft.height == height and draft.number != last]
            for group in groups([self._placed(draft) for draft in level]):
                try:
                    self._write(group)
                except UnlikeError:
                    for draft in group:
                        self._write([draft])
        if isinstance(root, ClassOf):
            self._write([replace(self._placed(self.drafts[last]), hint="")])
        return Program(tuple(self.classes), self._resolved(root))

    # -- from the tree

    def _expression(self, node: Node) -> Expression:
        if isinstance(node, Leaf):
            return self.leaves.leaf(node.unit)
        if isinstance(node, Line):
            return Items(tuple((name, self._expression(item)) for name, item in node.items), node.named)
        attributes = {name: self._expression(child) for name, child in node.children}
        items = self._expression(node.line) if node.line is not None else None
        assert items is None or isinstance(items, Items)
        statements = self._statements(node, node.body, attributes)
        inner = [made for value in (*attributes.values(), *([items] if items else [])) for made in _classes_in(value)]
        height = 1 + max((self.drafts[number].height for number in inner), default=0)
        self.drafts.append(Draft(len(self.drafts), node.hint, height, attributes, statements, items, node.counted))
        return ClassOf(len(self.drafts) - 1)

    def _statements(self, block: Block, body: Body, attributes: dict[str, Expression]) -> Statements:
        found: list[Called | Applied | Joined] = []
        for step in body:
            if isinstance(step, Split):
                branches = (Branch(self._statements(block, branch, attributes)) for branch in step.branches)
                found.append(Joined(step.joined, step.last, tuple(branches)))
            elif isinstance(step, Do):
                made = self.leaves.leaf(step.unit)
                found.append(Applied(made) if made.plain else Called(self._attribute(step.unit, made, attributes)))
            else:
                child = attributes.get(step.name)
                found.append(Called(step.name, child.use if isinstance(child, Call) else "{m}({x})"))
        return tuple(found)

    def _attribute(self, unit: Unit, made: Call, attributes: dict[str, Expression]) -> str:
        """A step without weights is an attribute, too; equal ones are the same."""
        known = next((name for name, value in attributes.items() if value == made and not unit.path), None)
        name = known or free(step_name(unit), attributes)
        attributes[name] = made
        return name

    # -- into classes

    def _placed(self, draft: Draft) -> Draft:
        """With the classes of the blocks inside of it."""
        attributes = {name: self._resolved(value) for name, value in draft.attributes.items()}
        items = self._resolved(draft.items) if draft.items is not None else None
        assert items is None or isinstance(items, Items)
        return replace(draft, attributes=attributes, items=items)

    def _resolved(self, value: Expression) -> Expression:
        if isinstance(value, ClassOf):
            return self.made[value.number]
        if isinstance(value, Items):
            return replace(value, items=tuple((name, self._resolved(item)) for name, item in value.items))
        return value

    def _write(self, drafts: Sequence[Draft]) -> None:
        """One class for all of these blocks."""
        first = drafts[0]
        wanted = camel(first.hint) if first.hint else self.name
        taken = [*(each.name for each in self.classes), *([self.name] if first.hint and self.is_class else [])]
        taken += [camel(draft.hint) for draft in self.drafts if draft.counted and not first.counted]
        name = free(wanted, taken, "")
        flagged = Flags(drafts)
        parameters = Parameters(len(drafts), {*flagged.attributes})
        attributes = []
        for attribute, flag in flagged.attributes.items():
            made = parameters.of(attribute, attribute, [draft.attributes.get(attribute) for draft in drafts])
            attributes.append(Attribute(attribute, made, flag))
        names = parameters.names()
        attributes = [replace(each, made=with_names(each.made, names)) for each in attributes]
        trains = any(says_training(each.made) for each in attributes)
        listed = tuple(
            Needed(names[i], next(v for v in values if v is not None), None not in values)
            for i, (_, _, values) in enumerate(parameters.found)
        )
        is_line = first.items is not None
        self.classes.append(
            Class(
                name,
                listed,
                tuple(flagged.values),
                tuple(attributes),
                flagged.statements,
                is_line,
                not first.hint,
                trains,
                wanted if first.counted and name != wanted else "",
            )
        )
        for i, draft in enumerate(drafts):
            values = [(names[k], of[i]) for k, (_, _, of) in enumerate(parameters.found)]
            arguments = [Argument(name, value, True) for name, value in values if value is not None]
            arguments += [Argument(flag, True, True) for flag, has in flagged.values.items() if has[i]]
            if trains:
                arguments.append(Argument("train", Training(negated=False), True))
            if draft.items is not None:
                arguments = [Argument(key, item) for key, item in draft.items.items]
            self.made[draft.number] = Call(name, tuple(arguments))


def _classes_in(value: Expression) -> Iterator[int]:
    if isinstance(value, ClassOf):
        yield value.number
    elif isinstance(value, Items):
        for _, item in value.items:
            yield from _classes_in(item)
