"""What reading a checkpoint may cost: one count of the bytes that it really makes, for all its readers together.

A file can say much in few bytes: a list that is repeated, a block that is packed, a view of the same element. Whatever
takes memory that the file does not store byte for byte is charged here, before it is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from converter.errors import FormatError

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11

#: Bytes beyond those that the file stores. With the interpreter and NumPy a process stays below 500 MB (SECURITY.md).
LIMIT = 350_000_000
#: A name is kept so many times (its parts, its sort key, the layer's), beside a record of this many bytes.
FORMS_OF_A_NAME, RECORD = 8, 400
#: A tensor in memory: as it was read, a turned copy of it, and most of the tensor before.
COPIES = 2.6
#: The same of a tensor that is stored as it is, and what its pages and the result take besides.
STORED_COPIES = 4
#: Names, shapes, layers and steps of a tensor.
PER_TENSOR = 2500


class Budget:
    """Of one opened checkpoint, whose files share it. Safe for several threads."""

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        self.path = path
        self.limit = limit
        self.spent = 0
        self._lock = Lock()

    def charge(self, nbytes: int, what: str) -> None:
        """For memory that stays: containers, names, tables. Raises FormatError when it is too much."""
        with self._lock:
            self.check(nbytes, what)
            self.spent += nbytes

    def charge_name(self, name: str | bytes) -> None:
        """For the name of a tensor or group, of which sorting, matching and the report make several forms."""
        self.charge(FORMS_OF_A_NAME * len(name) + RECORD, "the names in it")

    def release(self, nbytes: int) -> None:
        """Give back what was charged."""
        with self._lock:
            self.spent -= nbytes

    @contextmanager
    def lent(self, nbytes: int, what: str) -> Iterator[None]:
        """For memory that is given back: an unpacked block, an expanded tensor. Raises FormatError as `charge`."""
        self.charge(nbytes, what)
        try:
            yield
        finally:
            self.release(nbytes)

    def check(self, nbytes: int, what: str) -> None:
        """Raises FormatError if so many more bytes are too many."""
        if self.spent + nbytes > self.limit:
            raise FormatError(
                self.path,
                f"{what} would take {nbytes} bytes that the file does not store, after {self.spent} for the rest; at"
                f" most {self.limit} are allowed, so that no file can fill the memory",
            )


class Loan:
    """What one piece of work charges bit by bit, such as the objects of a pickle; at its end all is given back."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._charged = 0

    def charge(self, nbytes: int, what: str) -> None:
        self.budget.charge(nbytes, what)
        self._charged += nbytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.budget.release(self._charged)
        self._charged = 0


def names_beyond(count: int, stored: int) -> int:
    """What to charge for so many tensors on their way through the program, beyond the bytes that are stored of them."""
    return max(0, PER_TENSOR * count - stored)


def beyond(nbytes: int, stored: int) -> int:
    """What to charge for a tensor that takes more memory than the file stores of it: packed, expanded or sparse.

    stored: bytes of the file that may justify it. A file of some size is allowed the memory that reading so large a
    plain tensor takes.
    """
    return max(0, int(COPIES * nbytes) - STORED_COPIES * stored)
