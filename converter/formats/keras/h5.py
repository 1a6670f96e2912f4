"""Keras 3 weights, ``.weights.h5``; also any other HDF5 file of plain arrays, which is read alike.

A tensor has the name of its dataset: ``layers/dense/vars/0``. The paths are made of attributes and of
class names with a counter; the name that the user chose for a layer is the attribute ``name`` of the
group ``vars``. Source: keras/src/saving/saving_lib.py (H5IOStore).

Order: groups as they were written (see `hdf5_tree.Dataset`), in each the variables by number. An array with
several names (hard links) is listed once, under ``layers/`` where it has such a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from converter.core.contents import Contents, LeftOut
from converter.core.natural_order import natural_key
from converter.core.tensors import TensorSpec
from converter.errors import OutputError
from converter.formats.base import Probe, check_names
from converter.formats.keras import legacy_h5 as keras2_h5
from converter.formats.keras.hdf5_file import H5File, H5Reader, is_hdf5
from converter.formats.keras.hdf5_tree import Dataset, Tree
from converter.formats.keras.hdf5_writer import H5Writer
from converter.formats.keras.training import training_in

VARS = "vars"
#: An attribute of our own, beside the name of a layer: its class, which Keras itself writes nowhere.
CLASS = "class"
#: What the model holds at the top that is not a weight. (Both are reserved names of a Keras model.)
_STATES = {"optimizer": "state of the optimizer", "metrics": "state of a metric"}


def detect(probe: Probe) -> bool:
    """Every HDF5 file that is not of Keras 2."""
    try:
        return is_hdf5(probe) and not keras2_h5.detect(probe)
    except OSError:
        return False


class FileReader(H5Reader):
    """Walks the groups when `contents` is asked for; reads a dataset when it is asked for."""

    @cached_property
    def contents(self) -> Contents:
        return keras_contents(self._file)

    def training(self) -> Mapping[str, Any]:
        return training_in(self._file, {})


def keras_contents(file: H5File) -> Contents:
    """What a file in the layout of Keras 3 holds."""
    tree = file.tree()
    ordered = [dataset.spec for dataset in sorted(tree.datasets, key=_age_then_number(tree))]
    states = [LeftOut(spec.name, why) for spec in ordered if (why := _state(spec.name))]
    return Contents(
        specs=check_names(file.path, (spec for spec in ordered if not _state(spec.name))),
        labels=_labels(file, tree),
        links=tree.links,
        classes=_classes(file, ordered),
        left_out=(*states, *tree.left_out),
    )


def _age_then_number(tree: Tree) -> Any:
    ages: dict[str, int] = {}
    for dataset in tree.datasets:
        group = dataset.spec.name.rpartition("/")[0]
        ages[group] = max(ages.get(group, 0), dataset.age)

    def key(dataset: Dataset) -> tuple[Any, ...]:
        group, _, leaf = dataset.spec.name.rpartition("/")
        return ages[group], natural_key(group), natural_key(leaf)

    return key


def _labels(file: H5File, tree: Tree) -> Mapping[str, str]:
    """Group ``…/vars`` -> the name of its layer; ``vars`` is the model itself."""
    groups = (path for path in tree.groups if is_vars(path) and not _state(path))
    return {path: name for path in groups if (name := file.text(path, "name"))}


def _classes(file: H5File, specs: Iterable[TensorSpec]) -> Mapping[str, str]:
    """Tensor -> the class of its layer, in files that this program wrote."""
    groups = {spec.name: spec.name.rpartition("/")[0] for spec in specs}
    told = {group: file.text(group, CLASS) for group in set(groups.values()) if is_vars(group)}
    return {name: told[group] for name, group in groups.items() if told.get(group)}


def _state(path: str) -> str | None:
    """Why what has this path is not a weight."""
    top, slash, _ = path.partition("/")
    return _STATES.get(top) if slash else None


def is_vars(path: str) -> bool:
    return path.rpartition("/")[2] == VARS


class FileWriter(H5Writer):
    """Writes what `keras.Model.load_weights` reads.

    ``contents.labels`` become the names of layers; ``contents.links`` become hard links, with which one
    file loads into models that call the same layer otherwise.
    """

    def lay_out(self) -> None:
        self.file.require_group(VARS)  # those of the model itself, which tf_keras asks for though there are none
        for group, name in self.contents.labels.items():
            self.file.require_group(group).attrs["name"] = name
        for tensor, name in self.contents.classes.items():
            self.file.require_group(tensor.rpartition("/")[0]).attrs[CLASS] = name
        for other, path in self.contents.links.items():
            if path not in self.file:
                raise OutputError(f"{self.path}: the link '{other}' leads to '{path}', which holds no tensor")
            if other not in self.file:
                self.file[other] = self.file[path]
