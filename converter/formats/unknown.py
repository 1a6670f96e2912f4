"""What a file or folder of an unknown format is instead, and what to do about it.

Used only when no format accepts the file, so it may look at more than detection does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from converter.formats.base import Probe
from converter.formats.others import OTHER_EXTENSIONS
from converter.formats.table import recognised

__all__ = ["described"]

#: First bytes -> what the file is, and the next step.
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "packed with gzip; unpack it first"),
    (b"BZh", "packed with bzip2; unpack it first"),
    (b"\xfd7zXZ\x00", "packed with xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "packed with Zstandard; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive; unpack it first"),
    (b"%PDF", "a PDF document, not weights"),
    (b"\x89PNG", "a picture, not weights"),
)
#: Nets whose graph and weights are one file, known by the extension: they have no magic bytes.
_OTHER_NETS = (".onnx", ".tflite", ".pb", ".caffemodel", ".mlmodel")
_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\n(?:.*\n)*?size (\d+)")
_HTML = re.compile(rb"\s*<(?:!doctype html|html|head|\?xml)", re.IGNORECASE)
#: JSON that stands beside weights: what only such a document says in its first bytes, and the next step.
_JSON: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (
        re.compile(rb'"(?:modelTopology|weightsManifest)"|"format"\s*:\s*"(?:layers|graph)-model"'),
        "the manifest of a TensorFlow.js model, which is not read; take the Keras model or SavedModel that it was made"
        " from",
    ),
    (
        re.compile(rb'"(?:model_type|architectures|class_name|model_config)"'),
        "the configuration of a net, without its weights; name the weight file beside it",
    ),
)
_SHOWN, _LOOKED_AT = 5, 100
#: A file that only the folder of such a checkpoint has, and how many levels below it other files are.
_MARKERS = {
    ".metadata": "PyTorch distributed checkpoint",
    "saved_model.pb": "TensorFlow SavedModel",
    "_METADATA": "Orbax checkpoint",
}
_DEEPEST = 3


def described(probe: Probe) -> str:
    """The reason of a FormatError. Raises OSError."""
    if probe.is_dir:
        return _folder(probe)
    if not probe.is_file:
        return "a pipe or a device, which cannot be read at any place; write its bytes to a file, and give that"
    damaged = "not a weight file of any known format, or it is damaged or cut off"
    return (
        _first_bytes(probe.head)
        or _part(probe.path)
        or _other_net(probe.path.suffix)
        or _archive(probe)
        or _text(probe.head)
        or damaged
    )


def _folder(probe: Probe) -> str:
    if not probe.entries:
        return "the folder is empty"
    weights = [name for name in sorted(probe.entries)[:_LOOKED_AT] if recognised(Probe(probe.path / name))]
    if weights:
        return f"a folder, not a checkpoint; name the file to read in it: {_few(weights)}"
    return f"a folder, not a checkpoint, and nothing in it is a weight file: {_few(sorted(probe.entries))}"


def _first_bytes(head: bytes) -> str:
    pointer = _POINTER.match(head)
    if pointer:
        return f"a pointer of Git LFS to {int(pointer[1]):,} bytes, not the weights; fetch them with 'git lfs pull'"
    if _HTML.match(head):
        return (
            "a web page, not weights; the download went wrong (does the address need a login, or '/raw/', '/resolve/'?)"
        )
    return next((what for magic, what in _MAGIC if head.startswith(magic)), "")


def _part(path: Path) -> str:
    for folder, marker in product(list(path.parents)[:_DEEPEST], _MARKERS):
        if (folder / marker).is_file():
            return f"a part of the {_MARKERS[marker]} '{folder}'; name the folder"
    return ""


def _other_net(suffix: str) -> str:
    return f"a net of another kind ({OTHER_EXTENSIONS[suffix]}), which is not read" if suffix in _OTHER_NETS else ""


def _archive(probe: Probe) -> str:
    if probe.entries:
        return (
            f"a zip archive of an unknown format; are the weights in it? Unpack it first: {_few(sorted(probe.entries))}"
        )
    if probe.is_zip:
        return "a zip archive that is cut off or damaged"
    return "a tar archive; unpack it first" if probe.head[257:262] == b"ustar" else ""


def _text(head: bytes) -> str:
    if b"\0" in head:
        return ""
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # else a letter that the end of the head cuts
            return ""
    if head.lstrip()[:1] not in (b"{", b"["):
        return "not a weight file of any known format: it is text"
    other = "not a weight file of any known format: it is JSON"
    return next((what for mark, what in _JSON if mark.search(head)), other)


def _few(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more
