"""Move trained weights between deep-learning frameworks, exactly, with none of them installed."""

import importlib
from typing import TYPE_CHECKING, Any

from converter._version import __version__ as __version__

if TYPE_CHECKING:
    from converter.commands.build import architecture as architecture
    from converter.commands.build import build as build
    from converter.commands.build import scaffold as scaffold
    from converter.commands.convert import convert as convert
    from converter.commands.convert import load_into as load_into
    from converter.commands.convert import save as save
    from converter.commands.infer_schema import infer_schema as infer_schema
    from converter.commands.live_training import load_training_into as load_training_into
    from converter.commands.live_training import save_training as save_training
    from converter.commands.make_plan import plan as plan
    from converter.commands.plan import Plan as Plan
    from converter.commands.reuse import freeze as freeze
    from converter.commands.reuse import reuse as reuse
    from converter.commands.verify import verify as verify
    from converter.endpoints.checkpoint import Weights as Weights
    from converter.endpoints.checkpoint import open as open
    from converter.endpoints.checkpoint import read as read
    from converter.errors import CloneWarning as CloneWarning
    from converter.errors import ConversionError as ConversionError
    from converter.errors import FormatError as FormatError
    from converter.errors import MatchError as MatchError
    from converter.errors import MissingLibraryError as MissingLibraryError
    from converter.errors import OutputError as OutputError
    from converter.errors import Problem as Problem
    from converter.errors import Remedy as Remedy
    from converter.errors import UnsafeFileError as UnsafeFileError
    from converter.options import MatchOptions as MatchOptions
    from converter.options import ReadOptions as ReadOptions
    from converter.options import ReuseOptions as ReuseOptions
    from converter.options import TrainingOptions as TrainingOptions
    from converter.options import WriteOptions as WriteOptions

#: Module -> the public names that it holds.
_HOMES = {
    "commands.build": ("architecture", "build", "scaffold"),
    "commands.convert": ("convert", "load_into", "save"),
    "commands.infer_schema": ("infer_schema",),
    "commands.live_training": ("load_training_into", "save_training"),
    "commands.make_plan": ("plan",),
    "commands.plan": ("Plan",),
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
    "options": ("MatchOptions", "ReadOptions", "ReuseOptions", "TrainingOptions", "WriteOptions"),
}
__all__ = [name for names in _HOMES.values() for name in names]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `convert --help` needs neither NumPy nor a format."""
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'converter' has no attribute '{name}'")
    return getattr(importlib.import_module(f"converter.{home}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
