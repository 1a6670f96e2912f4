"""Linear layers that are not stored as one matrix of outputs and inputs, or as the other one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from msgspec.structs import replace

from converter.core.layers import Form, Layer, form

#: The Conv1D of the GPT-2 code: its matrix runs the other way than that of all other linear layers (in PyTorch as in
#: Flax, which is why the two names are not one).
IN_OUT, OUT_IN = "linear_in_out", "linear_out_in"
CONV1D = frozenset({IN_OUT, OUT_IN})
#: How many axes in, how many out; of one and two, which are those of an attention, each framework has forms of its own.
_COUNTS = tuple(pair for pair in product((1, 2, 3), repeat=2) if sum(pair) > 3)

#: ``dense_2_to_3`` … as `DenseGeneral` and `EinsumDense` may be.
MANY_AXES = tuple(f"dense_{given}_to_{made}" for given, made in _COUNTS)
#: The axes of these, whose sizes the matrix of another framework does not tell.
AXES = frozenset(f"{side}{i}" for side in ("in", "out") for i in range(3))


def many_axes() -> tuple[Form, ...]:
    """Dense layers from several axes to several, as Keras and Flax store them (flax/linen/linear.py, DenseGeneral)."""
    return tuple(_dense(given, made, name) for (given, made), name in zip(_COUNTS, MANY_AXES, strict=True))


def _dense(given: int, made: int, name: str) -> Form:
    inputs = " ".join(f"in{i}" for i in range(given))
    outputs = " ".join(f"out{i}" for i in range(made))
    kernel = ("kernel", "weight", f"{inputs} {outputs}", f"({outputs}) ({inputs})")
    return form("linear", kernel, ("bias", "bias", outputs, f"({outputs})"), name=name)


def without_conv1d(layers: Sequence[Layer], name: str) -> tuple[Layer, ...]:
    """A matrix is a Conv1D only where the shapes of another layer of the net prove that there are any, or on demand."""
    if any([reading.form for reading in layer.readings] == [name] for layer in layers):
        return tuple(layers)
    return tuple(_unlikely(layer, name) for layer in layers)


def _unlikely(layer: Layer, name: str) -> Layer:
    """The layer that is of this form only on demand."""
    of_form = tuple(reading for reading in layer.readings if reading.form == name)
    if not of_form:
        return layer
    others = tuple(reading for reading in layer.readings if reading.form != name)
    return replace(layer, readings=others, unlikely=(*layer.unlikely, *of_form))
