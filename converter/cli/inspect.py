"""``converter inspect FILE``."""

from __future__ import annotations

from typing import Any

import click

from converter.cli.parameters import as_text, json_option, options
from converter.options import ReadOptions


@click.command()
@click.argument("file")
@click.option(
    "--from", "source_framework", metavar="NAME", help="Whose names it has, where its format leaves that open."
)
@options(ReadOptions)
@click.option("--stats", is_flag=True, help="Read every tensor: min, max, mean, and how many are not finite.")
@json_option
def inspect(file: str, source_framework: str | None, stats: bool, as_json: bool, **read: Any) -> None:
    """Show what a weight file holds, reading only its headers."""
    from converter.commands import inspect as command
    from converter.endpoints import checkpoint

    with checkpoint.open(file, framework=source_framework, **read) as weights:
        click.echo(as_text(command.inspect(weights, stats), as_json))
