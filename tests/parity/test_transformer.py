"""What a transformer asks for beside its layers (see test_hub): both copies of a tied tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mxnet
import pytest
import torch

from tests.command import ok
from tests.parity.sides import SIDES, by_clone, to_numpy
from tests.parity.transformer_cases import ENCODER

#: The flavours whose files hold a tied tensor twice.
TWICE: Mapping[str, Callable[[Path], Any]] = {"torch": torch.load, "gluon": lambda path: mxnet.nd.load(str(path))}


@pytest.mark.parametrize("source", ENCODER.nets)
@pytest.mark.parametrize("target", TWICE)
def test_both_copies_of_a_tied_tensor(
    source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A net loads both into one tensor, so that the second would hide a wrong first one."""
    by_clone(ENCODER, source, target, tmp_path, lambda *words: ok(capsys, *words))
    written = TWICE[target](tmp_path / f"result{SIDES[target].ending}")
    assert to_numpy(written["emb.weight"]).tobytes() == to_numpy(written["out.weight"]).tobytes()
