"""Every format that can be written: a file name, and names of tensors that it accepts; all from the table."""

from __future__ import annotations

from converter.formats import FORMATS, by_name

#: format -> file name
FILES = {row.name: f"x{row.extensions[0]}" for row in FORMATS if row.extensions}


def names(row: str, count: int) -> list[str]:
    return [by_name(row).tensor_name.format(number) for number in range(count)]
