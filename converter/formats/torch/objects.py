"""The weights in a PyTorch file: which part of its object they are, and the names of the tensors.

A file is a tensor, a list, a dict, a ``state_dict``, a whole ``nn.Module``, or the checkpoint of a training run
with all of these inside.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from converter.core.contents import Container, Contents, LeftOut
from converter.core.tensors import DTYPES, Array, TensorSpec
from converter.errors import FormatError
from converter.formats.base import Reader, ReadOptions, check_names
from converter.formats.pickle.load import Global, Opaque, PickleError
from converter.formats.pickle.nested import Child, flatten, left_out, plain_children
from converter.formats.torch.tensors import EXPAND_FACTOR, TORCH_DTYPES, FileTensor, NotATensor, Storage, TorchFile

__all__ = ["TorchReader", "Weights", "find_weights", "object_children"]

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
#: All tensors of a file together may take so many bytes, or EXPAND_FACTOR times what their storages hold.
MAX_TOTAL = 1 << 30
_NUMBERS = frozenset(DTYPES.values())


class Weights(msgspec.Struct, frozen=True):
    """The tensors of the file by name, and what else is in it."""

    container: Container
    tensors: Mapping[str, FileTensor | Array]
    left_out: tuple[LeftOut, ...]
    writer: str = ""

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
        if total > MAX_TOTAL and total > EXPAND_FACTOR * sum(stored.values()):
            raise FormatError(path, f"its tensors would take {total} bytes, all expanded from a few")
        writer = self.writer or file.writer
        return Contents(check_names(path, specs), self.container, left_out=self.left_out, writer=writer)

    def read(self, name: str, path: Path, file: TorchFile) -> Array:
        leaf = self.tensors[name]
        try:
            array = leaf.view() if isinstance(leaf, np.ndarray) else leaf.read(file)
        except PickleError as error:
            raise FormatError(path, f"the tensor '{name}': {error}") from None
        array.flags.writeable = False
        return array


def find_weights(value: object, path: Path, key: str | None = None) -> Weights:
    """The weights in the object that a file describes.

    key: the path of the weights, keys joined with ``/``; None: the usual paths of training
        checkpoints, or else everything.
    Raises FormatError when there is nothing at ``key``, or when two tensors have one name.
    """
    root, beside = _choose(value, path, key)
    entries = list(flatten(root, path, object_children))
    kept = [entry for entry in entries if _is_tensor(entry.value)]
    tensors: dict[str, FileTensor | Array] = {}
    for entry in kept:
        if entry.name in tensors:
            raise FormatError(path, f"the name '{entry.name}' occurs twice in the file")
        assert isinstance(entry.value, (FileTensor, np.ndarray))
        tensors[entry.name] = entry.value
    return Weights(_container(root), tensors, (*beside, *left_out(entries, kept, _why)), _writer(value))


def object_children(value: object) -> Iterable[Child] | None:
    """As `plain_children`, and the tensors of objects whose class is unknown, by attribute."""
    if not isinstance(value, Opaque):
        return plain_children(value)
    attributes = value.attributes
    if all(isinstance(attributes.get(name), dict) for name in _HOOKS):
        return _module_children(attributes)
    scripted = value.name.startswith("__torch__")  # of TorchScript's objects only the tensors are of interest
    items = attributes.items()
    inside = [(".", str(name), item) for name, item in items if not scripted or _is_tensor(item) or _is_open(item)]
    inside += plain_children(value.mapping) or ()
    inside += plain_children(value.items) or ()
    return inside or None


def _module_children(attributes: Mapping[object, object]) -> Iterator[Child]:
    """In the order of ``Module.state_dict``: parameters, buffers, then the modules inside."""
    parameters, buffers, modules = (attributes[name] for name in _HOOKS)
    assert isinstance(parameters, dict) and isinstance(buffers, dict) and isinstance(modules, dict)
    transient = attributes.get("_non_persistent_buffers_set")
    for name, item in parameters.items():
        yield (".", str(name), item)
    for name, item in buffers.items():
        hidden = isinstance(transient, (set, list)) and name in transient and item is not None
        yield (".", str(name), NotATensor("a buffer that the module does not save") if hidden else item)
    for name, item in modules.items():
        yield (".", str(name), item)
    for name, item in attributes.items():
        if _is_tensor(item):
            yield (".", str(name), NotATensor("neither a parameter nor a buffer of its module"))


def _is_open(value: object) -> bool:
    return object_children(value) is not None


def _is_tensor(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype in _NUMBERS
    return isinstance(value, FileTensor)


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

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self.file = self.open()

    @abstractmethod
    def open(self) -> TorchFile:
        """The file of `path`, with the `options`. Raises FormatError."""

    @cached_property
    def weights(self) -> Weights:
        return find_weights(self.file.load(), self.path, self.options.key)

    @cached_property
    def contents(self) -> Contents:
        return self.weights.contents(self.path, self.file)

    def read(self, name: str) -> Array:
        return self.weights.read(name, self.path, self.file)

    def close(self) -> None:
        self.file.close()


# -- choosing -------------------------------------------------------------------------------------------------------


def _choose(value: object, path: Path, key: str | None) -> tuple[object, tuple[LeftOut, ...]]:
    """(the object that holds the weights, what is left out)."""
    if key is not None:
        return _at(value, path, key), (LeftOut("*", f"only '{key}' was asked for"),)
    prefix, beside = "", []
    for _ in range(4):
        chosen = _weight_key(value)
        if not isinstance(value, dict) or chosen is None:
            break
        beside += [
            LeftOut(_joined(prefix, other), _role(other, item)) for other, item in value.items() if other != chosen
        ]
        value, prefix = value[chosen], _joined(prefix, chosen)
    if isinstance(value, dict):
        training = {other: item for other, item in value.items() if _is_training_state(other, item)}
        if training and len(training) < len(value):
            beside += [LeftOut(_joined(prefix, other), _role(other, item)) for other, item in training.items()]
            value = {other: item for other, item in value.items() if other not in training}
    return value, tuple(beside)


def _at(value: object, path: Path, key: str) -> object:
    for part in key.split("/"):
        inside = {name: item for _, name, item in object_children(value) or ()}
        if part not in inside:
            offers = ", ".join(f"'{name}'" for name in list(inside)[:12])
            raise FormatError(path, f"there is no '{part}' of the key '{key}' in it; there is {offers or 'nothing'}")
        value = inside[part]
    return value


def _weight_key(value: object) -> str | None:
    """The key of a training checkpoint under which the weights stand; None when this is not one."""
    if not isinstance(value, dict):
        return None
    if any(_is_tensor(item) and not _is_training_state(name, item) for name, item in value.items()):
        return None
    return next((key for key in WEIGHT_KEYS if _holds_tensors(value.get(key))), None)


def _holds_tensors(value: object) -> bool:
    """Whether a tensor is inside, at most twelve levels down."""
    level = [value]
    for _ in range(12):
        below: list[object] = []
        for item in level:
            for _, _, child in object_children(item) or ():
                if _is_tensor(child):
                    return True
                below.append(child)
                if len(below) > 10_000:
                    return False
        level = below
    return False


def _is_training_state(name: object, value: object) -> bool:
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, dict) for item in value):
        return str(name) in TRAINING_KEYS or all({"state", "param_groups"} <= item.keys() for item in value)
    is_optimizer = isinstance(value, dict) and {"state", "param_groups"} <= value.keys()
    return is_optimizer or str(name) in TRAINING_KEYS or str(name).endswith("rng_state")


def _role(name: object, value: object) -> str:
    if _is_training_state(name, value):
        return "state of the training, not weights"
    if _holds_tensors(value):
        return f"other tensors; --key {name} reads them instead"
    return _why(value) if not _is_open(value) else "holds no weights"


def _joined(prefix: str, key: object) -> str:
    return f"{prefix}/{key}" if prefix else str(key)


def _writer(value: object) -> str:
    if not isinstance(value, dict):
        return ""
    version = value.get("pytorch-lightning_version")
    return f"PyTorch Lightning {version[:40]}" if isinstance(version, str) else ""
