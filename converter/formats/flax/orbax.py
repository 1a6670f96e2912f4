"""Orbax checkpoints: ``StandardCheckpointer``, ``PyTreeCheckpointer``, and the steps of a ``CheckpointManager``.

A step with one item is read as that item's tree; with several, the names start with the item's. The
optimizer's item is left out. Writing needs no library: see `orbax_writer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from converter.core.contents import Container, Contents, LeftOut
from converter.core.tensors import Array
from converter.errors import FormatError
from converter.formats.base import Probe, Reader, ReadOptions
from converter.formats.flax.jax_tree import Groups, choose
from converter.formats.flax.orbax_tree import METADATA, Held, Tree, is_tree, read_tree
from converter.formats.flax.orbax_writer import FileWriter
from converter.formats.io.files import beside

__all__ = ["FileReader", "FileWriter", "detect", "items_of"]

_NO_ITEMS = ("array_metadatas", "d")


def detect(probe: Probe) -> bool:
    if not probe.is_dir:
        return False
    try:
        return is_tree(probe.path) or bool(items_of(probe.path))
    except OSError:
        return False


def items_of(folder: Path) -> list[Path]:
    """The items of a step: sub-folders that hold a tree."""
    named = (folder / "_CHECKPOINT_METADATA").exists() or (folder / "default").is_dir()
    children = sorted(child for child in folder.iterdir() if child.is_dir() and child.name not in _NO_ITEMS)
    if not named and any(child.name.isdigit() for child in children):
        return []  # steps, not items
    return [child for child in children if is_tree(child) and ".orbax-checkpoint-tmp" not in child.name]


class FileReader(Reader):
    """Lazy: the tree and the metadata of every array at once, the data of one array when it is read."""

    takes = frozenset({"key"})

    #: tensorstore unpacks in C++: two arrays at a time take two thirds of the time, and memory for both
    parallel = True

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self._trees: list[Tree] = []
        try:
            self._leaves, self._contents = self._open()
        except OSError as error:
            self.close()
            raise FormatError(path, f"cannot be read: {error.strerror or error}") from None
        except BaseException:
            self.close()
            raise

    @property
    def contents(self) -> Contents:
        return self._contents

    def read(self, name: str) -> Array:
        try:
            return self._leaves[name].read()
        except OSError as error:
            raise FormatError(self.path, f"'{name}' cannot be read: {error.strerror or error}") from None

    def close(self) -> None:
        for tree in self._trees:
            tree.close()

    def _open(self) -> tuple[Mapping[str, Held], Contents]:
        folders = [self.path] if is_tree(self.path) else items_of(self.path)
        if not folders:
            raise FormatError(self.path, f"holds no '{METADATA}', and no item that does")
        container: Container = "dict"
        leaves: dict[str, Held] = {}
        skipped: list[LeftOut] = []
        for folder in folders:
            beside(self.path, folder)
            tree = read_tree(folder)
            self._trees.append(tree)
            prefix = f"{folder.name}/" if len(folders) > 1 else ""
            leaves |= {prefix + name: held for name, held in tree.leaves.items()}
            skipped += [LeftOut(prefix + line.name, line.reason) for line in tree.left_out]
            container = tree.container if len(folders) == 1 else "dict"
        chosen = choose(self.path, leaves, self.options.key)
        kept = {name: Held(replace(held.spec, name=name), held.read) for name, held in chosen.kept.items()}
        specs = tuple(held.spec for held in kept.values())
        groups = Groups(line.name for line in chosen.left_out)
        lines = [*chosen.left_out, *(line for line in skipped if not groups.hold(line.name))]
        if folders != [self.path]:
            others = {child.name for child in self.path.iterdir() if child.is_dir()} - {f.name for f in folders}
            lines += [LeftOut(name, "an item that holds no arrays") for name in sorted(others)]
        return kept, Contents(specs, "tensor" if chosen.is_tensor else container, left_out=tuple(lines))
