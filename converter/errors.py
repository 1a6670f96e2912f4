"""What can go wrong, said in one sentence: what, where, expected, got, and the next step."""

from __future__ import annotations

import os
from collections.abc import Sequence


class ConversionError(Exception):
    """Any failure of a conversion that the user can act on (exit code 1)."""


class FormatError(ConversionError):
    """A file that cannot be read as what it claims to be: truncated, damaged or hostile.

    The message is ``FILE: REASON``; the reason names the place inside the file where there is one.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(f"{self.path}: {reason}")


class UnsafeFileError(FormatError):
    """A file that asks for code to be run, or for a path outside of itself. It was not obeyed."""


class OutputError(ConversionError):
    """The result cannot be written: it exists, the folder is missing, or writing is not allowed."""


class MissingLibraryError(ConversionError):
    """An optional library is needed for this one format or net, and is not installed."""


class MatchError(ConversionError):
    """Layers that could not be paired. Holds every problem of the conversion, not just the first."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class CloneWarning(UserWarning):
    """A live net that is set otherwise than its source, so that equal weights are not an equal function.

    layers: their paths in the clone. property: such as "BatchNorm epsilon". source, target: the two values.
    """

    def __init__(
        self, message: str, layers: Sequence[str], property: str, source: float | str | bool, target: float | str | bool
    ) -> None:
        self.layers = tuple(layers)
        self.property = property
        self.source = source
        self.target = target
        super().__init__(message)
