"""What a file holds, as its headers tell it: the named tensors, what is no weight, and what the format adds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, TypeAlias

import msgspec

from converter.core.tensors import TensorSpec

#: What the file holds at its top level: one bare tensor (named "0"), a list ("0", "1", ...), or named tensors.
Container: TypeAlias = Literal["tensor", "list", "dict"]


class LeftOut(msgspec.Struct, frozen=True):
    """Something in the file that is not a weight, and why it is not handed on."""

    name: str
    reason: str


class Ref(msgspec.Struct, frozen=True):
    """In a `Contents.tree`: here stands the tensor of this name."""

    name: str


class AllOthers(msgspec.Struct, frozen=True):
    """In a `Contents.tree`: here stands what the tensors that no `Ref` names are written as by themselves."""


class Contents(msgspec.Struct, frozen=True, dict=True):
    """What the headers of a file say (from a `Reader`), or what a new file will hold (for a `Writer`).

    specs: the tensors in the order of the file; nested containers are joined with ``/``.
    labels: group of tensors -> the name the user chose for it, where the format stores it separately
        (Keras: the layer's name in an attribute of the HDF5 group).
    keys: tensor -> its keys in nested dicts, where one of them contains a ``/``; for all others they are the
        parts of the name.
    links: another name -> the group or tensor it stands for, in formats that have links (HDF5 hard
        links, the object graph of a TensorFlow checkpoint). No such name is in `specs`.
    left_out: what else is in the file.
    writer: the program and version that wrote the file; "" where the file does not say.
    metadata: free text stored beside the tensors (safetensors ``__metadata__``).
    classes: tensor -> the class of its layer, where it is known (live nets, the graph of an MXNet export).
    tree: what a new file is, where that is more than its named tensors (the state of an optimizer in lists and numbered
        dicts): nested dicts, lists, tuples, numbers and texts with a `Ref` for a tensor. Of formats that join the
        names of tensors with ``/`` only what no tensor stands for: numbers, and dicts that are empty.
    adapted: tensor -> what an adapter adds to it when it is read: ``LoRA, r=8, scale 2``.
    quantized: tensor -> how the file holds it, where its values are computed when it is read: ``Q4_K``, ``GPTQ``.
    """

    specs: tuple[TensorSpec, ...]
    container: Container = "dict"
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    keys: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    links: Mapping[str, str] = msgspec.field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    writer: str = ""
    metadata: Mapping[str, str] = msgspec.field(default_factory=dict)
    classes: Mapping[str, str] = msgspec.field(default_factory=dict)
    quantized: Mapping[str, str] = msgspec.field(default_factory=dict)
    adapted: Mapping[str, str] = msgspec.field(default_factory=dict)
    tree: Any = None

    @cached_property
    def by_name(self) -> Mapping[str, TensorSpec]:
        return {spec.name: spec for spec in self.specs}
