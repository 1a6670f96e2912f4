"""TensorFlow checkpoints (TensorBundle): ``PREFIX.index`` and ``PREFIX.data-00000-of-00001``.

Names are the checkpoint's keys as they stand. With an object graph (TensorFlow 2, tf_keras) they are
paths of attributes, ``hidden/kernel/.ATTRIBUTES/VARIABLE_VALUE``, in the order of the program;
without one (TensorFlow 1) they are the names of the variables, in natural order.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from converter.core.contents import Contents, LeftOut
from converter.core.natural_order import natural_key
from converter.core.tensors import Array, TensorSpec
from converter.errors import FormatError
from converter.formats.base import Opening, Probe, Reader, ReadOptions
from converter.formats.io.files import Beside
from converter.formats.tensorflow.bundle import Bundle
from converter.formats.tensorflow.bundle_writer import FileWriter
from converter.formats.tensorflow.object_graph import (
    AVERAGE,
    GRAPH_KEY,
    OPTIMIZER,
    SUFFIX,
    ObjectGraph,
    averages,
    why_left_out,
)
from converter.formats.tensorflow.paths import STATE_FILE, find_prefix, indexes, prefix_of, state_of
from converter.formats.tensorflow.protowire import WireError
from converter.formats.tensorflow.table import is_table
from converter.formats.tensorflow.types import DTYPE_OF_CODE

__all__ = ["FileReader", "FileWriter", "detect"]


def detect(probe: Probe) -> bool:
    """An index, a data file beside one, a prefix, a folder with checkpoints, or its state file."""
    try:
        if probe.is_dir:
            if probe.path.name and prefix_of(probe.path):
                return True
            return bool(indexes(probe.path)) and any(is_table(_tail(probe.path, name)) for name in indexes(probe.path))
        if probe.path.name == STATE_FILE and state_of(probe.path.parent) is not None:
            return bool(indexes(probe.path.parent))
        return prefix_of(probe.path) is not None and (not probe.path.name.endswith(".index") or is_table(probe.tail))
    except (OSError, ValueError):
        return False


def _list_of(key: str) -> str:
    return key.removesuffix(SUFFIX).rpartition("/")[0]


def _tail(folder: Path, prefix: str) -> bytes:
    return Probe(folder / f"{prefix}.index").tail


class FileReader(Reader):
    """Reads the index at once, tensors when asked: a read-only view of the mapped data file.

    A tensor that was saved in slices is put together. Checksums are verified unless
    ``options.checksums`` is False. ``options.key`` is what averages of variables are called (TensorFlow 1): then the
    variables are read as their averages.
    """

    takes = frozenset({"step", "key"})

    dtypes = tuple(dtype.name for dtype in DTYPE_OF_CODE.values())
    parallel = True

    def __init__(self, path: Path, options: ReadOptions = ReadOptions(), files: Beside | None = None) -> None:
        """files: of the checkpoint that the path is only a part of."""
        super().__init__(path, options)
        self._bundle = Bundle(find_prefix(path, options.step), files or Beside(path), options.checksums)
        #: Variable -> its average.
        self._averages = averages(self._bundle.entries, options.key or AVERAGE)
        if options.key is not None and not self._averages:
            self.close()
            known = f" There is '{AVERAGE}'." if averages(self._bundle.entries, AVERAGE) else ""
            raise FormatError(self.path, f"no variable has an average '{options.key}'.{known}")

    @property
    def files(self) -> tuple[Path, ...]:
        return self._bundle.files

    @property
    def opening(self) -> Opening:
        return Opening(FileReader, self._bundle.prefix.absolute(), self.options)

    def close(self) -> None:
        self._bundle.close()

    @cached_property
    def contents(self) -> Contents:
        return Contents(
            specs=tuple(self._spec(name) for name in self._names if name not in self._reasons),
            labels=self._labels,
            links=self._links,
            left_out=tuple(LeftOut(name, why) for name, why in self._reasons.items()),
        )

    def read(self, name: str) -> Array:
        return self._bundle.read(self._averages.get(name, name) if self.options.key else name)

    def _spec(self, name: str) -> TensorSpec:
        entry = self._bundle.entries[name]
        assert entry.dtype is not None, "what is not numeric is left out"
        return TensorSpec(name, entry.shape, entry.dtype)

    @cached_property
    def _graph(self) -> ObjectGraph | None:
        if GRAPH_KEY not in self._bundle.entries:
            return None
        try:
            return ObjectGraph(self._bundle.read_text(GRAPH_KEY), self._bundle.budget)
        except WireError as error:
            raise FormatError(self._bundle.prefix, f"'{GRAPH_KEY}' is damaged: {error}") from None

    @cached_property
    def _names(self) -> list[str]:
        """In the order of the object graph; what it does not know follows in natural order."""
        known = [key for key, _ in self._graph.keys_in_order()] if self._graph else []
        rest = sorted(self._bundle.entries, key=natural_key)
        return [name for name in dict.fromkeys([*known, *rest]) if name in self._bundle.entries]

    @cached_property
    def _reasons(self) -> Mapping[str, str]:
        """name -> why it is not a weight."""
        optimizer = self._graph.optimizer_keys() if self._graph else set()
        of_average = "an average, which --key {0} takes" if self.options.key is None else "taken for its variable"
        reasons = {name: of_average.format(AVERAGE) for name in self._averages.values()}
        reasons |= self._again()
        for name in self._names:
            entry = self._bundle.entries[name]
            why = OPTIMIZER if name in optimizer else why_left_out(name, self._bundle.entries)
            if why is None and entry.dtype is None:
                why = f"holds {entry.type_name}, not numbers"
            if why is not None:
                reasons[name] = why
        return reasons

    @cached_property
    def _links(self) -> Mapping[str, str]:
        if self._graph is None:
            return {}
        weights = sorted(name for name in self._names if name not in self._reasons)

        # The root under a second name ("" as path) begins no key, and says nothing.
        def holds_weights(path: str) -> bool:
            at = bisect_left(weights, path + "/")
            return at < len(weights) and weights[at].startswith(path + "/")

        return {other: path for other, path in self._graph.other_paths().items() if holds_weights(path)}

    @cached_property
    def _in_lists(self) -> Mapping[str, str]:
        """The variables of lists (`model.export` of Keras 3 keeps them so): key -> full name in the program."""
        keys = self._graph.keys_in_order() if self._graph else ()
        return {key: name for key, name in keys if re.search(rf"(^|/)\d+{re.escape(SUFFIX)}$", key) and "/" in name}

    def _again(self) -> Mapping[str, str]:
        """Variables of lists that another list holds, too, under the same full name and with the same bytes."""
        first: dict[object, str] = {}
        again = {}
        for key, full_name in self._in_lists.items():
            entry = self._bundle.entries.get(key)
            pieces = [(piece.size, piece.crc) for _, piece in entry.parts] if entry else []
            one = first.setdefault((full_name, entry.shape if entry else (), *pieces), key)
            if pieces and _list_of(one) != _list_of(key):
                again[key] = f"the same as {one}"
        return again

    @cached_property
    def _labels(self) -> Mapping[str, str]:
        """Object -> its name in the program, which the variable's full name ``mlp/hidden/kernel`` tells; of a variable
        in a list, where nothing else is named so, the full name itself.
        """
        lists = {key: name for key, name in self._in_lists.items() if key not in self._reasons}
        count = Counter(lists.values())
        labels = {key.removesuffix(SUFFIX): name for key, name in lists.items() if count[name] == 1}
        names_of: dict[str, set[str]] = {}
        for key, full_name in self._graph.keys_in_order() if self._graph else ():
            group, _, _ = key.removesuffix(SUFFIX).rpartition("/")
            parts = full_name.split("/")
            if key not in self._reasons and group and len(parts) > 1:
                names_of.setdefault(group, set()).add(parts[-2])
        # A list such as `variables` holds those of many layers, and is called like none of them.
        return labels | {group: name for group, names in names_of.items() if len(names) == 1 for name in names}
