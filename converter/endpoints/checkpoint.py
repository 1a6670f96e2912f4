"""A weight file opened for reading: names to arrays, and its neutral layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from converter.core.layers import Layer, Net
from converter.core.tensors import Array
from converter.endpoints.quantized import without_packing
from converter.endpoints.readers import RenamedReader
from converter.errors import ConversionError, FormatError, Problem, Remedy
from converter.formats import Contents, Format, Reader, open_reader
from converter.formats.locations import location
from converter.frameworks import Framework, framework, recognise, states_layout, understood
from converter.frameworks.neutral import origin
from converter.frameworks.packed import packed_layers
from converter.options import ReadKeywords, ReadOptions, Records, StrPath, check_keywords, record_of

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack  # in typing from Python 3.11


class Weights(Mapping[str, Array]):
    """A weight file, opened: a lazy mapping from each tensor's name, as the file spells it, to its array.

    Nothing but headers is read until a name is asked for. A context manager; arrays stay valid after `close`.
    """

    def __init__(self, form: Format, reader: Reader, stated: str | None = None, refused: str = "") -> None:
        """refused: why the tensors of the file are not those of a net; "" where they are."""
        self.format, self.reader = form, reader
        self._refused = refused
        _check_text(reader)
        self._framework = _written_by(form, reader, stated)

    @property
    def path(self) -> Path:
        return self.reader.path

    @property
    def framework(self) -> str:
        """The framework whose names the file has."""
        return self._framework.name

    @property
    def origin(self) -> str:
        """The framework that the weights came from: that of `framework`, or what a neutral file says."""
        return origin(self.contents) if self.framework == "neutral" else self.framework

    @property
    def contents(self) -> Contents:
        """Names, shapes, dtypes, and what else the headers say."""
        return self.reader.contents

    @cached_property
    def net(self) -> Net:
        """The neutral layers, and what of the file belongs to none. Raises FormatError."""
        if self._refused:
            raise FormatError(self.path, self._refused)
        try:
            net = self._framework.net(self.contents)
            return replace(net, read=self.reader.read, peek=self.reader.peek, digest=self.reader.digest)
        except ConversionError as error:
            raise FormatError(self.path, str(error)) from None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The neutral layers: path, kind, and the tensors of each role."""
        return self.net.layers

    def __getitem__(self, name: str) -> Array:
        if name not in self.contents.by_name:
            raise KeyError(name)
        return self.reader.read(name)

    def __contains__(self, name: object) -> bool:
        return name in self.contents.by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self.contents.by_name)

    def __len__(self) -> int:
        return len(self.contents.specs)

    def __repr__(self) -> str:
        return f"<{self.format.title} '{self.path}': {len(self)} tensors>"

    def close(self) -> None:
        self.reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


#: Characters and levels of a name: those of nets have some hundred and some ten.
MAX_NAME, MAX_LEVELS = 8192, 250
#: Why an option means nothing for a format.
_ELSEWHERE = {"step": "is not a folder of checkpoints", "key": "has its weights in one place"}


def open_weights(path: StrPath, framework: str | None = None, options: ReadOptions = ReadOptions()) -> Weights:
    """As `converter.open`, by a record of options. Raises FormatError."""
    form, reader = open_reader(location(path), options)
    try:
        for name in {"step", "key"} - reader.takes:
            if getattr(options, name) is not None:
                text, about = f"{path}: {form.title}, which {_ELSEWHERE[name]}.", Remedy(name, getattr(options, name))
                raise ConversionError(Problem(text, "option", about=about))
        if options.names_from is not None:
            with open_weights(options.names_from) as named:
                reader = RenamedReader(reader, named.contents)
        reader, refused = _as_kept(reader) if options.keep_quantized else without_packing(reader)
        if options.merge_adapter is not None and not refused:
            from converter.endpoints.adapted import with_adapter  # few conversions have one

            reader = with_adapter(reader, options.merge_adapter)
        return Weights(form, reader, framework, refused)
    except BaseException:
        reader.close()
        raise


def _as_kept(reader: Reader) -> tuple[Reader, str]:
    """The reader as it is. Raises ConversionError where it holds nothing quantized that could be kept."""
    if not packed_layers(reader.contents):
        what = "nothing in it is quantized"
        if reader.contents.quantized:
            what = "its format has quantized blocks of its own, which no other holds, and which are not written"
        about = Remedy("keep_quantized", True)
        raise ConversionError(Problem(f"{reader.path}: {what}. Leave this out.", "option", about=about))
    return reader, ""


def open(
    path: StrPath, *, framework: str | None = None, options: Records = (), **keywords: Unpack[ReadKeywords]
) -> Weights:
    """Open a weight file, folder or checkpoint prefix of any known format, without its framework.

    framework: whose names it has, where its format leaves that open (safetensors, npz). options, keywords: see
    `converter.options.ReadOptions`. Raises FormatError.
    """
    check_keywords(keywords, options, ReadOptions)
    return open_weights(path, framework, record_of(ReadOptions, options, keywords))


#: As the chapter says it: ``converter.read("mlp.params")``.
read = open


def _check_text(reader: Reader) -> None:
    """Raise FormatError for a name that no net has: half a character in it (a lone surrogate), or far too long."""
    names = [spec.name for spec in reader.contents.specs]
    longest = max(names, key=len, default="")
    if len(longest) > MAX_NAME:
        at_most = f"at most {MAX_NAME} are read"
        raise FormatError(reader.path, f"the name '{longest[:60]}...' has {len(longest)} characters; {at_most}")
    deepest = max(names, key=lambda name: name.count(".") + name.count("/"), default="")
    levels = deepest.count(".") + deepest.count("/")
    if levels > MAX_LEVELS:
        raise FormatError(
            reader.path, f"the name '{deepest[:60]}...' has {levels} levels; at most {MAX_LEVELS} are read"
        )
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        wrong = next(name for name in names if name.encode(errors="ignore").decode() != name)
        raise FormatError(reader.path, f"the name of a tensor, {wrong!a}, is no text") from None


def _written_by(form: Format, reader: Reader, stated: str | None) -> Framework:
    """The framework that the user states, if the file can be its; else the one the file looks like."""
    recognised = recognise(form, reader.contents)
    if stated is None or framework(stated) is recognised:
        return recognised
    claimed = framework(stated)
    if states_layout(reader.contents):
        why = "its metadata says 'format: mlx', so that its kernels have their channels last"
    elif "neutral" in (claimed.name, recognised.name) or (form.frameworks and claimed.name not in form.frameworks):
        why = f"its format is {form.title}"
    elif understood(recognised, reader.contents) and not understood(claimed, reader.contents):
        why = "its tensors have other names"
    else:
        return claimed
    raise FormatError(
        reader.path,
        f"not a file of {claimed.title}: {why}. It looks like {recognised.title}; say '{recognised.name}' instead.",
    )
