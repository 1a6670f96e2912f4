"""``converter scaffold lenet --to flax > clone.py``: the code of a net."""

from __future__ import annotations

from typing import Any

import click

from converter.cli.parameters import sized

EXAMPLES = """\b
converter scaffold mlp.safetensors --to flax > clone.py
converter scaffold lenet --to torch --size output=100
converter scaffold vgg.params --schema vgg --to keras --input 1,224,224"""


def _sizes(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int | None, ...]:
    """``1,28,28``; a size that may be any is ``?``."""
    sizes = [size.strip() for size in text.split(",")] if text else []
    if not all(size == "?" or (size.isdigit() and int(size)) for size in sizes):
        raise click.BadParameter(f"'{text}' is not an input. Say its sizes, like 1,28,28 or 3,?,?, without the batch.")
    return tuple(None if size == "?" else int(size) for size in sizes)


@click.command(epilog=EXAMPLES)
@click.argument("source", metavar="FILE_OR_SCHEMA")
@click.option("--to", "framework", metavar="NAME", required=True, help="torch, tensorflow, flax or mxnet.")
@click.option("--schema", metavar="NAME", help="The architecture of FILE, where that is no neutral file that tells it.")
@click.option("--from", "weights_from", metavar="NAME", help="Whose names FILE has, where its format leaves that open.")
@click.option(
    "--input",
    metavar="SIZES",
    callback=_sizes,
    help="What the net takes, channels first and without the batch: 1,28,28, or 3,?,? for any size.",
)
@click.option(
    "--size",
    "sizes",
    metavar="LAYER=N",
    multiple=True,
    callback=sized,
    help="The outputs of a layer, where the schema says others and there are no weights. Repeatable.",
)
def scaffold(source: str, framework: str, schema: str | None, **options: Any) -> None:
    """Print the code of a net, which needs its framework alone and loads what `convert` writes for it.

    FILE_OR_SCHEMA is a shipped schema, a schema file, a neutral file that holds an architecture, or with --schema
    any weight file.
    """
    from converter.commands import build as building

    arguments = (source, framework) if schema is None else (schema, framework, source)
    click.echo(building.scaffold(*arguments, **options), nl=False)
