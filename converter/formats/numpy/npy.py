"""NumPy's ``.npy``: one array, or (pickled inside of it) a dict or a list of arrays.

What ``np.save``, ``jnp.save`` and, of TensorFlow's and PyTorch's tensors, ``np.save`` again write. A list
of arrays of one shape and dtype is stacked by ``np.save`` into one array: it reads back as one tensor, and
is written as one. A dict is a pickled 0-d array of one object; it is read as data, nothing of it is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import count
from pathlib import Path

from converter.core.contents import Contents
from converter.core.tensors import DTYPES, Array, DType, TensorSpec
from converter.errors import FormatError, OutputError
from converter.formats.base import Probe, Reader, ReadOptions
from converter.formats.io.files import let_go, mapped_apart, open_source
from converter.formats.io.in_place import InPlaceWriter
from converter.formats.io.source import Parsed, Source
from converter.formats.numpy import npy_header
from converter.formats.numpy.npy_header import Header
from converter.formats.numpy.npy_pickle import pickle_pieces
from converter.formats.pickled.arrays import PickledArrays, read_pickle, refuse_empty


def detect(probe: Probe) -> bool:
    return probe.head.startswith(npy_header.MAGIC)


class FileReader(Reader):
    """Lazy: a plain array is a view of the mapped file, and so are the arrays inside of a pickle, where
    the whole pickle has to be walked through to find them.

    Several plain arrays one after the other (``np.save`` again and again into one open file, as Equinox's
    ``tree_serialise_leaves`` does) are a list.
    """

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self._source = open_source(path)
        try:
            self._first = _header_at(self._source, 0)
            self._plain = {} if self._first.is_pickle else dict(_plain_arrays(self._source, self._first))
        except BaseException:
            self._source.close()
            raise

    @cached_property
    def contents(self) -> Contents:
        if self._first.is_pickle:
            return self._pickled.contents
        specs = tuple(TensorSpec(name, header.shape, _native(header)) for name, (_, header) in self._plain.items())
        return Contents(specs, container="tensor" if len(specs) == 1 else "list")

    def read(self, name: str) -> Array:
        if self._first.is_pickle:
            array = self._pickled.arrays[name]
            return mapped_apart(self._source, self._first.start, self._pickle.whole, array)
        offset, header = self._plain[name]
        raw = self._source.array(offset + header.start, (header.nbytes,), DTYPES["uint8"], f"'{name}'")
        return npy_header.to_array(header, raw)

    def close(self) -> None:
        self._source.close()

    @cached_property
    def _pickle(self) -> Parsed:
        return Parsed(self._source, self._first.start, "the pickle")

    @cached_property
    def _pickled(self) -> PickledArrays:
        found = read_pickle(self._pickle, self.path, self._source.budget, partial(let_go, self._pickle.whole))
        refuse_empty(self.path, found.contents)
        return found


def _header_at(source: Source, offset: int) -> Header:
    what = "the array" if offset == 0 else f"the array at byte {offset}"
    head = source.take(offset, min(npy_header.HEAD, source.size - offset), what)
    return npy_header.parse(source.path, head, what)


def _plain_arrays(source: Source, header: Header) -> Iterator[tuple[str, tuple[int, Header]]]:
    """Name -> where the array's header starts, and the header; for each array of the file."""
    offset = 0
    for index in count():
        if header.dtype is None or header.is_pickle:
            elements = header.problem or "objects after an array"
            raise FormatError(source.path, f"holds no numeric values: the elements at byte {offset} are {elements}")
        end = offset + header.start + header.nbytes
        rest = source.size - offset - header.start
        if end > source.size or (
            end < source.size and source.take(end, min(6, source.size - end), "") != npy_header.MAGIC
        ):
            what = f"an array of {header.dtype} and shape {header.shape}"
            raise FormatError(source.path, f"{what} needs {header.nbytes} bytes; {rest} are in the file")
        yield str(index), (offset, header)
        if end == source.size:
            return
        offset, header = end, _header_at(source, end)


def _native(header: Header) -> DType:
    assert header.dtype is not None
    return header.dtype.newbyteorder("=")


class FileWriter(InPlaceWriter):
    """Streams: every array's position follows from the specs. Raises OutputError for a dtype that NumPy's
    format cannot name (float8, 4 bits) outside of a dict."""

    def __init__(self, path: Path, contents: Contents) -> None:
        specs = contents.specs
        if contents.container == "tensor":
            head = _plain_header(path, specs[0], specs[0].shape)
            offsets = {specs[0].name: len(head)}
            pieces = {0: head}
        elif contents.container == "list" and _stacks(specs):
            head = _plain_header(path, specs[0], (len(specs), *specs[0].shape))
            offsets = {spec.name: len(head) + index * spec.nbytes for index, spec in enumerate(specs)}
            pieces = {0: head}
        else:
            pieces, offsets = _pickled_layout(path, contents)
        super().__init__(path, contents, pieces)
        self._offsets: Mapping[str, int] = offsets

    def write(self, name: str, array: Array) -> None:
        self.checked(name, array)
        self.fill(self._offsets[name], array)


def _stacks(specs: Sequence[TensorSpec]) -> bool:
    """Whether ``np.save`` makes one array of the list."""
    return len({(spec.shape, spec.dtype) for spec in specs}) == 1


def _plain_header(path: Path, spec: TensorSpec, shape: tuple[int, ...]) -> bytes:
    descr = npy_header.descr_of(spec.dtype)
    if descr is None:
        problem = f"'{spec.name}' is {spec.dtype}, which an .npy cannot name"
        raise OutputError(f"{path}: {problem}. Cast it, or write .safetensors.")
    return npy_header.build(shape, descr)


def _pickled_layout(path: Path, contents: Contents) -> tuple[dict[int, bytes], dict[str, int]]:
    """Offset -> what stands there before the arrays come, and name -> offset of the array's data."""
    shape = (len(contents.specs),) if contents.container == "list" else ()
    pieces, offsets = {0: npy_header.build(shape, "|O")}, {}
    end = len(pieces[0])
    for piece in pickle_pieces(path, contents):
        if isinstance(piece, TensorSpec):
            offsets[piece.name] = end
            end += piece.nbytes
        else:
            pieces[end] = piece
            end += len(piece)
    return pieces, offsets
