"""Move trained weights between deep-learning frameworks, exactly, with none of them installed."""

from converter.api import convert, load_into
from converter.errors import ConversionError, FormatError, MatchError, MissingLibraryError, OutputError, UnsafeFileError
from converter.weights import Weights, read

__all__ = [
    "ConversionError",
    "FormatError",
    "MatchError",
    "MissingLibraryError",
    "OutputError",
    "UnsafeFileError",
    "Weights",
    "convert",
    "load_into",
    "read",
]
__version__ = "0.1.0"
