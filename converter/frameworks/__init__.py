"""The table of frameworks."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from converter.core.contents import Contents
from converter.core.layers import Form
from converter.errors import ConversionError
from converter.formats import Format
from converter.frameworks.base import Framework
from converter.frameworks.flax import Flax, Linen, Nnx
from converter.frameworks.mlx import Mlx
from converter.frameworks.mxnet import MXNet
from converter.frameworks.neutral import Neutral, is_neutral
from converter.frameworks.tensorflow import TensorFlow
from converter.frameworks.torch import Torch

__all__ = ["FRAMEWORKS", "ONLY_READ", "Framework", "framework", "named_forms", "recognise", "states_layout"]

FRAMEWORKS: tuple[Framework, ...] = (Torch(), Flax(), TensorFlow(), MXNet(), Neutral())
#: Those of which no file is written, and no live net is read.
ONLY_READ: tuple[Framework, ...] = (Mlx(),)
#: How a framework is called where the names in a new file are to be those of one of its libraries.
_NAMINGS: tuple[Framework, ...] = (Linen(), Nnx())
#: What a safetensors file may say of itself (``format`` in its metadata) -> whose names it has, if it can be theirs.
_STATED = {"pt": "torch", "tf": "tensorflow", "flax": "flax", "mlx": "mlx"}


def named_forms() -> Mapping[str, Form]:
    """What users call each form that is not the usual one of its kind -> the form, as some framework has it."""
    forms = (form for row in FRAMEWORKS for form in (*row.forms, *row.forms_of("vars")))
    return {form.called: form for form in forms if form.name or form.lacks}


def framework(name: str) -> Framework:
    """The framework of that name or alias. Raises ConversionError with the near misses."""
    rows = (*FRAMEWORKS, *ONLY_READ, *_NAMINGS)
    for row in rows:
        if name.lower() in (row.name, *row.aliases):
            return row
    names = [known for row in rows for known in (row.name, *row.aliases)]
    near = difflib.get_close_matches(name.lower(), names, 1)
    hint = f"Did you mean '{near[0]}'?" if near else f"There are {', '.join(row.name for row in FRAMEWORKS)}."
    raise ConversionError(f"unknown framework '{name}'. {hint}")


def recognise(form: Format, contents: Contents) -> Framework:
    """The framework that wrote the file: its format or its metadata tell, or else its names (safetensors, npz, npy)."""
    if is_neutral(contents):
        return framework("neutral")
    rows = [row for row in FRAMEWORKS if row.name in form.frameworks]
    if len(rows) == 1:
        return rows[0]
    stated = _STATED.get(contents.metadata.get("format", ""))
    if stated is not None and (states_layout(contents) or understood(framework(stated), contents)):
        return framework(stated)
    # Where two understand as much (``hidden/kernel``), they also lay it out alike, and the first stands for both.
    candidates = [row for row in FRAMEWORKS if row.name != "neutral"]
    return max(candidates, key=lambda row: understood(row, contents))


def states_layout(contents: Contents) -> bool:
    """Whether the metadata alone can tell how the tensors are laid out: MLX has PyTorch's names."""
    return contents.metadata.get("format") == "mlx"


def understood(row: Framework, contents: Contents) -> int:
    """How many tensors of the file form layers under this framework's names."""
    layers = row.net(contents).layers
    return sum(len(layer.tensors) for layer in layers if layer.kind not in ("parameter", "unknown"))
