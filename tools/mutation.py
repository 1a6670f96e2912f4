"""`make mutation`: mistakes made on purpose, each of which the short suite must find; writes docs/mutation.md.

A mutant is one change to the live tables or classes of this process: an operation that does nothing or undoes the
wrong thing, two gates, axes or roles of a framework's table that have changed places, a flip that is missing, a value
for an absent role that is not known. The tests that are meant to see it run until the first fails. After all mutants
the same tests run once more on what was put back, and must pass.

    python -m tools.mutation [PART OF A MUTANT'S NAME ...]
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import force_setattr

import tests.conftest  # noqa: F401 - before the frameworks are imported
from converter.core.kinds import KINDS
from converter.core.layers import Form, Leaf
from converter.core.ops import Each, Op
from converter.frameworks import FRAMEWORKS
from tests.parity.every_case import CASES
from tests.parity.sides import SIDES, Case

PAGE = Path(__file__).parent.parent / "docs" / "mutation.md"
HUB = "tests/parity/test_hub.py::test_by_way_of_the_neutral_file"
HEAD = """# Mutation

Written by `make mutation`. Each row is a mistake made on purpose in the operations or in a framework's table; the tests
that are meant to see it run until one fails. *Equivalent*: the mistake changes nothing that can be seen, for the reason
that is given.

"""
#: Mutants that change nothing that can be seen -> the reason.
EQUIVALENT = {
    "Flip.inverse is itself": "what is flipped twice is as before, so that it is its own inverse",
    "torch, gru: axes of 'weight_hr'": "PyTorch projects the state of an LSTM alone; the row is of all cells",
    "Computed.apply does nothing": "it only says what the reader has done",
}
#: Tests of the operations by themselves; then of what they are needed for.
OP_TESTS = (
    "tests/core/test_ops.py",
    "tests/core/test_axes.py",
    "tests/core/test_transposing.py",
    "tests/planning/test_casting.py",
    "tests/flattening/test_apply.py",
    "tests/commands/test_reuse_options.py",
    "tests/parity/test_folded.py",
    "tests/parity/test_old_cells.py",
    "tests/parity/test_recurrent_names.py",
)
ABSENT = "tests/parity/test_absent.py"
#: Parts of a table that stand for a kind which has no case of its own -> the tests that need them.
MORE_TESTS = {
    "key_value_bias": ("tests/parity/test_attention.py",),
    "spectral_norm": ("tests/parity/test_folded.py",),
    "power_iteration": ("tests/parity/test_folded.py",),
    "gru_reset_before": ("tests/parity/test_recurrent_names.py::test_reset_before_in_the_neutral_file",),
    "mgu": ("tests/parity/test_recurrent_names.py",),
    "group_norm": ("tests/parity/test_ambiguous.py",),
    "to_heads_by_head": ("tests/parity/test_attention.py",),
    "lora": ("tests/adapters/test_between.py",),
    "fix_gamma": ("tests/parity/test_exported.py",),
    **{
        f"dense_{inputs}_to_{outputs}": ("tests/parity/test_several_axes.py", "tests/parity/test_ambiguous.py")
        for inputs in range(1, 4)
        for outputs in range(1, 4)
    },
}


@dataclass(frozen=True)
class Mutant:
    """A mistake. make: makes it, and gives what takes it back. tests: those that are meant to see it, by their ids."""

    name: str
    make: Callable[[], Callable[[], None]]
    tests: Sequence[str]


# -- operations


def op_mutants() -> Iterator[Mutant]:
    for op in _kinds_of_ops(Op):
        yield Mutant(f"{op.__name__}.apply does nothing", partial(_patched, op, "apply", _as_it_was), OP_TESTS)
        if "inverse" in op.__dict__:  # else it has none, or that of a group of ops
            yield Mutant(f"{op.__name__}.inverse is itself", partial(_patched, op, "inverse", _itself), OP_TESTS)


def _kinds_of_ops(base: type[Op]) -> Iterator[type[Op]]:
    """All but the group of those that make one tensor of each."""
    for op in base.__subclasses__():
        yield from () if op is Each else (op,)
        yield from _kinds_of_ops(op)


def _as_it_was(_: Op, arrays: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(arrays)


def _itself(op: Op) -> Op:
    return op


def _patched(owner: Any, name: str, value: object) -> Callable[[], None]:
    old = owner.__dict__.get(name)
    setattr(owner, name, value)
    return (lambda: delattr(owner, name)) if old is None else (lambda: setattr(owner, name, old))


# -- frameworks' tables


def table_mutants() -> Iterator[Mutant]:
    for framework in FRAMEWORKS:
        flavours = [flavour for flavour, side in SIDES.items() if side.framework == framework.name]
        if not flavours:
            continue
        for form in framework.forms:
            for what, make in _mistakes(form):
                yield Mutant(f"{framework.name}, {form.name or form.kind}: {what}", make, _tests(form, flavours))


def _mistakes(form: Form) -> Iterator[tuple[str, Callable[[], Callable[[], None]]]]:
    for leaf in form.leaves:
        filled = [i for i, role in enumerate(leaf.roles) if role]
        if len(filled) > 1:
            roles = _swapped(leaf.roles, *filled[:2])
            yield f"two gates of '{leaf.name}'", partial(_set, leaf, roles=roles)
        axes = _turned(leaf.axes)
        if axes != leaf.axes:
            yield f"axes of '{leaf.name}'", partial(_set, leaf, axes=axes)
        if "~" in leaf.axes:
            plain = leaf.axes.replace("~", "")
            yield f"no flip of '{leaf.name}'", partial(_set, leaf, axes=plain)
    for pair in (("scale", "offset"), ("mean", "variance")):
        one, other = (_of_role(form, role) for role in pair)
        if one and other:
            yield f"{pair[0]} and {pair[1]}", partial(_exchanged, one, other)


def _turned(axes: str) -> str:
    """With two of its axes in each other's place; as it is where it has not two that may be of one size."""
    names = [name for name in dict.fromkeys(re.findall("[a-z_]+", axes)) if name not in ("g", "groups")]
    if len(names) < 2:
        return axes
    other = {names[0]: names[1], names[1]: names[0]}
    return re.sub("[a-z_]+", lambda name: other.get(name[0], name[0]), axes)


def _swapped(roles: Sequence[Any], i: int, j: int) -> tuple[Any, ...]:
    result = list(roles)
    result[i], result[j] = roles[j], roles[i]
    return tuple(result)


def _of_role(form: Form, role: str) -> Leaf | None:
    """The tensor that holds this role alone."""
    return next((leaf for leaf in form.leaves if len(leaf.roles) == 1 and role in _names(leaf.roles[0])), None)


def _names(role: Any) -> frozenset[str]:
    """The words of a role, which is a text or a record of them."""
    return frozenset(re.findall(r"[a-z_]+", str(role)))


def _set(item: Any, **fields: Any) -> Callable[[], None]:
    """The fields of a frozen record changed in place, wherever it is kept."""
    old = {name: getattr(item, name) for name in fields}
    _write(item, fields)
    return partial(_write, item, old)


def _write(item: Any, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        force_setattr(item, name, value)


def _exchanged(one: Leaf, other: Leaf) -> Callable[[], None]:
    roles = one.roles, other.roles
    force_setattr(one, "roles", roles[1])
    force_setattr(other, "roles", roles[0])

    def back() -> None:
        force_setattr(one, "roles", roles[0])
        force_setattr(other, "roles", roles[1])

    return back


def _tests(form: Form, flavours: Sequence[str]) -> list[str]:
    """Conversions along the hub from or to one of the flavours, of cases with a layer of this form or kind."""
    named = [case for case in _cases() if form.name in _kinds(case)] if form.name else []
    alike = [case for case in _cases() if form.kind in {kind.partition("_without_")[0] for kind in _kinds(case)}]
    cases = list({case.name: case for case in (*named, *alike)}.values()) or _cases()
    edges = [(case, *pair) for case in cases for pair in case.edges() if set(pair) & set(flavours)]
    ids = [f"{HUB}[{case.name}-{source}-{target}]".replace(" ", "_") for case, source, target in edges]
    return [*MORE_TESTS.get(form.name, ()), *MORE_TESTS.get(form.kind, ()), *ids]


def _cases() -> list[Case]:
    return [case for cases in CASES.values() for case in cases]


def _kinds(case: Case) -> set[str]:
    return {str(layer["kind"]) for layer in case.layers}


# -- kinds


def kind_mutants() -> Iterator[Mutant]:
    for name, kind in KINDS.items():
        for role in kind.absent:
            rest = {other: value for other, value in kind.absent.items() if other != role}
            cases = [case for case in _cases() if any(found.startswith(name) for found in _kinds(case))]
            ids = [
                f"{HUB}[{case.name}-{source}-{target}]".replace(" ", "_")
                for case in cases
                for source, target in case.edges()
            ]
            tests = [ABSENT, *MORE_TESTS.get(name, ()), *ids, "tests/parity/test_exported.py", *OP_TESTS]
            yield Mutant(f"{name}: no value for an absent '{role}'", partial(_set, kind, absent=rest), tests)


# -- run


@contextmanager
def _made(mutant: Mutant) -> Iterator[None]:
    _forget()
    back = mutant.make()
    try:
        yield
    finally:
        back()
        _forget()


def _forget() -> None:
    """What the converter keeps of earlier calls."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("converter")]
    owners = [*modules, *(item for module in modules for item in vars(module).values() if isinstance(item, type))]
    for item in (item for owner in owners for item in vars(owner).values()):
        if type(item) is functools._lru_cache_wrapper:
            item.cache_clear()


class _First:
    """A plugin of pytest that keeps which test failed first."""

    def __init__(self) -> None:
        self.failed = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


def first_failure(tests: Sequence[str]) -> str:
    """The first of the tests that fails; empty when all pass."""
    found = _First()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests], plugins=[found])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise SystemExit(f"pytest ended with {code!r} on {tests[:3]}")
    return found.failed


def mutants(parts: Sequence[str] = ()) -> list[Mutant]:
    every = [*op_mutants(), *table_mutants(), *kind_mutants()]
    return [mutant for mutant in every if not parts or any(part in mutant.name for part in parts)]


def page(rows: Sequence[tuple[str, str, float]]) -> str:
    killed = sum(bool(test) for _, test, _ in rows)
    equivalent = sum(not test and name in EQUIVALENT for name, test, _ in rows)
    lines = [f"{killed} of {len(rows)} found, {equivalent} equivalent, {len(rows) - killed - equivalent} not found."]
    lines += ["", "| mutant | found by | s |", "|---|---|--:|"]
    for name, test, seconds in rows:
        said = (
            f"`{test.removeprefix('tests/')}`"
            if test
            else f"equivalent: {EQUIVALENT[name]}"
            if name in EQUIVALENT
            else "**nothing**"
        )
        lines.append(f"| {name} | {said} | {seconds:.1f} |".replace("|*", "\\|*"))
    return HEAD + "\n".join(lines) + "\n"


def main(parts: Sequence[str]) -> int:
    rows: list[tuple[str, str, float]] = []
    for mutant in mutants(parts):
        start = time.perf_counter()
        with _made(mutant):
            test = first_failure(mutant.tests) if mutant.tests and mutant.name not in EQUIVALENT else ""
        rows.append((mutant.name, test, time.perf_counter() - start))
        print(f"{rows[-1][2]:6.1f} s  {mutant.name}: {test or 'NOT FOUND'}", flush=True)
    broken = first_failure(sorted({test for _, test, _ in rows if test}))
    if not parts:
        PAGE.write_text(page(rows))
    if broken:
        print(f"{broken} fails without any mutant, too")
    return 1 if broken or any(not test and name not in EQUIVALENT for name, test, _ in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
