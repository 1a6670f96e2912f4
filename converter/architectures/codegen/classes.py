"""The classes of a clone: blocks that differ only in numbers share one class, with the numbers as parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from msgspec.structs import replace

from converter.architectures.codegen import code, tree
from converter.architectures.codegen import program as p
from converter.architectures.codegen.dialect import Dialect
from converter.architectures.codegen.grouping import Draft, Flags, groups
from converter.architectures.codegen.parameters import Parameters, UnlikeError, with_names
from converter.architectures.units import Unit


def program(net: tree.ModuleNode, dialect: Dialect, name: str = "Net") -> p.Program:
    """The classes of a net. name: of the class of the net itself, if it has one."""
    return _Classes(dialect, name).program(net)


class _Classes(msgspec.Struct):
    dialect: Dialect
    name: str
    drafts: list[Draft] = msgspec.field(default_factory=list)
    classes: list[p.Class] = msgspec.field(default_factory=list)
    made: dict[int, code.CallExpression] = msgspec.field(default_factory=dict)
    is_class: bool = False

    def program(self, net: tree.ModuleNode) -> p.Program:
        root = self._expression(net)
        self.is_class = isinstance(root, code.UnwrittenClass)
        last = root.number if isinstance(root, code.UnwrittenClass) else -1
        for height in sorted({draft.height for draft in self.drafts}):
            level = [draft for draft in self.drafts if draft.height == height and draft.number != last]
            for group in groups([self._placed(draft) for draft in level]):
                try:
                    self._write(group)
                except UnlikeError:
                    for draft in group:
                        self._write([draft])
        if isinstance(root, code.UnwrittenClass):
            self._write([replace(self._placed(self.drafts[last]), hint="")])
        return p.Program(tuple(self.classes), self._resolved(root))

    # -- from the tree

    def _expression(self, node: tree.ModuleNode) -> code.Expression:
        if isinstance(node, tree.SingleModule):
            return self.dialect.expression(node.unit)
        if isinstance(node, tree.SequentialModule):
            return code.SequentialExpression(
                tuple((name, self._expression(item)) for name, item in node.items), node.named
            )
        attributes = {name: self._expression(child) for name, child in node.children}
        items = self._expression(node.line) if node.line is not None else None
        assert items is None or isinstance(items, code.SequentialExpression)
        statements = self._statements(node.body, attributes)
        inner = [made for value in (*attributes.values(), *([items] if items else [])) for made in _classes_in(value)]
        height = 1 + max((self.drafts[number].height for number in inner), default=0)
        self.drafts.append(Draft(len(self.drafts), node.hint, height, attributes, statements, items, node.counted))
        return code.UnwrittenClass(len(self.drafts) - 1)

    def _statements(self, body: tree.Body, attributes: dict[str, code.Expression]) -> p.Statements:
        statements: list[p.ModuleCall | p.FunctionCall | p.Join] = []
        for step in body:
            if isinstance(step, tree.SplitSteps):
                branches = (p.Branch(self._statements(branch, attributes)) for branch in step.branches)
                statements.append(p.Join(step.joined, step.last, tuple(branches)))
            elif isinstance(step, tree.DoStep):
                made = self.dialect.expression(step.unit)
                statements.append(
                    p.FunctionCall(made) if made.plain else p.ModuleCall(self._attribute(step.unit, made, attributes))
                )
            else:
                child = attributes.get(step.name)
                statements.append(
                    p.ModuleCall(step.name, child.use if isinstance(child, code.CallExpression) else "{m}({x})")
                )
        return tuple(statements)

    def _attribute(self, unit: Unit, made: code.CallExpression, attributes: dict[str, code.Expression]) -> str:
        """The attribute for a step; equal steps without weights share one."""
        known = next((name for name, value in attributes.items() if value == made and not unit.path), None)
        name = known or tree.free(tree.step_name(unit), attributes)
        attributes[name] = made
        return name

    # -- into classes

    def _placed(self, draft: Draft) -> Draft:
        """The draft with the classes of the blocks inside it."""
        attributes = {name: self._resolved(value) for name, value in draft.attributes.items()}
        items = self._resolved(draft.items) if draft.items is not None else None
        assert items is None or isinstance(items, code.SequentialExpression)
        return replace(draft, attributes=attributes, items=items)

    def _resolved(self, value: code.Expression) -> code.Expression:
        if isinstance(value, code.UnwrittenClass):
            return self.made[value.number]
        if isinstance(value, code.SequentialExpression):
            return replace(value, items=tuple((name, self._resolved(item)) for name, item in value.items))
        return value

    def _write(self, drafts: Sequence[Draft]) -> None:
        """One class for all of these blocks."""
        first = drafts[0]
        wanted = tree.camel(first.hint) if first.hint else self.name
        taken = [*(each.name for each in self.classes), *([self.name] if first.hint and self.is_class else [])]
        taken += [tree.camel(draft.hint) for draft in self.drafts if draft.counted and not first.counted]
        name = tree.free(wanted, taken, "")
        flagged = Flags(drafts)
        parameters = Parameters(len(drafts), {*flagged.attributes})
        attributes = []
        for attribute, flag in flagged.attributes.items():
            made = parameters.of(attribute, attribute, [draft.attributes.get(attribute) for draft in drafts])
            attributes.append(p.Attribute(attribute, made, flag))
        names = parameters.names()
        attributes = [replace(each, made=with_names(each.made, names)) for each in attributes]
        trains = any(code.says_training(each.made) for each in attributes)
        listed = tuple(
            p.ClassParameter(names[i], next(v for v in values if v is not None), None not in values)
            for i, (_, _, values) in enumerate(parameters.differing)
        )
        is_line = first.items is not None
        self.classes.append(
            p.Class(
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
            values = [(names[k], of[i]) for k, (_, _, of) in enumerate(parameters.differing)]
            arguments = [code.Argument(name, value, True) for name, value in values if value is not None]
            arguments += [code.Argument(flag, True, True) for flag, has in flagged.values.items() if has[i]]
            if trains:
                arguments.append(code.Argument("train", code.Training(negated=False), True))
            if draft.items is not None:
                arguments = [code.Argument(key, item) for key, item in draft.items.items]
            self.made[draft.number] = code.CallExpression(name, tuple(arguments))


def _classes_in(value: code.Expression) -> Iterator[int]:
    if isinstance(value, code.UnwrittenClass):
        yield value.number
    elif isinstance(value, code.SequentialExpression):
        for _, item in value.items:
            yield from _classes_in(item)
