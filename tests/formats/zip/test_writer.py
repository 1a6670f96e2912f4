"""The zip writer, with sizes that no test can write."""

from __future__ import annotations

import struct

from converter.formats.zip.writer import ZipLayout


def test_sizes_and_offsets_of_4_gib_and_more_use_zip64_fields() -> None:
    layout = ZipLayout()
    layout.add("a", 5 << 30)
    huge = layout.add("b.npy", 6 << 30, head=bytes(128))
    header = layout.header(huge)
    assert huge.data % 64 == 0 and len(header) == huge.data - huge.start
    assert struct.pack("<QQ", huge.size, huge.size) in header
    directory = layout.directory()
    assert struct.pack("<QQQ", huge.size, huge.size, huge.start) in directory
    end = directory.index(b"PK\x06\x06")
    assert struct.unpack_from("<2Q", directory, end + 40) == (end, layout.end)
    assert struct.unpack_from("<Q", directory, directory.index(b"PK\x06\x07") + 8) == (layout.end + end,)


def test_narrow_fields_where_they_suffice() -> None:
    layout = ZipLayout()
    start, content = layout.add_whole("a", b"text")
    assert start == 0 and content.endswith(b"text") and len(content) == layout.end
    assert b"PK\x06\x06" not in layout.directory()
