"""Move trained weights between deep-learning frameworks, exactly, with none of them installed."""

import importlib
from typing import TYPE_CHECKING, Any

from converter._version import __version__ as __version__

if TYPE_CHECKING:
    from converter.commands.build import architecture, build, scaffold
    from converter.commands.convert import convert, load_into, save
    from converter.commands.infer_schema import infer_schema
    from converter.commands.plan import Plan, plan
    from converter.commands.reuse import freeze, reuse
    from converter.commands.verify import verify
    from converter.endpoints.checkpoint import Weights, open, read
    from converter.errors import (
        CloneWarning,
        ConversionError,
        FormatError,
        MatchError,
        MissingLibraryError,
        OutputError,
        Problem,
        Remedy,
        UnsafeFileError,
    )
    from converter.options import MatchOptions, ReadOptions, ReuseOptions, WriteOptions

#: Module -> the public names that it holds.
_HOMES = {
    "commands.build": ("architecture", "build", "scaffold"),
    "commands.convert": ("convert", "load_into", "save"),
    "commands.infer_schema": ("infer_schema",),
    "commands.plan": ("Plan", "plan"),
    "commands.reuse": ("freeze", "reuse"),
    "commands.verify": ("verify",),
    "endpoints.checkpoint": ("Weights", "open", "read"),
    "errors": (
        "CloneWarning",
        "ConversionError",
        "FormatError",
        "MatchError",
        "MissingLibraryError",
        "OutputError",
        "Problem",
        "Remedy",
        "UnsafeFileError",
    ),
    "options": ("MatchOptions", "ReadOptions", "ReuseOptions", "WriteOptions"),
}
__all__ = [
    "CloneWarning",
    "ConversionError",
    "FormatError",
    "MatchError",
    "MatchOptions",
    "MissingLibraryError",
    "OutputError",
    "Plan",
    "Problem",
    "ReadOptions",
    "Remedy",
    "ReuseOptions",
    "UnsafeFileError",
    "Weights",
    "WriteOptions",
    "architecture",
    "build",
    "convert",
    "freeze",
    "infer_schema",
    "load_into",
    "open",
    "plan",
    "read",
    "reuse",
    "save",
    "scaffold",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `convert --help` needs neither NumPy nor a format."""
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'converter' has no attribute '{name}'")
    return getattr(importlib.import_module(f"converter.{home}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
