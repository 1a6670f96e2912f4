"""Write docs/formats.md, the table format x capability: `python docs/capabilities.py`. A test sees that it is current.

What the code declares is taken from `converter.formats.FORMATS`; which dtypes a format can hold is found out by
writing and reading back an array of each.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from converter.errors import ConversionError
from converter.formats import FORMATS, Contents, Format, Reader, open_reader, open_writer
from converter.frameworks import FRAMEWORKS
from converter.tensors import DTYPES, Array, TensorSpec

PAGE = Path(__file__).parent / "formats.md"
#: How a tensor must be called where the format has a rule for names.
NAMES = {
    "keras-h5": "layers/dense/vars/0",
    "keras2-h5": "dense/dense/kernel:0",
    "tf-checkpoint": "dense/kernel/.ATTRIBUTES/VARIABLE_VALUE",
}
HEAD = """# Formats

Written by `python docs/capabilities.py` from the code: the dtypes are those that came back bit for bit when each was
written and read. The tests see that the checksums are compared, and not with `--no-verify`.

- Every format is read lazily: listing reads headers only, and a tensor only itself. A compressed zip member or chunk is
  unpacked as a whole.
- Every writer streams: one tensor is in memory at a time. Nothing stands under the final name before it is whole.
- A former file is replaced by one rename. Where the output is several files (shards, a TensorFlow checkpoint) or a
  folder, the former one steps aside for that instant: a kill leaves the old one, the new one, or none under that name
  with the old one beside it, and the error of the next reader says where. Old and new are never mixed.
- Same input, same bytes.
- safetensors packs elements of 4 and 6 bits and leaves their order in a byte unsaid; they are read and written with the
  lowest bits first, as torch, CUDA and AMD Quark lay them out. A plain copy is exact whatever the order was.
- Nothing of a file is ever run; every length, offset and shape is checked against the file before memory is taken.

| format | of | written as | checksums | dtypes written |
|---|---|---|---|---|
"""


def page() -> str:
    return HEAD + "\n".join(_row(row) for row in FORMATS) + "\n"


def _row(row: Format) -> str:
    of = ", ".join(framework.title for framework in FRAMEWORKS if framework.name in row.frameworks) or "any"
    endings = ", ".join(f"`{ending}`" for ending in row.extensions) or "only read"
    dtypes = _dtypes(row) if row.extensions and row.name != "keras" else ""
    return f"| {row.title} (`{row.name}`) | {of} | {endings} | {row.checksums} | {dtypes} |"


def _dtypes(row: Format) -> str:
    held = [name for name in DTYPES if _comes_back(row, name)]
    missing = [name for name in DTYPES if name not in held]
    return "all" if not missing else f"all but {', '.join(missing)}" if len(missing) < len(held) else ", ".join(held)


def array_of(dtype: str) -> Array:
    rng = np.random.default_rng(0)
    return rng.integers(0, 2, 12).astype(np.uint8).astype(DTYPES[dtype]).reshape(3, 4)


def write(row: Format, folder: Path, array: Array) -> Path:
    """A file of that format with one array, under a name that the format takes."""
    name = NAMES.get(row.name, "layer.weight")
    path = folder / f"m{row.extensions[0]}"
    with open_writer(row, path, Contents((TensorSpec(name, array.shape, array.dtype),))) as writer:
        writer.write(name, array)
    return path


def _comes_back(row: Format, dtype: str) -> bool:
    array = array_of(dtype)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = write(row, Path(folder), array)
        except ConversionError:
            return False
        reader: Reader
        _, reader = open_reader(path)
        with reader:
            found = reader.read(reader.contents.specs[0].name)
            return found.dtype == array.dtype and found.tobytes() == array.tobytes()


if __name__ == "__main__":
    PAGE.write_text(page())
