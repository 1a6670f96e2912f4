"""CRC-32C as TensorFlow and leveldb store it: rotated and shifted ("masked")."""

from __future__ import annotations

from converter.core.tensors import Array
from converter.formats.io.checksums import Crc32c

_MASK_DELTA = 0xA282EAD8


def masked_crc32c(*parts: bytes | Array) -> int:
    """The masked checksum of the parts, one after the other (each contiguous and read-only)."""
    checksum = Crc32c()
    for part in parts:
        checksum.update(part)
    return masked(checksum.value)


def masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF
