"""The groups of a Keras 3 HDF5 file for what is inside of other layers: where it is written, and where else found.

A model goes through its attributes in the order of the alphabet, ``layers`` among them, and looks for a layer wherever
it meets it: under the attribute (``rnn/rnn``), or under its class in a list or a dict (``hparams/gru/layers/gru``).
Where the first of these places does not have it, the others are not always tried: what fails twice is taken for done
(`_load_state` of keras/src/saving/saving_lib.py). So a new file has them all, as further names of one group.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from converter.core.layers import Layer, split_path
from converter.frameworks.cells import RECURRENT, numbered

_CELLS = {"rnn": "simple_rnn_cell", "lstm": "lstm_cell", "gru": "gru_cell", "gru_reset_before": "gru_cell"}


def nested_group(layer: Layer, path: str) -> str:
    """The group of a layer of that path inside of another one: by attributes.

    ``rnn.l1`` is the second cell of the one layer ``rnn``, as Keras has it; see `further_groups`.
    """
    kind, cell = layer.readings[0].kind, numbered(path)
    if kind not in RECURRENT:
        return "/".join(split_path(path))
    if cell is None or cell[2]:
        return "/".join((*split_path(path), "cell"))
    module, number, _ = cell
    suffix = f"_{number}" if int(number) else ""
    return "/".join((*split_path(module), "cell", "cells", f"{_CELLS[kind]}{suffix}"))


def further_groups(layers: Sequence[Layer], placed: Mapping[str, str]) -> Mapping[str, str]:
    """Further names of groups: those of the layer's other names, and ``rnn/l1`` for a layer of its own."""
    found: dict[str, str] = {}
    for layer in layers:
        place = placed[layer.path]
        names = [nested_group(layer, name) for name in layer.also if len(split_path(name)) > 1]
        if is_cell_of_stack(place):
            names.append("/".join((*split_path(layer.path), "cell")))
        found |= {name: place for name in names if name != place and not name.startswith(f"{place}/")}
    return found


def is_cell_of_stack(group: str) -> bool:
    return re.search(r"/cell/cells/\w+$", group) is not None


def is_own_weight(group: str) -> bool:
    """``encoder/vars/1``: no group of a layer, but one of several weights that a layer has for itself."""
    return re.search(r"(^|/)vars/\d+$", group) is not None
