"""Where recurrent layers keep their cells: one for each layer and direction, named alike whatever the framework.

``rnn`` is a layer alone; ``rnn.l0``, ``rnn.l0_reverse``, ``rnn.l1`` … are those of a module of several, as PyTorch
calls them. In a new file a layer whose name ends in ``cell`` is a bare cell, with no layer around it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec.structs import replace

from converter.core.kinds import KINDS, RECURRENT
from converter.core.layers import Form, Layer, form, join_path, split_path, stacked
from converter.frameworks.base import Part

#: The class of cells of TensorFlow 1, whose one kernel is of the inputs and the state together: no form is theirs.
OLD_CELL = "cell of tensorflow 1"
_OLD_CELLS = re.compile(r"(?:.*_)?(?:lstm|gru|rnn)(?:_block)?_cell(?:_\d+)?")
#: What is inside of such a cell.
_IN_OLD_CELLS = frozenset({"gates", "candidate", "projection", "input_projection", "hidden_projection"})


def stacked_cell(kind: str, gates: str, *rows: tuple[str, str, str], name: str = "") -> Form:
    """How a framework stores a cell with its gates stacked: in order of the gates, each row a leaf, its role without
    the gate, and its axes, in which ``(g h)`` is ``h`` where there is one gate.
    """
    hidden = "(g h)" if len(gates) > 1 else "h"
    leaves = (
        (leaf, role if role in KINDS[kind].roles else stacked(role, gates), axes.replace("(g h)", hidden))
        for leaf, role, axes in rows
    )
    return form(kind, *leaves, name=name)


def is_bare(path: str) -> bool:
    return path.endswith("cell")


def numbered(path: str) -> tuple[str, str, bool] | None:
    """``rnn.l1_reverse`` -> module, number, whether it runs backwards."""
    name = re.fullmatch(r"(?:(.+)\.)?l(\d+)(_reverse)?", path)
    return (name[1] or "", name[2], bool(name[3])) if name else None


def cell_path(parts: Sequence[str]) -> str:
    """The path of a recurrent layer without the cell in it; the directions of a bidirectional one as in PyTorch."""
    path = list(parts)
    if len(path) > 1 and path[-1] == "cell":
        del path[-1]
    side = _DIRECTIONS.get(path[-1]) if path else None
    if side is not None:
        del path[-1]
        stacked = path and re.fullmatch(r"l\d+", path[-1])  # a layer of its own, named as one of PyTorch's
        path.append(f"{path.pop() if stacked else 'l0'}{side}")
    return join_path(path)


_DIRECTIONS = {"forward_rnn": "", "backward_rnn": "_reverse", "forward_layer": "", "backward_layer": "_reverse"}


def cells_placed(layers: Sequence[Layer], directions: tuple[str, str], bare_cells: bool) -> dict[str, str]:
    """Path of each recurrent layer -> where its cell is, in a framework that has a module for each direction.

    The reverse of `cell_path`: ``rnn`` -> ``rnn.cell``, ``rnn.l1_reverse`` -> ``rnn.l1.backward_rnn.cell``, or
    ``rnn.backward_rnn.cell`` where there is but one layer. bare_cells: a layer called ``…cell`` has none around it.
    """
    recurrent = [layer.path for layer in layers if layer.readings and layer.readings[0].kind in RECURRENT]
    cells = {path: cell for path in recurrent if (cell := numbered(path))}
    both_ways = {(module, number) for module, number, reverse in cells.values() if reverse}
    several = {module for module, number, _ in cells.values() if number != "0" or not module}
    placed = {}
    for path in recurrent:
        cell = cells.get(path)
        if cell is not None and cell[:2] in both_ways:
            module, number, reverse = cell
            names = (module, f"l{number}" if module in several else "", directions[reverse], "cell")
            placed[path] = ".".join(filter(None, names))
        else:
            placed[path] = path if bare_cells and is_bare(path) else f"{path}.cell"
    return placed


def without_old_cells(parts: Sequence[Part]) -> list[Part]:
    """Cells of TensorFlow 1 known as such: a ``lstm_cell/kernel`` without a recurrent one is no linear layer."""
    leaves: dict[str, set[str]] = {}
    for part in parts:
        leaves.setdefault(part.path, set()).add(part.leaf)
    old = {path for path, names in leaves.items() if _is_old_cell(path, names)}
    return [replace(part, layer_class=OLD_CELL) if part.path in old else part for part in parts]


def _is_old_cell(path: str, leaves: set[str]) -> bool:
    has_one_kernel = bool(leaves & {"kernel", "weights"}) and "recurrent_kernel" not in leaves
    return has_one_kernel and old_cell(path) is not None


def old_cell(path: str) -> tuple[tuple[str, ...], str] | None:
    """The path of the cell of TensorFlow 1 that a layer is of, by its name alone, and what it is inside of that."""
    parts = split_path(path)
    for end in range(len(parts), 0, -1):
        if _OLD_CELLS.fullmatch(parts[end - 1]) and _IN_OLD_CELLS.issuperset(parts[end:]):
            return parts[:end], ".".join(parts[end:])
    return None
