"""A plain pickle of arrays: ``pickle.dump`` of a tensor, a list or nested dicts, as Haiku's users save them.

It is read as data by `pickles`: no class is imported, nothing is run, unknown globals are refused.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from converter.core.contents import Contents
from converter.core.tensors import Array
from converter.formats.base import Probe, Reader, ReadOptions
from converter.formats.io.files import let_go, mapped_apart, open_source
from converter.formats.io.source import Parsed
from converter.formats.pickled.arrays import read_pickle, refuse_empty

#: How pickles of protocols 0 and 1 start: a dict, a list, a tuple or a global.
OLD_STARTS = (
    b"(dp",
    b"(lp",
    b"(ip",
    b"}q",
    b"}.",
    b"]q",
    b"].",
    b"(l",
    b"(c",
    b"(]",
    b"(}",
    b"cnumpy",
    b"ccollections",
    b"ccopy_reg",
)


def detect(probe: Probe) -> bool:
    head = probe.head
    if head[:1] == b"\x80":
        return len(head) > 2 and 2 <= head[1] <= 5
    return head.startswith(OLD_STARTS) and probe.tail.rstrip(b"\n").endswith(b".")


class FileReader(Reader):
    """The whole pickle is walked through when it is opened; large arrays in it stay views of the mapped file."""

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self._source = open_source(path)
        try:
            self._pickle = Parsed(self._source, 0, "the pickle")
            let_pass = partial(let_go, self._pickle.whole)
            self._found = read_pickle(self._pickle, path, self._source.budget, let_pass)
            refuse_empty(path, self._found.contents)
        except BaseException:
            self._source.close()
            raise

    @property
    def contents(self) -> Contents:
        return self._found.contents

    def read(self, name: str) -> Array:
        return mapped_apart(self._source, 0, self._pickle.whole, self._found.arrays[name])

    def close(self) -> None:
        self._source.close()
