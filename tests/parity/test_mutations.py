"""The mutation test: without any one of the operations a named conversion fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from converter.core import arithmetic, ops
from tests.command import ok
from tests.parity import conv_cases, flatten_cases, recurrent_cases, simple_cases
from tests.parity.sides import Case, by_clone

CASES = {
    case.name: case for module in (simple_cases, conv_cases, flatten_cases, recurrent_cases) for case in module.CASES
}

#: Operation -> a case that needs it, from which flavour into which.
NEEDED = {
    ops.Transpose: ("linear", "torch", "linen"),  # square matrices: the shapes would not tell
    ops.Flip: ("conv2d transposed", "torch", "linen"),
    ops.Reshape: ("three square layers lstm", "torch", "keras"),
    ops.Split: ("three square layers gru", "torch", "linen"),
    ops.Stack: ("three square layers gru", "linen", "torch"),
    ops.Reorder: ("three square layers gru", "torch", "keras"),
    arithmetic.Sum: ("three square layers lstm", "torch", "keras"),
    ops.Fill: ("one layer gru", "linen", "torch"),
    ops.Full: ("one layer lstm", "keras", "torch"),
    ops.Turn: ("two flattened side by side", "torch", "linen"),
}


def removed(self: ops.Op, arrays: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(arrays)


@pytest.mark.parametrize("op", NEEDED, ids=lambda op: op.__name__)
def test_a_conversion_fails_without_it(
    op: type[ops.Op], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, source, target = NEEDED[op]
    case: Case = CASES[name]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    by_clone(case, source, target, whole, lambda *words: ok(capsys, *words))
    monkeypatch.setattr(op, "apply", removed)
    with pytest.raises((Exception, pytest.fail.Exception)):
        by_clone(case, source, target, broken, lambda *words: ok(capsys, *words))


def test_every_operation_is_needed_somewhere() -> None:
    elsewhere = {
        arithmetic.Cast: "tests/test_cli.py: the clone's dtype is taken",
        ops.Require: "tests/parity/test_recurrent.py: refused with a bias that nnx cannot hold",
        ops.Repeat: "tests/parity/test_norm.py: a scale for each group becomes one for each channel",
        ops.Once: "tests/parity/test_norm.py: one scale for each group, and the refusal where they differ",
        arithmetic.FoldWeightNorm: "tests/parity/test_folded.py",
        arithmetic.FoldSpectralNorm: "tests/parity/test_folded.py",
        arithmetic.Inflate: "tests/commands/test_reuse_options.py",
        ops.Overlay: "tests/commands/test_reuse_options.py",
    }
    modules = (ops.__name__, arithmetic.__name__)
    assert {*NEEDED, *elsewhere} == {op for op in ops.Op.__subclasses__() if op.__module__ in modules}
