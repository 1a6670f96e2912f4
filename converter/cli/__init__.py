"""The command line: parse, call the API, print, exit code (0 done, 1 a conversion error, 2 wrong usage)."""

from __future__ import annotations

import gc
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converter.cli.reuse import reuse
from converter.cli.scaffold import scaffold
from converter.cli.schema import schema as schema_group
from converter.cli.values import as_text, channels, mapping, numbers
from converter.cli.verify import verify

if TYPE_CHECKING:
    from concurrent.futures import Executor

EXAMPLES = """\b
convert 'torch->flax' mlp.params             writes mlp.msgpack beside it
convert torch-to-tensorflow mlp.pt --schema mlp -o mlp.weights.h5
convert mxnet:torch old.params --like clone.pt
convert --from jax --to neutral ckpt_dir --step 3"""


class _Program(click.Group):
    """A group whose first word may be a direction instead of a command: then it is `convert`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help", "--version"):
            args = ["convert", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # what was written so far is gone already
            click.echo("interrupted; there is no output", err=True)
            ctx.exit(130)


@click.group(cls=_Program, no_args_is_help=True, epilog=EXAMPLES, context_settings={"max_content_width": 100})
@click.version_option(package_name="weights-converter", prog_name="converter")
def program() -> None:
    """Move trained weights between PyTorch, TensorFlow/Keras, JAX/Flax and MXNet, with none of them installed.

    \b
    convert 'FROM->TO' FILE [OPTIONS]
    converter inspect FILE
    converter verify SOURCE TARGET
    converter reuse OLD --into NEW --first N
    converter scaffold FILE_OR_SCHEMA --to NAME

    FROM and TO are torch, tensorflow (tf, keras), flax (jax), mxnet (gluon) or neutral. `convert` and `converter`
    are the same program; see `convert convert --help` for its options.
    """


@program.command()
@click.argument("words", nargs=-1, metavar="'FROM->TO' FILE")
@click.option("--from", "source_framework", metavar="NAME", help="FROM, instead of the direction.")
@click.option("--to", "target_framework", metavar="NAME", help="TO, instead of the direction.")
@click.option("-o", "--output", metavar="PATH", help="Where to; the ending chooses the format.  [default: beside FILE]")
@click.option(
    "--like",
    metavar="CLONE",
    help="A file saved from a fresh clone, or package.module:Net of your own code: take its names, shapes, dtypes and "
    "order.",
)
@click.option(
    "--example-input",
    metavar="SHAPE",
    multiple=True,
    help="What --like package.module:Net takes, such as 2,20 or 2,7:int64. Repeatable, for several inputs.",
)
@click.option("--schema", metavar="NAME", help="A shipped schema (mlp), or a YAML file of your own.")
@click.option(
    "--map",
    "mapping",
    metavar="SOURCE_LAYER=TARGET_LAYER",
    multiple=True,
    callback=mapping,
    help="Source layer = target layer. Repeatable.",
)
@click.option(
    "--strip", metavar="MODULE", multiple=True, help="Leave out this leading module, such as module or _orig_mod."
)
@click.option(
    "--kind",
    metavar="LAYER=KIND",
    multiple=True,
    callback=mapping,
    help="What the layers of this pattern are, such as 'up*=conv_transpose'. Repeatable.",
)
@click.option(
    "--heads", metavar="LAYER=N", multiple=True, callback=numbers, help="Number of heads of an attention. Repeatable."
)
@click.option(
    "--flatten",
    metavar="LAYER=C",
    multiple=True,
    callback=channels,
    help="Channels that were flattened before this layer (0: none); 64x49+4 for 64 in 49 places and 4 features "
    "beside them. Repeatable.",
)
@click.option(
    "--unflatten",
    metavar="LAYER=C",
    multiple=True,
    callback=numbers,
    help="Channels that the outputs of this layer become (0: none). Repeatable.",
)
@click.option("--no-flatten-fix", is_flag=True, help="Leave layers before and behind a flatten in their order.")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32", "float64"]),
    help="Cast the floats to it, and nothing else; what is too large becomes inf, and is reported.",
)
@click.option("--format", "format_name", metavar="NAME", help="Format of the output, whatever its ending.")
@click.option("--step", type=int, metavar="N", help="Which checkpoint of a folder.  [default: the newest]")
@click.option("--key", metavar="PLACE", help="Where the weights are in a training checkpoint, such as ema/model.")
@click.option(
    "--names-from", metavar="FILE", help="Name the tensors of a source without names (Equinox) as in this file."
)
@click.option("--no-verify", is_flag=True, help="Do not compare the checksums that the source has.")
@click.option("--max-shard-size", metavar="SIZE", help="Write files of at most this (5GB), and an index.")
@click.option("--resume", is_flag=True, help="Keep complete shards when stopped, and go on from there the next time.")
@click.option("--memory", metavar="SIZE", help="Of all tensors on their way at a time.  [default: twice the largest]")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Threads.  [default: by the processors]")
@click.option("--dask", metavar="HOST:PORT", help="Have the shards written by the Dask cluster of this scheduler.")
@click.option("--strict", is_flag=True, help="Pair layers by schema, --map or the same name only.")
@click.option(
    "--ignore", metavar="PATTERN", multiple=True, help="Leave out the source layers of this pattern. Repeatable."
)
@click.option(
    "--allow-missing",
    metavar="PATTERN",
    multiple=True,
    help="Layers of the clone that stay as they are there, where the source has nothing for them. Repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done and why, and write nothing.")
@click.option("--force", is_flag=True, help="Replace an output that exists.")
@click.option("--certificate", metavar="PATH", help="Write down what was read, done and written; `verify` checks it.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def convert(
    words: tuple[str, ...],
    source_framework: str | None,
    target_framework: str | None,
    output: str | None,
    like: str | None,
    example_input: tuple[str, ...],
    schema: str | None,
    mapping: dict[str, str],
    strip: tuple[str, ...],
    kind: dict[str, str],
    heads: dict[str, int],
    flatten: dict[str, int | str],
    unflatten: dict[str, int],
    no_flatten_fix: bool,
    dtype: str | None,
    format_name: str | None,
    step: int | None,
    key: str | None,
    names_from: str | None,
    no_verify: bool,
    max_shard_size: str | None,
    resume: bool,
    memory: str | None,
    workers: int | None,
    dask: str | None,
    strict: bool,
    ignore: tuple[str, ...],
    allow_missing: tuple[str, ...],
    dry_run: bool,
    force: bool,
    certificate: str | None,
    as_json: bool,
) -> None:
    """Convert a weight file from one framework to another."""
    direction, source = _what(words, source_framework, target_framework)
    from converter.cli.progress import shown
    from converter.commands import convert as api  # NumPy and the formats are not needed for --help
    from converter.live.user_code import example_inputs

    with _workers(dask) as executor, shown(not as_json) as progress:
        report = api.convert(
            direction,
            source,
            output,
            like=like,
            example_input=example_inputs(example_input) or None,
            schema=schema,
            map=mapping,
            strip=strip,
            kind=kind,
            heads=heads,
            flatten=flatten,
            unflatten=unflatten,
            flatten_fix=not no_flatten_fix,
            dtype=dtype,
            format=format_name,
            step=step,
            key=key,
            verify=not no_verify,
            names_from=names_from,
            max_shard_size=max_shard_size,
            resume=resume,
            memory=memory,
            workers=workers,
            executor=executor,
            progress=progress,
            strict=strict,
            ignore=ignore,
            allow_missing=allow_missing,
            dry_run=dry_run,
            force=force,
            certificate=certificate,
        )
    click.echo(as_text(report, as_json))


@program.command()
@click.argument("file")
@click.option(
    "--from", "source_framework", metavar="NAME", help="Whose names it has, where its format leaves that open."
)
@click.option("--step", type=int, metavar="N", help="Which checkpoint of a folder.  [default: the newest]")
@click.option("--key", metavar="PLACE", help="Where the weights are in a training checkpoint, such as ema/model.")
@click.option("--no-verify", is_flag=True, help="Do not compare the checksums that the file has.")
@click.option("--stats", is_flag=True, help="Read every tensor: min, max, mean, and how many are not finite.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def inspect(
    file: str,
    source_framework: str | None,
    step: int | None,
    key: str | None,
    no_verify: bool,
    stats: bool,
    as_json: bool,
) -> None:
    """Show what a weight file holds, reading only its headers."""
    from converter.commands import inspect as inspection
    from converter.endpoints import checkpoint as weights

    with weights.read(file, framework=source_framework, step=step, key=key, verify=not no_verify) as opened:
        found = inspection.inspect(opened, stats)
        click.echo(as_text(found, as_json))


program.add_command(reuse)
program.add_command(scaffold)
program.add_command(schema_group)
program.add_command(verify)


def _workers(dask: str | None) -> AbstractContextManager[Executor | None]:
    """Those of the cluster whose scheduler has this address."""
    if dask is None:
        return nullcontext()
    from converter.execution.dask import dask_executor

    return dask_executor(dask)


def _what(words: tuple[str, ...], source: str | None, target: str | None) -> tuple[str, str]:
    """The direction and the file, from either way of saying them. Raises click.UsageError."""
    if words and words[0].endswith("-") and not source:
        raise click.UsageError(_UNQUOTED.format(first=words[0].rstrip("-"), rest=" ".join(words[1:])))
    if source and target:
        if len(words) != 1:
            raise click.UsageError("with --from and --to, name just one FILE")
        return _checked(f"{source}->{target}"), words[0]
    if source or target:
        raise click.UsageError("--from and --to go together")
    if len(words) != 2:
        raise click.UsageError(f"expected 'FROM->TO' and one FILE, got {len(words)} words: {' '.join(words)}")
    return _checked(words[0]), words[1]


def _checked(direction: str) -> str:
    from converter.endpoints.direction import parse_direction
    from converter.errors import ConversionError

    try:
        parse_direction(direction)
    except ConversionError as error:
        raise click.UsageError(str(error)) from None
    return direction


_UNQUOTED = (
    "'>' is special to the shell: it took the name behind it for a file, and this message's command for '{first}-'. "
    "Quote the direction: convert '{first}->TO' {rest}, or write {first}-to-TO. "
    "(Remove the empty file that the shell made.)"
)


def main(args: list[str] | None = None) -> Any:
    """Run the program; errors are printed as sentences, never as tracebacks."""
    gc.disable()  # the process ends soon, and the collector would walk 100,000 tensors again and again
    from converter.errors import ConversionError

    try:
        return program.main(args, prog_name=Path(sys.argv[0]).stem.replace("__main__", "converter"))
    except ConversionError as error:
        click.echo(f"error: {error}", err=True)
    except OSError as error:
        click.echo(f"error: {error.filename or ''}: {error.strerror or error}", err=True)
    sys.exit(1)
