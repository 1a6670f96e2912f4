"""The state of a gluon Trainer, ``mlp.states``: a pickle of (slots by number, the optimizer), beside ``mlp.params``.

Source: ``Trainer.save_states`` of gluon/trainer.py, ``Updater.get_states`` of optimizer/optimizer.py. It is read as
data, by the machine that reads all pickles, and written as MXNet loads it: an NDArray is one record of `record`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from converter.core.contents import Contents, Ref
from converter.core.tensors import Array, TensorSpec
from converter.errors import FormatError, OutputError
from converter.formats.base import StateTensor
from converter.formats.io.budget import Loan
from converter.formats.io.files import open_source
from converter.formats.io.in_place import InPlaceWriter
from converter.formats.io.source import Parsed
from converter.formats.mxnet import record as mxnet_record
from converter.formats.mxnet.params import WRITABLE
from converter.formats.pickle.load import COLLECTION_GLOBALS, Opaque, inert_class, load
from converter.formats.pickle.write import class_of, plain, text
from converter.formats.pickled.arrays import MXNET_ARRAYS, MxnetShell

__all__ = ["SUFFIX", "StatesWriter", "TrainerStates", "read_states", "states_beside"]

SUFFIX = ".states"
#: The module of the optimizers' classes.
_MODULE = "mxnet.optimizer.optimizer"


class TrainerStates(msgspec.Struct, frozen=True):
    """slots: number of a parameter -> its arrays. name: of the optimizer's class, "" where the file has none; settings:
    its attributes that are numbers, texts, None, or dicts of such.
    """

    path: Path
    slots: Mapping[int, tuple[StateTensor, ...]]
    name: str
    settings: Mapping[str, Any]


def states_beside(path: Path) -> Path:
    """``mlp.params`` -> ``mlp.states``."""
    return path.with_name(path.name.removesuffix(".params") + SUFFIX)


def read_states(path: Path) -> TrainerStates:
    """Nothing of it is run. The arrays are views of the file's bytes. Raises FormatError."""
    source = open_source(path)
    try:
        data = Parsed(source, 0, "the pickle")
        loan = Loan(source.budget)
        known = {**COLLECTION_GLOBALS, **dict.fromkeys(MXNET_ARRAYS, partial(MxnetShell, source.budget))}
        value, size = load(data, path, known, unknown=inert_class, loan=loan)
        if size != len(data):
            raise FormatError(path, f"goes on for {len(data) - size} bytes after its pickle")
    except BaseException:
        source.close()
        raise
    states, optimizer = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
    if not isinstance(states, dict) or not all(type(number) is int for number in states):
        raise FormatError(path, "is no state of a gluon Trainer, which numbers the parameters")
    slots = {number: tuple(_arrays(path, number, item)) for number, item in states.items()}
    name = optimizer.name.split()[-1] if isinstance(optimizer, Opaque) else ""
    settings = optimizer.attributes if isinstance(optimizer, Opaque) else {}
    return TrainerStates(path, slots, name, {str(key): item for key, item in settings.items() if _is_plain(item)})


def _arrays(path: Path, number: int, item: object) -> list[StateTensor]:
    each = item if isinstance(item, tuple) else () if item is None else (item,)
    found = []
    for place, array in enumerate(each):
        if not isinstance(array, np.ndarray):
            raise FormatError(path, f"the state of parameter {number} holds a {type(array).__name__}, and not an array")
        spec = TensorSpec(f"{number}/{place}", array.shape, array.dtype)
        found.append(StateTensor(spec, partial(np.asarray, array)))
    return found


def _is_plain(item: object, depth: int = 0) -> bool:
    if isinstance(item, dict) and depth < 4:
        return all(isinstance(key, str | int) and _is_plain(value, depth + 1) for key, value in item.items())
    if isinstance(item, tuple) and depth < 4:
        return all(_is_plain(value, depth + 1) for value in item)
    return item is None or isinstance(item, bool | int | float | str)


class StatesWriter(InPlaceWriter):
    """``contents.tree``: (slots: number -> None, a Ref or a tuple of them; the name of the class; its attributes).

    Every array has its position in the pickle before it is known. Raises OutputError for a dtype that MXNet has not.
    """

    def __init__(self, path: Path, contents: Contents) -> None:
        for spec in contents.specs:
            if spec.dtype.name not in WRITABLE:
                raise OutputError(f"{path}: '{spec.name}' is {spec.dtype}, which MXNet cannot load. Cast it.")
        layout = _Layout(contents)
        super().__init__(path, contents, layout.pieces)
        self._offsets = layout.offsets

    def write(self, name: str, array: Array) -> None:
        self.checked(name, array)
        self.fill(self._offsets[name], array)


class _Layout:
    """The bytes of the pickle between the arrays, each with its offset."""

    def __init__(self, contents: Contents) -> None:
        self._specs = contents.by_name
        self.pieces: dict[int, bytes] = {}
        self.offsets: dict[str, int] = {}
        self._end = 0
        slots, name, settings = contents.tree
        self._put(b"\x80\x04}(")
        for number, item in slots.items():
            self._put(plain(number))
            self._item(item)
        self._put(b"u" + class_of(_MODULE, name) + b")\x81" + plain(dict(settings)) + b"b\x86.")

    def _put(self, data: bytes) -> None:
        self.pieces[self._end] = data
        self._end += len(data)

    def _item(self, item: object) -> None:
        if isinstance(item, tuple):
            self._put(b"(")
            for inner in item:
                self._item(inner)
            self._put(b"t")
        elif isinstance(item, Ref):
            self._array(self._specs[item.name])
        else:
            self._put(b"N")

    def _array(self, spec: TensorSpec) -> None:
        """``NDArray(None)`` with the state ``{'handle': bytearray(record)}``."""
        magic = mxnet_record.V2 if spec.shape else mxnet_record.V3
        header = mxnet_record.header(spec.shape, spec.dtype, magic)
        length = len(header) + spec.nbytes
        size = b"B" + struct.pack("<I", length) if length < 1 << 32 else b"\x8e" + struct.pack("<Q", length)
        empty = class_of("mxnet.ndarray.ndarray", "NDArray") + b"N\x85R"
        self._put(empty + b"}" + text("handle") + class_of("builtins", "bytearray") + size + header)
        self.offsets[spec.name] = self._end
        self._end += spec.nbytes
        self._put(b"\x85Rsb")
