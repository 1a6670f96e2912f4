"""``converter reuse OLD --into NEW``: some layers of an old file into a new one."""

from __future__ import annotations

import click

from converter.cli.values import as_text, mapping, numbers

EXAMPLES = """\b
converter reuse old.params --into new.msgpack --first 2 -o merged.msgpack
converter reuse old.params --into new.pt --layers 'encoder.*' --map encoder.0=stem -o merged.pt"""


@click.command(epilog=EXAMPLES)
@click.argument("old")
@click.option("--into", metavar="NEW", required=True, help="The file of the net that takes them.")
@click.option("--first", type=click.IntRange(1), metavar="N", help="Take the first N layers that hold parameters.")
@click.option("--layers", metavar="PATTERN", multiple=True, help="Take the layers of this pattern. Repeatable.")
@click.option(
    "--map",
    "pairs",
    metavar="OLD_LAYER=NEW_LAYER",
    multiple=True,
    callback=mapping,
    help="Old layer = new layer; alone, it also says what to take. Repeatable.",
)
@click.option("-o", "--output", metavar="PATH", help="The merged file.  [default: reused-NEW, beside NEW]")
@click.option("--skip-mismatch", is_flag=True, help="Leave out layers that do not fit, and list them.")
@click.option("--slice", "sliced", is_flag=True, help="Of layers of another size, take the part that overlaps.")
@click.option("--inflate", is_flag=True, help="2-d convolution kernels into 3-d ones: repeated, and divided (I3D).")
@click.option("--from", "old_framework", metavar="NAME", help="Whose names OLD has, where its format leaves that open.")
@click.option("--to", "new_framework", metavar="NAME", help="Whose names NEW has, where its format leaves that open.")
@click.option(
    "--kind", metavar="LAYER=KIND", multiple=True, callback=mapping, help="What the layers of this pattern are."
)
@click.option("--heads", metavar="LAYER=N", multiple=True, callback=numbers, help="Number of heads of an attention.")
@click.option(
    "--flatten",
    metavar="LAYER=C",
    multiple=True,
    callback=numbers,
    help="Channels that were flattened before this layer (0: none).",
)
@click.option("--no-flatten-fix", is_flag=True, help="Leave the inputs of layers behind a flatten in their order.")
@click.option("--strict", is_flag=True, help="Pair layers by --map or the same name only.")
@click.option("--force", is_flag=True, help="Replace an output that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def reuse(
    old: str,
    into: str,
    first: int | None,
    layers: tuple[str, ...],
    pairs: dict[str, str],
    output: str | None,
    skip_mismatch: bool,
    sliced: bool,
    inflate: bool,
    old_framework: str | None,
    new_framework: str | None,
    kind: dict[str, str],
    heads: dict[str, int],
    flatten: dict[str, int],
    no_flatten_fix: bool,
    strict: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Take some layers of OLD into NEW; the rest of NEW stays as it is, bit for bit."""
    if first is not None and layers:
        raise click.UsageError("--first and --layers both say what to take. Say one of them.")
    if first is None and not layers and not pairs:
        raise click.UsageError("say what to take: --first N, --layers PATTERN, or --map OLD_LAYER=NEW_LAYER")
    from converter.commands import reuse as partial  # NumPy and the formats are not needed for --help

    report = partial.reuse(
        old,
        into,
        first=first,
        layers=layers,
        map=pairs,
        output=output,
        skip_mismatch=skip_mismatch,
        slice=sliced,
        inflate=inflate,
        strict=strict,
        force=force,
        old_framework=old_framework,
        new_framework=new_framework,
        kind=kind,
        heads=heads,
        flatten=flatten,
        flatten_fix=not no_flatten_fix,
    )
    click.echo(as_text(report, as_json))
