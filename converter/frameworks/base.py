"""How a framework is described: a table kind -> stored tensors, and how it spells their names.

A framework touches no files and is never imported to be described.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar

import msgspec
from msgspec.structs import replace

from converter.core.axes import Sizes, groups, ndim_of, solve, wild_axes
from converter.core.contents import Contents, LeftOut
from converter.core.kinds import KINDS, UNKNOWN
from converter.core.layers import Form, Layer, Leaf, Net, Reading, Stored, first_of, words_in
from converter.core.natural_order import natural_key
from converter.core.ops import Op
from converter.core.tensors import DType, TensorSpec
from converter.errors import ConversionError

_BARE = Leaf("", (frozenset({"value"}),), "*", "*")
#: The axes of dense layers of many, whose sizes the matrix of another framework does not tell.
AXES = frozenset(f"{side}{i}" for side in ("in", "out") for i in range(3))
#: Axes whose size goes with a layer from form to form; the shapes of another form would not tell it.
_TOLD = frozenset({"heads", "multiplier"}) | AXES


class LiveClass(msgspec.Struct, frozen=True):
    """A class of live nets, by the module (or its beginning) and the name of a base class of it.

    adapter: the module in `converter.live`. title: what people call such a net. bare: whether the module has no weights
    itself, so that a net is a pair of it and its variables, or the tree of these alone.
    """

    module: str
    base: str
    adapter: str
    title: str
    bare: bool = False


class Placement(msgspec.Struct, frozen=True):
    """Where the tensors of a layer are in a new file. form: how it is stored there, where its own form does not tell.

    prefix: what `Framework.spell` puts before the names of its tensors.
    """

    prefix: str
    form: Form | None = None


class Part(msgspec.Struct, frozen=True, gc=False):
    """A tensor's name taken apart: the layer's path, the leaf, and the layer's class where the file tells it.

    fold, sources: as in `Stored`, for a tensor that the file holds in pieces.
    """

    spec: TensorSpec
    path: str
    leaf: str
    layer_class: str = ""
    sources: tuple[TensorSpec, ...] = ()
    fold: Op | None = None


def class_table(rows: Mapping[str, str]) -> Mapping[str, frozenset[str]]:
    """Class name -> the names of its forms (the kind, for the usual one), from rows that part these by spaces."""
    return {name: frozenset(forms.split()) for name, forms in rows.items()}


def _is_alphabetical(specs: Sequence[TensorSpec]) -> bool:
    """Whether the names of each dtype stand as a program sorts them, other than by counting up.

    Of a layer that was defined, the weight stands before the bias.
    """
    by_dtype: dict[DType, list[str]] = {}
    for spec in specs:
        by_dtype.setdefault(spec.dtype, []).append(spec.name)
    neighbours = [pair for names in by_dtype.values() for pair in pairwise(names)]
    return all(a < b for a, b in neighbours) and not all(_counts_up(a, b) for a, b in neighbours)


def _counts_up(name: str, following: str) -> bool:
    """Whether the first part in which two names differ is a number in both."""
    differing = ((a, b) for a, b in zip(re.split("[./]", name), re.split("[./]", following), strict=False) if a != b)
    return all(part.isdigit() for part in next(differing, ()))


class Framework(ABC):
    """One framework's names and layouts. Subclasses are stateless; see `converter.frameworks.FRAMEWORKS`.

    Where a framework's formats spell names differently (Keras), each way is a *dialect*; most have one, "".
    """

    name: ClassVar[str]
    title: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    #: The ways in which it stores each kind; the first of a kind is the usual one.
    forms: ClassVar[tuple[Form, ...]]
    #: Whether spatial axes stand before the channels in its activations: what a flatten makes of them.
    channels_last: ClassVar[bool] = False
    #: Whether the second layer of a class is ``dense_1`` there; and the second of a list ``blocks_1``.
    counts_classes: ClassVar[bool] = False
    suffixes_lists: ClassVar[bool] = False
    #: How live nets of it are known.
    live: ClassVar[tuple[LiveClass, ...]] = ()
    #: Class name -> the forms that such a layer may have, where a file or a live net tells class names.
    classes: ClassVar[Mapping[str, frozenset[str]]] = {}
    #: Forms (a kind, for its usual one) that a layer has only where its class is known or the user says so.
    on_demand: ClassVar[frozenset[str]] = frozenset()
    #: Leaf names that are no weights, and why.
    ignored: ClassVar[Mapping[str, str]] = {}
    #: Kinds whose layers cannot be made without the roles that others may lack (biases).
    complete: ClassVar[frozenset[str]] = frozenset()
    #: Whether its files hold a tensor once that a net has under several names.
    keeps_aliases: ClassVar[bool] = False
    #: The format written when the user names none; and that for bare tensors that belong to no net.
    default_format: ClassVar[str]
    data_format: ClassVar[str]

    @abstractmethod
    def split(self, contents: Contents) -> Iterable[Part]:
        """Each tensor's name taken apart, in the order of the file."""

    @abstractmethod
    def spell(self, prefix: str, leaf: str, dialect: str, is_data: bool) -> str:
        """The name of a tensor in a new file; ``is_data`` when the file holds bare tensors of no net."""

    def forms_of(self, dialect: str) -> tuple[Form, ...]:
        """The forms with the leaf names of that dialect."""
        return self.forms

    @lru_cache  # noqa: B019 (the few frameworks live as long as the program)
    def holds(self, kind: str) -> bool:
        """Whether the framework can express layers of this kind (unknown ones are copied as they are)."""
        return kind == UNKNOWN or any(form.kind == kind for form in self.forms)

    def placed(self, layers: Sequence[Layer], dialect: str) -> Mapping[str, Placement]:
        """Path of each layer of a new file -> where its tensors are there."""
        return {path: Placement(prefix) for path, prefix in self.prefixes(layers, dialect).items()}

    def prefixes(self, layers: Sequence[Layer], dialect: str) -> Mapping[str, str]:
        """Path of each layer of a new file -> its `Placement.prefix`."""
        return {layer.path: layer.path for layer in layers}

    def layout(self, reading: Reading, form: Form | None, dialect: str) -> Reading:
        """The layer as the framework would store it in a new file: each tensor named by its leaf, sizes open (-1).

        form: that of its `Placement`. Of the reading only what `Reading.nameless` holds counts.
        """
        if reading.kind == UNKNOWN:  # as it is: nobody knows its axes
            return reading.with_tensors(lambda item: replace(item, spec=replace(item.spec, name=item.leaf.name)))
        leaves = self.kept(form or self.form_for(reading, dialect), reading)
        # how many axes the wildcard of its tensors stands for (the spatial ones of a kernel)
        wild = [wild_axes(i.leaf.axes, len(i.spec.shape)) for i in reading.stored if {"+", "*"} & set(i.leaf.axes)]
        dtype = reading.stored[0].spec.dtype
        dtypes = {role: item.spec.dtype for roles, (item, _) in reading.roles.items() for role in roles}
        stored = []
        for leaf in leaves:
            role = min(first_of(leaf.roles))
            spec = TensorSpec(leaf.name, (-1,) * ndim_of(leaf.axes, max(wild, default=0)), dtypes.get(role, dtype))
            stored.append(Stored(spec, leaf, reading.sizes))
        return Reading(reading.kind, tuple(stored), reading.form, reading.lacks)

    def spelled(self, layout: Reading, prefix: str, dialect: str, is_data: bool) -> Reading:
        """A `layout` with the names of the layer that is at this prefix."""
        stored = [
            Stored(
                TensorSpec(self.spell(prefix, item.leaf.name, dialect, is_data), item.spec.shape, item.spec.dtype),
                item.leaf,
                item.sizes,
            )
            for item in layout.stored
        ]
        return Reading(layout.kind, tuple(stored), layout.form, layout.lacks)

    def form_for(self, reading: Reading, dialect: str) -> Form:
        """The form that a layer of a new file takes: the source's own where there is one, else the usual."""
        return self._form(reading.kind, reading.form, reading.lacks, dialect)

    @lru_cache  # noqa: B019
    def _form(self, kind: str, name: str, lacks: frozenset[str], dialect: str) -> Form:
        forms = [form for form in self.forms_of(dialect) if form.kind == kind]
        alike = [form for form in forms if form.name == name]
        return next((form for form in alike if form.lacks == lacks), (*alike, *forms)[0])

    def kept(self, form: Form, reading: Reading) -> Iterable[Leaf]:
        """The leaves of the form that a layer with the roles of this reading has."""
        words = {word for role in reading.roles for word in role}
        absent = KINDS[reading.kind].absent
        whole = words & absent.keys() and KINDS[reading.kind].whole
        if whole or reading.kind in self.complete:
            words |= absent.keys() - KINDS[reading.kind].unused
        if reading.kind not in self.complete:
            words -= reading.lacks
        return [leaf for leaf in form.leaves if words & words_in(leaf.roles)]

    def dress(self, contents: Contents, layers: Sequence[Layer], dialect: str, source: Net) -> Contents:
        """Add what a new file of this framework holds beside the tensors (labels, links, metadata).

        ``layers`` are those of the new file, ``source`` the net that they were converted from.
        """
        return contents

    def dialect_of(self, contents: Contents) -> str:
        """How the names of this file are spelled."""
        return ""

    def dialect_for(self, format_name: str) -> str:
        """How names are spelled in new files of this format."""
        return ""

    def is_ordered(self, contents: Contents) -> bool:
        """Whether the file keeps the order in which the net was built; safetensors' own writers sort the names."""
        return contents.container != "dict" or not _is_alphabetical(contents.specs)

    def net(self, contents: Contents) -> Net:
        """The neutral layers of a file of this framework."""
        dialect = self.dialect_of(contents)
        left_out = list(contents.left_out)
        groups: dict[str, list[Part]] = {}
        taken: dict[tuple[str, str], str] = {}
        for part in self.split(contents):
            reason = self.ignored.get(part.leaf)
            if reason:
                left_out.append(LeftOut(part.spec.name, reason))
                continue
            twin = taken.setdefault((part.path, part.leaf), part.spec.name)
            if twin != part.spec.name:
                raise ConversionError(
                    f"'{twin}' and '{part.spec.name}' are both the {part.leaf} of layer '{part.path}'"
                )
            groups.setdefault(part.path, []).append(part)
        layers = [layer for path, parts in groups.items() for layer in self._recognise(path, parts, dialect)]
        ordered = self.is_ordered(contents)
        if not ordered:
            layers.sort(key=lambda layer: natural_key(layer.path))
        return Net(self.name, tuple(layers), ordered, contents.container, tuple(left_out))

    def _recognise(self, path: str, parts: Sequence[Part], dialect: str) -> Iterable[Layer]:
        """The group as a layer, and every tensor with a name of its own as a bare parameter."""
        words = self._words(dialect)
        # ``weight_g`` is of a layer, ``layer_scale`` and ``relative_position_bias_table`` are names of their own
        known = [p for p in parts if p.leaf in words or any(w.split("_")[0] in words for w in p.leaf.split("."))]
        readings = self._readings(known, dialect)
        foreign = all(part.leaf in self._words(dialect, also=True) for part in known)
        lone = [len(part.spec.shape) for part in known] == [1]
        if not readings and (foreign or lone):
            known = []  # named like what a layer has, but there is no such layer: the bias of a tied output
        if known:
            likely = tuple(r for r in readings if (r.form or r.kind) not in self.on_demand) or readings
            unlikely = tuple(reading for reading in readings if reading not in likely)
            yield Layer(path, likely or (_unnamed(known),), unlikely)
        leaves = {part.leaf for part in known}  # each once in a group, which may be a whole file of another framework
        for part in parts:
            if part.leaf not in leaves:
                yield parameter(".".join(filter(None, (path, part.leaf))), part.spec)

    @lru_cache  # noqa: B019
    def _words(self, dialect: str, also: bool = False) -> frozenset[str]:
        """Every leaf name that some layer of this framework uses; ``also``: those that it never writes itself."""
        leaves = [leaf for form in self.forms_of(dialect) for leaf in form.leaves]
        own = {leaf.name for leaf in leaves}
        others = {name for leaf in leaves for name in leaf.also} - own
        return frozenset((others if also else own | others) - {""})

    def _readings(self, parts: Sequence[Part], dialect: str) -> tuple[Reading, ...]:
        if not parts:
            return ()
        signature = tuple((part.leaf, part.spec.shape) for part in parts)
        allowed = self.classes.get(re.sub(r"_\d+$", "", parts[0].layer_class))
        return tuple(
            Reading(
                form.kind,
                tuple(
                    Stored(part.spec, leaf, sizes, part.sources, part.fold)
                    for part, leaf in zip(parts, leaves, strict=True)
                ),
                form.name,
                form.lacks,
            )
            for form, leaves, sizes in self._fitting(signature, allowed, dialect)
        )

    @lru_cache(maxsize=4096)  # noqa: B019
    def _fitting(
        self, signature: tuple[tuple[str, tuple[int, ...]], ...], allowed: frozenset[str] | None, dialect: str
    ) -> tuple[tuple[Form, tuple[Leaf, ...], Sizes], ...]:
        fits = []
        for form in self.forms_of(dialect):
            if form.kind != "parameter" and (allowed is None or (form.name or form.kind) in allowed):
                fit = fitting(form, signature)
                if fit is not None:
                    fits.append((form, *fit))
        return tuple(fits)


def fitting(form: Form, signature: Sequence[tuple[str, tuple[int, ...]]]) -> tuple[tuple[Leaf, ...], Sizes] | None:
    """The leaf of each tensor (name and shape), if this can be a layer of that form; and the sizes to remember."""
    by_name = {name: leaf for leaf in form.leaves for name in (leaf.name, *leaf.also)}
    if any(name not in by_name for name, _ in signature):
        return None
    leaves = tuple(by_name[name] for name, _ in signature)
    constraints = []
    for leaf, (_, shape) in zip(leaves, signature, strict=True):
        axes = groups(leaf.axes, len(shape))
        if axes is None or (() in axes and any(s not in (1, -1) for g, s in zip(axes, shape, strict=True) if not g)):
            return None
        # "g" counts the roles that are stacked here, so it stands for another number in each tensor
        parts = len(leaf.roles) if len(leaf.roles) > 1 else 1
        for group, size in zip(axes, shape, strict=True):
            rest = tuple(axis for axis in group if axis != "g")
            each = parts if len(rest) < len(group) and size != -1 else 1
            if size % each:
                return None
            if rest or size != each:
                constraints.append((rest, size // each))
    roles = {word for leaf in leaves for word in words_in(leaf.roles)}
    kind = KINDS[form.kind]
    if "projection" in kind.roles.keys() - roles:  # a cell hands on its hidden state as it is
        constraints = [(tuple("h" if axis == "r" else axis for axis in group), size) for group, size in constraints]
    sizes = solve(constraints, {})
    if sizes is None or not kind.roles.keys() - kind.optional <= roles:
        return None
    return leaves, tuple(sorted((axis, size) for axis, size in sizes.items() if axis in _TOLD))


def classed(parts: Iterable[Part], contents: Contents) -> list[Part]:
    """The parts with the classes that are known of their layers from elsewhere than the names."""
    return [
        replace(part, layer_class=contents.classes[part.spec.name]) if part.spec.name in contents.classes else part
        for part in parts
    ]


def parameter(path: str, spec: TensorSpec, sources: tuple[TensorSpec, ...] = ()) -> Layer:
    """A bare tensor that belongs to no layer; ``sources`` as in `Stored`."""
    return Layer(path, (Reading("parameter", (Stored(spec, _BARE, sources=sources),)),))


def bare(layer: Layer) -> list[Layer]:
    """The tensors of a layer, each as a bare one under its own name."""
    names = {spec: item.leaf.name for item in layer.readings[0].stored for spec in item.specs}
    return [parameter(".".join(filter(None, (layer.path, name))), spec) for spec, name in names.items()]


def unknown(reading: Reading) -> Reading:
    """The same tensors, of which nobody knows what they do."""
    return Reading(UNKNOWN, tuple(_of_unknown(item.spec, item.leaf.name) for item in reading.stored))


def _unnamed(parts: Sequence[Part]) -> Reading:
    stored = []
    for part in parts:
        for spec in part.sources or (part.spec,):
            stored.append(_of_unknown(spec, spec.name.removeprefix(f"{part.path}.") if part.sources else part.leaf))
    return Reading(UNKNOWN, tuple(stored))


def _of_unknown(spec: TensorSpec, name: str) -> Stored:
    return Stored(spec, Leaf(name, (frozenset((name,)),), "*", "*"))
