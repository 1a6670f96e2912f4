"""The pickle, in protocol 2, that describes tensors as PyTorch does: the counterpart of `rebuild`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from converter.core.contents import AllOthers, Container, Ref
from converter.core.tensors import DType, TensorSpec
from converter.errors import OutputError
from converter.formats.pickle.write import class_of, mapping, number, numbers, plain, text
from converter.formats.torch.tensors import STORAGE_DTYPES, TORCH_DTYPES

__all__ = ["LEGACY_DTYPES", "check_dtypes", "described"]


def check_dtypes(path: Path, specs: Iterable[TensorSpec], legacy: bool = False) -> None:
    """Raise OutputError for a dtype that PyTorch does not have.

    legacy: or that has no class of storages; PyTorch cannot load those from the form before 1.6.
    """
    for spec in specs:
        if spec.dtype not in (_STORAGE_NAMES if legacy else _DTYPE_NAMES):
            form = "PyTorch's form before 1.6" if legacy else "PyTorch files"
            raise OutputError(f"{path}: '{spec.name}' is {spec.dtype}, which {form} cannot hold. Cast it.")


def described(
    specs: Sequence[TensorSpec],
    container: Container,
    legacy: bool = False,
    versions: Mapping[str, int] = MappingProxyType({}),
    tree: object = None,
) -> bytes:
    """The pickle of a tensor, a list or a dict; the storage of the n-th tensor has the key n.

    legacy: as in the files before 1.6, whose storages may be views of others; these are not. versions: module -> the
    version of its layout, in the ``_metadata`` of an ``OrderedDict``, as ``Module.state_dict`` gives it. tree: what
    the tensors stand in, as in `Contents`.
    """
    tensors = [_tensor(key, spec, legacy) for key, spec in enumerate(specs)]
    if container == "tensor" and len(tensors) == 1:
        body = tensors[0]
    elif container == "list" and [spec.name for spec in specs] == [str(index) for index in range(len(specs))]:
        body = b"](" + b"".join(tensors) + b"e"
    elif tree is not None:
        body = _nested(tree, dict(zip((spec.name for spec in specs), tensors, strict=True)), versions)
    else:
        body = _state_dict(zip((spec.name for spec in specs), tensors, strict=True), versions)
    return b"\x80\x02" + body + b"."


def _state_dict(tensors: Iterable[tuple[str, bytes]], versions: Mapping[str, int]) -> bytes:
    body = mapping(tensors)
    if not versions:
        return body
    known = mapping((name, mapping([("version", number(version))])) for name, version in versions.items())
    return _ORDERED + body[1:] + mapping([("_metadata", known)]) + b"b"


def _nested(tree: object, tensors: Mapping[str, bytes], versions: Mapping[str, int]) -> bytes:
    """What `Contents.tree` describes."""
    own = set(_named_in(tree))

    def leaf(item: object) -> bytes | None:
        if isinstance(item, Ref):
            return tensors[item.name]
        if isinstance(item, AllOthers):
            return _state_dict(((name, data) for name, data in tensors.items() if name not in own), versions)
        return None

    return plain(tree, leaf)


def _named_in(tree: object) -> Iterator[str]:
    if isinstance(tree, Ref):
        yield tree.name
    for item in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ():
        yield from _named_in(item)


def _tensor(key: int, spec: TensorSpec, legacy: bool) -> bytes:
    """A call of ``_rebuild_tensor_v2``; dtypes without a storage class of their own need ``_v3``."""
    dtype = _DTYPE_NAMES[spec.dtype]
    kind = _STORAGE_NAMES.get(spec.dtype)
    strides = [math.prod(side or 1 for side in spec.shape[axis + 1 :]) for axis in range(len(spec.shape))]
    storage_class = class_of("torch", kind) if kind else class_of("torch.storage", "UntypedStorage")
    identity = (
        b"("
        + text("storage")
        + storage_class
        + text(str(key))
        + text("cpu")
        + number(spec.size if kind else spec.nbytes)
        + (b"NtQ" if legacy else b"tQ")
    )
    layout = number(0) + numbers(spec.shape) + numbers(strides) + b"\x89" + _ORDERED
    function = class_of("torch._utils", "_rebuild_tensor_v2" if kind else "_rebuild_tensor_v3")
    return function + b"(" + identity + layout + (b"" if kind else class_of("torch", dtype)) + b"tR"


#: An empty one, which is also what PyTorch says of hooks.
_ORDERED = class_of("collections", "OrderedDict") + b")R"


_DTYPE_NAMES: Mapping[DType, str] = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_STORAGE_NAMES: Mapping[DType, str] = {
    dtype: name for name, dtype in STORAGE_DTYPES.items() if not name.startswith("Q") and name != "UntypedStorage"
}
#: What the form before 1.6 can hold.
LEGACY_DTYPES = frozenset(_STORAGE_NAMES)
