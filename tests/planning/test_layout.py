"""A new file without a clone: what is asked before it is laid out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import converter
from converter.errors import MatchError


@pytest.mark.parametrize("target", ["neutral", "mxnet", "flax"])
def test_a_kind_that_nothing_tells_is_asked_about_where_the_values_are_only_copied(tmp_path: Path, target: str) -> None:
    """The new file says, or will be read as, one of them; only within one framework it stays what it was."""
    weights = {"a.weight": torch.randn(4, 4, 3, 3), "a.bias": torch.randn(4), "e.weight": torch.randn(5, 5)}
    torch.save(weights, tmp_path / "net.pt")
    with pytest.raises(MatchError) as raised:
        converter.convert(f"torch->{target}", tmp_path / "net.pt", dry_run=True, strict=True)
    assert {problem.subject for problem in raised.value.problems} == {"a", "e"}
    report = converter.convert("torch->torch", tmp_path / "net.pt", tmp_path / "copy.npz", dry_run=True, strict=True)
    assert {step.target.name for step in report.plan.steps} == set(weights)
