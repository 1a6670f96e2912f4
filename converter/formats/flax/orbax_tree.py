"""What an Orbax folder says is in it: the leaves of its tree, where each is stored, and what holds no numeric values.

Formats: ``_METADATA`` of orbax/checkpoint/_src/metadata/tree.py; before it (to 0.4) a msgpack file
``checkpoint`` in which ``PLACEHOLDER://a.b`` stands for the zarr folder ``a.b`` (0.2.6 utils.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from converter.core.contents import Container, LeftOut
from converter.core.tensors import Array, TensorSpec
from converter.errors import FormatError
from converter.formats.flax.msgpack import read_stored, say, stored_arrays
from converter.formats.flax.zarr_arrays import Store, ZarrArray
from converter.formats.io.files import Beside
from converter.formats.io.json import read_json

__all__ = ["AGGREGATE", "METADATA", "Held", "Tree", "is_tree", "read_tree"]

METADATA = "_METADATA"
AGGREGATE = "checkpoint"
PLACEHOLDER = "PLACEHOLDER://"
MAX_PLACEHOLDER = 4096
_SEQUENCE = 1


class Held(msgspec.Struct, frozen=True):
    """A tensor and how it is read."""

    spec: TensorSpec
    read: Callable[[], Array]


class Tree(msgspec.Struct, frozen=True):
    """leaves: in the order of the file. close: release the files that are open."""

    leaves: Mapping[str, Held]
    left_out: tuple[LeftOut, ...]
    container: Container
    close: Callable[[], None]


def is_tree(folder: Path) -> bool:
    """Whether the folder holds one tree (a step of a CheckpointManager holds several such folders)."""
    if (folder / METADATA).is_file():
        return True
    try:
        with closing(Beside(folder).open(folder / AGGREGATE)) as source:
            first = source.take(0, min(1, source.size), "its first byte")
    except (OSError, FormatError):
        return False
    return first[:1] >= b"\x80" and first[0] in (*range(0x80, 0x90), 0xDE, 0xDF)


def read_tree(folder: Path) -> Tree:
    """Raises FormatError."""
    return _aggregate_tree(folder) if (folder / AGGREGATE).is_file() else _metadata_tree(folder)


def _metadata_tree(folder: Path) -> Tree:
    file = folder / METADATA
    metadata = read_json(file, Beside(folder))
    entries = metadata.get("tree_metadata")
    if not isinstance(entries, dict):
        raise FormatError(file, "has no 'tree_metadata'")
    texts, keys = _strings(folder), _random_keys(folder)
    storages: list[tuple[str, str]] = []
    left_out: list[LeftOut] = []
    tops = set()
    for label, entry in entries.items():
        parts, kinds, value = _entry(file, label, entry)
        tops.add(kinds[0])
        name, storage = "/".join(parts), ".".join(parts)
        if value.get("skip_deserialize"):
            left_out.append(LeftOut(name, f"empty ({value.get('value_type')})"))
        elif value.get("value_type") == "string":
            left_out.append(LeftOut(name, f"the text {str(texts.get(storage, ''))[:60]!r}"))
        elif storage in keys:
            left_out.append(LeftOut(name, "the state of random numbers"))
        else:
            storages.append((name, storage))
    whole = metadata.get("store_array_data_equal_to_fill_value") is True
    store = Store(folder, zarr3=metadata.get("use_zarr3") is True, whole=whole)
    leaves = _held(store, storages)
    return Tree(leaves, tuple(left_out), "list" if tops == {_SEQUENCE} else "dict", lambda: None)


def _entry(file: Path, label: str, entry: Any) -> tuple[list[str], list[object], dict[str, Any]]:
    """The keys, their kinds (1 in a sequence, 2 in a dict) and the value's description of one leaf."""
    keys, value = (entry.get("key_metadata"), entry.get("value_metadata")) if isinstance(entry, dict) else (None, None)
    right = isinstance(keys, list) and keys and isinstance(value, dict)
    if not right or not all(isinstance(key, dict) and isinstance(key.get("key"), (str, int)) for key in keys or ()):
        raise FormatError(file, f"the entry {label[:60]} has no keys or no description of its value")
    assert isinstance(keys, list) and isinstance(value, dict)
    return [str(key["key"]) for key in keys], [key.get("key_type") for key in keys], value


def _held(store: Store, storages: list[tuple[str, str]]) -> dict[str, Held]:
    leaves: dict[str, Held] = {}
    for array in store.arrays(storages):
        if array.spec.name in leaves:
            raise FormatError(store.root, f"the name '{array.spec.name}' occurs twice")
        leaves[array.spec.name] = Held(array.spec, _reading(store, array))
    return leaves


def _reading(store: Store, array: ZarrArray) -> Callable[[], Array]:
    return lambda: store.read(array)


def _aggregate_tree(folder: Path) -> Tree:
    """Arrays stand in the file itself or are stored beside it, under the name of their placeholder."""
    source = Beside(folder).open(folder / AGGREGATE)
    try:
        container, arrays, others, _ = stored_arrays(source)
        placeholders: list[tuple[str, str]] = []
        left_out: list[LeftOut] = []
        for leaf in others.values():
            text = b""
            if leaf.kind == "str" and isinstance(leaf.value, int):
                text = source.take(leaf.start, min(leaf.value, MAX_PLACEHOLDER), f"'{leaf.name}'")
            if text.startswith(PLACEHOLDER.encode()):
                placeholders.append((leaf.name, text.decode(errors="replace")[len(PLACEHOLDER) :]))
            else:
                left_out.append(LeftOut(leaf.name, say(source, leaf)))
        zarr3 = bool(placeholders) and (folder / placeholders[0][1] / "zarr.json").is_file()
        leaves = _held(Store(folder, zarr3=zarr3, whole=False), placeholders)
        inline = {
            name: Held(stored.spec, lambda name=name, stored=stored: read_stored(source, name, stored))  # type: ignore[misc]
            for name, stored in arrays.items()
        }
        order = [name for name in (*arrays, *others) if name in inline or name in leaves]
    except BaseException:
        source.close()
        raise
    return Tree({name: (inline | leaves)[name] for name in order}, tuple(left_out), container, source.close)


def _strings(folder: Path) -> dict[str, Any]:
    file = folder / "_strings.json"
    return read_json(file, Beside(folder)) if file.is_file() else {}


def _random_keys(folder: Path) -> frozenset[str]:
    """Names of the leaves that are keys of jax.random (array_metadata.py: ``ext_metadata``)."""
    file = folder / "array_metadatas" / "process_0"
    entries = read_json(file, Beside(folder)).get("array_metadatas") if file.is_file() else ()
    arrays = [entry.get("array_metadata") for entry in entries or () if isinstance(entry, dict)]
    return frozenset(
        str(array.get("param_name"))
        for array in arrays
        if isinstance(array, dict) and "random_key_impl" in (array.get("ext_metadata") or ())
    )
