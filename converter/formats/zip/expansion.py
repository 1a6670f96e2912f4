"""How large packed data may become: enough for weights that are nearly all zeros, too little for a bomb."""

from __future__ import annotations

#: Deflate makes at most so many bytes of one: two bits for a match of 258.
DEFLATE = 1032
#: What any file may unpack at once. Three times this (the tensor before, this one, a copy of it) is below 500 MB.
FREE_SIZE = 128 << 20
#: A tensor may be so many times as large as the whole file.
MAX_RATIO = 200


def most_unpacked(packed: int, whole: int) -> int:
    """The bytes that ``packed`` bytes of deflate in a file of ``whole`` bytes may unpack to."""
    return min(DEFLATE * packed, max(FREE_SIZE, MAX_RATIO * whole))
