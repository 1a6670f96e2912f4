"""Schema files: which neutral layers an architecture has, and what each framework calls them.

    name: mlp
    description: one hidden layer
    layers:
      - path: output                   # the neutral path; also the name in frameworks without names
        kind: linear                   # a kind, or a form of one such as depthwise or to_heads
        names:
          tensorflow: [out, dense_1]   # the first is written, all are understood

An entry may stand for many layers (``encoder.{i}``, see `converter.core.patterns`). A block of layers can be defined
once and used several times; paths and names are then joined:

    blocks:
      mlp:
        - {path: up, kind: linear}
        - {path: down, kind: linear, optional: true}
    layers:
      - use: mlp
        path: encoder.{i}
        names: {torch: ["encoder.layers.{i}"]}

An alternative name without an index stands for the first layer only: PyTorch numbers the layers of an LSTM only if
there are several.

    - {path: "rnn.{i}", kind: lstm, names: {torch: ["rnn.l{i}", rnn]}}

A name may be a part of a linear layer: GPT-2 and ViT have queries, keys and values in one (`matching.fused`):

    - {path: attn.query, kind: linear, names: {torch: ["attn.qkv[0/3]"]}}
    - {path: attn.key, kind: linear, names: {torch: ["attn.qkv[1/3]"]}}
    - {path: attn.value, kind: linear, names: {torch: ["attn.qkv[2/3]"]}}

The count of repeated layers (``{I}`` for ``{i}``) numbers what comes after them, and a flatten may name the layer
whose channels are flattened instead of their number (see `converter.matching.schema_layers`):

    - {path: "block{i+1}.conv", kind: conv, names: {torch: ["net.{2*i}"]}}
    - {path: output, kind: linear, names: {torch: ["net.{2*I+1}"]}, flatten: "block{i+1}.conv"}

An output layer that shares the weights of the embedding, which some frameworks store twice (`matching.schema_ties`):

    - {path: output, kind: linear, tied: embedding, names: {tensorflow: [], flax: []}}

The computation of its nets can be described as well (see `converter.architectures.document`):

    architecture:
      input: [20]
      steps: [{kind: linear, path: hidden}, relu, {kind: linear, path: output}]

Strict: an unknown key, kind or framework, a key or block that has no effect, and a name of two layers are errors, and
in a conversion an entry without a layer, unless it is optional.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from converter.core.kinds import KINDS
from converter.core.layers import Layer, Net
from converter.core.patterns import Indices, check_pattern, counts, fill, indices_of, letters
from converter.errors import ConversionError
from converter.frameworks import framework, named_forms
from converter.schema.bounds import MOST_PATTERNS, Expansion, check_names, read_text, read_yaml
from converter.schema.errors import explained, near_miss

#: In place of a name: no schema, and none by the names of well-known code bases.
NO_SCHEMA = "none"

Names = dict[str, tuple[str, ...]]
Positive = Annotated[int, Meta(ge=1)]
#: 0: the flatten changes no order.
Channels = Annotated[int, Meta(ge=0)]
#: Keys of a single layer, which have no effect in an entry that uses a block.
_KEYS_OF_A_LAYER = ("flatten", "unflatten", "multiplier", "tied")


class SchemaLayer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A layer of the schema, which may stand for many. names: framework -> its possible paths, the usual one first.

    heads: of the projections of an attention. flatten: channels of the input that is flattened before this layer;
    unflatten: channels into which its output is unflattened. flattened: path of the layer with those channels, instead
    of their number. optional: whether a net may lack it. multiplier: outputs per channel of a depthwise convolution.
    tied: path of the layer whose weights it shares (see `converter.matching.schema_ties`).
    """

    path: str
    kind: str
    names: Names = {}
    heads: int | None = None
    flatten: int | None = None
    unflatten: int | None = None
    optional: bool = False
    multiplier: int | None = None
    flattened: str = ""
    tied: str = ""

    def paths(self, framework_name: str) -> tuple[str, ...]:
        """Its possible paths in a framework, with indices still open."""
        return self.names.get(framework_name) or (self.path,)

    def is_stored(self, framework_name: str) -> bool:
        """Whether files of a framework contain it; they need not if it is tied."""
        return self.names.get(framework_name) != ()

    def found_in(self, net: Net) -> list[tuple[Indices, Layer]]:
        """The layers of a net that it stands for, with their indices."""
        if not any(letters(path) for path in self.paths(net.framework)):  # as most: no need to look at every layer
            layers = [net.by_path[path] for path in self.paths(net.framework) if path in net.by_path]
        else:
            layers = list(net.layers)
        named = ((self.indices(net.framework, layer.path), layer) for layer in layers)
        return [(indices, layer) for indices, layer in named if indices is not None]

    def spelled(self, framework_name: str, indices: Indices) -> tuple[str, ...]:
        """The possible paths in a framework of the layer with these indices (0 by default)."""
        numbers = {**dict.fromkeys(letters(self.path), 0), **indices}
        needed = {letter for letter, number in numbers.items() if number}
        return tuple(fill(path, numbers) for path in self.paths(framework_name) if needed <= letters(path))

    def indices(self, framework_name: str, path: str) -> Indices | None:
        """The indices with which it has this path in a framework; None if it never has."""
        matches = (indices_of(pattern, path) for pattern in self.paths(framework_name))
        return next((indices for indices in matches if indices is not None), None)


class UncheckedArchitecture(msgspec.Struct, frozen=True, eq=False):
    """The ``architecture`` of a schema file as plain data; `converter.architectures.family.family_of` reads it.

    layers: of the schema, which it must use. text, file: where it was read, to name the line of a mistake.
    """

    data: Mapping[str, Any]
    layers: tuple[SchemaLayer, ...]
    text: str
    file: str


class Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A schema with its blocks expanded. architecture: what its nets compute, if the file describes it."""

    name: str
    layers: tuple[SchemaLayer, ...]
    description: str = ""
    architecture: UncheckedArchitecture | None = None

    def entry(self, framework_name: str, path: str) -> SchemaLayer | None:
        """The entry of the layer with this path in a framework."""
        return next((layer for layer in self.layers if layer.indices(framework_name, path) is not None), None)

    def others(self, framework_name: str, path: str) -> tuple[str, ...]:
        """The alternative paths of a layer in a framework."""
        for layer in self.layers:
            indices = layer.indices(framework_name, path)
            if indices is not None:
                return tuple(name for name in layer.spelled(framework_name, indices) if name != path)
        return ()


class SchemaEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of a schema file: a layer with its ``kind``, or a block to ``use``."""

    path: str = ""
    kind: str = ""
    use: str = ""
    names: Names = {}
    heads: Positive | None = None
    flatten: Channels | str | None = None
    unflatten: Channels | None = None
    optional: bool = False
    multiplier: Positive | None = None
    tied: str = ""


class SchemaFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A schema file."""

    name: str
    layers: tuple[SchemaEntry, ...]
    description: str = ""
    blocks: dict[str, tuple[SchemaEntry, ...]] = {}
    architecture: dict[str, Any] | None = None


def schema_folder() -> Path:
    """Where the shipped schemas are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "schemas"
    return inside if inside.is_dir() else package.parent / "schemas"


def shipped() -> tuple[str, ...]:
    """The names of the schemas that come with the program."""
    return tuple(sorted(file.stem for file in schema_folder().glob("*.yaml")))


def names_file(name: str) -> bool:
    """Whether it is the path of a schema, and not the name of a shipped one."""
    return Path(name).suffix in (".yaml", ".yml")


def load_schema(name: str) -> Schema:
    """A shipped schema by name (``mlp``), or a file by path. Raises ConversionError."""
    path = Path(name)
    if not names_file(name):
        path = schema_folder() / f"{name}.yaml"
        if name not in shipped():  # a name that leads elsewhere is none, either
            raise ConversionError(
                f"no schema '{name}' is shipped. {near_miss(name, shipped())} A file of your own must end in .yaml."
            )
    try:
        return parse_schema(read_text(path), str(path))
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from None


def parse_schema(text: str, file: str = "") -> Schema:
    """A schema from its text. Raises ConversionError with the line where there is one; file: for later errors."""
    import yaml  # here, because most conversions need no schema

    try:
        written = msgspec.convert(read_yaml(text), SchemaFile)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConversionError(f"not a schema: {explained(error, text, (SchemaFile, SchemaEntry))}") from None
    layers = tuple(_expanded(written.layers, written.blocks, (), Expansion()))
    _check_blocks(written)
    data = written.architecture
    architecture = None if data is None else UncheckedArchitecture(data, layers, text, file)
    schema = Schema(written.name, layers, written.description, architecture)
    _check(schema)
    return schema


def _expanded(
    entries: Sequence[SchemaEntry],
    blocks: Mapping[str, Sequence[SchemaEntry]],
    inside: tuple[str, ...],
    expansion: Expansion,
) -> Iterable[SchemaLayer]:
    """The layers of the entries, with every block expanded. inside: the blocks around them."""
    for entry in entries:
        expansion.entry(len(inside))
        if bool(entry.kind) == bool(entry.use):
            raise ConversionError(f"entry '{entry.path}' needs either a kind or a block to use")
        if entry.kind:
            if not entry.path:
                raise ConversionError(f"an entry of kind '{entry.kind}' has no path")
            yield _layer(entry)
        elif entry.use not in blocks:
            raise ConversionError(f"there is no block '{entry.use}'. {near_miss(entry.use, blocks)}")
        elif entry.use in inside:
            raise ConversionError(f"block '{entry.use}' uses itself")
        elif ineffective := [key for key in _KEYS_OF_A_LAYER if getattr(entry, key) not in (None, "")]:
            raise ConversionError(
                f"entry '{entry.path}' uses a block: set `{ineffective[0]}` on a layer of '{entry.use}' instead"
            )
        else:
            for layer in _expanded(blocks[entry.use], blocks, (*inside, entry.use), expansion):
                yield _prefixed(entry, layer)


def _layer(entry: SchemaEntry) -> SchemaLayer:
    channels = entry.flatten if isinstance(entry.flatten, int) else None
    flattened = entry.flatten if isinstance(entry.flatten, str) else ""
    options = (entry.heads, channels, entry.unflatten, entry.optional, entry.multiplier)
    return SchemaLayer(entry.path, entry.kind, entry.names, *options, flattened, entry.tied)


def _prefixed(entry: SchemaEntry, layer: SchemaLayer) -> SchemaLayer:
    """A layer of a block with the path, names and options of the entry that uses the block."""
    names = {}
    for name in {**entry.names, **layer.names}:
        outer = entry.names.get(name, (entry.path,))
        check_names(layer.path, len(outer) * len(layer.paths(name)))
        names[name] = tuple(_joined(a, b) for a in outer for b in layer.paths(name))
    options = (entry.heads or layer.heads, layer.flatten, layer.unflatten, layer.optional or entry.optional)
    flattened = _joined(entry.path, layer.flattened) if layer.flattened else ""
    tied = _joined(entry.path, layer.tied) if layer.tied else ""
    return SchemaLayer(_joined(entry.path, layer.path), layer.kind, names, *options, layer.multiplier, flattened, tied)


def _joined(*parts: str) -> str:
    return ".".join(filter(None, parts))


def _check_blocks(written: SchemaFile) -> None:
    used = {entry.use for entries in (written.layers, *written.blocks.values()) for entry in entries}
    for name in written.blocks:
        if name not in used:
            raise ConversionError(f"no entry uses the block '{name}'")


def _check(schema: Schema) -> None:
    seen: set[str] = set()
    for layer in schema.layers:
        if layer.kind not in kinds():
            raise ConversionError(
                f"layer '{layer.path}' has the unknown kind '{layer.kind}'. {near_miss(layer.kind, kinds())}"
            )
        if layer.multiplier is not None and layer.kind != "depthwise":
            raise ConversionError(f"layer '{layer.path}' is {layer.kind}: only a depthwise one has a multiplier")
        if layer.path in seen:
            raise ConversionError(f"two layers have the path '{layer.path}'")
        seen.add(layer.path)
    frameworks = {name for layer in schema.layers for name in layer.names}
    for name in frameworks:
        proper = framework(name).name
        if proper != name:
            raise ConversionError(f"write '{proper}' for the framework '{name}'")
    for name in (*frameworks, ""):
        _check_names(schema, name)
    patterns = sum(1 for layer in schema.layers if letters(layer.path))
    if patterns > MOST_PATTERNS:
        raise ConversionError(f"{patterns} entries stand for several layers each; at most {MOST_PATTERNS} may")
    _check_counts(schema)
    _check_flattens(schema)
    _check_ties(schema)


def kinds() -> tuple[str, ...]:
    """The kinds, and the special forms in which some frameworks store a kind (depthwise, to_heads)."""
    return (*KINDS, *sorted(named_forms()))


def _check_names(schema: Schema, framework_name: str) -> None:
    """Every name belongs to one layer, and has the indices of its neutral path."""
    seen: dict[str, str] = {}
    for layer in schema.layers:
        paths = layer.paths(framework_name)
        if not layer.is_stored(framework_name) and not layer.tied:
            raise ConversionError(f"layer '{layer.path}' has an empty list of names for {framework_name}")
        for path in (layer.path, *paths):
            check_pattern(path)
            fewer = path in paths[1:] and letters(path) < letters(layer.path)
            if letters(path) != letters(layer.path) and not fewer:
                raise ConversionError(f"'{path}' and '{layer.path}' are names of one layer with different indices")
        for path in paths:
            if seen.setdefault(path, layer.path) != layer.path:
                where = f" in {framework_name}" if framework_name else ""
                raise ConversionError(f"'{path}'{where} stands for both '{seen[path]}' and '{layer.path}'")


def _check_counts(schema: Schema) -> None:
    """Every counted letter is the index of some path."""
    known = {letter for layer in schema.layers for letter in letters(layer.path)}
    for layer in schema.layers:
        for path in (layer.path, *(path for paths in layer.names.values() for path in paths)):
            for letter in counts(path) - known:
                raise ConversionError(f"'{path}' counts '{{{letter}}}', which no path of the schema has")


def _gives_channels(kind: str) -> bool:
    """Whether layers of that kind or form give channels, which may be flattened."""
    form = named_forms().get(kind)
    return KINDS[form.kind if form else kind].flow in ("channels", "norm")


def _check_flattens(schema: Schema) -> None:
    entries = {layer.path: layer for layer in schema.layers}
    for layer in schema.layers:
        entry = entries.get(layer.flattened)
        if layer.flattened and (entry is None or entry.optional or not _gives_channels(entry.kind)):
            raise ConversionError(
                f"the flatten before '{layer.path}' names '{layer.flattened}', which is not a convolution or norm "
                "that every net of the schema has"
            )


def _check_ties(schema: Schema) -> None:
    entries = {layer.path: layer for layer in schema.layers}
    for layer in schema.layers:
        twin = entries.get(layer.tied)
        if layer.tied and (twin is None or twin.tied or {layer.kind, twin.kind} != {"linear", "embedding"}):
            raise ConversionError(
                f"layer '{layer.path}' is tied to '{layer.tied}': one must be a linear layer of the schema, the other "
                "an embedding"
            )
        if twin is not None and layer.tied and letters(twin.path) != letters(layer.path):
            raise ConversionError(f"'{layer.path}' and '{layer.tied}' are tied, and have different indices")
