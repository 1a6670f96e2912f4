"""How large the directory of a zip archive is, before `zipfile` makes an object of each of its entries."""

from __future__ import annotations

import struct

__all__ = ["MOST_ENTRIES", "READ_ENTRY", "TAIL", "entries_at_most"]

#: Bytes of memory for an entry while the directory is read, and the fewest that it takes in the file.
READ_ENTRY, SHORTEST_ENTRY = 1000, 46
#: As many as the budget of a file pays for (see `io.budget`).
MOST_ENTRIES = 350_000
#: The end of the directory, and what stands before it in archives of 4 GB and more: its 64-bit form and a locator.
_END, _MARK, _FAR_MARK, _FAR = struct.Struct("<4s4H2IH"), b"PK\5\6", b"PK\6\6", 76
#: So many bytes at the end of an archive tell; a comment may be as long as 64 KB.
TAIL = (1 << 16) + _END.size + _FAR


def entries_at_most(tail: bytes, size: int) -> int:
    """tail: the last `TAIL` bytes of an archive of that size. Its end is looked for as `zipfile` does."""
    is_last = tail[-_END.size :].startswith(_MARK) and tail.endswith(b"\0\0")
    at = len(tail) - _END.size if is_last else tail.rfind(_MARK)
    if at < 0 or len(tail) < at + _END.size:
        return 0
    directory = int(_END.unpack_from(tail, at)[5])
    far = tail[at - _FAR : at] if at >= _FAR else b""
    if far.startswith(_FAR_MARK):
        directory = int.from_bytes(far[40:48], "little")
    return min(directory, size) // SHORTEST_ENTRY
