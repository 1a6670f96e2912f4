"""``converter schema list | show | check | infer``: schemas from the command line."""

from __future__ import annotations

from typing import Any

import click

from converter.cli.parameters import example_option, from_option, json_option, json_text, net_option, options, to_option
from converter.options import MatchOptions, ReadOptions


@click.group()
def schema() -> None:
    """Schemas: what the layers of an architecture are, and what each framework calls them."""


@schema.command("list")
@json_option
def list_schemas(as_json: bool) -> None:
    """The schemas that come with the program."""
    from converter.reports.tables import table
    from converter.schema.loader import load_schema, shipped

    schemas = [load_schema(name) for name in shipped()]
    if as_json:
        rows = [{"name": row.name, "description": row.description, "entries": len(row.layers)} for row in schemas]
        click.echo(json_text(rows))
    else:
        click.echo("\n".join(table([["name", "what it is"], *([row.name, row.description] for row in schemas)])))


@schema.command("names")
@click.argument("family", required=False)
@json_option
def known_names(family: str | None, as_json: bool) -> None:
    """The families of public nets whose layers are paired by their names; or the names in one of them."""
    from converter.reports.tables import table
    from converter.schema.names import table_of, tables

    if family is None:
        known = {one.family: one.code_bases for one in tables()}
        rows = [["family", "code bases"], *([name, ", ".join(bases)] for name, bases in known.items())]
        click.echo(json_text(known) if as_json else "\n".join(table(rows)))
        return
    one = table_of(family)
    if as_json:
        click.echo(json_text([{"kind": row.kind, "optional": row.optional, **row.names} for row in one.rows]))
    else:
        rows = [[row.kind, *(" or ".join(row.names.get(base, ())) for base in one.code_bases)] for row in one.rows]
        click.echo("\n".join(table([["kind", *one.code_bases], *rows])))


@schema.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """The layers of a schema (a shipped one, or a file), with blocks put in their places."""
    import msgspec

    from converter.architectures.family import family_of
    from converter.frameworks import FRAMEWORKS
    from converter.reports.tables import table
    from converter.schema.loader import load_schema

    loaded = load_schema(name)
    if as_json:
        whole = msgspec.to_builtins(msgspec.structs.replace(loaded, architecture=None))
        whole["architecture"] = family_of(loaded)
        click.echo(msgspec.json.format(msgspec.json.encode(whole)).decode())
        return
    names = [row.name for row in FRAMEWORKS if row.name != "neutral"]
    rows = [["layer", "kind", *names]]
    for layer in loaded.layers:
        kind = f"{layer.kind}, optional" if layer.optional else layer.kind
        rows.append([layer.path, kind, *(" or ".join(layer.paths(framework)) for framework in names)])
    click.echo("\n".join([f"{loaded.name}: {loaded.description}", "", *table(rows)]))


@schema.command()
@click.argument("file")
def check(file: str) -> None:
    """Whether a schema file is right; says what is wrong, and where."""
    from converter.architectures.family import family_of
    from converter.schema.loader import load_schema

    loaded = load_schema(file)
    family_of(loaded)  # raises for a wrong one
    click.echo(f"{file}: a schema of {len(loaded.layers)} entries, without errors")


@schema.command()
@click.argument("source")
@click.argument("target")
@from_option
@to_option
@net_option
@options(MatchOptions, ReadOptions)
@example_option
def infer(source: str, target: str, **others: Any) -> None:
    """Write down how the layers of two nets pair, as a schema: infer SOURCE CLONE > mine.yaml

    TARGET is a file, or package.module:Net of your own code.
    """
    from converter.commands.infer_schema import infer_schema

    click.echo(infer_schema(source, target, **others), nl=False)
