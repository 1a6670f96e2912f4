"""MXNet ``.params``: what ``Block.save_parameters``, ``export``, ``mx.nd.save`` and (1.x) ``npx.save`` write.

Format: ``NDArray::Save(Stream*, vector<NDArray>, vector<string>)`` in ``src/ndarray/ndarray.cc``: u64
0x112, u64 0, u64 n, n records (see `mxnet.record`), u64 number of names (n, or 0 for a list), then the
names as {u64 length, bytes}. ``npx.save`` of one array writes a list of one, read here as a tensor.

Which record version is written. MXNet 1.9.1 refuses V2 in ``npx.load``, and V3 outside of NumPy mode
(``npx.set_np()``); only ``load_parameters`` takes V2 in both modes, and only where a name has a dot. So a clone's
version is kept. Without one, the parameters of a net, known by their names, are written as V2: structural
(``0.weight``), of a graph (``arg:``, ``aux:``) or prefixed (``dense0_weight``). Everything else (the chapter's tensor,
list and dict, a layer saved alone) and what V2 cannot hold (0-d arrays) is written as V3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from converter.core.contents import Container, Contents, LeftOut
from converter.core.tensors import Array, TensorSpec
from converter.errors import FormatError, OutputError
from converter.formats.base import Probe, Reader, ReadOptions
from converter.formats.io.files import Beside, open_source
from converter.formats.io.in_place import InPlaceWriter
from converter.formats.io.json import read_json
from converter.formats.io.source import Source
from converter.formats.mxnet import record as mxnet_record
from converter.formats.mxnet.record import V2, V3, Record

MAGIC = 0x112
#: Bytes of memory for a record without data and its name; so many are charged at once.
_RECORD, _STEP = 800, 1000
NO_DATA = "an array without shape and data"

#: Names that only the parameters of a net have.
OF_A_NET = re.compile(r".*\.|arg:|aux:|(?:.*_)?[a-z]+[0-9]+_.*(weight|bias|gamma|beta|alpha|mean|var|parameters)$")
#: What MXNet 1.9.1 loads; it has no flag for the other integers.
WRITABLE = frozenset("bool int8 int32 int64 uint8 float16 float32 float64 bfloat16".split())


def detect(probe: Probe) -> bool:
    return probe.head[:16] == _u64(MAGIC, 0)


class FileReader(Reader):
    """Lazy: only the headers of the records are read, each array as a view of the mapped file."""

    dtypes = tuple(mxnet_record.FLAGS.values())
    parallel = True

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self._source = open_source(path)
        try:
            self._records, self._container = _read_records(self._source)
        except BaseException:
            self._source.close()
            raise

    @cached_property
    def contents(self) -> Contents:
        filled = {name: record for name, record in self._records.items() if record.parts}
        graph = symbol_beside(self.path)
        users = operators(graph) if graph else {}
        order = {name: index for index, name in enumerate(users)}
        names = sorted(filled, key=lambda name: order.get(_variable(name), len(order)))
        return Contents(
            tuple(TensorSpec(name, filled[name].shape, filled[name].dtype) for name in names),
            classes={name: users[_variable(name)] for name in names if _variable(name) in users},
            container=self._container,
            left_out=tuple(LeftOut(name, NO_DATA) for name in self._records if name not in filled),
            writer=next((record.writer for record in self._records.values()), ""),
        )

    @property
    def files(self) -> tuple[Path, ...]:
        graph = symbol_beside(self.path)
        return (self.path, graph) if graph else (self.path,)

    def read(self, name: str) -> Array:
        return mxnet_record.read(self._source, self._records[name], f"'{name}'")

    def close(self) -> None:
        self._source.close()


class FileWriter(InPlaceWriter):
    """Streams: every record's position follows from the specs. Raises OutputError for a dtype that MXNet has not."""

    def __init__(self, path: Path, contents: Contents) -> None:
        for spec in contents.specs:
            if spec.dtype.name not in WRITABLE:
                problem = f"'{spec.name}' is {spec.dtype}, which MXNet cannot load"
                raise OutputError(f"{path}: {problem}. Cast it, or choose another format.")
        magic = _version(contents)
        pieces = {0: _u64(MAGIC, 0, len(contents.specs))}
        end = len(pieces[0])
        self._offsets: dict[str, int] = {}
        for spec in contents.specs:
            pieces[end] = mxnet_record.header(spec.shape, spec.dtype, magic)
            self._offsets[spec.name] = end + len(pieces[end])
            end = self._offsets[spec.name] + spec.nbytes
        pieces[end] = _name_table(contents)
        super().__init__(path, contents, pieces)

    def write(self, name: str, array: Array) -> None:
        self.checked(name, array)
        self.fill(self._offsets[name], array)


def _variable(name: str) -> str:
    """Its name in the graph."""
    return re.sub("^(arg|aux):", "", name)


def _version(contents: Contents) -> int:
    """That of the clone; without one V2 for the parameters of a net. V2 holds no 0-d array."""
    of_net = contents.container == "dict" and any(OF_A_NET.match(spec.name) for spec in contents.specs)
    known = contents.writer in (*mxnet_record.WRITERS.values(), mxnet_record.OLDEST)
    is_old = contents.writer != mxnet_record.WRITERS[V3] if known else of_net
    return V2 if is_old and all(spec.shape for spec in contents.specs) else V3


def _name_table(contents: Contents) -> bytes:
    names = [spec.name.encode() for spec in contents.specs] if contents.container == "dict" else []
    return _u64(len(names)) + b"".join(_u64(len(name)) + name for name in names)


def _u64(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


def _read_records(source: Source) -> tuple[dict[str, Record], Container]:
    def number(offset: int, what: str) -> int:
        return int.from_bytes(source.take(offset, 8, what), "little")

    if source.take(0, 16, "the header") != _u64(MAGIC, 0):
        raise FormatError(source.path, "does not start as an MXNet file does (0x112, 0)")
    count = number(16, "the number of arrays")
    records: list[Record] = []
    end = 24
    while len(records) < count:
        if len(records) % _STEP == 0:
            source.budget.charge(_RECORD * _STEP, "the headers of its arrays")
        records.append(mxnet_record.parse(source, end, f"array {len(records)} of {count}"))
        end = records[-1].end
    named = number(end, "the number of names")
    end += 8
    if named not in (0, count):
        raise FormatError(source.path, f"has {count} arrays but {named} names (byte {end - 8})")
    names: list[str] = []
    for index in range(named):
        length = number(end, f"the length of name {index}")
        raw = source.take(end + 8, length, f"name {index}")
        end += 8 + length
        try:
            names.append(raw.decode())
        except UnicodeDecodeError as error:
            raise FormatError(source.path, f"name {index} is not UTF-8: {raw[:40]!r}") from error
    if end != source.size:
        raise FormatError(source.path, f"goes on for {source.size - end} bytes after its end")
    container: Container = "dict" if named else "tensor" if count == 1 else "list"
    by_name = dict(zip(names or map(str, range(count)), records, strict=True))
    if len(by_name) < count:
        raise FormatError(source.path, f"has {count} arrays but only {len(by_name)} different names")
    return by_name, container


def symbol_beside(path: Path) -> Path | None:
    """The graph that belongs to ``net-0000.params``, if it lies there."""
    match = re.fullmatch(r"(.+)-\d{4}\.params", path.name)
    graph = path.with_name(f"{match[1]}-symbol.json") if match else None
    return graph if graph is not None and graph.is_file() else None


def operators(path: Path) -> Mapping[str, str]:
    """Name of each variable -> the operator that uses it, in the order of use; ``batchnorm_fix_gamma`` for one
    that takes its gamma as one. Raises FormatError for a file that is not a graph.
    """
    try:
        nodes = read_json(path, Beside(path.parent))["nodes"]
        users: dict[str, str] = {}
        for node in nodes:
            for number, *_ in node.get("inputs", ()):
                used = nodes[number]
                if used["op"] == "null":
                    users.setdefault(str(used["name"]), _operator(node))
    except (FormatError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        why = error.reason if isinstance(error, FormatError) else repr(error)
        raise FormatError(path, f"is not a graph of MXNet: {why}. Move it away to go by the names alone.") from None
    return users


def _operator(node: Mapping[str, Any]) -> str:
    name = str(node["op"]).lower()
    attributes = node.get("attrs") or node.get("attr") or node.get("param") or {}
    # of the operator, not of gluon's layer: there fix_gamma is the default (src/operator/nn/batch_norm-inl.h)
    fixed = str(attributes.get("fix_gamma", "True")).lower() in ("true", "1")
    return "batchnorm_fix_gamma" if name == "batchnorm" and fixed else name
