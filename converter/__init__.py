"""Move trained weights between deep-learning frameworks, exactly, with none of them installed."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converter.commands.build import architecture, build, scaffold
    from converter.commands.certificate import check_certificate
    from converter.commands.convert import convert, load_into, save
    from converter.commands.freeze import freeze
    from converter.commands.reuse import reuse
    from converter.commands.verify_files import compare
    from converter.commands.verify_nets import verify
    from converter.endpoints.checkpoint import Weights, read
    from converter.errors import (
        CloneWarning,
        ConversionError,
        FormatError,
        MatchError,
        MissingLibraryError,
        OutputError,
        UnsafeFileError,
    )

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
    "architecture": "commands.build",
    "build": "commands.build",
    "check_certificate": "commands.certificate",
    "compare": "commands.verify_files",
    "convert": "commands.convert",
    "freeze": "commands.freeze",
    "load_into": "commands.convert",
    "read": "endpoints.checkpoint",
    "reuse": "commands.reuse",
    "save": "commands.convert",
    "scaffold": "commands.build",
    "verify": "commands.verify_nets",
    "Weights": "endpoints.checkpoint",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `convert --help` needs neither NumPy nor a format."""
    if name not in __all__:
        raise AttributeError(f"module 'converter' has no attribute '{name}'")
    return getattr(importlib.import_module(f"converter.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
