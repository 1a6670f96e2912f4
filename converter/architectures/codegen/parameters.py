"""What differs among the blocks of one class becomes its parameters."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from converter.architectures.codegen import code
from converter.architectures.codegen.tree import free, is_attribute

#: Roles that are numbers of channels or features.
_WIDTHS = frozenset({"inputs", "outputs", "features", "channels"})


class UnlikeError(Exception):
    """The blocks cannot share a class."""


class Parameters(msgspec.Struct):
    """What differs among blocks. differing: module, role, and the value in each block (None where it is absent)."""

    count: int
    taken: set[str]
    differing: list[tuple[str, str, list[code.Value | None]]] = msgspec.field(default_factory=list)

    def of(self, module: str, role: str, values: Sequence[code.Value | None]) -> code.Expression:
        """One expression for all values; a parameter if they are of different kinds."""
        made = self._common(module, role, values)
        if made is None:
            if not is_attribute(module):
                raise UnlikeError
            made = self._parameter(module, module, values)
        assert not isinstance(made, int | float | bool | str | tuple | code.Training)
        return made

    def _common(self, module: str, role: str, values: Sequence[code.Value | None]) -> code.Value | None:
        known = [value for value in values if value is not None]
        first = known[0]
        if all(value == first and type(value) is type(first) for value in known):
            return first
        if all(isinstance(value, code.CallExpression) for value in known):
            return self._call(module, values)
        if all(isinstance(value, code.SequentialExpression) for value in known):
            return self._items(module, values)
        if any(
            isinstance(value, code.CallExpression | code.SequentialExpression | code.UnwrittenClass) for value in known
        ):
            return None
        return self._parameter(module, role, values)

    def _call(self, module: str, values: Sequence[code.Value | None]) -> code.Value | None:
        calls = [value if isinstance(value, code.CallExpression) else None for value in values]
        first = next(each for each in calls if each is not None)
        forms = {(c.function, c.use, c.plain, tuple((a.role, a.keyword) for a in c.arguments)) for c in calls if c}
        if len(forms) > 1:
            return None
        arguments = []
        for i, argument in enumerate(first.arguments):
            made = self._common(module, argument.role, [c.arguments[i].value if c else None for c in calls])
            if made is None:
                return None
            arguments.append(replace(argument, value=made))
        return replace(first, arguments=tuple(arguments))

    def _items(self, module: str, values: Sequence[code.Value | None]) -> code.Value | None:
        rows = [value if isinstance(value, code.SequentialExpression) else None for value in values]
        first = next(row for row in rows if row is not None)
        if len({(row.named, tuple(name for name, _ in row.items)) for row in rows if row}) > 1:
            return None
        items = []
        for i, (name, _) in enumerate(first.items):
            made = self._common(module, "item", [row.items[i][1] if row else None for row in rows])
            if not isinstance(made, code.CallExpression | code.SequentialExpression):
                return None
            items.append((name, made))
        return replace(first, items=tuple(items))

    def _parameter(self, module: str, role: str, values: Sequence[code.Value | None]) -> code.Parameter:
        """A parameter with these values; shared with a parameter of the same kind of role and equal values."""
        for i, (_, other, known) in enumerate(self.differing):
            alike = _family(other) == _family(role)
            pairs = zip(known, values, strict=True)
            if alike and all(a is None or b is None or (a == b and type(a) is type(b)) for a, b in pairs):
                known[:] = [b if a is None else a for a, b in zip(known, values, strict=True)]
                return code.Parameter(str(i))
        self.differing.append((module, role, list(values)))
        return code.Parameter(str(len(self.differing) - 1))

    def names(self) -> list[str]:
        """A name for each parameter: its role, with the module in front if several share the role."""
        roles = [role for _, role, _ in self.differing]
        names: list[str] = []
        for module, role, _ in self.differing:
            alone = roles.count(role) == 1 or not is_attribute(module)
            name = role if alone or role == module else f"{module}_{role}"
            own = role == module  # the module itself is the parameter
            names.append(name if own else free(name, [*names, *self.taken, "train", "x", "F"]))
        return names


def _family(role: str) -> str:
    return "width" if role in _WIDTHS else role


def with_names(value: code.Expression, names: Sequence[str]) -> code.Expression:
    """The expression with the names of parameters in place of their numbers."""
    made = _renamed(value, names)
    assert not isinstance(made, int | float | bool | str | tuple | code.Training)
    return made


def _renamed(value: code.Value, names: Sequence[str]) -> code.Value:
    if isinstance(value, code.Parameter):
        return code.Parameter(names[int(value.name)])
    if isinstance(value, code.CallExpression):
        return replace(value, arguments=tuple(replace(a, value=_renamed(a.value, names)) for a in value.arguments))
    if isinstance(value, code.SequentialExpression):
        return replace(value, items=tuple((name, with_names(item, names)) for name, item in value.items))
    if isinstance(value, tuple):
        return tuple(_renamed(item, names) for item in value)
    return value
