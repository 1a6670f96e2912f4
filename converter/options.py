"""The options of a conversion, each declared once: its name, what it takes, its help text and its check.

`converter.convert` and its neighbours take the records or their fields as keywords, the command line makes its flags of
the same fields, certificates store them. A value of a wrong type is a ConversionError that names the option.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, TypeAlias, TypedDict, TypeVar, get_type_hints

import msgspec

from converter.errors import ConversionError, Placeholder, Problem, Remedy, near_misses
from converter.option_values import (
    AXES,
    CHANNELS,
    COUNT,
    COUNTS,
    DTYPE,
    FLAG,
    FLOATS,
    INTEGER,
    PATH,
    PATTERNS,
    REALS,
    SCHEMA,
    SHARES,
    SIZE,
    SUMS,
    TEXT,
    TEXTS,
    Channels,
    Shares,
    Values,
)

StrPath: TypeAlias = "str | os.PathLike[str]"


class Option(msgspec.Struct, frozen=True):
    """A field of a record. recorded: whether it can change the plan or a byte of the result, so that a certificate
    has it.
    """

    help: str
    values: Values
    metavar: str = ""
    recorded: bool = True


class Options(msgspec.Struct, frozen=True):
    """What all records have in common. Raises ConversionError for a value that an option does not take."""

    def __post_init__(self) -> None:
        for name, option in options_of(type(self)).items():
            value = getattr(self, name)
            if value is not None:
                try:
                    msgspec.structs.force_setattr(self, name, option.values.check(value))
                except ValueError as error:
                    met = _shown(value)
                    as_typed = not isinstance(value, tuple) and len(met) <= _LONG
                    about = Remedy(name, value if as_typed else Placeholder(met))
                    raise ConversionError(Problem(f"{error}.", "option", name, met=met, about=about)) from None

    def to_dict(self) -> dict[str, Any]:
        """The fields that are not the default, as JSON keeps them; those of `Option.recorded`."""
        recorded = options_of(type(self))
        return {name: msgspec.to_builtins(getattr(self, name)) for name in changed(self) if recorded[name].recorded}


#: So many characters of a value are repeated in an error.
_LONG = 200


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python writes, a list that holds itself
        return f"a very long {type(value).__name__}"
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"


def changed(record: Options) -> tuple[str, ...]:
    """The fields that are not the default."""
    defaults = type(record)()
    return tuple(name for name in options_of(type(record)) if getattr(record, name) != getattr(defaults, name))


@cache
def options_of(record: type[Options]) -> Mapping[str, Option]:
    """The fields of a record."""
    hints = get_type_hints(record, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}


class ReadOptions(Options, frozen=True):
    """Of a file: what of it is read."""

    step: Annotated[int | None, Option("Which checkpoint of a folder.  [default: the newest]", INTEGER, "N")] = None
    key: Annotated[
        str | None, Option("Where the weights are in a training checkpoint, such as ema/model.", TEXT, "PLACE")
    ] = None
    names_from: Annotated[
        str | None, Option("Name the tensors of a source without names (Equinox) as in this file.", PATH, "FILE")
    ] = None
    checksums: Annotated[bool, Option("Do not compare the checksums that the source has.", FLAG, recorded=False)] = True
    keep_quantized: Annotated[
        bool, Option("Move quantized tensors as they are, to a file of the same framework.", FLAG)
    ] = False
    merge_adapter: Annotated[
        str | None,
        Option("Merge this LoRA: a folder of PEFT, or a file of kohya's scripts or diffusers.", PATH, "ADAPTER"),
    ] = None


class MatchOptions(Options, frozen=True):
    """Of two nets: which layer is which, and what it is."""

    schema: Annotated[Any, Option("A shipped schema (mlp), a YAML file, or none.", SCHEMA, "NAME")] = None
    map: Annotated[
        Mapping[str, str],
        Option("Source layer = target layer; a module takes all below it along. Repeatable.", TEXTS, "SOURCE=TARGET"),
    ] = {}
    strip: Annotated[
        tuple[str, ...],
        Option("Leave out this leading module of the source's names, such as module. Repeatable.", PATTERNS, "MODULE"),
    ] = ()
    kind: Annotated[
        Mapping[str, str],
        Option("Kind of the layers of this pattern: 'up*=conv_transpose'. Repeatable.", TEXTS, "LAYER=KIND"),
    ] = {}
    heads: Annotated[Mapping[str, int], Option("Number of heads of an attention. Repeatable.", COUNTS, "LAYER=N")] = {}
    rotary: Annotated[
        Mapping[str, str],
        Option("N heads, of which the clone rotates halves, or neighbours. Repeatable.", TEXTS, "LAYER=N:halves"),
    ] = {}
    stacked: Annotated[
        Mapping[str, int],
        Option("Module whose layers are several in one, along this axis of its tensors. Repeatable.", AXES, "MODULE=0"),
    ] = {}
    joined: Annotated[
        Mapping[str, Shares],
        Option(
            "Layer that holds several along its outputs, and what each has of these: 4:1:1; 8x4:1:1 where eight groups "
            "have them in turn. Repeatable.",
            SHARES,
            "LAYER=4:1:1",
        ),
    ] = {}
    flatten: Annotated[
        Mapping[str, Channels],
        Option(
            "Channels that were flattened before this layer (0: none); 64x49+4 for 64 in 49 positions and 4 features "
            "beside them. Repeatable.",
            SUMS,
            "LAYER=C",
        ),
    ] = {}
    unflatten: Annotated[
        Mapping[str, int],
        Option("Channels that the outputs of this layer become (0: none). Repeatable.", CHANNELS, "LAYER=C"),
    ] = {}
    flatten_fix: Annotated[bool, Option("Leave layers before and after a flatten in their order.", FLAG)] = True
    ignore: Annotated[
        tuple[str, ...], Option("Leave out the source layers of this pattern. Repeatable.", PATTERNS, "PATTERN")
    ] = ()
    allow_missing: Annotated[
        tuple[str, ...],
        Option(
            "Layers of the clone that stay as they are there, where the source has nothing for them. Repeatable.",
            PATTERNS,
            "PATTERN",
        ),
    ] = ()
    strict: Annotated[
        bool, Option("Pair layers by schema, map or the same name; take nothing that is only likely.", FLAG)
    ] = False


class WriteOptions(Options, frozen=True):
    """Of the output: how it is written."""

    format: Annotated[
        str | None, Option("Format of the output, whatever its extension.", TEXT, "NAME", recorded=False)
    ] = None
    dtype: Annotated[
        str | Mapping[str, str] | None,
        Option(
            f"Cast the floats to {', '.join(FLOATS)}; those of some layers or tensors to others: "
            "'bfloat16, *norm*=float32' (the longest pattern decides). What becomes inf or zero is counted.",
            DTYPE,
            "NAME",
        ),
    ] = None
    max_shard_size: Annotated[
        int | None, Option("Write files of at most this (5GB), and an index.", SIZE, "SIZE", recorded=False)
    ] = None
    resume: Annotated[
        bool, Option("Keep complete shards when stopped, and go on from there the next time.", FLAG, recorded=False)
    ] = False
    memory: Annotated[
        int | None,
        Option("Of all tensors in progress at a time.  [default: twice the largest]", SIZE, "SIZE", recorded=False),
    ] = None
    workers: Annotated[int | None, Option("Threads.  [default: by the processors]", COUNT, "N", recorded=False)] = None
    force: Annotated[bool, Option("Replace an output that exists.", FLAG, recorded=False)] = False
    report: Annotated[
        str | None, Option("Write a page to look at (HTML), also of what is refused.", PATH, "FILE", recorded=False)
    ] = None


class TrainingOptions(Options, frozen=True):
    """Of the optimizer: whether its state is carried, too, and what its file does not say."""

    training: Annotated[bool, Option("Carry the state of the optimizer, too, so that the training goes on.", FLAG)] = (
        False
    )
    optimizer: Annotated[
        str | None, Option("Which optimizer the source is of, where its file leaves that open: adam.", TEXT, "NAME")
    ] = None
    optimizer_file: Annotated[
        str | None,
        Option(
            "The state of the source's optimizer, where it is a file of its own (mlp.states of gluon).", PATH, "FILE"
        ),
    ] = None
    hyper: Annotated[
        Mapping[str, float],
        Option(
            "A hyper-parameter that the source does not store: learning_rate=0.001. Repeatable.", REALS, "NAME=VALUE"
        ),
    ] = {}
    parameter_order: Annotated[
        str | None,
        Option("The source's parameters as its optimizer numbers them: a file of names, one a line.", PATH, "FILE"),
    ] = None
    clone_order: Annotated[
        str | None, Option("The same of the clone, whose numbers the state takes.", PATH, "FILE")
    ] = None


class ReuseOptions(Options, frozen=True):
    """Of partial reuse: which layers of the old net are taken, and what is done with those that do not fit."""

    first: Annotated[int | None, Option("Take the first N layers that hold parameters.", COUNT, "N")] = None
    layers: Annotated[tuple[str, ...], Option("Take the layers of this pattern. Repeatable.", PATTERNS, "PATTERN")] = ()
    skip_mismatch: Annotated[bool, Option("Leave out layers that do not fit, and list them.", FLAG)] = False
    slice: Annotated[bool, Option("Of layers of another size, take the part that overlaps.", FLAG)] = False
    inflate: Annotated[bool, Option("2-d convolution kernels into 3-d ones: repeated, and divided (I3D).", FLAG)] = (
        False
    )


class ReadKeywords(TypedDict, total=False):
    """`ReadOptions` as keywords."""

    step: int | None
    key: str | None
    names_from: StrPath | None
    checksums: bool
    keep_quantized: bool
    merge_adapter: StrPath | None


class MatchKeywords(TypedDict, total=False):
    """`MatchOptions` as keywords."""

    schema: Any
    map: Mapping[str, str]
    strip: str | Iterable[str]
    kind: Mapping[str, str]
    heads: Mapping[str, int]
    rotary: Mapping[str, str]
    stacked: Mapping[str, int]
    joined: Mapping[str, str | Shares]
    flatten: Mapping[str, int | str]
    unflatten: Mapping[str, int]
    flatten_fix: bool
    ignore: str | Iterable[str]
    allow_missing: str | Iterable[str]
    strict: bool


class WriteKeywords(TypedDict, total=False):
    """`WriteOptions` as keywords."""

    format: str | None
    dtype: str | Mapping[str, str] | None
    max_shard_size: int | str | None
    resume: bool
    memory: int | str | None
    workers: int | None
    force: bool
    report: StrPath | None


class TrainingKeywords(TypedDict, total=False):
    """`TrainingOptions` as keywords."""

    training: bool
    optimizer: str | None
    optimizer_file: StrPath | None
    hyper: Mapping[str, float]
    parameter_order: StrPath | None
    clone_order: StrPath | None


class PartKeywords(TypedDict, total=False):
    """`ReuseOptions` as keywords."""

    first: int | None
    layers: str | Iterable[str]
    skip_mismatch: bool
    slice: bool
    inflate: bool


class LoadKeywords(ReadKeywords, MatchKeywords, total=False):
    """What `converter.load_into` and `converter.verify` take."""


class PlanKeywords(LoadKeywords, TrainingKeywords, total=False):
    """What `converter.plan` takes."""


class SaveKeywords(MatchKeywords, WriteKeywords, total=False):
    """What `converter.save` takes."""


class SaveTrainingKeywords(SaveKeywords, TrainingKeywords, total=False):
    """What `converter.save_training` takes."""


class ConvertKeywords(PlanKeywords, WriteKeywords, total=False):
    """What `converter.convert` takes."""


class ReuseKeywords(PartKeywords, LoadKeywords, WriteKeywords, total=False):
    """What `converter.reuse` takes."""


_Record = TypeVar("_Record", bound=Options)
#: A record, or several.
Records: TypeAlias = "Options | Sequence[Options]"


def record_of(record: type[_Record], records: Records, keywords: Mapping[str, Any]) -> _Record:
    """The record of this type: the one among ``records``, with the keywords that are its fields."""
    each = [records] if isinstance(records, Options) else list(records)
    base = next((item for item in each if isinstance(item, record)), record())
    own = {name: value for name, value in keywords.items() if name in options_of(record) and value is not None}
    return msgspec.structs.replace(base, **own) if own else base


def check_keywords(keywords: Mapping[str, Any], records: Records, *allowed: type[Options]) -> None:
    """Raises TypeError, as Python does, for a keyword that is a field of none of the records, and for other records."""
    names = [name for record in allowed for name in options_of(record)]
    for name in keywords:
        if name not in names:
            near = near_misses(name, names)
            raise TypeError(f"unexpected keyword argument '{name}'" + (f". Did you mean '{near[0]}'?" if near else ""))
    for item in [records] if isinstance(records, Options) else records:
        if not isinstance(item, allowed):
            raise TypeError(f"options takes {', '.join(kind.__name__ for kind in allowed)}, not {type(item).__name__}")
