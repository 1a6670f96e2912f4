"""From which framework to which, where the result goes, and in which format."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from converter.endpoints.endpoint import Endpoint
from converter.errors import ConversionError, Placeholder, Remedy
from converter.formats import FORMATS, Format, by_name
from converter.formats.locations import location
from converter.formats.others import OTHER_EXTENSIONS, other_extension
from converter.frameworks import ONLY_READ, Framework, framework
from converter.options import StrPath, WriteOptions

#: Extensions that people give to files of every framework (the book saves all its nets as ``mlp.params``).
ANYTHING = (".params", ".bin", ".ckpt")
WRITABLE = [row for row in FORMATS if row.extensions]


class Direction(msgspec.Struct, frozen=True):
    source: Framework
    target: Framework


def parse_direction(text: str) -> Direction:
    """Raises ConversionError for a text that is not a direction, or names an unknown framework."""
    match = re.fullmatch(r"\s*(\w+)\s*(?:->|→|-to-|:)\s*(\w+)\s*", text)
    if not match:
        raise ConversionError(
            f"'{text}' is not a direction. Say it like 'torch->flax' (with the quotes) or torch-to-flax."
        )
    return Direction(framework(match[1]), framework(match[2]))


class Destination(msgspec.Struct, frozen=True):
    """The file that a result becomes."""

    form: Format
    path: Path


def destination(
    source: Endpoint, clone: Endpoint | None, target: Framework, output: StrPath | None, options: WriteOptions
) -> Destination:
    """Where a result goes, and in which format. Raises ConversionError."""
    template = clone.weights.format if clone and clone.weights else None
    form = choose_format(target, output, options.format, template, source.net.is_data)
    path = output
    if options.max_shard_size is not None:
        form, path = in_shards(form, output)
    elif options.resume:
        raise ConversionError("only shards can be resumed.", Remedy("max_shard_size", "5GB"))
    return Destination(form, choose_path(source.path or Path(source.title), path, form))


def choose_format(
    target: Framework, output: StrPath | None, name: str | None, template: Format | None, is_data: bool
) -> Format:
    """By name, else by the extension of the output, else that of the template, else the framework's usual one."""
    if target in ONLY_READ:
        raise ConversionError(f"files of {target.title} are only read. A neutral file is the nearest to one.")
    usable = [row for row in WRITABLE if not row.frameworks or target.name in row.frameworks]
    if target.name == "neutral":
        usable = [row for row in usable if row.name == target.default_format]
    if name is not None:
        return _named(name, usable, target)
    if output is not None:
        if row := _by_extension(os.fspath(output), usable):
            return row
        _refuse_extension(os.fspath(output), target, usable)
    if template is not None and template in usable:
        return template
    return by_name(target.data_format if is_data else target.default_format)


def in_shards(form: Format, output: str | os.PathLike[str] | None) -> tuple[Format, Path | None]:
    """The format that writes the same in shards, and where it or its index goes (None: beside the source)."""
    if not form.shards and not form.name.endswith("-sharded"):
        raise ConversionError(
            f"{form.title} cannot be written in shards. Choose safetensors, PyTorch or Orbax, or leave the limit out."
        )
    row = by_name(form.shards) if form.shards else form
    path = None if output is None else location(output)
    is_folder = form.shards == form.name  # of files already
    if path is None or is_folder or path.name.endswith(row.extensions):
        return row, path
    return row, path.with_name(stem(path.name) + row.extensions[0])


def choose_path(source: Path, output: str | os.PathLike[str] | None, form: Format) -> Path:
    """The output, or the source's name with the format's extension, beside the source."""
    if output is not None:
        return location(output)
    path = source.with_name(stem(source.name) + form.extensions[0])
    return source.with_name(f"{stem(source.name)}.{form.name}{form.extensions[0]}") if path == source else path


def own_framework(path: str | os.PathLike[str], format_name: str | None, own: Framework) -> Framework:
    """Whose file a net of the framework ``own`` becomes, as the format or the extension says: its own, where it can."""
    named = next((row for row in WRITABLE if row.name == format_name), None)
    form = named or _by_extension(os.fspath(path), WRITABLE)
    if form is None or own.name in form.frameworks:
        return own
    if form.frameworks:
        return framework(form.frameworks[0])
    return framework("neutral") if form.name == framework("neutral").default_format else own


def _by_extension(output: str, usable: list[Format]) -> Format | None:
    """The row with the longest extension that the output has (``.legacy.pt`` before ``.pt``)."""
    name = output.lower()
    rows = [(len(extension), row) for row in usable for extension in row.extensions if name.endswith(extension)]
    return max(rows, key=lambda item: item[0])[1] if rows else None


def _refuse_extension(output: str, target: Framework, usable: list[Format]) -> None:
    """Raises ConversionError for an extension that would mislead whoever opens the file next."""
    row, other = _by_extension(output, WRITABLE), other_extension(output)
    if row is not None and (output.endswith(ANYTHING) or row.name in {form.shards for form in usable}):
        return
    if row is not None:
        what = f"this is the extension of the format '{row.name}', which {target.title} does not have"
    elif other:
        what = f"'{other}' says {OTHER_EXTENSIONS[other]}, which is not written"
    else:
        return
    extensions = ", ".join(row.extensions[0] for row in sorted(usable, key=lambda row: not row.frameworks))
    remedy = Remedy("format", Placeholder("NAME"), "allows any name")
    its_own = "Its own are" if row else f"Those that {target.title} has are"
    raise ConversionError(f"{output}: {what}. {its_own} {extensions}.", remedy)


def _named(name: str, usable: list[Format], target: Framework) -> Format:
    rows = {row.name: row for row in usable}
    if name not in rows:
        raise ConversionError(
            f"{target.title} has no format '{name}' that can be written. There are: {', '.join(rows)}."
        )
    return rows[name]


def stem(name: str) -> str:
    """The name without the extension of a weight file (``mlp.weights.h5`` -> ``mlp``)."""
    known = sorted({part for row in FORMATS for part in row.extensions} | {".index"}, key=len, reverse=True)
    return next((name.removesuffix(part) for part in known if name.endswith(part) and name != part), name)
