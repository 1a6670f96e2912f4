"""The neutral file: ``<path>.<role>`` in the axis order of `core.kinds`, its layers listed in the metadata."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
from msgspec.structs import replace

from converter.core.contents import Container, Contents, LeftOut
from converter.core.kinds import KINDS
from converter.core.layers import Form, Layer, Leaf, Net, Reading, form, words_in
from converter.errors import ConversionError
from converter.frameworks.base import Framework, Part, parameter
from converter.frameworks.cells import stacked_cell

#: Key of the safetensors metadata that holds the JSON document.
KEY = "converter"
#: Key of what it says of a training (`converter.training.neutral`), and how names of the optimizer's tensors begin.
TRAINING, SLOTS = "converter_training", "opt/"


class _Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A layer: its path, and every kind that it may be (one, but for a matrix that could be two).

    form, lacks: the way in which its framework stores it. sizes: what then would not be known (the number of heads).
    """

    path: str
    kind: tuple[str, ...]
    form: str = ""
    sizes: dict[str, int] = {}
    lacks: tuple[str, ...] = ()


class _Document(msgspec.Struct, frozen=True):
    """All that the metadata says. ``framework`` is where the weights came from; `ordered` as in `Net`.

    aliases: further name of a tied tensor -> the one under which the file holds it. architecture: what the net
    computes, as `converter.architectures.document` has it; whatever it says, the weights can be read.
    """

    version: Literal[1]
    framework: str
    ordered: bool
    container: Container
    layers: tuple[_Entry, ...]
    aliases: dict[str, str] = {}
    architecture: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def _form(kind: str) -> Form:
    """Roles under their own names; the gates of a recurrent layer are stacked, as PyTorch does it."""
    gates = KINDS[kind].gates
    if not gates:
        bias = ("bias", "bias", "(groups out)", "(groups out)")  # of a transposed convolution in groups
        rows = [(role, role, axes) for role, axes in KINDS[kind].roles.items() if role not in KINDS[kind].unused]
        return form(kind, *(bias if kind == "conv_transpose" and row[0] == "bias" else row for row in rows))
    return stacked_cell(
        kind,
        gates,
        ("input_weight", "input", "(g h) in"),
        ("recurrent_weight", "recurrent", "(g h) r"),
        ("input_bias", "input_bias", "(g h)"),
        ("recurrent_bias", "recurrent_bias", "(g h)"),
        ("bias", "input_bias+recurrent_bias", "(g h)"),
        ("projection", "projection", "r h"),
    )


class Neutral(Framework):
    name = "neutral"
    title = "neutral"
    forms = tuple(_form(kind) for kind in KINDS)
    keeps_aliases = True
    default_format = "safetensors"
    data_format = "safetensors"

    def split(self, contents: Contents) -> Iterable[Part]:
        parts = (spec.name.rpartition(".") for spec in contents.specs)
        return [Part(spec, path, leaf) for spec, (path, _, leaf) in zip(contents.specs, parts, strict=True)]

    def spell(self, prefix: str, leaf: str, dialect: str, is_data: bool) -> str:
        return f"{prefix}.{leaf}" if prefix else leaf

    def kept(self, form: Form, reading: Reading) -> Iterable[Leaf]:
        """Two biases as two, and one that is the sum of both as one."""
        leaves = list(super().kept(form, reading))
        if not any("recurrent_bias" in word for role in reading.roles for word in role):
            return leaves
        single = {word for role in reading.roles if len(role) == 1 for word in role}
        separate = any(single & words_in(leaf.roles) for leaf in leaves if leaf.name == "recurrent_bias")
        other = ("bias",) if separate else ("input_bias", "recurrent_bias")
        return [leaf for leaf in leaves if leaf.name not in other]

    def dress(self, contents: Contents, layers: Sequence[Layer], dialect: str, source: Net) -> Contents:
        entries = tuple(_entry(layer) for layer in layers)
        document = _Document(1, source.framework, source.ordered, source.container, entries, dict(contents.links))
        metadata = {**contents.metadata, KEY: msgspec.json.encode(document).decode()}
        return replace(contents, links={}, metadata=metadata)

    def net(self, contents: Contents) -> Net:
        """Layers and kinds as the metadata lists them. Raises ConversionError when it does not fit the tensors."""
        document = _document(contents)
        contents = _without_training(contents)
        by_path: dict[str, dict[str, Part]] = {}
        for part in (*self.split(contents), *_aliased(document, contents)):
            by_path.setdefault(part.path, {})[part.leaf] = part
        layers = [self._layer(entry, by_path) for entry in document.layers]
        if by_path:
            raise ConversionError(
                f"neutral file: '{next(iter(by_path))}' holds tensors but is no layer of its metadata"
            )
        return Net(self.name, tuple(layers), document.ordered, document.container, contents.left_out)

    def _layer(self, entry: _Entry, by_path: dict[str, dict[str, Part]]) -> Layer:
        path, kinds = entry.path, entry.kind
        parts = list(by_path.pop(path, {}).values())
        if kinds == ("parameter",) and [part.leaf for part in parts] == ["value"]:
            return parameter(path, parts[0].spec, parts[0].sources)
        readings = tuple(reading for reading in self._readings(parts, "") if reading.kind in kinds)
        if not readings or {reading.kind for reading in readings} != set(kinds):
            shapes = ", ".join(f"{part.leaf} {part.spec.shape}" for part in parts) or "no tensors"
            raise ConversionError(f"neutral file: layer '{path}' is no {' or '.join(kinds)}: {shapes}")
        return Layer(path, tuple(_formed(reading, entry) for reading in readings))


def _without_training(contents: Contents) -> Contents:
    """The weights, and the state of the optimizer as what is left out."""
    if TRAINING not in contents.metadata:
        return contents
    slots = [spec for spec in contents.specs if spec.name.startswith(SLOTS)]
    left_out = tuple(LeftOut(spec.name, "the state of an optimizer") for spec in slots)
    specs = tuple(spec for spec in contents.specs if not spec.name.startswith(SLOTS))
    return replace(contents, specs=specs, left_out=(*contents.left_out, *left_out))


def _aliased(document: _Document, contents: Contents) -> list[Part]:
    """The tensors that the file holds under other names. Raises ConversionError for one that it does not hold."""
    missing = [held for held in document.aliases.values() if held not in contents.by_name]
    twice = [name for name in document.aliases if name in contents.by_name]
    if missing or twice:
        raise ConversionError(f"neutral file: its alias for '{(missing + twice)[0]}' does not fit its tensors")
    parts = []
    for name, held in document.aliases.items():
        spec = contents.by_name[held]
        path, _, role = name.rpartition(".")
        parts.append(Part(replace(spec, name=name), path, role, sources=(spec,)))
    return parts


def _entry(layer: Layer) -> _Entry:
    first = layer.readings[0]
    kinds = tuple(dict.fromkeys(reading.kind for reading in layer.readings))
    return _Entry(layer.path, kinds, first.form, dict(first.sizes), tuple(sorted(first.lacks)))


def _formed(reading: Reading, entry: _Entry) -> Reading:
    sizes = tuple(sorted(entry.sizes.items()))
    stored = tuple(replace(item, sizes=sizes) for item in reading.stored)
    return replace(reading, stored=stored, form=entry.form, lacks=frozenset(entry.lacks))


def is_neutral(contents: Contents) -> bool:
    return KEY in contents.metadata


def origin(contents: Contents) -> str:
    """The framework that the weights of a neutral file came from."""
    return _document(contents).framework


def architecture_in(contents: Contents) -> bytes | None:
    """The architecture that a neutral file holds, as JSON; None where there is none."""
    if not is_neutral(contents):
        return None
    architecture = _document(contents).architecture
    return None if isinstance(architecture, msgspec.UnsetType) else bytes(architecture)


def with_architecture(contents: Contents, architecture: bytes | None) -> Contents:
    """What a neutral file is to hold, with this architecture; None: without one."""
    raw = msgspec.UNSET if architecture is None else msgspec.Raw(architecture)
    document = msgspec.structs.replace(_document(contents), architecture=raw)
    return replace(contents, metadata={**contents.metadata, KEY: msgspec.json.encode(document).decode()})


def _document(contents: Contents) -> _Document:
    if KEY not in contents.metadata:
        raise ConversionError("not a neutral file: its metadata lists no layers")
    try:
        return msgspec.json.decode(contents.metadata[KEY].encode(), type=_Document)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise ConversionError(f"neutral file: its metadata '{KEY}' is no document of version 1: {error}") from None
