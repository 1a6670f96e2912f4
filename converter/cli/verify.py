"""``converter verify SOURCE TARGET`` and ``converter verify CERTIFICATE``."""

from __future__ import annotations

import click

from converter.cli.values import channels, json_text, mapping, numbers


@click.command()
@click.argument("source")
@click.argument("target", required=False)
@click.option("--from", "source_framework", metavar="NAME", help="Whose names SOURCE has.")
@click.option("--to", "target_framework", metavar="NAME", help="Whose names TARGET has.")
@click.option("--schema", metavar="NAME", help="A shipped schema (mlp), or a YAML file of your own.")
@click.option(
    "--map",
    "mapped",
    metavar="SOURCE_LAYER=TARGET_LAYER",
    multiple=True,
    callback=mapping,
    help="Which layer is which.",
)
@click.option("--strip", metavar="MODULE", multiple=True, help="Leave out this leading module of SOURCE.")
@click.option("--kind", metavar="LAYER=KIND", multiple=True, callback=mapping, help="What these layers are.")
@click.option("--heads", metavar="LAYER=N", multiple=True, callback=numbers, help="Number of heads of an attention.")
@click.option(
    "--flatten", metavar="LAYER=C", multiple=True, callback=channels, help="Channels flattened before this layer."
)
@click.option(
    "--unflatten", metavar="LAYER=C", multiple=True, callback=numbers, help="Channels that its outputs become."
)
@click.option("--no-flatten-fix", is_flag=True, help="Compare the inputs of layers behind a flatten as they are.")
@click.option("--ignore", metavar="PATTERN", multiple=True, help="Leave out the layers of SOURCE of this pattern.")
@click.option("--step", type=int, metavar="N", help="Which checkpoint of the folder SOURCE.  [default: the newest]")
@click.option("--key", metavar="PLACE", help="Where the weights are in SOURCE, such as ema/model.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.pass_context
def verify(
    ctx: click.Context,
    source: str,
    target: str | None,
    source_framework: str | None,
    target_framework: str | None,
    schema: str | None,
    mapped: dict[str, str],
    strip: tuple[str, ...],
    kind: dict[str, str],
    heads: dict[str, int],
    flatten: dict[str, int | str],
    unflatten: dict[str, int],
    no_flatten_fix: bool,
    ignore: tuple[str, ...],
    step: int | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Tell whether two weight files hold the same weights, or whether a certificate holds.

    \b
    converter verify mlp.params mlp.msgpack     tensor by tensor, in neutral axes
    converter verify cert.json                  what `convert ... --certificate cert.json` wrote

    The exit code is 0 when it is so, and 1 when it is not.
    """
    from converter.commands import certificate
    from converter.commands import verify_files as equality

    if target is None:
        _no_options(ctx)
        checked = certificate.check_certificate(source)
        text, found, holds = str(checked), checked.to_dict(), checked.ok
    else:
        compared = equality.compare(
            source,
            target,
            source_framework=source_framework,
            target_framework=target_framework,
            schema=schema,
            map=mapped,
            strip=strip,
            kind=kind,
            heads=heads,
            flatten=flatten,
            unflatten=unflatten,
            flatten_fix=not no_flatten_fix,
            step=step,
            key=key,
            ignore=ignore,
        )
        text, found, holds = str(compared), compared.to_dict(), compared.same
    click.echo(json_text(found) if as_json else text)
    ctx.exit(0 if holds else 1)


def _no_options(ctx: click.Context) -> None:
    """A certificate says all by itself. Raises UsageError for an option, which would be a forgotten TARGET."""
    given = [name for name, value in ctx.params.items() if value and name not in ("source", "target", "as_json")]
    if given:
        raise click.UsageError("name a TARGET: a certificate alone takes no options but --json")
