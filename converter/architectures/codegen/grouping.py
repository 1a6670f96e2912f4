"""Which blocks can share a class: those with equal statements, except for branches that some of them lack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from converter.architectures.codegen.code import Expression, SequentialExpression
from converter.architectures.codegen.program import Branch, FunctionCall, Join, ModuleCall, Statements
from converter.architectures.codegen.tree import free


class Draft(msgspec.Struct, frozen=True):
    """A block of the net with its concrete numbers, before blocks share classes."""

    number: int
    hint: str
    height: int
    attributes: Mapping[str, Expression]
    statements: Statements
    items: SequentialExpression | None
    counted: bool


def groups(drafts: Sequence[Draft]) -> Iterator[list[Draft]]:
    """The drafts grouped by the class that they can share."""
    groups: list[list[Draft]] = []
    for draft in drafts:
        for group in groups:
            first = group[0]
            alike = first.hint == draft.hint and first.counted == draft.counted
            if alike and (first.items is None) == (draft.items is None):
                merged = _merged([each.statements for each in (*group, draft)])
                if merged is not None and _disjoint(merged, (*group, draft)):
                    group.append(draft)
                    break
        else:
            groups.append([draft])
    yield from groups


def _merged(bodies: Sequence[Statements]) -> Statements | None:
    """The common statements; a branch that is empty in some has a flag still to be named. None if they differ."""
    lengths = {len(body) for body in bodies}
    if len(lengths) > 1:
        return None
    merged: list[ModuleCall | FunctionCall | Join] = []
    for column in zip(*bodies, strict=True):
        first = column[0]
        if isinstance(first, Join):
            forks = [step for step in column if isinstance(step, Join)]
            if len(forks) < len(column) or len({(step.joined, step.last, len(step.branches)) for step in forks}) > 1:
                return None
            branches = []
            for places in zip(*(step.branches for step in forks), strict=True):
                full = [branch.steps for branch in places if branch.steps]
                steps = _merged(full) if full else ()
                if steps is None:
                    return None
                branches.append(Branch(steps, "?" if full and len(full) < len(places) else ""))
            merged.append(replace(first, branches=tuple(branches)))
        elif any(step != first for step in column):
            return None
        else:
            merged.append(first)
    return tuple(merged)


def _disjoint(merged: Statements, drafts: Sequence[Draft]) -> bool:
    """Whether modules that a draft lacks are used only in branches that it lacks."""
    always = {name for name, flagged in _names_in(merged) if not flagged}
    return all(name in draft.attributes for draft in drafts for name in always if name)


def _names_in(statements: Statements, flagged: bool = False) -> Iterator[tuple[str, bool]]:
    for step in statements:
        if isinstance(step, ModuleCall):
            yield step.name, flagged
        elif isinstance(step, Join):
            for branch in step.branches:
                yield from _names_in(branch.steps, flagged or bool(branch.flag))


class Flags:
    """The optional branches of a group. values: flag -> which drafts have it. attributes: module -> its flag."""

    def __init__(self, drafts: Sequence[Draft]) -> None:
        merged = _merged([draft.statements for draft in drafts])
        assert merged is not None
        self.values: dict[str, list[bool]] = {}
        self._drafts = drafts
        self._flags: dict[str, str] = {}
        self._modules = {name for draft in drafts for name in draft.attributes}
        self._always = {name for name, flagged in _names_in(merged) if not flagged}
        self.statements = self._named(merged, "")
        order = list(dict.fromkeys(name for draft in drafts for name in draft.attributes))
        self.attributes = {name: self._flags.get(name, "") for name in order}

    def _named(self, statements: Statements, flag: str) -> Statements:
        named: list[ModuleCall | FunctionCall | Join] = []
        for step in statements:
            if isinstance(step, Join):
                branches = (self._branch(step, i, branch, flag) for i, branch in enumerate(step.branches))
                named.append(replace(step, branches=tuple(branches)))
                continue
            if isinstance(step, ModuleCall) and flag and step.name not in self._always:
                self._flags[step.name] = flag
            named.append(step)
        return tuple(named)

    def _branch(self, fork: Join, place: int, branch: Branch, flag: str) -> Branch:
        if branch.flag:
            word = ("body", "shortcut")[place] if fork.joined == "add" else f"branch_{place + 1}"
            flag = free(f"has_{word}", (*self.values, *self._modules))
            inside = {name for name, _ in _names_in(branch.steps)} - self._always
            self.values[flag] = [inside <= draft.attributes.keys() for draft in self._drafts]
            branch = replace(branch, flag=flag)
        return replace(branch, steps=self._named(branch.steps, flag))
