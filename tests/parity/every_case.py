"""All cases, module by module: a case is declared once, in one of the modules ``*_cases``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.parity.sides import Case

#: Names of modules, the quick ones first.
MODULES = sorted(
    (path.stem for path in Path(__file__).parent.glob("*_cases.py")),
    key=lambda name: (name in ("conv_cases", "recurrent_cases", "attention_cases", "transformer_cases"), name),
)
CASES: Mapping[str, Sequence[Case]] = {
    name: tuple(importlib.import_module(f"tests.parity.{name}").CASES) for name in MODULES
}
