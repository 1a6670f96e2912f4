"""The header of an array in NumPy's format: of an ``.npy`` file, and of each member of an ``.npz``.

Format: NEP 1 and ``numpy/lib/_format_impl.py``. What stands beyond NumPy's own dtypes: ``V2`` is how
ml_dtypes' bfloat16 is saved, and ``[('bfloat16', '<u2')]`` MXNet's; every 8-bit type but ``f1``
(float8_e5m2) is saved as ``V1``, and which one it was is lost.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from converter.core.tensors import DTYPES, Array, DType
from converter.errors import FormatError
from converter.formats.io.source import check_shape, frozen, written

MAGIC = b"\x93NUMPY"
#: NumPy itself refuses longer headers, because parsing them may take long.
MAX_HEADER = 10_000
#: As many bytes as a header can take.
HEAD = MAX_HEADER + 12
GROWTH = 21  # digits that NumPy leaves for the first axis to grow

#: ``dtype.str`` without the byte order -> dtype.
CODES: Mapping[str, DType] = {
    **{dtype.str[1:]: dtype for dtype in DTYPES.values() if dtype.isbuiltin == 1},
    "V2": DTYPES["bfloat16"],
    "f1": DTYPES["float8_e5m2"],
}
MXNET_BFLOAT16 = [("bfloat16", "<u2")]

UNCLEAR = "of an 8-bit or 4-bit type of ml_dtypes, and the file does not say of which"
#: dtype.kind of what is not numeric -> what it is.
NOT_NUMBERS: Mapping[str, str] = {
    "U": "text",
    "S": "text",
    "M": "dates",
    "m": "durations",
    "V": "records",
    "f": "floats wider than those of any framework",
    "c": "floats wider than those of any framework",
}


class Header(msgspec.Struct, frozen=True):
    """dtype: with its byte order; ``object`` for a pickle; None when the elements are not numeric, and then
    ``problem`` says what they are. start: where the data begins."""

    shape: tuple[int, ...]
    dtype: DType | None
    fortran: bool
    start: int
    problem: str = ""

    @property
    def is_pickle(self) -> bool:
        return self.dtype is not None and self.dtype.hasobject

    @property
    def is_unclear(self) -> bool:
        """Whether the elements may well be weights, only of a type that the file does not name."""
        return self.problem == UNCLEAR

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * (self.dtype.itemsize if self.dtype else 0)


def parse(path: Path, head: bytes, what: str) -> Header:
    """The header at the start of ``head``, which has `HEAD` bytes or all that there are. Raises FormatError."""
    version = head[6:8]
    if head[:6] != MAGIC or version not in (b"\1\0", b"\2\0", b"\3\0"):
        raise FormatError(path, f"{what} does not start as a NumPy array does, but with {head[:8]!r}")
    size = 2 if version == b"\1\0" else 4
    start = 8 + size + int.from_bytes(head[8 : 8 + size], "little")
    if start > HEAD or start > len(head) or len(head) < 8 + size:
        raise FormatError(path, f"the header of {what} needs {start} bytes, of which {len(head)} are there and allowed")
    raw = head[8 + size : start]
    try:
        text = raw.decode("utf-8" if version == b"\3\0" else "latin-1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of odd literals, which a damaged header has
            fields = ast.literal_eval(re.sub(r"(\d)L\b", r"\1", text))  # Python 2 wrote 3L
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise FormatError(path, f"the header of {what} is damaged: {raw[:60]!r}") from error
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise FormatError(path, f"the header of {what} must give descr, fortran_order and shape: {raw[:60]!r}")
    shape, fortran = fields["shape"], fields["fortran_order"]
    if not isinstance(shape, tuple) or not all(type(dim) is int for dim in shape) or type(fortran) is not bool:
        raise FormatError(path, f"the header of {what} has the shape {written(shape)} and the order {written(fortran)}")
    dtype, problem = _dtype(fields["descr"])
    return Header(check_shape(path, shape, dtype or DTYPES["uint8"], what), dtype, fortran, start, problem)


def build(shape: tuple[int, ...], descr: str | list[tuple[str, str]]) -> bytes:
    """Byte for byte what NumPy writes for an array in C order."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    text += " " * (GROWTH - len(repr(shape[0]))) if shape else ""
    text += " " * (-(len(MAGIC) + 4 + len(text) + 1) % 64) + "\n"
    return MAGIC + b"\1\0" + len(text).to_bytes(2, "little") + text.encode("latin-1")


def descr_of(dtype: DType) -> str | None:
    """How NumPy writes a little-endian array of that dtype; None where it could not be read again."""
    code = next((code for code, known in CODES.items() if known == dtype and code != "f1"), None)
    if code is None:
        return None
    return ("|" if dtype.itemsize == 1 else "<") + code


def to_array(header: Header, raw: Array) -> Array:
    """The array over its raw bytes: native byte order, C order, read-only; a view where it lies so."""
    assert header.dtype is not None
    if not header.nbytes:
        return frozen(np.empty(header.shape, header.dtype.newbyteorder("=")))
    aligned = raw if raw.ctypes.data % header.dtype.alignment == 0 else raw.copy()
    array = aligned.view(header.dtype).reshape(header.shape, order="F" if header.fortran else "C")
    return frozen(np.asarray(array, header.dtype.newbyteorder("="), order="C"))


def _dtype(descr: object) -> tuple[DType | None, str]:
    """The dtype that a header describes, or None and what it describes instead."""
    if descr == MXNET_BFLOAT16:
        return DTYPES["bfloat16"], ""
    if not isinstance(descr, str):
        return None, NOT_NUMBERS["V"]
    if descr in ("|O", "O"):
        return np.dtype(object), ""
    order, code = (descr[0], descr[1:]) if descr[:1] in "<>|=" else ("=", descr)
    if code in CODES:
        dtype = CODES[code]
        return (dtype.newbyteorder(">") if order == ">" and dtype.isbuiltin == 1 else dtype), ""
    if code == "V1":
        return None, UNCLEAR
    return None, NOT_NUMBERS.get(code[:1], f"of the unknown type {descr[:20]!r}")
