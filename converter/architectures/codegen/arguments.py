"""Arguments that the layers of several frameworks have alike."""

from __future__ import annotations

from converter.architectures.codegen.code import Option, Value
from converter.architectures.units import Unit
from converter.architectures.vocabulary import AveragePool, MaxPool

__all__ = ["activation", "axes", "bias", "channel_axis", "outputs", "window"]


def axes(value: int | tuple[int, ...]) -> int | tuple[int, ...]:
    """One number where all axes have the same."""
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value


def outputs(unit: Unit, role: str = "outputs") -> tuple[str, Value]:
    assert unit.outputs is not None
    return role, unit.outputs


def bias(unit: Unit) -> Option:
    return Option("bias" in unit.roles, True)


def activation(unit: Unit) -> dict[str, Option]:
    """The step behind it, where the layer does that itself."""
    return {"activation": Option(unit.activation, "")}


def window(step: MaxPool | AveragePool) -> tuple[tuple[str, Value], tuple[str, Value]]:
    """The size of a pool, and the stride, which is the size where none is said."""
    stride = step.size if step.stride is None else step.stride
    return ("size", axes(step.size)), ("stride", axes(stride))


def channel_axis(unit: Unit) -> int:
    """Where the channels stand, if they stand first; the last axis of features."""
    return 1 if unit.given is None or unit.given.space is not False else -1
