"""The header of a safetensors file: dtypes, shapes and offsets, checked against each other and the file.

Format: the README of huggingface/safetensors and ``Metadata::validate`` in its ``tensor.rs``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from converter.core.tensors import DTYPES, DType, TensorSpec
from converter.errors import FormatError
from converter.formats.io.json import MAX_JSON, parse_json
from converter.formats.io.source import Source, check_shape

MAX_HEADER = MAX_JSON
HASHES = "xxh3_128"

#: `Dtype` of safetensors 0.8 -> ours: all that it defines.
CODES: Mapping[str, str] = {
    "BOOL": "bool",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F6_E2M3": "float6_e2m3fn",
    "F6_E3M2": "float6_e3m2fn",
    "F4": "float4_e2m1fn",
}
CODE_OF: Mapping[DType, str] = {DTYPES[name]: code for code, name in CODES.items() if name in DTYPES}
#: Code -> bits an element, where those are fewer than the byte that it takes in memory; see `pack`.
PACKED: Mapping[str, int] = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


class TensorInfo(msgspec.Struct, frozen=True, gc=False):
    """Where one tensor lies, from the start of the data."""

    spec: TensorSpec
    code: str
    start: int
    end: int


def entry_bytes(code: str, spec: TensorSpec) -> int:
    """Bytes of the tensor in the file. Raises ValueError when its bits fill no whole byte."""
    bits = PACKED.get(code, 8 * spec.dtype.itemsize)
    if spec.size * bits % 8:
        raise ValueError(f"'{spec.name}' has {spec.size} elements of {bits} bits, which fill no whole byte")
    return spec.size * bits // 8


def read_header(source: Source) -> tuple[int, dict[str, str], dict[str, TensorInfo]]:
    """Where the data starts, the free metadata, and the entries: in the header's order if the file is
    ours, else in the order of the data (a header written from a hash map has no order)."""
    path = source.path
    length = int.from_bytes(source.take(0, 8, "the length of the header"), "little")
    if length > MAX_HEADER:
        raise FormatError(path, f"claims a header of {length} bytes; at most {MAX_HEADER} are allowed")
    header = parse_json(path, source.take(8, length, "the header"), "the header", source.budget)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(path, "'__metadata__' in the header must map names to texts")
    entries = [_entry(path, name, entry) for name, entry in header.items()]
    in_data_order = sorted(entries, key=lambda entry: (entry.start, entry.end))
    end = 0
    for entry in in_data_order:
        if entry.start != end:
            raise FormatError(path, f"'{entry.spec.name}' starts at {entry.start}; the data before it ends at {end}")
        end = entry.end
    if 8 + length + end != source.size:
        raise FormatError(
            path, f"the header describes {8 + length + end} bytes, but the file has {source.size}: it is cut or damaged"
        )
    ordered = entries if HASHES in metadata else in_data_order
    return 8 + length, metadata, {entry.spec.name: entry for entry in ordered}


def _entry(path: Path, name: str, entry: object) -> TensorInfo:
    """One value of the header, checked against itself."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(path, f"the header's entry for '{name}' must have dtype, shape and data_offsets, and no more")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in CODES:
        raise FormatError(path, f"'{name}' has the dtype {code!r}; known are {', '.join(CODES)}")
    if CODES[code] not in DTYPES:
        raise FormatError(path, f"'{name}' is {code}, which the installed ml_dtypes lacks; 0.5 and later have it")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise FormatError(path, f"'{name}' has the shape {shape!r} and the offsets {offsets!r}, not valid sizes")
    dtype = DTYPES[CODES[code]]
    spec = TensorSpec(name, check_shape(path, shape, dtype, f"'{name}'"), dtype)
    start, end = offsets
    try:
        needed = entry_bytes(code, spec)
    except ValueError as error:
        raise FormatError(path, str(error)) from None
    if end - start != needed:
        raise FormatError(path, f"'{name}' of {code} and shape {spec.shape} needs {needed} bytes, not {end - start}")
    return TensorInfo(spec, code, start, end)


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def digests_of(
    path: Path, text: str | None, entries: Mapping[str, TensorInfo], verify: bool
) -> Mapping[str, str] | None:
    """Tensor name -> hex digest; None when the file has none or they are not to be checked."""
    if text is None or not verify:
        return None
    digests = parse_json(path, text.encode(), f"'{HASHES}' in the header")
    if digests.keys() != entries.keys():
        raise FormatError(path, f"'{HASHES}' in the metadata and the tensors have different names: the file is damaged")
    return digests
