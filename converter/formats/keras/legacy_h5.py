"""Keras 2 (tf_keras) HDF5: weights, and whole models with the weights under ``model_weights/``.

A tensor has the name of its dataset, ``dense/mlp/dense/kernel:0``: a group for the layer, below it the
variable's name with its scopes. The attributes ``layer_names`` and ``weight_names`` hold the order of
the model, by which Keras loads. Source: tf_keras/src/saving/legacy/hdf5_format.py.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from converter.core.contents import Contents, LeftOut
from converter.core.natural_order import natural_key
from converter.errors import ConversionError, OutputError
from converter.formats.base import Probe
from converter.formats.keras.hdf5_file import H5File, H5Reader, is_hdf5
from converter.formats.keras.hdf5_writer import H5Writer

_MODEL = "model_weights"
_OPTIMIZER = "optimizer_weights/"
_TOP_LEVEL = "top_level_model_weights"
_LAYERS, _WEIGHTS = "layer_names", "weight_names"
#: Keras converts the weights of version 1 when it loads them; these are as versions 2 and later have them.
_VERSION = b"2.0.0"
#: An attribute larger than this is cut into ``layer_names0``, ``layer_names1``, ... (HDF5_OBJECT_HEADER_LIMIT).
_ATTRIBUTE_LIMIT = 64512


@lru_cache(maxsize=1)  # the format before this one in the table asks, too
def detect(probe: Probe) -> bool:
    """HDF5 with the attribute ``layer_names`` at the top, or with a whole model."""
    try:
        if not is_hdf5(probe):
            return False
        file = H5File(probe.path)
        try:
            return file.has(_MODEL) or not {_LAYERS, f"{_LAYERS}0"}.isdisjoint(file.attributes(""))
        finally:
            file.close()
    except (OSError, ConversionError):
        return False


class FileReader(H5Reader):
    """In the order of the model; the state of the optimizer is left out."""

    @cached_property
    def contents(self) -> Contents:
        tree = self._file.tree()
        specs = {dataset.spec.name: dataset.spec for dataset in tree.datasets}
        optimizer = [LeftOut(name, "state of the optimizer") for name in specs if name.startswith(_OPTIMIZER)]
        rest = sorted((name for name in specs if not name.startswith(_OPTIMIZER)), key=natural_key)
        # A variable that two layers share occurs twice in the attributes.
        in_order = self._names_in_order(frozenset(tree.groups))
        names = dict.fromkeys([*(name for name in in_order if name in specs), *rest])
        return Contents(
            specs=tuple(specs[name] for name in names),
            links=tree.links,
            left_out=(*optimizer, *tree.left_out),
            writer=self._writer,
        )

    @cached_property
    def _root(self) -> str:
        return f"{_MODEL}/" if self._file.has(_MODEL) else ""

    @cached_property
    def _writer(self) -> str:
        for group in dict.fromkeys(("", self._root.rstrip("/"))):
            if version := self._file.text(group, "keras_version"):
                return f"keras {version}"
        return ""

    def _names_in_order(self, groups: Container[str]) -> Iterator[str]:
        """groups: each once, so that a group of many names counts once."""
        layers = self._list(self._root.rstrip("/"), _LAYERS)
        for layer in dict.fromkeys([*layers, _TOP_LEVEL]):
            if self._root + layer in groups:
                for weight in self._list(self._root + layer, _WEIGHTS):
                    self._file.budget.charge(len(layer) + len(weight), "the names of the weights")
                    yield f"{self._root}{layer}/{weight}"

    def _list(self, group: str, attribute: str) -> list[str]:
        """A list of names, which may be cut into several attributes."""
        names = self._file.texts(group, attribute)
        number = 0
        while part := self._file.texts(group, f"{attribute}{number}"):
            names += part
            number += 1
        return names


class FileWriter(H5Writer):
    """Writes what `load_weights` of tf_keras, and of Keras 3 for ``.h5``, reads by order."""

    def lay_out(self) -> None:
        layers: dict[str, dict[str, list[bytes]]] = {}
        for spec in self.contents.specs:
            root, layer, weight = _parted(self.path, spec.name)
            layers.setdefault(root, {}).setdefault(layer, []).append(weight.encode())
        for root, weights in layers.items():
            top = self.file[root or "/"]
            top.attrs["backend"], top.attrs["keras_version"] = b"tensorflow", _VERSION
            _set_list(top, _LAYERS, [layer.encode() for layer in weights if layer != _TOP_LEVEL])
            for layer, names in weights.items():
                _set_list(top[layer], _WEIGHTS, names)


def _parted(path: Path, name: str) -> tuple[str, str, str]:
    """(``model_weights`` or "", layer, weight)."""
    root = _MODEL if name.startswith(f"{_MODEL}/") else ""
    layer, _, weight = name.removeprefix(f"{_MODEL}/").partition("/")
    if not weight:
        raise OutputError(f"{path}: '{name}' is not a Keras 2 name such as 'dense/dense/kernel:0'")
    return root, layer, weight


def _set_list(group: Any, attribute: str, names: list[bytes]) -> None:
    values = np.array(names, dtype=f"S{max(map(len, names), default=1)}")
    if values.nbytes <= _ATTRIBUTE_LIMIT:
        group.attrs[attribute] = values
        return
    per_attribute = _ATTRIBUTE_LIMIT // values.itemsize
    for number, start in enumerate(range(0, len(values), per_attribute)):
        group.attrs[f"{attribute}{number}"] = values[start : start + per_attribute]
