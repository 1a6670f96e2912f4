"""The modules of a clone: its layers in the tree of their names, so that its files have these names.

A name such as ``net.2.conv1`` leads through modules. A module whose children run one after the other and have the
numbers of a Sequential is a Sequential; any other is a class with the children as attributes. Steps without weights
fill the gaps in the numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from converter.architectures import vocabulary as v
from converter.architectures.codegen import tree
from converter.architectures.codegen.dialect import Dialect
from converter.architectures.units import Fork, Row, Unit, layers_in
from converter.errors import ConversionError
from converter.formats.keras.config import snake_case


def modules(
    row: Row, names: Mapping[str, tuple[str, ...]], hints: Mapping[str, tuple[str, ...]], dialect: Dialect
) -> tree.ModuleNode:
    """The tree of a net. names: path of a layer -> the parts of its name. hints: the same, for names of classes.

    Raises ConversionError for names that modules cannot have.
    """
    return _TreeBuilder(names, hints, dialect).module(list(row), 0)


#: Names of modules that say nothing as the name of a class.
_TELLING_NOTHING = frozenset({"sequential", "layer", "layers", "net"})


class _TreeBuilder(msgspec.Struct, frozen=True):
    names: Mapping[str, tuple[str, ...]]
    hints: Mapping[str, tuple[str, ...]]
    dialect: Dialect

    def module(self, row: tree.StepList, depth: int) -> tree.ModuleNode:
        if self._is_single(row, depth):
            assert isinstance(row[0], Unit)
            return tree.SingleModule(row[0])
        return self.line(row, depth) or self.subclass(row, depth) or self.block(row, depth)

    # -- Sequentials

    def line(self, row: tree.StepList, depth: int) -> tree.SequentialModule | None:
        """A Sequential with these names; None if a Sequential cannot have them."""
        parts = tree.runs_by_name(row, self.names, depth)
        if parts is None or not all(self._is_callable(part, depth) for part in parts):
            return None
        names = [part.name for part in parts if part.name]
        numbers = [self.dialect.number(name) for name in names]
        if all(number is not None for number in numbers):
            return self._numbered(parts, depth)
        if self.dialect.counted:
            return self._counted(parts, depth)
        is_class = all(map(tree.is_attribute, names))
        return self._named(parts, depth) if self.dialect.says_names and not is_class else None

    def _numbered(self, parts: Sequence[tree.NamedSteps], depth: int) -> tree.SequentialModule | None:
        """Each module at its number, with steps without weights in the gaps or inside the neighbouring modules."""
        made: list[tree.NamedSteps] = []
        place, waiting, last = 0, list[Unit | Fork](), None
        for part in parts:
            if not part.name:
                waiting += part.steps
                continue
            number = self.dialect.number(part.name)
            assert number is not None
            room, lead = number - place, self._lead(part.steps, depth + 1)
            filled = self._filled(last, waiting, room, lead, part.steps, depth) if room >= 0 else None
            if filled is None:
                return None
            after, between, before = filled
            if last is not None:
                last.steps = after
            made += [tree.NamedSteps("", [step]) for step in between]
            last = tree.NamedSteps(part.name, [*before, *part.steps])
            made.append(last)
            place, waiting = number + 1, []
        if last is not None:
            last.steps, waiting = self._with_activation(last.steps, waiting, depth)
            last.steps, waiting = _with_join(last.steps, waiting)
        made += [tree.NamedSteps("", [step]) for step in waiting]
        return tree.SequentialModule(tuple((part.name, self.module(part.steps, depth + 1)) for part in made))

    def _filled(
        self, last: tree.NamedSteps | None, steps: tree.StepList, room: int, lead: int, then: tree.StepList, depth: int
    ) -> tuple[tree.StepList, tree.StepList, tree.StepList] | None:
        """The steps between two modules: for the module before, for the gap, and for the module after."""
        former = last.steps if last is not None else []
        can_take = last is not None and not self._is_single(former, depth + 1)
        choices = [(former, steps)]
        if last is not None:
            choices.insert(0, self._with_activation(former, steps, depth))
        if self.dialect.flattens and _ends_in_flatten(steps, then):
            choices = [choice for kept, rest in choices for choice in ((kept, rest[:-1]), (kept, rest))]
        for kept, rest in choices:
            surplus = len(rest) - room - lead
            if surplus == 0 or (surplus > 0 and can_take):
                return [*kept, *rest[:surplus]], rest[surplus : surplus + room], rest[surplus + room :]
        return None

    def _lead(self, row: tree.StepList, depth: int) -> int:
        """How many steps without weights must precede the first layer inside the module of these steps."""
        parts = None if self._is_single(row, depth) else tree.runs_by_name(row, self.names, depth)
        numbers = [self.dialect.number(part.name) for part in parts or () if part.name]
        first = next((part for part in parts or () if part.name), None)
        if first is None or numbers[0] is None or None in numbers:
            return 0
        return numbers[0] + self._lead(first.steps, depth + 1)

    def _counted(self, parts: Sequence[tree.NamedSteps], depth: int) -> tree.SequentialModule | None:
        items: list[tuple[str, tree.ModuleNode]] = []
        counts: Counter[str] = Counter()
        for part in self._attached(parts, depth):
            node = self.module(part.steps, depth + 1)
            if part.name:
                kind = self._class(node, part.name)
                count, counts[kind] = counts[kind], counts[kind] + 1
                if part.name != (f"{kind}_{count}" if count else kind):
                    return None
                node = replace(node, hint=kind, counted=True) if isinstance(node, tree.ClassModule) else node
            items.append((part.name, node))
        return tree.SequentialModule(tuple(items))

    def _attached(self, parts: Iterable[tree.NamedSteps], depth: int) -> list[tree.NamedSteps]:
        """Steps without weights join the Sequential before them, leading ones that after them."""
        result: list[tree.NamedSteps] = []
        for part in parts:
            former = result[-1] if result and result[-1].name else None
            if not part.name and former is not None:
                former.steps, rest = self._with_activation(former.steps, part.steps, depth)
                former.steps, rest = _with_join(former.steps, rest)
                if rest and self._is_line(former, depth):
                    former.steps, rest = [*former.steps, *rest], []
                if rest:
                    result.append(tree.NamedSteps("", rest))
            elif result and all(not each.name for each in result) and self._is_line(part, depth):
                result = [tree.NamedSteps(part.name, [*(step for each in result for step in each.steps), *part.steps])]
            else:
                result.append(tree.NamedSteps(part.name, list(part.steps)))
        return result

    def _is_line(self, part: tree.NamedSteps, depth: int) -> bool:
        return not self._is_single(part.steps, depth + 1) and self.line(part.steps, depth + 1) is not None

    def _class(self, node: tree.ModuleNode, name: str) -> str:
        """The name by which Keras counts a module."""
        if isinstance(node, tree.SingleModule):
            return snake_case(self.dialect.expression(node.unit).function.rpartition(".")[2])
        stem = re.sub(r"_\d+$", "", name)
        if isinstance(node, tree.SequentialModule):
            return "sequential"
        return stem if tree.is_attribute(stem) and snake_case(tree.camel(stem)) == stem else ""

    def _named(self, parts: Sequence[tree.NamedSteps], depth: int) -> tree.SequentialModule | None:
        made: list[tree.NamedSteps] = []
        taken = {part.name for part in parts}
        waiting: tree.StepList = []
        for part in parts:
            if not part.name:
                waiting += part.steps
                continue
            lead = self._lead(part.steps, depth + 1)
            rest = len(waiting) - lead
            if rest < 0:
                return None
            if made and made[-1].name and not self._is_single(made[-1].steps, depth + 1):
                made[-1].steps += waiting[:rest]
            else:
                made += [tree.NamedSteps("", [step]) for step in waiting[:rest]]
            made.append(tree.NamedSteps(part.name, [*waiting[rest:], *part.steps]))
            waiting = []
        made += [tree.NamedSteps("", [step]) for step in waiting]
        for part in made:
            if not part.name:
                part.name = tree.free(tree.step_name(part.steps[0]), taken)
                taken.add(part.name)
        return tree.SequentialModule(
            tuple((part.name, self.module(part.steps, depth + 1)) for part in made), named=True
        )

    def subclass(self, row: tree.StepList, depth: int) -> tree.ClassModule | None:
        """A Sequential that joins its output with its input: all layers are in one branch of a fork."""
        fork, *following = row
        if not self.dialect.subclassed or not isinstance(fork, Fork) or any(layers_in([step]) for step in following):
            return None
        full = [branch for branch in fork.branches if layers_in(branch)]
        if len(full) != 1 or all(tree.is_attribute(self.names[path][depth]) for path in layers_in(full[0])):
            return None
        line = self.line(list(full[0]), depth)
        if line is None or line.named:
            return None
        branches = tuple((tree.UseChild(""),) if branch is full[0] else _statements(branch) for branch in fork.branches)
        return tree.ClassModule(
            (), (tree.SplitSteps(fork.joined, fork.last, branches), *_statements(following)), self._hint(row), line
        )

    # -- classes

    def block(self, row: tree.StepList, depth: int) -> tree.ClassModule:
        children: dict[str, tree.ModuleNode] = {}
        whole: dict[str, set[str]] = {}
        for path in layers_in(row):
            whole.setdefault(self._name(path, depth), set()).add(path)
        if len(whole) == 1 and sum(bool(layers_in([step])) for step in row) > 1:
            body = self._whole(row, depth, children)
        else:
            body = self._body(row, depth, whole, children)
        return tree.ClassModule(tuple(children.items()), body, self._hint(row))

    def _whole(self, row: tree.StepList, depth: int, children: dict[str, tree.ModuleNode]) -> tree.Body:
        """A class around one module, which contains all steps except leading ones that do not fit."""
        first = next(i for i, step in enumerate(row) if layers_in([step]))
        start = max(first - self._lead(row[first:], depth + 1), 0)
        name = self._name(layers_in(row)[0], depth)
        children[name] = self.module(row[start:], depth + 1)
        return (*_statements(row[:start]), tree.UseChild(name))

    def _body(
        self,
        row: Sequence[Unit | Fork],
        depth: int,
        whole: Mapping[str, set[str]],
        children: dict[str, tree.ModuleNode],
    ) -> tree.Body:
        body: list[tree.UseChild | tree.DoStep | tree.SplitSteps] = []
        rest = list(row)
        while rest:
            run, name = self._run(rest, depth, whole)
            if run and name:
                node, before, taken = self._child(body, run, rest[len(run) :], depth)
                if not (isinstance(node, tree.ClassModule) and node.line is not None):
                    children[name] = node
                    body = [*body[:before], tree.UseChild(name)]
                    del rest[: len(run) + taken]
                    continue
            step = rest.pop(0)
            if isinstance(step, Fork):
                branches = (self._body(branch, depth, whole, children) for branch in step.branches)
                body.append(tree.SplitSteps(step.joined, step.last, tuple(branches)))
            elif not step.path:
                body.append(tree.DoStep(step))
            else:
                raise ConversionError(
                    f"{self.dialect.title} calls a layer '{'.'.join(self.names[step.path])}', and "
                    f"'{'.'.join(self.names[step.path][: depth + 1])}' cannot be a module that is called once: its "
                    "layers do not run one after the other. Such a net cannot be built."
                )
        return tuple(body)

    def _run(self, row: tree.StepList, depth: int, whole: Mapping[str, set[str]]) -> tuple[tree.StepList, str]:
        """The leading steps, if they are all the steps of one child, and its name."""
        names = {self._name(path, depth) for path in layers_in(row[:1])}
        if len(names) != 1:
            return [], ""
        (name,) = names
        run: tree.StepList = []
        for step in row:
            if any(self._name(path, depth) != name for path in layers_in([step])):
                break
            run.append(step)
        while not layers_in(run[-1:]):
            run.pop()
        is_layer = any(
            len(self.names[path]) == depth + 1 for path in layers_in(run)
        )  # the name is that of a layer itself
        fits = self._is_single(run, depth + 1) if is_layer else set(layers_in(run)) == whole[name]
        return (run, name) if fits else ([], "")

    def _child(
        self,
        body: Sequence[tree.UseChild | tree.DoStep | tree.SplitSteps],
        run: tree.StepList,
        following: tree.StepList,
        depth: int,
    ) -> tuple[tree.ModuleNode, int, int]:
        """The child of a run, how much of the body stays before it, and how many of the following steps it includes."""
        lead = self._lead(run, depth + 1)
        before = (
            [step for step in body[len(body) - lead :] if isinstance(step, tree.DoStep)] if lead <= len(body) else []
        )
        if lead and len(before) == lead:
            return self.module([*(step.unit for step in before), *run], depth + 1), len(body) - lead, 0
        fused, rest = self._with_activation(run, following[:1], depth)
        taken = len(following[:1]) - len(rest) if self._is_single(run, depth + 1) else 0
        return self.module(fused if taken else run, depth + 1), len(body), taken

    # -- names

    def _name(self, path: str, depth: int) -> str:
        if len(self.names[path]) <= depth:
            raise ConversionError(
                f"{self.dialect.title} calls a layer '{'.'.join(self.names[path])}', "
                "and other layers have that name as a prefix"
            )
        return self.names[path][depth]

    def _is_single(self, row: Sequence[Unit | Fork], depth: int) -> bool:
        return len(row) == 1 and isinstance(row[0], Unit) and len(self.names.get(row[0].path, ())) <= depth

    def _is_callable(self, part: tree.NamedSteps, depth: int) -> bool:
        """Whether a Sequential can contain it."""
        unit = part.steps[0]
        return (
            not (isinstance(unit, Unit) and self._is_single(part.steps, depth + 1))
            or self.dialect.expression(unit).is_unary
        )

    def _hint(self, row: Sequence[Unit | Fork]) -> str:
        """The name of a class: the last part that the names of its layers have in common."""
        names = [self.hints[path] for path in layers_in(row)]
        common: list[str] = []
        for parts in zip(*names, strict=False):
            if len(set(parts)) > 1 or len(common) + 1 == min(map(len, names)):
                break
            common.append(re.sub(r"_?\d+$", "", parts[0]))
        usable = [
            name for name in common if tree.is_attribute(name) and name.islower() and name not in _TELLING_NOTHING
        ]
        if usable:
            return usable[-1]
        forks = {step.joined for step in row if isinstance(step, Fork)}
        return "residual" if forks == {"add"} else "branches" if forks == {"concat"} else "block"

    def _with_activation(
        self, row: tree.StepList, steps: tree.StepList, depth: int
    ) -> tuple[tree.StepList, tree.StepList]:
        """Fuse the activation after a layer into the layer, if it has such an option."""
        if row and steps and self._is_single(row, depth + 1):
            unit, first = row[0], steps[0]
            assert isinstance(unit, Unit)
            if (
                isinstance(unit.step, v.Linear | v.Conv | v.ConvTranspose)
                and not unit.activation
                and isinstance(first, Unit)
            ):
                activation = self.dialect.fused(first)
                if activation:
                    return [replace(unit, activation=activation)], steps[1:]
        return row, steps


def _with_join(row: tree.StepList, steps: tree.StepList) -> tuple[tree.StepList, tree.StepList]:
    """The activation after joined branches belongs to them."""
    if row and steps and isinstance(row[-1], Fork) and _is(steps[0], v.Activation):
        return [*row, steps[0]], steps[1:]
    return row, steps


def _ends_in_flatten(steps: tree.StepList, then: tree.StepList) -> bool:
    """Whether the last step is a flatten before a linear layer."""
    return bool(steps) and _is(steps[-1], v.Flatten) and _is(then[0], v.Linear)


def _is(step: Unit | Fork, kind: Any) -> bool:
    return isinstance(step, Unit) and isinstance(step.step, kind)


def _statements(row: Iterable[Unit | Fork]) -> tree.Body:
    return tuple(
        tree.DoStep(step)
        if isinstance(step, Unit)
        else tree.SplitSteps(step.joined, step.last, tuple(map(_statements, step.branches)))
        for step in row
    )
