"""The pickle that an ``.npy`` of a dict or a list holds, as its fixed bytes and the offsets of the arrays.

Protocol 4, without frames and without a memo, so that every offset follows from the specs and the bytes are
always the same. The globals are spelled as NumPy 1.x does, which NumPy 2.x understands.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from converter.core.contents import Contents
from converter.core.tensors import DTYPES, DType, TensorSpec
from converter.errors import OutputError

MAX_DEPTH = 100
_RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
_DTYPE = b"cnumpy\ndtype\n"


def pickle_pieces(path: Path, contents: Contents) -> Iterator[bytes | TensorSpec]:
    """The pickle in order: bytes, and for the data of each tensor its spec.

    A name with ``/`` stands in a dict inside of the dict. Raises OutputError when a name is also a folder.
    """
    is_list = contents.container == "list"
    shape = (len(contents.specs),) if is_list else ()
    yield b"\x80\x04" + _RECONSTRUCT + b"(K\x01" + _numbers(shape) + _DTYPE + b"X\x01\x00\x00\x00O\x85R\x89]("
    if is_list:
        for spec in contents.specs:
            yield from _array(spec)
    else:
        yield from _dict(_nested(path, contents.specs))
    yield b"etb."


def _dict(tree: Mapping[str, object]) -> Iterator[bytes | TensorSpec]:
    yield b"}("
    for name, value in tree.items():
        yield _text(name)
        yield from _array(value) if isinstance(value, TensorSpec) else _dict(value)  # type: ignore[arg-type]
    yield b"u"


def _array(spec: TensorSpec) -> Iterator[bytes | TensorSpec]:
    yield (
        _RECONSTRUCT
        + b"(K\x01"
        + _numbers(spec.shape)
        + _dtype(spec.dtype)
        + b"\x89\x8e"
        + struct.pack("<Q", spec.nbytes)
    )
    yield spec
    yield b"tb"


def _dtype(dtype: DType) -> bytes:
    """``numpy.dtype('<f4')``, or ``numpy.dtype(ml_dtypes.bfloat16)``."""
    if DTYPES[dtype.name].isbuiltin == 1:  # of the table, for an unpickled float32 says that it is not
        code = "|" if dtype.itemsize == 1 else "<"
        return _DTYPE + _text(code + dtype.str[1:]) + b"\x85R"
    return _DTYPE + f"cml_dtypes\n{dtype.name}\n".encode() + b"\x85R"


def _nested(path: Path, specs: Sequence[TensorSpec]) -> dict[str, object]:
    tree: dict[str, object] = {}
    for spec in specs:
        *folders, leaf = spec.name.split("/")
        if len(folders) > MAX_DEPTH:
            raise OutputError(f"{path}: '{spec.name[:60]}...' is nested more than {MAX_DEPTH} deep")
        here = tree
        for folder in folders:
            inside = here.setdefault(folder, {})
            if not isinstance(inside, dict):
                raise OutputError(f"{path}: '{folder}' in '{spec.name}' is a tensor itself. Rename one of them.")
            here = inside
        if leaf in here:
            raise OutputError(f"{path}: '{spec.name}' is a tensor and the start of other names. Rename one of them.")
        here[leaf] = spec
    return tree


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _numbers(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in values) + b"t"
