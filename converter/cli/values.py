"""What the commands share: values of options that are pairs (``LAYER=SOMETHING``), and how a result is printed."""

from __future__ import annotations

from typing import Any, Protocol

import click

from converter.errors import ConversionError


def mapping(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for old, sign, new in pairs:
        if not (old and sign and new):
            raise click.BadParameter(f"'{old}{sign}{new}' is not of the form {parameter.metavar}")
    return {old: new for old, _, new in pairs}


def numbers(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    pairs = mapping(ctx, parameter, values)
    for pattern, number in pairs.items():
        if not number.isdecimal():
            raise click.BadParameter(f"'{pattern}={number}' does not end in a number")
    return {pattern: int(number) for pattern, number in pairs.items()}


def channels(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, int | str]:
    """Numbers, and sums such as ``64x49+4``."""
    from converter.core.channel_groups import parsed

    pairs: dict[str, int | str] = {**mapping(ctx, parameter, values)}
    try:
        parsed(pairs)
    except ConversionError as error:
        raise click.BadParameter(str(error)) from None
    return pairs


class Result(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


def as_text(result: Result, as_json: bool) -> str:
    """For people, or as JSON for programs."""
    return json_text(result.to_dict()) if as_json else str(result).encode(errors="backslashreplace").decode()


def json_text(document: Any) -> str:
    import json  # `--help` does without both

    import msgspec

    try:
        return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    except UnicodeEncodeError:  # half a character in what the file holds beside its tensors
        return json.dumps(document, indent=2)
