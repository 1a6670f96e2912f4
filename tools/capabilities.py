"""Write docs/formats.md, the table format x capability: `python tools/capabilities.py`. A test sees that it is current.

What the code declares is taken from `converter.formats.FORMATS`; which dtypes a format can hold is found out by
writing and reading back an array of each.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from converter.core.tensors import DTYPES, Array, TensorSpec
from converter.errors import ConversionError
from converter.formats import FORMATS, Contents, Format, Reader, open_reader, open_writer
from converter.frameworks import FRAMEWORKS

PAGE = Path(__file__).parent.parent / "docs" / "formats.md"
HEAD = """# Formats

Written by `python tools/capabilities.py` from the code: `lazy`, `streams` and the dtypes read are what its readers and
writers say of themselves; the dtypes written are those that came back bit for bit when each was written and read. Tests
hold all of it to files of 300 MB, to the real frameworks, and to damaged data (with and without `--no-checksums`).

- `lazy` is what is read for one tensor. Listing reads headers only: `converter inspect` of 2 GB in a hundred tensors
  takes 43 to 55 MB in every format.
- A writer that `streams` has one tensor in memory at a time. Nothing stands under the final name before it is whole.
- A former file is replaced by one rename. Where the output is several files (shards, a TensorFlow checkpoint) or a
  folder, the former one steps aside for that instant: a kill leaves the old one, the new one, or none under that name
  with the old one beside it, and the error of the next reader says where. Old and new are never mixed.
- Same input, same bytes.
- Nothing of a file is ever run; every length, offset and shape is checked against the file before memory is taken.
- Files of a limited size (`--max-shard-size`): safetensors and PyTorch have shards with an index, of whole tensors (a
  larger one has a file for itself). Orbax has a folder of files for each tensor, which is cut into chunks of at most
  that size, as its own `chunk_byte_size` does; `--resume` goes with shards only.
- Weights that are quantized by a library (GPTQ, AWQ, bitsandbytes, compressed-tensors, FP8, MXFP4), and the blocks of
  GGUF, are read as the floats that they stand for: see [quantized weights](tasks/quantized.md).
- Quantized tensors of PyTorch itself are read where each of their numbers is a float32 exactly, sparse ones as dense
  ones; else the error names the tensor. Not read: what an extension of `torch.distributed.checkpoint` packed (zstd, a
  cipher of one's own), weights that an exported program keeps as a pickle, tensors of TensorFlow that are no numbers.
- safetensors packs elements of 4 and 6 bits and leaves their order in a byte unsaid; they are read and written with the
  lowest bits first, as torch, CUDA and AMD Quark lay them out. A plain copy is exact whatever the order was.
- Formats are recognised by content, never by name alone; for an output the extension decides, or `--format`.
- TensorFlow checkpoints are named by their prefix, index, or folder. A folder of checkpoints gives the newest step. A
  bare tensor, a list and a dict of tensors are kept as such (`np.save` and `jnp.save` stack a list of equal shapes
  into one array, and so does the output for them).
- Reading today's Orbax checkpoints needs tensorstore (`pip install 'weights-converter[orbax]'`); all other files on a
  disk need the core alone.
- A Keras `.weights.h5` made without `--like` fits flat nets, and nested ones whose names a schema gives.
- GGUF is written with plain elements (F32, F16, BF16, F64 and integers), at most four axes, and names of at most 63
  bytes. What a GGUF file says beside its tensors goes along to another; a file made of anything else says no more than
  its architecture, and that unknown: llama.cpp needs more to run it.
- Not written: Keras shards, SavedModel, TorchScript, pickles; nor a dtype that a format has no name for.

| format | of | read | write | lazy | streams | checksums | dtypes read | dtypes written |
|---|---|---|---|---|---|---|---|---|
"""


def page() -> str:
    return HEAD + "\n".join(_row(row) for row in FORMATS) + "\n"


def _row(row: Format) -> str:
    reader, writer = row.load().FileReader, getattr(row.load(), "FileWriter", None)
    assert bool(row.extensions) == (writer is not None)
    cells = [
        f"{row.title} (`{row.name}`)",
        ", ".join(framework.title for framework in FRAMEWORKS if framework.name in row.frameworks) or "any",
        "yes",
        ", ".join(f"`{ending}`" for ending in row.extensions) or "no",
        reader.lazy,
        "yes" if writer is not None and writer.streams else "",
        row.checksums,
        _listed([name for name in DTYPES if name in reader.dtypes]),
        _listed([name for name in DTYPES if _comes_back(row, name)]) if writer is not None else "",
    ]
    return f"| {' | '.join(cells)} |"


def _listed(held: list[str]) -> str:
    missing = [name for name in DTYPES if name not in held]
    return "all" if not missing else f"all but {', '.join(missing)}" if len(missing) < len(held) else ", ".join(held)


def array_of(dtype: str) -> Array:
    rng = np.random.default_rng(0)
    return rng.integers(0, 2, 12).astype(np.uint8).astype(DTYPES[dtype]).reshape(3, 4)


def write(row: Format, folder: Path, array: Array) -> Path:
    """A file of that format with one array, under a name that the format accepts."""
    name = row.tensor_name.format(0)
    path = folder / f"m{row.extensions[0]}"
    contents = Contents((TensorSpec(name, array.shape, array.dtype),), metadata=row.metadata)
    with open_writer(row, path, contents) as writer:
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
