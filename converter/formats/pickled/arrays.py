"""Arrays of any framework inside of a plain pickle: in ``.pkl`` files and in the object arrays of NumPy.

What each framework leaves in a pickle, beside NumPy's own (`pickle.numpy`):

* TensorFlow: ``convert_to_tensor`` of an array (``EagerTensor.__reduce__`` in ``framework/ops.py``).
* JAX: ``_reconstruct_array`` of the parts of an array (``jax/_src/array.py``; before 0.4
  ``reconstruct_device_array`` in ``jax/_src/device_array.py``; before 0.3 plain NumPy).
* MXNet: an NDArray whose state holds one record (`mxnet.record`).
* PyTorch: whole small files of its own, see `pickle.torch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from converter.core.contents import Container, Contents, LeftOut
from converter.core.tensors import DTYPES, Array, DType, TensorSpec
from converter.errors import FormatError
from converter.formats.base import check_names
from converter.formats.io.budget import Budget, Loan, names_beyond
from converter.formats.io.source import MemorySource, Parsed
from converter.formats.mxnet import record as mxnet_record
from converter.formats.pickle.load import COLLECTION_GLOBALS, Global, Opaque, PickleError, Shell, inert_class, load
from converter.formats.pickle.nested import Child, NamedValue, flatten
from converter.formats.pickle.numpy import NUMPY_GLOBALS
from converter.formats.pickled.torch import torch_globals
from converter.formats.torch.objects import ObjectChildren

#: What training loops keep beside the weights.
TRAINING = frozenset("opt_state optimizer optimizer_state optim rng rng_key".split())
_NUMBERS = frozenset(DTYPES.values())


class PickledArrays(msgspec.Struct, frozen=True):
    """What the pickle holds. The arrays are read-only views of its bytes."""

    contents: Contents
    arrays: Mapping[str, Array]


def read_pickle(
    data: bytes | memoryview | Parsed, path: Path, budget: Budget, passed: Callable[[], None] | None = None
) -> PickledArrays:
    """All arrays of the pickle, named by where they stand; the state of an optimizer beside them is left out.

    passed: see `load`. Nothing is run. Raises FormatError.
    """
    with Loan(budget) as loan:
        mxnet = dict.fromkeys(MXNET_ARRAYS, partial(MxnetShell, loan.budget))
        known = {**torch_globals(path, loan), **GLOBALS, **mxnet}
        value, size = load(data, path, known, unknown=inert_class, passed=passed, loan=loan)
        if size != len(data):
            raise FormatError(path, f"goes on for {len(data) - size} bytes after its pickle")
        boxed = isinstance(value, np.ndarray) and value.dtype.hasobject and not value.ndim
        root: object = value.item() if boxed else value  # type: ignore[attr-defined]
        children = ObjectChildren()
        training = [key for _, key, _ in children(root) or () if key in TRAINING]

        def weights(container: object) -> Iterable[Child] | None:
            inside = children(container)
            is_root = inside is not None and container is root
            return (child for child in inside or () if child[1] not in TRAINING) if is_root else inside

        flat = flatten(root, path, weights, _is_array, _what, loan)
    arrays = {entry.name: entry.value for entry in flat.kept if isinstance(entry.value, np.ndarray)}
    specs = check_names(path, [TensorSpec(entry.name, *_form(entry.value)) for entry in flat.kept])
    budget.charge(names_beyond(len(specs), len(data)), "the names of its arrays")
    beside = [LeftOut(key, "state of the training, not weights") for key in training]
    return PickledArrays(Contents(specs, _container(root, flat.kept), left_out=(*beside, *flat.left_out)), arrays)


def refuse_empty(path: Path, contents: Contents) -> None:
    """Raise FormatError for a file of one pickle in which there are no weights."""
    if not contents.specs and contents.left_out:
        first = contents.left_out[0]
        raise FormatError(path, f"holds no numeric arrays; '{first.name}' is {first.reason}")


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype in _NUMBERS


def _form(value: object) -> tuple[tuple[int, ...], DType]:
    assert isinstance(value, np.ndarray)
    return value.shape, value.dtype


def _container(root: object, kept: Sequence[NamedValue]) -> Container:
    if _is_array(root):
        return "tensor"
    is_list = isinstance(root, (list, tuple)) or (isinstance(root, np.ndarray) and root.ndim > 0)
    return "list" if is_list and [entry.name for entry in kept] == [str(i) for i in range(len(kept))] else "dict"


def _what(value: object) -> str:
    """What a leaf that is left out is."""
    if isinstance(value, (Opaque, Global)):
        return f"not an array but {value.name.replace(' ', '.')}"
    if isinstance(value, np.ndarray):
        return "an array of values that are not numeric"
    text = repr(value) if isinstance(value, (bool, float, str, type(None))) else ""
    return f"not an array but {text[:60] or type(value).__name__}"


class MxnetShell(Shell):
    """``NDArray(None)``, waiting for its state."""

    def __init__(self, budget: Budget, *_: object) -> None:
        self._budget = budget

    def finish(self, state: object) -> object:
        record = state.get("handle") if isinstance(state, dict) else None
        if record is None:
            return Opaque("mxnet NDArray")
        if not isinstance(record, (bytes, memoryview)):
            raise PickleError("an MXNet array without its bytes")
        return _mxnet_array(record, self._budget)


def _mxnet_array(record: bytes | memoryview, budget: Budget) -> Array | Opaque:
    source = MemorySource(budget.path, record, budget)
    try:
        parsed = mxnet_record.parse(source, 0, "the MXNet array")
        return mxnet_record.read(source, parsed, "the MXNet array") if parsed.parts else Opaque("mxnet NDArray")
    except FormatError as error:
        raise PickleError(error.reason) from None


def _jax_array(make: object, args: object, state: object, *_: object) -> object:
    """``_reconstruct_array(fun, args, state, aval)``: the parts of ``ndarray.__reduce__``, not yet put together."""
    if not isinstance(make, Global) or make.make is None or not isinstance(args, tuple):
        raise PickleError("a jax array that is not made of a NumPy array")
    shell = make.make(*args)
    if not isinstance(shell, Shell):
        return shell
    return shell.finish(state)


def _same(value: object, *_: object) -> object:
    return value


_VARIABLE = "tensorflow.python.ops.resource_variable_ops ResourceVariable"


def _partial(function: object, *args: object) -> object:
    """``functools.partial(ResourceVariable)`` is how a variable of TensorFlow is pickled; any other is never called."""
    if isinstance(function, Global) and function.name == _VARIABLE:
        return _VariableShell()
    return inert_class("functools partial")(function, *args)


class _VariableShell(Shell):
    """``functools.partial(ResourceVariable)``, waiting for its arguments; called without any afterwards."""

    def finish(self, state: object) -> object:
        keywords = state[2] if isinstance(state, tuple) and len(state) == 4 else None
        value = keywords.get("initial_value") if isinstance(keywords, dict) else None
        if not isinstance(value, np.ndarray):
            raise PickleError("a variable of TensorFlow without its value")
        return Global(_VARIABLE, lambda: value)


#: The classes of MXNet's arrays.
MXNET_ARRAYS = (
    "mxnet.ndarray NDArray",
    "mxnet.ndarray.ndarray NDArray",
    "mxnet.ndarray.sparse CSRNDArray",
    "mxnet.ndarray.sparse RowSparseNDArray",
    "mxnet.numpy ndarray",
    "mxnet.numpy.multiarray ndarray",
)

#: For `known` of `load`, beside PyTorch's: our own function for each global of a pickle of arrays.
GLOBALS: Mapping[str, Callable[..., object] | None] = {
    **COLLECTION_GLOBALS,
    **NUMPY_GLOBALS,
    "tensorflow.python.framework.ops convert_to_tensor": _same,
    "tensorflow.python.framework.tensor_conversion convert_to_tensor": _same,
    "tensorflow.python.framework.dtypes as_dtype": _same,
    "functools partial": _partial,
    _VARIABLE: None,
    "jax._src.array _reconstruct_array": _jax_array,
    "jax._src.device_array reconstruct_device_array": _jax_array,
    "flax.core.frozen_dict FrozenDict": COLLECTION_GLOBALS["builtins dict"],
    "haiku._src.data_structures frozendict": COLLECTION_GLOBALS["builtins dict"],
}
