"""Files as trees, and trees as files again with all sizes and checksums right: what is changed in a tree reaches code
that no damaged byte does.

A tree is a list whose first item says what it is; the others are its parts: trees, or plain values. Parts of a file
that nothing here knows are bytes. `made` takes any tree, also one whose parts are not what they should be.
"""

from __future__ import annotations

import ast
import io
import json
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import h5py
import msgpack
import numpy as np
import yaml

from converter.formats.io.source import MemorySource
from converter.formats.mxnet import record as mxnet_record
from converter.formats.tensorflow.protowire import BYTES, FIXED32, FIXED64, VARINT, read_varint, varint
from converter.formats.tensorflow.table import MAGIC, Table, TableWriter

__all__ = ["Tree", "made", "tree_of"]

Tree = Any
NOWHERE = Path("fuzzed")
#: So much of a file is taken apart.
MOST_PARTS = 3000
#: A dataset of HDF5 is made with so many bytes at most.
MOST_BYTES = 1 << 20


class Grammar(NamedTuple):
    """starts: whether a file may be of this kind. parts, make: raise any exception for one that is not."""

    name: str
    starts: Callable[[bytes], bool]
    parts: Callable[[bytes], list[Tree]]
    make: Callable[[Sequence[Tree]], bytes]


@lru_cache(maxsize=256)
def _first(data: bytes) -> tuple[Tree, ...]:
    for grammar in GRAMMARS:
        if grammar.starts(data):
            try:
                parts = grammar.parts(data)
                grammar.make(parts)
            except Exception:  # of another kind, then
                continue
            return (grammar.name, *parts)
    return ()


def tree_of(data: bytes) -> Tree:
    """The bytes themselves where no grammar knows them."""
    return list(_first(data)) or data


def made(tree: Tree) -> bytes:
    if isinstance(tree, list):
        grammar = next((grammar for grammar in GRAMMARS if tree and grammar.name == tree[0]), None)
        return grammar.make(tree[1:]) if grammar else b"".join(map(made, tree[1:]))
    return tree if isinstance(tree, bytes) else str(tree).encode()


# -- values: JSON and Python ----------------------------------------------------------------------------------------


def _node(value: Any) -> Tree:
    if isinstance(value, dict):
        return ["object", *([":", key, _node(item)] for key, item in value.items())]
    if isinstance(value, (list, tuple)):
        return ["list" if isinstance(value, list) else "tuple", *map(_node, value)]
    return value


_BRACKETS = {"object": "{}", "list": "[]", "tuple": "()"}


def _written(node: Tree, leaf: Callable[[Any], str]) -> str:
    if not isinstance(node, list):
        return leaf(node.decode("latin-1") if isinstance(node, bytes) else node)
    items = [_written(item, leaf) for item in node[1:]]
    if node[:1] == [":"]:
        return ": ".join(items)
    before, after = _BRACKETS.get(node[0] if node else "", "[]")
    return f"{before}{', '.join(items)}{',' if before == '(' and len(items) == 1 else ''}{after}"


def _json_parts(data: bytes) -> list[Tree]:
    return [_node(json.loads(data))]


def _json(parts: Sequence[Tree]) -> bytes:
    return "".join(_written(part, json.dumps) for part in parts).encode()


def _yaml_parts(data: bytes) -> list[Tree]:
    return [_node(yaml.safe_load(data))]


def _safetensors_parts(data: bytes) -> list[Tree]:
    end = 8 + int.from_bytes(data[:8], "little")
    return [["json", *_json_parts(data[8:end])], data[end:]]


def _safetensors(parts: Sequence[Tree]) -> bytes:
    header = made(parts[0])
    return len(header).to_bytes(8, "little") + header + b"".join(map(made, parts[1:]))


def _npy_parts(data: bytes) -> list[Tree]:
    size = 2 if data[6] == 1 else 4
    end = 8 + size + int.from_bytes(data[8 : 8 + size], "little")
    return [data[6], ["literal", _node(ast.literal_eval(data[8 + size : end].decode()))], tree_of(data[end:])]


def _npy(parts: Sequence[Tree]) -> bytes:
    header = (_written(parts[1][1], repr) + "\n").encode()
    head = struct.pack("<BBH" if parts[0] == 1 else "<BBI", parts[0], 0, len(header))
    return b"\x93NUMPY" + head + header + b"".join(map(made, parts[2:]))


# -- containers -----------------------------------------------------------------------------------------------------


def _zip_parts(data: bytes) -> list[Tree]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if min(info.header_offset for info in archive.infolist()):
            raise ValueError("one of several archives in a file")
        return [["member", info.filename, tree_of(archive.read(info))] for info in archive.infolist()]


def _zip(parts: Sequence[Tree]) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")  # a name that is there twice is what is wanted
        for part in parts:
            name, *content = part[1:]
            archive.writestr(zipfile.ZipInfo(str(name)), b"".join(map(made, content)))
    return buffer.getvalue()


def _pickle_parts(data: bytes) -> list[Tree]:
    """The opcodes; what follows may be the next pickle."""
    places = [place for _, _, place in pickletools.genops(data)]
    end = places[-1] + 1
    if len(places) > MOST_PARTS:
        raise ValueError("too long")
    operations = [data[place:after] for place, after in zip(places, [*places[1:], end], strict=True)]
    return [["operations", *operations], *([tree_of(data[end:])] if end < len(data) else [])]


def _joined(parts: Sequence[Tree]) -> bytes:
    return b"".join(map(made, parts))


def _msgpack_parts(data: bytes) -> list[Tree]:
    def ext(code: int, inner: bytes) -> Tree:
        try:
            return ["ext", code, *_msgpack_parts(inner)]
        except Exception:
            return ["ext", code, ["raw", inner]]

    def pairs(items: list[tuple[Any, Any]]) -> Tree:
        return ["map", *([":", key, value] for key, value in items)]

    def items(values: list[Any]) -> Tree:
        return ["list", *values]

    hooks = {"object_pairs_hook": pairs, "list_hook": items, "ext_hook": ext}
    return [msgpack.unpackb(data, strict_map_key=False, **hooks)]


def _msgpack(parts: Sequence[Tree]) -> bytes:
    return b"".join(map(_packed, parts))


def _packed(node: Tree) -> bytes:
    packer = msgpack.Packer(autoreset=True)
    if not isinstance(node, list):
        return bytes(packer.pack(node))
    tag, inside = node[0], node[1:]
    if tag == "map":
        return packer.pack_map_header(len(inside)) + b"".join(map(_packed, inside))
    if tag in (":", "raw"):
        return b"".join(map(_packed, inside)) if tag == ":" else b"".join(map(made, inside))
    if tag == "ext":
        return bytes(packer.pack(msgpack.ExtType(inside[0], b"".join(map(_packed, inside[1:])))))
    return packer.pack_array_header(len(inside)) + b"".join(map(_packed, inside))


def _message_parts(data: bytes) -> list[Tree]:
    """Each field: its tag (the number and how it is written), and the value."""
    parts, place = [], 0
    while place < len(data):
        tag, place = read_varint(data, place)
        if tag & 7 in _FIXED:
            (value,) = struct.unpack_from(_FIXED[tag & 7], data, place)
            place += struct.calcsize(_FIXED[tag & 7])
        elif tag & 7 == VARINT:
            value, place = read_varint(data, place)
        elif tag & 7 == BYTES and tag >> 3:
            size, place = read_varint(data, place)
            if place + size > len(data):
                raise ValueError("too short")
            value, place = _nested(data[place : place + size]), place + size
        else:
            raise ValueError("no message")
        parts.append([":", tag, value])
    return parts


_FIXED = {FIXED32: "<I", FIXED64: "<Q"}


def _nested(value: bytes) -> Tree:
    """Bytes that may be a message, and are taken for one where it would be written just so."""
    try:
        parts = _message_parts(value) if len(value) > 1 else []
    except (ValueError, struct.error):
        return value
    return ["message", *parts] if parts and _message(parts) == value else value


def _message(parts: Sequence[Tree]) -> bytes:
    return b"".join(_put(part[1], part[2]) for part in parts)


def _put(tag: int, value: Tree) -> bytes:
    if isinstance(value, int):
        fixed = _FIXED.get(tag & 7)
        return varint(tag) + (struct.pack(fixed, value) if fixed else varint(value))
    data = made(value)
    return varint(tag >> 3 << 3 | BYTES) + varint(len(data)) + data


def _table_parts(data: bytes) -> list[Tree]:
    table = Table(MemorySource(NOWHERE, data), verify=False)
    return [["entry", key, _nested(bytes(value))] for key, value in table.entries()]


def _table(parts: Sequence[Tree]) -> bytes:
    file = io.BytesIO()
    table = TableWriter(file)
    for part in parts:
        table.add(made(part[1]), b"".join(map(made, part[2:])))
    table.finish()
    return file.getvalue()


_LIST = 0x112


def _mxnet_parts(data: bytes) -> list[Tree]:
    source, (count,) = MemorySource(NOWHERE, data), struct.unpack_from("<Q", data, 16)
    records, place = [], 24
    for _ in range(count):
        end = mxnet_record.parse(source, place, "it").end
        records.append(data[place:end])
        place = end
    (count,) = struct.unpack_from("<Q", data, place)
    names, place = [], place + 8
    for _ in range(count):
        end = place + 8 + struct.unpack_from("<Q", data, place)[0]
        names.append(data[place + 8 : end])
        place = end
    return [["records", *records], ["names", *names]]


def _mxnet(parts: Sequence[Tree]) -> bytes:
    records, names = ([made(item) for item in part[1:]] for part in parts[:2])
    body = struct.pack("<3Q", _LIST, 0, len(records)) + b"".join(records) + struct.pack("<Q", len(names))
    return body + b"".join(struct.pack("<Q", len(name)) + name for name in names)


_OCDBT = bytes.fromhex("0cdb3a2a"), bytes.fromhex("0cdb20de")


def _ocdbt_parts(data: bytes) -> list[Tree]:
    """A manifest or a node of the tree, not packed: which of them, the version, and what is in it as numbers."""
    version, packed = data[12:14]
    if packed or struct.unpack_from("<Q", data, 4) != (len(data),):
        raise ValueError("packed, or one of several")
    numbers: list[Tree] = []
    place, end = 14, len(data) - 4
    while place < end:
        try:
            number, after = read_varint(data[:end], place)
        except ValueError:
            number, after = 0, place
        same = varint(number) == data[place:after]
        numbers.append(number if same else data[place : place + 1])
        place = after if same else place + 1
    return [data[:4], version, ["numbers", *numbers]]


def _ocdbt(parts: Sequence[Tree]) -> bytes:
    """Not packed, as it may be."""
    magic, version, *others = parts
    body = b"".join(varint(item) if isinstance(item, int) else made(item) for part in others for item in part[1:])
    head = made(magic) + struct.pack("<QBB", 18 + len(body), version, 0)
    return head + body + google_crc32c.value(head + body).to_bytes(4, "little")


def _hdf5_parts(data: bytes) -> list[Tree]:
    with h5py.File(io.BytesIO(data), "r") as file:
        return [_group(file)]


def _group(item: Any) -> Tree:
    attributes = ["attributes", *([":", name, _attribute(value)] for name, value in item.attrs.items())]
    if isinstance(item, h5py.Dataset):
        return ["dataset", attributes, item.dtype.str, ["list", *item.shape], item[()].tobytes()]
    return ["group", attributes, *([":", name, _group(item[name])] for name in item)]


def _attribute(value: Any) -> Tree:
    if isinstance(value, np.ndarray):
        return ["list", *map(_attribute, value.reshape(-1))]
    return value.item() if isinstance(value, np.generic) else value


def _hdf5(parts: Sequence[Tree]) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", track_order=True) as file:
        _fill(file, parts[0])
    return buffer.getvalue()


def _fill(place: Any, node: Tree) -> None:
    for _, name, value in node[1][1:]:
        listed = isinstance(value, list)
        place.attrs[str(name)] = np.array(value[1:]) if listed and value[1:] else (0 if listed else value)
    for _, name, child in node[2:] if node[0] == "group" else ():
        if child[0] == "group":
            _fill(place.create_group(str(name)), child)
        else:
            dtype, shape, content = np.dtype(child[2]), tuple(child[3][1:]), made(child[4])
            if np.prod(shape, dtype=float) * dtype.itemsize > MOST_BYTES:
                raise ValueError("too large")
            values = np.resize(np.frombuffer(content[: len(content) // dtype.itemsize * dtype.itemsize], dtype), shape)
            _fill(place.create_dataset(str(name), data=values), child[:2])


GRAMMARS = (
    Grammar("zip", lambda data: data.startswith(b"PK\3\4"), _zip_parts, _zip),
    Grammar("hdf5", lambda data: data.startswith(b"\x89HDF"), _hdf5_parts, _hdf5),
    Grammar("npy", lambda data: data.startswith(b"\x93NUMPY"), _npy_parts, _npy),
    Grammar("safetensors", lambda data: data[8:9] == b"{", _safetensors_parts, _safetensors),
    Grammar("ocdbt", lambda data: data.startswith(_OCDBT), _ocdbt_parts, _ocdbt),
    Grammar("yaml", lambda data: data.startswith(b"name:"), _yaml_parts, _json),
    Grammar("json", lambda data: data.lstrip()[:1] in (b"{", b"["), _json_parts, _json),
    Grammar("table", lambda data: data.endswith(MAGIC), _table_parts, _table),
    Grammar("mxnet", lambda data: data.startswith(struct.pack("<Q", _LIST)), _mxnet_parts, _mxnet),
    Grammar("message", lambda data: data.startswith(b"\x08\x01"), _message_parts, _message),
    Grammar("pickle", lambda data: data[:1] in (b"\x80", b"(", b"}", b"]", b"c", b"L"), _pickle_parts, _joined),
    Grammar("msgpack", lambda data: data[:1] >= b"\x80", _msgpack_parts, _msgpack),
)
