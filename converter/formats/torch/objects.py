"""The weights in a PyTorch file: which part of its object they are, and the names of the tensors.

A file is a tensor, a list, a dict, a ``state_dict``, a whole ``nn.Module``, or the checkpoint of a training run
with all of these inside.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from converter.core.contents import Container, Contents, LeftOut
from converter.core.tensors import DTYPES, Array, TensorSpec
from converter.errors import FormatError, Remedy
from converter.formats.base import Reader, ReadOptions, check_names
from converter.formats.io.budget import Budget, Loan, names_beyond
from converter.formats.pickle.load import Global, Opaque, PickleError
from converter.formats.pickle.nested import Child, Search, flatten, plain_children
from converter.formats.pickle.values import Ordered
from converter.formats.torch.tensors import TORCH_DTYPES, VERSIONS, FileTensor, NotATensor, Storage, TorchFile

__all__ = ["ObjectChildren", "TorchReader", "Weights", "find_weights"]

#: Where training programs put the weights, the usual prefix first (Lightning, timm, DeepSpeed, fairseq, YOLO ...).
WEIGHT_KEYS = (
    "state_dict model_state_dict model model_state module net network generator params weights "
    "model_ema ema ema_state_dict state_dict_ema ema_model student teacher"
).split()
#: Where they put what is not weights.
TRAINING_KEYS = frozenset(
    "optimizer optimizers optimizer_state optimizer_states optimizer_state_dict optim optim_state_dict opt "
    "scheduler schedulers lr_scheduler lr_schedulers scheduler_state_dict lr_scheduler_state_dict "
    "callbacks loops scaler grad_scaler scaler_state_dict amp amp_scaling_state rng_state rng_states cuda_rng_state "
    "torch_rng_state random_rng_state numpy_rng_state hyper_parameters hparams".split()
)
_HOOKS = "_parameters _buffers _modules".split()
#: Objects with arrays that are no weights: what random numbers are drawn from.
_NEVER_WEIGHTS = ("numpy.random", "random ", "builtins ", "__builtin__ ", "functools ")
#: Of a list that a module keeps by itself.
_LOOKED_AT = 100
#: All tensors of a file together may be written as so many bytes, or so many times what their storages hold.
MAX_TOTAL, MOST_NAMES = 1 << 30, 16
_NUMBERS = frozenset(DTYPES.values())
_OPTIMIZER, _OF_TRAINING = {"state", "param_groups"}, "state of the training, not weights"


class Weights(msgspec.Struct, frozen=True):
    """The tensors of the file by name, and what else is in it. versions: module -> the version of its layout, where the
    ``_metadata`` of a ``state_dict`` has one. place: where they are in the object of the file: ``model``; "" for all
    of it.
    """

    container: Container
    tensors: Mapping[str, FileTensor | Array]
    left_out: tuple[LeftOut, ...]
    writer: str = ""
    versions: Mapping[str, int] = msgspec.field(default_factory=dict)
    place: str = ""

    def contents(self, path: Path, file: TorchFile) -> Contents:
        """Check every tensor against the file. Raises FormatError."""
        specs = []
        total = 0
        stored: dict[str, int] = {}
        for name, leaf in self.tensors.items():
            if not isinstance(leaf, np.ndarray):
                try:
                    leaf.check(file)
                except PickleError as error:
                    raise FormatError(path, f"the tensor '{name}': {error}") from None
                stored |= {storage.key: storage.nbytes for storage in leaf.storages}
            specs.append(TensorSpec(name, tuple(leaf.shape), leaf.dtype))
            total += specs[-1].nbytes
        if total > MAX_TOTAL and total > MOST_NAMES * sum(stored.values()):
            raise FormatError(path, f"its tensors would take {total} bytes, all expanded from a few")
        file.budget.charge(names_beyond(len(specs), sum(stored.values())), "the names of its tensors")
        writer = self.writer or file.writer
        metadata = {VERSIONS: msgspec.json.encode(self.versions).decode()} if self.versions else {}
        return Contents(
            check_names(path, specs), self.container, left_out=self.left_out, writer=writer, metadata=metadata
        )

    def read(self, name: str, path: Path, file: TorchFile) -> Array:
        leaf = self.tensors[name]
        try:
            if isinstance(leaf, np.ndarray):
                array = leaf.view()
            else:
                with file.budget.lent(leaf.beyond, f"the whole of '{name}'"):
                    array = leaf.read(file)
        except PickleError as error:
            raise FormatError(path, f"the tensor '{name}': {error}") from None
        array.flags.writeable = False
        return array


def find_weights(value: object, path: Path, key: str | None = None, loan: Loan | None = None) -> Weights:
    """The weights in the object that a file describes.

    key: the path of the weights, keys joined with ``/``; None: the usual paths of training
        checkpoints, or else everything.
    loan: what pays for the names, as long as the object lives.
    Raises FormatError when there is nothing at ``key``, when all tensors are state of a training, or when two have one
    name.
    """
    children = ObjectChildren()
    search = Search(children, _is_tensor)
    choice = _Choice(search, path)
    root, beside = choice.made(value) if key is None else _at(value, path, key, children)
    flat = flatten(root, path, children, _is_tensor, _why, loan)
    tensors: dict[str, FileTensor | Array] = {}
    for entry in flat.kept:
        if entry.name in tensors:
            raise FormatError(path, f"the name '{entry.name}' occurs twice in the file")
        assert isinstance(entry.value, (FileTensor, np.ndarray))
        tensors[entry.name] = entry.value
    left_out, place = (*beside, *flat.left_out), choice.place if key is None else key
    return Weights(_container(root), tensors, left_out, _writer(value), versions_in(root), place)


class ObjectChildren:
    """As `plain_children`, and the tensors of objects whose class is unknown, by attribute.

    The children of each such object are found once, by however many names it is reached, as long as this lives.
    """

    def __init__(self) -> None:
        self._objects: dict[int, tuple[Child, ...] | None] = {}
        self._names: dict[int, frozenset[str]] = {}

    def __call__(self, value: object) -> Iterable[Child] | None:
        if not isinstance(value, Opaque):
            return plain_children(value)
        if id(value) not in self._objects:
            self._objects[id(value)] = self._inside(value)
        return self._objects[id(value)]

    def _inside(self, value: Opaque) -> tuple[Child, ...] | None:
        if value.name.startswith(_NEVER_WEIGHTS):
            return None
        attributes = value.attributes
        if all(isinstance(attributes.get(name), dict) for name in _HOOKS):
            return tuple(self._of_module(attributes))
        scripted = value.name.startswith("__torch__")  # of TorchScript's objects only the tensors are of interest
        items = attributes.items()
        inside = [(".", str(name), item) for name, item in items if not scripted or _may_hold(item)]
        inside += plain_children(value.mapping) or ()
        inside += plain_children(value.items) or ()
        if any(map(_may_hold, value.args)):  # a container of a class of its own, or a tuple with names
            lone = not inside and len(value.args) == 1 and plain_children(value.args[0])
            inside += lone or plain_children(value.args) or ()
        return tuple(inside) if inside or scripted else None

    def _of_module(self, attributes: Mapping[object, object]) -> Iterator[Child]:
        """In the order of ``Module.state_dict``: parameters, buffers, then the modules inside."""
        parameters, buffers, modules = (attributes[name] for name in _HOOKS)
        assert isinstance(parameters, dict) and isinstance(buffers, dict) and isinstance(modules, dict)
        transient = self._text_of(attributes.get("_non_persistent_buffers_set"))
        for name, item in parameters.items():
            yield (".", str(name), item)
        for name, item in buffers.items():
            hidden = name in transient and item is not None
            yield (".", str(name), NotATensor("a buffer that the module does not save") if hidden else item)
        for name, item in modules.items():
            yield (".", str(name), item)
        for name, item in attributes.items():
            inside = item.values() if isinstance(item, dict) else item if isinstance(item, (list, tuple)) else (item,)
            if name not in _HOOKS and any(map(_is_tensor, islice(inside, _LOOKED_AT))):
                yield (".", str(name), NotATensor("neither a parameter nor a buffer of its module"))

    def _text_of(self, names: object) -> frozenset[str]:
        if not isinstance(names, (set, frozenset, list)):
            return frozenset()
        if id(names) not in self._names:
            self._names[id(names)] = frozenset(name for name in names if isinstance(name, str))
        return self._names[id(names)]


def _may_hold(value: object) -> bool:
    return isinstance(value, (Opaque, dict, list, tuple)) or _is_tensor(value) or _is_object_array(value)


def _is_object_array(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == object


def _is_tensor(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype in _NUMBERS
    return isinstance(value, FileTensor)


def versions_in(root: object) -> dict[str, int]:
    """Of the modules that have one. ``Module.load_state_dict`` hands it to them, and some refuse to load without it."""
    state = root.state if isinstance(root, Ordered) else None
    known = state.get("_metadata") if isinstance(state, dict) else None
    modules = known.items() if isinstance(known, dict) else ()
    found = (
        (name, local.get("version")) for name, local in modules if isinstance(name, str) and isinstance(local, dict)
    )
    return {name: version for name, version in found if isinstance(version, int) and 0 <= version < 1 << 31}


def _container(root: object) -> Container:
    if _is_tensor(root):
        return "tensor"
    return "list" if isinstance(root, (list, tuple)) else "dict"


def _why(value: object) -> str:
    """Why a leaf is left out."""
    if isinstance(value, NotATensor):
        return value.reason
    if isinstance(value, (bool, int, float, str)) or value is None:
        text = repr(value) if not isinstance(value, int) or value.bit_length() < 128 else "a long number"
        return f"not a tensor: {text if len(text) <= 60 else text[:57] + '...'}"
    if isinstance(value, (Opaque, Global)):
        return f"not a tensor: {value.name.replace(' ', '.')}"
    if isinstance(value, Storage):
        return "a bare storage, without a shape"
    return f"not a tensor: {type(value).__name__}"


class TorchReader(Reader):
    """A subclass says in `open` what kind of `TorchFile` it reads."""

    dtypes = tuple(TORCH_DTYPES)
    takes = frozenset({"key"})

    def __init__(self, path: Path, options: ReadOptions = ReadOptions(), budget: Budget | None = None) -> None:
        super().__init__(path, options)
        self.budget = budget
        self.file = self.open()

    @abstractmethod
    def open(self) -> TorchFile:
        """The file of `path`, with the `options` and the `budget` of its checkpoint. Raises FormatError."""

    @cached_property
    def weights(self) -> Weights:
        with Loan(self.file.budget) as loan:
            return find_weights(self.file.load(loan), self.path, self.options.key, loan)

    @cached_property
    def contents(self) -> Contents:
        return self.weights.contents(self.path, self.file)

    def read(self, name: str) -> Array:
        return self.weights.read(name, self.path, self.file)

    def training(self) -> Mapping[str, Any]:
        from converter.formats.torch.training import training_in  # few conversions carry the state of an optimizer

        root = self.file.load(Loan(self.file.budget))
        return training_in(root, self.path, self.file, self.weights.tensors, self.weights.place)

    def close(self) -> None:
        self.file.close()


# -- choosing -------------------------------------------------------------------------------------------------------


class _Choice:
    """Which part of the object of a training program are the weights of its net."""

    def __init__(self, search: Search, path: Path) -> None:
        self._search, self._path, self.place = search, path, ""
        self._optimizers: dict[int, bool] = {}

    def made(self, value: object) -> tuple[object, tuple[LeftOut, ...]]:
        """(the object that holds the weights, what is left out)."""
        prefix, beside = "", []
        for _ in range(4):
            chosen = self._weight_key(value)
            if not isinstance(value, dict) or chosen is None:
                break
            beside += [
                LeftOut(_joined(prefix, other), self._role(_joined(prefix, other), other, item))
                for other, item in value.items()
                if other != chosen
            ]
            value, prefix = value[chosen], _joined(prefix, chosen)
        self.place = prefix
        items = value.items() if isinstance(value, dict) else ()
        training = {other: item for other, item in items if self._is_training(other, item)}
        beside += [LeftOut(_joined(prefix, other), _OF_TRAINING) for other in training]
        rest = {other: item for other, item in items if other not in training} if training else value
        if not self._search.holds(rest):
            self._refuse_training(value, training, prefix)
        elif self._is_optimizer(rest):
            self._refuse_training(value, {"0/state" if isinstance(rest, (list, tuple)) else "state": None}, prefix)
        return rest, tuple(beside)

    def _refuse_training(self, value: object, training: Mapping[object, object], prefix: str) -> None:
        filled = [key for key, item in training.items() if item is None or self._search.holds(item)]
        if filled:
            key = _joined(prefix, filled[0])
            reads = Remedy("key", key, "reads its tensors as they are")
            raise FormatError(self._path, f"the state of a training ('{key}') and no weights of a net.", reads)

    def _weight_key(self, value: object) -> str | None:
        """The key of a training checkpoint under which the weights stand; None when this is not one."""
        if not isinstance(value, dict):
            return None
        if any(_is_tensor(item) and not self._is_training(name, item) for name, item in value.items()):
            return None
        return next((key for key in WEIGHT_KEYS if key in value and self._search.holds(value[key])), None)

    def _is_training(self, name: object, value: object) -> bool:
        return str(name) in TRAINING_KEYS or str(name).endswith("rng_state") or self._is_optimizer(value)

    def _is_optimizer(self, value: object) -> bool:
        """Whether it is an optimizer, its ``state_dict``, or a list of such."""
        inside = value.state if isinstance(value, Opaque) else value
        if isinstance(inside, dict):
            return inside.keys() >= _OPTIMIZER
        if not isinstance(value, (list, tuple)) or not value:
            return False
        if id(value) not in self._optimizers:
            known = all(isinstance(item, dict) and item.keys() >= _OPTIMIZER for item in value)
            self._optimizers[id(value)] = known
        return self._optimizers[id(value)]

    def _role(self, key: str, name: object, value: object) -> str:
        if self._is_training(name, value):
            return _OF_TRAINING
        if self._search.holds(value):
            return f"other tensors; --key {key} reads them instead"
        return _why(value) if self._search.is_leaf(value) else "holds no weights"


def _at(value: object, path: Path, key: str, children: ObjectChildren) -> tuple[object, tuple[LeftOut, ...]]:
    for part in key.split("/"):
        inside = {name: item for _, name, item in children(value) or ()}
        if part not in inside:
            offers = ", ".join(f"'{name}'" for name in list(inside)[:12])
            raise FormatError(path, f"there is no '{part}' of the key '{key}' in it; there is {offers or 'nothing'}")
        value = inside[part]
    return value, (LeftOut("*", f"only '{key}' was asked for"),)


def _joined(prefix: str, key: object) -> str:
    return f"{prefix}/{key}" if prefix else str(key)


def _writer(value: object) -> str:
    if not isinstance(value, dict):
        return ""
    version = value.get("pytorch-lightning_version")
    return f"PyTorch Lightning {version[:40]}" if isinstance(version, str) else ""
