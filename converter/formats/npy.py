"""NumPy's ``.npy``: one array, or (pickled inside of it) a dict or a list of arrays.

What ``np.save``, ``jnp.save`` and, of TensorFlow's and PyTorch's tensors, ``np.save`` again write. A list
of arrays of one shape and dtype is stacked by ``np.save`` into one array: it reads back as one tensor, and
is written as one. A dict is a pickled 0-d array of one object; it is read as data, nothing of it is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from converter.errors import FormatError, OutputError
from converter.formats import npy_header
from converter.formats.base import Contents, Probe, Reader, ReadOptions
from converter.formats.in_place import InPlaceWriter, raw_bytes
from converter.formats.npy_pickle import pickle_pieces
from converter.formats.pickled_arrays import PickledArrays, read_pickle
from converter.formats.source import FileSource, mapped_apart
from converter.tensors import DTYPES, Array, TensorSpec

WHAT = "the array"


def detect(probe: Probe) -> bool:
    return probe.head.startswith(npy_header.MAGIC)


class FileReader(Reader):
    """Lazy: a plain array is a view of the mapped file, and so are the arrays inside of a pickle, where
    the whole pickle has to be walked through to find them."""

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self._source = FileSource(path)
        try:
            head = self._source.take(0, min(npy_header.HEAD, self._source.size), WHAT)
            self._header = npy_header.parse(path, head, WHAT)
            self._check_size()
        except BaseException:
            self._source.close()
            raise

    @cached_property
    def contents(self) -> Contents:
        if self._header.is_pickle:
            return self._pickled.contents
        assert self._header.dtype is not None
        return Contents(
            (TensorSpec("0", self._header.shape, self._header.dtype.newbyteorder("=")),), container="tensor"
        )

    def read(self, name: str) -> Array:
        if self._header.is_pickle:
            array = self._pickled.arrays[name]
            return mapped_apart(self._source, self._header.start, self._pickle, array)
        return npy_header.to_array(self._header, self._rest(self._header.nbytes))

    def close(self) -> None:
        self._source.close()

    @cached_property
    def _pickle(self) -> Array:
        return self._rest(self._source.size - self._header.start)

    @cached_property
    def _pickled(self) -> PickledArrays:
        return read_pickle(self._pickle.data, self.path)

    def _rest(self, length: int) -> Array:
        return self._source.array(self._header.start, (length,), DTYPES["uint8"], WHAT)

    def _check_size(self) -> None:
        header = self._header
        if header.dtype is None:
            raise FormatError(self.path, f"holds no numbers: its elements are {header.problem}")
        if not header.is_pickle and header.start + header.nbytes != self._source.size:
            raise FormatError(
                self.path,
                f"an array of {header.dtype} and shape {header.shape} needs {header.nbytes} bytes; "
                f"{self._source.size - header.start} stand in the file",
            )


class FileWriter(InPlaceWriter):
    """Streams: every array's place follows from the specs. Raises OutputError for a dtype that NumPy's
    format cannot name (float8, 4 bits) outside of a dict."""

    def __init__(self, path: Path, contents: Contents) -> None:
        specs = contents.specs
        if contents.container == "tensor":
            head = _plain_header(path, specs[0], specs[0].shape)
            places = {specs[0].name: len(head)}
            pieces = {0: head}
        elif contents.container == "list" and _stacks(specs):
            head = _plain_header(path, specs[0], (len(specs), *specs[0].shape))
            places = {spec.name: len(head) + index * spec.nbytes for index, spec in enumerate(specs)}
            pieces = {0: head}
        else:
            pieces, places = _pickled_layout(path, contents)
        super().__init__(path, contents, pieces)
        self._places: Mapping[str, int] = places

    def write(self, name: str, array: Array) -> None:
        self.checked(name, array)
        self.put(self._places[name], raw_bytes(array))


def _stacks(specs: Sequence[TensorSpec]) -> bool:
    """Whether ``np.save`` makes one array of the list."""
    return len({(spec.shape, spec.dtype) for spec in specs}) == 1


def _plain_header(path: Path, spec: TensorSpec, shape: tuple[int, ...]) -> bytes:
    descr = npy_header.descr_of(spec.dtype)
    if descr is None:
        found = f"'{spec.name}' is {spec.dtype}, which an .npy cannot name"
        raise OutputError(f"{path}: {found}. Cast it, or write .safetensors.")
    return npy_header.build(shape, descr)


def _pickled_layout(path: Path, contents: Contents) -> tuple[dict[int, bytes], dict[str, int]]:
    """Offset -> what stands there before the arrays come, and name -> offset of the array's data."""
    shape = (len(contents.specs),) if contents.container == "list" else ()
    pieces, places = {0: npy_header.build(shape, "|O")}, {}
    end = len(pieces[0])
    for piece in pickle_pieces(path, contents):
        if isinstance(piece, TensorSpec):
            places[piece.name] = end
            end += piece.nbytes
        else:
            pieces[end] = piece
            end += len(piece)
    return pieces, places
