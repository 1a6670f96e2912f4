"""Move trained weights between deep-learning frameworks, exactly, with none of them installed."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converter.api import convert, load_into, save
    from converter.building import architecture, build, scaffold
    from converter.certificate import check_certificate
    from converter.equality import compare
    from converter.errors import (
        CloneWarning,
        ConversionError,
        FormatError,
        MatchError,
        MissingLibraryError,
        OutputError,
        UnsafeFileError,
    )
    from converter.freezing import freeze
    from converter.partial import reuse
    from converter.proof import verify
    from converter.weights import Weights, read

__all__ = [
    "CloneWarning",
    "ConversionError",
    "FormatError",
    "MatchError",
    "MissingLibraryError",
    "OutputError",
    "UnsafeFileError",
    "Weights",
    "architecture",
    "build",
    "check_certificate",
    "compare",
    "convert",
    "freeze",
    "load_into",
    "read",
    "reuse",
    "save",
    "scaffold",
    "verify",
]
__version__ = "0.1.0"

_HOMES = {
    "architecture": "building",
    "build": "building",
    "check_certificate": "certificate",
    "compare": "equality",
    "convert": "api",
    "freeze": "freezing",
    "load_into": "api",
    "read": "weights",
    "reuse": "partial",
    "save": "api",
    "scaffold": "building",
    "verify": "proof",
    "Weights": "weights",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `convert --help` needs neither NumPy nor a format."""
    if name not in __all__:
        raise AttributeError(f"module 'converter' has no attribute '{name}'")
    return getattr(importlib.import_module(f"converter.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
