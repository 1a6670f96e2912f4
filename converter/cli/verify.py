"""``converter verify SOURCE TARGET`` and ``converter verify CERTIFICATE``."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from converter.cli.parameters import as_text, from_option, json_option, options, to_option
from converter.options import MatchOptions, ReadOptions

COMMANDLINE = ParameterSource.COMMANDLINE


@click.command()
@click.argument("source")
@click.argument("target", required=False)
@from_option
@to_option
@options(MatchOptions, ReadOptions)
@json_option
@click.pass_context
def verify(context: click.Context, /, source: str, target: str | None, as_json: bool, **others: Any) -> None:
    """Tell whether two weight files hold the same weights, or whether a certificate holds.

    \b
    converter verify mlp.params mlp.msgpack     tensor by tensor, in neutral axes
    converter verify cert.json                  what `convert ... --certificate cert.json` wrote

    The exit code is 0 when it is so, and 1 when it is not.
    """
    typed = {name: value for name, value in others.items() if context.get_parameter_source(name) is COMMANDLINE}
    if target is None and typed:
        raise click.UsageError("name a TARGET: a certificate alone takes no options but --json")
    from converter.commands import verify as command

    result = command.verify(source, target, **typed)
    click.echo(as_text(result, as_json))
    context.exit(0 if result.ok else 1)
