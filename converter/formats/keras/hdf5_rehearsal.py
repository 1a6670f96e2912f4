"""Files of the new HDF5 layout are read in another process first.

On damaged ones libhdf5 1.14.6 crashes now and then (about one in 2,000 with damaged bytes), which no `except`
can catch. Keras writes the old layout (superblock 0), where no such crash was met in 15,000 damaged files;
so only files with a later superblock (``libver="latest"``) pay for this.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from converter.errors import FormatError

#: Offset of the version of the superblock, after the signature.
_VERSION_AT = 8
_FIRST_NEW = 2
#: Set in the other process, which reads for real.
_INSIDE = "CONVERTER_HDF5_REHEARSAL"
_SECONDS, _BYTES_PER_SECOND = 8, 20_000_000
_READ_ALL = """
import sys
from pathlib import Path
from converter.errors import ConversionError
from converter.formats.keras import legacy_h5 as keras2_h5
from converter.formats.keras import h5 as keras_h5
for form in (keras_h5, keras2_h5):
    try:
        with form.FileReader(Path(sys.argv[1])) as reader:
            for spec in reader.contents.specs:
                reader.read(spec.name)
    except ConversionError:
        pass  # an error is fine: the process is still there to say so
"""


def rehearse(path: Path, source: BinaryIO) -> None:
    """Raise FormatError if reading the file of the new layout crashes or hangs. ``source`` is the open HDF5 file."""
    if _INSIDE in os.environ:
        return
    source.seek(_VERSION_AT)
    version = source.read(1)
    source.seek(0)
    if not version or version[0] < _FIRST_NEW:
        return
    name = getattr(source, "name", None)
    if isinstance(name, str) and Path(name).is_file():
        _run(name, os.stat(name).st_mtime_ns, os.stat(name).st_size, path)
        return
    with tempfile.NamedTemporaryFile(suffix=".h5") as copy:  # a member of an archive
        shutil.copyfileobj(source, copy)
        copy.flush()
        _run(copy.name, 0, os.stat(copy.name).st_size, path)
    source.seek(0)


@lru_cache(maxsize=1)
def _run(file: str, modified: int, size: int, path: Path) -> None:
    """``modified`` is part of the key: detection and reading rehearse an unchanged file once."""
    environment = {**os.environ, _INSIDE: "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _READ_ALL, file],
            env=environment,
            capture_output=True,
            timeout=_SECONDS + size / _BYTES_PER_SECOND,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise FormatError(path, "damaged HDF5: the library does not come to an end with it") from None
    if done.returncode:
        raise FormatError(path, f"damaged HDF5: the library crashes on it (exit code {done.returncode})")
