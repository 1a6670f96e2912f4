"""Low-rank adapters by a schema, and bare tensors without a template; see also test_hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import ok
from tests.parity.across import anew
from tests.parity.lora_cases import BARE, LORA, LORA_NAMES


@pytest.mark.parametrize("target", ["torch", "linen", "gluon"])
@pytest.mark.parametrize("source", ["torch", "gluon"])
def test_bare_tensors_without_a_template(
    source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    anew(BARE, source, BARE, target, tmp_path, lambda *words: ok(capsys, *words))


@pytest.mark.parametrize(
    ("source", "target"),
    [("torch", "keras"), ("torch", "linen"), ("torch", "gluon"), ("nnx", "torch"), ("nnx", "keras"), ("nnx", "gluon")],
)
def test_adapters_by_a_schema(source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each framework under its own names; Flax under those of nnx where that is where they come from."""
    names = {"torch": LORA_NAMES["torch"], **({"flax": LORA_NAMES["nnx"]} if source == "nnx" else {})}
    layers = [
        {
            "path": LORA_NAMES["linen"][i],
            "kind": "linear",
            "names": {framework: [row[i]] for framework, row in names.items()},
        }
        for i in (1, 0, 2)  # the order of the Keras model, which its file counts by
    ]
    anew(LORA, source, LORA, target, tmp_path, lambda *words: ok(capsys, *words), layers)
