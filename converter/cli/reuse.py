"""``converter reuse OLD --into NEW``: some layers of an old file into a new one."""

from __future__ import annotations

from typing import Any

import click

from converter.cli.parameters import as_text, json_option, options
from converter.options import MatchOptions, ReadOptions, ReuseOptions, WriteOptions

EXAMPLES = """\b
converter reuse old.params --into new.msgpack --first 2 -o merged.msgpack
converter reuse old.params --into new.pt --layers 'encoder.*' --map encoder.0=stem -o merged.pt"""


@click.command(epilog=EXAMPLES)
@click.argument("old")
@click.option("--into", metavar="NEW", required=True, help="The file of the net that takes them.")
@click.option("-o", "--output", metavar="PATH", help="The merged file.  [default: reused-NEW, beside NEW]")
@click.option("--from", "old_framework", metavar="NAME", help="Whose names OLD has, where its format leaves that open.")
@click.option("--to", "new_framework", metavar="NAME", help="Whose names NEW has, where its format leaves that open.")
@options(ReuseOptions, MatchOptions, ReadOptions, WriteOptions, without=("allow_missing", "report"))
@click.option("--dry-run", is_flag=True, help="Show what would be taken and why, and write nothing.")
@json_option
def reuse(old: str, into: str, as_json: bool, **others: Any) -> None:
    """Take some layers of OLD into NEW; the rest of NEW stays as it is, bit for bit."""
    if others["first"] is not None and others["layers"]:
        raise click.UsageError("--first and --layers both say what to take. Say one of them.")
    if others["first"] is None and not others["layers"] and not others["map"]:
        raise click.UsageError("say what to take: --first N, --layers PATTERN, or --map OLD_LAYER=NEW_LAYER")
    from converter.commands import reuse as command  # NumPy and the formats are not needed for --help

    click.echo(as_text(command.reuse(old, into, **others), as_json))
