"""File formats: how bytes on disk hold named tensors. README.md says how one is added."""

from converter.core.contents import Contents, LeftOut
from converter.formats.base import Reader, ReadOptions, Writer
from converter.formats.open import detect, open_reader, open_writer
from converter.formats.table import FORMATS, Format, by_name

__all__ = [
    "FORMATS",
    "Contents",
    "Format",
    "LeftOut",
    "ReadOptions",
    "Reader",
    "Writer",
    "by_name",
    "detect",
    "open_reader",
    "open_writer",
]
